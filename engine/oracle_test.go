package engine_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// drawn lets rapid choose, and so shrink, what the generators ask for.
type drawn struct{ t *rapid.T }

func (d drawn) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "") }

// TestOracleShrinks compares on few cases, but shrinks the one that differs.
func TestOracleShrinks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := oracle.Policy(drawn{t})
		w := oracle.World(drawn{t}, p)
		f := oracle.Flow(drawn{t})
		compare(t, engine.Compile(p), p, &f, w)
	})
}

// TestOracle compares 100,000 decisions: 100 worlds and flows on each of 1,000 policies.
func TestOracle(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var seen struct{ rule, final, hinted, pending, runnerUp int }
	for range 1000 {
		p := oracle.Policy(rng)
		prog := engine.Compile(p)
		for range 100 {
			if t.Failed() {
				return
			}
			f := oracle.Flow(rng)
			d := compare(t, prog, p, &f, oracle.World(rng, p))
			count(&seen.rule, d.Rule >= 0)
			count(&seen.final, d.Final)
			count(&seen.hinted, d.Hinted)
			count(&seen.pending, d.Pending != 0)
			count(&seen.runnerUp, d.RunnerUp >= 0)
		}
	}
	t.Logf("100000 decisions: %+v", seen)
	if seen.hinted < 5000 || seen.pending < 10_000 || seen.final < 10_000 || seen.runnerUp < 10_000 {
		t.Errorf("the cases are too alike: %+v", seen)
	}
}

func count(n *int, yes bool) {
	if yes {
		*n++
	}
}

type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

func compare(t failer, prog *engine.Program, p *rules.Policy, f *flow.Flow, w *state.World) engine.Decision {
	t.Helper()
	got, want := prog.Decide(f, w), oracle.Decide(p, f, w)
	if !equal(got, want) {
		t.Errorf("flow %+v\nworld %+v\nrules %+v\ndefault %+v\n got %+v\nwant %+v", *f, *w, p.Rules, p.Default, got, want)
	}
	return got
}

func equal(a, b engine.Decision) bool {
	return a.Rule == b.Rule && a.Kind == b.Kind && a.Asked == b.Asked && slices.Equal(a.AskedList, b.AskedList) &&
		a.Route == b.Route && a.Reject == b.Reject && a.Mods == b.Mods && a.Default == b.Default && a.Final == b.Final &&
		a.Pending == b.Pending && a.Hinted == b.Hinted && a.RunnerUp == b.RunnerUp
}
