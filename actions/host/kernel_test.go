package host

import (
	"os"
	"testing"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/iptables"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// home is the namespace that the test binary runs in: each test has one of its own.
var home string

func TestMain(m *testing.M) {
	home, _ = os.Readlink("/proc/thread-self/ns/net")
	nstest.Main(m)
}

func enforcer(t testing.TB, dir string) *Enforcer {
	t.Helper()
	here, err := os.Readlink("/proc/thread-self/ns/net")
	must(t, err)
	if here == home {
		t.Fatal("not in the lab: the test has left its thread")
	}
	// Tests change the table by the nft command.
	e, err := New(Config{StateDir: dir, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	if variant != "" {
		e.x = iptables.New(variant)
	}
	return e
}

func planFor(t testing.TB, e *Enforcer, p *rules.Policy, w *state.World) *actions.Plan {
	t.Helper()
	h, err := e.ReadHost()
	if err != nil {
		t.Fatal(err)
	}
	plan, diags := actions.PlanFor(engine.Compile(p), h, w, e.Previous())
	if plan == nil {
		t.Fatalf("no plan: %v", diags)
	}
	return plan
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// outcome says what must become of a flow's first packet.
func outcome(p *rules.Policy, f *flow.Flow, d *engine.Decision) seen {
	s := seen{dev: "wan0"} // the main table's default
	s.dscp, _ = f.DSCP.Get()
	if x, ok := d.Mods.DSCP.Get(); ok {
		s.dscp = x
	}
	switch {
	case d.Kind == rules.ActNone:
		return s
	case d.Kind == rules.ActBlock && d.Reject:
		return seen{reject: true}
	case d.Route < 0:
		return seen{}
	}
	switch r := &p.Routes[d.Route]; r.Kind {
	case rules.RouteBlackhole:
		return seen{}
	case rules.RouteUplink:
		s.dev = p.Uplinks[r.Uplink].Dev
	}
	return s
}
