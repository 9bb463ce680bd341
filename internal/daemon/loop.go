package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// maxUnsaved bounds the journal that waits to be written to a slow disk.
const maxUnsaved = 256 << 10

// loop is the one goroutine that owns everything which changes.
type loop struct {
	d    *Daemon
	core *core
	plan *actions.Plan // owned here: Answer and WorldUpdates change it
	host *actions.Host
	text string

	made     state.World  // what the plan was made for
	applied  *state.World // what the kernel's guards and shares were last told
	pending  job
	turned   time.Time // when the sample came that changed what the kernel has to be told; zero: it knows all
	busy     bool
	jobs     chan job
	done     chan jobDone
	waiting  *commit // a commit that waits for the worker, or is being applied
	applying bool    // the job under way, or the last one, applies a plan
	broken   string
	alive    bool // a keep-alive is due
	ticks    int  // keep-alives so far

	saves                           chan save
	unsaved                         save
	saveDue                         time.Time
	decided, seen                   uint64 // decisions; events
	gen                             int    // generation of probes
	stopProb                        context.CancelFunc
	probing                         chan struct{} // closed when the probes of this generation have ended
	trial                           *trial        // counts what probes get on behalf of a change; nil for none
	asked, held, relayed, forwarded service
	tunnelled                       service
	inbounds                        chan []relay.Inbound // to the relay that runs
	refused                         refusals             // the newest that were compiled, or are
	compiling                       bool
	compiled                        chan compiled
	unrefused                       string          // why the last refusal could not be; the worker owns it
	toTell                          []chan struct{} // closed when the kernel knows of the answers so far
}

// save is what goes to the state directory; state nil leaves the state file.
type save struct {
	state   []byte
	usage   []byte // of quotas; nil leaves the file
	journal []journalPart
}

// commit asks the loop to make a candidate live.
type commit struct {
	c        *candidate
	readBack bool       // read the kernel's state back afterwards
	reply    chan error // buffered
}

func newLoop(d *Daemon, c *candidate, m state.Machine) *loop {
	l := &loop{
		d: d, plan: c.plan, host: c.host, text: c.text,
		jobs: make(chan job, 1), done: make(chan jobDone, 1), saves: make(chan save, 1), compiled: make(chan compiled, 1),
		asked: service{name: consultName}, held: service{name: helloName}, relayed: service{name: relayName}, forwarded: service{name: forwarderName},
		tunnelled: service{name: xrayName},
	}
	w := c.world
	l.made = w
	l.core = newCore(l.liveOf(c), m, d.opts.Observe, d.parts.Boot)
	l.core.own, l.core.nextID = ownAddrs(c.host), d.parts.FirstFlow
	if exe, err := os.Executable(); err == nil {
		l.core.self = filepath.Base(exe)
	}
	l.applied = &w
	l.links()
	l.core.apply(state.TickEvent(d.parts.Now()), time.Now())
	l.settle()
	d.alertStates(l.core, nil)
	return l
}

func (l *loop) liveOf(c *candidate) live {
	w := c.world
	l.d.countPolicy(c.policy)
	v := live{policy: c.policy, prog: c.prog, health: c.health, world: &w, since: time.Now(), marks: noMarks{}, places: l.d.placesOf(c)}.count()
	if !l.d.opts.Observe {
		v.marks = marksOf(c.plan, c.policy)
	}
	return v
}

// run works until ctx ends, and returns when everything it started has ended.
func (l *loop) run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{}, 2)
	go func() { l.worker(work); ended <- struct{}{} }()
	go func() { l.saver(); ended <- struct{}{} }()
	defer func() {
		for _, s := range l.services() {
			s.halt()
		}
		l.stopProbes()
		if l.compiling {
			<-l.compiled
		}
		stop()
		close(l.jobs)
		close(l.saves)
		<-ended
		<-ended
	}()
	if len(l.xrayRoutes()) == 0 {
		if err := l.d.endXray(ctx); err != nil && ctx.Err() == nil {
			l.d.log.Warn("xray of an earlier run not ended", "error", err)
		}
	}
	l.startProbes(ctx)
	l.consult(ctx)
	l.hold(ctx)
	l.xray(ctx)
	l.relay(ctx)
	l.forward(ctx)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	l.alive = true
	now := make(chan struct{})
	close(now)
	for {
		l.dispatch()
		select { // a change of state does not wait for its turn among thousands of events
		case r := <-l.d.rounds:
			l.round(r)
			continue
		default:
		}
		var ready <-chan struct{} // closed while flows wait to be decided again
		if l.core.waits() {
			ready = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			l.core.work(eventBatch, l.d.parts.Now(), time.Now())
		case e := <-l.d.answers:
			l.event(&e)
		case e := <-l.d.events:
			l.event(&e)
			l.moreEvents()
		case r := <-l.d.rounds:
			l.round(r)
			continue
		case at := <-tick.C:
			l.alive = true
			l.core.expire(l.d.parts.Now())
			l.step(state.TickEvent(l.d.parts.Now()), at)
			l.d.hints.sweep(l.core.names, time.Now())
			l.d.tellByHand()
		case f := <-l.d.calls:
			at, world := time.Now(), l.core.live.world
			if f(l); l.core.live.world != world && l.turned.IsZero() {
				l.turned = at
			}
		case <-l.d.healthy:
			at, world := time.Now(), l.core.live.world
			if l.core.tunnels(*l.d.health.Load()); l.core.live.world != world && l.turned.IsZero() {
				l.turned = at
			}
		case c := <-l.d.commits:
			l.waiting = c
		case j := <-l.done:
			l.finished(ctx, j)
		case c := <-l.compiled:
			l.takeRefusals(c)
		}
		l.settle()
	}
}

// round takes a round of probes.
func (l *loop) round(r taggedRound) {
	if r.generation == passive {
		l.step(state.RoundEvent(r.round), r.at)
	} else if r.generation == l.gen {
		l.trial.round(&r.round)
		r.round.At = max(r.round.At, 0)
		l.step(state.RoundEvent(r.round), r.at)
	}
	l.settle()
}

// step gives the machine one input, which came at the given time, and has the
// kernel told what follows before anything else is done about it.
func (l *loop) step(e state.Event, at time.Time) {
	l.core.apply(e, time.Now())
	if l.turned.IsZero() {
		l.turned = at
	}
	l.dispatch()
}

// timeEvery is how many events one is measured of.
const timeEvery = 64

// event has the core take an event.
func (l *loop) event(e *inspector.Event) {
	at := time.Now()
	l.core.event(e, l.d.parts.Now(), at)
	if l.seen++; l.seen%timeEvery == 0 {
		l.d.metrics.Evaluated(time.Since(at))
	}
}

// moreEvents takes the events that wait already, answers first: a name that was
// just resolved is about to be used.
func (l *loop) moreEvents() {
	for range eventBatch {
		if len(l.d.rounds) > 0 {
			return
		}
		select {
		case e := <-l.d.answers:
			l.event(&e)
			continue
		default:
		}
		select {
		case e := <-l.d.events:
			l.event(&e)
		default:
			return
		}
	}
}

// settle carries out what core asks for, as far as it does not touch the
// kernel, and publishes the new snapshot.
func (l *loop) settle() {
	out := l.core.take()
	for i := range out.records {
		l.d.decisions.Add(out.records[i])
	}
	for i := range out.ended {
		l.d.feeds.Ended.Append(out.ended[i].line(time.Now()))
	}
	for _, n := range out.counts {
		l.d.metrics.Decision(n.rule, n.action, n.route, n.event)
		l.decided++
	}
	if slices.ContainsFunc(l.services(), (*service).runs) {
		l.d.hints.learn(l.core.names, out.named, time.Now())
	}
	for queue, n := range out.drops {
		l.d.metrics.Drop(queue, n)
	}
	for _, t := range out.transitions {
		l.transition(t)
	}
	l.queue(&out)
	l.keepJournal(out.journal)
	l.keepTape(out.taped)
	now := l.d.parts.Now()
	l.d.beat.Store(int64(now))
	l.d.snap.Store(&snapshot{
		live: l.core.live, machine: l.core.machine, plan: exported(l.plan), host: l.host, text: l.text,
		clock: now, wall: time.Now(), flows: len(l.core.flows), names: l.core.names.Len(),
		decided: l.decided, broken: l.broken, quotas: l.core.quotas(time.Now()),
	})
	l.leave(out.died)
}

// queue adds what the kernel must be told to what waits for it.
func (l *loop) queue(out *outputs) {
	if l.d.opts.Observe {
		return
	}
	if n := maxPending - len(l.pending.marks); len(out.setMarks) > n {
		l.d.metrics.Drop("marks", len(out.setMarks)-n)
		for _, m := range out.setMarks[n:] {
			m.tell(errTooMany)
		}
		out.setMarks = out.setMarks[:n]
	}
	if n := maxPending - len(l.pending.forget); len(out.flush) > n {
		l.d.metrics.Drop("forget", len(out.flush)-n)
		out.flush = out.flush[:n]
	}
	l.pending.marks = append(l.pending.marks, out.setMarks...)
	l.pending.forget = append(l.pending.forget, out.flush...)
}

func (l *loop) transition(t state.Transition) {
	name := ""
	if t.Uplink >= 0 {
		name = l.core.live.health.Uplinks[t.Uplink].Name
		l.d.metrics.Transition(name, t.From.String(), t.To.String())
		l.d.log.Info("uplink changed state", "uplink", name, "from", t.From.String(), "to", t.To.String(), "why", t.Why)
	} else {
		l.d.metrics.Transition("", t.From.String(), t.To.String())
		l.d.log.Info("state changed", "from", t.From.String(), "to", t.To.String(), "why", t.Why)
	}
	l.d.announceTransition(name, t)
	l.saveDue = time.Time{}
}

// swap makes a candidate live, which the kernel holds already.
func (l *loop) swap(c *candidate) {
	l.plan, l.text = c.plan, c.text
	w := c.world
	l.made, l.applied = w, &w
	v := l.liveOf(c)
	if old := l.core.live; old.policy.Hash == v.policy.Hash {
		v.since = old.since
	}
	former := l.core.live.health.Uplinks
	l.core.replace(v, l.d.parts.Now())
	l.d.alertStates(l.core, former)
	l.pending.refuse = nil // of the policy before: c's own has been brought about
	l.seeHost(c.host)
	// Names that changed while the plan was made are in no element of it.
	for _, a := range l.core.names.Addrs(time.Now(), func(string) bool { return true }) {
		if c.names[a.Addr] != l.core.names.Names(a.Addr, time.Now()) {
			l.core.dirty[a.Addr] = true
		}
	}
	l.saveDue = time.Time{}
}

// seeHost takes over what was read of the host.
func (l *loop) seeHost(h *actions.Host) {
	l.host = h
	l.core.own = ownAddrs(h)
	l.links()
}

// links tells the machine which uplinks' devices are up.
func (l *loop) links() {
	status := l.core.machine.Status(l.core.live.health)
	for i := range l.core.live.policy.Uplinks {
		dev := l.core.live.policy.Uplinks[i].Dev
		up := slices.ContainsFunc(l.host.Links, func(k actions.Link) bool { return k.Name == dev && k.Up })
		if status[i].Up != up {
			l.core.apply(state.Event{Kind: state.EventLink, At: l.d.parts.Now(), Uplink: i, Up: up}, time.Now())
		}
	}
}

// keepJournal collects the journal and hands it, with the state, to the saver:
// at once when a state changed, else every saveEvery.
func (l *loop) keepJournal(parts []journalPart) {
	for _, p := range parts {
		if n := len(l.unsaved.journal); !p.fresh && n > 0 {
			last := &l.unsaved.journal[n-1]
			last.lines = append(last.lines, p.lines...)
			continue
		}
		l.unsaved.journal = append(l.unsaved.journal, p)
	}
	size := 0
	for _, p := range l.unsaved.journal {
		size += len(p.lines)
	}
	if time.Now().Before(l.saveDue) && size < maxUnsaved {
		return
	}
	l.encode()
	select {
	case l.saves <- l.unsaved:
		l.unsaved = save{}
		l.saveDue = time.Now().Add(saveEvery)
	default: // the saver is busy: later
		if size >= 2*maxUnsaved {
			l.d.metrics.Drop("journal", 1)
			l.unsaved = save{}
			l.core.beginJournal()
		}
	}
}

// encode puts what is to survive into what is not saved yet.
func (l *loop) encode() {
	l.unsaved.state = l.core.machine.Encode(l.core.live.health, shortHash(l.core.live.policy.Hash), l.d.parts.Boot)
	if len(l.core.live.policy.Quotas) > 0 {
		l.unsaved.usage = l.core.timed.usage.Encode()
	}
}

func (l *loop) saver() {
	for s := range l.saves {
		if err := l.d.write(s); err != nil {
			l.d.log.Warn("state not saved", "error", err)
		}
	}
}

// saveNow writes what is left, after the saver has ended.
func (l *loop) saveNow() error {
	l.encode()
	return l.d.write(l.unsaved)
}

func (d *Daemon) write(s save) error {
	var errs []error
	for _, p := range s.journal {
		errs = append(errs, d.store.appendJournal(p.lines, p.fresh))
	}
	if s.state != nil {
		errs = append(errs, d.store.saveState(s.state))
	}
	if s.usage != nil {
		errs = append(errs, d.store.saveUsage(s.usage))
	}
	return errors.Join(errs...)
}

// startProbes measures the uplinks of the policy that decides.
func (l *loop) startProbes(ctx context.Context) {
	ended := make(chan struct{})
	l.gen++
	generation := l.gen
	ctx, l.stopProb = context.WithCancel(ctx)
	l.probing = ended
	if l.d.parts.Probe == nil {
		close(ended)
		return
	}
	policy := l.core.live.policy
	var plan *actions.Plan
	if !l.d.opts.Observe {
		plan = exported(l.plan)
	}
	go func() {
		defer close(ended)
		err := l.d.parts.Probe(ctx, policy, plan, l.d.parts.Now, func(r state.Round) {
			select {
			case l.d.rounds <- taggedRound{generation, r, time.Now()}:
			case <-ctx.Done():
			}
		})
		if err != nil && ctx.Err() == nil {
			l.d.log.Error("uplinks not measured", "error", err)
		}
	}()
}

func (l *loop) stopProbes() {
	l.stopProb()
	<-l.probing
}

var errStopped = errors.New("the daemon is stopping")

// call runs f in the loop and returns its error.
func (d *Daemon) call(ctx context.Context, f func(*loop) error) error {
	reply := make(chan error, 1)
	select {
	case d.calls <- func(l *loop) { reply <- f(l) }:
	case <-ctx.Done():
		return fmt.Errorf("ask the daemon: %w", ctx.Err())
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("ask the daemon: %w", errors.Join(errStopped, ctx.Err()))
	}
}

// sameProbes reports whether two policies measure the same lines in the same
// way, in the same order, so that the probes of one serve the other.
func sameProbes(a, b *rules.Policy) bool {
	return slices.EqualFunc(a.Uplinks, b.Uplinks, func(x, y rules.Uplink) bool {
		return x.Name == y.Name && x.Dev == y.Dev && x.Gateway == y.Gateway && x.Probe.Kind == y.Probe.Kind &&
			x.Probe.Every == y.Probe.Every && slices.Equal(x.Probe.Targets, y.Probe.Targets)
	})
}
