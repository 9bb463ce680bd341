//go:build !race

// The race detector's pools forget what regular expressions leave there.

package engine_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// TestRandomDecisionsAllocateNothing looks for a case that hotFlows has not.
func TestRandomDecisionsAllocateNothing(t *testing.T) {
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

func TestDecideAllocatesNothingAnywhere(t *testing.T) {
	p := hotPolicy()
	edited := clone(p)
	edited.Rules[3].Priority = 5
	programs := map[string]*engine.Program{"compiled": engine.Compile(p), "recompiled": engine.Recompile(engine.Compile(p), edited)}
	for _, name := range []string{"compiled", "recompiled"} {
		prog := programs[name]
		for _, text := range hotFlows {
			f, err := flow.ParseText(text)
			if err != nil {
				t.Fatal(err)
			}
			withMAC := f
			withMAC.SrcMAC = flow.Some(flow.MAC{2, 0, 0, 0, 0, 1})
			for _, f := range []flow.Flow{f, withMAC} {
				for s := state.Normal; s <= state.Recovery; s++ {
					w := engine.OfflineWorld(p, s)
					if n := testing.AllocsPerRun(20, func() { prog.Decide(&f, w) }); n != 0 {
						t.Errorf("%s, %v, %s: %v allocations", name, s, text, n)
					}
				}
			}
		}
	}
}

// TestManyBadGroupsAllocateNothing asks for a group of which every member is a
// group without a usable line.
func TestManyBadGroupsAllocateNothing(t *testing.T) {
	p := policy(rule("top", 1, all(), route(0)))
	const most = 64 // members of a group
	for i := range most {
		p.Groups = append(p.Groups, rules.Group{Name: fmt.Sprint("g", i), Members: []int{fast}})
		p.Routes = append(p.Routes[:len(p.Routes):len(p.Routes)], rules.Route{Name: fmt.Sprint("g", i), Kind: rules.RouteGroup, Group: len(p.Groups) - 1})
	}
	top := rules.Group{Name: "top"}
	for i := range most {
		top.Members = append(top.Members, len(p.Routes)-most+i)
	}
	p.Groups = append(p.Groups, top)
	p.Routes = append(p.Routes, rules.Route{Name: "top", Kind: rules.RouteGroup, Group: len(p.Groups) - 1})
	p.Rules[0].Do.Route = len(p.Routes) - 1
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Failover)
	w.Uplinks[0].State, w.Uplinks[0].Share = state.Failover, 0
	f, err := flow.ParseText(hotFlows[0])
	if err != nil {
		t.Fatal(err)
	}
	if d := prog.Decide(&f, w); d.Route != fast {
		t.Fatalf("%+v, want the best of the bad", d)
	}
	if n := testing.AllocsPerRun(20, func() { prog.Decide(&f, w) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
