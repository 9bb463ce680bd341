package actions

import "testing"

func TestStats(t *testing.T) {
	p := Plan{
		IPRules: make([]IPRule, 1), IPRoutes: make([]IPRoute, 2),
		Table: Table{
			Chains: []Chain{{Rules: make([]Rule, 3)}, {Rules: make([]Rule, 5)}, {}},
			Sets:   []Set{{Elems: make([]Elem, 7)}, {Elems: make([]Elem, 4)}},
		},
	}
	want := "3 chains with 8 rules, at most 5 in one; 2 sets with 11 elements, at most 7 in one; 1 ip rules, 2 routes"
	if got := p.Stats().String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
