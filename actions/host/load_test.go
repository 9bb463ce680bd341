package host

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/state"
)

// TestLoadTenThousand loads a policy of 10,000 rules into the kernel and
// reports what it takes; a packet must then go where the engine says.
func TestLoadTenThousand(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	e := enforcer(t, t.TempDir())
	n := 10_000
	if variant != "" && os.Getenv("FULL") == "" {
		n = 1000 // iptables finds a set by reading their list: what ten thousand rules take is in docs/actions.md
	}
	p, diags := yaml.Load("policy.yaml", policygen.YAML(1, n))
	if p == nil {
		t.Fatal(diags)
	}
	p.Daemon.Backend = backend
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Normal)
	for i := range p.Uplinks { // the lab's devices
		p.Uplinks[i].Dev, p.Uplinks[i].Gateway = []string{"wan1", "wan2"}[i], gateways(i+1)
	}
	h, err := e.ReadHost()
	must(t, err)
	start := time.Now()
	plan, diags := actions.PlanFor(prog, h, w, nil)
	if plan == nil {
		t.Fatal(diags)
	}
	t.Logf("plan: %v, %d chains, %d bytes of text", time.Since(start), len(plan.Table.Chains), len(plan.Table.Text()))
	start = time.Now()
	must(t, e.Apply(ctx, plan))
	t.Logf("load: %v", time.Since(start))
	start = time.Now()
	must(t, e.Apply(ctx, plan))
	t.Logf("the same again: %v", time.Since(start))
	start = time.Now()
	must(t, e.Update(ctx, plan.WorldUpdates(w, engine.OfflineWorld(p, state.Failover))))
	t.Logf("failover: %v", time.Since(start))
	w = engine.OfflineWorld(p, state.Failover)
	var some []string
	for i := range p.Rules { // two names of rules with more conditions: no single pattern's class
		m := &p.Rules[i].Match
		if m.Op == rules.OpAnd && len(m.Kids[0].Pred.Names) > 0 && len(some) < 2 {
			some = append(some, "x."+m.Kids[0].Pred.Names[0].Name)
		}
	}
	names := flow.NewNames(some[0], some[1])
	updates, err := plan.Answer(netip.MustParseAddr("203.0.113.7"), names, time.Minute)
	must(t, err)
	start = time.Now()
	must(t, e.Update(ctx, updates))
	t.Logf("DNS answer, %d updates: %v", len(updates), time.Since(start))

	var flows []flow.Flow
	for _, port := range []uint16{22, 53, 80, 443, 5060, 8080} {
		for _, f := range []flow.Flow{udp(port), udp6(port)} {
			f.IfaceIn, f.Mark, f.DSCP = flow.Some("lan0"), flow.Some(uint32(0)), flow.Some(uint8(0))
			if dst, _ := f.Dst.Get(); dst.Is4() {
				f.DNS = names
			}
			flows = append(flows, f)
		}
	}
	got := l.send(flows)
	for i := range flows {
		d := prog.Decide(&flows[i], w)
		port, _ := flows[i].SrcPort.Get()
		if want := outcome(p, &flows[i], &d); got[port] != want {
			t.Errorf("flow %+v: got %+v, want %+v (rule %d)", flows[i], got[port], want, d.Rule)
		}
	}
}
