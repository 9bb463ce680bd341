package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// worldPolicy has a schedule, a quota and two conditions to refer to.
func worldPolicy(list ...rules.Rule) *rules.Policy {
	p := policy(list...)
	p.Schedules = []rules.Schedule{{Name: "night"}}
	p.Quotas = []rules.Quota{{Name: "daily"}}
	p.Conditions = []rules.Condition{{Name: "busy"}, {Name: "lossy"}}
	return p
}

func refer(f rules.Field, ref int) rules.Expr { return pred(rules.Pred{Field: f, Ref: ref}) }

func metric(f rules.Field, uplink int, m rules.Metric, cmp rules.Cmp, bound int64) rules.Expr {
	return pred(rules.Pred{Field: f, Ref: uplink, Metric: m, Cmp: cmp, Bound: bound})
}

func when(r rules.Rule, e rules.Expr) rules.Rule {
	r.When = &e
	return r
}

func literals(f rules.Field, list ...rules.Glob) rules.Expr {
	return pred(rules.Pred{Field: f, Globs: list})
}

// TestFlowFields: every field of a flow that came with the whole language, true,
// false, unknown and absent.
func TestFlowFields(t *testing.T) {
	atLeast := func(f rules.Field, n int64) rules.Expr { return pred(rules.Pred{Field: f, Cmp: rules.Ge, Bound: n}) }
	for _, c := range []struct {
		match              rules.Expr
		yes, no, none, key string
	}{
		{literals(rules.FieldApp, "bittorrent"), "app=bittorrent", "app=http", "app=null", "app"},
		{literals(rules.FieldALPN, "h3", "h2"), "alpn=http/1.1,h2", "alpn=http/1.1,h2c", "alpn=null", "alpn"},
		{literals(rules.FieldGroup, "game*"), "group=games", "group=wheel", "group=null", "group"},
		{literals(rules.FieldIfaceOut, "eth*"), "iface_out=eth*", "iface_out=eth1", "iface_out=null", "iface.out"},
		{literals(rules.FieldCountry, "DE", "FR"), "country=fr", "country=US", "country=null", "country"},
		{pred(rules.Pred{Field: rules.FieldASN, Numbers: []uint32{64496, 64500}}), "asn=64500", "asn=64497", "asn=null", "asn"},
		{atLeast(rules.FieldConnBytes, 1<<20), "conn_bytes=1048576", "conn_bytes=1048575", "conn_bytes=null", "conn.bytes"},
		{atLeast(rules.FieldConnAge, 30_000_000), "conn_age=30", "conn_age=29.999999", "conn_age=null", "conn.age"},
	} {
		p := policy(rule("r", 1, c.match, block))
		negated := policy(rule("r", 1, no(c.match), block))
		for _, k := range []struct{ facts, want, negated string }{
			{c.yes, "r", "default"}, {c.no, "default", "r"}, {c.none, "default", "r"}, {"", "default ?" + c.key, "default ?" + c.key},
		} {
			d, n := decide(t, p, "tcp ? > ? "+k.facts, nil), decide(t, negated, "tcp ? > ? "+k.facts, nil)
			if got := brief(p, &d); got != k.want {
				t.Errorf("%s %q: %s, want %s", c.key, k.facts, got, k.want)
			}
			if got := brief(negated, &n); got != k.negated {
				t.Errorf("not %s %q: %s, want %s", c.key, k.facts, got, k.negated)
			}
		}
	}
}

// TestWorldFields: facts of the world, and a rule that asks for them in its `when`.
func TestWorldFields(t *testing.T) {
	const wan1, wan2, nowhere = 0, 1, -1
	slow := metric(rules.FieldUplink, wan2, rules.MetricRTT, rules.Gt, 50_000)
	for _, c := range []struct {
		name string
		when rules.Expr
		want string
		set  func(w *state.World)
	}{
		{"nothing measured", slow, "default ?uplink", func(*state.World) {}},
		{"below", slow, "default", func(w *state.World) { w.Uplinks[1].RTT = 50 * time.Millisecond }},
		{"above", slow, "r", func(w *state.World) { w.Uplinks[1].RTT = 51 * time.Millisecond }},
		{"another uplink", slow, "default ?uplink", func(w *state.World) { w.Uplinks[0].RTT = time.Second }},
		{"not unknown", no(slow), "default ?uplink", func(*state.World) {}},
		{"p90", metric(rules.FieldUplink, wan1, rules.MetricP90, rules.Ge, 1000), "r", func(w *state.World) { w.Uplinks[0].P90 = time.Millisecond }},
		{"jitter", metric(rules.FieldUplink, wan1, rules.MetricJitter, rules.Lt, 1000), "r", func(w *state.World) { w.Uplinks[0].Jitter = 0 }},
		{"loss", metric(rules.FieldUplink, wan1, rules.MetricLoss, rules.Ge, 50_000), "r", func(w *state.World) { w.Uplinks[0].Loss = 50_000 }},
		{"error rate", metric(rules.FieldUplink, wan1, rules.MetricErrorRate, rules.Eq, 0), "r", func(w *state.World) { w.Uplinks[0].ErrorRate = 0 }},
		{"usage", metric(rules.FieldUplink, wan1, rules.MetricUsage, rules.Gt, 1<<40), "r", func(w *state.World) { w.Uplinks[0].Usage = 1<<40 + 1 }},
		{"up", metric(rules.FieldUplink, wan1, rules.MetricUp, rules.Eq, 1), "r", func(*state.World) {}},
		{"down", metric(rules.FieldUplink, wan1, rules.MetricUp, rules.Eq, 0), "r", func(w *state.World) { w.Uplinks[0].Up = false }},
		{"state", pred(rules.Pred{Field: rules.FieldUplink, Ref: wan2, Metric: rules.MetricState, States: 1 << state.Failover}), "r", func(w *state.World) {
			w.Uplinks[1].State = state.Failover
		}},
		{"route", metric(rules.FieldRoute, wan2, rules.MetricLoss, rules.Ge, 0), "default ?route", func(*state.World) {}},
		{"route over no uplink", metric(rules.FieldRoute, nowhere, rules.MetricLoss, rules.Ge, 0), "default", func(*state.World) {}},
		{"not over no uplink", no(metric(rules.FieldRoute, nowhere, rules.MetricUp, rules.Eq, 1)), "r", func(*state.World) {}},
		{"schedule not known", refer(rules.FieldSchedule, 0), "default ?schedule", func(w *state.World) { w.Schedules = nil }},
		{"schedule open", refer(rules.FieldSchedule, 0), "r", func(w *state.World) { w.Schedules = []state.Truth{state.True} }},
		{"schedule closed", no(refer(rules.FieldSchedule, 0)), "r", func(w *state.World) { w.Schedules = []state.Truth{state.False} }},
		{"quota exceeded", refer(rules.FieldQuota, 0), "r", func(w *state.World) { w.Quotas = []state.Truth{state.True} }},
		{"condition", refer(rules.FieldCondition, 1), "r", func(w *state.World) { w.Conditions = []state.Truth{state.Unset, state.True} }},
		{"condition not known", refer(rules.FieldCondition, 0), "default ?condition", func(w *state.World) { w.Conditions = []state.Truth{state.Unset, state.True} }},
		{"one is enough", anyOf(refer(rules.FieldCondition, 0), refer(rules.FieldCondition, 1)), "r", func(w *state.World) {
			w.Conditions = []state.Truth{state.Unset, state.True}
		}},
	} {
		p := worldPolicy(when(rule("r", 1, port(443), block), c.when))
		w := engine.OfflineWorld(p, state.Normal)
		c.set(w)
		d := decide(t, p, "tcp ? > 192.0.2.1:443", w)
		if got := brief(p, &d); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if d := decide(t, p, "tcp ? > 192.0.2.1:80", w); d.Rule != -1 || !d.Final {
			t.Errorf("%s: %s for a flow that does not match", c.name, brief(p, &d))
		}
		// Where it stands in the policy makes no difference to what it says.
		p.Rules[0].Match, p.Rules[0].When = all(port(443), c.when), nil
		d = decide(t, p, "tcp ? > 192.0.2.1:443", w)
		if got := brief(p, &d); got != c.want {
			t.Errorf("%s, in the match: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestWhenDoesNotCount: `when` adds nothing to specificity, and a rule that is off
// by it lets the next one win.
func TestWhenDoesNotCount(t *testing.T) {
	busy := refer(rules.FieldCondition, 0)
	p := worldPolicy(rule("first", 1, port(443), route(fast)), when(rule("second", 1, port(443), block), all(busy, busy)))
	w := engine.OfflineWorld(p, state.Normal)
	w.Conditions = []state.Truth{state.True, state.False}
	if d := decide(t, p, "tcp ? > 192.0.2.1:443", w); d.Rule != 0 || d.RunnerUp != 1 {
		t.Errorf("rule %d before %d, want 0 before 1", d.Rule, d.RunnerUp)
	}
	p.Rules[0].When = p.Rules[1].When
	w.Conditions[0] = state.False
	if d := decide(t, p, "tcp ? > 192.0.2.1:443", w); !d.Default || !d.Final {
		t.Errorf("%s, want the default", brief(p, &d))
	}
}

// TestWhenAndHints: a rule whose name is a hint rests on it only while its `when` holds.
func TestWhenAndHints(t *testing.T) {
	p := worldPolicy(when(rule("z", 1, sni(".zoom.us"), block), refer(rules.FieldCondition, 0)))
	for c, want := range map[state.Truth]string{state.True: "z ?sni dns", state.False: "default", state.Unset: "default ?condition,sni"} {
		w := engine.OfflineWorld(p, state.Normal)
		w.Conditions = []state.Truth{c, c}
		d := decide(t, p, "tcp ? > 192.0.2.1:443 dns=us01.zoom.us", w)
		if got := brief(p, &d); got != want {
			t.Errorf("condition %d: %s, want %s", c, got, want)
		}
	}
}

// TestDisabledRule: a rule that is active in no state is none, whatever else it says.
func TestDisabledRule(t *testing.T) {
	off := rule("off", 9, rules.Expr{}, block)
	off.Active = 0
	open := rule("open", 8, sni("a.example"), block)
	open.Active = 0
	list := []rules.Rule{off, open}
	for i := range 100 { // so many that they are filed in all ways
		r := rule("", i, all(port(uint16(i)), sni(".example")), block)
		r.Active = 0
		list = append(list, r)
	}
	p := policy(append(list, rule("on", 1, port(443), route(fast)))...)
	d := decide(t, p, "tcp ? > 192.0.2.1:443", nil)
	if got := brief(p, &d); got != "on" || d.RunnerUp != -1 {
		t.Errorf("%s, runner-up %d; want on alone", got, d.RunnerUp)
	}
	var f flow.Flow
	prog := engine.Compile(p)
	e := prog.Explain(&f, engine.OfflineWorld(p, state.Normal))
	if text := prog.ExplainText(&f, &e); !strings.Contains(text, "off   disabled in every state\n") {
		t.Errorf("not told:\n%s", text)
	}
}

// TestExplainWorld: why rules did not match, when it is for the world's sake.
func TestExplainWorld(t *testing.T) {
	p := worldPolicy(
		when(rule("a", 9, port(443), block), metric(rules.FieldUplink, 0, rules.MetricRTT, rules.Gt, 120_000)),
		when(rule("b", 8, port(443), block), metric(rules.FieldRoute, 1, rules.MetricLoss, rules.Ge, 50_000)),
		when(rule("c", 7, port(443), block), refer(rules.FieldSchedule, 0)),
		when(rule("d", 6, port(443), block), refer(rules.FieldQuota, 0)),
		when(rule("e", 5, port(443), block), no(refer(rules.FieldCondition, 1))),
	)
	w := engine.OfflineWorld(p, state.Normal)
	w.Uplinks[0].RTT = 12500 * time.Microsecond
	w.Schedules, w.Quotas, w.Conditions = []state.Truth{state.False}, []state.Truth{state.Unset}, []state.Truth{state.Unset, state.True}
	f, err := flow.ParseText("tcp ? > 192.0.2.1:443")
	if err != nil {
		t.Fatal(err)
	}
	prog := engine.Compile(p)
	e := prog.Explain(&f, w)
	_, near, _ := strings.Cut(prog.ExplainText(&f, &e), "did not match\n")
	want := `    a  uplink.wan1.rtt >120 ms (now: 12.5 ms)
    b  route.wan2.loss >=5% (not measured yet)
    c  schedule night (now: no)
    d  quota daily exceeded (not known yet)
    e  not lossy (now: yes)
`
	if diff := cmp.Diff(want, near); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := strings.Join(e.Pending.Names(), ","); got != "quota,route" {
		t.Errorf("pending %s", got)
	}
}

// TestRecompileWhen: a changed `when` is a changed rule, and so are the numbers of
// what it refers to.
func TestRecompileWhen(t *testing.T) {
	p := worldPolicy(when(rule("r", 1, port(443), block), refer(rules.FieldCondition, 0)), rule("s", 0, port(443), route(fast)))
	w := engine.OfflineWorld(p, state.Normal)
	w.Schedules, w.Conditions = []state.Truth{state.False}, []state.Truth{state.True, state.False}
	f, err := flow.ParseText("tcp ? > 192.0.2.1:443")
	if err != nil {
		t.Fatal(err)
	}
	prog := engine.Compile(p)
	for _, c := range []struct {
		when *rules.Expr
		want int
	}{
		{p.Rules[0].When, 0},
		{&rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldCondition, Ref: 1}}, 1},
		{nil, 0},
		{&rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldSchedule}}, 1},
		{&rules.Expr{Op: rules.OpPred, Pred: rules.Pred{Field: rules.FieldUplink, Metric: rules.MetricRTT, Cmp: rules.Lt, Bound: 1}}, 1},
	} {
		q := clone(p)
		q.Rules[0].When = c.when
		prog = engine.Recompile(prog, q)
		if d := prog.Decide(&f, w); d.Rule != c.want {
			t.Errorf("rule %d, want %d", d.Rule, c.want)
		}
	}
	if d := prog.Decide(&f, w); strings.Join(d.Pending.Names(), ",") != "uplink" {
		t.Errorf("pending %v, want uplink, which the patch alone reads", d.Pending.Names())
	}
}
