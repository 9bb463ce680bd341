// Package policyrand draws random policies, worlds and first packets for
// property tests: small domains, so that rules overlap and facts are hit, and
// every kind of predicate, action and modifier.
package policyrand

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Domains of the facts.
var (
	Names    = []string{"a.example", "b.example", "x.a.example", "y.x.a.example", "shop-1.b.example", "other.test"}
	patterns = []rules.NamePattern{
		{Kind: rules.Exact, Name: "a.example"},
		{Kind: rules.Exact, Name: "x.a.example"},
		{Kind: rules.Suffix, Name: "a.example"},
		{Kind: rules.Suffix, Name: "example"},
		{Kind: rules.Subdomain, Name: "a.example"},
		{Kind: rules.Subdomain, Name: "b.example"},
		{Kind: rules.GlobName, Name: "shop-*.b.example"},
		{Kind: rules.Suffix, Name: "absent.test"},
	}
	// Clients and Servers are of documentation and private ranges.
	Clients  = addrs("10.0.0.2", "10.0.0.3", "10.0.0.130", "2001:db8:10::2", "2001:db8:10::3")
	Servers  = addrs("203.0.113.1", "203.0.113.7", "203.0.113.200", "198.18.0.9", "2001:db8:f::1", "2001:db8:f::7", "2001:db8:e::9")
	prefixes = []string{
		"10.0.0.0/25", "10.0.0.3/32", "203.0.113.0/24", "203.0.113.0/25", "203.0.113.7/32", "198.18.0.0/15", "0.0.0.0/0",
		"2001:db8::/32", "2001:db8:f::/48", "2001:db8:f::7/128", "2001:db8:10::/64", "::/0",
	}
	ports      = []uint16{22, 53, 80, 443, 5060, 5061, 8080}
	protos     = []uint32{1, 6, 17, 58}
	interfaces = []string{"lan0", "lan1"}
	users      = []string{"alice", "bob", "4242", "ali*"}
	logTexts   = []string{"", "seen"}
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// Policy draws a policy with up to n rules over three uplinks (wan0, wan1,
// wan2), a route of every kind, and groups within groups.
func Policy(t *rapid.T, n int) *rules.Policy {
	p := &rules.Policy{
		Hash:    [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash")),
		Uplinks: []rules.Uplink{{Name: "wan0", Dev: "wan0"}, {Name: "wan1", Dev: "wan1"}, {Name: "wan2", Dev: "wan2"}},
		Routes: []rules.Route{
			{Name: "direct", Kind: rules.RouteMain},
			{Name: "hole", Kind: rules.RouteBlackhole},
			{Name: "one", Kind: rules.RouteUplink, Uplink: 1},
			{Name: "two", Kind: rules.RouteUplink, Uplink: 2},
			{Name: "two_again", Kind: rules.RouteUplink, Uplink: 2},
			{Name: "marked", Kind: rules.RouteMark, Mark: 0x40},
			{Name: "inner", Kind: rules.RouteGroup, Group: 0},
			{Name: "outer", Kind: rules.RouteGroup, Group: 1},
			{Name: "strict", Kind: rules.RouteGroup, Group: 2},
		},
		Groups: []rules.Group{
			{Name: "inner", Strategy: strategy(t), Members: []int{2, 3}},
			{Name: "outer", Strategy: rules.LowestLatency, Members: []int{6, 3, 0}},
			{Name: "strict", Strategy: strategy(t), Members: []int{2, 4}, BlockWhenNone: true},
		},
		Throttles:  []rules.Throttle{{Name: "slow", Down: 1e6}},
		Schedules:  make([]rules.Schedule, timed),
		Quotas:     make([]rules.Quota, timed),
		Conditions: make([]rules.Condition, timed),
		Primary:    1,
	}
	count := rapid.IntRange(0, n).Draw(t, "rules")
	for i := range count {
		p.Rules = append(p.Rules, rule(t, fmt.Sprintf("r%d", i)))
	}
	if rapid.IntRange(0, 4).Draw(t, "default") > 0 {
		o := outcome(t, true)
		p.Default = &o
	}
	return p
}

// timed is how many schedules, quotas and conditions there are.
const timed = 2

func strategy(t *rapid.T) rules.Strategy {
	return rapid.SampledFrom([]rules.Strategy{rules.Fallback, rules.Fallback, rules.Weighted, rules.HashOf, rules.SLA}).Draw(t, "strategy")
}

func rule(t *rapid.T, name string) rules.Rule {
	r := rules.Rule{
		Name: name, Priority: rapid.IntRange(0, 20).Draw(t, "priority"), Active: state.AllStates,
		Match: expr(t, 3), Do: outcome(t, rapid.IntRange(0, 3).Draw(t, "primary") > 0),
	}
	if rapid.IntRange(0, 3).Draw(t, "when") == 0 {
		r.Active = state.Set(rapid.IntRange(0, int(state.AllStates)).Draw(t, "states"))
	}
	if rapid.IntRange(0, 3).Draw(t, "timed") == 0 {
		e := when(t, 2)
		r.When = &e
	}
	return r
}

// when draws a condition over the world.
func when(t *rapid.T, depth int) rules.Expr {
	op := rapid.IntRange(0, 5).Draw(t, "when op")
	if depth == 0 {
		op = 5
	}
	switch op {
	case 0, 1:
		return rules.Expr{Op: rules.OpAnd + rules.Op(op), Kids: []rules.Expr{when(t, depth-1), when(t, depth-1)}}
	case 2:
		return rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{when(t, depth-1)}}
	}
	p := rules.Pred{Field: rapid.SampledFrom([]rules.Field{
		rules.FieldSchedule, rules.FieldQuota, rules.FieldCondition, rules.FieldState, rules.FieldLatency, rules.FieldUplink, rules.FieldRoute,
	}).Draw(t, "when field")}
	switch p.Field {
	case rules.FieldState:
		p.States = state.Set(rapid.IntRange(0, int(state.AllStates)).Draw(t, "in states"))
	case rules.FieldUplink, rules.FieldRoute:
		p.Ref = rapid.IntRange(-1, 2).Draw(t, "uplink")
		p.Metric = rapid.SampledFrom([]rules.Metric{rules.MetricRTT, rules.MetricErrorRate, rules.MetricUp, rules.MetricState}).Draw(t, "metric")
		p.States = state.Set(rapid.IntRange(0, int(state.AllStates)).Draw(t, "in states"))
		p.Cmp = rules.Cmp(rapid.IntRange(0, 4).Draw(t, "cmp"))
		p.Bound = rapid.SampledFrom([]int64{1, 20_000, 120_000}).Draw(t, "bound")
	case rules.FieldLatency:
		p.Cmp, p.Bound = rules.Gt, 20_000
	default:
		p.Ref = rapid.IntRange(0, timed-1).Draw(t, "which")
	}
	return rules.Expr{Op: rules.OpPred, Pred: p}
}

func outcome(t *rapid.T, primary bool) rules.Outcome {
	var o rules.Outcome
	if primary {
		o.Kind = rapid.SampledFrom([]rules.ActionKind{
			rules.ActRoute, rules.ActSwitchRoute, rules.ActFallback, rules.ActFailover, rules.ActBlock,
		}).Draw(t, "action")
	}
	o.Route = rapid.IntRange(0, 8).Draw(t, "route")
	o.Routes = rapid.SliceOfN(rapid.IntRange(0, 8), 1, 3).Draw(t, "routes")
	o.Reject = rapid.Bool().Draw(t, "reject")
	switch rapid.IntRange(0, 6).Draw(t, "modifier") {
	case 0:
		o.Mods.Log = flow.Some(rapid.SampledFrom(logTexts).Draw(t, "log"))
	case 1:
		o.Mods.DSCP = flow.Some(rapid.SampledFrom([]uint8{10, 46}).Draw(t, "set dscp"))
	case 2:
		o.Mods.Mark = flow.Some(rapid.SampledFrom([]uint32{1, 2}).Draw(t, "set mark"))
		o.Mods.Log = flow.Some("")
	case 3:
		o.Mods.Throttle = flow.Some(0)
	}
	return o
}

func expr(t *rapid.T, depth int) rules.Expr {
	op := rapid.IntRange(0, 9).Draw(t, "op")
	if depth == 0 {
		op = max(op, 4)
	}
	kids := func() []rules.Expr {
		var list []rules.Expr
		for range rapid.IntRange(1, 3).Draw(t, "kids") {
			list = append(list, expr(t, depth-1))
		}
		return list
	}
	switch op {
	case 0:
		return rules.Expr{Op: rules.OpOr, Kids: kids()}
	case 1, 2:
		return rules.Expr{Op: rules.OpAnd, Kids: kids()}
	case 3:
		return rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{expr(t, depth-1)}}
	case 4:
		return rules.Expr{Op: rules.OpAny}
	default:
		return rules.Expr{Op: rules.OpPred, Pred: pred(t)}
	}
}

func pred(t *rapid.T) rules.Pred {
	p := rules.Pred{Field: rapid.SampledFrom([]rules.Field{
		rules.FieldSNI, rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost, rules.FieldDstIP, rules.FieldDstIP,
		rules.FieldSrcIP, rules.FieldPort, rules.FieldPort, rules.FieldSrcPort, rules.FieldProto, rules.FieldProcess,
		rules.FieldUser, rules.FieldIfaceIn, rules.FieldDSCP, rules.FieldMark, rules.FieldRTT, rules.FieldLatency,
		rules.FieldErrorRate, rules.FieldState,
	}).Draw(t, "field")}
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		p.Names = rapid.SliceOfN(rapid.SampledFrom(patterns), 1, 2).Draw(t, "patterns")
	case rules.FieldDstIP, rules.FieldSrcIP:
		for _, s := range rapid.SliceOfN(rapid.SampledFrom(prefixes), 1, 3).Draw(t, "prefixes") {
			p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(s))
		}
	case rules.FieldPort, rules.FieldSrcPort:
		p.Ports = portRanges(t)
	case rules.FieldProto:
		p.Numbers = numbers(t, protos)
	case rules.FieldDSCP:
		p.Numbers = numbers(t, []uint32{0, 10, 46})
	case rules.FieldMark:
		p.Numbers = numbers(t, []uint32{0, 5, 0x10000000})
	case rules.FieldProcess:
		p.Globs = []rules.Glob{"zoom"}
	case rules.FieldUser:
		p.Globs = []rules.Glob{rules.Glob(rapid.SampledFrom(users).Draw(t, "user glob"))}
	case rules.FieldIfaceIn:
		p.Globs = []rules.Glob{rules.Glob(rapid.SampledFrom(interfaces).Draw(t, "iface"))}
	case rules.FieldState:
		p.States = state.Set(rapid.IntRange(0, int(state.AllStates)).Draw(t, "in states"))
	default:
		p.Cmp = rules.Cmp(rapid.IntRange(0, 4).Draw(t, "cmp"))
		p.Bound = rapid.SampledFrom([]int64{20_000, 120_000}).Draw(t, "bound")
	}
	return p
}

func portRanges(t *rapid.T) []rules.PortRange {
	lo := rapid.SampledFrom(ports).Draw(t, "port")
	switch rapid.IntRange(0, 4).Draw(t, "port form") {
	case 0:
		return []rules.PortRange{{Lo: lo, Hi: lo + 1000}}
	case 1:
		return []rules.PortRange{{Lo: 22, Hi: 22}, {Lo: 5060, Hi: 5061}}
	case 2:
		return []rules.PortRange{{Lo: 0, Hi: 65535}}
	default:
		return []rules.PortRange{{Lo: lo, Hi: lo}}
	}
}

func numbers(t *rapid.T, from []uint32) []uint32 {
	list := rapid.SliceOfN(rapid.SampledFrom(from), 1, 2).Draw(t, "numbers")
	slices.Sort(list)
	return slices.Compact(list)
}

// World draws a world for Policy's uplinks and groups.
func World(t *rapid.T) *state.World {
	w := &state.World{
		Global:   state.State(rapid.IntRange(0, 3).Draw(t, "global")),
		Primary:  1,
		Selected: []int{-1, rapid.IntRange(-1, 2).Draw(t, "selected"), -1},
	}
	for range 3 {
		l := state.Link{
			State:   state.State(rapid.IntRange(0, 3).Draw(t, "state")),
			Unknown: rapid.IntRange(0, 5).Draw(t, "unknown") == 0,
			Up:      rapid.IntRange(0, 4).Draw(t, "up") > 0,
			Share:   100,
			RTT:     time.Duration(rapid.SampledFrom([]int64{-1, 10_000, 20_000, 150_000}).Draw(t, "rtt")) * time.Microsecond,
			P90:     -1, Loss: -1,
			ErrorRate: rapid.SampledFrom([]int64{-1, 0, 120_000}).Draw(t, "errors"),
			Lost:      rapid.IntRange(0, 3).Draw(t, "lost"),
		}
		if l.RTT < 0 {
			l.RTT = -1
		}
		switch l.State {
		case state.Failover:
			l.Share = 0
		case state.Recovery:
			l.Share = rapid.SampledFrom([]int{10, 25, 50, 100}).Draw(t, "share")
		}
		w.Uplinks = append(w.Uplinks, l)
	}
	for _, members := range []int{2, 3, 2} {
		w.Meets = append(w.Meets, rapid.SliceOfN(rapid.SampledFrom([]state.Truth{state.Unset, state.False, state.True}), members, members).Draw(t, "meets"))
	}
	for _, list := range []*[]state.Truth{&w.Schedules, &w.Quotas, &w.Conditions} {
		*list = rapid.SliceOfN(rapid.SampledFrom([]state.Truth{state.Unset, state.False, state.True}), timed, timed).Draw(t, "truths")
	}
	return w
}

// First draws the facts of a flow at its first packet, as the kernel knows
// them. A forwarded flow has no process and no user; a local one has no
// incoming interface, and its process is not known yet.
func First(t *rapid.T) flow.Flow {
	src := rapid.SampledFrom(Clients).Draw(t, "src")
	dst := rapid.SampledFrom(ofFamily(Servers, src)).Draw(t, "dst")
	proto := rapid.SampledFrom([]flow.Proto{flow.TCP, flow.TCP, flow.UDP, flow.ICMP, 47}).Draw(t, "proto")
	if proto == flow.ICMP && src.Is6() {
		proto = flow.ICMPv6
	}
	f := flow.Flow{
		Proto: flow.Some(proto), Src: flow.Some(src), Dst: flow.Some(dst),
		SrcPort: flow.Absent[uint16](), DstPort: flow.Absent[uint16](),
		DSCP: flow.Some(rapid.SampledFrom([]uint8{0, 10, 46}).Draw(t, "dscp")),
		Mark: flow.Some(rapid.SampledFrom([]uint32{0, 5}).Draw(t, "mark")),
	}
	if proto == flow.TCP || proto == flow.UDP {
		f.SrcPort = flow.Some(rapid.Uint16Range(1024, 65535).Draw(t, "sport"))
		f.DstPort = flow.Some(rapid.SampledFrom(ports).Draw(t, "dport"))
	}
	if rapid.IntRange(0, 3).Draw(t, "local") == 0 {
		f.IfaceIn = flow.Absent[string]()
		f.User = flow.Some(rapid.SampledFrom([]string{"alice", "bob", "4242"}).Draw(t, "user"))
	} else {
		f.IfaceIn = flow.Some(rapid.SampledFrom(interfaces).Draw(t, "in"))
		f.Process, f.ProcessPath, f.Cgroup = flow.Absent[string](), flow.Absent[string](), flow.Absent[string]()
		f.User = flow.Absent[string]()
	}
	return f
}

// ofFamily returns the addresses of the family of like.
func ofFamily(list []netip.Addr, like netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return a.Is4() != like.Is4() })
}

// DNS draws the live names of some of Servers.
func DNS(t *rapid.T) map[netip.Addr]flow.Names {
	known := map[netip.Addr]flow.Names{}
	for _, a := range Servers {
		if names := rapid.SliceOfN(rapid.SampledFrom(Names), 0, 2).Draw(t, "names"); len(names) > 0 {
			known[a] = flow.NewNames(names...)
		}
	}
	return known
}
