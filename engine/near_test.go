package engine_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/rules"
)

// TestNearIsNotTrue asks the oracle about each rule alone: an explanation names
// rules that are not true, in the total order, and as many as there are room for.
func TestNearIsNotTrue(t *testing.T) {
	const most = 5
	rng := rand.New(rand.NewPCG(*seed, 9))
	for range 500 {
		p := kinds[rng.IntN(len(kinds))].policy(rng)
		prog := engine.Compile(p)
		f, w := oracle.Near(rng, p), oracle.World(rng, p)
		e := prog.Explain(&f, w)
		untrue := map[int]bool{}
		for i := range p.Rules {
			alone := *p
			alone.Rules = slices.Clone(p.Rules[i : i+1])
			alone.Rules[0].Do, alone.Default = block, nil
			if d := oracle.Decide(&alone, &f, w); d.Kind == rules.ActNone {
				untrue[i] = true
			}
		}
		if len(e.Near) != min(most, len(untrue)) {
			t.Fatalf("%d rules are near, %d are not true", len(e.Near), len(untrue))
		}
		if alone := prog.Near(&f, w); !slices.Equal(alone, e.Near) {
			t.Fatalf("near %+v, with who won %+v", alone, e.Near)
		}
		last, order := -1, prog.Order()
		for _, n := range e.Near {
			pos := slices.Index(order, n.Rule)
			if !untrue[n.Rule] || n.Failed == "" || pos <= last {
				t.Fatalf("near %+v: true, without a reason or out of order\nflow %+v\nrules %+v", e.Near, f, p.Rules)
			}
			last = pos
		}
	}
}
