package engine_test

import (
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// sharePolicy has a line a, b, c for each weight, and one group over all.
func sharePolicy(s rules.Strategy, weights ...int) *rules.Policy {
	p := &rules.Policy{Groups: []rules.Group{{Name: "g", Strategy: s}}}
	for i, w := range weights {
		name := string(rune('a' + i))
		p.Uplinks = append(p.Uplinks, rules.Uplink{Name: name, Weight: w})
		p.Routes = append(p.Routes, rules.Route{Name: name, Kind: rules.RouteUplink, Uplink: i, Group: -1})
		p.Groups[0].Members = append(p.Groups[0].Members, i)
	}
	p.Routes = append(p.Routes, rules.Route{Name: "g", Kind: rules.RouteGroup, Uplink: -1})
	return p
}

// hundred resolves a route for one flow of each hundredth of all hashes.
func hundred(t *testing.T, p *rules.Policy, w *state.World, route int) (routes [100]int, counts map[int]int) {
	t.Helper()
	counts = map[int]int{}
	for i := range routes {
		first, last := uint32((uint64(i)<<32+99)/100), uint32((uint64(i+1)<<32-1)/100)
		leaf, ok := engine.Resolve(p, w, route, first)
		other, _ := engine.Resolve(p, w, route, last)
		if leaf != other || ok != (leaf >= 0) {
			t.Fatalf("hundredth %d: %d, %v at its begin, %d at its end", i, leaf, ok, other)
		}
		routes[i] = leaf
		counts[leaf]++
	}
	return routes, counts
}

func TestShareByWeight(t *testing.T) {
	const a, b, c = 0, 1, 2
	dead := func(w *state.World, i int) { w.Uplinks[i].State, w.Uplinks[i].Share = state.Failover, 0 }
	tenth := func(w *state.World, i int) { w.Uplinks[i].State, w.Uplinks[i].Share = state.Recovery, 10 }
	for _, k := range []struct {
		name    string
		s       rules.Strategy
		weights []int
		set     func(w *state.World)
		want    [3]int // how many of a hundred each gets
	}{
		{"by weight", rules.Weighted, []int{3, 1}, func(*state.World) {}, [3]int{75, 25}},
		{"no weight is 1", rules.Weighted, []int{0, 4}, func(*state.World) {}, [3]int{20, 80}},
		{"thirds", rules.Weighted, []int{1, 1, 1}, func(*state.World) {}, [3]int{34, 33, 33}},
		{"all to the last one", rules.Weighted, []int{3, 1}, func(w *state.World) { dead(w, a) }, [3]int{0, 100}},
		// A tenth of 75 is 7.5: of the draws (37 x + 11) mod 100 of its flows, x = 0 to
		// 74, those of 8, 16, 35, 43, 54, 62 and 70 are below 10.
		{"recovering", rules.Weighted, []int{3, 1}, func(w *state.World) { tenth(w, a) }, [3]int{7, 93}},
		{"hash gives each as many", rules.HashOf, []int{9, 1}, func(*state.World) {}, [3]int{50, 50}},
		// Of (63 x + 29) mod 100 for x = 34 to 66, the dead one's, 16 are below 50.
		{"of three, the dead one's third goes to both", rules.HashOf, []int{1, 1, 1}, func(w *state.World) { dead(w, b) }, [3]int{34 + 16, 0, 33 + 17}},
		// For x = 20 to 69, 19 are below 40: two fifths, as 2 is of 2 and 3.
		{"by weight to both", rules.Weighted, []int{2, 5, 3}, func(w *state.World) { dead(w, b) }, [3]int{20 + 19, 0, 30 + 31}},
		{"best of bad", rules.HashOf, []int{1, 1}, func(w *state.World) { dead(w, a); dead(w, b); w.Uplinks[a].Lost = 1 }, [3]int{0, 100}},
	} {
		p := sharePolicy(k.s, k.weights...)
		w := engine.OfflineWorld(p, state.Normal)
		k.set(w)
		_, got := hundred(t, p, w, len(k.weights))
		if got[a] != k.want[a] || got[b] != k.want[b] || got[c] != k.want[c] {
			t.Errorf("%s: %v, want %v", k.name, got, k.want)
		}
	}
}

// TestShareIsStable: whatever dies and comes back, only flows of that line move,
// and they come back to it.
func TestShareIsStable(t *testing.T) {
	for _, s := range []rules.Strategy{rules.Weighted, rules.HashOf} {
		p := sharePolicy(s, 4, 3, 2, 1, 1)
		n := len(p.Uplinks)
		worldOf := func(dead int) *state.World {
			w := engine.OfflineWorld(p, state.Normal)
			for i := range n {
				if dead>>i&1 == 1 {
					w.Uplinks[i].State, w.Uplinks[i].Share = state.Failover, 0
				}
			}
			return w
		}
		for dead := range 1<<n - 1 { // all but all
			was, counts := hundred(t, p, worldOf(dead), n)
			if dead == 0 && len(counts) != n {
				t.Errorf("%d: only %v", s, counts)
			}
			for i := range n {
				if more := dead | 1<<i; more != dead && more != 1<<n-1 {
					now, _ := hundred(t, p, worldOf(more), n)
					for x := range was {
						if was[x] != i && now[x] != was[x] || now[x] == i {
							t.Fatalf("strategy %d, %05b dead, then %d: hundredth %d went from %d to %d", s, dead, i, x, was[x], now[x])
						}
					}
				}
			}
		}
	}
}

// TestShareNested: a group below another shares out what it gets as evenly as all.
func TestShareNested(t *testing.T) {
	p := sharePolicy(rules.HashOf, 1, 1, 1, 1)
	p.Groups = []rules.Group{
		{Name: "g", Strategy: rules.HashOf, Members: []int{5, 6}},
		{Name: "ab", Strategy: rules.HashOf, Members: []int{0, 1}},
		{Name: "cd", Strategy: rules.Weighted, Members: []int{2, 3}},
	}
	p.Routes = append(p.Routes,
		rules.Route{Name: "ab", Kind: rules.RouteGroup, Uplink: -1, Group: 1}, rules.Route{Name: "cd", Kind: rules.RouteGroup, Uplink: -1, Group: 2})
	_, got := hundred(t, p, engine.OfflineWorld(p, state.Normal), 4)
	for i := range 4 {
		if got[i] < 23 || got[i] > 27 {
			t.Errorf("%v, want about 25 each", got)
		}
	}
}

func TestSLA(t *testing.T) {
	const a, b, c = 0, 1, 2
	yes, no, unset := state.True, state.False, state.Unset
	for _, k := range []struct {
		name  string
		meets []state.Truth
		dead  []int
		want  int
	}{
		{"the first that meets it", []state.Truth{no, yes, yes}, nil, b},
		{"not known is not met", []state.Truth{unset, no, yes}, nil, c},
		{"none meets it: the first usable", []state.Truth{no, no, no}, []int{a}, b},
		{"nothing known", nil, nil, a},
		{"one that is dead does not count", []state.Truth{no, yes, no}, []int{b}, a},
	} {
		p := sharePolicy(rules.SLA, 1, 1, 1)
		w := engine.OfflineWorld(p, state.Normal)
		w.Meets = [][]state.Truth{k.meets}
		for _, i := range k.dead {
			w.Uplinks[i].State, w.Uplinks[i].Share = state.Failover, 0
		}
		if _, got := hundred(t, p, w, 3); got[k.want] != 100 {
			t.Errorf("%s: %v, want %d alone", k.name, got, k.want)
		}
	}
	p := sharePolicy(rules.SLA, 1, 1)
	p.Groups[0].BlockWhenNone = true
	w := engine.OfflineWorld(p, state.Normal)
	for i := range w.Uplinks {
		w.Uplinks[i].State, w.Uplinks[i].Share = state.Failover, 0
	}
	if leaf, ok := engine.Resolve(p, w, 2, 0); ok {
		t.Errorf("%d although when_none is block", leaf)
	}
}
