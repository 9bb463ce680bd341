package daemon

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/sockmark"
	"netpolicy.dev/netpolicy/internal/socks"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/resolver"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// relayName is the source of what goes through the relay, in records, status and metrics.
const relayName = "relay"

// relay runs the relay that the policy and the plan in force ask for, and no other;
// connections through one that stops end. It is the loop's to call.
func (l *loop) relay(ctx context.Context) {
	cfg := l.relayConfig()
	if len(cfg.Inbounds) == 0 || l.d.opts.Observe {
		l.stop(&l.relayed)
		return
	}
	if !actions.RelaySees(l.core.live.prog) {
		l.stop(&l.relayed)
		l.d.setSource(relayName, "not with rules on iface_in, src_mac, dscp or mark, which the relay does not see")
		return
	}
	inbounds := cfg.Inbounds
	cfg.Inbounds = nil // those that change are opened and closed in the relay that runs
	l.become(ctx, &l.relayed, cfg, func(ctx context.Context) {
		changes := make(chan []relay.Inbound, 1)
		l.inbounds = changes
		l.relayed.done.Go(func() { l.d.runRelay(ctx, cfg, changes) })
	})
	select { // the newest counts
	case <-l.inbounds:
	default:
	}
	l.inbounds <- inbounds
}

// relayConfig is what the policy in force asks of the relay.
func (l *loop) relayConfig() (cfg relay.Config) {
	for _, at := range l.core.live.policy.Daemon.Relay.Listen {
		cfg.Inbounds = append(cfg.Inbounds, relay.Inbound{Kind: relay.Mixed, Listen: at})
	}
	if p := l.plan.Relay; p != (actions.Relay{}) {
		for _, at := range p.Loopback() {
			cfg.Inbounds = append(cfg.Inbounds, relay.Inbound{Kind: relay.TProxy, Listen: at})
		}
	}
	cfg.Mark = l.plan.Bypass()
	return cfg
}

// runRelay serves until ctx ends, and again when that ends, with a growing pause;
// meanwhile the kernel's table decides. Status says why.
func (d *Daemon) runRelay(ctx context.Context, cfg relay.Config, inbounds <-chan []relay.Inbound) {
	health := newDials(d)
	cfg.Decider, cfg.Reporter, cfg.Resolver = &decider{d: d}, health, &lookups{d, cfg.Mark}
	var reports sync.WaitGroup
	reports.Go(func() { health.report(ctx) })
	defer reports.Wait()
	var list []relay.Inbound
	d.keepRunning(ctx, relayName, "nothing goes through the relay", func(ctx context.Context) error {
		r, err := relay.New(cfg)
		if err != nil {
			return err
		}
		d.relay.Store(r)
		defer d.relay.Store(nil)
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		list, err = d.reopen(r, list, inbounds, ended)
		return err
	})
}

// reopen gives a running relay the inbounds that are asked for, first those of list,
// until it ends, and returns the last and why it has ended. What can't be opened is tried
// again, with a growing pause, while everything else goes on; status and log say why.
func (d *Daemon) reopen(r *relay.Relay, list []relay.Inbound, changes <-chan []relay.Inbound, ended <-chan error) ([]relay.Inbound, error) {
	pause, told := time.Second, ""
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case err := <-ended:
			return list, err
		case list = <-changes:
			pause = time.Second
		case <-again.C:
		}
		again.Stop()
		err := r.Reopen(list)
		if err == nil {
			d.setSource(relayName, "")
			told = ""
			continue
		}
		d.setSource(relayName, err.Error())
		if told != err.Error() {
			d.log.Warn("an inbound of the relay is not open", "error", err)
			told = err.Error()
		}
		again.Reset(pause)
		pause = min(2*pause, time.Minute)
	}
}

// decider decides what goes through the relay, by the newest snapshot. It waits
// for nobody.
type decider struct{ d *Daemon }

// Decide implements relay.Decider.
func (x *decider) Decide(a *relay.Ask, v *relay.Verdict) {
	s := x.d.snap.Load()
	if s == nil || s.plan == nil {
		v.Do = relay.Drop
		return
	}
	f := *a.Flow
	if inside(&f, s.host) {
		v.Do = relay.Reject
		return
	}
	x.describe(&f, time.Now())
	world := s.live.world
	if len(a.Failed) > 0 {
		world = without(s.live.policy, world, a.Failed)
	}
	var d engine.Decision
	s.live.prog.DecideInto(&d, &f, world)
	p := s.live.policy
	v.Sniff = !a.Sniffed && d.Pending&actions.FirstFacts != 0
	switch {
	case d.Blocked() && d.Reject:
		v.Do = relay.Reject
		return
	case d.Blocked():
		v.Do = relay.Drop
		return
	}
	if src, _ := f.Src.Get(); !x.way(&v.Way, s, d.Route) || v.Way.Server.Addr() == src && src.IsValid() && !src.IsLoopback() {
		v.Do = relay.Reject // no way, or the SOCKS server's own connections, which would come back to it
		return
	}
	if t, ok := d.Mods.Throttle.Get(); ok {
		v.Throttle = throttleOf(&p.Throttles[t])
	}
	hangs := v.Way.Server.IsValid() && hangsOnAddress(s, &f, world)
	if v.Way.Server.IsValid() {
		v.Way.SendName = !hangs || !a.Resolved && namedByDNS(&f)
	}
	if f.Dst.Unknown() && !a.Resolved && (hangs || !v.Way.Server.IsValid()) {
		v.Do = relay.Resolve
	}
}

// hangsOnAddress reports whether another address would be another decision. A SOCKS
// server that is given the name finds the address itself, and may find that one.
func hangsOnAddress(s *snapshot, f *flow.Flow, w *state.World) bool {
	any := *f
	any.Dst = flow.Value[netip.Addr]{}
	d := s.live.prog.Decide(&any, w)
	return d.Pending.Has(rules.FieldDstIP)
}

// namedByDNS reports whether DNS answers gave the flow's address the name that its
// first bytes say.
func namedByDNS(f *flow.Flow) bool {
	for _, v := range []flow.Value[string]{f.SNI, f.HTTPHost} {
		if name, ok := v.Get(); ok {
			for n := range f.DNS.All() {
				if n == name {
					return true
				}
			}
		}
	}
	return false
}

// inside reports whether somebody else asks for what only this host itself may
// reach: its loopback, its links' own addresses, and what it listens on.
func inside(f *flow.Flow, h *actions.Host) bool {
	dst, known := f.Dst.Get()
	if src, _ := f.Src.Get(); !known || src.Unmap().IsLoopback() {
		return false
	}
	dst = dst.Unmap().WithZone("")
	return dst.IsLoopback() || dst.IsUnspecified() || dst.IsLinkLocalUnicast() || dst.IsMulticast() || h != nil && ownAddrs(h)[dst]
}

// describe completes what is known of a relayed connection: what nobody will learn
// of it is absent.
func (x *decider) describe(f *flow.Flow, now time.Time) {
	if dst, known := f.Dst.Get(); known {
		f.DNS = x.d.hints.names(dst, now)
	}
	absent := flow.Absent[string]()
	for _, v := range []*flow.Value[string]{&f.Process, &f.ProcessPath, &f.Cgroup, &f.User, &f.Group} {
		if v.Unknown() {
			*v = absent
		}
	}
}

// without is the world with the lines of the given routes down.
func without(p *rules.Policy, w *state.World, routes []string) *state.World {
	other := *w
	other.Uplinks = slices.Clone(w.Uplinks)
	for i := range p.Routes {
		if !slices.Contains(routes, p.Routes[i].Name) {
			continue
		}
		if p.Routes[i].Kind == rules.RouteOther { // the proxy, which says nothing of the line
			if len(other.Alive) != len(p.Routes) {
				other.Alive = make([]state.Truth, len(p.Routes))
			} else if &other.Alive[0] == &w.Alive[0] {
				other.Alive = slices.Clone(w.Alive)
			}
			other.Alive[i] = state.False
			continue
		}
		if u := uplinkOf(p, i); u >= 0 && u < len(other.Uplinks) {
			other.Uplinks[u].Up = false
		}
	}
	return &other
}

// way fills in how to dial for a concrete route; -1 is the host's own routing.
func (x *decider) way(to *relay.Way, s *snapshot, route int) bool {
	to.Uplink = -1
	if route < 0 {
		return true
	}
	p := s.live.policy
	r := &p.Routes[route]
	to.Route, to.Uplink = r.Name, uplinkOf(p, route)
	if _, ok := r.Xray(); ok { // a server on this host, which marks what it sends itself
		to.SendName = true
		server, ok := x.d.proxyServer(r.Name)
		to.Server, to.User, to.Password = server.At, server.User, server.Password
		return ok
	}
	if server, ok := strings.CutPrefix(r.Other, "socks "); ok && r.Kind == rules.RouteOther {
		at, err := netip.ParseAddrPort(server)
		if err != nil {
			return false
		}
		to.Server = at
		if to.Uplink >= 0 {
			var ok bool
			to.Mark, ok = s.plan.UplinkMark(p.Uplinks[to.Uplink].Name)
			return ok
		}
		return true
	}
	mark, ok := s.plan.RouteMark(p, route)
	to.Mark = mark
	return ok
}

func throttleOf(t *rules.Throttle) relay.Throttle {
	per := map[string]relay.Per{"host": relay.PerHost, "conn": relay.PerConn}[t.Per]
	return relay.Throttle{Name: t.Name, Up: t.Up / 8, Down: t.Down / 8, Burst: t.Burst, Per: per} // a policy counts bits
}

// relayedFlow is what the relay knows of a connection.
func relayedFlow(c *relay.Conn) (f flow.Flow) {
	f.Proto, f.Src, f.SrcPort, f.DstPort = flow.Some(c.Proto), flow.Some(c.Src.Addr()), flow.Some(c.Src.Port()), flow.Some(c.Dst.Port())
	if c.Dst.Addr().IsValid() {
		f.Dst = flow.Some(c.Dst.Addr())
	}
	if f.SNI = flow.Absent[string](); c.Name != "" {
		f.SNI = flow.Name(c.Name)
	}
	f.HTTPHost = flow.Absent[string]()
	return f
}

// leave ends the relay's connections over uplinks that have died, if they would be
// given another one now: their clients come again, and need not wait for it.
func (l *loop) leave(died []int) {
	r := l.d.relay.Load()
	if len(died) == 0 || r == nil || !l.relayed.runs() {
		return
	}
	l.relayed.done.Go(func() {
		n := 0
		for _, c := range r.Conns() {
			if slices.Contains(died, c.Uplink) && l.d.elsewhere(&c) && r.Kill(c.ID) {
				n++
			}
		}
		l.d.log.Info("connections of a dead uplink ended in the relay", "count", n)
	})
}

// recheck ends the relay's connections that the policy blocks now.
func (l *loop) recheck() {
	r := l.d.relay.Load()
	if r == nil || !l.relayed.runs() {
		return
	}
	l.relayed.done.Go(func() {
		for _, c := range r.Conns() {
			f := relayedFlow(&c)
			var v relay.Verdict
			(&decider{d: l.d}).Decide(&relay.Ask{Flow: &f, Sniffed: true, Resolved: true}, &v)
			if v.Do == relay.Drop || v.Do == relay.Reject {
				r.Kill(c.ID)
			}
		}
	})
}

// elsewhere reports whether a connection like this one would go over another
// uplink now.
func (d *Daemon) elsewhere(c *relay.Conn) bool {
	f := relayedFlow(c)
	var v relay.Verdict
	(&decider{d: d}).Decide(&relay.Ask{Flow: &f, Sniffed: true, Resolved: true}, &v)
	return v.Do == relay.Dial && v.Way.Uplink != c.Uplink
}

// relayGauges writes what the relay counts, while there is one.
func (d *Daemon) relayGauges(w io.Writer) {
	r := d.relay.Load()
	if r == nil {
		return
	}
	s := r.Stats()
	fmt.Fprintf(w, "netpolicy_relay_connections %d\nnetpolicy_relay_connections_limit %d\n", s.Conns, s.Limit)
	fmt.Fprintf(w, "netpolicy_relay_refused_total{why=%q} %d\n", "full", s.Full)
	fmt.Fprintf(w, "netpolicy_relay_refused_total{why=%q} %d\n", "loop", s.Self)
	fmt.Fprintf(w, "netpolicy_relay_sessions_displaced_total %d\n", s.Displaced)
	fmt.Fprintf(w, "netpolicy_relay_datagrams_dropped_total %d\n", s.Dropped)
}

// lookups resolves names for the relay: by the policy's own forwarder while there is
// one, else by this host's resolvers. Either way the question leaves as the connection
// will, by its mark or through its server.
type lookups struct {
	d      *Daemon
	bypass uint32
}

// Resolve implements relay.Resolver.
func (x *lookups) Resolve(ctx context.Context, client netip.Addr, name string, way *relay.Way) ([]netip.Addr, error) {
	name, err := flow.CanonicalName(name)
	if err != nil {
		return nil, err
	}
	route := resolver.Route{Mark: cmp.Or(way.Mark, x.bypass), Server: way.Server}
	if r, s := x.d.forwarder.Load(), x.d.snap.Load(); r != nil && s != nil {
		upstreams := s.live.policy.Daemon.DNS.UpstreamsFor(name)
		return r.Lookup(ctx, client, name, resolver.Choice{Upstreams: upstreams, Route: route})
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialResolver(ctx, network, address, &route)
	}}
	return r.LookupNetIP(ctx, "ip", name)
}

// dialResolver connects to one of this host's resolvers. One in a private network is
// another one, or nobody, behind a SOCKS server; or the server, which may be this
// host, asks it, and the question leaves by another line.
func dialResolver(ctx context.Context, network, address string, route *resolver.Route) (net.Conn, error) {
	d := net.Dialer{Control: sockmark.Control(route.Mark, "")}
	if !route.Server.IsValid() {
		return d.DialContext(ctx, network, address)
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if a := at.Addr().Unmap(); a.IsPrivate() || !a.IsGlobalUnicast() {
		return nil, fmt.Errorf("the host's resolver %v can't be asked through the SOCKS server %v: it is in a private network", a, route.Server)
	}
	c, err := d.DialContext(ctx, "tcp", route.Server.String())
	if err != nil {
		return nil, err
	}
	if _, err := socks.Handshake(ctx, c, "", "", socks.Connect, socks.TargetOf(at)); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("ask the SOCKS server %v for %v: %w", route.Server, at, err)
	}
	return c, nil
}
