package subscription

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"netpolicy.dev/netpolicy/xray/link"
)

// TestCarry: whatever a provider does to names and order, ids stay where they were, and
// no two are the same.
func TestCarry(t *testing.T) {
	m := marker("key")
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		n := 1 + rnd.IntN(30)
		links := make([]string, n)
		for i := range links {
			links[i] = fmt.Sprintf("trojan://p%d@h%d.example:443?path=%%2F%d", i, rnd.IntN(5), rnd.IntN(2))
		}
		first := knownOf(t, m, links, "old")
		m.carry(nil, first)
		ids := map[string]string{}
		for i, k := range first {
			if ids[k.ID] != "" || k.ID == "" {
				t.Fatalf("seed %d: id %q twice", seed, k.ID)
			}
			ids[k.ID] = links[i]
		}
		order := rnd.Perm(n)
		moved := make([]string, n)
		for i, at := range order {
			moved[i] = links[at]
		}
		second := knownOf(t, m, moved, "new name")
		m.carry(first, second)
		for i, k := range second {
			if ids[k.ID] != moved[i] {
				t.Fatalf("seed %d: %s was %s", seed, moved[i], ids[k.ID])
			}
		}
	}
}

func knownOf(t *testing.T, m marker, links []string, name string) (all []known) {
	for i, s := range links {
		p, findings := link.Parse(s)
		if link.Refused(findings) {
			t.Fatal(findings)
		}
		all = append(all, m.know(p, fmt.Sprint(name, i)))
	}
	return all
}

// TestRepeated: profiles that are the same in all have ids of their own, also very
// many of them.
func TestRepeated(t *testing.T) {
	m := marker("key")
	one := knownOf(t, m, []string{"trojan://p@h.example:443#x"}, "x")[0]
	all := slices.Repeat([]known{one}, 5000)
	m.carry(nil, all)
	again := slices.Repeat([]known{one}, 5000)
	m.carry(all, again)
	seen := map[string]bool{}
	for i, k := range all {
		if seen[k.ID] || again[i].ID != k.ID {
			t.Fatal(i, k.ID, again[i].ID)
		}
		seen[k.ID] = true
	}
}
