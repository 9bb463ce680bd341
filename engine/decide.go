package engine

import (
	"slices"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// decide finds the first true rule with a primary action and the modifiers set
// before it, then asks of every open rule above it whether it would have given
// something else. A rule is open when it is unknown, or false only by DNS names,
// and does not say `on_unknown skip`.
func (s *search) decide(w *state.World) {
	c, d := &s.c, s.d
	p := c.prog
	c.gather(w)
	s.reset()
	s.run(p)
	d.Rule, d.Asked, d.Route, d.RunnerUp, d.Default, d.Final = -1, -1, -1, -1, true, true
	s.outcome = p.policy.Default
	if s.best != none {
		s.outcome, d.Rule, d.Default = s.bestDo, int(s.bestRule), false
		d.RunnerUp = p.runnerUp(s)
	}
	if s.sawMods {
		d.Mods = s.above(s.best)
	}
	if o := s.outcome; o != nil {
		merge(&d.Mods, &o.Mods)
		d.Kind, d.Reject = o.Kind, o.Reject
		switch o.Kind {
		case rules.ActRoute, rules.ActSwitchRoute, rules.ActFailover:
			d.Asked = o.Route
		case rules.ActFallback:
			d.AskedList = o.Routes
		}
		d.Route = p.routeOf(c.flow, w, d)
	}
	if c.dns != 0 {
		p.restsOn(s)
	}
	if c.blindUnknown != 0 {
		s.open = true
		s.run(p)
	}
}

// restsOn notes where the rules that made the decision are true by DNS names.
func (p *Program) restsOn(s *search) {
	c, d := &s.c, s.d
	if d.Rule >= 0 {
		if r := &p.policy.Rules[d.Rule]; c.rests(r) {
			d.restOnDNS(c, r)
		}
	}
	for k, pos := range s.mods {
		if pos >= s.best {
			continue
		}
		if r := &p.policy.Rules[s.modRule[k]]; c.rests(r) {
			d.restOnDNS(c, r)
		}
	}
}

// runnerUp returns the next true rule after the winner, in source order.
func (p *Program) runnerUp(s *search) int {
	if !s.sawMods {
		if s.second == none {
			return -1
		}
		return int(s.secondRule)
	}
	// Rules without a primary action were not told apart by whether they stand
	// before or after the winner.
	t := search{c: s.c, later: s.later} // where nothing waits any more
	t.reset()
	t.next, t.low = true, s.best+1
	t.run(p)
	if t.best == none {
		return -1
	}
	return int(t.bestRule)
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

// hinted reports whether a hint alone makes the predicate true.
func (c *facts) hinted(p *rules.Pred) bool {
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		return c.modes[nameField(p.Field)] == nameHints && c.pred(p) == isTrue
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
