package actions_test

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/fake"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/internal/policyrand"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/state"
)

// TestMain asks rapid for more than its hundred cases: 1,000 policies with 16
// packets each take a second or two. -rapid.checks overrides it.
func TestMain(m *testing.M) {
	checks := "1000"
	if os.Getenv("FULL") != "" {
		checks = "20000"
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err) // rapid has renamed its flag: our own bug
	}
	os.Exit(m.Run())
}

var uids = map[string]uint32{"alice": 1000, "bob": 1001, "4242": 4242}

// threeLines is the host of policyrand's policies.
func threeLines() actions.Host {
	var h actions.Host
	h.Users = map[string]uint32{"alice": 1000, "bob": 1001}
	for i, dev := range []string{"lan0", "lan1", "wan0", "wan1", "wan2"} {
		h.Links = append(h.Links, actions.Link{Name: dev, Index: i + 2, Up: true})
	}
	for _, dev := range []string{"wan0", "wan1", "wan2"} {
		h.Defaults = append(h.Defaults,
			actions.DefaultRoute{Dev: dev, Family: actions.IPv4, Gateway: netip.MustParseAddr("192.0.2.1")},
			actions.DefaultRoute{Dev: dev, Family: actions.IPv6, Gateway: netip.MustParseAddr("2001:db8:1::1")})
	}
	return h
}

func packetOf(f *flow.Flow) fake.Packet {
	var p fake.Packet
	proto, _ := f.Proto.Get()
	p.Proto, p.New = uint8(proto), true
	p.In, _ = f.IfaceIn.Get()
	p.Src, _ = f.Src.Get()
	p.Dst, _ = f.Dst.Get()
	p.Sport, _ = f.SrcPort.Get()
	p.Dport, _ = f.DstPort.Get()
	p.DSCP, _ = f.DSCP.Get()
	p.Mark, _ = f.Mark.Get()
	if u, ok := f.User.Get(); ok {
		p.UID, p.HasUID = uids[u], true
	}
	p.Labels = map[uint32]bool{}
	return p
}

// want says what the decision means for the packet.
func want(p *rules.Policy, plan *actions.Plan, f *flow.Flow, d *engine.Decision) (r fake.Result) {
	r.Mark, _ = f.Mark.Get()
	r.DSCP, _ = f.DSCP.Get()
	if m, ok := d.Mods.Mark.Get(); ok {
		r.Mark = m
	}
	if x, ok := d.Mods.DSCP.Get(); ok {
		r.DSCP = x
	}
	switch {
	case d.Kind == rules.ActNone:
		return r
	case d.Kind == rules.ActBlock && d.Reject:
		return fake.Result{Verdict: fake.Reject}
	case d.Route < 0:
		return fake.Result{Verdict: fake.Drop}
	}
	route := &p.Routes[d.Route]
	r.CTMark, _ = plan.CTMark(d.Route)
	switch route.Kind {
	case rules.RouteBlackhole:
		return fake.Result{Verdict: fake.Drop}
	case rules.RouteUplink:
		r.Dev = p.Uplinks[route.Uplink].Dev
	case rules.RouteMark:
		r.Mark |= route.Mark
	}
	return r
}

// wantLogs lists the rules that log, by the semantics: every true rule with
// modifiers alone above the winner, and the winner. Their first is the one
// whose text the decision holds.
func wantLogs(prog *engine.Program, f *flow.Flow, w *state.World, d *engine.Decision) []string {
	p := prog.Policy()
	var logs []string
	for _, i := range prog.Order() {
		r := &p.Rules[i]
		if !r.Do.Mods.Log.Unknown() && (i == d.Rule || r.Do.Kind == rules.ActNone && alone(p, i, f, w)) {
			logs = append(logs, actions.LogPrefix(r.Name))
		}
		if i == d.Rule {
			return logs
		}
	}
	if d.Default && p.Default != nil && !p.Default.Mods.Log.Unknown() {
		logs = append(logs, actions.LogPrefix("default"))
	}
	return logs
}

// alone reports whether the rule is true by itself.
func alone(p *rules.Policy, rule int, f *flow.Flow, w *state.World) bool {
	one := *p
	r := p.Rules[rule]
	r.Do = rules.Outcome{Kind: rules.ActBlock}
	one.Rules, one.Default = []rules.Rule{r}, nil
	d := engine.Compile(&one).Decide(f, w)
	return d.Rule == 0
}

// TestTableDecidesAsEngine sends random first packets through planned tables in
// random worlds and with random DNS names; the table must give what the engine
// decides.
func TestTableDecidesAsEngine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policyrand.Policy(t, rapid.SampledFrom([]int{12, 12, 12, 80}).Draw(t, "up to"))
		prog := engine.Compile(p)
		world := policyrand.World(t)
		plan, diags := actions.PlanFor(prog, threeLines(), world, nil)
		if plan == nil {
			t.Fatalf("no plan: %v", diags)
		}
		ctx := context.Background()
		var k fake.Kernel
		if err := k.Apply(ctx, actions.Diff(nil, plan)); err != nil {
			t.Fatal(err)
		}
		names := policyrand.DNS(t)
		for _, a := range policyrand.Servers {
			if n, ok := names[a]; ok {
				updates, err := plan.Answer(a, n, time.Minute)
				if err == nil {
					err = k.Update(ctx, updates)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 2 {
			for range 8 {
				f := policyrand.First(t)
				dst, _ := f.Dst.Get()
				f.DNS = names[dst]
				check(t, p, prog, plan, &k, &f, world)
			}
			next := policyrand.World(t)
			if err := k.Update(ctx, plan.WorldUpdates(world, next)); err != nil {
				t.Fatal(err)
			}
			world = next
		}
	})
}

// TestManyLists has more different lists than sets for them: the rest become
// rules, and must mean the same.
func TestManyLists(t *testing.T) {
	p := zoom()
	p.Rules = nil
	for i := range uint16(2500) {
		e := pred(rules.Pred{Field: rules.FieldPort, Ports: []rules.PortRange{{Lo: i, Hi: i}, {Lo: 2 * i, Hi: 2*i + 3}, {Lo: 60000, Hi: 60000 + i}}})
		if i%3 == 0 {
			e = both(pred(rules.Pred{Field: rules.FieldProto, Numbers: []uint32{6}}), rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{e}})
		}
		p.Rules = append(p.Rules, rules.Rule{
			Name: "r", Priority: int(i % 7), Active: state.AllStates, Match: e,
			Do: rules.Outcome{Kind: rules.ActRoute, Route: int(i % 3)},
		})
	}
	p.Rules[2499].Priority = -1
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Normal)
	pl := plan(t, p, twoLines(), w, nil)
	var k fake.Kernel
	if err := k.Apply(context.Background(), actions.Diff(nil, pl)); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		f := policyrand.First(t)
		f.Proto, f.SrcPort = flow.Some(rapid.SampledFrom([]flow.Proto{flow.TCP, flow.UDP}).Draw(t, "l4")), flow.Some(uint16(1024))
		f.DstPort = flow.Some(uint16(rapid.IntRange(0, 65535).Draw(t, "any port")))
		d := prog.Decide(&f, w)
		got := k.Send(packetOf(&f))
		if want := want(p, pl, &f, &d); got.Verdict != want.Verdict || got.CTMark != want.CTMark {
			t.Fatalf("%+v: got %+v, want %+v", f, got, want)
		}
	})
}

func check(t *rapid.T, p *rules.Policy, prog *engine.Program, plan *actions.Plan, k *fake.Kernel, f *flow.Flow, w *state.World) {
	d := prog.Decide(f, w)
	pkt := packetOf(f)
	got := k.Send(pkt)
	exp := want(p, plan, f, &d)
	logs := wantLogs(prog, f, w, &d)
	slices.Sort(logs)
	slices.Sort(got.Logs)
	if !slices.Equal(logs, got.Logs) {
		t.Fatalf("logs %v, want %v\n%+v", got.Logs, logs, d)
	}
	got.Logs = nil
	checkThrottle(t, &pkt, &got, &d)
	if got.Verdict != fake.Accept { // the rest of a packet that is gone does not matter
		got = fake.Result{Verdict: got.Verdict, Err: got.Err}
	}
	got.Mark &^= plan.MarkMask
	if !reflect.DeepEqual(got, exp) {
		t.Fatalf("table gives %+v, want %+v\nflow %+v\nworld %+v\ndecision %+v\n%s", got, exp, *f, *w, d, plan)
	}
	if got.Verdict != fake.Accept {
		return
	}
	// The flow's next packet goes the same way, whatever the world does then.
	pkt.New, pkt.CTMark = false, got.CTMark
	if next := k.Send(pkt); got.CTMark != 0 && (next.Dev != exp.Dev || next.CTMark != exp.CTMark || next.Mark&^plan.MarkMask != exp.Mark || next.DSCP != exp.DSCP || len(next.Logs) != 0) {
		t.Fatalf("second packet: %+v, want %+v", next, exp)
	}
}

// slowed is the connection label of flows that a throttle slows.
const slowed = 125

// checkThrottle fails unless a flow that goes on is slowed exactly when the decision says so.
func checkThrottle(t *rapid.T, pkt *fake.Packet, got *fake.Result, d *engine.Decision) {
	if _, want := d.Mods.Throttle.Get(); got.Verdict == fake.Accept && pkt.Labels[slowed] != want {
		t.Fatalf("throttled: %t, want %t: %+v", pkt.Labels[slowed], want, d)
	}
}

// TestDiffApply: carrying out Diff(a, b) on a gives b, and Diff(b, b) is empty.
func TestDiffApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		draw := func(prev *actions.Plan) *actions.Plan {
			if rapid.IntRange(0, 4).Draw(t, "none") == 0 {
				return nil
			}
			plan, _ := actions.PlanFor(engine.Compile(policyrand.Policy(t, 4)), threeLines(), policyrand.World(t), prev)
			return plan
		}
		a := draw(nil)
		b := draw(a)
		if b != nil && rapid.Bool().Draw(t, "same policy") {
			c, _ := actions.PlanFor(planProg(t, b), threeLines(), policyrand.World(t), b)
			a, b = b, c
		}
		var got, exp fake.Kernel
		for _, err := range []error{got.Apply(ctx, actions.Diff(nil, a)), got.Apply(ctx, actions.Diff(a, b)), exp.Apply(ctx, actions.Diff(nil, b))} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if !sameKernel(&got, &exp) {
			t.Fatalf("Diff(a, b) on a is not b:\n%v\n%v", got, exp)
		}
		if steps := actions.Diff(b, b); len(steps) != 0 {
			t.Fatalf("Diff(b, b) = %v", steps)
		}
	})
}

// TestOneRuleChanges: when one rule of a thousand gets another action, few elements
// change, and the table is then the one that would have been loaded.
func TestOneRuleChanges(t *testing.T) {
	load := func(prev *actions.Plan, edit func(*rules.Policy)) *actions.Plan {
		p, diags := yaml.Load("policy.yaml", policygen.YAML(1, 1000))
		if p == nil {
			t.Fatal(diags)
		}
		edit(p)
		return plan(t, p, twoLines(), engine.OfflineWorld(p, state.Normal), prev)
	}
	ctx := context.Background()
	before := load(nil, func(*rules.Policy) {})
	for name, edit := range map[string]func(*rules.Policy){
		"another route": func(p *rules.Policy) { p.Rules[500].Do = rules.Outcome{Kind: rules.ActRoute, Route: 0}; p.Hash[0]++ },
		"block":         func(p *rules.Policy) { p.Rules[37].Do = rules.Outcome{Kind: rules.ActBlock}; p.Hash[0]++ },
		"one less":      func(p *rules.Policy) { p.Rules = slices.Delete(p.Rules, 700, 701); p.Hash[0]++ },
	} {
		after := load(before, edit)
		steps := actions.Diff(before, after)
		if len(steps) != 1 || steps[0].Kind != actions.PutChanges {
			t.Fatalf("%s: %v, want one step of changes", name, steps)
		}
		t.Logf("%s: %s", name, steps[0])
		var got, exp fake.Kernel
		for _, err := range []error{got.Apply(ctx, actions.Diff(nil, before)), got.Apply(ctx, steps), exp.Apply(ctx, actions.Diff(nil, after))} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if !sameKernel(&got, &exp) {
			t.Errorf("%s: the changed table is another", name)
		}
	}
}

func planProg(t *rapid.T, p *actions.Plan) *engine.Program {
	prog := p.Program()
	if prog == nil {
		t.Fatal("a plan that PlanFor made has its program")
	}
	return prog
}

func sameKernel(a, b *fake.Kernel) bool {
	sortRoutes := func(k *fake.Kernel) []string {
		var list []string
		for _, r := range k.Routes {
			list = append(list, r.String())
		}
		for _, r := range k.Rules {
			list = append(list, r.String())
		}
		slices.Sort(list)
		return list
	}
	if (a.Table == nil) != (b.Table == nil) || !slices.Equal(sortRoutes(a), sortRoutes(b)) {
		return false
	}
	if a.Table == nil {
		return true
	}
	for _, s := range b.Table.Sets {
		if !reflect.DeepEqual(a.Elems(s.Name), b.Elems(s.Name)) {
			return false
		}
	}
	return reflect.DeepEqual(a.Table.Chains, b.Table.Chains)
}

func TestFailoverIsOneElement(t *testing.T) {
	p := zoom()
	normal, failed := engine.OfflineWorld(p, state.Normal), engine.OfflineWorld(p, state.Failover)
	pl := plan(t, p, twoLines(), normal, nil)
	var text []string
	for _, u := range pl.WorldUpdates(normal, failed) {
		if u.Set == "fw" {
			text = append(text, u.String())
		}
	}
	if want := "put element inet netpolicy fw { 0x3 : 0x3 }"; strings.Join(text, "\n") != want {
		t.Errorf("got %v, want %s", text, want)
	}
}
