package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/hugepages"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/state"
)

const (
	// maxReported is how many errors of a rejected policy status keeps.
	maxReported = 10
)

// LoadPolicy reads and checks the policy at path, with its imports and lists. The
// policy is nil when there is any error among the diagnostics, which come with the
// sources that they are about. The last good copies of lists are kept below
// stateDir; "" keeps none.
func LoadPolicy(path, stateDir string) (load.Result, error) {
	cache := ""
	if stateDir != "" {
		cache = filepath.Join(stateDir, "lists")
	}
	return policyfile.Load(path, nil, policyfile.Lists(path, cache))
}

// candidate is a policy with its plan, ready to be made live.
type candidate struct {
	policy  *rules.Policy
	prog    *engine.Program
	health  state.Config
	host    *actions.Host
	plan    *actions.Plan
	world   state.World               // the world that the plan was made for
	text    string                    // the plan as text
	same    bool                      // the plan is the one in the kernel: nothing to apply
	connect *actions.Connect          // what is refused at connect; nil where nothing can be
	names   map[netip.Addr]flow.Names // the names that its elements stand for
	hints   []diag.Diagnostic         // NP502 and the like
	diags   []diag.Diagnostic
	sources []*diag.Source
	loaded  load.Result        // what was read; zero for a policy that was there
	bundle  *policyfile.Bundle // where it was read from; nil for the policy's file
	places  []string           // where its rules stand; nil for a policy that was there
	tried   int                // its assertions, all of which hold
	// found is what is wrong with the kernel's state as it was read back, when
	// that was asked for and could be done (looked).
	found  error
	looked bool
}

// change is what a transaction is to make live, and how.
type change struct {
	// policy is one that was checked before, planned anew or brought back; nil: it
	// is read, from bundle, or from the policy's file where that is nil too.
	policy *rules.Policy
	bundle *policyfile.Bundle
	why    string
	// confined is the policy in force, when the bundle's sender must not read files by
	// naming them; nil: they may.
	confined *rules.Policy
	// before has the last word before the kernel is touched; nil has none.
	before func(*candidate) error
	// readBack asks for a look at the kernel afterwards.
	readBack bool
	// again takes also a policy that means the same as the one that decides.
	again bool
	// numbers is a former plan whose numbers are taken up again; nil: those of the
	// plan in force are kept.
	numbers *actions.Plan
	// bare leaves the names of addresses out.
	bare bool
}

// rejection is an error about the user's text, with its diagnostics.
type rejection struct {
	diags   []diag.Diagnostic
	sources []*diag.Source
}

func (r *rejection) Error() string {
	return errorCount(r.diags)
}

// nameHold is a live name of an address, as the planner sees it.
type nameHold struct {
	addr  netip.Addr
	names flow.Names
	until time.Time
}

// base is what a new plan builds upon: what is live now.
type base struct {
	live    live
	machine state.Machine
	plan    *actions.Plan // only its exported parts may be read
	names   []nameHold
	usage   []byte // of quotas, as it was saved, at the start; else nil
	wall    time.Time
}

// errSame says that the new policy is the one that decides already.
var errSame = errors.New("the policy has not changed")

// read loads the policy of a change.
func (ch *change) read(path, stateDir string) (load.Result, error) {
	if ch.bundle == nil {
		return LoadPolicy(path, stateDir)
	}
	cache := ""
	if stateDir != "" {
		cache = filepath.Join(stateDir, "lists")
	}
	if _, err := os.Stat(stateDir); err != nil { // only observing: there is none
		stateDir = ""
	}
	if ch.confined != nil {
		return ch.bundle.LoadConfined(path, cache, stateDir, ch.confined)
	}
	return ch.bundle.Load(path, cache, stateDir)
}

// prepare does everything of a transaction that can fail and has no effect:
// read, check, compile, plan, dry apply.
func prepare(ctx context.Context, path, stateDir string, ch *change, b base, host Host, kernel Kernel) (*candidate, error) {
	c := &candidate{policy: ch.policy, bundle: ch.bundle}
	if c.policy == nil {
		r, err := ch.read(path, stateDir)
		if err != nil {
			return nil, err
		}
		c.policy, c.diags, c.sources, c.loaded = r.Policy, r.Diags, r.Sources, r
		if c.policy == nil {
			return nil, &rejection{c.diags, c.sources}
		}
		c.places = placesIn(c.policy, c.sources)
		old := b.live.policy
		if same := old != nil && c.policy.Hash == old.Hash && sameDaemon(&c.policy.Daemon, &old.Daemon); same && !ch.again {
			return nil, errSame
		}
	}
	switch old := b.live.prog; {
	case old == nil:
		c.prog = engine.Compile(c.policy)
	case b.live.policy == c.policy:
		c.prog = old
	default:
		c.prog = engine.Recompile(old, c.policy)
	}
	if b.live.policy != c.policy {
		// What a policy says of itself has to hold before it decides anything.
		asserted := analysis.Assertions(c.prog)
		if failed := asserted.Diags; len(failed) > 0 {
			return nil, &rejection{failed, c.sources}
		}
		c.tried = asserted.Tried
	}
	hugepages.Use(c.prog.Tables())
	c.health = c.policy.Health()
	var err error
	if c.host, err = host.ReadHost(ctx); err != nil {
		return nil, fmt.Errorf("read the host: %w", err)
	}
	machine := b.machine
	if b.live.policy != nil {
		machine = machine.Reconfigure(b.live.health, c.health)
	}
	c.world = machine.World(c.health)
	guess(&c.world, c.prog, &b)
	c.plan, c.hints = actions.PlanFor(c.prog, *c.host, &c.world, b.plan)
	if c.plan == nil {
		return nil, &rejection{c.hints, c.sources}
	}
	c.text = c.plan.String()
	if err := c.addNames(b); err != nil {
		return nil, err
	}
	if kernel != nil {
		if err := kernel.Check(ctx, c.plan); err != nil {
			return nil, fmt.Errorf("try the plan: %w", err)
		}
	}
	return c, nil
}

// addNames puts the elements of the addresses whose names are known into the
// plan, so that a reload does not forget them for a moment.
func (c *candidate) addNames(b base) error {
	c.names = make(map[netip.Addr]flow.Names, len(b.names))
	for _, n := range b.names {
		c.names[n.addr] = n.names
		updates, err := c.plan.Answer(n.addr, n.names, n.until.Sub(b.wall))
		if err != nil {
			return fmt.Errorf("plan the known names: %w", err)
		}
		for _, u := range updates {
			fold(&c.plan.Table, u)
		}
	}
	return nil
}

// fold writes an update into a table that is not in the kernel yet.
func fold(t *actions.Table, u actions.Update) {
	if u.Kind == actions.PutChain {
		if !slices.ContainsFunc(t.Chains, func(c actions.Chain) bool { return c.Name == u.Chain.Name }) {
			t.Chains = append(t.Chains, u.Chain)
		}
		return
	}
	for i := range t.Sets {
		s := &t.Sets[i]
		if s.Name != u.Set {
			continue
		}
		s.Elems = slices.DeleteFunc(slices.Clone(s.Elems), func(e actions.Elem) bool { return e.Key == u.Elem.Key })
		if u.Kind == actions.PutElem {
			s.Elems = append(s.Elems, u.Elem)
		}
	}
}

// sameDaemon reports whether two daemon sections say the same, wherever they stand.
func sameDaemon(a, b *rules.Daemon) bool {
	return reflect.DeepEqual(placeless(a), placeless(b))
}

func placeless(d *rules.Daemon) rules.Daemon {
	x := *d
	x.StateDirAt = diag.Span{}
	x.DNS.Upstreams = slices.Clone(x.DNS.Upstreams)
	for i := range x.DNS.Upstreams {
		x.DNS.Upstreams[i].Span = diag.Span{}
	}
	return x
}

// apiDiagnostics returns diagnostics as the API spells them; at most maxReported
// when errorsOnly is set, and then errors alone.
func apiDiagnostics(list []diag.Diagnostic, sources []*diag.Source, errorsOnly bool) []api.Diagnostic {
	out := []api.Diagnostic{}
	for _, d := range list {
		if errorsOnly && (d.Severity != diag.Error || len(out) == maxReported) {
			continue
		}
		a := api.Diagnostic{
			Code: string(d.Code), Severity: d.Severity.String(), File: d.Span.File, Message: d.Message, Help: d.Help,
		}
		for _, s := range sources {
			if s.Name == d.Span.File {
				a.Line, a.Column = s.Position(d.Span.Start)
				a.EndLine, a.EndColumn = s.Position(d.Span.End)
			}
		}
		out = append(out, a)
	}
	return out
}

// PolicyError says that a policy's text is wrong: its first errors are among the diagnostics.
type PolicyError struct {
	Diagnostics []diag.Diagnostic
	Sources     []*diag.Source
}

func (e *PolicyError) Error() string {
	return errorCount(e.Diagnostics)
}

// Why the loop asks for a plan.
const (
	reasonFile   = "file changed"
	reasonHup    = "SIGHUP"
	reasonHost   = "links or routes changed"
	reasonRepair = "kernel state lost"
	reasonDrift  = "changed by others"
	reasonNames  = "too many combinations of names"
)

// repairPause is the least time between two attempts to put lost kernel state
// back: whoever removes it may do so again and again.
const repairPause = 5 * time.Second

// reloadCall is a reload that somebody waits for.
type reloadCall struct {
	who   string
	reply chan api.ReloadResult // buffered
}

// Reload makes the daemon read its policy again, and waits for what comes of it.
func (d *Daemon) Reload(ctx context.Context) (api.ReloadResult, error) {
	call := &reloadCall{cmp.Or(api.Who(ctx), "unknown"), make(chan api.ReloadResult, 1)}
	select {
	case d.reloads <- call:
	case <-ctx.Done():
		return api.ReloadResult{}, fmt.Errorf("ask for a reload: %w", ctx.Err())
	}
	select {
	case r := <-call.reply:
		return r, nil
	case <-ctx.Done():
		return api.ReloadResult{}, fmt.Errorf("wait for the reload: %w", ctx.Err())
	}
}

// wake asks for a transaction without waiting for it. One that is asked for
// already is enough.
func (d *Daemon) wake(reason string) {
	to := d.nudge
	if reason == reasonFile || reason == reasonHup {
		to = d.changed
	}
	select {
	case to <- reason:
	default:
	}
}

// watch wakes the daemon when the policy's file or the host changes, and at each
// value from hup.
func (d *Daemon) watch(ctx context.Context, hup <-chan os.Signal) {
	var group sync.WaitGroup
	group.Go(func() {
		if err := d.parts.Host.Watch(ctx, func() { d.wake(reasonHost) }); err != nil && ctx.Err() == nil {
			d.log.Warn("host not watched", "error", err)
		}
	})
	group.Go(func() {
		if err := d.parts.WatchFile(ctx, d.opts.Config, func() { d.wake(reasonFile) }); err != nil && ctx.Err() == nil {
			d.log.Warn("policy file not watched, reload by SIGHUP or the API", "error", err)
		}
	})
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-hup:
			d.wake(reasonHup)
		}
	}
	group.Wait()
}

// transactions does reloads and new plans, one after the other.
func (d *Daemon) transactions(ctx context.Context) {
	var repaired time.Time
	besides := newFollower(d)
	defer besides.close()
	defer func() { d.waiting.leave() }()
	for {
		// The files of a policy that waits for its confirmation are not there yet.
		if now := d.snap.Load(); now != nil && d.waiting == nil {
			besides.follow(ctx, now.live.policy)
		}
		select {
		case <-ctx.Done():
			return
		case call := <-d.reloads:
			call.reply <- d.reload(ctx, call.who, "reload")
		case reason := <-d.changed:
			who := "file"
			if reason == reasonHup {
				who = reason
			}
			d.reload(ctx, who, reason)
		case call := <-d.changes:
			d.serveChange(ctx, call)
		case ask := <-d.asks:
			ask(ctx)
		case <-d.waiting.looks():
			d.lookAtChange(ctx)
		case reason := <-d.nudge:
			if reason == reasonRepair && !waitUntil(ctx, repaired.Add(repairPause)) {
				return
			}
			if reason == reasonRepair {
				repaired = time.Now()
			}
			d.replan(ctx, reason)
		case <-d.drifted:
			if !waitUntil(ctx, repaired.Add(repairPause)) {
				return
			}
			repaired = time.Now()
			d.replan(ctx, reasonDrift)
		}
	}
}

// waitUntil reports whether ctx lasts until then.
func waitUntil(ctx context.Context, then time.Time) bool {
	pause := time.NewTimer(time.Until(then))
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reload is the transaction: read, check, compile, plan, dry apply, swap. Any
// failure leaves the policy that decides as it is.
func (d *Daemon) reload(ctx context.Context, who, why string) api.ReloadResult {
	d.notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicros()))
	defer d.notify("READY=1")
	if d.waiting != nil {
		return d.postpone(who, why)
	}
	c, err := d.transact(ctx, &change{why: why})
	result := api.ReloadResult{Diagnostics: []api.Diagnostic{}}
	switch {
	case errors.Is(err, errSame):
		result.Result = api.Unchanged
		d.setError(nil)
		d.log.Info("policy unchanged", "trigger", why)
	case err != nil:
		result = d.rejected(err)
	default:
		result.Result = api.Applied
		result.Diagnostics = append(apiDiagnostics(c.diags, c.sources, false), apiDiagnostics(c.hints, c.sources, false)...)
		d.setError(nil)
		d.log.Info("policy applied", "trigger", why, "file", c.policy.File, "hash", shortHash(c.policy.Hash),
			"rules", len(c.policy.Rules), "mode", d.mode(), "who", who)
		d.warn(c)
		d.live.Store(int64(d.record(c, who, why, int(d.live.Load()))))
		d.setReverted(nil)
	}
	d.metrics.Reload(result.Result)
	result.Policy = policyStatus(d.snap.Load())
	d.announce(result.Result, who, cmp.Or(result.Error, why))
	return result
}

// rejected notes NP501 in status and log, with the place of the first errors.
func (d *Daemon) rejected(err error) api.ReloadResult {
	e := &api.ReloadError{Code: "NP501", Time: time.Now(), Message: err.Error(), Diagnostics: []api.Diagnostic{}}
	var r *rejection
	if errors.As(err, &r) {
		e.Diagnostics = apiDiagnostics(r.diags, r.sources, true)
	}
	d.setError(e)
	log := d.log.With("code", e.Code, "error", e.Message)
	if len(e.Diagnostics) > 0 {
		first := e.Diagnostics[0]
		log = log.With("file", first.File, "line", first.Line, "column", first.Column, "first", first.Code+": "+first.Message)
	}
	log.Error("new policy rejected, the old one goes on")
	return api.ReloadResult{Result: api.Rejected, Error: e.Message, Diagnostics: e.Diagnostics}
}

func (d *Daemon) setError(e *api.ReloadError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastErr = e
}

// replan brings the policy that decides about anew, for the host as it is now.
func (d *Daemon) replan(ctx context.Context, why string) {
	c, err := d.transact(ctx, &change{policy: d.snap.Load().live.policy, why: why})
	switch {
	case err == nil && c.same:
	case ctx.Err() != nil || errors.Is(err, errSame):
	case err != nil:
		d.log.Error("plan not applied", "trigger", why, "error", err)
		d.wakeLater(ctx, why)
	default:
		d.log.Info("plan applied", "trigger", why, "hash", shortHash(c.policy.Hash))
	}
}

// wakeLater tries again what could not be done: a device may be half-way up.
func (d *Daemon) wakeLater(ctx context.Context, why string) {
	time.AfterFunc(repairPause, func() {
		if ctx.Err() == nil {
			d.wake(why)
		}
	})
}

// transact prepares a candidate and has the loop make it live. It is the one way
// by which a policy becomes live, after the first. When a device goes down before its
// routes are there, it is planned once more, without it.
func (d *Daemon) transact(ctx context.Context, ch *change) (*candidate, error) {
	c, err := d.attempt(ctx, ch)
	if !errors.Is(err, syscall.ENETDOWN) && !errors.Is(err, syscall.ENODEV) {
		return c, err
	}
	d.log.Info("planned again for the host as it is now", "trigger", ch.why, "error", err)
	again := *ch
	again.before = nil // it has had its word
	return d.attempt(ctx, &again)
}

func (d *Daemon) attempt(ctx context.Context, ch *change) (*candidate, error) {
	c, err := d.candidate(ctx, ch)
	if err != nil {
		return nil, err
	}
	now := d.snap.Load()
	c.same = ch.policy != nil && ch.why == reasonHost && c.text == now.text && now.broken == ""
	if ch.before != nil {
		if err := ch.before(c); err != nil {
			return nil, err
		}
	}
	if d.parts.Refuser != nil && !c.same {
		c.connect = connectFor(refusals{prog: c.prog, host: c.host}, &c.world)
	}
	com := &commit{c: c, readBack: ch.readBack, reply: make(chan error, 1)}
	select {
	case d.commits <- com:
	case <-ctx.Done():
		return nil, errStopped
	}
	select {
	case err := <-com.reply:
		if err != nil {
			return nil, fmt.Errorf("apply the plan: %w", err)
		}
		return c, nil
	case <-ctx.Done():
		return nil, errStopped
	}
}

// candidate prepares what a change would make live, and touches nothing.
func (d *Daemon) candidate(ctx context.Context, ch *change) (*candidate, error) {
	var names []nameHold
	if !ch.bare {
		err := d.call(ctx, func(l *loop) error { names = l.core.holds(time.Now()); return nil })
		if err != nil {
			return nil, err
		}
	}
	now := d.snap.Load()
	b := base{live: now.live, machine: now.machine, plan: now.plan, names: names, wall: time.Now()}
	if ch.numbers != nil {
		b.plan = ch.numbers
	}
	var kernel Kernel
	if !d.opts.Observe {
		kernel = d.parts.Kernel
	}
	c, err := prepare(ctx, d.opts.Config, d.opts.StateDir, ch, b, d.parts.Host, kernel)
	if err != nil || ch.policy != nil {
		return c, err
	}
	found := append(d.checkStateDir(c.policy), d.checkProxies(c.policy, ch.confined)...)
	if diag.Count(found, diag.Error) > 0 {
		return nil, &rejection{found, c.sources}
	}
	c.hints = append(c.hints, found...)
	return c, nil
}

func errorCount(list []diag.Diagnostic) string {
	if n := diag.Count(list, diag.Error); n != 1 {
		return fmt.Sprintf("%d errors in the policy", n)
	}
	return "1 error in the policy"
}
