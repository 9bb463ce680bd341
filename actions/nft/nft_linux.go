package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/child"
)

const (
	// maxBatch bounds one netlink transaction of elements: a netlink attribute
	// holds 64 KiB, about 1,200 elements, and socket buffers 200 KiB.
	maxBatch = 500
	// socketBuffer holds a batch and the kernel's answers to it.
	socketBuffer = 4 << 20
	// maxErrorText bounds what is quoted of nft's complaints.
	maxErrorText = 2000
)

// Applier writes to the nftables of the network namespace it was made in (New)
// by the thread that calls it. It is safe for concurrent use.
type Applier struct {
	mu   sync.Mutex
	conn *nftables.Conn
	// known holds until when elements of the host maps live, as far as we have
	// put them, and no time for those that we removed: a guess that saves a failed
	// transaction, never more.
	known map[string]time.Time
}

// maxKnown bounds the guesses; beyond it they start anew.
const maxKnown = 65536

// New opens a netlink socket in the current network namespace.
func New() (*Applier, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	return &Applier{conn: conn, known: map[string]time.Time{}}, nil
}

func dial() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables netlink socket: %w", err)
	}
	return conn, nil
}

// send sends what is queued. After anything but the kernel's plain refusal the
// answers on the socket can't be told apart any more: it is opened anew.
func (a *Applier) send() error {
	err := a.conn.Flush()
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		return err
	}
	fresh, dialErr := dial()
	if dialErr != nil {
		return errors.Join(err, dialErr)
	}
	_ = a.conn.CloseLasting() // it is of no use any more
	a.conn = fresh
	return err
}

// Close closes the socket.
func (a *Applier) Close() error { return a.conn.CloseLasting() }

// Apply carries out the steps that concern the table; others are an error.
func (a *Applier) Apply(ctx context.Context, steps []actions.Step) error {
	for _, s := range steps {
		var err error
		switch s.Kind {
		case actions.PutTable:
			err = a.Replace(ctx, s.Table)
		case actions.DelTable:
			err = a.Delete(ctx, s.Table.Name)
		case actions.PutUpdates:
			err = a.Update(ctx, s.Updates)
		default:
			err = errors.New("not a step of nftables")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// Replace puts the table in place of the one of its name, in one transaction.
func (a *Applier) Replace(ctx context.Context, t *actions.Table) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.known)
	head := fmt.Sprintf("add table inet %s\ndelete table inet %s\n", t.Name, t.Name)
	return a.text(ctx, head+t.Text())
}

// Delete removes the table of that name, if it is there.
func (a *Applier) Delete(ctx context.Context, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.known)
	return a.text(ctx, fmt.Sprintf("add table inet %s\ndelete table inet %s\n", name, name))
}

// Exists reports whether a table of that name is there.
func (a *Applier) Exists(name string) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tables, err := a.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nft tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name {
			return true, nil
		}
	}
	return false, nil
}

// text runs one transaction of nft's own language.
func (a *Applier) text(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := child.Run(cmd); err != nil {
		said := strings.TrimSpace(stderr.String())
		return fmt.Errorf("nft -f: %w: %s", err, said[:min(len(said), maxErrorText)])
	}
	return nil
}

// Update makes the updates: new chains first, then all elements but those of
// host maps in one transaction, then the host maps in batches.
func (a *Applier) Update(ctx context.Context, updates []actions.Update) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var chains []actions.Chain
	var together, hosts []actions.Update
	for _, u := range last(updates) {
		switch {
		case u.Kind == actions.PutChain:
			chains = append(chains, u.Chain)
		case isHost(u.Set):
			hosts = append(hosts, u)
		default:
			together = append(together, u)
		}
	}
	if err := a.putChains(ctx, chains); err != nil {
		return err
	}
	if err := a.batch(together, true); err != nil {
		return fmt.Errorf("update %d elements of nft table %s: %w", len(together), actions.TableName, err)
	}
	for len(hosts) > 0 {
		n := min(len(hosts), maxBatch)
		if err := a.putHosts(hosts[:n]); err != nil {
			return err
		}
		hosts = hosts[n:]
	}
	return nil
}

func isHost(set string) bool {
	return len(set) == len("dhost4") && set[1:5] == "host"
}

// putChains creates those chains that are not there. Their names say what they
// hold, so one that is there is right.
func (a *Applier) putChains(ctx context.Context, chains []actions.Chain) error {
	var missing []actions.Chain
	for _, c := range chains {
		if _, err := a.conn.ListChain(table(), c.Name); err != nil {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	t := actions.Table{Name: actions.TableName, Chains: missing}
	if err := a.text(ctx, t.Text()); err != nil {
		return fmt.Errorf("add %d chains: %w", len(missing), err)
	}
	return nil
}

// putHosts tries all at once, guessing which elements are there, and on a wrong
// guess each alone.
func (a *Applier) putHosts(list []actions.Update) error {
	if len(a.known) > maxKnown {
		clear(a.known)
	}
	var sure, rest []actions.Update
	for _, u := range list {
		until, known := a.known[u.Set+u.Elem.Key]
		switch gone := u.Kind == actions.DelElem; {
		case gone && known && until.IsZero(): // as it should be
		case gone && !time.Now().Before(until):
			rest = append(rest, u)
		default:
			sure = append(sure, u)
		}
	}
	if err := a.batch(sure, false); err != nil {
		rest = list
	}
	for i := range rest {
		if err := a.putHost(&rest[i]); err != nil {
			return fmt.Errorf("%s: %w", rest[i], err)
		}
	}
	for _, u := range list {
		var until time.Time // not there
		if u.Kind == actions.PutElem {
			until = time.Now().Add(u.Elem.Timeout)
		}
		a.known[u.Set+u.Elem.Key] = until
	}
	return nil
}

// putHost removes the element, which may not be there, and then adds it.
func (a *Applier) putHost(u *actions.Update) error {
	set, elem, err := element(u)
	if err != nil {
		return err
	}
	remove := func() error { return a.conn.SetDeleteElements(set, []nftables.SetElement{elem}) }
	add := func() error { return a.conn.SetAddElements(set, []nftables.SetElement{elem}) }
	both := []func() error{remove, add}
	if u.Kind == actions.DelElem {
		both = both[:1]
	}
	err = a.flush(both...)
	if errors.Is(err, unix.ENOENT) {
		if u.Kind == actions.DelElem {
			return nil
		}
		return a.flush(add)
	}
	return err
}

func (a *Applier) flush(parts ...func() error) error {
	for _, f := range parts {
		if err := f(); err != nil {
			return err
		}
	}
	return a.send()
}

// change gathers one set's part of a batch: elements are added so that their
// removal can't fail, removed, and added.
type change struct {
	set              *nftables.Set
	sure, gone, here []nftables.SetElement
}

// batch makes element updates in one transaction, with at most three messages a
// set. An element of a set is added first, so that its removal can't fail; one
// of a lasting map is there.
func (a *Applier) batch(list []actions.Update, lasting bool) error {
	var changes []*change
	bySet := map[string]*change{}
	for i := range list {
		u := &list[i]
		set, elem, err := element(u)
		if err != nil {
			return err
		}
		c := bySet[u.Set]
		if c == nil {
			c = &change{set: set}
			bySet[u.Set] = c
			changes = append(changes, c)
		}
		c.set.HasTimeout = c.set.HasTimeout || set.HasTimeout
		switch {
		case !u.Map:
			c.sure, c.gone = append(c.sure, elem), append(c.gone, elem)
		case lasting || time.Now().Before(a.known[u.Set+u.Elem.Key]):
			c.gone = append(c.gone, elem)
		}
		if u.Kind == actions.PutElem {
			c.here = append(c.here, elem)
		}
	}
	for _, c := range changes {
		if err := c.queue(a.conn); err != nil {
			return err
		}
	}
	return a.send()
}

func (c *change) queue(conn *nftables.Conn) error {
	for _, part := range []struct {
		elems []nftables.SetElement
		put   func(*nftables.Set, []nftables.SetElement) error
	}{{c.sure, conn.SetAddElements}, {c.gone, conn.SetDeleteElements}, {c.here, conn.SetAddElements}} {
		if len(part.elems) == 0 {
			continue
		}
		if err := part.put(c.set, part.elems); err != nil {
			return err
		}
	}
	return nil
}

// last keeps the last update of each element.
func last(list []actions.Update) []actions.Update {
	seen := map[string]bool{}
	var out []actions.Update
	for i := len(list) - 1; i >= 0; i-- {
		u := list[i]
		if key := u.Set + " " + u.Elem.Key; u.Kind == actions.PutChain || !seen[key] {
			seen[key] = true
			out = append(out, u)
		}
	}
	slices.Reverse(out)
	return out
}

func table() *nftables.Table {
	return &nftables.Table{Name: actions.TableName, Family: nftables.TableFamilyINet}
}

// element turns an update into what netlink wants. Keys are in the order in
// which the kernel holds them: addresses as sent, numbers in the host's own.
func element(u *actions.Update) (*nftables.Set, nftables.SetElement, error) {
	set := &nftables.Set{Table: table(), Name: u.Set, IsMap: u.Map, HasTimeout: u.Elem.Timeout > 0}
	elem := nftables.SetElement{Timeout: u.Elem.Timeout}
	switch {
	case u.Elem.Key == "ipv4":
		elem.Key = []byte{unix.NFPROTO_IPV4}
	case u.Elem.Key == "ipv6":
		elem.Key = []byte{unix.NFPROTO_IPV6}
	case isHost(u.Set):
		addr, err := netip.ParseAddr(u.Elem.Key)
		if err != nil {
			return nil, elem, fmt.Errorf("element of %s: %w", u.Set, err)
		}
		elem.Key = addr.AsSlice()
	default:
		n, err := strconv.ParseUint(u.Elem.Key, 0, 32)
		if err != nil {
			return nil, elem, fmt.Errorf("element of %s: %w", u.Set, err)
		}
		elem.Key = nativeEndian(uint32(n))
	}
	if u.Map && strings.HasPrefix(u.Elem.Value, "0x") {
		n, err := strconv.ParseUint(u.Elem.Value, 0, 32)
		if err != nil {
			return nil, elem, fmt.Errorf("element of %s: %w", u.Set, err)
		}
		elem.Val = nativeEndian(uint32(n))
	} else if u.Map && u.Elem.Value != "" {
		verb, chain, _ := strings.Cut(u.Elem.Value, " ")
		switch verb {
		case "goto":
			elem.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}
		case "jump":
			elem.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}
		default:
			elem.VerdictData = &expr.Verdict{Kind: expr.VerdictDrop}
		}
	}
	return set, elem, nil
}

// nativeEndian is how the kernel holds marks and priorities.
func nativeEndian(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
