package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/state"
)

func TestExampleOfTheDesign(t *testing.T) {
	r, got := run(t, `policy p.yaml
sample 5s..65s  uplink=wan1 rtt=400ms
expect 6s  state NORMAL
expect 7s  state DEGRADED
expect 12s state FAILOVER
expect 68s state FAILOVER
expect 69s state RECOVERY
expect 83s state RECOVERY
expect 84s state NORMAL
expect transitions == 4 in 10m
expect transitions <= 4 in 10m
`)
	if got != "" || r.Expectations != 9 || r.Failed != 0 || r.Length != 10*time.Minute {
		t.Errorf("%+v\n%s", r, got)
	}
}

func TestFlowClauses(t *testing.T) {
	const flows = `policy p.yaml
sample 5s uplink=wan1 loss=100%
flow 0s tcp 10.0.0.5:1 > 192.0.2.7:443 sni=www.example
expect action route target ha route wan1 uplink wan1 by default final not log not block not none
flow 0s tcp 10.0.0.5:1 > 192.0.2.7:443 sni=x.ads.example
expect action block block reject block rule ads final
flow 0s tcp 10.0.0.5:1 > 192.0.2.7:443
expect route wan1 pending sni not final
flow 20s udp 10.0.0.5:1 > 192.0.2.7:5060 sni=null
expect action fallback target wan2,wan1 route wan2 uplink wan2 by calls log log "moved" throttle slow mark 7 dscp 46
flow 20s udp 10.0.0.5:1 > 192.0.2.7:53 sni=null
expect route wan2 by default
`
	if r, got := run(t, flows); got != "" || r.Expectations != 29 {
		t.Errorf("%+v\n%s", r, got)
	}
	// Every clause can fail, and says what happened instead.
	for _, c := range []struct{ clause, want string }{
		{"route wan1", "the flow got: fallback wan2,wan1 -> wan2 by calls, log \"moved\", throttle slow, mark 7, dscp 46"},
		{"target wan2", "the flow got: fallback"},
		{"uplink wan1", "it leaves by uplink wan2; the flow got: fallback"},
		{"action block", "the flow got: fallback"},
		{"block", "the flow got"},
		{"by ads", "the flow got"},
		{"not final", "final is true; the flow got"},
		{"pending sni", "the flow got"},
		{"not log", "the flow got"},
		{`log "x"`, "the flow got"},
		{"not throttle slow", "the flow got"},
		{"mark 8", "the flow got"},
		{"dscp 0", "the flow got"},
		{"none", "the flow got"},
	} {
		_, got := run(t, "policy p.yaml\nsample 5s uplink=wan1 loss=100%\nflow 20s udp 10.0.0.5:1 > 192.0.2.7:5060 sni=null\nexpect "+c.clause+"\n")
		if !strings.HasPrefix(got, "t.sim:4:8: error NP320: "+c.want) || !strings.Contains(got, "t.sim:3:10: note: the flow, decided at 20s") {
			t.Errorf("%s:\n%s", c.clause, got)
		}
	}
}

func TestFailedExpectations(t *testing.T) {
	const head = "policy p.yaml\nsample 5s..65s uplink=wan1 rtt=400ms\n"
	for _, c := range []struct{ line, want string }{
		{"expect 9s state NORMAL", `t.sim:3:8: error NP320: at 9s the state was DEGRADED, not NORMAL
 3 | expect 9s state NORMAL
   |        ^^^^^^^^^^^^^^^
  help: the transitions: DEGRADED at 7s
`},
		{"expect 20s state NORMAL uplink=wan1", "t.sim:3:8: error NP320: at 20s uplink wan1 was FAILOVER, not NORMAL"},
		{"expect 20s state FAILOVER uplink=wan2", "t.sim:3:8: error NP320: at 20s uplink wan2 was NORMAL, not FAILOVER"},
		{"expect 20s share 100%", "t.sim:3:8: error NP320: at 20s the share of new flows was 0 %, not 100 %"},
		{"expect transitions <= 3 in 10m", "t.sim:3:8: error NP320: there were 4 transitions within 10m0s from 7s on"},
		{"expect transitions == 5 in 10m", "t.sim:3:8: error NP320: there were 4 transitions within 10m0s from 0s on"},
	} {
		if r, got := run(t, head+c.line+"\n"); !strings.HasPrefix(got, c.want) || r.Failed != 1 {
			t.Errorf("%s:\n%s", c.line, got)
		}
	}
	if _, got := run(t, head+"expect transitions <= 1 in 20s\n"+"expect 200s state NORMAL\n"); !strings.Contains(got, "there were 2 transitions within 20s from 7s on") {
		t.Errorf("%s", got)
	}
	if _, got := run(t, "policy p.yaml\nexpect 1s state DEGRADED\n"); !strings.Contains(got, "there was no transition") {
		t.Errorf("%s", got)
	}
}

func TestSampleRanges(t *testing.T) {
	// The value before the range returns at its end, also inside another range;
	// a sample at the same time wins over the end.
	for _, text := range []string{
		"sample 0s uplink=wan1 rtt=300ms\nsample 1s..2s uplink=wan1 rtt=1ms\nexpect 4s state DEGRADED\nexpect 3s state NORMAL\n",
		"sample 0s..60s uplink=wan1 rtt=300ms\nsample 2s..3s uplink=wan1 rtt=1ms\nexpect 5s state DEGRADED\n",
		"sample 0s..5s uplink=wan1 rtt=1ms\nsample 5s uplink=wan1 loss=100%\nexpect 7s state FAILOVER\n",
	} {
		if _, got := run(t, "policy p.yaml\n"+text); got != "" {
			t.Errorf("%s:\n%s", text, got)
		}
	}
}

func TestDue(t *testing.T) {
	debt, n := int64(0), 0
	for range 1000 {
		if due(&debt, 125_000) {
			n++
		}
	}
	if n != 125 {
		t.Errorf("%d of 1000 at 12.5 %%", n)
	}
}

// TestReplay records what a scenario did, as the daemon would, and replays it.
func TestReplay(t *testing.T) {
	s, _ := Parse("t.sim", []byte(`policy p.yaml
sample 5s..20s uplink=wan1 loss=100%
flow 3s tcp 10.0.0.5:1 > 192.0.2.7:443 sni=www.example
flow 12s tcp 10.0.0.5:1 > 192.0.2.7:443 sni=www.example
expect 60s state NORMAL
`))
	p := testPolicy()
	want, _ := Run(s, p)
	d := newDriver(p, time.Time{})
	journal := state.AppendStart(nil, d.config, d.machine, "", "")
	for now := time.Duration(0); now <= 60*time.Second; now += time.Second {
		for u := range 2 {
			a := state.Answer{RTT: 10 * time.Millisecond, Lost: u == 0 && now >= 5*time.Second && now < 20*time.Second}
			journal = state.AppendEvent(journal, d.config, state.RoundEvent(state.Round{Uplink: u, At: now, Probes: []state.Answer{a}}), nil)
		}
		journal = state.AppendEvent(journal, d.config, state.TickEvent(now), nil)
		if now == 3*time.Second || now == 12*time.Second {
			f, err := flow.ParseText("tcp 10.0.0.5:1 > 192.0.2.7:443 sni=www.example")
			if err != nil {
				t.Fatal(err)
			}
			journal = AppendFlow(journal, now, f)
		}
	}
	got, err := Replay(p, journal)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(log []Entry) (out []string) {
		for _, e := range log {
			out = append(out, fmt.Sprintf("%s %s", e.At, Describe(p, e)))
		}
		return out
	}
	if diff := cmp.Diff(lines(want.Log), lines(got)); diff != "" {
		t.Error(diff)
	}
	if len(got) != 8 {
		t.Errorf("%d entries: %v", len(got), lines(got))
	}
	// A recording of another policy begins with the states it has in common.
	other := testPolicy()
	other.Uplinks, other.Rules = other.Uplinks[:2], nil
	d.apply(state.Event{Kind: state.EventForce, Uplink: 0, To: state.Failover, Until: time.Hour})
	start := state.AppendStart(nil, d.config, d.machine, "", "")
	f := want.Log[0].Decided.Flow
	got, err = Replay(other, AppendFlow(start, time.Second, f))
	if err != nil || len(got) != 1 || got[0].Decided.Decision.Route != 1 {
		t.Errorf("%v %v", lines(got), err)
	}
	if _, err := Replay(p, []byte("\n{\"ev\":\"flow\",\"at_ns\":0,\"flow\":{\"proto\":5.5}}\n")); err == nil || !strings.HasPrefix(err.Error(), "journal line 2: ") {
		t.Errorf("%v", err)
	}
}

func BenchmarkHour(b *testing.B) {
	s, _ := Parse("t.sim", []byte("policy p.yaml\nsample 5s..20s uplink=wan1 loss=100%\nexpect 1h state NORMAL\n"))
	p := testPolicy()
	for b.Loop() {
		if r, _ := Run(s, p); r.Failed != 0 {
			b.Fatal(r)
		}
	}
}
