package actions_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/fake"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// held is zoom with two rules that need the name itself, and hellos that wait.
func held(onCrash rules.OnCrash) *rules.Policy {
	p := zoom()
	p.Hash = [32]byte{7}
	named := func(name string, ports ...rules.PortRange) rules.Expr {
		e := pred(rules.Pred{Field: rules.FieldSNI, Names: []rules.NamePattern{{Kind: rules.Exact, Name: name}}})
		if ports != nil {
			e = both(e, pred(rules.Pred{Field: rules.FieldPort, Ports: ports}))
		}
		return e
	}
	p.Throttles = []rules.Throttle{{Name: "slow", Down: 8e6, Per: "all"}}
	p.Rules = append(p.Rules,
		rules.Rule{Name: "ads", Priority: 400, Active: state.AllStates, Match: named("ads.example"), Do: rules.Outcome{Kind: rules.ActBlock, Reject: true}},
		rules.Rule{Name: "evil", Priority: 400, Active: state.AllStates, Match: named("evil.example", rules.PortRange{Lo: 9000, Hi: 9010}), Do: rules.Outcome{Kind: rules.ActBlock}},
		rules.Rule{Name: "video", Priority: 400, Active: state.AllStates, Match: named("video.example"), Do: rules.Outcome{Mods: rules.Modifiers{Throttle: flow.Some(0)}}})
	p.Daemon = rules.Daemon{OnCrash: onCrash, Hello: rules.Hold}
	return p
}

// TestHelloPlan shows the plan, and that switching is a difference that can be taken back.
func TestHelloPlan(t *testing.T) {
	p := held(rules.Last)
	h := twoLines()
	h.Queue, h.CPUs = actions.LegacyQueue, 2
	w := engine.OfflineWorld(p, state.Normal)
	hold := plan(t, p, h, w, nil)
	golden(t, "hello.plan", hold.String())
	p.Daemon.Enforce = rules.Consult
	both := plan(t, p, h, w, hold)
	p.Daemon = rules.Daemon{}
	watch := plan(t, p, h, w, both)
	var k fake.Kernel
	for _, s := range []struct{ from, to *actions.Plan }{{nil, hold}, {hold, both}, {both, hold}, {hold, watch}, {watch, both}, {both, nil}} {
		if err := k.Apply(context.Background(), actions.Diff(s.from, s.to)); err != nil {
			t.Fatal(err)
		}
		want := actions.Legacy{}
		if s.to != nil {
			want = s.to.Legacy()
		}
		if k.Jump != want {
			t.Errorf("jumps %+v, want %+v", k.Jump, want)
		}
		if steps := actions.Diff(s.to, s.to); len(steps) != 0 {
			t.Errorf("Diff(a, a) = %v", steps)
		}
	}
	if got := strings.Join(both.Legacy().Rules(), "\n"); !strings.Contains(got, "-A FORWARD -j netpolicy_hello\n-A OUTPUT -j netpolicy_ask\n-A netpolicy_ask ") {
		t.Errorf("not in the order of iptables-save:\n%s", got)
	}
	none := zoom()
	none.Daemon.Hello = rules.Hold
	none.Rules = slices.DeleteFunc(none.Rules, func(r rules.Rule) bool { return r.Name == "zoom" })
	for _, c := range []struct {
		name   string
		policy *rules.Policy
		change func(*actions.Host)
		want   string
	}{
		{"no rule by a name", none, func(*actions.Host) {}, "nothing is held"},
		{"a host without queues", held(rules.Last), func(h *actions.Host) { h.Queue = actions.NoQueue }, "no packets to the daemon"},
		{"iptables", held(rules.Last), func(h *actions.Host) { h.NoNFTables, h.XTables = true, true }, "not with iptables"},
	} {
		host := h
		c.change(&host)
		got, diags := actions.PlanFor(engine.Compile(c.policy), host, w, nil)
		told := false
		for _, d := range diags {
			told = told || d.Code == "NP502" && strings.Contains(d.Message, c.want)
		}
		if got == nil || got.Hello != (actions.Hello{}) || !told {
			t.Errorf("%s: %v", c.name, diags)
		}
	}
}

// TestHello sends packets of forwarded flows through a table that holds hellos, by
// either way of asking.
func TestHello(t *testing.T) {
	for _, via := range []actions.Via{actions.NFTQueue, actions.LegacyQueue} {
		for _, onCrash := range []rules.OnCrash{rules.Last, rules.Closed} {
			p := held(onCrash)
			h := twoLines()
			h.Queue, h.CPUs = via, 2
			w := engine.OfflineWorld(p, state.Normal)
			pl := plan(t, p, h, w, nil)
			var k fake.Kernel
			if err := k.Apply(context.Background(), actions.Diff(nil, pl)); err != nil {
				t.Fatal(err)
			}
			testHello(t, p, pl, &k, w)
		}
	}
}

func testHello(t *testing.T, p *rules.Policy, pl *actions.Plan, k *fake.Kernel, w *state.World) {
	asked := 0
	prog := engine.Compile(p)
	decide := func(sni string) uint32 {
		f := flow.Flow{
			Proto: flow.Some(flow.TCP), Src: flow.Some(netip.MustParseAddr("10.0.0.5")), Dst: flow.Some(netip.MustParseAddr("203.0.113.7")),
			DstPort: flow.Some(uint16(443)), SNI: flow.Some(sni),
		}
		d := prog.Decide(&f, w)
		return pl.HelloCode(&d)
	}
	answer := func(code uint32) { k.Hello = func(*fake.Packet) uint32 { asked++; return code } }
	flowOf := func(change func(*fake.Packet)) (first fake.Packet, r fake.Result) {
		first = fake.Packet{
			In: "lan0", Proto: 6, Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("203.0.113.7"), Sport: 5000, Dport: 443, New: true,
			Labels: map[uint32]bool{},
		}
		if change != nil {
			change(&first)
		}
		r = k.Send(first)
		return first, r
	}
	next := func(first fake.Packet, before fake.Result) fake.Result {
		first.New, first.CTMark, first.DSCP = false, before.CTMark, 0
		return k.Send(first)
	}
	expect := func(what string, r fake.Result, verdict fake.Verdict, questions int) {
		t.Helper()
		if r.Verdict != verdict || r.Err != nil || r.Rank != 0 || asked != questions {
			t.Errorf("%s: %+v, asked %d times, want %v and %d", what, r, asked, verdict, questions)
		}
		asked = 0
	}
	for _, c := range []struct {
		name    string
		verdict fake.Verdict
	}{{"other.example", fake.Accept}, {"ads.example", fake.Reject}, {"zoom.us", fake.Accept}, {"video.example", fake.Accept}} {
		answer(decide(c.name))
		x, r := flowOf(nil)
		expect(c.name+": the SYN", r, fake.Accept, 0)
		answer(actions.HelloAgain)
		expect(c.name+": the handshake", next(x, r), fake.Accept, 1)
		answer(decide(c.name))
		second := next(x, r)
		expect(c.name+": the hello", second, c.verdict, 1)
		if c.verdict == fake.Accept && (second.Dev != r.Dev || second.CTMark != r.CTMark || second.Mark != r.Mark) {
			t.Errorf("%s: %+v, want the way of the first packet %+v", c.name, second, r)
		}
		if c.name == "zoom.us" != (second.DSCP == 46) {
			t.Errorf("%s: dscp %d", c.name, second.DSCP)
		}
		if c.name == "video.example" != x.Labels[125] {
			t.Errorf("%s: labels %v", c.name, x.Labels)
		}
		expect(c.name+": what follows", next(x, second), c.verdict, 0)
	}
	answer(2) // block
	x, r := flowOf(func(x *fake.Packet) { x.Proto = 17 })
	expect("QUIC", r, fake.Drop, 1)
	expect("QUIC again", next(x, r), fake.Drop, 0)
	answer(2)
	for _, c := range []struct {
		name   string
		change func(*fake.Packet)
		asked  int
	}{
		{"a port that a rule names", func(x *fake.Packet) { x.Dport = 9005 }, 1},
		{"another port", func(x *fake.Packet) { x.Dport = 22 }, 0},
		{"to this host", func(x *fake.Packet) { x.Local = true }, 0},
		{"of this host", func(x *fake.Packet) { x.In, x.Out = "", "wan1" }, 0},
		{"begun before the table", func(x *fake.Packet) { x.New, x.CTMark = false, 0 }, 0},
		{"a reply", func(x *fake.Packet) { x.New, x.Reply = false, true }, 0},
	} {
		x, r := flowOf(c.change)
		if r = next(x, r); asked != c.asked {
			t.Errorf("%s: asked %d times, want %d: %+v", c.name, asked, c.asked, r)
		}
		asked = 0
	}
	k.Hello = nil
	x, r = flowOf(nil)
	if r = next(x, r); (r.Verdict == fake.Drop) != pl.Hello.Strict || x.Labels[63] == pl.Hello.Strict {
		t.Errorf("nobody listens, strict %v: %+v, labels %v", pl.Hello.Strict, r, x.Labels)
	}
}
