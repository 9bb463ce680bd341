package engine_test

import (
	"math/rand/v2"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
)

// TestRandomDecisionsAllocateNothing looks for a case that hotFlows has not.
func TestRandomDecisionsAllocateNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("-short runs under the race detector, whose pools forget what regular expressions leave there")
	}
	rng := rand.New(rand.NewPCG(*seed, 8))
	for _, k := range kinds {
		for range 30 {
			p := k.policy(rng)
			prog := engine.Compile(p)
			for range 10 {
				f, w := k.flow(rng, p), oracle.World(rng, p)
				if n := testing.AllocsPerRun(5, func() { prog.Decide(&f, w) }); n != 0 {
					t.Fatalf("%s: %v allocations\nflow %+v\nrules %+v", k.name, n, f, p.Rules)
				}
			}
		}
	}
}
