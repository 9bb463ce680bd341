package engine

import (
	"slices"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// hit is a rule that a scan stopped at.
type hit struct {
	pos   int // in the order; len(rules) at the end
	value tri // isFalse only if rests
	rests bool
}

// next finds the next rule from pos on that is not false, or whose being false
// rests on DNS names.
func (p *Program) next(c *facts, pos int) hit {
	for ; pos < len(p.guards); pos++ {
		if !p.guards[pos].passes(c) {
			continue
		}
		r := &p.rules[pos]
		v := r.eval(c)
		rests := c.dns != 0 && r.names && v != isUnknown && r.evalBlind(c) == isUnknown
		if v != isFalse || rests {
			return hit{pos, v, rests}
		}
	}
	return hit{pos: pos}
}

// evalBlind evaluates as if DNS names were not there.
func (r *compiled) evalBlind(c *facts) tri {
	c.blind = true
	v := r.eval(c)
	c.blind = false
	return v
}

// open reports whether the rule at h may yet change the result: it is unknown,
// or false only by DNS names. A rule that says `on_unknown skip` never may.
func (p *Program) open(h hit) bool {
	return h.value != isTrue && p.rules[h.pos].rule.OnUnknown != rules.Skip
}

// decide walks the order to the first true rule with a primary action, then
// asks of every open rule above it whether it would have given something else.
func (p *Program) decide(c *facts, w *state.World) Decision {
	d := Decision{Rule: -1, Asked: -1, Route: -1, RunnerUp: -1, Default: true, Final: true}
	first, last := -1, -1 // the open rules lie between
	var above rules.Modifiers
	outcome := p.policy.Default
	h := p.next(c, 0)
	for ; h.pos < len(p.rules); h = p.next(c, h.pos+1) {
		r := &p.rules[h.pos]
		if p.open(h) {
			if first < 0 {
				first, above = h.pos, d.Mods
			}
			last = h.pos
		}
		if h.value != isTrue {
			continue
		}
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
	if first >= 0 {
		p.settle(c, &d, outcome, above, first, last)
	}
	if !d.Default {
		d.RunnerUp = p.runnerUp(c, h.pos+1)
	}
	return d
}

// settle looks at the open rules in [first, last] and makes the decision
// provisional for each that would have given something else. above holds the
// modifiers gathered before first.
func (p *Program) settle(c *facts, d *Decision, outcome *rules.Outcome, above rules.Modifiers, first, last int) {
	for h := p.next(c, first); h.pos <= last; h = p.next(c, h.pos+1) {
		r := &p.rules[h.pos]
		if h.value == isTrue {
			merge(&above, &r.rule.Do.Mods)
			continue
		}
		if !p.open(h) || !differs(&r.rule.Do, outcome, above, &d.Mods) {
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
		return c.names[slotOf(p.Field)].mode == nameHints && c.pred(p) == isTrue
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
	for h := p.next(c, pos); h.pos < len(p.rules); h = p.next(c, h.pos+1) {
		if h.value == isTrue {
			return p.rules[h.pos].index
		}
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
