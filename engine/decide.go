package engine

import (
	"slices"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// hit is a rule that was evaluated.
type hit struct {
	pos   int // in the order; len(rules) past the end
	value tri
	rests bool // the value comes from DNS names
}

// span holds the rules that may be open: those in [first, last] for which
// nobody has looked closer.
type span struct{ first, last int }

func (s *span) add(pos int) {
	if s.first < 0 {
		s.first = pos
	}
	s.last = pos
}

// next finds the next rule from pos on that is true, and notes in open the ones
// on the way that may be open. It takes a guard's word that a rule is not true.
func (p *Program) next(c *facts, pos int, open *span) hit {
	for ; pos < len(p.guards); pos++ {
		g := &p.guards[pos]
		if c.known[g.slot] == slotValue && (c.word[g.slot]^g.value)&g.mask != 0 {
			continue // as check would say; most rules end here
		}
		switch g.check(c) {
		case guardOpen:
			if !g.skip {
				open.add(pos)
			}
		case guardEval:
			h := p.look(c, pos)
			if h.value == isTrue {
				return h
			}
			if !g.skip && (h.value == isUnknown || h.rests) {
				open.add(pos)
			}
		}
	}
	return hit{pos: pos}
}

// look evaluates one rule.
func (p *Program) look(c *facts, pos int) hit {
	r := &p.rules[pos]
	v := r.eval(c)
	rests := c.dns != 0 && r.names && v != isUnknown && r.evalBlind(c) == isUnknown
	return hit{pos, v, rests}
}

// evalBlind evaluates as if DNS names were not there.
func (r *compiled) evalBlind(c *facts) tri {
	c.blind = true
	v := r.eval(c)
	c.blind = false
	return v
}

// decide walks the order to the first true rule with a primary action, then
// asks of every open rule above it whether it would have given something else.
// A rule is open when it is unknown, or false only by DNS names, and does not
// say `on_unknown skip`.
func (p *Program) decide(c *facts, w *state.World) Decision {
	d := Decision{Rule: -1, Asked: -1, Route: -1, RunnerUp: -1, Default: true, Final: true}
	open, noted := span{first: -1}, false
	var above rules.Modifiers // gathered before the first open rule
	outcome := p.policy.Default
	h := p.next(c, 0, &open)
	for ; h.pos < len(p.rules); h = p.next(c, h.pos+1, &open) {
		if open.first >= 0 && !noted {
			above, noted = d.Mods, true
		}
		r := &p.rules[h.pos]
		before := d.Mods
		merge(&d.Mods, &r.rule.Do.Mods)
		if h.rests && (r.rule.Do.Kind != rules.ActNone || d.Mods != before) {
			d.restOnDNS(c, r)
		}
		if r.rule.Do.Kind != rules.ActNone {
			outcome, d.Rule, d.Default = &r.rule.Do, r.index, false
			break
		}
	}
	if open.first >= 0 && !noted {
		above = d.Mods
	}
	if outcome != nil {
		if d.Default {
			merge(&d.Mods, &outcome.Mods)
		}
		d.Kind, d.Reject = outcome.Kind, outcome.Reject
		switch outcome.Kind {
		case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
			d.Asked = outcome.Route
		case rules.ActFallback:
			d.AskedList = outcome.Routes
		}
		d.Route = p.routeOf(c.flow, w, &d)
	}
	if open.first >= 0 {
		p.settle(c, &d, outcome, above, open)
	}
	if !d.Default {
		d.RunnerUp = p.runnerUp(c, h.pos+1)
	}
	return d
}

// settle looks at the rules in open and makes the decision provisional for each
// that would have given something else. above holds the modifiers gathered
// before the first.
func (p *Program) settle(c *facts, d *Decision, outcome *rules.Outcome, above rules.Modifiers, open span) {
	settled := c.settled()
	for pos := open.first; pos <= open.last; pos++ {
		g := &p.guards[pos]
		if g.primary && !d.Final && g.fields&^(d.Pending|settled) == 0 && (c.dns == 0 || d.Hinted) {
			continue // it could add nothing
		}
		if g.check(c) == guardFalse {
			continue
		}
		h := p.look(c, pos)
		r := &p.rules[pos]
		if h.value == isTrue {
			merge(&above, &r.rule.Do.Mods)
			continue
		}
		if h.value == isFalse && !h.rests || g.skip || !differs(&r.rule.Do, outcome, above, &d.Mods) {
			continue
		}
		if h.value == isUnknown {
			d.Final = false
			r.collect(c, &d.Pending)
			continue
		}
		d.restOnDNS(c, r)
	}
}

// differs reports whether the rule's outcome, were the rule true, would change
// the result, given the modifiers that true rules above it have set.
func differs(o, result *rules.Outcome, above rules.Modifiers, mods *rules.Modifiers) bool {
	merge(&above, &o.Mods)
	if o.Kind == rules.ActNone {
		merge(&above, mods) // the walk goes on: what is still unset is set as before
		return above != *mods
	}
	return above != *mods || result == nil || !samePrimary(o, result)
}

// samePrimary compares what is asked for. Equal targets resolve to equal routes.
func samePrimary(a, b *rules.Outcome) bool {
	if a.Kind != b.Kind {
		return false
	}
	switch a.Kind {
	case rules.ActBlock:
		return a.Reject == b.Reject
	case rules.ActFallback:
		return slices.Equal(a.Routes, b.Routes)
	default:
		return a.Route == b.Route
	}
}

// restOnDNS notes that the decision hangs on DNS names that r has read. As
// hints they are provisional; as the domain itself they are final.
func (d *Decision) restOnDNS(c *facts, r *compiled) {
	d.Hinted = true
	if c.dns == nameHints {
		d.Final = false
		r.collect(c, &d.Pending)
	}
}

// collect adds the facts that keep the rule open: what its unknown predicates
// read, as far as they lie under no false `and` and no true `or`, and the
// hinted facts that carry its value.
func (r *compiled) collect(c *facts, set *FieldSet) {
	if r.eval(c) == isUnknown {
		for i := range r.literals { // negation does not matter to what is unknown
			if l := r.literals[i].pred; c.pred(l) == isUnknown {
				*set = set.With(l.Field)
			}
		}
		for i := range r.rest {
			c.collectUnknown(&r.rest[i], set)
		}
	}
	if c.dns != nameHints || !r.names || r.evalBlind(c) != isUnknown {
		return
	}
	for i := range r.literals {
		if l := r.literals[i].pred; c.hinted(l) {
			*set = set.With(l.Field)
		}
	}
	for i := range r.rest {
		c.collectHinted(&r.rest[i], set)
	}
}

// hinted reports whether a hint alone makes the predicate true.
func (c *facts) hinted(p *rules.Pred) bool {
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		return c.names[nameField(p.Field)].mode == nameHints && c.pred(p) == isTrue
	default:
		return false
	}
}

func (c *facts) collectUnknown(e *rules.Expr, set *FieldSet) {
	if c.expr(e) != isUnknown {
		return
	}
	if e.Op == rules.OpPred {
		*set = set.With(e.Pred.Field)
	}
	for i := range e.Kids {
		c.collectUnknown(&e.Kids[i], set)
	}
}

func (c *facts) collectHinted(e *rules.Expr, set *FieldSet) {
	c.blind = true
	v := c.expr(e)
	c.blind = false
	if v != isUnknown {
		return
	}
	if e.Op == rules.OpPred && c.hinted(&e.Pred) {
		*set = set.With(e.Pred.Field)
	}
	for i := range e.Kids {
		c.collectHinted(&e.Kids[i], set)
	}
}

// runnerUp finds the next true rule, in source order's index.
func (p *Program) runnerUp(c *facts, pos int) int {
	var below span // open rules below the winner do not matter
	if h := p.next(c, pos, &below); h.pos < len(p.rules) {
		return p.rules[h.pos].index
	}
	return -1
}

// merge sets the modifiers of to that are still unset.
func merge(to, from *rules.Modifiers) {
	if to.Log.Unknown() {
		to.Log = from.Log
	}
	if to.Throttle.Unknown() {
		to.Throttle = from.Throttle
	}
	if to.Mark.Unknown() {
		to.Mark = from.Mark
	}
	if to.DSCP.Unknown() {
		to.DSCP = from.DSCP
	}
}

// routeOf resolves what the decision asks for.
func (p *Program) routeOf(f *flow.Flow, w *state.World, d *Decision) int {
	var leaf int
	ok := true
	switch d.Kind {
	case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
		if d.Asked < 0 || d.Asked >= len(p.policy.Routes) {
			return -1
		}
		if p.policy.Routes[d.Asked].Kind != rules.RouteGroup {
			return d.Asked // obeyed even when dead
		}
		leaf, ok = Resolve(p.policy, w, d.Asked, flow.Hash(f))
	case rules.ActFallback:
		leaf, ok = ResolveFallback(p.policy, w, d.AskedList, flow.Hash(f))
	default:
		return -1
	}
	if !ok {
		return -1
	}
	return leaf
}
