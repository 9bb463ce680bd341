package host

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policyrand"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// rounds is how many random policies the kernel is compared on: 40 flows each.
func rounds() int {
	if os.Getenv("FULL") != "" {
		return 300
	}
	return 12
}

// home is the namespace that tests must not write to.
var home string

func TestMain(m *testing.M) {
	home, _ = os.Readlink("/proc/thread-self/ns/net")
	os.Exit(m.Run())
}

func enforcer(t testing.TB, dir string) *Enforcer {
	t.Helper()
	here, err := os.Readlink("/proc/thread-self/ns/net")
	must(t, err)
	if here == home {
		t.Fatal("in the machine's own namespace: the test has left its thread")
	}
	// Tests change the table by the nft command.
	e, err := New(Config{StateDir: dir, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
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

// TestKernelDecidesAsEngine sends real packets through a real gateway under
// random policies, names and worlds: what becomes of each, and the uplink by
// which it leaves, must be what the engine decides.
func TestKernelDecidesAsEngine(t *testing.T) {
	l := newLab(t)
	e := enforcer(t, t.TempDir())
	before := snapshot(t)
	ctx := context.Background()
	type drawn struct {
		policy *rules.Policy
		worlds [2]*state.World
		names  map[string]flow.Names
		flows  []flow.Flow
	}
	gen := rapid.Custom(func(t *rapid.T) drawn {
		d := drawn{policy: policyrand.Policy(t, 10), names: map[string]flow.Names{}}
		for i := range d.worlds {
			d.worlds[i] = policyrand.World(t)
		}
		known := policyrand.DNS(t)
		for range 40 {
			f := policyrand.First(t)
			if proto, _ := f.Proto.Get(); proto == 47 {
				f.Proto, f.DstPort = flow.Some(flow.UDP), flow.Some(uint16(443))
			}
			f.IfaceIn, f.Mark = flow.Some("lan0"), flow.Some(uint32(0))
			f.Process, f.ProcessPath, f.Cgroup, f.User = flow.Absent[string](), flow.Absent[string](), flow.Absent[string](), flow.Absent[string]()
			dst, _ := f.Dst.Get()
			f.DNS = known[dst]
			d.flows = append(d.flows, f)
		}
		for a, n := range known {
			d.names[a.String()] = n
		}
		return d
	})
	verdicts := map[string]int{}
	seeds := []int{93} // a list of DSCP values for IPv6, which nft can't have in a named set
	for i := range rounds() {
		seeds = append(seeds, i+1)
	}
	for _, seed := range seeds {
		d := gen.Example(seed)
		for i := range d.policy.Uplinks {
			d.policy.Uplinks[i].Gateway = gateways(i)
		}
		plan := planFor(t, e, d.policy, d.worlds[0])
		if err := e.Apply(ctx, plan); err != nil {
			t.Fatalf("%v\n%s", err, plan)
		}
		for _, a := range policyrand.Servers {
			updates, err := plan.Answer(a, d.names[a.String()], time.Minute)
			must(t, err)
			must(t, e.Update(ctx, updates))
		}
		prog := plan.Program()
		world := d.worlds[0]
		for half, flows := range [][]flow.Flow{d.flows[:20], d.flows[20:]} {
			if half == 1 {
				must(t, e.Update(ctx, plan.WorldUpdates(world, d.worlds[1])))
				world = d.worlds[1]
			}
			got := l.send(flows)
			for i := range flows {
				dec := prog.Decide(&flows[i], world)
				id, _ := strconv.ParseUint(flows[i].ID, 10, 16)
				want := outcome(d.policy, &flows[i], &dec)
				verdicts[want.dev]++
				if got := got[uint16(id)]; got != want {
					t.Errorf("seed %d: flow %+v\nworld %+v\ndecision %+v\ngot %+v, want %+v", seed, flows[i], world, dec, got, want)
				}
			}
		}
		if t.Failed() {
			t.Log(snapshot(t))
			break
		}
	}
	t.Logf("packets by uplink (empty: dropped or rejected): %v", verdicts)
	must(t, e.Close())
	must(t, Cleanup(ctx, e.dir))
	if after := snapshot(t); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
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
