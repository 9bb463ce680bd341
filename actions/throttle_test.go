package actions_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// throttled is zoom with a profile of each kind: one of a rule without a primary
// action, one of a winner, one of the default.
func throttled() *rules.Policy {
	p := zoom()
	p.Throttles = []rules.Throttle{
		{Name: "unused", Up: 1, Per: "all"},
		{Name: "guests", Down: 2_000_000, Up: 512_000, Burst: 65536, Per: "host"},
		{Name: "calls", Down: 20_000_000, Per: "conn"},
		{Name: "line", Down: 100_000_000, Up: 40_000_000_000, Per: "all"},
	}
	p.Rules[0].Do.Mods.Throttle = flow.Some(1)
	p.Rules[1].Do.Mods.Throttle = flow.Some(2)
	p.Default.Mods.Throttle = flow.Some(3)
	return p
}

func TestThrottlePlan(t *testing.T) {
	golden(t, "throttle.plan", plan(t, throttled(), twoLines(), nil, nil).String())
	h := twoLines()
	h.NoShaping = "no kernel"
	golden(t, "throttle-limits.plan", plan(t, throttled(), h, nil, nil).String())
}

func TestThrottleDiagnostics(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*actions.Host)
		want   []string
	}{
		{"all is well", func(*actions.Host) {}, nil},
		{"no HTB", func(h *actions.Host) { h.NoShaping = "the kernel has no HTB qdisc" }, []string{
			"warning throttles: no shaping here (the kernel has no HTB qdisc): the kernel limits instead",
		}},
		{"no BPF", func(h *actions.Host) { h.NoOwnShaping = "EPERM" }, []string{
			"hint throttles: what this host itself receives is limited, not shaped (EPERM)",
		}},
		{"a foreign ingress qdisc", func(h *actions.Host) { h.Links[1].Ingress = true }, []string{
			`warning throttles: device "wan1" has an ingress qdisc of others: what leaves by it is limited, not shaped`,
		}},
	} {
		h := twoLines()
		c.change(&h)
		_, diags := actions.PlanFor(engine.Compile(throttled()), h, nil, nil)
		var got []string
		for _, d := range diags {
			if strings.HasPrefix(d.Message, "throttle") {
				got = append(got, d.Severity.String()+" "+d.Message)
			}
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// TestThrottleDevices: what others hold is left alone, and limited.
func TestThrottleDevices(t *testing.T) {
	h := twoLines()
	h.Links[1].Ingress = true
	h.Links = append(h.Links, actions.Link{Name: "lo", Index: 1, Up: true}, actions.Link{Name: actions.TCDevice, Index: 9, Up: true}, actions.Link{Name: "dummy0", Index: 10})
	p := plan(t, throttled(), h, nil, nil)
	var got []string
	for _, o := range p.TC {
		if o.Kind >= actions.TCHook {
			got = append(got, fmt.Sprint(o.Kind, " ", o.Dev))
		}
	}
	want := []string{"3 lan0", "4 lan0", "3 wan2", "4 wan2", "5 wan2"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if text := p.Table.Text(); !strings.Contains(text, `oifname "wan1" goto police`) {
		t.Error("packets over wan1 are not limited:\n", text)
	}
}

// TestThrottleDiff: a profile that does not change keeps its classes over a
// reload, whatever becomes of the others.
func TestThrottleDiff(t *testing.T) {
	text := func(steps []actions.Step) (list []string) {
		for _, s := range steps {
			if s.Kind == actions.AddTC || s.Kind == actions.DelTC {
				list = append(list, fmt.Sprintf("%v %v %s %x", s.Kind == actions.AddTC, s.TC.Kind, s.TC.Dev, s.TC.First))
			}
		}
		return list
	}
	old := plan(t, throttled(), twoLines(), nil, nil)
	if steps := actions.Diff(old, plan(t, throttled(), twoLines(), nil, old)); steps != nil {
		t.Errorf("the same policy: %v", steps)
	}
	p := throttled()
	p.Hash = [32]byte{2}
	p.Throttles = slices.Delete(p.Throttles, 1, 2) // guests goes, calls changes, line stays
	p.Throttles[1].Down *= 2
	p.Rules[0].Do.Mods.Throttle = flow.Value[int]{}
	p.Rules[1].Do.Mods.Throttle = flow.Some(1)
	p.Default.Mods.Throttle = flow.Some(2)
	next := plan(t, p, twoLines(), nil, old)
	if d := cmp.Diff([]string{"true 2 npthrottle 8200", "false 2 npthrottle 8100", "false 2 npthrottle 100"}, text(actions.Diff(old, next))); d != "" {
		t.Error(d)
	}
	none := plan(t, zoom(), twoLines(), nil, next)
	want := []string{
		"false 5 wan2 0", "false 4 wan2 0", "false 3 wan2 0", "false 5 wan1 0", "false 4 wan1 0", "false 3 wan1 0",
		"false 4 lan0 0", "false 3 lan0 0", "false 0 npthrottle 0",
	}
	if d := cmp.Diff(want, text(actions.Diff(next, none))); d != "" {
		t.Errorf("no throttles any more: %s", d)
	}
}

func TestTooManyThrottles(t *testing.T) {
	p := zoom()
	for i := range 32 {
		p.Throttles = append(p.Throttles, rules.Throttle{Name: fmt.Sprint("t", i), Down: 1000, Per: "all"})
		p.Rules = append(p.Rules, p.Rules[0])
		p.Rules[len(p.Rules)-1].Do.Mods.Throttle = flow.Some(i)
	}
	got, diags := actions.PlanFor(engine.Compile(p), twoLines(), nil, nil)
	if got != nil || diag.Count(diags, diag.Error) != 1 || !strings.HasPrefix(diags[0].Message, "throttles: room for 31 only") {
		t.Errorf("plan %v, %v", got != nil, diags)
	}
}
