package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

const (
	// maxErrorText bounds what is quoted of a command's complaints.
	maxErrorText = 2000
	// lockWait is how many seconds the legacy commands wait for each other.
	lockWait = "5"
	// maxHeld bounds the addresses whose sets we know. The daemon has names of
	// 16,384; the rest are forgotten when their time is over.
	maxHeld = 65536
)

// Variant is a kind of iptables.
type Variant string

// The kinds, as the suffixes of their commands.
const (
	NFT    Variant = "nft"
	Legacy Variant = "legacy"
)

var families = []actions.Family{actions.IPv4, actions.IPv6}

// command returns the command of the kind: iptables-nft-save, else the plain
// iptables-save, which Detect has found to be of that kind.
func (v Variant) command(f actions.Family, verb string) string {
	base := "iptables"
	if f == actions.IPv6 {
		base = "ip6tables"
	}
	if name := base + "-" + string(v) + verb; found(name) {
		return name
	}
	return base + verb
}

func found(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// Available reports whether the commands are there.
func Available() bool {
	return found("iptables-restore") && found("ip6tables-restore") && found("ipset")
}

// Detect returns the kind to use in this network namespace: that of the command
// iptables, but where only the other has rules of others in force, the other,
// so that all rules are in one place. It must work for both families.
func Detect(ctx context.Context) (Variant, error) {
	version, err := run(ctx, "", "iptables", "-V")
	if err != nil {
		return "", err
	}
	first, second := Legacy, NFT
	if strings.Contains(version, "nf_tables") {
		first, second = NFT, Legacy
	}
	other := found("iptables-"+string(second)+"-save") && found("ip6tables-"+string(second)+"-save")
	if other && !first.used(ctx) && second.used(ctx) {
		first, second = second, first
	}
	if err = first.works(ctx); err == nil {
		return first, nil
	}
	if other && second.works(ctx) == nil {
		return second, nil
	}
	return "", err
}

func (v Variant) works(ctx context.Context) error {
	for _, f := range families {
		if _, err := run(ctx, "", v.command(f, ""), "-w", lockWait, "-t", "mangle", "-S", "PREROUTING"); err != nil {
			return err
		}
	}
	return nil
}

// used reports whether rules of others are in force.
func (v Variant) used(ctx context.Context) bool {
	for _, f := range families {
		out, err := run(ctx, "", v.command(f, "-save"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "-A ") && !strings.Contains(line, actions.XPrefix) {
				return true
			}
		}
	}
	return false
}

// Made lists what has been made, or is about to be. It is what the ledger keeps.
type Made struct {
	Variant Variant  `json:"variant"`
	Chains  []string `json:"chains"` // "-4 mangle np_pre"
	Sets    []string `json:"sets"`
	// Tables are those of nftables that were not there before (`-4 mangle`).
	Tables []string `json:"tables"`
}

func chainKey(f actions.Family, table, name string) string {
	return f.String() + " " + table + " " + name
}

// Add lists what m2 lists too.
func (m *Made) Add(m2 *Made) {
	if m2 == nil {
		return
	}
	m.Chains, m.Sets, m.Tables = union(m.Chains, m2.Chains), union(m.Sets, m2.Sets), union(m.Tables, m2.Tables)
}

func union(a, b []string) []string {
	list := slices.Concat(a, b)
	slices.Sort(list)
	return slices.Compact(list)
}

// has reports whether the sorted list has s.
func has(list []string, s string) bool {
	_, ok := slices.BinarySearch(list, s)
	return ok
}

// Applier writes to the tables of one kind, and to ipsets, in the network
// namespace of the thread that calls it. It is safe for concurrent use.
type Applier struct {
	variant Variant

	mu   sync.Mutex
	conn *netlink.Conn // for Update; opened when first needed
	// held are the sets of names that addresses are in, and until when.
	held map[string]held
}

type held struct {
	sets  []string
	until time.Time
}

// New returns an Applier for the kind.
func New(v Variant) *Applier { return &Applier{variant: v, held: map[string]held{}} }

// Variant returns the kind.
func (a *Applier) Variant() Variant { return a.variant }

// run runs a command and returns what it prints.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(complaint.String())
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said[:min(len(said), maxErrorText)])
	}
	return out.String(), nil
}

func ipset(ctx context.Context, script string) error {
	if script == "" {
		return nil
	}
	_, err := run(ctx, script, "ipset", "-exist", "restore")
	return err
}

// ours returns the ipsets whose names are like ours.
func ours(ctx context.Context) (map[string]bool, error) {
	out, err := run(ctx, "", "ipset", "list", "-n")
	if err != nil {
		return nil, err
	}
	list := map[string]bool{}
	for name := range strings.FieldsSeq(out) {
		if strings.HasPrefix(name, actions.XPrefix) {
			list[name] = true
		}
	}
	return list, nil
}

// Names lists what Replace makes of the table: chains and sets.
func Names(t *actions.Table, v Variant) *Made {
	m := &Made{Variant: v}
	for i := range t.XT.Chains {
		c := &t.XT.Chains[i]
		m.Chains = append(m.Chains, chainKey(c.Family, c.Table, c.Name))
	}
	for i := range t.XT.Sets {
		m.Sets = append(m.Sets, t.XT.Sets[i].Name)
	}
	m.Chains, m.Sets = union(m.Chains, nil), union(m.Sets, []string{spare(t.Shape)})
	return m
}

// NewTables lists the tables of nftables that Replace makes because they are not there yet.
func (a *Applier) NewTables(t *actions.Table) ([]string, error) {
	if a.variant != NFT {
		return nil, nil
	}
	there, err := nftTables()
	if err != nil {
		return nil, err
	}
	var missing []string
	for i := range t.XT.Chains {
		c := &t.XT.Chains[i]
		if name := c.Family.String() + " " + c.Table; !there[name] {
			missing = append(missing, name)
		}
	}
	return union(missing, nil), nil
}

// spare is the set by which another is filled before they are swapped.
func spare(shape string) string { return actions.XPrefix + "new_" + shape[:min(6, len(shape))] }

// Found is what Look sees.
type Found struct {
	// Foreign is a chain or a set that is named like ours and is not in made; "" for none.
	Foreign string
	// Exists is set when a chain or a set of made is there.
	Exists bool
	// Lacks says what of the table is not there; nil for nothing.
	Lacks error
}

// Look compares what is there with what made lists, and with the table unless it is nil.
func (a *Applier) Look(ctx context.Context, made *Made, t *actions.Table) (Found, error) {
	var found Found
	if made == nil {
		made = &Made{}
	}
	see := func(what, key string, list []string) {
		if has(list, key) {
			found.Exists = true
		} else if found.Foreign == "" {
			found.Foreign = what + key
		}
	}
	for _, f := range families {
		s, err := a.read(ctx, f)
		if err != nil {
			return found, err
		}
		for _, table := range s.names {
			for _, c := range s.tables[table].chains {
				see("chain ", chainKey(f, table, c), made.Chains)
			}
		}
		if t != nil && found.Lacks == nil {
			found.Lacks = s.lacks(t, f)
		}
	}
	sets, err := ours(ctx)
	if err != nil {
		return found, err
	}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		see("ipset ", name, made.Sets)
	}
	if t == nil {
		return found, nil
	}
	for i := range t.XT.Sets {
		if name := t.XT.Sets[i].Name; !sets[name] && found.Lacks == nil {
			found.Lacks = fmt.Errorf("ipset %s is gone", name)
		}
	}
	return found, nil
}

// Replace puts the table in place of what made lists. Packets meet the old chains
// or the new ones, each whole. On an error the old ones are in place again.
func (a *Applier) Replace(ctx context.Context, t *actions.Table, made *Made) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	there, err := ours(ctx)
	if err != nil {
		return err
	}
	before := a.held
	a.held = map[string]held{}
	a.hold(t)
	if err = ipset(ctx, fill(t, there)); err == nil {
		err = a.putChains(ctx, t, made)
	}
	if err != nil {
		a.held = before
		return errors.Join(err, dropNew(context.WithoutCancel(ctx), t, there))
	}
	keep := map[string]bool{}
	for i := range t.XT.Sets {
		keep[t.XT.Sets[i].Name] = true
	}
	var gone []string
	for name := range there {
		if !keep[name] && has(made.Sets, name) {
			gone = append(gone, name)
		}
	}
	return destroy(ctx, gone)
}

// putChains writes the chains of both families, or takes back what it has written.
func (a *Applier) putChains(ctx context.Context, t *actions.Table, made *Made) error {
	saved := map[actions.Family]*state{}
	var err error
	for _, f := range families {
		if saved[f], err = a.read(ctx, f); err != nil {
			break
		}
		if err = a.put(ctx, f, saved[f], wanted(t, f), made); err != nil {
			break
		}
	}
	if err == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	for _, f := range families {
		old := saved[f]
		if old == nil {
			continue
		}
		now, backErr := a.read(ctx, f)
		if backErr == nil && !now.equal(old) {
			backErr = a.put(ctx, f, now, old, made)
		}
		err = errors.Join(err, backErr)
	}
	return err
}

// dropNew removes those of the table's sets that were not there before.
func dropNew(ctx context.Context, t *actions.Table, before map[string]bool) error {
	now, err := ours(ctx)
	if err != nil {
		return err
	}
	var gone []string
	for _, name := range Names(t, "").Sets {
		if now[name] && !before[name] {
			gone = append(gone, name)
		}
	}
	return destroy(ctx, gone)
}

// fill returns what makes the sets. One that is there already, perhaps half
// filled by a process that died, is swapped with one that is whole.
func fill(t *actions.Table, there map[string]bool) string {
	var b strings.Builder
	add := func(name string, s *actions.XSet) {
		fmt.Fprintf(&b, "create %s %s\n", name, s.Type)
		for _, e := range s.Elems {
			fmt.Fprintf(&b, "add %s %s\n", name, e)
		}
	}
	next := spare(t.Shape)
	if there[next] {
		fmt.Fprintf(&b, "destroy %s\n", next)
	}
	sets := t.XSets()
	for i := range sets {
		s := &sets[i]
		if !there[s.Name] {
			add(s.Name, s)
			continue
		}
		add(next, s)
		fmt.Fprintf(&b, "swap %s %s\ndestroy %s\n", next, s.Name, next)
	}
	return b.String()
}

// destroy removes sets; those that hold others first, for they are in use.
func destroy(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	var b strings.Builder
	last := func(name string) bool { return strings.HasPrefix(name, actions.XPrefix+"any") }
	for _, n := range names {
		if !last(n) {
			fmt.Fprintf(&b, "destroy %s\n", n)
		}
	}
	for _, n := range names {
		if last(n) {
			fmt.Fprintf(&b, "destroy %s\n", n)
		}
	}
	return ipset(ctx, b.String())
}

// Delete removes what made lists, as far as it is there, and nothing else.
func (a *Applier) Delete(ctx context.Context, made *Made) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.held)
	for _, f := range families {
		s, err := a.read(ctx, f)
		if err != nil {
			return err
		}
		if err := a.put(ctx, f, s, newState(), made); err != nil {
			return err
		}
	}
	there, err := ours(ctx)
	if err != nil {
		return err
	}
	var gone []string
	for name := range there {
		if has(made.Sets, name) {
			gone = append(gone, name)
		}
	}
	if err := destroy(ctx, gone); err != nil {
		return err
	}
	if a.variant == NFT {
		return dropEmpty(made.Tables)
	}
	return nil
}

// Try puts the table into a network namespace that is thrown away, to see
// whether these commands and this kernel take it. Where no namespace can be
// made, nothing is tried.
func (a *Applier) Try(ctx context.Context, t *actions.Table) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- nil // CAP_SYS_ADMIN is not ours
			return
		}
		done <- New(a.variant).Replace(ctx, t, &Made{})
	}()
	return <-done
}
