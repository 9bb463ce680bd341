package engine

import (
	"slices"
	"sort"

	"netpolicy.dev/netpolicy/rules"
)

// A program carries its changes in a second layer up to these sizes; beyond,
// everything is compiled anew, as two lookups would cost more than they save.
const (
	patchRules = 256 // always allowed
	patchPart  = 32  // or one in so many rules
)

// Recompile prepares a policy as Compile does, and shares with old what has not
// changed: it takes time for what has, and little for the rest. old stays valid.
// A decision of the result equals one of Compile(p).
func Recompile(old *Program, p *rules.Policy) *Program {
	if !sameFrame(old.policy, p) {
		return Compile(p)
	}
	base := old.layers[0]
	place := make([]id, len(old.policy.Rules)) // in the base, by rule
	for i := range place {
		place[i] = none
	}
	for i := range base.records {
		if r := &base.records[i]; r.flags&isDead == 0 {
			place[r.rule] = id(i)
		}
	}
	d := differ{old: old, new: p, sets: map[[2]*rules.Set]bool{}}
	kept := d.kept()
	var patch []uint32
	for i, was := range kept {
		if was < 0 || place[was] == none {
			patch = append(patch, uint32(i))
		}
	}
	if len(patch) > max(patchRules, len(p.Rules)/patchPart) || len(base.records) > 2*len(p.Rules)+patchRules {
		return Compile(p)
	}
	return d.patched(kept, place, patch)
}

// sameFrame reports whether routes and throttles have the same numbers in both
// policies, as far as the first uses them.
func sameFrame(a, b *rules.Policy) bool {
	if len(a.Routes) > len(b.Routes) || len(a.Throttles) > len(b.Throttles) {
		return false
	}
	for i := range a.Routes {
		if a.Routes[i].Name != b.Routes[i].Name {
			return false
		}
	}
	for i := range a.Throttles {
		if a.Throttles[i].Name != b.Throttles[i].Name {
			return false
		}
	}
	return true
}

// differ compares two policies.
type differ struct {
	old  *Program
	new  *rules.Policy
	sets map[[2]*rules.Set]bool // whether two sets are equal
}

// kept finds for each new rule the equal old one, -1 for none, such that both
// lists have them in the same order.
func (d *differ) kept() []int {
	a, b := d.old.policy.Rules, d.new.Rules
	out := make([]int, len(b))
	i := 0
	for j := range b {
		out[j] = -1
		switch {
		case i >= len(a):
			continue
		case a[i].Name == b[j].Name:
		default:
			if n := ahead(b[j:], a[i].Name); n > 0 { // b[j] is new, or moved
				continue
			}
			i += ahead(a[i:], b[j].Name) // what is skipped is gone, or moved
		}
		if d.equalRules(&a[i], &b[j]) {
			out[j] = i
		}
		i++
	}
	return out
}

// ahead returns how far ahead in the list a name is, 0 if it is not near.
func ahead(list []rules.Rule, name string) int {
	for i := 1; i < len(list) && i <= patchRules; i++ {
		if list[i].Name == name {
			return i
		}
	}
	return 0
}

// patched makes the program: the base without the rules that are gone, and a
// layer with the patch.
func (d *differ) patched(kept []int, place []id, patch []uint32) *Program {
	old, p := d.old, d.new
	prog := &Program{policy: p, seeds: old.seeds, lists: lists{}}
	base := *old.layers[0]
	base.records = slices.Clone(base.records)
	for i := range base.records {
		base.records[i].flags |= isDead
	}
	for rule, was := range kept {
		if was < 0 || place[was] == none {
			continue
		}
		r := &base.records[place[was]]
		r.flags &^= isDead
		r.rule = uint32(rule)
	}
	prog.layers = []*layer{&base}
	prog.fields, prog.crowded = base.fields, base.crowded
	if len(patch) > 0 {
		var top *layer
		top, patch = newLayer(p, patch, prog.seeds)
		prog.layers = append(prog.layers, top)
		prog.fields |= top.fields
		prog.crowded = prog.crowded || top.crowded
	}
	prog.order = mergeOrder(p, base.records, patch)
	prog.place()
	for rule := range p.Rules {
		if was := kept[rule]; was >= 0 {
			a, b := &old.policy.Rules[was], &p.Rules[rule]
			prog.lists.share(old.lists, &a.Match, &b.Match)
			if a.When != nil {
				prog.lists.share(old.lists, a.When, b.When)
			}
		}
	}
	prog.gather()
	return prog
}

// mergeOrder merges what lives in the base with the patch, which is in its order.
func mergeOrder(p *rules.Policy, base []record, patch []uint32) []uint32 {
	live := make([]uint32, 0, len(base))
	for i := range base {
		if base[i].flags&isDead == 0 {
			live = append(live, base[i].rule)
		}
	}
	order := make([]uint32, 0, len(p.Rules))
	for _, rule := range patch {
		rank := rankOf(&p.Rules[rule], int(rule))
		n := sort.Search(len(live), func(i int) bool {
			return rank.before(rankOf(&p.Rules[live[i]], int(live[i]))) < 0
		})
		order = append(append(order, live[:n]...), rule)
		live = live[n:]
	}
	return append(order, live...)
}

// place sets the positions of all layers from the program's order.
func (p *Program) place() {
	at := make([]uint32, len(p.order)) // by rule
	for pos, rule := range p.order {
		at[rule] = uint32(pos)
	}
	for _, l := range p.layers {
		l.positions = make([]uint32, len(l.records))
		next := none
		for i := len(l.records) - 1; i >= 0; i-- { // a dead rule takes the place of the one after it
			if l.records[i].flags&isDead == 0 {
				next = at[l.records[i].rule]
			}
			l.positions[i] = next
		}
	}
}

// share takes over the indexes of the long lists of a, which is equal to b.
func (out lists) share(old lists, a, b *rules.Expr) {
	if len(old) == 0 {
		return
	}
	for i := range a.Kids {
		out.share(old, &a.Kids[i], &b.Kids[i])
	}
	if a.Op == rules.OpPred {
		if m := old[listKeyOf(&a.Pred)]; m != nil {
			out[listKeyOf(&b.Pred)] = m
		}
	}
}

// equalRules compares all that decisions depend on but the rules' places.
func (d *differ) equalRules(a, b *rules.Rule) bool {
	return a.Priority == b.Priority && a.Active == b.Active && a.OnUnknown == b.OnUnknown && d.equalExprs(&a.Match, &b.Match) &&
		(a.When == nil) == (b.When == nil) && (a.When == nil || d.equalExprs(a.When, b.When)) &&
		samePrimary(&a.Do, &b.Do) && a.Do.Mods == b.Do.Mods
}

func (d *differ) equalExprs(a, b *rules.Expr) bool {
	if a.Op != b.Op || len(a.Kids) != len(b.Kids) {
		return false
	}
	for i := range a.Kids {
		if !d.equalExprs(&a.Kids[i], &b.Kids[i]) {
			return false
		}
	}
	return a.Op != rules.OpPred || d.equalPreds(&a.Pred, &b.Pred)
}

func (d *differ) equalPreds(a, b *rules.Pred) bool {
	if a.Field != b.Field || a.Cmp != b.Cmp || a.Bound != b.Bound || a.States != b.States || a.Ref != b.Ref || a.Metric != b.Metric ||
		a.For != b.For || (a.Set == nil) != (b.Set == nil) {
		return false
	}
	if a.Set == nil {
		return equalLists(a, b)
	}
	if external := a.Set.List != (rules.ListRef{}); external != (b.Set.List != (rules.ListRef{})) {
		return false // it would have another specificity
	}
	key := [2]*rules.Set{a.Set, b.Set}
	same, seen := d.sets[key]
	if !seen {
		same = a.Set.Type == b.Set.Type && equalLists(a, b)
		d.sets[key] = same
	}
	return same
}

func equalLists(a, b *rules.Pred) bool {
	names := func(x, y rules.NamePattern) bool { return x.Kind == y.Kind && x.Name == y.Name }
	return slices.EqualFunc(a.Names, b.Names, names) && slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Ports, b.Ports) &&
		slices.Equal(a.Numbers, b.Numbers) && slices.Equal(a.Globs, b.Globs) && slices.Equal(a.MACs, b.MACs)
}
