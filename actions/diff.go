package actions

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// StepKind is what a step does.
type StepKind uint8

// The steps. PutTable replaces the whole table in one transaction (or creates
// it); PutUpdates changes elements of a table that is otherwise the same;
// PutChanges changes the part of a table that differs, in one transaction, and
// where that is refused the whole table is to be put.
const (
	AddRoute StepKind = iota
	DelRoute
	AddRule
	DelRule
	PutTable
	DelTable
	PutUpdates
	PutChanges
	AddTC // also replaces what is the same with other parameters
	DelTC
	PutQueue // the jumps of iptables to the queues, in place of what was there
	DelQueue
)

// Step is one change of the host, as data. Every step can be repeated: adding
// what is there and removing what is not are no errors.
type Step struct {
	Kind    StepKind
	Route   IPRoute
	Rule    IPRule
	Table   *Table // PutTable: the new one; DelTable: the old one
	Old     *Table // PutTable, PutUpdates: what was there, nil for none
	Updates []Update
	Changes *Changes // PutChanges
	TC      TCObject
	Legacy  Legacy // PutQueue
}

// String returns the step as a command, for --dry-run and errors.
func (s Step) String() string {
	switch s.Kind {
	case AddRoute:
		return s.Route.String()
	case DelRoute:
		return "undo: " + s.Route.String()
	case AddRule:
		return s.Rule.String()
	case DelRule:
		return "undo: " + s.Rule.String()
	case PutTable:
		if x := s.Table.XT; x != nil {
			return fmt.Sprintf("iptables replace %s* (%d sets, %d chains)", XPrefix, len(x.Sets), len(x.Chains))
		}
		return fmt.Sprintf("nft replace table inet %s (%d sets, %d chains)", s.Table.Name, len(s.Table.Sets), len(s.Table.Chains))
	case DelTable:
		if s.Table.XT != nil {
			return "iptables delete " + XPrefix + "*"
		}
		return "nft delete table inet " + s.Table.Name
	case PutChanges:
		return fmt.Sprintf("nft change table inet %s (%s)", s.Table.Name, s.Changes)
	case AddTC:
		return s.TC.String()
	case DelTC:
		return "undo: " + s.TC.String()
	case PutQueue:
		return "iptables-legacy, ip6tables-legacy -t mangle " + strings.Join(s.Legacy.Rules(), ", ")
	case DelQueue:
		return "iptables-legacy, ip6tables-legacy -t mangle -X " + strings.Join(LegacyChains(), ", ")
	default:
		if s.Table != nil && s.Table.XT != nil {
			return fmt.Sprintf("ipset %d element updates", len(s.Updates))
		}
		return fmt.Sprintf("nft %d element updates", len(s.Updates))
	}
}

// Applier carries steps and updates out. Apply stops at the first error; what
// was done until then stays done (package host takes it back).
type Applier interface {
	Apply(ctx context.Context, steps []Step) error
	Update(ctx context.Context, updates []Update) error
}

// Diff returns the steps that lead from old to new; either may be nil for
// "nothing there". Routes come before the rules that look them up, and rules
// before the table that marks packets for them; removal is the other way
// round. Diff(a, a) is empty.
func Diff(old, new *Plan) []Step {
	o, n := orEmpty(old), orEmpty(new)
	var steps []Step
	for _, r := range n.IPRoutes {
		if !slices.Contains(o.IPRoutes, r) {
			steps = append(steps, Step{Kind: AddRoute, Route: r})
		}
	}
	for _, r := range n.IPRules {
		if !slices.Contains(o.IPRules, r) {
			steps = append(steps, Step{Kind: AddRule, Rule: r})
		}
	}
	add, del := diffTC(o.TC, n.TC)
	steps = append(steps, add...)
	// A packet that is not marked yet, or not any more, passes the jump.
	before, after := o.Legacy(), n.Legacy()
	if after != (Legacy{}) && after != before {
		steps = append(steps, Step{Kind: PutQueue, Legacy: after})
	}
	steps = append(steps, diffTable(&o.Table, &n.Table)...)
	if before != (Legacy{}) && after == (Legacy{}) {
		steps = append(steps, Step{Kind: DelQueue})
	}
	steps = append(steps, del...)
	for _, r := range o.IPRules {
		if !slices.Contains(n.IPRules, r) {
			steps = append(steps, Step{Kind: DelRule, Rule: r})
		}
	}
	for _, r := range o.IPRoutes {
		if !slices.Contains(n.IPRoutes, r) {
			steps = append(steps, Step{Kind: DelRoute, Route: r})
		}
	}
	return steps
}

func orEmpty(p *Plan) *Plan {
	if p == nil {
		return &Plan{}
	}
	return p
}

func diffTable(o, n *Table) []Step {
	switch {
	case n.Name == "" && o.Name == "":
		return nil
	case n.Name == "":
		return []Step{{Kind: DelTable, Table: o}}
	case o.Name == "":
		return []Step{{Kind: PutTable, Table: n}}
	case (o.XT == nil) != (n.XT == nil): // another backend: for a moment both decide, alike
		return []Step{{Kind: PutTable, Table: n}, {Kind: DelTable, Table: o}}
	case o.Shape != n.Shape:
		if c := changes(o, n); c != nil && n.XT == nil {
			return []Step{{Kind: PutChanges, Table: n, Old: o, Changes: c}}
		}
		return []Step{{Kind: PutTable, Table: n, Old: o}}
	case n.XT != nil && len(o.Sets) == 0 && len(n.Sets) > 0:
		return []Step{{Kind: PutUpdates, Table: n, Old: o, Updates: xassert(n)}}
	case n.XT == nil && len(o.Chains) == 0:
		return []Step{{Kind: PutUpdates, Table: n, Old: o, Updates: assert(n)}}
	case !reflect.DeepEqual(o.Chains, n.Chains):
		return []Step{{Kind: PutTable, Table: n, Old: o}}
	}
	var updates []Update
	for i := range n.Sets {
		updates = append(updates, diffElems(&o.Sets[i], &n.Sets[i])...)
	}
	if len(updates) == 0 {
		return nil
	}
	return []Step{{Kind: PutUpdates, Table: n, Old: o, Updates: updates}}
}

// assert returns the updates after which a table of n's shape, whatever its
// elements, has those of n. Elements with time limits are left to run out.
func assert(n *Table) []Update {
	var list []Update
	for _, c := range n.Chains[n.lasts:] {
		list = append(list, Update{Kind: PutChain, Chain: c})
	}
	for i := range n.Sets {
		s := &n.Sets[i]
		if strings.HasPrefix(s.Name, guardPrefix) && len(s.Elems) == 0 {
			for _, k := range guardKeys {
				list = append(list, Update{Kind: DelElem, Set: s.Name, Elem: Elem{Key: k}})
			}
		}
		if !s.fixed() { // those are part of the shape
			list = append(list, diffElems(&Set{}, s)...)
		}
	}
	return list
}

func diffElems(o, n *Set) []Update {
	old := make(map[string]Elem, len(o.Elems))
	for _, e := range o.Elems {
		old[e.Key] = e
	}
	here := make(map[string]bool, len(n.Elems))
	for _, e := range n.Elems {
		here[e.Key] = true
	}
	var list []Update
	for _, e := range o.Elems {
		if !here[e.Key] {
			list = append(list, Update{Kind: DelElem, Set: n.Name, Map: n.Map, Elem: e})
		}
	}
	for _, e := range n.Elems {
		if was, ok := old[e.Key]; !ok || was != e {
			list = append(list, Update{Kind: PutElem, Set: n.Name, Map: n.Map, Elem: e})
		}
	}
	return list
}
