package oracle

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Chance picks a number in [0, n). Tests hand in rapid, which shrinks, or a
// seeded *rand.Rand.
type Chance interface{ IntN(n int) int }

// Few values each, so that random flows meet random rules, and the pairs that
// are easy to get wrong are all there.
var (
	dnsNames = []string{
		"zoom.us", "us01.zoom.us", "a.b.zoom.us", "evilzoom.us", "zoom-1.us", "zoom-.us", "us", "zoom.us.example",
		"x.zoom-1.us", "corp.example", "a.b.c.d.e.f.zoom.us", "x.b.c.d.e.f.zoom.us",
	}
	patterns = []rules.NamePattern{
		{Kind: rules.Exact, Name: "zoom.us"},
		{Kind: rules.Suffix, Name: "zoom.us"},
		{Kind: rules.Subdomain, Name: "zoom.us"},
		{Kind: rules.Exact, Name: "us01.zoom.us"},
		{Kind: rules.Suffix, Name: "us"},
		{Kind: rules.Suffix, Name: "b.zoom.us"},
		{Kind: rules.GlobName, Name: "zoom-*.us"},
		{Kind: rules.GlobName, Name: "*.zoom-*.us"},
		{Kind: rules.GlobName, Name: "*zoom.us"},
		{Kind: rules.GlobName, Name: "us*.zoom.*"},
		{Kind: rules.Exact, Name: "corp.example"},
		{Kind: rules.Exact, Name: "a.b.c.d.e.f.zoom.us"},
		{Kind: rules.Subdomain, Name: "b.c.d.e.f.zoom.us"},
	}
	addresses = []string{
		"10.0.0.5", "10.0.1.5", "192.0.2.1", "192.0.2.129", "203.0.113.9", "2001:db8::1", "2001:db8:1::1", "fc00::5", "0:ffff:a00:5::1",
	}
	prefixes = []string{
		"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "192.0.2.1/32", "192.0.2.128/25", "::/0", "2001:db8::/32", "2001:db8::1/128", "fc00::/7",
		"0:ffff:a00:5::/64",
	}
	ports  = []uint16{0, 22, 80, 443, 1000, 1500, 2000, 65535}
	protos = []uint32{1, 6, 17, 58, 47}
	// words are for the fields that are compared letter by letter.
	words     = []string{"h2", "http/1.1", "DE", "zo*m", "bittorrent", "eth0"}
	countries = []string{"DE", "FR"}
	asns      = []uint32{0, 64496, 64497, 4_294_967_295}
	macs      = []flow.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 1, 1}}
	programs  = []string{"zoom", "transmission-gtk", "transmission/x", "sh", ""}
	globsOf   = []rules.Glob{"zoom", "transmission-*", "*", "t*k", "transmission/*", "z*m*"}
	bounds    = []int64{0, 1000, 50_000, 120_000, 120_001, 1_000_000}
	stateIDs  = []state.State{state.Normal, state.Degraded, state.Failover, state.Recovery}
	primary   = []rules.ActionKind{
		rules.ActRoute, rules.ActSwitchRoute, rules.ActFallback, rules.ActFailover, rules.ActBlock,
	}
)

type gen struct{ c Chance }

func one[T any](g gen, list []T) T { return list[g.c.IntN(len(list))] }

func some[T any](g gen, most int, list []T) []T {
	out := make([]T, 0, most)
	for range 1 + g.c.IntN(most) {
		out = append(out, one(g, list))
	}
	return out
}

func (g gen) chance(percent int) bool { return g.c.IntN(100) < percent }

// fact is mostly known.
func fact[T comparable](g gen, v T) flow.Value[T] {
	switch n := g.c.IntN(10); {
	case n < 6:
		return flow.Some(v)
	case n < 8:
		return flow.Value[T]{}
	default:
		return flow.Absent[T]()
	}
}

func name(g gen) flow.Value[string] {
	if g.chance(5) {
		return flow.Bad[string]()
	}
	if g.chance(40) {
		return flow.Value[string]{}
	}
	return fact(g, one(g, dnsNames))
}

// Flow returns a random flow, as a flow record can tell it.
func Flow(c Chance) flow.Flow {
	g := gen{c}
	f := flow.Flow{
		Proto: fact(g, flow.Proto(one(g, protos))),
		SNI:   name(g), HTTPHost: name(g),
		Process: fact(g, one(g, programs)), ProcessPath: fact(g, one(g, programs)), User: fact(g, one(g, programs)),
		Cgroup: fact(g, one(g, programs)), IfaceIn: fact(g, one(g, programs)),
		SrcMAC: fact(g, one(g, macs)), DSCP: fact(g, uint8(g.c.IntN(3))), Mark: fact(g, uint32(g.c.IntN(3))),
		RTT: fact(g, one(g, bounds)), Latency: fact(g, one(g, bounds)), ErrorRate: fact(g, one(g, bounds)),
	}
	g.more(&f)
	if g.chance(15) {
		f.Domain = name(g)
	}
	if g.chance(60) {
		f.DNS = flow.NewNames(some(g, 8, dnsNames)...)
	}
	if g.chance(30) {
		f.State = one(g, stateIDs).String()
	}
	f.Src, f.SrcPort = endpoint(g, f.Proto)
	f.Dst, f.DstPort = endpoint(g, f.Proto)
	return f
}

// more are the facts that few rules read.
func (g gen) more(f *flow.Flow) {
	if g.chance(40) {
		return
	}
	f.App, f.ALPN, f.Country = fact(g, one(g, words)), fact(g, g.offered()), fact(g, one(g, countries))
	f.Group, f.IfaceOut, f.ASN = fact(g, one(g, programs)), fact(g, one(g, words)), fact(g, one(g, asns))
	f.ConnBytes, f.ConnAge = fact(g, one(g, bounds)), fact(g, one(g, bounds))
}

// offered is a list of protocols.
func (g gen) offered() string {
	return strings.Join(some(g, 3, words), ",")
}

func endpoint(g gen, proto flow.Value[flow.Proto]) (flow.Value[netip.Addr], flow.Value[uint16]) {
	a, p := fact(g, netip.MustParseAddr(one(g, addresses))), flow.Value[uint16]{}
	if g.chance(85) {
		p = flow.Some(one(g, ports))
	}
	if n, known := proto.Get(); known && !n.HasPorts() || a.Status() == flow.None {
		p = flow.Absent[uint16]()
	}
	return a, p
}

// World returns a random world for a policy of Policy.
func World(c Chance, p *rules.Policy) *state.World {
	g := gen{c}
	w := &state.World{Global: one(g, stateIDs), Primary: p.Primary}
	for range p.Uplinks {
		l := state.Link{
			State: one(g, stateIDs), Unknown: g.chance(20), Up: g.chance(80), Share: 100,
			RTT: -1, P90: -1, Jitter: -1, Loss: -1, ErrorRate: -1, Usage: -1, Lost: g.c.IntN(3),
		}
		switch l.State {
		case state.Failover:
			l.Share = 0
		case state.Recovery:
			l.Share = one(g, []int{10, 25, 50, 100})
		}
		if g.chance(70) {
			l.RTT, l.ErrorRate = time.Duration(one(g, bounds))*time.Microsecond, one(g, bounds)
		}
		if g.chance(50) {
			l.P90, l.Jitter = time.Duration(one(g, bounds))*time.Microsecond, time.Duration(one(g, bounds))*time.Microsecond
			l.Loss, l.Usage = one(g, bounds), one(g, bounds)
		}
		w.Uplinks = append(w.Uplinks, l)
	}
	if g.chance(50) {
		w.Alive = g.truths(len(p.Routes))
	}
	for _, gr := range p.Groups {
		w.Selected = append(w.Selected, g.c.IntN(len(gr.Members)+1)-1)
		w.Meets = append(w.Meets, g.truths(len(gr.Members)))
	}
	w.Schedules, w.Quotas, w.Conditions = g.truths(len(p.Schedules)), g.truths(len(p.Quotas)), g.truths(len(p.Conditions))
	return w
}

func (g gen) truths(n int) []state.Truth {
	var out []state.Truth
	which := g.c.IntN(27) // three of three
	for range n {
		out, which = append(out, state.Truth(which%3)), which/3
	}
	return out
}

// Policy returns a random policy: up to eight rules over two uplinks, a main
// and a blackhole route, and groups, one of them nested.
func Policy(c Chance) *rules.Policy {
	g := gen{c}
	p := g.frame()
	for i := range 1 + g.c.IntN(8) {
		r := rules.Rule{
			Name: "r" + string(rune('a'+i)), Priority: g.c.IntN(3), Active: state.AllStates, Match: g.expr(3), Do: g.outcome(),
		}
		if g.chance(30) {
			r.Active = state.Set(1 + g.c.IntN(15))
		}
		if g.chance(40) {
			r.OnUnknown = rules.OnUnknown(g.c.IntN(4))
		}
		g.when(&r)
		p.Rules = append(p.Rules, r)
	}
	return p
}

// frame is a policy without rules, with or without a default.
func (g gen) frame() *rules.Policy {
	p := &rules.Policy{
		Uplinks: []rules.Uplink{{Name: "wan1", Weight: g.c.IntN(5)}, {Name: "wan2", Weight: g.c.IntN(3)}},
		Routes: []rules.Route{
			{Name: "direct", Kind: rules.RouteMain, Uplink: -1, Group: -1},
			{Name: "hole", Kind: rules.RouteBlackhole, Uplink: -1, Group: -1},
			{Name: "fast", Kind: rules.RouteUplink, Uplink: 0, Group: -1},
			{Name: "backup", Kind: rules.RouteUplink, Uplink: 1, Group: -1},
			{Name: "ha", Kind: rules.RouteGroup, Uplink: -1, Group: 0},
			{Name: "best", Kind: rules.RouteGroup, Uplink: -1, Group: 1},
			{Name: "nested", Kind: rules.RouteGroup, Uplink: -1, Group: 2},
		},
		Groups: []rules.Group{
			{Name: "ha", Strategy: g.strategy(), Members: []int{2, 3}, BlockWhenNone: g.chance(30)},
			{Name: "best", Strategy: rules.LowestLatency, Members: []int{3, 2}, BlockWhenNone: g.chance(30)},
			{Name: "nested", Strategy: g.strategy(), Members: []int{5, 3, 4}, BlockWhenNone: g.chance(30)},
		},
		Throttles:  []rules.Throttle{{Name: "slow"}, {Name: "slower"}},
		Quotas:     []rules.Quota{{Name: "daily"}, {Name: "monthly"}},
		Schedules:  []rules.Schedule{{Name: "night"}, {Name: "weekend"}},
		Conditions: []rules.Condition{{Name: "busy"}, {Name: "lossy"}, {Name: "dear"}},
		Primary:    g.c.IntN(2),
	}
	if g.chance(70) {
		o := g.outcome()
		p.Default = &o
	}
	return p
}

// when gives some rules a condition over the world.
func (g gen) when(r *rules.Rule) {
	if g.chance(25) {
		e := g.world(2)
		r.When = &e
	}
}

// world is an expression over facts of the world.
func (g gen) world(depth int) rules.Expr {
	if depth > 0 && g.chance(40) {
		e := rules.Expr{Op: one(g, []rules.Op{rules.OpAnd, rules.OpOr, rules.OpNot})}
		for range 1 + g.c.IntN(2) {
			e.Kids = append(e.Kids, g.world(depth-1))
		}
		if e.Op == rules.OpNot {
			e.Kids = e.Kids[:1]
		}
		return e
	}
	return rules.Expr{Op: rules.OpPred, Pred: g.worldPred(one(g, worldFields))}
}

var worldFields = []rules.Field{
	rules.FieldLatency, rules.FieldErrorRate, rules.FieldState, rules.FieldUplink, rules.FieldRoute, rules.FieldSchedule, rules.FieldQuota,
	rules.FieldCondition,
}

func (g gen) worldPred(f rules.Field) rules.Pred {
	p := rules.Pred{Field: f}
	switch f {
	case rules.FieldState:
		p.States = state.Set(g.c.IntN(16))
	case rules.FieldUplink:
		p.Ref = g.c.IntN(2)
		g.metric(&p)
	case rules.FieldRoute:
		if p.Ref = g.c.IntN(2); g.chance(10) {
			p.Ref = -1
		}
		g.metric(&p)
	case rules.FieldSchedule, rules.FieldQuota:
		p.Ref = g.c.IntN(2)
	case rules.FieldCondition:
		p.Ref = g.c.IntN(3)
	default:
		p.Cmp, p.Bound = rules.Cmp(g.c.IntN(5)), one(g, bounds)
	}
	return p
}

func (g gen) metric(p *rules.Pred) {
	p.Metric = rules.Metric(g.c.IntN(int(rules.MetricUsage) + 1))
	switch p.Metric {
	case rules.MetricState:
		p.States = state.Set(g.c.IntN(16))
	case rules.MetricUp:
		p.Bound = int64(g.c.IntN(2))
	default:
		p.Cmp, p.Bound = rules.Cmp(g.c.IntN(5)), one(g, bounds)
	}
}

func (g gen) strategy() rules.Strategy {
	return one(g, []rules.Strategy{rules.Fallback, rules.Fallback, rules.Fallback, rules.LowestLatency, rules.Weighted, rules.HashOf, rules.SLA})
}

func (g gen) outcome() rules.Outcome {
	o := rules.Outcome{Route: -1}
	if g.chance(80) {
		o.Kind = one(g, primary)
	}
	switch o.Kind {
	case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
		o.Route = g.c.IntN(7)
	case rules.ActFallback:
		o.Routes = slices.Compact(some(g, 3, []int{0, 2, 3, 4, 5, 6}))
	case rules.ActBlock:
		o.Reject = g.chance(50)
	}
	if o.Kind == rules.ActNone || g.chance(30) {
		o.Mods.Log = flow.Some(one(g, []string{"", "seen"}))
		if g.chance(40) {
			o.Mods.Throttle = flow.Some(g.c.IntN(2))
		}
		if g.chance(20) {
			o.Mods.Mark = flow.Some(uint32(g.c.IntN(2)))
		}
		if g.chance(20) {
			o.Mods.DSCP = flow.Some(uint8(g.c.IntN(2)))
		}
	}
	return o
}

func (g gen) expr(depth int) rules.Expr {
	n := g.c.IntN(10)
	switch {
	case n == 0:
		return rules.Expr{}
	case n < 4 && depth > 0:
		return rules.Expr{Op: rules.OpAnd, Kids: g.exprs(depth - 1)}
	case n < 6 && depth > 0:
		return rules.Expr{Op: rules.OpOr, Kids: g.exprs(depth - 1)}
	case n < 7 && depth > 0:
		return rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{g.expr(depth - 1)}}
	}
	return rules.Expr{Op: rules.OpPred, Pred: g.pred()}
}

func (g gen) exprs(depth int) []rules.Expr {
	var out []rules.Expr
	for range 1 + g.c.IntN(3) {
		out = append(out, g.expr(depth))
	}
	return out
}

func (g gen) pred() rules.Pred {
	// Names are where the difficult semantics lie: half of all predicates.
	p := rules.Pred{Field: rules.Field(g.c.IntN(3))}
	if g.chance(50) {
		p.Field = rules.Field(g.c.IntN(int(rules.FieldCondition) + 1))
	}
	if p.Field.OfWorld() {
		return g.worldPred(p.Field)
	}
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		p.Names = some(g, 2, patterns)
	case rules.FieldDstIP, rules.FieldSrcIP:
		for _, s := range some(g, 2, prefixes) {
			p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(s))
		}
	case rules.FieldPort, rules.FieldSrcPort:
		p.Ports = one(g, [][]rules.PortRange{
			{{Lo: 443, Hi: 443}}, {{Lo: 22, Hi: 22}, {Lo: 80, Hi: 80}}, {{Lo: 1000, Hi: 2000}}, {{Lo: 0, Hi: 65535}}, {{Lo: 1, Hi: 1500}},
		})
	case rules.FieldProto:
		p.Numbers = one(g, [][]uint32{{6}, {17}, {1, 58}, {58}, {6, 17}})
	case rules.FieldDSCP, rules.FieldMark:
		p.Numbers = one(g, [][]uint32{{0}, {1}, {1, 2}})
	case rules.FieldSrcMAC:
		p.MACs = macs[g.c.IntN(2) : 2+g.c.IntN(2)]
	case rules.FieldASN:
		p.Numbers = one(g, [][]uint32{{0}, {64496, 64497}, {64497}})
	case rules.FieldCountry:
		p.Globs = []rules.Glob{"DE", "FR"}[:1+g.c.IntN(2)]
	case rules.FieldApp, rules.FieldALPN, rules.FieldIfaceOut:
		for _, s := range some(g, 2, words) {
			p.Globs = append(p.Globs, rules.Glob(s))
		}
	case rules.FieldRTT, rules.FieldConnBytes, rules.FieldConnAge:
		p.Cmp, p.Bound = rules.Cmp(g.c.IntN(5)), one(g, bounds)
	default:
		p.Globs = some(g, 2, globsOf)
		if p.Field == rules.FieldIfaceIn {
			p.Globs = []rules.Glob{"zoom", "sh"}[:1+g.c.IntN(2)]
		}
	}
	return p
}
