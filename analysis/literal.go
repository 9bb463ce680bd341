package analysis

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// converter makes boxes of conditions.
type converter struct {
	*space
	// above makes the boxes hold all points of the condition and maybe others, where
	// the boxes without it may lack some.
	above bool
	// inexact is set when that makes a difference.
	inexact bool
}

// ofRule returns where the rule is looked at and true: as boxes without a point at
// which it isn't, and as boxes with all points at which it is; the same but for rules
// that ask for two names of one field. false: as more boxes than are looked at.
func (s *space) ofRule(r *rules.Rule) (under, over []box, ok bool) {
	c := converter{space: s}
	under, ok = c.rule(r)
	if over = under; ok && c.inexact {
		c.above = true
		over, ok = c.rule(r)
	}
	return under, over, ok
}

func (c *converter) rule(r *rules.Rule) ([]box, bool) {
	out, ok := c.boxes(&r.Match, false)
	if r.When != nil && ok {
		var when []box
		if when, ok = c.boxes(r.When, false); ok {
			out, ok = c.product(out, when)
		}
	}
	if ok && r.Active != state.AllStates {
		out, ok = c.product(out, []box{{c.states(dimKey{field: rules.FieldState}, r.Active)}})
	}
	return out, ok
}

// boxes returns where a condition is true, or with negated where it is false.
func (c *converter) boxes(e *rules.Expr, negated bool) ([]box, bool) {
	switch e.Op {
	case rules.OpNot:
		return c.boxes(&e.Kids[0], !negated)
	case rules.OpPred:
		return c.literal(&e.Pred, negated), true
	case rules.OpAnd, rules.OpOr:
		all := (e.Op == rules.OpAnd) != negated
		var out []box
		if all {
			out = []box{{}}
		}
		for i := range e.Kids {
			k, ok := c.boxes(&e.Kids[i], negated)
			if ok && all {
				out, ok = c.product(out, k)
			} else {
				out = append(out, k...)
			}
			if !ok || len(out) > maxBoxes {
				return nil, false
			}
		}
		return out, true
	default:
		if negated {
			return nil, true
		}
		return []box{{}}, true
	}
}

// product returns where both conditions hold.
func (c *converter) product(a, b []box) ([]box, bool) {
	if len(a)*len(b) > maxBoxes {
		return nil, false
	}
	var out []box
	for _, x := range a {
		for _, y := range b {
			if both, some := x.and(y, c.meet); some {
				out = append(out, both)
			}
		}
	}
	return out, true
}

// meet returns what two sides of a dimension have in common. Two conditions on a name
// may hold for two DNS names where no single name fulfils both: then one of them alone
// has all points, and what is in both only some.
func (c *converter) meet(a, b side) values {
	both := a.in.and(b.in)
	if !a.named || !b.named {
		return both
	}
	c.inexact = true
	if !c.above {
		return both
	}
	n := (c.sizes[a.dim] - known) / nameForm
	dns := values{{known, known + asKnown*n - 1}}
	x, y := a.in.and(dns), b.in.and(dns)
	if x.count() > y.count() {
		x = y
	}
	return normal(slices.Concat(both.minus(dns), x))
}

// states returns the states of a dimension as a side.
func (s *space) states(key dimKey, set state.Set) side {
	var list []span
	for st := state.Normal; st <= state.Recovery; st++ {
		if set.Has(st) {
			list = append(list, span{int32(st), int32(st)})
		}
	}
	return side{dim: s.dim(key), in: normal(list)}
}

// literal returns where a predicate is true, or with negated where it is false.
func (s *space) literal(p *rules.Pred, negated bool) []box {
	switch p.Field {
	case rules.FieldState:
		return oneBox(s.states(dimKey{field: rules.FieldState}, negatedSet(p.States, negated)))
	case rules.FieldSchedule, rules.FieldQuota, rules.FieldCondition:
		v := int32(state.True)
		if negated {
			v = int32(state.False)
		}
		return oneBox(side{dim: s.dim(keyOf(p)), in: values{{v, v}}})
	case rules.FieldRTT, rules.FieldLatency, rules.FieldErrorRate, rules.FieldConnBytes, rules.FieldConnAge, rules.FieldUplink, rules.FieldRoute:
		return s.comparison(p, negated)
	}
	key, l := s.listOf(p)
	made, ok := s.made[literalKey{key, negated}]
	if !ok {
		switch p.Field {
		case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
			made = s.namesOf(p, l, negated)
		case rules.FieldALPN:
			made = s.offers(p, l, negated)
		default:
			made = s.listed(p, l, negated)
		}
		s.made[literalKey{key, negated}] = made
	}
	return made
}

// oneBox returns the box of one side; none if nothing is on it.
func oneBox(s side) []box {
	if len(s.in) == 0 {
		return nil
	}
	return []box{{s}}
}

func negatedSet(set state.Set, negated bool) state.Set {
	if negated {
		return state.AllStates &^ set
	}
	return set
}

// otherwise returns the values at which a predicate is false that is true at the given
// ones: the others that are known, and those that are absent.
func (s *space) otherwise(dim int32, in values) values {
	return values{{min(absent, s.keys[dim].first()), s.sizes[dim] - 1}}.minus(in)
}

func (s *space) comparison(p *rules.Pred, negated bool) []box {
	if p.Field == rules.FieldRoute && p.Ref < 0 { // absent
		if negated {
			return []box{{}}
		}
		return nil
	}
	key := keyOf(p)
	if key.isState() {
		return oneBox(s.states(key, negatedSet(p.States, negated)))
	}
	dim, a := s.dim(key), s.numbers[key]
	var list []span
	limit := a.cuts[len(a.cuts)-1]
	for _, r := range compared(p) {
		if r[0] < limit {
			list = a.appendRun(list, r[0], min(r[1], limit))
		}
	}
	in := normal(shift(list, key.first()))
	if negated {
		in = s.otherwise(dim, in)
	}
	return oneBox(side{dim: dim, in: in})
}

// shift moves spans in place.
func shift(list []span, by int32) []span {
	for i := range list {
		list[i].lo += by
		list[i].hi += by
	}
	return list
}

// matches returns the dimension of whether something that is not compared matches, as
// a side.
func (s *space) matches(f rules.Field, what string, v int32) side {
	return side{dim: s.dim(dimKey{field: f, match: what}), in: values{{v, v}}}
}

// listed returns where a fact is, or is not, in a list of values.
func (s *space) listed(p *rules.Pred, l *list, negated bool) []box {
	key := keyOf(p)
	dim := s.dim(key)
	everything := values{{known, s.sizes[dim] - 1}}
	if l.open {
		return s.either(dim, nil, []pattern{{l.id, everything, l.texts(p)}}, negated)
	}
	var list []span
	var patterns []pattern
	switch p.Field {
	case rules.FieldDstIP, rules.FieldSrcIP:
		a := s.addresses[p.Field-rules.FieldDstIP]
		for _, prefix := range p.Prefixes {
			from, to := within(prefix)
			list = a.appendRun(list, from, to)
		}
	case rules.FieldPort, rules.FieldSrcPort:
		for _, r := range p.Ports {
			list = s.numbers[key].appendRun(list, uint64(r.Lo), uint64(r.Hi)+1)
		}
	case rules.FieldSrcMAC:
		for _, m := range p.MACs {
			list = s.numbers[key].appendRun(list, macNumber(m), macNumber(m)+1)
		}
	case rules.FieldProto, rules.FieldDSCP, rules.FieldMark, rules.FieldASN:
		for _, n := range p.Numbers {
			list = s.numbers[key].appendRun(list, uint64(n), uint64(n)+1)
		}
	default:
		list, patterns = s.wordsOf(p)
	}
	return s.either(dim, normal(shift(list, known)), patterns, negated)
}

// texts returns some texts that the list of a predicate has now, though they aren't
// compared.
func (l *list) texts(p *rules.Pred) []string {
	var out []string
	for i := range min(len(p.Names), maxExamples) {
		out = append(out, examplesOf(&p.Names[i])...)
	}
	for _, g := range p.Globs[:min(len(p.Globs), maxExamples)] {
		out = append(out, starless(string(g))...)
	}
	return out
}

// wordsOf returns the words that match, and the patterns that also match others.
func (s *space) wordsOf(p *rules.Pred) (list []span, patterns []pattern) {
	words := s.words[p.Field]
	other := known + int32(len(words)) // stands for all other texts
	var open []rules.Glob
	for _, g := range p.Globs {
		if isWord(p.Field, g) {
			i, _ := slices.BinarySearch(words, string(g))
			list = append(list, span{int32(i), int32(i)})
		} else {
			open = append(open, g)
		}
	}
	told := s.affords(len(open) * len(words))
	for _, g := range open {
		maybe := values{{other, other}}
		if !told {
			maybe = values{{known, other}}
		}
		patterns = append(patterns, pattern{string(g), maybe, starless(string(g))})
		for i, w := range words {
			if told && g.Match(w) {
				list = append(list, span{int32(i), int32(i)})
			}
		}
	}
	return list, together(patterns)
}

// affords takes n comparisons from those that are made in all.
func (s *space) affords(n int) bool {
	if n > s.tries {
		return false
	}
	s.tries -= n
	return true
}

// pattern is what is not compared value by value, and the values that it may match.
type pattern struct {
	id       string
	maybe    values
	examples []string // that it matches
}

// together makes one of the patterns if they are too many to have a dimension each.
func together(list []pattern) []pattern {
	if len(list) <= maxApart {
		return list
	}
	var ids, examples []string
	var maybe []span
	for _, p := range list {
		ids = append(ids, p.id)
		maybe = append(maybe, p.maybe...)
		examples = append(examples, p.examples...)
	}
	slices.Sort(ids)
	return []pattern{{fmt.Sprintf("any of %q", slices.Compact(ids)), normal(maybe), examples}}
}

// either returns where a fact is one of the values or matches a pattern; or where it
// does neither.
func (s *space) either(dim int32, in values, patterns []pattern, negated bool) []box {
	field := s.keys[dim].field
	for _, p := range patterns {
		key := dimKey{field: field, match: p.id}
		s.examples[key] = p.examples[:min(len(p.examples), maxExamples)]
	}
	if !negated {
		out := oneBox(side{dim: dim, in: in})
		for _, p := range patterns {
			out = append(out, box{{dim: dim, in: p.maybe}}.with(s.matches(field, p.id, isMatch)))
		}
		return out
	}
	not := s.otherwise(dim, in)
	if len(patterns) == 0 {
		return oneBox(side{dim: dim, in: not})
	}
	out := []box{{{dim: dim, in: values{{absent, absent}}}}}
	if not = not.minus(values{{absent, absent}}); len(not) > 0 {
		b := box{{dim: dim, in: not}}
		for _, p := range patterns {
			b = b.with(s.matches(field, p.id, noMatch))
		}
		out = append(out, b)
	}
	return out
}

// offers returns where one of a list of offers is, or none of them is, one of the
// values. Each has a dimension: several can be offered at once.
func (s *space) offers(p *rules.Pred, l *list, negated bool) []box {
	dim := s.dim(keyOf(p))
	every := values{{isKnown, isKnown}}
	var patterns []pattern
	for _, g := range p.Globs {
		patterns = append(patterns, pattern{string(g), every, []string{string(g)}})
	}
	if l.open {
		patterns = []pattern{{l.id, every, l.texts(p)}}
	}
	return s.either(dim, nil, together(patterns), negated)
}

// namesOf returns where a name matches, or does not match, one of the patterns.
func (s *space) namesOf(p *rules.Pred, l *list, negated bool) []box {
	at := nameAt(p.Field)
	dim, a := s.dim(keyOf(p)), s.names[at]
	n := int32(len(a.cuts) - 1)
	in, patterns := s.named(p, l, at)
	if negated {
		out := s.either(dim, normal(append(s.formed(in, n, asKnown), span{known, known + asKnown*n - 1})), patterns, true)
		if p.Field == rules.FieldDomain {
			// That none of the DNS names matches is a fact about all of them.
			if not := (values{{0, n - 1}}).minus(in); len(not) > 0 {
				b := box{{dim: dim, in: normal(s.formed(not, n, asAll))}}
				for _, id := range idsOf(p, l) {
					b = b.with(s.matches(p.Field, noName+id, isMatch))
				}
				out = append(out, b)
			}
		}
		return out
	}
	forms := []int32{asHint, asKnown}
	if p.Field == rules.FieldDomain {
		forms = append(forms, asAll)
	}
	for i := range patterns {
		patterns[i].maybe = normal(s.formed(patterns[i].maybe, n, forms...))
	}
	out := s.either(dim, normal(s.formed(in, n, forms...)), patterns, false)
	for _, b := range out {
		for i := range b {
			b[i].named = b[i].dim == dim
		}
	}
	return out
}

// formed returns pieces of the axis of names as values of the forms.
func (s *space) formed(in values, n int32, forms ...int32) []span {
	var out []span
	for _, f := range forms {
		out = append(out, shift(slices.Clone(in), known+f*n)...)
	}
	return out
}

// idsOf are what stands for the parts of a list of names.
func idsOf(p *rules.Pred, l *list) []string {
	if l.open || len(p.Names) > maxTold {
		return []string{l.id}
	}
	var ids []string
	for i := range p.Names {
		ids = append(ids, p.Names[i].String())
	}
	return ids
}

// named returns the pieces of the axis that match for sure, and the patterns that may
// match others.
func (s *space) named(p *rules.Pred, l *list, at int) (in values, patterns []pattern) {
	a := s.names[at]
	n := int32(len(a.cuts) - 1)
	if l.open {
		return nil, []pattern{{l.id, values{{0, n - 1}}, l.texts(p)}}
	}
	var list []span
	var open []*rules.NamePattern
	for i := range p.Names {
		if q := &p.Names[i]; exact(q) {
			from, to := nameRun(q)
			list = a.appendRun(list, from, to)
		} else {
			open = append(open, q)
		}
	}
	told := s.affords(len(open) * len(s.exact[at]))
	for _, q := range open {
		from, to := nameRun(q)
		maybe := values(a.appendRun(nil, from, to))
		if told {
			var single []span
			for _, e := range s.exact[at] {
				single = append(single, span{e.piece, e.piece})
				if q.Match(e.name) {
					list = append(list, span{e.piece, e.piece})
				}
			}
			maybe = maybe.minus(normal(single))
		}
		if q.Kind == rules.Keyword && s.affords(int(n)) {
			sure := s.containing(a, q.Name)
			list, maybe = append(list, sure...), maybe.minus(normal(slices.Clone(sure)))
		}
		patterns = append(patterns, pattern{q.String(), maybe, examplesOf(q)})
	}
	return normal(list), together(patterns)
}

// containing returns the pieces of which all names contain the text, because they end
// with labels that do.
func (s *space) containing(a *axis[string], text string) []span {
	var out []span
	for i := range len(a.cuts) - 1 {
		from, to := a.cuts[i], a.cuts[i+1]
		if key, ok := strings.CutSuffix(to, afterLabel); ok {
			to = key + labelEnd // what is under the key begins with it
		}
		same := 0
		for same < min(len(from), len(to)) && from[same] == to[same] {
			same++
		}
		if ending, ok := nameOf(from[:strings.LastIndex(from[:same], labelEnd)+1]); ok && strings.Contains(ending, text) {
			out = append(out, span{int32(i), int32(i)})
		}
	}
	return out
}
