package tunnels

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/state"
	"netpolicy.dev/netpolicy/xray/api"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/process"
)

// lookEvery is how often Xray is asked what it has measured.
const lookEvery = time.Second

// Options say what runs.
type Options struct {
	Binary  string // the path of Xray; "" is looked for in PATH
	Dir     string // of ours alone; the log is there
	Source  Source
	UID     uint32 // whom Xray runs as; zero is as whom we run
	GID     uint32
	Log     *slog.Logger
	Leave   func() bool     // asked when Run ends: true leaves Xray to a next start; nil ends it
	Changed func(Health)    // called when the health of a route changed; it must not block
	Output  *process.Output // what Xray prints into; nil makes one
	Probe   string          // what is fetched through each proxy; "" measures nothing
	Every   time.Duration   // how often
}

// Route is a route via xray.
type Route struct {
	Name    string
	Profile string // the name after `via xray`
	Mark    uint32 // of what Xray sends to the proxy
}

// Health is what is known of routes, by name: False is a dead tunnel, Unset one that
// was not measured yet. Delays are there for those that live.
type Health struct {
	Alive  map[string]state.Truth
	Delays map[string]time.Duration
}

// Dead is the health of routes that nothing carries.
func Dead(routes []Route) Health {
	h := Health{Alive: map[string]state.Truth{}, Delays: map[string]time.Duration{}}
	for _, r := range routes {
		h.Alive[r.Name] = state.False
	}
	return h
}

// Tunnels keeps the Xray of a policy's routes. Its methods can be called at any time
// and from anywhere; New makes one, and Run does the work.
type Tunnels struct {
	o       Options
	xray    *process.Supervisor
	servers atomic.Pointer[map[string]Server]
	up      atomic.Bool // an Xray answers
	wake    chan struct{}

	mu       sync.Mutex
	wanted   []Route
	groups   []group // of the configuration that was applied last
	health   Health
	version  string // of Xray
	problem  string // why what is wanted does not run
	problems []string
	applied  []byte    // the configuration
	retry    time.Time // when to try again what does not run; zero is not

	// Run's goroutine owns what follows.
	last   map[string]Choice // what each name stood for when it was brought about last
	bad    refusals
	asked  asked
	client *api.Client
}

// Server is a SOCKS server of Xray, which serves nobody but us.
type Server struct {
	At             netip.AddrPort
	User, Password string
}

// group is a route as it runs.
type group struct {
	Route
	server  Server
	members []member
	chosen  string // the tag that the user prefers; "" leaves it to the measurements
	current string // the tag that is used
	told    string // what Xray was told to use
}

// member is a proxy that a route can use.
type member struct {
	tag, name, address string
	seen               bool // was measured
	alive              bool
	delay              time.Duration
}

// New returns Tunnels that carry nothing yet.
func New(o Options) *Tunnels {
	t := &Tunnels{o: o, wake: make(chan struct{}, 1), last: map[string]Choice{}, bad: refusals{}, client: api.NewUnix(process.Socket(o.Dir))}
	t.xray = process.New(process.Options{
		Binary: o.Binary, Dir: o.Dir, LogFile: logFile(o.Dir), UID: o.UID, GID: o.GID, Leave: o.Leave, Ready: t.ready, Output: o.Output,
		Gone: t.gone,
	})
	return t
}

// Want says which routes are to be carried from now on. It waits for nothing.
func (t *Tunnels) Want(routes []Route) {
	t.mu.Lock()
	same := slices.Equal(t.wanted, routes)
	t.wanted = slices.Clone(routes)
	t.mu.Unlock()
	if !same {
		t.report(t.up.Load()) // it may take a minute until an Xray is ready, or hangs
		t.poke()
	}
}

func (t *Tunnels) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Server returns the SOCKS server of a route, false while there is none: while Xray is
// down any user of this host can listen on its ports. It waits for nothing.
func (t *Tunnels) Server(route string) (Server, bool) {
	m := t.servers.Load()
	if m == nil || !t.up.Load() {
		return Server{}, false
	}
	s, ok := (*m)[route]
	return s, ok
}

// Start takes back a Stop.
func (t *Tunnels) Start(ctx context.Context) error {
	err := t.xray.Start(ctx)
	if errors.Is(err, process.ErrNoConfig) { // it starts with the first
		t.poke()
		return nil
	}
	return err
}

// Stop ends Xray until Start.
func (t *Tunnels) Stop(ctx context.Context) error { return t.xray.Stop(ctx) }

// Restart starts Xray anew.
func (t *Tunnels) Restart(ctx context.Context) error { return t.xray.Restart(ctx) }

// Log returns the last lines that Xray has printed, without secrets.
func (t *Tunnels) Log() []string { return t.xray.Log() }

// Run does the work until ctx ends.
func (t *Tunnels) Run(ctx context.Context) error {
	p, err := openPorts(t.o.Dir)
	if err != nil {
		return err
	}
	defer p.close()
	defer t.client.Close()
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	group.Go(func() {
		if err := t.xray.Run(ctx); err != nil {
			failed <- err
			cancel() // who asks it for something waits for nobody
		}
	})
	group.Go(func() { t.o.Source.Watch(ctx, t.poke) })
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			group.Wait()
			select {
			case err := <-failed:
				return err
			default:
				return nil
			}
		case <-t.wake:
			t.bring(ctx, p)
		case <-look.C:
			t.look(ctx, p)
		}
	}
}

// ready is called with each Xray that begins to answer: it knows nothing of what the
// one before was told.
func (t *Tunnels) ready(ctx context.Context, client *api.Client) {
	t.mu.Lock()
	for i := range t.groups {
		t.groups[i].told = ""
		for k := range t.groups[i].members {
			t.groups[i].members[k].seen = false
		}
	}
	t.mu.Unlock()
	t.up.Store(true)
	t.steer(ctx, client)
}

// gone is called when an Xray has ended; it can take a while until another one is ready.
func (t *Tunnels) gone() {
	t.up.Store(false)
	t.report(false)
}

// look asks Xray what it has measured, and what follows from that.
func (t *Tunnels) look(ctx context.Context, p *ports) {
	st := t.xray.Status()
	if st.PortUsed && st.State != process.Running {
		// Somebody else has one of the ports: others are taken.
		p.forget()
		t.poke()
	}
	t.mu.Lock()
	if !t.retry.IsZero() && time.Now().After(t.retry) {
		t.poke()
	}
	t.mu.Unlock()
	if st.State == process.Running {
		ask, cancel := context.WithTimeout(ctx, askWithin)
		defer cancel()
		if t.o.Probe != "" {
			list, err := t.client.Observatory(ask)
			if err == nil {
				t.observe(list)
			}
		}
		t.report(true) // groups go first
		t.steer(ask, t.client)
	}
	t.report(st.State == process.Running)
}

// askWithin bounds how long the API may take for an answer.
const askWithin = 5 * time.Second

func (t *Tunnels) observe(list []api.Observed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.groups {
		for k := range t.groups[i].members {
			m := &t.groups[i].members[k]
			if j := slices.IndexFunc(list, func(o api.Observed) bool { return o.Tag == m.tag }); j >= 0 {
				m.seen, m.alive, m.delay = true, list[j].Alive, list[j].Delay
			}
		}
	}
}

// choose returns the tag of the member to use: the user's choice as long as it lives,
// else the one in use as long as that does, else the fastest of the living, else the
// first of which nothing is known.
func (g *group) choose() string {
	usable := func(tag string) bool {
		return slices.ContainsFunc(g.members, func(m member) bool { return m.tag == tag && (m.alive || !m.seen) })
	}
	if usable(g.chosen) {
		return g.chosen
	}
	if usable(g.current) {
		return g.current
	}
	best := -1
	for i, m := range g.members {
		if m.seen && m.alive && (best < 0 || m.delay < g.members[best].delay) {
			best = i
		}
	}
	for i, m := range g.members {
		if best < 0 && !m.seen {
			best = i
		}
	}
	switch {
	case best >= 0:
		return g.members[best].tag
	case slices.ContainsFunc(g.members, func(m member) bool { return m.tag == g.current }):
		return g.current
	case len(g.members) > 0:
		return g.members[0].tag
	default:
		return ""
	}
}

// steer tells Xray which member each route uses, where that changed.
func (t *Tunnels) steer(ctx context.Context, client *api.Client) {
	type order struct{ balancer, tag, route string }
	var orders []order
	t.mu.Lock()
	for i := range t.groups {
		g := &t.groups[i]
		if g.current = g.choose(); g.current != g.told && g.current != "" {
			orders = append(orders, order{"grp-" + slug(g.Name), g.current, g.Name})
		}
	}
	t.mu.Unlock()
	for _, o := range orders {
		err := client.Override(ctx, o.balancer, o.tag)
		if err != nil {
			t.o.Log.Warn("xray not told which proxy to use", "route", o.route, "error", err)
			continue
		}
		t.o.Log.Info("route goes through another proxy", "route", o.route, "proxy", o.tag)
		t.mu.Lock()
		for i := range t.groups {
			if t.groups[i].Name == o.route {
				t.groups[i].told = o.tag
			}
		}
		t.mu.Unlock()
	}
}

// report tells of the health of routes where it changed.
func (t *Tunnels) report(running bool) {
	t.mu.Lock()
	h := Dead(t.wanted) // those that are not in the configuration, too
	for i := range t.groups {
		g := &t.groups[i]
		if !running || len(g.members) == 0 {
			continue
		}
		h.Alive[g.Name] = state.Unset
		dead := true
		for _, m := range g.members {
			dead = dead && m.seen && !m.alive
			if m.tag == g.current && m.seen && m.alive {
				h.Alive[g.Name], h.Delays[g.Name] = state.True, m.delay
			}
		}
		if dead {
			h.Alive[g.Name] = state.False
		}
	}
	same := sameHealth(t.health, h)
	t.health = h
	t.mu.Unlock()
	if !same && t.o.Changed != nil {
		t.o.Changed(h)
	}
}

// sameHealth compares what decisions depend on.
func sameHealth(a, b Health) bool {
	if len(a.Alive) != len(b.Alive) || len(a.Delays) != len(b.Delays) {
		return false
	}
	for name, v := range b.Alive {
		if old, ok := a.Alive[name]; !ok || old != v || a.Delays[name] != b.Delays[name] {
			return false
		}
	}
	return true
}

// asked is what a program said of itself.
type asked struct {
	size    int64
	changed time.Time
	version config.Version
}

// ask finds out which Xray there is, and once only as long as the file is the same.
func (t *Tunnels) ask(ctx context.Context) (config.Version, error) {
	info, err := os.Stat(t.o.Binary)
	if err != nil {
		return 0, err
	}
	if a := t.asked; a.size == info.Size() && a.changed.Equal(info.ModTime()) {
		return a.version, nil
	}
	version, err := process.Version(ctx, t.o.Binary)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	t.version = version
	t.mu.Unlock()
	v, ok := config.ParseVersion(version)
	if !ok {
		return 0, fmt.Errorf("the rules of Xray %s are not known here; those of 26.3 and 26.7 are", version)
	}
	clear(t.bad) // another may take it
	t.asked = asked{info.Size(), info.ModTime(), v}
	return v, nil
}
