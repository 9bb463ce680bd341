package daemon

import (
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
	"netpolicy.dev/netpolicy/relay"
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
	l.become(ctx, &l.relayed, cfg, func(ctx context.Context) {
		l.relayed.done.Go(func() { l.d.runRelay(ctx, cfg) })
	})
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
	cfg.Resolver = marked{cfg.Mark}
	return cfg
}

// runRelay serves until ctx ends, and again when that ends, with a growing pause;
// meanwhile the kernel's table decides. Status says why.
func (d *Daemon) runRelay(ctx context.Context, cfg relay.Config) {
	health := newDials(d)
	cfg.Decider, cfg.Reporter = &decider{d: d}, health
	var reports sync.WaitGroup
	reports.Go(func() { health.report(ctx) })
	defer reports.Wait()
	d.keepRunning(ctx, relayName, "nothing goes through the relay", func(ctx context.Context) error {
		r, err := relay.New(cfg)
		if err != nil {
			return err
		}
		d.relay.Store(r)
		defer d.relay.Store(nil)
		return r.Run(ctx)
	})
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
	if f.Dst.Unknown() && !a.Resolved && v.Way.Server == (netip.AddrPort{}) {
		v.Do = relay.Resolve
	}
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
		to.Server, ok = x.d.server(r.Name)
		return ok
	}
	if server, ok := strings.CutPrefix(r.Other, "socks "); ok && r.Kind == rules.RouteOther {
		at, err := netip.ParseAddrPort(server)
		if err != nil {
			return false
		}
		to.Server, to.SendName = at, true
		if to.Uplink >= 0 {
			to.Mark, _ = s.plan.UplinkMark(p.Uplinks[to.Uplink].Name)
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
	fmt.Fprintf(w, "netpolicy_relay_datagrams_dropped_total %d\n", s.Dropped)
}

// marked resolves names for the relay by this host's resolvers, with the mark of
// the way that the connection will take.
type marked struct{ bypass uint32 }

// Resolve implements relay.Resolver.
func (m marked) Resolve(ctx context.Context, name string, way *relay.Way) ([]netip.Addr, error) {
	mark := way.Mark
	if mark == 0 {
		mark = m.bypass
	}
	d := net.Dialer{Control: sockmark.Control(mark, "")}
	r := net.Resolver{PreferGo: true, Dial: d.DialContext}
	return r.LookupNetIP(ctx, "ip", name)
}
