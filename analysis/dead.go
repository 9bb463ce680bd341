package analysis

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Effort bounds the work of an analysis, in comparisons of one fact. A million take a
// few milliseconds.
type Effort int

// The efforts: a whole policy of some ten thousand rules, and what a text in an editor
// is given at each change.
const (
	Thorough Effort = 400_000_000
	Quick    Effort = 20_000_000
)

const (
	// maxRules bounds the policies that are looked at.
	maxRules = 200_000
	// eachRule is the most that is spent on one rule.
	eachRule = 2_000_000
	// maxHolders bounds the rules that are tried as the only one that shadows another.
	maxHolders = 64
	// maxThinned bounds the rules of which it is tried whether each is needed.
	maxThinned = 64
	// maxNamed bounds the rules that a finding points at.
	maxNamed = 8
)

// DeadRules is what Dead has found.
type DeadRules struct {
	// Dead has an entry for each rule of the policy: whether it is proven that it never
	// decides. Rules without a state in which they are looked at are not among them.
	Dead []bool
	// Diags are the findings, in the order of diag.Sort, but for those that a rule allows.
	Diags []diag.Diagnostic
}

// Dead finds the rules that can never decide, in whatever state and world, for whatever
// flow, however much of it is known yet: those that are never true (NP306), and those
// that are true only where a rule before them decides: one (NP302), or several together
// (NP304). A rule without a primary action is dead where its modifiers never count.
// NP308 is a default that is never asked. NP322 says of how many rules it could not be
// found out within the effort.
//
// What it says is proven; it does not find all, see space.
func Dead(p *rules.Policy, e Effort) DeadRules {
	if len(p.Rules) > maxRules {
		many := diag.New("NP322", p.Rules[0].NameSpan, "it is not looked at which rules never decide: they are more than %d", maxRules)
		return DeadRules{Dead: make([]bool, len(p.Rules)), Diags: []diag.Diagnostic{many}}
	}
	d := newDead(p, e)
	for place := range d.order {
		d.rule(place)
	}
	d.byDefault()
	d.incomplete()
	return DeadRules{Dead: d.found, Diags: diag.Sort(d.diags.List())}
}

type dead struct {
	policy *rules.Policy
	cover  *cover
	order  []int   // rules by place
	over   [][]box // by place; nil: too many boxes, or none
	skip   []bool  // by place: too many boxes
	budget budget
	found  []bool // by rule
	// program is of the policy; nil until it is needed.
	program *engine.Program
	diags   diag.Collector
	// missed are the places of rules of which nothing is known.
	missed []int
}

func newDead(p *rules.Policy, e Effort) *dead {
	s := newSpace(p, e)
	d := &dead{policy: p, budget: budget{int(e), eachRule}, found: make([]bool, len(p.Rules))}
	specificity := make([]rules.Specificity, len(p.Rules))
	for i := range p.Rules {
		if p.Rules[i].Active != 0 {
			d.order = append(d.order, i)
			specificity[i] = p.Rules[i].Specificity()
		}
	}
	slices.SortStableFunc(d.order, func(a, b int) int {
		return cmp.Or(cmp.Compare(p.Rules[b].Priority, p.Rules[a].Priority), specificity[b].Compare(specificity[a]))
	})
	d.over, d.skip = make([][]box, len(d.order)), make([]bool, len(d.order))
	var boxes []placed
	all := 0
	for place, i := range d.order {
		under, over, ok := s.ofRule(&p.Rules[i])
		if all += len(over); all > maxAllBoxes {
			under, over, ok = nil, nil, false
		}
		d.over[place], d.skip[place] = over, !ok
		if p.Rules[i].Do.Kind == rules.ActNone {
			continue // what only sets modifiers lets others decide
		}
		for _, b := range under {
			boxes = append(boxes, placed{b, place})
		}
	}
	var first []placed
	for _, b := range s.impossible() {
		first = append(first, placed{b, nowhere})
	}
	d.cover = newCover(s, newIndex(s, append(first, boxes...)))
	d.cover.index.add(s, nowhere, false)
	return d
}

// rule looks at the rule with a place. Of one that decides it returns a region, at whose
// sample no rule before it is true; nil for others.
func (d *dead) rule(place int) box {
	r := &d.policy.Rules[d.order[place]]
	// What is covered by a dead rule is so by those that cover it.
	defer func() { d.cover.index.add(d.cover.space, place, d.found[d.order[place]]) }()
	if d.skip[place] || d.budget.left <= 0 {
		d.missed = append(d.missed, place)
		return nil
	}
	pieces := d.over[place]
	v, used, left := d.cover.all(pieces, nil, &d.budget)
	switch v {
	case undecided:
		d.missed = append(d.missed, place)
		return nil
	case uncovered:
		if d.cover.near != nowhere && r.Do.Kind != rules.ActNone {
			d.open(place, left, d.cover.near)
		}
		return left
	}
	never := len(used) == 0
	if !never {
		w, _, _ := d.cover.all(pieces, func(p int) bool { return p == nowhere }, &d.budget)
		never = w == covered
	}
	if never {
		d.report(r, "NP306", r.NameSpan, "no connection ever fulfils the conditions of this rule")
	} else {
		d.shadowed(r, d.fewest(pieces, used))
	}
	d.found[d.order[place]] = true
	return nil
}

// open reports a rule of which it hangs on what is not compared, in another rule, whether
// it decides, unless a flow is found that it decides.
func (d *dead) open(place int, left box, near int) {
	if d.program == nil {
		d.program = engine.Compile(d.policy)
	}
	rule := d.order[place]
	decides := func(f *flow.Flow, w *state.World) bool { return d.program.Decide(f, w).Rule == rule }
	if _, _, ok := d.cover.space.witness(left, decides); ok {
		return
	}
	r, first := &d.policy.Rules[rule], &d.policy.Rules[d.order[near]]
	f := d.report(r, "NP322", r.NameSpan, "it could not be found out whether this rule ever decides: that hangs on patterns, or lists from the web, which are not compared")
	f.Note(first.NameSpan, diag.Quote(first.Name)+" goes first and may match the same")
}

// shadowed reports a rule that is true only where those with the places decide.
func (d *dead) shadowed(r *rules.Rule, used []int) {
	never := "this rule never decides"
	if r.Do.Kind == rules.ActNone {
		never = "this rule never sets anything"
	}
	if len(used) == 1 {
		first := &d.policy.Rules[d.order[used[0]]]
		f := d.report(r, "NP302", r.NameSpan, "%s: %s goes first and decides all that it matches", never, diag.Quote(first.Name))
		f.Help = "remove it, or give it a higher priority"
		d.point(f, r, used)
		return
	}
	var names []string
	for _, u := range used[:min(len(used), maxNamed)] {
		names = append(names, diag.Quote(d.policy.Rules[d.order[u]].Name))
	}
	if more := len(used) - maxNamed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	f := d.report(r, "NP304", r.NameSpan, "%s: %d rules go first and together decide all that it matches: %s", never, len(used), strings.Join(names, ", "))
	f.Help = "remove it, or give it a higher priority"
	d.point(f, r, used)
}

// point adds the places of rules to a finding about another rule, nil for the default.
func (d *dead) point(f *diag.Diagnostic, r *rules.Rule, used []int) {
	of := d.policy.Default
	if r != nil {
		of = &r.Do
	}
	text := engine.OutcomeText(d.policy, of)
	for _, u := range used[:min(len(used), maxNamed)] {
		first := &d.policy.Rules[d.order[u]]
		does := engine.OutcomeText(d.policy, &first.Do)
		switch {
		case of.Kind == rules.ActNone:
			f.Note(first.NameSpan, diag.Quote(first.Name)+" decides before it")
		case does == text:
			f.Note(first.NameSpan, diag.Quote(first.Name)+" does the same before it")
		default:
			f.Note(first.NameSpan, diag.Quote(first.Name)+" does something else before it: "+does)
		}
	}
}

// byDefault looks at the default.
func (d *dead) byDefault() {
	if d.policy.Default == nil {
		return
	}
	pieces := []box{{}}
	v, used, _ := d.cover.all(pieces, nil, &d.budget)
	if v != covered {
		return
	}
	used = d.fewest(pieces, used)
	f := d.diags.Report("NP308", d.policy.Default.Span, "the default is never asked: rules decide every connection")
	d.point(f, nil, used)
}

// incomplete says of how many rules nothing is known.
func (d *dead) incomplete() {
	if len(d.missed) == 0 {
		return
	}
	first := &d.policy.Rules[d.order[d.missed[0]]]
	f := d.report(first, "NP322", first.NameSpan, "it could not be found out whether this rule ever decides")
	if n := len(d.missed); n > 1 {
		f.Message = fmt.Sprintf("of %d rules, of which this is the first, it could not be found out whether they ever decide", n)
	}
	f.Help = "the conditions have too many parts, or too many rules overlap"
}

// fewest returns, of the rules that cover the pieces, one that does it alone, else
// those of which none can be left out.
func (d *dead) fewest(pieces []box, used []int) []int {
	if one, ok := d.single(pieces); ok {
		return []int{one}
	}
	return d.thin(pieces, used)
}

// single returns the first rule that covers the pieces alone.
func (d *dead) single(pieces []box) (int, bool) {
	for _, h := range d.cover.holders(pieces[0], maxHolders, &d.budget) {
		only := func(p int) bool { return p == h || p == nowhere }
		if v, _, _ := d.cover.all(pieces, only, &d.budget); v == covered {
			return h, true
		}
	}
	return 0, false
}

// thin leaves out rules that are not needed to cover the pieces.
func (d *dead) thin(pieces []box, used []int) []int {
	if len(used) > maxThinned {
		return used
	}
	for _, u := range slices.Backward(slices.Clone(used)) {
		only := func(p int) bool { return p == nowhere || p != u && slices.Contains(used, p) }
		if v, fewer, _ := d.cover.all(pieces, only, &d.budget); v == covered {
			used = fewer
		}
	}
	return used
}

// report adds a finding about a rule, unless the rule allows it.
func (d *dead) report(r *rules.Rule, code diag.Code, at diag.Span, format string, args ...any) *diag.Diagnostic {
	if slices.Contains(r.Allow, code) {
		return &diag.Diagnostic{}
	}
	return d.diags.Report(code, at, format, args...)
}
