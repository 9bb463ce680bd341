package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/iproute"
	"netpolicy.dev/netpolicy/actions/iptables"
	"netpolicy.dev/netpolicy/actions/nft"
	"netpolicy.dev/netpolicy/actions/tc"
	"netpolicy.dev/netpolicy/actions/xtqueue"
)

// backTimeout bounds taking back what a failed Apply has done: it must end even
// when the caller's context is over.
const backTimeout = 30 * time.Second

// maxPasswd bounds what is read of the user list.
const maxPasswd = 4 << 20

// Config is what an Enforcer needs to know.
type Config struct {
	StateDir string // created when missing, 0700
	// Shared lets other processes change the nftables table. Else they can't while
	// this one runs, where the kernel knows of owners (Linux 6.9).
	Shared bool
}

// Enforcer writes plans to the network namespace it was made in. It is safe
// for concurrent use; one process at a time has a state folder.
type Enforcer struct {
	dir  string
	lock *os.File

	mu    sync.Mutex
	nft   *nft.Applier
	ip    *iproute.Applier
	tc    *tc.Applier
	x     *iptables.Applier // made when a plan or the ledger asks for it
	noNFT bool              // the kernel has no nftables
	books ledger
	plan  *actions.Plan // in force, whole; nil before the first Apply
	drift drift
	// before, if set, is called before each change; an error stands for a
	// process that ends there. Tests set it.
	before func(what string) error
}

// New takes the state folder and opens the netlink sockets. It changes nothing.
func New(cfg Config) (*Enforcer, error) {
	f, err := lock(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	e := &Enforcer{dir: cfg.StateDir, lock: f}
	if e.books, err = load(cfg.StateDir); err == nil {
		e.nft, err = nft.Open(nft.Options{Owner: !cfg.Shared})
	}
	if err == nil {
		e.ip, err = iproute.New()
	}
	if err == nil {
		e.noNFT = missing(e.nft)
		e.tc, err = tc.New()
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close lets go of sockets and folder. What is enforced stays in force.
func (e *Enforcer) Close() error {
	var err error
	if e.nft != nil {
		err = e.nft.Close()
	}
	if e.ip != nil {
		e.ip.Close()
	}
	if e.tc != nil {
		err = errors.Join(err, e.tc.Close())
	}
	if e.x != nil {
		err = errors.Join(err, e.x.Close())
	}
	return errors.Join(err, e.lock.Close())
}

// Previous returns the plan in force, of this process or, from the ledger, of
// the one before; nil for none. PlanFor takes it to keep numbers.
func (e *Enforcer) Previous() *actions.Plan {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan != nil {
		return e.plan
	}
	return e.books.Plan
}

// ReadHost returns what plans need to know of this host.
func (e *Enforcer) ReadHost() (actions.Host, error) {
	h, err := e.ip.ReadHost()
	if err != nil {
		return h, fmt.Errorf("read host: %w", err)
	}
	e.mu.Lock()
	err = e.tc.ReadHost(&h)
	e.mu.Unlock()
	if err != nil {
		return h, fmt.Errorf("read host: %w", err)
	}
	h.NoNFTables, h.XTables = e.noNFT, iptables.Available()
	h.Users, err = users()
	h.Queue, h.CPUs = queueVia(), runtime.NumCPU()
	return h, err
}

// users reads /etc/passwd. A host without it has users by number only.
func users() (map[string]uint32, error) {
	f, err := os.Open("/etc/passwd")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	defer f.Close()
	list := map[string]uint32{}
	for s := bufio.NewScanner(io.LimitReader(f, maxPasswd)); s.Scan(); {
		part := strings.Split(s.Text(), ":")
		if len(part) < 3 {
			continue
		}
		if uid, err := strconv.ParseUint(part[2], 10, 32); err == nil {
			list[part[0]] = uint32(uid)
		}
	}
	return list, nil
}

// Apply brings the host to the plan: routes, then rules, traffic control, the
// table, then what the old plan leaves over. What is there already is left alone, so a
// second Apply changes nothing and a restart adopts. On an error everything
// goes back to the plan that was in force; if the table had been replaced by
// then, its elements are those that were planned, and names and world have to
// be put anew. A device that was up when the plan was made, and is not any more, is
// ENETDOWN or ENODEV: another plan, for the host as it is now, may succeed.
func (e *Enforcer) Apply(ctx context.Context, plan *actions.Plan) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.refuseForeign(plan); err != nil {
		return err
	}
	have, err := e.have(plan)
	if err != nil {
		return err
	}
	old := e.plan
	if old == nil {
		old = e.books.Plan
	}
	alien, err := e.alienHooks(plan)
	if err != nil {
		return err
	}
	intent := of(old, plan)
	intent.without(alien)
	if plan.Table.XT != nil {
		intent.XT = iptables.Names(&plan.Table, e.x.Variant())
		if intent.XT.Tables, err = e.x.NewTables(&plan.Table); err != nil {
			return err
		}
	}
	intent.add(&e.books)
	intent.Pending = true
	intent.keepIDs(&plan.IDs)
	if err := e.write(intent); err != nil {
		return fmt.Errorf("%w: nothing was changed", err)
	}
	table := have.Table
	for _, s := range append(actions.Diff(have, plan), e.leftover(ctx, plan)...) {
		if err := e.step(ctx, &s); err != nil {
			if errors.Is(err, errKilled) {
				return err
			}
			return errors.Join(fmt.Errorf("apply plan: %w", err), e.back(ctx, plan, table))
		}
		if s.Kind == actions.PutTable || s.Kind == actions.PutChanges {
			table = *s.Table
		}
	}
	e.plan = plan
	e.drift.table, e.drift.told = false, nil
	return e.inForce(plan, alien)
}

// inForce notes that the host has the plan and nothing else. A disk that is full
// now, and was not a moment ago, still holds the ledger of the intent, which lists
// all that is there: then the next start loads the table anew instead of adopting
// it, and that is all.
func (e *Enforcer) inForce(plan *actions.Plan, alien []actions.TCObject) error {
	made := e.owned(plan)
	made.without(alien)
	if err := e.write(made); errors.Is(err, errKilled) {
		return err
	}
	return nil
}

// Check has the kernel try the plan's table, without any effect.
func (e *Enforcer) Check(ctx context.Context, plan *actions.Plan) error {
	if plan.Table.XT != nil {
		return e.try(ctx, plan)
	}
	return e.nft.Check(ctx, &plan.Table)
}

// errKilled stands in tests for the end of the process.
var errKilled = errors.New("killed")

func (e *Enforcer) pass(what string) error {
	if e.before == nil {
		return nil
	}
	return e.before(what)
}

func (e *Enforcer) write(l ledger) error {
	if err := e.pass("ledger"); err != nil {
		return err
	}
	if err := save(e.dir, &l); err != nil {
		return err
	}
	e.books = l
	return nil
}

func (e *Enforcer) step(ctx context.Context, s *actions.Step) error {
	if err := e.pass(s.String()); err != nil {
		return err
	}
	switch s.Kind {
	case actions.PutTable, actions.DelTable, actions.PutUpdates, actions.PutChanges:
		if s.Table.XT != nil {
			return e.stepX(ctx, s)
		}
		return e.nft.Apply(ctx, []actions.Step{*s})
	case actions.AddTC, actions.DelTC:
		return e.tc.Apply(ctx, []actions.Step{*s})
	case actions.PutQueue, actions.DelQueue:
		return xtqueue.Apply(ctx, s)
	default:
		return e.ip.Apply(ctx, []actions.Step{*s})
	}
}

// back returns to the plan in force after a failed Apply of plan; table is what
// the kernel has now.
func (e *Enforcer) back(ctx context.Context, plan *actions.Plan, table actions.Table) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backTimeout)
	defer cancel()
	goal := &actions.Plan{}
	switch old := e.books.Plan; {
	case e.plan != nil:
		goal = e.plan
	case old == nil:
	case (old.Table.XT == nil) != (plan.Table.XT == nil): // it has not been touched
		goal = old
	case table.Shape != old.Table.Shape:
		// The old table's contents died with the process that made them: the
		// new table is in force with all that it needs, and stays.
		return errors.New("take back: the old table is not known any more; the new one stays in force")
	default:
		goal = old
	}
	have, err := e.have(goal)
	if err != nil {
		return fmt.Errorf("take back: %w", err)
	}
	// A table that was not replaced stays as it is: what updates have changed
	// in it since is newer than the plan.
	switch {
	case (goal.Table.XT == nil) != (plan.Table.XT == nil):
		have.Table = goal.Table // the other backend's, which has not been touched
	case goal.Table.Name != "" && goal.Table.Shape == table.Shape:
		have.Table = goal.Table
	case have.Table.Name != "":
		have.Table = table
	}
	for _, s := range append(actions.Diff(have, goal), e.leftover(ctx, goal)...) {
		// A device that went down meanwhile has taken the old plan's routes over it, too.
		down := func(err error) bool { return errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV) }
		if err := e.step(ctx, &s); err != nil && !(s.Kind == actions.AddRoute && down(err)) {
			return fmt.Errorf("take back: %w", err)
		}
	}
	if goal.Table.Name == "" {
		e.books = ledger{Version: ledgerVersion, BootID: bootID()}
		return remove(e.dir)
	}
	return e.inForce(goal, nil)
}

// have returns what is really there of the ledger and of plan, as a plan.
// Contents of the table are not compared: the shape of the plan in force
// stands for them, and elements are put anew.
func (e *Enforcer) have(plan *actions.Plan) (*actions.Plan, error) {
	var h actions.Plan
	exists, err := e.exists()
	if err != nil {
		return nil, err
	}
	if plan.Table.XT != nil {
		found, err := e.lookX()
		if err != nil {
			return nil, err
		}
		if found.Foreign != "" {
			return nil, fmt.Errorf("iptables %s is there and not in the ledger %s: not ours to replace", found.Foreign, e.dir)
		}
		e.haveX(&h, found)
	} else if exists {
		h.Table.Name = actions.TableName
		switch {
		case e.drift.table: // it is to be replaced
		case e.plan != nil && e.plan.Table.XT != nil: // of the other backend
		case e.plan != nil && e.plan.Table.Shape != plan.Table.Shape:
			h.Table = e.plan.Table // as it was put, so that what differs can be changed
		case e.plan != nil:
			h.Table.Shape = e.plan.Table.Shape
		case e.books.Plan != nil && !e.books.Pending:
			h.Table.Shape = e.books.Plan.Table.Shape
		}
	}
	jumps, err := e.jumps(plan)
	if err != nil {
		return nil, err
	}
	h.Consult, h.Hello = jumps.Consult, jumps.Hello
	rules, err := e.ip.Rules()
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		if slices.Contains(e.books.Rules, r) || slices.Contains(plan.IPRules, r) {
			h.IPRules = append(h.IPRules, r)
		}
	}
	routes, _, err := e.ip.Routes(tables(plan, &e.books))
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if slices.Contains(e.books.Routes, r) || slices.Contains(plan.IPRoutes, r) {
			h.IPRoutes = append(h.IPRoutes, r)
		}
	}
	h.TC, err = e.haveTC(plan)
	return &h, err
}

func tables(plan *actions.Plan, l *ledger) []uint32 {
	var list []uint32
	for _, r := range slices.Concat(plan.IPRoutes, l.Routes) {
		if !slices.Contains(list, r.Table) {
			list = append(list, r.Table)
		}
	}
	return list
}

// refuseForeign stops before anything of others would be touched.
func (e *Enforcer) refuseForeign(plan *actions.Plan) error {
	exists, err := e.exists()
	if err != nil {
		return err
	}
	if exists && e.books.Table == "" {
		return fmt.Errorf("nft table inet %s is there and not in the ledger %s: not ours to replace", actions.TableName, e.dir)
	}
	if want := plan.Legacy(); want != (actions.Legacy{}) && e.books.Queue == "" {
		s, err := xtqueue.Read(context.Background(), want)
		if err != nil {
			return err
		}
		if s != xtqueue.Nothing {
			return fmt.Errorf("iptables-legacy chain %s is there and not in the ledger %s: not ours to replace", strings.Join(actions.LegacyChains(), " or "), e.dir)
		}
	}
	// In a table that the ledger lists what others have put since is theirs, and
	// stays beside ours.
	ours := tables(&actions.Plan{}, &e.books)
	fresh := slices.DeleteFunc(tables(plan, &ledger{}), func(t uint32) bool { return slices.Contains(ours, t) })
	_, foreign, err := e.ip.Routes(fresh)
	if err != nil {
		return err
	}
	if foreign > 0 {
		return fmt.Errorf("%d routes of others in the tables of daemon.table_base: choose another table_base", foreign)
	}
	return e.refuseDevice(plan)
}

// Update makes small changes: a failover, a DNS answer. See actions.Plan.
func (e *Enforcer) Update(ctx context.Context, updates []actions.Update) error {
	if len(updates) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.update(ctx, updates)
}

// KeepAlive tells the kernel that the daemon lives; call it each second.
func (e *Enforcer) KeepAlive(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan == nil {
		return nil
	}
	return e.update(ctx, e.plan.KeepAlive())
}

// Cleanup removes exactly what the ledger in stateDir lists, and the ledger.
// It is safe at any time and twice, but not while a daemon has the folder
// (ErrRunning). What is gone already is no error; a table of our name that no
// ledger there lists is ErrUnlisted, and stays.
func Cleanup(ctx context.Context, stateDir string) error {
	if _, err := os.Stat(stateDir); errors.Is(err, os.ErrNotExist) {
		kernel, err := nft.New()
		if err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
		there, err := false, error(nil)
		if !missing(kernel) {
			there, err = kernel.Exists(actions.TableName)
		}
		if err == nil && there {
			err = ErrUnlisted
		}
		return errors.Join(err, kernel.Close())
	}
	e, err := New(Config{StateDir: stateDir})
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	err = e.clean(ctx)
	if err != nil {
		err = fmt.Errorf("clean up: %w", err)
	}
	return errors.Join(err, e.Close())
}

func (e *Enforcer) clean(ctx context.Context) error {
	made := actions.Plan{IPRules: e.books.Rules, IPRoutes: e.books.Routes, TC: e.books.TC}
	exists, err := e.exists()
	if err != nil {
		return err
	}
	if exists && e.books.Table != "" {
		made.Table.Name = e.books.Table
	}
	if e.books.Queue != "" {
		made.Consult.Via = actions.LegacyQueue
	}
	var errs error
	if e.books.XT != nil {
		errs = e.step(ctx, &actions.Step{Kind: actions.DelTable, Table: &actions.Table{Name: actions.TableName, XT: &actions.Xtables{}}})
	}
	for _, s := range actions.Diff(&made, nil) {
		errs = errors.Join(errs, e.step(ctx, &s)) // one that fails must not keep the rest
	}
	if errs != nil {
		return errs
	}
	if exists && e.books.Table == "" {
		return ErrUnlisted
	}
	return remove(e.dir)
}

var _ actions.Applier = (*nft.Applier)(nil)
