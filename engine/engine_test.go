package engine_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// The builders spell policies shortly; routes are indices into testRoutes.

var testRoutes = []rules.Route{
	{Name: "direct", Kind: rules.RouteMain},
	{Name: "fast", Kind: rules.RouteUplink, Uplink: 0},
	{Name: "backup", Kind: rules.RouteUplink, Uplink: 1},
	{Name: "ha", Kind: rules.RouteGroup, Group: 0},
	{Name: "best", Kind: rules.RouteGroup, Group: 1},
	{Name: "strict", Kind: rules.RouteGroup, Group: 2},
	{Name: "nested", Kind: rules.RouteGroup, Group: 3},
}

const (
	direct = iota
	fast
	backup
	ha
	best
	strict
	nested
)

func policy(list ...rules.Rule) *rules.Policy {
	p := &rules.Policy{
		Routes: testRoutes, Uplinks: []rules.Uplink{{Name: "wan1"}, {Name: "wan2"}}, Throttles: []rules.Throttle{{Name: "slow"}},
		Groups: []rules.Group{
			{Name: "ha", Members: []int{fast, backup}},
			{Name: "best", Strategy: rules.LowestLatency, Members: []int{fast, backup}},
			{Name: "strict", Members: []int{fast, backup}, BlockWhenNone: true},
			{Name: "nested", Members: []int{strict, ha}},
		},
		Rules: list,
	}
	p.Default = &rules.Outcome{Kind: rules.ActRoute, Route: direct}
	return p
}

func rule(name string, priority int, match rules.Expr, do rules.Outcome) rules.Rule {
	return rules.Rule{Name: name, Priority: priority, Active: state.AllStates, Match: match, Do: do}
}

func route(r int) rules.Outcome { return rules.Outcome{Kind: rules.ActRoute, Route: r} }

func logged(o rules.Outcome) rules.Outcome {
	o.Mods.Log = flow.Some("")
	return o
}

var block = rules.Outcome{Kind: rules.ActBlock}

func pred(p rules.Pred) rules.Expr        { return rules.Expr{Op: rules.OpPred, Pred: p} }
func all(kids ...rules.Expr) rules.Expr   { return rules.Expr{Op: rules.OpAnd, Kids: kids} }
func anyOf(kids ...rules.Expr) rules.Expr { return rules.Expr{Op: rules.OpOr, Kids: kids} }
func no(kid rules.Expr) rules.Expr        { return rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{kid}} }
func sni(patterns ...string) rules.Expr   { return names(rules.FieldSNI, patterns...) }
func port(n uint16) rules.Expr {
	return pred(rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{{Lo: n, Hi: n}}})
}

func proto(n uint32) rules.Expr {
	return pred(rules.Pred{Field: rules.FieldProto, Numbers: []uint32{n}})
}

func rttOver(us int64) rules.Expr {
	return pred(rules.Pred{Field: rules.FieldRTT, Cmp: rules.Gt, Bound: us})
}

func latencyOver(us int64) rules.Expr {
	return pred(rules.Pred{Field: rules.FieldLatency, Cmp: rules.Gt, Bound: us})
}

func dst(prefix string) rules.Expr {
	return pred(rules.Pred{Field: rules.FieldDstIP, Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}})
}
func domain(patterns ...string) rules.Expr { return names(rules.FieldDomain, patterns...) }
func process(globs ...rules.Glob) rules.Expr {
	return pred(rules.Pred{Field: rules.FieldProcess, Globs: globs})
}

func names(f rules.Field, patterns ...string) rules.Expr {
	p := rules.Pred{Field: f}
	for _, s := range patterns {
		switch {
		case strings.HasPrefix(s, "*."):
			p.Names = append(p.Names, rules.NamePattern{Kind: rules.Subdomain, Name: s[2:]})
		case strings.HasPrefix(s, "."):
			p.Names = append(p.Names, rules.NamePattern{Kind: rules.Suffix, Name: s[1:]})
		case strings.Contains(s, "*"):
			p.Names = append(p.Names, rules.NamePattern{Kind: rules.GlobName, Name: s})
		default:
			p.Names = append(p.Names, rules.NamePattern{Kind: rules.Exact, Name: s})
		}
	}
	return pred(p)
}

// brief is what the tables compare: rule, action -> route, "?" and what is
// pending unless final, "dns" if it rests on DNS names.
func brief(p *rules.Policy, d *engine.Decision) string {
	s := "default"
	if d.Rule >= 0 {
		s = p.Rules[d.Rule].Name
	}
	if !d.Final {
		s += " ?" + strings.Join(d.Pending.Names(), ",")
	}
	if d.Hinted {
		s += " dns"
	}
	return s
}

func decide(t *testing.T, p *rules.Policy, text string, w *state.World) engine.Decision {
	t.Helper()
	f, err := flow.ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	if w == nil {
		w = engine.OfflineWorld(p, state.Normal)
	}
	return engine.Compile(p).Decide(&f, w)
}

func TestDecide(t *testing.T) {
	const to = "tcp 10.0.0.5:5000 > 203.0.113.9:443"
	log := rules.Outcome{Mods: rules.Modifiers{Log: flow.Some("")}}
	skip := rule("skip", 9, rttOver(1000), block)
	skip.OnUnknown = rules.Skip
	wait := rule("wait", 9, sni("a.example"), block)
	wait.OnUnknown = rules.Wait
	failover := rule("down", 9, rules.Expr{}, block)
	failover.Active = state.Set(0).With(state.Failover)

	for _, c := range []struct {
		name  string
		rules []rules.Rule
		flow  string
		want  string
	}{
		{"names: under", []rules.Rule{rule("z", 1, sni("*.zoom.us"), block)}, to + " sni=us01.zoom.us", "z"},
		{"names: *. is not the name itself", []rules.Rule{rule("z", 1, sni("*.zoom.us"), block)}, to + " sni=zoom.us", "default"},
		{"names: .x is the name too", []rules.Rule{rule("z", 1, sni(".zoom.us"), block)}, to + " sni=zoom.us", "z"},
		{"names: exact", []rules.Rule{rule("z", 1, sni("zoom.us"), block)}, to + " sni=us01.zoom.us", "default"},
		{"evilzoom.us is none of them", []rules.Rule{rule("z", 1, sni("zoom.us", ".zoom.us", "*.zoom.us"), block)}, to + " sni=evilzoom.us", "default"},
		{"glob stays inside a label", []rules.Rule{rule("z", 1, sni("zoom-*.us"), block)}, to + " sni=zoom-a.b.us", "default"},

		{"priority first", []rules.Rule{rule("low", 1, sni("a.example"), block), rule("high", 2, rules.Expr{}, block)}, to + " sni=a.example", "high"},
		{"then specificity", []rules.Rule{rule("any", 1, rules.Expr{}, block), rule("name", 1, sni("a.example"), block)}, to + " sni=a.example", "name"},
		{"then source order", []rules.Rule{rule("one", 1, port(443), block), rule("two", 1, port(443), route(fast))}, to, "one"},
		{"not active in this state", []rules.Rule{failover}, to, "default"},
		{"the flow's state overrides", []rules.Rule{failover}, to + " state=FAILOVER", "down"},

		{"unknown above, other outcome", []rules.Rule{rule("u", 2, sni("a.example"), block), rule("t", 1, port(443), route(fast))}, to, "t ?sni"},
		{"unknown above, same outcome", []rules.Rule{rule("u", 2, sni("a.example"), route(fast)), rule("t", 1, port(443), route(fast))}, to, "t"},
		{"unknown above, other modifiers", []rules.Rule{rule("u", 2, sni("a.example"), logged(route(fast))), rule("t", 1, port(443), route(fast))}, to, "t ?sni"},
		{"unknown above, switch_route is not route", []rules.Rule{
			rule("u", 2, sni("a.example"), rules.Outcome{Kind: rules.ActSwitchRoute, Route: fast}), rule("t", 1, port(443), route(fast)),
		}, to, "t ?sni"},
		{"unknown below does not matter", []rules.Rule{rule("t", 2, port(443), route(fast)), rule("u", 1, sni("a.example"), block)}, to, "t"},
		{"the default counts as true", []rules.Rule{rule("u", 2, sni("a.example"), route(direct))}, to, "default"},
		{"unknown against the default", []rules.Rule{rule("u", 2, sni("a.example"), block)}, to, "default ?sni"},
		{"skip is false", []rules.Rule{skip}, to, "default"},
		{"below a skipped rule the next counts", []rules.Rule{skip, rule("u", 2, sni("a.example"), block)}, to, "default ?sni"},
		{"wait is provisional here", []rules.Rule{wait}, to, "default ?sni"},
		{"unknown modifiers only", []rules.Rule{rule("u", 2, rttOver(1), log)}, to, "default ?rtt"},
		{"unknown modifiers that are set anyway", []rules.Rule{rule("l", 3, rules.Expr{}, log), rule("u", 2, rttOver(1), log)}, to, "default"},

		{"pending under a false and", []rules.Rule{rule("u", 2, anyOf(all(port(80), rttOver(1)), sni("a.example")), block)}, to, "default ?sni"},
		{"pending under a true or", []rules.Rule{rule("u", 2, all(anyOf(port(443), rttOver(1)), process("zoom")), block)}, to, "default ?process"},
		{"pending under not", []rules.Rule{rule("u", 2, no(all(sni("a.example"), latencyOver(1))), block)}, to, "default ?latency,sni"},
		{"pending of several rules", []rules.Rule{rule("u", 3, sni("a.example"), block), rule("v", 2, rttOver(1), block)}, to, "default ?rtt,sni"},

		{"none is false", []rules.Rule{rule("r", 1, sni("a.example"), block)}, to + " sni=null", "default"},
		{"not of none is true", []rules.Rule{rule("r", 1, no(sni("a.example")), block)}, to + " sni=null", "r"},
		{"invalid is like none", []rules.Rule{rule("r", 1, no(sni("a.example")), block)}, to + ` sni="a b"`, "r"},
		{"no port in ICMP", []rules.Rule{rule("r", 1, no(port(443)), block)}, "icmp 10.0.0.5 > 203.0.113.9", "r"},
		{"IPv6 is in no IPv4 prefix", []rules.Rule{rule("r", 1, dst("0.0.0.0/0"), block)}, "tcp ? > [2001:db8::1]:443", "default"},

		{"hint true", []rules.Rule{rule("z", 1, sni(".zoom.us"), block)}, to + " dns=us01.zoom.us,cdn.example", "z ?sni dns"},
		{"hint is never false", []rules.Rule{rule("z", 1, sni(".zoom.us"), block)}, to + " dns=cdn.example", "default ?sni"},
		{"hint under not is false, but rests on it", []rules.Rule{rule("z", 1, no(sni(".zoom.us")), block)}, to + " dns=us01.zoom.us", "default ?sni dns"},
		{"hint under not, same outcome", []rules.Rule{rule("z", 1, no(sni(".zoom.us")), route(direct))}, to + " dns=us01.zoom.us", "default"},
		{"a SNI replaces the hint", []rules.Rule{rule("z", 1, sni(".zoom.us"), block)}, to + " sni=cdn.example dns=us01.zoom.us", "default"},
		{"a Host header does so too", []rules.Rule{rule("z", 1, sni(".zoom.us"), block)}, to + " http_host=cdn.example dns=us01.zoom.us", "default ?sni"},
		{"the hint does not matter beside a true or", []rules.Rule{rule("z", 1, anyOf(sni(".zoom.us"), port(443)), block)}, to + " dns=us01.zoom.us", "z"},
		{"domain is the SNI", []rules.Rule{rule("z", 1, domain(".zoom.us"), block)}, to + " sni=us01.zoom.us http_host=cdn.example", "z"},
		{"domain is the Host", []rules.Rule{rule("z", 1, domain("cdn.example"), block)}, to + " http_host=cdn.example", "z"},
		{"domain is the hint", []rules.Rule{rule("z", 1, domain(".zoom.us"), block)}, to + " sni=null dns=us01.zoom.us", "z ?domain dns"},
		{"domain is what DNS says in the end", []rules.Rule{rule("z", 1, domain(".zoom.us"), block)}, to + " sni=null http_host=null dns=us01.zoom.us", "z dns"},
		{"and false if nothing matches", []rules.Rule{rule("z", 1, domain(".zoom.us"), block)}, to + " sni=null http_host=null dns=cdn.example", "default dns"},
		{"and none without names", []rules.Rule{rule("z", 1, domain(".zoom.us"), block)}, to + " sni=null http_host=null", "default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy(c.rules...)
			d := decide(t, p, c.flow, nil)
			if got := brief(p, &d); got != c.want {
				t.Errorf("%s: %s, want %s", c.flow, got, c.want)
			}
		})
	}
}

func TestModifiers(t *testing.T) {
	mods := func(m rules.Modifiers) rules.Outcome { return rules.Outcome{Mods: m} }
	p := policy(
		rule("first", 3, rules.Expr{}, mods(rules.Modifiers{Log: flow.Some("first")})),
		rule("second", 2, rules.Expr{}, mods(rules.Modifiers{Log: flow.Some("second"), Throttle: flow.Some(0)})),
		rule("ends", 1, rules.Expr{}, route(fast)),
		rule("after", 0, rules.Expr{}, mods(rules.Modifiers{DSCP: flow.Some[uint8](1)})),
	)
	d := decide(t, p, "tcp ? > ?", nil)
	want := rules.Modifiers{Log: flow.Some("first"), Throttle: flow.Some(0)}
	if d.Rule != 2 || d.Mods != want || d.RunnerUp != 3 {
		t.Errorf("%+v, want rule 2, runner-up 3, %+v", d, want)
	}
}

func TestNoDefault(t *testing.T) {
	p := policy(rule("r", 1, port(1), block))
	p.Default = nil
	d := decide(t, p, "tcp ? > 192.0.2.1:2", nil)
	if d.Kind != rules.ActNone || !d.Default || !d.Final || d.Route != -1 {
		t.Errorf("%+v, want none", d)
	}
}

func TestMetrics(t *testing.T) {
	p := policy(rule("slow", 1, latencyOver(120_000), block))
	w := engine.OfflineWorld(p, state.Normal)
	for _, c := range []struct {
		rtt        time.Duration
		flow, want string
	}{
		{-1, "tcp ? > ?", "default ?latency"},
		{121 * time.Millisecond, "tcp ? > ?", "slow"},
		{120 * time.Millisecond, "tcp ? > ?", "default"},
		{121 * time.Millisecond, "tcp ? > ? latency_ms=1", "default"},
		{-1, "tcp ? > ? latency_ms=120.001", "slow"},
	} {
		w.Uplinks[0].RTT = c.rtt
		d := decide(t, p, c.flow, w)
		if got := brief(p, &d); got != c.want {
			t.Errorf("RTT %v, %s: %s, want %s", c.rtt, c.flow, got, c.want)
		}
	}
}

func TestResolve(t *testing.T) {
	p := policy()
	link := func(s state.State, share int) state.Link {
		return state.Link{State: s, Up: true, Share: share, RTT: -1, Loss: -1, ErrorRate: -1}
	}
	good, dead := link(state.Normal, 100), link(state.Failover, 0)
	unknown, gone := good, dead
	unknown.Unknown = true
	gone.Unknown, gone.Up = true, false
	deadDown, deadSlow, deadLossy := dead, dead, dead
	deadDown.Up = false
	deadSlow.RTT = time.Second
	deadLossy.Lost = 3
	const low, high = 0, 1<<32 - 1 // hashes: the first and the last hundredth
	for _, c := range []struct {
		name  string
		links [2]state.Link
		pick  int // of best
		route int
		hash  uint32
		want  int
	}{
		{"first member", [2]state.Link{good, good}, -1, ha, low, fast},
		{"second when the first is dead", [2]state.Link{dead, good}, -1, ha, low, backup},
		{"degraded is usable", [2]state.Link{link(state.Degraded, 100), good}, -1, ha, low, fast},
		{"recovering takes its share", [2]state.Link{link(state.Recovery, 10), good}, -1, ha, low, fast},
		{"and the rest goes elsewhere", [2]state.Link{link(state.Recovery, 10), good}, -1, ha, high, backup},
		{"unknown with link", [2]state.Link{unknown, good}, -1, ha, low, fast},
		{"unknown without", [2]state.Link{gone, good}, -1, ha, low, backup},
		{"lowest latency obeys the machine", [2]state.Link{good, good}, 1, best, low, backup},
		{"unless that one is dead", [2]state.Link{good, dead}, 1, best, low, fast},
		{"nothing selected: the first", [2]state.Link{good, good}, -1, best, low, fast},
		{"best of bad: link up", [2]state.Link{deadDown, dead}, -1, ha, low, backup},
		{"best of bad: fewest lost", [2]state.Link{deadLossy, deadSlow}, -1, ha, low, backup},
		{"best of bad: lowest RTT", [2]state.Link{dead, deadSlow}, -1, ha, low, backup},
		{"best of bad: list order", [2]state.Link{dead, dead}, -1, ha, low, fast},
		{"when_none block", [2]state.Link{dead, dead}, -1, strict, low, -1},
		{"nested: the blocked one is passed over", [2]state.Link{dead, deadSlow}, -1, nested, low, backup},
		{"nested: usable", [2]state.Link{dead, good}, -1, nested, low, backup},
		{"named directly: obeyed", [2]state.Link{dead, good}, -1, fast, low, fast},
	} {
		w := &state.World{Uplinks: c.links[:], Selected: []int{-1, c.pick, -1, -1}}
		leaf, ok := engine.Resolve(p, w, c.route, c.hash)
		if leaf != c.want || ok != (c.want >= 0) {
			t.Errorf("%s: %d, %v, want %d", c.name, leaf, ok, c.want)
		}
	}
	w := &state.World{Uplinks: []state.Link{dead, dead}, Selected: []int{-1, -1, -1, -1}}
	if leaf, ok := engine.ResolveFallback(p, w, []int{fast, direct}, 0); leaf != direct || !ok {
		t.Errorf("a route without uplink is always usable: %d, %v", leaf, ok)
	}
	alive := make([]state.Truth, len(p.Routes))
	alive[fast], alive[direct] = state.False, state.False
	for i, c := range []struct {
		routes []int
		want   int
	}{
		{[]int{fast, backup}, backup}, {[]int{direct, backup}, backup}, // of several usable ones
		{[]int{direct, fast}, direct}, // of the dead
	} {
		w := &state.World{Uplinks: []state.Link{good, good}, Selected: []int{-1, -1, -1, -1}, Alive: alive}
		if leaf, ok := engine.ResolveFallback(p, w, c.routes, 0); leaf != c.want || !ok {
			t.Errorf("dead route %d: %d, %v, want %d", i, leaf, ok, c.want)
		}
	}
	if _, ok := engine.Resolve(p, &state.World{}, ha, 0); !ok {
		t.Error("an empty world has nothing dead")
	}
}

// TestResolveDeep: a long chain of groups ends at its route, and groups that
// lead to their members by 2^99 ways are looked at once each when all is dead.
func TestResolveDeep(t *testing.T) {
	const depth = 100
	p := &rules.Policy{
		Uplinks: []rules.Uplink{{Name: "wan1"}},
		Routes:  []rules.Route{{Name: "wan1", Kind: rules.RouteUplink, Uplink: 0, Group: -1}},
	}
	for i := range depth { // two groups a level, each with both of the level below
		below := []int{0, 0}
		if i > 0 {
			below = []int{len(p.Routes) - 2, len(p.Routes) - 1}
		}
		for range 2 {
			p.Routes = append(p.Routes, rules.Route{Kind: rules.RouteGroup, Uplink: -1, Group: len(p.Groups)})
			p.Groups = append(p.Groups, rules.Group{Strategy: rules.Fallback, Members: below})
		}
	}
	for _, s := range []state.State{state.Normal, state.Failover} {
		if leaf, ok := engine.Resolve(p, engine.OfflineWorld(&rules.Policy{Uplinks: p.Uplinks, Groups: p.Groups}, s), len(p.Routes)-1, 0); leaf != 0 || !ok {
			t.Errorf("%v: %d, %v", s, leaf, ok)
		}
	}
}

func TestOfflineWorld(t *testing.T) {
	p := policy()
	for s, want := range map[state.State]int{state.Normal: 100, state.Degraded: 100, state.Failover: 0, state.Recovery: 10} {
		w := engine.OfflineWorld(p, s)
		if w.Global != s || w.Uplinks[0].State != s || w.Uplinks[0].Share != want || w.Uplinks[1].State != state.Normal || !w.Uplinks[0].Up {
			t.Errorf("%v: %+v", s, w)
		}
	}
}

func TestExplainIsBounded(t *testing.T) {
	var ports []rules.Expr
	for i := range 1000 {
		ports = append(ports, port(uint16(i)))
	}
	f, err := flow.ParseText("tcp ? > 203.0.113.9:4430")
	if err != nil {
		t.Fatal(err)
	}
	p := policy(rule("many", 1, anyOf(ports...), block))
	e := engine.Compile(p).Explain(&f, engine.OfflineWorld(p, state.Normal))
	const want = "port 4 (flow: 4430); and 995 more"
	if got := e.Near[0].Failed; !strings.HasSuffix(got, want) {
		t.Errorf("%.200s, want ... %s", got, want)
	}
}

func TestExplain(t *testing.T) {
	p := policy(
		rule("default_log", 10, rules.Expr{}, rules.Outcome{Mods: rules.Modifiers{Log: flow.Some("")}}),
		rule("zoom", 100, all(sni("*.zoom.us"), proto(6)), logged(route(ha))),
		rule("dns", 300, all(port(53), proto(6)), block),
		rule("games", 200, anyOf(sni("game.example"), all(port(443), process("game*"))), block),
		rule("slow", 50, no(latencyOver(1000)), block),
	)
	down := rule("down", 90, rules.Expr{}, block)
	down.Active = state.Set(0).With(state.Failover).With(state.Degraded)
	p.Rules = append(p.Rules, down)
	f, err := flow.ParseText("tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=us01.zoom.us id=7")
	if err != nil {
		t.Fatal(err)
	}
	prog := engine.Compile(p)
	if want := []int{2, 3, 1, 5, 4, 0}; !slices.Equal(prog.Order(), want) {
		t.Errorf("order %v, want %v", prog.Order(), want)
	}
	e := prog.Explain(&f, engine.OfflineWorld(p, state.Normal))
	text := prog.ExplainText(&f, &e)
	wantText := `tcp 10.0.0.5:5000 > 203.0.113.9:443 id=7 sni=us01.zoom.us

  rule       zoom
  action     route ha -> fast, log
  state      NORMAL
  why        priority 100 before 10 (default_log)
  order      priority 100, specificity (2,3,0,0)
  runner-up  default_log: priority 10, specificity (0,0,0,0)
  final      not yet: may change with process

  did not match
    dns    port 53 (flow: 443)
    games  none of: sni game.example (flow: us01.zoom.us); process game* (flow: not known yet)
    down   state DEGRADED,FAILOVER (now: NORMAL)
    slow   not latency >1 ms (flow: not known yet)
`
	if diff := cmp.Diff(wantText, text); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	wantJSON := `{"id":"7","rule":"zoom","action":"route","target":"ha","route":"fast","log":true,"throttle":null,"default":false,` +
		`"final":false,"pending":["process"],"why":"priority 100 before 10 (default_log)",` +
		`"runner_up":"default_log","specificity":{"rule":[2,3,0,0],"runner_up":[0,0,0,0]},"near":[` +
		`{"rule":"dns","failed":"port 53 (flow: 443)"},` +
		`{"rule":"games","failed":"none of: sni game.example (flow: us01.zoom.us); process game* (flow: not known yet)"},` +
		`{"rule":"down","failed":"state DEGRADED,FAILOVER (now: NORMAL)"},` +
		`{"rule":"slow","failed":"not latency >1 ms (flow: not known yet)"}]}`
	if diff := cmp.Diff(wantJSON, string(prog.AppendExplanation(nil, f.ID, &e))); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}

func TestWhyAndJSON(t *testing.T) {
	none := policy()
	none.Default = nil
	specific := policy(rule("any", 1, rules.Expr{}, block), rule("name", 1, sni("a.example"), rules.Outcome{Kind: rules.ActFallback, Routes: []int{fast, backup}}))
	twins := policy(rule("one", 1, port(443), rules.Outcome{Kind: rules.ActBlock, Reject: true}), rule("two", 1, port(443), block))
	twins.Rules[0].Do.Mods = rules.Modifiers{
		Log: flow.Some("seen"), Throttle: flow.Some(0), Mark: flow.Some[uint32](1 << 31), DSCP: flow.Some[uint8](46),
	}
	only := policy(rule("only", 1, sni(".zoom.us"), rules.Outcome{Kind: rules.ActFailover, Route: backup}))
	for _, c := range []struct {
		p          *rules.Policy
		flow, want string
	}{
		{none, "tcp ? > ?", `"rule":null,"action":"none","target":null,"route":null,"log":false,"throttle":null,"default":true,"final":true,"pending":[],"why":"no rule matches, and there is no default"`},
		{policy(), "tcp ? > ?", `"rule":null,"action":"route","target":"direct","route":"direct","log":false,"throttle":null,"default":true,"final":true,"pending":[],"why":"no rule matches: default"`},
		{specific, "tcp ? > ? sni=a.example", `"rule":"name","action":"fallback","target":["fast","backup"],"route":"fast","log":false,"throttle":null,"default":false,"final":true,"pending":[],"why":"specificity (1,4,0,0) before (0,0,0,0) (any)"`},
		{twins, "tcp ? > 192.0.2.1:443", `"rule":"one","action":"block","target":"reject","route":null,"log":"seen","throttle":"slow","mark":2147483648,"dscp":46,"default":false,"final":true,"pending":[],"why":"listed before two"`},
		{only, "tcp ? > ? dns=us01.zoom.us", `"rule":"only","action":"failover","target":"backup","route":"backup","log":false,"throttle":null,"default":false,"final":false,"pending":["sni"],"why":"the only match; otherwise default","name_source":"dns"`},
	} {
		d := decide(t, c.p, c.flow, nil)
		if diff := cmp.Diff("{"+c.want+"}", string(engine.Compile(c.p).AppendDecision(nil, "", &d))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.flow, diff)
		}
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	p := policy(
		rule("a", 4, all(sni("*.zoom.us", "zoom.com"), port(80)), block), rule("b", 3, anyOf(dst("10.0.0.0/8"), process("x*")), block),
		rule("c", 2, all(sni(".zoom.us"), no(port(80))), logged(route(ha))), rule("d", 1, rules.Expr{}, route(best)),
	)
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Recovery)
	for _, text := range []string{
		"tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=us01.zoom.us process=zoom",
		"tcp 10.0.0.5:5000 > 203.0.113.9:443",
		"tcp 10.0.0.5:5000 > 203.0.113.9:443 dns=us01.zoom.us,b.example",
	} {
		f, err := flow.ParseText(text)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { prog.Decide(&f, w) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}
