package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/iptables"
	"netpolicy.dev/netpolicy/internal/durable"
)

const (
	ledgerFile    = "ledger.json"
	lockFile      = "ledger.lock"
	ledgerVersion = 1
	// maxLedger bounds what is read: a plan of the most routes is far smaller.
	maxLedger = 16 << 20
)

// ledger lists what has been created, or is about to be: it is written before
// each change. What it does not list is not ours and is never removed.
type ledger struct {
	Version int                `json:"version"`
	BootID  string             `json:"boot_id"` // a list of another boot is void
	Table   string             `json:"table"`   // "" for none
	XT      *iptables.Made     `json:"iptables,omitempty"`
	Rules   []actions.IPRule   `json:"rules"`
	Routes  []actions.IPRoute  `json:"routes"`
	TC      []actions.TCObject `json:"tc,omitempty"`
	// Queue says that iptables-legacy hands packets to the daemon; "" for no.
	Queue string `json:"queue,omitempty"`
	// Pending is true while an Apply is under way: after a crash, which table
	// the kernel has is not known.
	Pending bool `json:"pending"`
	// Plan is the one in force, without its table's contents; nil for none.
	Plan *actions.Plan `json:"plan"`
}

// of lists what plans create.
func of(inForce *actions.Plan, plans ...*actions.Plan) ledger {
	l := ledger{Version: ledgerVersion, BootID: bootID(), Plan: reduced(inForce)}
	for _, p := range plans {
		if p == nil {
			continue
		}
		if p.Table.Name != "" && p.Table.XT == nil {
			l.Table = p.Table.Name
		}
		if p.Legacy() != (actions.Legacy{}) {
			l.Queue = actions.AskChain
		}
		l.Rules = union(l.Rules, p.IPRules)
		l.Routes = union(l.Routes, p.IPRoutes)
		l.TC = union(l.TC, p.TC)
	}
	return l
}

// add lists what l2 lists too.
func (l *ledger) add(l2 *ledger) {
	if l.Table == "" {
		l.Table = l2.Table
	}
	if l.Queue == "" {
		l.Queue = l2.Queue
	}
	switch {
	case l.XT == nil:
		l.XT = l2.XT
	default:
		l.XT.Add(l2.XT)
	}
	l.Rules, l.Routes, l.TC = union(l.Rules, l2.Rules), union(l.Routes, l2.Routes), union(l.TC, l2.TC)
}

// keepIDs adds the numbers of a plan that is about to be applied to those of the
// plan in force: whichever of the two a crash leaves behind, connection marks
// keep their meaning.
func (l *ledger) keepIDs(new *actions.IDs) {
	if l.Plan == nil {
		return
	}
	ids := actions.IDs{Routes: map[string]uint32{}, Marks: map[string]uint32{}}
	for _, from := range []*actions.IDs{&l.Plan.IDs, new} {
		maps.Copy(ids.Routes, from.Routes)
		maps.Copy(ids.Marks, from.Marks)
	}
	l.Plan.IDs = ids
}

func union[T comparable](a, b []T) []T {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// reduced is the plan without its table's contents, which only live in the
// kernel: the shape says whether they are what a new plan wants.
func reduced(p *actions.Plan) *actions.Plan {
	if p == nil {
		return nil
	}
	var x *actions.Xtables
	if p.Table.XT != nil {
		x = &actions.Xtables{}
	}
	return &actions.Plan{
		PolicyHash: p.PolicyHash, MarkMask: p.MarkMask, CTMask: p.CTMask, IDs: p.IDs,
		IPRoutes: p.IPRoutes, IPRules: p.IPRules, Consult: p.Consult, Hello: p.Hello, TC: p.TC,
		Table: actions.Table{Name: p.Table.Name, Shape: p.Table.Shape, XT: x},
	}
}

// bootID tells boots apart; "" where the kernel does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// load reads the ledger. None, or one of another boot, is empty.
func load(dir string) (ledger, error) {
	empty := ledger{Version: ledgerVersion, BootID: bootID()}
	name := filepath.Join(dir, ledgerFile)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("read ledger: %w", err)
	}
	if info.Size() > maxLedger {
		return empty, fmt.Errorf("read ledger %s: %d bytes are more than %d", name, info.Size(), maxLedger)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return empty, fmt.Errorf("read ledger: %w", err)
	}
	var l ledger
	if err := json.Unmarshal(b, &l); err != nil {
		return empty, fmt.Errorf("read ledger %s: %w (what it listed is lost: delete table inet %s, the ip rules and routes "+
			"with proto %d, the chain %s of iptables-legacy's mangle tables if there is one, and then this file)",
			name, err, actions.TableName, actions.RouteProto, actions.AskChain)
	}
	if l.Version != ledgerVersion {
		return empty, fmt.Errorf("read ledger %s: version %d, want %d", name, l.Version, ledgerVersion)
	}
	if l.BootID != empty.BootID {
		return empty, nil
	}
	return l, nil
}

// save writes the ledger so that a crash leaves the old or the new one.
func save(dir string, l *ledger) error {
	b, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := durable.Replace(filepath.Join(dir, ledgerFile), append(b, '\n')); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// remove removes the ledger: nothing of ours is left.
func remove(dir string) error {
	for _, n := range []string{ledgerFile, ledgerFile + ".new"} {
		if err := os.Remove(filepath.Join(dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove ledger: %w", err)
		}
	}
	if err := durable.SyncDir(dir); err != nil {
		return fmt.Errorf("sync state folder: %w", err)
	}
	return nil
}

// ErrRunning means that another process holds the state folder.
var ErrRunning = errors.New("another netpolicyd is at work with this state folder")

// lock takes the state folder for this process; the kernel lets go of it when
// the process ends, however it ends.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // the lock's error says it all
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, ErrRunning)
		}
		return nil, fmt.Errorf("lock state folder: %w", err)
	}
	return f, nil
}

// ErrUnlisted means that a table of our name is there and the state folder's
// ledger does not list it: it is another's, or the folder is the wrong one.
var ErrUnlisted = errors.New("table inet " + actions.TableName + " is there, but the ledger in this state folder does not list it: nothing was removed")
