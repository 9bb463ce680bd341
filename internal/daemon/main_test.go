package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/internal/leaktest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/state"
)

func TestMain(m *testing.M) {
	if beClients() {
		return
	}
	os.Exit(leaktest.Run(m))
}

// zoomPolicy has two lines, a group over them, and rules by name and address.
const zoomPolicy = `
version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1, probe: {kind: icmp, targets: [1.1.1.1], every: 1s}}
  wan2: {dev: eth2, gateway: 198.51.100.1, probe: {kind: icmp, targets: [9.9.9.9], every: 1s}}
routes:
  direct: {via: main}
  fast: {via: uplink wan1}
  backup: {via: uplink wan2}
groups:
  ha: {fallback: [fast, backup]}
default: {route: direct}
rules:
  - {name: bad, priority: 200, match: {sni: bad.example}, action: {block: true, log: true}}
  - {name: zoom, priority: 100, match: {sni: .zoom.us}, action: {route: ha, log: true}}
  - {name: pinned, priority: 90, match: {port: 22}, action: {route: fast}}
  - {name: game, priority: 80, match: {process: game}, action: {block: reject}}
`

func mustLoad(t testing.TB, text string) *rules.Policy {
	t.Helper()
	p, diags := yaml.Load("policy.yaml", []byte(text))
	if p == nil {
		t.Fatalf("policy: %v", diags)
	}
	return p
}

var testHost = actions.Host{
	Links: []actions.Link{
		{Name: "eth0", Index: 2, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}},
		{Name: "eth1", Index: 3, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}},
		{Name: "eth2", Index: 4, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}},
	},
}

// fakeHost is a Host, a Kernel and Connections that remember what they were told.
type fakeHost struct {
	mu      sync.Mutex
	host    actions.Host
	applied []*actions.Plan
	updates []string
	marks   []string
	forgot  []Connection
	changed func() // tells that the host changed; set while Watch runs
	fail    error  // what Apply answers
	once    error  // likewise, once: eth1 goes down then
	lost    error  // what Update answers
	// unmarked is what SetMark answers.
	unmarked error
	gate     chan struct{}
}

func (h *fakeHost) ReadHost(context.Context) (*actions.Host, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.host
	c.Links = slices.Clone(c.Links)
	return &c, nil
}

func (h *fakeHost) Watch(ctx context.Context, changed func()) error {
	h.mu.Lock()
	h.changed = changed
	h.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (h *fakeHost) Check(context.Context, *actions.Plan) error { return nil }

func (h *fakeHost) Apply(_ context.Context, p *actions.Plan) error {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	if err := h.once; err != nil {
		h.once, h.host.Links = nil, slices.Clone(h.host.Links)
		h.host.Links[1].Up = false
		return err
	}
	h.applied, h.lost = append(h.applied, p), nil
	return nil
}

func (h *fakeHost) Update(_ context.Context, list []actions.Update) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, u := range list {
		h.updates = append(h.updates, u.String())
	}
	return h.lost
}

func (h *fakeHost) SetMark(_ context.Context, c Connection, value, mask uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks = append(h.marks, c.Dst.String())
	return h.unmarked
}

func (h *fakeHost) Forget(_ context.Context, list []Connection) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgot = append(h.forgot, list...)
	return nil
}

// fakeSource hands on the events of a test.
type fakeSource struct{ events chan inspector.Event }

func (s fakeSource) Name() string { return "mock" }

func (s fakeSource) Losses() map[string]uint64 { return map[string]uint64{"room": 7, "kernel": 0} }

func (s fakeSource) Run(ctx context.Context, emit func(inspector.Event)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.events:
			emit(e)
		}
	}
}

// rig is a daemon on fakes, in a directory of its own.
type rig struct {
	*Daemon
	t      testing.TB
	host   *fakeHost
	events chan inspector.Event
	rounds chan state.Round
	hup    chan os.Signal
	path   string
	log    *logBuffer
	stop   func() error
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a daemon on the policy text and waits until it works. It watches no file, so that
// a reload is the test's own, unless the test sets WatchFile.
func start(t testing.TB, text string, set func(*Options, *Parts)) *rig {
	t.Helper()
	r := &rig{
		t: t, host: &fakeHost{host: testHost}, events: make(chan inspector.Event), rounds: make(chan state.Round),
		hup: make(chan os.Signal), path: filepath.Join(t.TempDir(), "policy.yaml"), log: &logBuffer{},
	}
	r.write(text)
	epoch := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	opts := Options{Config: r.path, Version: "test", Log: slog.New(slog.NewJSONHandler(r.log, nil))}
	parts := Parts{
		Host: r.host, Kernel: r.host, Connections: r.host,
		Sources: []inspector.Source{fakeSource{r.events}},
		Probe: func(ctx context.Context, _ *rules.Policy, _ *actions.Plan, now func() time.Duration, emit func(state.Round)) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case round := <-r.rounds:
					round.At = now()
					emit(round)
				}
			}
		},
		WatchFile: func(ctx context.Context, _ string, _ func()) error { <-ctx.Done(); return nil },
		Now:       func() time.Duration { return time.Since(epoch) }, // goes on over restarts
		Boot:      "boot",
	}
	if set != nil {
		set(&opts, &parts)
	}
	r.Daemon = New(opts, parts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, r.hup) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := r.stop(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	// The loop answers when it runs; before that the call waits in its queue.
	if err := r.call(t.Context(), func(*loop) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) write(text string) {
	r.t.Helper()
	if err := durable.Replace(r.path, []byte(text)); err != nil {
		r.t.Fatal(err)
	}
}

// sync waits until the loop and the kernel worker have done what there was to do.
func (r *rig) sync() {
	r.t.Helper()
	for {
		var idle bool
		err := r.call(r.t.Context(), func(l *loop) error {
			idle = !l.busy && len(l.d.events) == 0 && len(l.d.answers) == 0 && len(l.d.rounds) == 0 &&
				l.pending.empty() && l.core.live.world == l.applied && len(l.core.dirty) == 0 && !l.core.waits()
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
		if (idle || r.opts.Observe) && r.decisions.Idle() {
			return
		}
	}
}

// send gives an event to the daemon, and waits until it was dealt with.
func (r *rig) send(e inspector.Event) {
	r.t.Helper()
	r.events <- e
	// The source has it; it is in the queue when the next send succeeds.
	r.events <- inspector.Event{Kind: inspector.Close}
	r.sync()
}

// round gives a finished probe round to the daemon.
func (r *rig) round(uplink int, probes ...state.Answer) {
	r.t.Helper()
	r.rounds <- state.Round{Uplink: uplink, Probes: probes}
	r.rounds <- state.Round{Uplink: -1}
	r.sync()
}

// newTestCore returns a core on the policy without a daemon around it.
func newTestCore(t testing.TB, text string) (*core, *actions.Plan) {
	t.Helper()
	p := mustLoad(t, text)
	health := p.Health()
	m := state.New(health)
	w := m.World(health)
	prog := engine.Compile(p)
	plan, diags := actions.PlanFor(prog, testHost, &w, nil)
	if plan == nil {
		t.Fatal(diags)
	}
	c := newCore(live{policy: p, prog: prog, health: health, world: &w, marks: marksOf(plan, p)}.count(), m, false, "boot")
	c.own = ownAddrs(&testHost)
	return c, plan
}
