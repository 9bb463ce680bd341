package actions

import (
	"fmt"
	"slices"
)

// Changes lead from one table to another that is mostly the same. They are to be
// made in one transaction, in this order: sets and chains are created, chains get
// their rules, elements change, and what is not needed any more goes.
type Changes struct {
	Sets   []Set    // new, with their elements
	Chains []Chain  // new, or with other rules
	Empty  []string // sets that lose all their elements first: what they hold now is not known
	Elems  []Update // of sets that stay; those of lasting maps are there or not
	Gone   struct{ Chains, Sets []string }
}

func (c *Changes) String() string {
	return fmt.Sprintf("%d sets and %d chains put, %d elements, %d sets and %d chains gone",
		len(c.Sets), len(c.Chains), len(c.Elems), len(c.Gone.Sets), len(c.Gone.Chains))
}

// share is how much of a table may differ (one part in so many) to be changed
// rather than replaced: a change costs more for each of its parts.
const share = 4

// changes returns what leads from o, whose contents are known as they were put, to
// n; nil where the whole is to be put.
func changes(o, n *Table) *Changes {
	if len(o.Chains) == 0 {
		return nil
	}
	c := &Changes{}
	size, all := 0, 0
	oldSets, newSets := map[string]*Set{}, map[string]bool{}
	for i := range o.Sets {
		oldSets[o.Sets[i].Name] = &o.Sets[i]
	}
	for i := range n.Sets {
		s := &n.Sets[i]
		newSets[s.Name] = true
		all += len(s.Elems)
		switch old := oldSets[s.Name]; {
		case old == nil:
			c.Sets = append(c.Sets, *s)
			size += len(s.Elems)
		case old.Type != s.Type || old.Map != s.Map || old.Ranks != s.Ranks || old.Timeout != s.Timeout || old.Ranges != s.Ranges:
			return nil
		case s.fixed(): // what is replaced goes first
			for _, u := range diffElems(s, old) {
				if u.Kind == PutElem {
					c.Elems = append(c.Elems, Update{Kind: DelElem, Set: s.Name, Map: s.Map, Elem: u.Elem})
				}
			}
			for _, u := range diffElems(old, s) {
				if u.Kind == PutElem {
					c.Elems = append(c.Elems, u)
				}
			}
		default: // updates have changed it since
			c.Empty = append(c.Empty, s.Name)
			c.Elems = append(c.Elems, diffElems(&Set{}, s)...)
		}
	}
	for _, s := range o.Sets {
		if !newSets[s.Name] {
			c.Gone.Sets = append(c.Gone.Sets, s.Name)
		}
	}
	oldChains, newChains := map[string]*Chain{}, map[string]bool{}
	for i := range o.Chains {
		oldChains[o.Chains[i].Name] = &o.Chains[i]
	}
	for i := range n.Chains {
		x := &n.Chains[i]
		newChains[x.Name] = true
		all += len(x.Rules)
		old := oldChains[x.Name]
		if old != nil && old.Hook != x.Hook || old == nil && x.Hook != "" {
			return nil
		}
		if old == nil || !slices.EqualFunc(old.Rules, x.Rules, sameRule) {
			c.Chains = append(c.Chains, *x)
			size += len(x.Rules)
		}
	}
	for _, x := range o.Chains {
		if !newChains[x.Name] {
			if x.Hook != "" {
				return nil
			}
			c.Gone.Chains = append(c.Gone.Chains, x.Name)
		}
	}
	if size += len(c.Elems); size*share > all {
		return nil
	}
	return c
}

func sameRule(a, b Rule) bool { return a.String() == b.String() }
