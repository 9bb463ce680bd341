package actions_test

import (
	"context"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/fake"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/policyrand"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// answer is the daemon's verdict for the decision.
func answer(plan *actions.Plan, d *engine.Decision) func(*fake.Packet) (uint32, bool) {
	return func(*fake.Packet) (uint32, bool) {
		code, drop := plan.AnswerCode(d)
		return code, !drop
	}
}

// TestConsultDecidesAsEngine sends random first packets through tables that ask
// the daemon, by either way of asking: what becomes of them is what it answers;
// without an answer it is what the table decides, or with on_crash closed nothing.
func TestConsultDecidesAsEngine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policyrand.Policy(t, 8)
		p.Daemon.Enforce = rules.Consult
		p.Daemon.OnCrash = rapid.SampledFrom([]rules.OnCrash{rules.Last, rules.Open, rules.Closed}).Draw(t, "on_crash")
		h := threeLines()
		h.Queue = rapid.SampledFrom([]actions.Via{actions.NFTQueue, actions.LegacyQueue}).Draw(t, "via")
		h.CPUs = rapid.IntRange(0, 8).Draw(t, "cpus")
		prog := engine.Compile(p)
		world := policyrand.World(t)
		plan, diags := actions.PlanFor(prog, h, world, nil)
		if plan == nil {
			t.Fatalf("no plan: %v", diags)
		}
		var k fake.Kernel
		if err := k.Apply(context.Background(), actions.Diff(nil, plan)); err != nil {
			t.Fatal(err)
		}
		names := policyrand.DNS(t)
		for _, a := range policyrand.Servers {
			updates, err := plan.Answer(a, names[a], time.Minute)
			if err == nil {
				err = k.Update(context.Background(), updates)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 8 {
			f := policyrand.First(t)
			dst, _ := f.Dst.Get()
			f.DNS = names[dst]
			if rapid.Bool().Draw(t, "nobody listens") {
				k.Answer = nil
				if p.Daemon.OnCrash != rules.Closed {
					check(t, p, prog, plan, &k, &f, world)
				} else if got := k.Send(packetOf(&f)); got.Verdict != fake.Drop {
					t.Fatalf("nobody listens, and on_crash is closed: %+v", got)
				}
				continue
			}
			// What only the daemon can know counts as well.
			f.Domain = rapid.SampledFrom([]flow.Value[string]{{}, flow.Some("a.example.com"), flow.Some("zoom.us")}).Draw(t, "domain")
			d := prog.Decide(&f, world)
			k.Answer = answer(plan, &d)
			pkt := packetOf(&f)
			got, exp := k.Send(pkt), want(p, plan, &f, &d)
			checkThrottle(t, &pkt, &got, &d)
			if got.Verdict != fake.Accept {
				got = fake.Result{Verdict: got.Verdict, Err: got.Err}
			}
			got.Mark &^= plan.MarkMask
			if !reflect.DeepEqual(got, exp) {
				t.Fatalf("got %+v, want %+v\nflow %+v\ndecision %+v\n%s", got, exp, f, d, plan)
			}
			if got.Verdict == fake.Accept && got.CTMark != 0 {
				k.Answer = func(*fake.Packet) (uint32, bool) { t.Fatal("asked about a decided flow"); return 0, false }
				next := packetOf(&f)
				next.CTMark = got.CTMark
				if again := k.Send(next); again.Dev != got.Dev {
					t.Fatalf("second packet: %+v, want %+v", again, got)
				}
			}
		}
	})
}

// TestConsultPlan shows the plan, and that switching is a difference that can be
// taken back.
func TestConsultPlan(t *testing.T) {
	p := zoom()
	p.Daemon.Enforce, p.Daemon.OnCrash = rules.Consult, rules.Last
	h := twoLines()
	h.Queue, h.CPUs = actions.LegacyQueue, 2
	w := engine.OfflineWorld(p, state.Normal)
	pl := plan(t, p, h, w, nil)
	golden(t, "consult.plan", pl.String())
	if steps := actions.Diff(pl, pl); len(steps) != 0 {
		t.Errorf("Diff(a, a) = %v", steps)
	}
	var k fake.Kernel
	p.Daemon.Enforce = rules.Static
	static := plan(t, p, h, w, pl)
	for _, s := range []struct {
		from, to *actions.Plan
		jump     bool
	}{{nil, pl, true}, {pl, static, false}, {static, pl, true}, {pl, nil, false}} {
		if err := k.Apply(context.Background(), actions.Diff(s.from, s.to)); err != nil {
			t.Fatal(err)
		}
		if got := k.Jump.Consult.Via == actions.LegacyQueue; got != s.jump {
			t.Errorf("jump to the queues: %v, want %v", got, s.jump)
		}
	}
	h.Queue = actions.NoQueue
	p.Daemon.Enforce = rules.Consult
	none, diags := actions.PlanFor(engine.Compile(p), h, w, nil)
	if none.Consult.Via != actions.NoQueue || len(diags) == 0 || none.Table.Text() != static.Table.Text() {
		t.Errorf("a host without queues: %v", diags)
	}
}
