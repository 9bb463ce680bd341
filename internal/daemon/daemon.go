// Package daemon is netpolicyd without its command line. One goroutine, the
// loop, owns the policy that decides, the health machine, the plan, the DNS names
// and the flows; everything else speaks with it through bounded channels:
//
//	sources --events----> loop --jobs--> kernel worker (nft, ip, conntrack)
//	        --answers---> loop --saves-> store (state file, journal)
//	probes  --rounds----> loop
//	API     --calls-----> loop ------> one immutable snapshot, which status,
//	reloads --commits---> loop         explain, new plans and the answers to the
//	                                   kernel's questions (consult) read without locks
//
// What a full queue does: rounds, calls and commits block their sender; events
// are dropped and counted, because a source must not block; of the DNS answers
// the oldest is dropped and counted, because the newest are about to be used;
// jobs are coalesced by the loop, which starts one when the former is done.
//
// The loop itself only feeds core, which is free of side effects: the same
// inputs give the same outputs.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/inspector/sniff"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/internal/telemetry"
	"netpolicy.dev/netpolicy/internal/tunnels"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/resolver"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/state"
	"netpolicy.dev/netpolicy/xray/process"
)

// The bounds of the queues.
const (
	eventQueue  = 8192 // a burst of new flows: twenty seconds of the busiest gateway measured
	answerQueue = 1024
	roundQueue  = 64
	callQueue   = 16
	eventBatch  = 256 // events taken between looks at the other queues
)

const (
	// tickEvery is the machine's clock, and how often the kernel hears that the daemon lives.
	tickEvery = time.Second
	// saveEvery is how often state and journal are written when nothing happens.
	saveEvery = 30 * time.Second
	// stopTime bounds the clean-up of a clean stop.
	stopTime = 10 * time.Second
)

// Options are the daemon's settings.
type Options struct {
	Config   string // path of the policy
	Observe  bool   // decide and log, enforce nothing
	StateDir string // "" keeps nothing on disk
	// StateDirGiven says that the command line names it, whatever policies say.
	StateDirGiven bool
	Socket        string // "" serves no API
	Version       string
	PID           int
	Log           *slog.Logger
	Notifier      Notifier
	// Clean removes everything that was made, on a clean stop; nil leaves it.
	Clean func(context.Context) error
	// Stay is asked at a clean stop: true leaves Xray to a successor. nil ends it.
	Stay func() bool
	// Record says where what happens is recorded for replays; nil: nowhere.
	Record *Recording
	// SocketGroup may use the API, too; 0: nobody but the daemon's user and root.
	SocketGroup int
	Web         Web
	Telemetry   Telemetry
}

// Daemon is a running netpolicyd. Make one with New and call Run once.
type Daemon struct {
	opts  Options
	parts Parts
	log   *slog.Logger

	records   *telemetry.Ring
	decisions *telemetry.DecisionLog
	feeds     api.Feeds
	alerts    *telemetry.Alerts // nil: nobody is told
	metrics   *telemetry.Metrics
	store     *store

	events  chan inspector.Event
	answers chan inspector.Event
	rounds  chan taggedRound
	calls   chan func(*loop)
	commits chan *commit
	reloads chan *reloadCall
	drifted chan struct{}
	drift   driftBook
	changes chan *changeCall
	asks    chan func(context.Context) // to be done where policies are made live
	changed chan string                // the file changed; coalesced
	nudge   chan string                // reasons to plan anew; coalesced

	tapes     chan []journalPart // parts of the recording
	torn      atomic.Bool        // the recording has lost something
	snap      atomic.Pointer[snapshot]
	relay     atomic.Pointer[relay.Relay]       // nil while there is none
	forwarder atomic.Pointer[resolver.Resolver] // likewise
	tunnels   atomic.Pointer[tunnels.Tunnels]   // likewise
	// xrayRoutes are those of the policy in force; handOver is set while Xray is left to
	// another supervisor; health is the newest of the tunnels, and healthy says that it is new.
	xrayRoutes atomic.Pointer[[]tunnels.Route]
	handOver   atomic.Bool
	trying     sync.Mutex // held while a link is tried
	health     atomic.Pointer[tunnels.Health]
	healthy    chan struct{}
	hints      hints
	questions  nfqueue.Counters // of all queues of `consult`
	hellos     nfqueue.Counters // of those of `hello: hold`
	held       sniff.HoldCounters
	started    time.Time
	beat       atomic.Int64 // the loop's last sign of life, on the logical clock

	history *history       // nil keeps none
	subs    *subscriptions // likewise
	waiting *waiting       // a change that waits for its confirmation; the goroutine of transactions owns it
	live    atomic.Int64   // the number of the policy that decides, in the history; 0 where none is kept

	mu       sync.Mutex
	sources  []api.Source
	lastErr  *api.ReloadError
	confirm  *api.Confirm  // what status shows of waiting
	deadline time.Duration // of confirm, on the logical clock
	reverted *api.Revert

	book     book
	graves   graves
	byHand   byHand
	places   []placed // of the loop, where the rules of policies stand
	metering sync.Mutex
	meter    *meter
}

// snapshot is what everything outside the loop reads; immutable.
type snapshot struct {
	live    live
	machine state.Machine
	plan    *actions.Plan // exported parts only
	host    *actions.Host
	text    string // the plan as text
	clock   time.Duration
	wall    time.Time
	flows   int
	names   int
	decided uint64
	broken  string // why the kernel does not hold the plan; "" when it does
	quotas  []api.Quota
}

// passive is the generation of what was seen of uplinks in passing, not probed.
const passive = -1

// taggedRound is a round of the probes of one generation of policy.
type taggedRound struct {
	generation int
	round      state.Round
	at         time.Time // when it was finished
}

// New returns a daemon that is not running yet.
func New(opts Options, parts Parts) *Daemon {
	d := &Daemon{
		opts: opts, parts: parts, meter: newMeter(),
		records: telemetry.NewRing(0), feeds: newFeeds(), store: &store{},
		events: make(chan inspector.Event, eventQueue), answers: make(chan inspector.Event, answerQueue),
		rounds: make(chan taggedRound, roundQueue), calls: make(chan func(*loop), callQueue),
		commits: make(chan *commit), reloads: make(chan *reloadCall, callQueue),
		changes: make(chan *changeCall, callQueue), asks: make(chan func(context.Context)), changed: make(chan string, 1), nudge: make(chan string, 1),
		drifted: make(chan struct{}, 1), healthy: make(chan struct{}, 1),
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if parts.WatchFile == nil {
		d.parts.WatchFile = watchFile
	}
	d.log = telemetry.Tee(opts.Log, d.feeds.Logs)
	d.metrics = telemetry.NewMetrics(opts.Version, queues, d.writeGauges)
	d.decisions = telemetry.NewDecisionLog(telemetry.DecisionOptions{Ring: d.records, Log: d.log, Dropped: d.metrics.DecisionDropped})
	return d
}

// Run loads the policy, brings it about, and works until ctx ends. Each value
// from hup reads the policy again. Run returns an error when the first policy
// can't be loaded or applied, a *PolicyError when its text is wrong; when another daemon has the
// state directory or the socket; and when the API would be served where it is not safe.
func (d *Daemon) Run(ctx context.Context, hup <-chan os.Signal) error {
	d.started = time.Now()
	if given := d.opts.Web.Listener; given != nil {
		defer given.Close()
	}
	if err := d.opts.Web.safe(); err != nil {
		return err
	}
	if d.opts.StateDir != "" && !d.opts.Observe {
		s, err := openStore(d.opts.StateDir)
		if err != nil {
			return err
		}
		d.store = s
		defer s.Close()
		if d.history, err = openHistory(d.opts.StateDir, d.log); err != nil {
			d.log.Warn("no history is kept", "error", err)
		}
		policyfile.Sweep(d.opts.StateDir)
		d.openSubscriptions()
		if err := process.EndLeft(ctx, trialDir(d.opts.StateDir)); err != nil {
			d.log.Warn("xray that tried a link not ended", "error", err)
		}
	}
	d.openTelemetry()
	server := d.server()
	var socket net.Listener
	if d.opts.Socket != "" {
		var err error
		if socket, err = api.Listen(d.opts.Socket, d.opts.SocketGroup); errors.Is(err, api.ErrInUse) {
			return err
		}
	}
	l, err := d.begin(ctx)
	if err != nil {
		if socket != nil {
			socket.Close()
		}
		return err
	}

	// Nothing of what runs beside the loop ends it: the policy in force is worth more than
	// any of them. What fails is tried again, or the log says what is missing.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	run := func(f func(context.Context)) { group.Go(func() { f(ctx) }) }
	if d.opts.Socket != "" {
		run(func(ctx context.Context) { d.serveSocket(ctx, server, socket) })
	}
	if d.opts.Web.wanted() {
		run(func(ctx context.Context) { d.serveWeb(ctx, server) })
	}
	run(d.alerts.Run)
	run(d.measure)
	run(d.transactions)
	run(func(ctx context.Context) { d.watch(ctx, hup) })
	for _, s := range d.parts.Sources {
		run(func(ctx context.Context) { d.observe(ctx, s) })
	}
	if d.subs != nil {
		run(func(ctx context.Context) {
			if err := d.subs.Run(ctx); err != nil && ctx.Err() == nil {
				d.log.Error("subscriptions are not fetched any more", "error", err)
			}
		})
	}
	if !d.opts.Observe {
		run(d.keepAlive)
		if d.parts.Drift != nil {
			run(d.watchDrift)
		}
	}
	// What the loop has decided is written down, whatever else ends.
	writing, written := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() { d.decisions.Run(writing) })
	endTape := d.startTape(l)
	d.notify("READY=1\nSTATUS=" + l.core.live.policy.File)
	err = l.run(ctx)
	d.tellByHand()
	endTape()
	written()
	d.notify("STOPPING=1")
	cancel()
	group.Wait()
	return errors.Join(err, d.stop(l))
}

// stop saves the state and removes what was made.
func (d *Daemon) stop(l *loop) error {
	err := l.saveNow()
	if d.opts.Clean == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if cleaned := d.opts.Clean(ctx); cleaned != nil {
		return errors.Join(err, fmt.Errorf("remove what was made: %w", cleaned))
	}
	return err
}

// begin loads the first policy and applies it: the file's, or one that still waits
// for its confirmation.
func (d *Daemon) begin(ctx context.Context) (*loop, error) {
	f := d.unfinished()
	if f != nil && f.resumable(d) {
		l, err := d.resumeChange(ctx, f)
		if err == nil {
			return l, nil
		}
		d.log.Error("change that waits for its confirmation can't be made again, it is taken back", "n", f.N, "error", err)
		f.Why = "it could not be made again after a restart: " + err.Error()
	}
	loaded, err := LoadPolicy(d.opts.Config, d.opts.StateDir)
	if err != nil {
		return nil, err
	}
	l, c, err := d.launch(ctx, loaded, f != nil)
	if err != nil {
		return nil, err
	}
	if f != nil {
		d.revertedAtStart(f, c)
	}
	d.live.Store(int64(d.record(c, "start", "start", d.history.last())))
	return l, nil
}

// launch applies the first policy, and reads the kernel's state back when asked to.
func (d *Daemon) launch(ctx context.Context, loaded load.Result, readBack bool) (*loop, *candidate, error) {
	p := loaded.Policy
	if p == nil {
		return nil, nil, &PolicyError{loaded.Diags, loaded.Sources}
	}
	b := base{plan: exported(d.parts.Previous), wall: time.Now()}
	var kernel Kernel
	if !d.opts.Observe {
		kernel = d.parts.Kernel
	}
	// The machine is resumed for the policy that is about to be applied, so that the
	// first plan is made for the world as it was left.
	health := p.Health()
	b.machine = d.resume(health, shortHash(p.Hash))
	b.live = live{health: health}
	var err error
	if b.usage, err = d.store.loadUsage(); err != nil {
		d.log.Warn("usage of quotas not read", "error", err)
	}
	c, err := prepare(ctx, d.opts.Config, d.opts.StateDir, &change{policy: p}, b, d.parts.Host, kernel)
	if err != nil {
		var r *rejection
		if errors.As(err, &r) {
			return nil, nil, &PolicyError{r.diags, loaded.Sources}
		}
		return nil, nil, err
	}
	c.diags, c.sources, c.loaded = loaded.Diags, loaded.Sources, loaded
	c.places = placesIn(p, c.sources)
	if kernel != nil {
		start := time.Now()
		err := kernel.Apply(ctx, c.plan)
		d.metrics.Apply("plan", time.Since(start), err)
		if err != nil {
			return nil, nil, fmt.Errorf("apply the plan: %w", err)
		}
		if readBack {
			c.found, c.looked = d.readBack(ctx, exported(c.plan))
		}
	}
	// A router without its rules is worse than one without a proxy.
	for _, g := range apiDiagnostics(d.checkXray(p), c.sources, false) {
		d.log.Error("route via xray is blocked", "code", g.Code, "file", g.File, "line", g.Line, "column", g.Column, "message", g.Message, "help", g.Help)
	}
	l := newLoop(d, c, b.machine)
	if b.usage != nil {
		if err := l.core.timed.usage.Decode(b.usage); err != nil {
			d.log.Warn("usage of quotas not used", "error", err)
		}
	}
	d.log.Info("policy applied", "file", p.File, "hash", shortHash(p.Hash), "rules", len(p.Rules), "mode", d.mode())
	d.warn(c)
	return l, c, nil
}

// resume returns the machine as the state file left it, or a new one.
func (d *Daemon) resume(health state.Config, hash string) state.Machine {
	file, err := d.store.loadState()
	if err != nil {
		d.log.Warn("state file not read", "error", err)
	}
	if file == nil {
		return state.New(health)
	}
	m, resumed, err := state.Resume(health, file, d.parts.Boot, hash, d.parts.Now())
	if err != nil {
		d.log.Warn("state file not used", "error", err)
		return m
	}
	d.log.Info("state file read", "fresh", resumed.Fresh, "why", resumed.Why)
	return m
}

// warn logs what a policy asks for and does not get, and what was found in it.
func (d *Daemon) warn(c *candidate) {
	if counts := len(c.policy.Quotas) > 0 || c.prog.Reads(rules.FieldConnBytes); counts && d.parts.Accounting != nil && !d.parts.Accounting() {
		d.log.Warn("the kernel does not count bytes: quotas and conn.bytes stay at nothing", "sysctl", "net.netfilter.nf_conntrack_acct=1")
	}
	if sees := d.parts.Programs; sees != nil && !sees() && (c.prog.Reads(rules.FieldProcess) || c.prog.Reads(rules.FieldProcessPath)) {
		d.log.Warn("programs of other users can't be seen: rules on process do not hold for them", "missing", "CAP_SYS_PTRACE")
	}
	d.logFindings(slices.Concat(c.diags, c.hints), c.sources)
}

func (d *Daemon) mode() string {
	if d.opts.Observe {
		return "observe"
	}
	return "enforce"
}

func (d *Daemon) notify(assignments string) {
	if err := d.opts.Notifier.Send(assignments); err != nil {
		d.log.Warn("service manager not told", "error", err)
	}
}

// observe runs one source, and again when it ends, with a growing pause. While
// it does not run, status says why.
func (d *Daemon) observe(ctx context.Context, s inspector.Source) {
	d.keepRunning(ctx, s.Name(), "source not in use", func(ctx context.Context) error { return s.Run(ctx, d.offer) })
}

func (d *Daemon) setSource(name, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.sources, func(s api.Source) bool { return s.Name == name })
	if i < 0 {
		d.sources = append(d.sources, api.Source{})
		i = len(d.sources) - 1
	}
	d.sources[i] = api.Source{Name: name, Error: why}
	slices.SortFunc(d.sources, func(a, b api.Source) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}

// offer puts an event into its queue without ever blocking.
func (d *Daemon) offer(e inspector.Event) {
	d.metrics.Event(e.Source)
	if e.Kind != inspector.Answered {
		select {
		case d.events <- e:
		default:
			d.metrics.Drop("events", 1)
		}
		return
	}
	for {
		select {
		case d.answers <- e:
			return
		default:
		}
		select {
		case <-d.answers:
			d.metrics.Drop("answers", 1)
		default:
		}
	}
}

// keepAlive tells systemd each half watchdog time that the loop goes round. The
// kernel's own guard is refreshed by the loop's jobs.
func (d *Daemon) keepAlive(ctx context.Context) {
	every := d.opts.Notifier.Watchdog()
	if every == 0 {
		return
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if d.parts.Now()-time.Duration(d.beat.Load()) < 2*every {
				d.notify("WATCHDOG=1")
			}
		}
	}
}

// exported returns the parts of a plan that goroutines other than its owner may read.
func exported(p *actions.Plan) *actions.Plan {
	if p == nil {
		return nil
	}
	return &actions.Plan{
		PolicyHash: p.PolicyHash, MarkMask: p.MarkMask, CTMask: p.CTMask, IDs: p.IDs,
		IPRoutes: p.IPRoutes, IPRules: p.IPRules, TC: p.TC, Consult: p.Consult, Hello: p.Hello, Table: p.Table,
	}
}

// writeGauges writes what follows from the present state, at each scrape.
func (d *Daemon) writeGauges(w io.Writer) {
	s := d.snap.Load()
	if s == nil {
		return
	}
	for _, st := range []state.State{state.Normal, state.Degraded, state.Failover, state.Recovery} {
		fmt.Fprintf(w, "netpolicy_state{state=%q} %d\n", st, toInt(s.machine.Host().State == st))
	}
	for _, u := range s.machine.Status(s.live.health) {
		fmt.Fprintf(w, "netpolicy_uplink_up{uplink=%q} %d\n", u.Name, toInt(u.Up && u.State != state.Failover))
		fmt.Fprintf(w, "netpolicy_uplink_state{uplink=%q,state=%q} 1\n", u.Name, u.State)
		fmt.Fprintf(w, "netpolicy_uplink_share_ratio{uplink=%q} %g\n", u.Name, float64(u.Share)/100)
		if u.RTT >= 0 {
			fmt.Fprintf(w, "netpolicy_uplink_rtt_seconds{uplink=%q} %g\n", u.Name, u.RTT.Seconds())
		}
		if u.Loss >= 0 {
			fmt.Fprintf(w, "netpolicy_uplink_loss_ratio{uplink=%q} %g\n", u.Name, float64(u.Loss)/1e6)
		}
		if u.ErrorRate >= 0 {
			fmt.Fprintf(w, "netpolicy_uplink_error_ratio{uplink=%q} %g\n", u.Name, float64(u.ErrorRate)/1e6)
		}
	}
	d.sourceGauges(w)
	d.relayGauges(w)
	d.dnsGauges(w)
	d.xrayGauges(w)
	fmt.Fprintf(w, "netpolicy_consult_packets_total %d\nnetpolicy_consult_missed_total %d\n", d.questions.Packets.Load(), d.questions.Missed.Load())
	fmt.Fprintf(w, "netpolicy_hello_packets_total %d\nnetpolicy_hello_missed_total %d\nnetpolicy_hello_late_total %d\n",
		d.hellos.Packets.Load(), d.hellos.Missed.Load()+d.held.Full.Load(), d.held.Late.Load())
	fmt.Fprintf(w, "netpolicy_decision_log_bytes %d\n", d.decisions.Bytes())
	fmt.Fprintf(w, "netpolicy_flows %d\nnetpolicy_dns_addresses %d\nnetpolicy_enforced %d\n", s.flows, s.names, toInt(s.broken == "" && !d.opts.Observe))
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ownAddrs are the host's addresses.
func ownAddrs(h *actions.Host) map[netip.Addr]bool {
	own := map[netip.Addr]bool{}
	for _, l := range h.Links {
		for _, a := range l.Addrs {
			own[a.Addr().Unmap().WithZone("")] = true
		}
	}
	return own
}
