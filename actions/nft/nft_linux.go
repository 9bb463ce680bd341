package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

const (
	// maxTransaction bounds one transaction, which goes to the kernel in one
	// piece: 100,000 rules in 30,000 chains have some 40 MiB.
	maxTransaction = 256 << 20
	// answerRoom holds some thousands of refusals; the first says it all.
	answerRoom = 4 << 20
	// answerSize holds one answer: without the message that it answers it is short.
	answerSize = 16 << 10
	// maxKnown bounds the guesses; beyond it they start anew.
	maxKnown = 65536
)

// Options are an Applier's settings.
type Options struct {
	// Owner keeps other processes from changing the tables that are put, where
	// the kernel can (Linux 6.9): until Close, and until the process ends. The
	// tables outlive both, and are then free for the next Applier.
	Owner bool
}

// Applier writes to the nftables of the network namespace it was made in (Open)
// by the thread that calls it. It is safe for concurrent use.
type Applier struct {
	mu   sync.Mutex
	conn *netlink.Conn
	raw  syscall.RawConn
	port uint32 // the socket's number, by which the kernel names who made a change
	room int    // what the socket takes in one piece

	flags    uint32             // of tables that are put
	destroys bool               // the kernel removes elements that may not be there (Linux 6.3)
	sets     map[string]setType // of the table that was applied last
	// known holds until when elements of maps with time limits live, as far as we have
	// put them: a guess that saves a failed transaction on older kernels, never more.
	known map[string]time.Time
}

// New opens an Applier without options.
func New() (*Applier, error) { return Open(Options{}) }

// Open opens a netlink socket in the current network namespace.
func Open(o Options) (*Applier, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nftables netlink socket: %w", err)
	}
	a := &Applier{conn: conn, known: map[string]time.Time{}}
	if err := a.prepare(o); err != nil {
		return nil, errors.Join(fmt.Errorf("open nftables netlink socket: %w", err), conn.Close())
	}
	return a, nil
}

func (a *Applier) prepare(o Options) error {
	// Both options make answers short or clear, and are older than 5.10.
	err := errors.Join(a.conn.SetReadBuffer(answerRoom),
		a.conn.SetOption(netlink.CapAcknowledge, true), a.conn.SetOption(netlink.ExtendedAcknowledge, true))
	if err != nil {
		return err
	}
	if a.raw, err = a.conn.SyscallConn(); err != nil {
		return err
	}
	if a.port, err = portOf(a.raw); err != nil {
		return err
	}
	a.destroys = a.takes(func(e *encoder) {
		e.message(msgDestroyTable, 0, origin{})
		e.text(unix.NFTA_TABLE_NAME, probeTable)
	})
	owned := o.Owner && a.takes(func(e *encoder) { e.table = probeTable; e.newTable(tableOwner | tablePersist) })
	if owned {
		a.flags = tableOwner | tablePersist
	}
	return nil
}

// Messages that remove what may not be there (enum nf_tables_msg_types, Linux 6.3).
const (
	msgDestroyTable = 26
	msgDestroyElems = 30
)

// probeTable is never made: what names it is tried and forgotten.
const probeTable = "netpolicy_probe"

// takes reports whether the kernel would carry the message out.
func (a *Applier) takes(message func(*encoder)) bool {
	var e encoder
	e.begin()
	message(&e)
	return a.try(&e) == nil
}

func portOf(raw syscall.RawConn) (port uint32, err error) {
	ctl := raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(fd)); err == nil {
			if nl, ok := sa.(*unix.SockaddrNetlink); ok {
				port = nl.Pid
			}
		}
	})
	return port, errors.Join(ctl, err)
}

// Owner reports whether tables that are put are closed to other processes.
func (a *Applier) Owner() bool { return a.flags&tableOwner != 0 }

// Close closes the socket.
func (a *Applier) Close() error { return a.conn.Close() }

// Apply carries out the steps that concern the table; others are an error.
func (a *Applier) Apply(ctx context.Context, steps []actions.Step) error {
	for _, s := range steps {
		var err error
		switch s.Kind {
		case actions.PutTable:
			err = a.Replace(ctx, s.Table)
		case actions.DelTable:
			err = a.Delete(ctx, s.Table.Name)
		case actions.PutChanges:
			if err = a.Change(ctx, s.Table, s.Changes); err != nil {
				err = a.Replace(ctx, s.Table)
			}
		case actions.PutUpdates:
			if err = a.adopt(s.Table); err == nil {
				err = a.Update(ctx, s.Updates)
			}
		default:
			err = errors.New("not a step of nftables")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// adopt takes over the table that is in the kernel: which sets it has, and, where
// it is free for an owner, the ownership.
func (a *Applier) adopt(t *actions.Table) error {
	sets := make(map[string]setType, len(t.Sets))
	for i := range t.Sets {
		s, err := typeOf(&t.Sets[i])
		if err != nil {
			return err
		}
		sets[t.Sets[i].Name] = s
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sets = sets
	if a.flags == 0 {
		return nil
	}
	e := encoder{table: t.Name}
	e.begin()
	e.newTable(a.flags)
	// One that was not made to have an owner gets ours when it is replaced.
	if err := a.commit(&e); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return e.explain(err, t)
	}
	return nil
}

// Replace puts the table in place of the one of its name, in one transaction.
func (a *Applier) Replace(ctx context.Context, t *actions.Table) error {
	e, err := a.replacement(t)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.commit(e); err != nil {
		return e.explain(err, t)
	}
	clear(a.known)
	a.sets = e.sets
	return nil
}

// Check has the kernel try to put the table in place, without doing it.
func (a *Applier) Check(ctx context.Context, t *actions.Table) error {
	e, err := a.replacement(t)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.try(e); err != nil {
		return e.explain(err, t)
	}
	return nil
}

func (a *Applier) replacement(t *actions.Table) (*encoder, error) {
	e := &encoder{table: t.Name}
	e.begin()
	if err := e.replace(t, a.flags); err != nil {
		return nil, fmt.Errorf("encode table: %w", err)
	}
	return e, nil
}

// Delete removes the table of that name, if it is there.
func (a *Applier) Delete(_ context.Context, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.known)
	e := encoder{table: name}
	e.begin()
	e.newTable(0) // so that the removal can't fail
	e.delTable()
	if err := a.commit(&e); err != nil {
		return e.explain(err, nil)
	}
	return nil
}

// Exists reports whether a table of that name is there.
func (a *Applier) Exists(name string) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ask(unix.NFT_MSG_GETTABLE, func(e *encoder) { e.text(unix.NFTA_TABLE_NAME, name) })
}

// hasChain reports whether our table has the chain.
func (a *Applier) hasChain(name string) (bool, error) {
	return a.ask(unix.NFT_MSG_GETCHAIN, func(e *encoder) {
		e.text(unix.NFTA_CHAIN_TABLE, actions.TableName)
		e.text(unix.NFTA_CHAIN_NAME, name)
	})
}

// ask reports whether the object is there that the message asks for.
func (a *Applier) ask(kind uint16, attrs func(*encoder)) (bool, error) {
	var e encoder
	e.message(kind, 0, origin{})
	attrs(&e)
	err := a.try(&e)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read nftables: %w", err)
	}
	return true, nil
}

// commit sends a transaction and returns what the kernel says of it.
func (a *Applier) commit(e *encoder) error {
	e.end()
	return a.send(e)
}

// try sends a transaction without its end, which the kernel checks and forgets.
func (a *Applier) try(e *encoder) error {
	e.seal()
	return a.send(e)
}

// send hands the bytes over in one piece. The kernel has done everything when the
// call returns, and answers only what it refuses.
func (a *Applier) send(e *encoder) error {
	if e.err != nil {
		return e.err
	}
	if len(e.b) > maxTransaction {
		return fmt.Errorf("a transaction of %d bytes, more than %d", len(e.b), maxTransaction)
	}
	if len(e.b) > a.room {
		if err := a.conn.SetWriteBuffer(len(e.b)); err != nil {
			return fmt.Errorf("widen the socket to %d bytes: %w", len(e.b), err)
		}
		a.room = len(e.b)
	}
	var first *refusal
	var err error
	ctl := a.raw.Control(func(fd uintptr) {
		if err = unix.Sendto(int(fd), e.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
			first, err = answers(int(fd))
		}
	})
	switch {
	case ctl != nil || err != nil:
		return errors.Join(ctl, err)
	case first != nil:
		return first
	}
	return nil
}

// answers reads what waits on the socket and returns the first refusal.
func answers(fd int) (first *refusal, err error) {
	buf := make([]byte, answerSize)
	overflow := false
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // more refusals than there is room for
			overflow = true
			continue
		case errors.Is(err, unix.EAGAIN):
			if overflow && first == nil {
				return nil, unix.ENOBUFS
			}
			return first, nil
		case err != nil:
			return nil, err
		}
		list, err := refusals(buf[:n])
		if err != nil {
			return nil, err
		}
		if first == nil && len(list) > 0 {
			first = &list[0]
		}
	}
}

// Error returns what the kernel said.
func (r *refusal) Error() string {
	if r.said != "" {
		return fmt.Sprintf("%v (%s)", r.no, r.said)
	}
	return r.no.Error()
}

// Unwrap returns the error's number.
func (r *refusal) Unwrap() error { return r.no }

// explain names the object that the kernel refused. t is the table that was
// written, nil for none.
func (e *encoder) explain(err error, t *actions.Table) error {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	if r.no == unix.EPERM {
		err = fmt.Errorf("%w: it takes CAP_NET_ADMIN, and no other process that owns the table", err)
	}
	if t == nil || r.seq == 0 || int(r.seq) > len(e.origins) {
		return fmt.Errorf("the kernel refuses it: %w", err)
	}
	switch at := e.origins[r.seq-1]; at.kind {
	case ofChain:
		return fmt.Errorf("the kernel refuses chain %s: %w", t.Chains[at.i].Name, err)
	case ofSet:
		return fmt.Errorf("the kernel refuses set %s: %w", t.Sets[at.i].Name, err)
	case ofElems:
		return fmt.Errorf("the kernel refuses elements of set %s: %w", t.Sets[at.i].Name, err)
	case ofRule:
		c := &t.Chains[at.i]
		return fmt.Errorf("the kernel refuses rule %d of chain %s, %q: %w", at.j+1, c.Name, c.Rules[at.j].String(), err)
	default:
		return fmt.Errorf("the kernel refuses table %s: %w", t.Name, err)
	}
}

// last keeps the last update of each element and chain.
func last(list []actions.Update) []actions.Update {
	type place struct{ set, key string } // a chain has no set
	seen := make(map[place]bool, len(list))
	var out []actions.Update
	for i := len(list) - 1; i >= 0; i-- {
		u := list[i]
		at := place{u.Set, u.Elem.Key}
		if u.Kind == actions.PutChain {
			at = place{"", u.Chain.Name}
		}
		if !seen[at] {
			seen[at] = true
			out = append(out, u)
		}
	}
	slices.Reverse(out)
	return out
}
