package engine

import (
	"slices"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Clock keeps the part of the world that depends on time: which schedules are open
// and which conditions hold, and for how long. It has one owner. It reads no clock:
// every time is handed in.
//
//	clock := engine.NewClock(policy, time.Local)
//	next := clock.Step(now, &world) // at next at the latest, and after every change of the world
//
// A comparison `for D` is true only after it held for D without a break, over all
// steps; while it is unknown it is broken. So a clock that is new, after a restart,
// begins to count anew.
type Clock struct {
	policy *rules.Policy
	local  *time.Location
	// once is set for a clock without a past: `for` is not waited for.
	once      bool
	schedules []opening
	plain     asking   // the conditions as they are written
	members   []asking // by uplink, and last for none: as they are asked of a member of a group
}

// opening is whether a schedule is open from one time until another.
type opening struct {
	from, until time.Time // until is zero: for ever
	open        bool
}

// asking evaluates conditions: as they are written, or with every metric read of one uplink.
type asking struct {
	bound  bool
	uplink int // -1: none
	past   []past
}

// past is what is remembered of one condition.
type past struct {
	held  []time.Time // of each predicate, in order: since when it holds; zero: it does not
	done  bool        // value is this step's
	value tri
}

// maxConditions bounds how deep conditions may read each other: rules.Check refuses
// cycles, and this bounds a policy built by hand.
const maxConditions = 200

// NewClock returns a clock that remembers nothing. local is the zone of schedules
// that name none.
func NewClock(p *rules.Policy, local *time.Location) *Clock {
	c := &Clock{policy: p, local: local, schedules: make([]opening, len(p.Schedules))}
	c.plain = newAsking(p, false, -1)
	if slices.ContainsFunc(p.Groups, func(g rules.Group) bool { return g.Strategy == rules.SLA }) {
		for i := range p.Uplinks {
			c.members = append(c.members, newAsking(p, true, i))
		}
		c.members = append(c.members, newAsking(p, true, -1))
	}
	return c
}

func newAsking(p *rules.Policy, bound bool, uplink int) asking {
	return asking{bound: bound, uplink: uplink, past: make([]past, len(p.Conditions))}
}

// Step sets the schedules, the conditions and what members of groups meet in w,
// which is otherwise complete: conditions read its quotas and metrics. It returns
// when the next step is due if the world does not change before; the zero Time if
// never. Times must not run backward, but for the wall clock's part of them.
func (c *Clock) Step(now time.Time, w *state.World) (next time.Time) {
	s := step{clock: c, now: now, world: w}
	w.Schedules = make([]state.Truth, len(c.schedules))
	for i := range c.schedules {
		w.Schedules[i] = state.TruthOf(s.open(i))
	}
	s.facts = facts{flow: &flow.Flow{}, world: w, state: w.Global}
	s.facts.setWorld(s.facts.flow, w)
	s.ask(&c.plain, &w.Conditions)
	w.Meets = make([][]state.Truth, len(c.policy.Groups))
	for i := range c.members {
		s.begin(&c.members[i])
	}
	for i, g := range c.policy.Groups {
		if g.Strategy != rules.SLA || g.SLA < 0 || g.SLA >= len(c.policy.Conditions) {
			continue
		}
		for _, m := range g.Members {
			a := &c.members[len(c.members)-1]
			if u := uplinkOf(c.policy, m); u >= 0 && u < len(c.policy.Uplinks) {
				a = &c.members[u]
			}
			w.Meets[i] = append(w.Meets[i], truthOf(s.condition(a, g.SLA, maxConditions)))
		}
	}
	return s.next
}

// Carry takes over what old remembers of conditions of the same name and meaning,
// asked of uplinks of the same name.
func (c *Clock) Carry(old *Clock) {
	same := make([]int, len(c.policy.Conditions)) // in old, -1 for none
	for i := range same {
		k := &c.policy.Conditions[i]
		same[i] = slices.IndexFunc(old.policy.Conditions, func(o rules.Condition) bool {
			return o.Name == k.Name && sameCondition(c.policy, &k.Expr, old.policy, &o.Expr)
		})
	}
	take := func(a, from *asking) {
		for i, j := range same {
			if j >= 0 {
				a.past[i].held = slices.Clone(from.past[j].held)
			}
		}
	}
	take(&c.plain, &old.plain)
	for i := range c.members {
		for j := range old.members {
			if a, from := &c.members[i], &old.members[j]; uplinkName(c.policy, a.uplink) == uplinkName(old.policy, from.uplink) {
				take(a, from)
			}
		}
	}
}

func uplinkName(p *rules.Policy, i int) string {
	if i < 0 || i >= len(p.Uplinks) {
		return ""
	}
	return p.Uplinks[i].Name
}

// sameCondition compares what two conditions ask, by the names of what they refer to.
func sameCondition(p *rules.Policy, a *rules.Expr, q *rules.Policy, b *rules.Expr) bool {
	if a.Op != b.Op || len(a.Kids) != len(b.Kids) {
		return false
	}
	for i := range a.Kids {
		if !sameCondition(p, &a.Kids[i], q, &b.Kids[i]) {
			return false
		}
	}
	if a.Op != rules.OpPred {
		return true
	}
	x, y := a.Pred, b.Pred
	if referred(p, &x) != referred(q, &y) || isUnequal(a) != isUnequal(b) {
		return false
	}
	x.Ref, y.Ref = 0, 0
	return (&differ{}).equalPreds(&x, &y)
}

// referred names what a predicate refers to.
func referred(p *rules.Policy, r *rules.Pred) string {
	switch r.Field {
	case rules.FieldUplink, rules.FieldRoute:
		return uplinkName(p, r.Ref)
	case rules.FieldSchedule:
		return nameAt(p.Schedules, r.Ref, func(s *rules.Schedule) string { return s.Name })
	case rules.FieldQuota:
		return nameAt(p.Quotas, r.Ref, func(q *rules.Quota) string { return q.Name })
	case rules.FieldCondition:
		return nameAt(p.Conditions, r.Ref, func(k *rules.Condition) string { return k.Name })
	default:
		return ""
	}
}

// step is one step of a clock.
type step struct {
	clock *Clock
	now   time.Time
	world *state.World
	facts facts
	next  time.Time
}

// due makes the next step no later than at.
func (s *step) due(at time.Time) {
	if s.next.IsZero() || at.Before(s.next) {
		s.next = at
	}
}

// open tells about a schedule, and looks it up anew only when what is known of it
// has run out.
func (s *step) open(i int) bool {
	o, now := &s.clock.schedules[i], s.now.Round(0) // by the wall clock
	if o.from.IsZero() || now.Before(o.from) || !o.until.IsZero() && !now.Before(o.until) {
		schedule := &s.clock.policy.Schedules[i]
		*o = opening{now, schedule.NextChange(now, s.clock.local), schedule.Open(now, s.clock.local)}
	}
	if !o.until.IsZero() {
		// As the monotonic clock has it, should s.now have a reading.
		s.due(s.now.Add(o.until.Sub(now)))
	}
	return o.open
}

// begin makes an asking evaluate anew.
func (s *step) begin(a *asking) {
	for i := range a.past {
		a.past[i].done = false
	}
}

// ask evaluates all conditions as they are written.
func (s *step) ask(a *asking, out *[]state.Truth) {
	s.begin(a)
	*out = make([]state.Truth, len(a.past))
	for i := range a.past {
		(*out)[i] = truthOf(s.condition(a, i, maxConditions))
	}
}

func truthOf(v tri) state.Truth { return [...]state.Truth{state.False, state.Unset, state.True}[v] }

// condition evaluates one condition, once a step.
func (s *step) condition(a *asking, i, depth int) tri {
	if i < 0 || i >= len(a.past) || depth == 0 {
		return isUnknown
	}
	p := &a.past[i]
	if p.done {
		return p.value
	}
	at := 0
	v := s.expr(a, p, &s.clock.policy.Conditions[i].Expr, &at, depth-1)
	p.done, p.value = true, v
	return v
}

// expr evaluates all of an expression, as every predicate in it has to be seen in
// every step. at counts the predicates.
func (s *step) expr(a *asking, p *past, e *rules.Expr, at *int, depth int) tri {
	switch e.Op {
	case rules.OpPred:
		return s.held(a, p, &e.Pred, false, at, depth)
	case rules.OpNot:
		if isUnequal(&e.Kids[0]) {
			return s.held(a, p, &e.Kids[0].Pred, true, at, depth)
		}
		return not(s.expr(a, p, &e.Kids[0], at, depth))
	case rules.OpAnd:
		v := isTrue
		for i := range e.Kids {
			v = min(v, s.expr(a, p, &e.Kids[i], at, depth))
		}
		return v
	case rules.OpOr:
		v := isFalse
		for i := range e.Kids {
			v = max(v, s.expr(a, p, &e.Kids[i], at, depth))
		}
		return v
	default:
		return isTrue
	}
}

// isUnequal reports whether a predicate under a `not` is what `!=` became: then it
// is the inequality that has to last, not the equality that has to last not.
func isUnequal(e *rules.Expr) bool {
	return e.Op == rules.OpPred && e.Pred.Unequal
}

// held evaluates a predicate, negated or not, and how long it has held.
func (s *step) held(a *asking, p *past, r *rules.Pred, negated bool, at *int, depth int) tri {
	v := s.pred(a, r, depth)
	if negated {
		v = not(v)
	}
	if r.For <= 0 || s.clock.once {
		return v
	}
	if *at >= len(p.held) {
		p.held = append(p.held, time.Time{})
	}
	since := &p.held[*at]
	*at++
	if v != isTrue {
		*since = time.Time{}
		return v
	}
	if since.IsZero() {
		*since = s.now
	}
	if s.now.Sub(*since) >= r.For {
		return isTrue
	}
	s.due(since.Add(r.For))
	return isFalse
}

func (s *step) pred(a *asking, r *rules.Pred, depth int) tri {
	switch {
	case r.Field == rules.FieldCondition:
		return s.condition(a, r.Ref, depth)
	case !r.Field.OfWorld():
		return isUnknown // there is no flow
	case !a.bound:
		return s.facts.pred(r)
	}
	own := *r
	switch r.Field {
	case rules.FieldLatency:
		own.Field, own.Metric = rules.FieldUplink, rules.MetricRTT
	case rules.FieldErrorRate:
		own.Field, own.Metric = rules.FieldUplink, rules.MetricErrorRate
	case rules.FieldUplink, rules.FieldRoute:
	default:
		return s.facts.pred(r)
	}
	own.Ref = a.uplink
	return s.facts.pred(&own)
}

// uplinkOf is the uplink that stands for a route: its own, or that of a group's
// first member; -1 for none.
func uplinkOf(p *rules.Policy, route int) int {
	for range len(p.Groups) + 1 {
		if route < 0 || route >= len(p.Routes) {
			return -1
		}
		rt := &p.Routes[route]
		switch {
		case rt.Kind == rules.RouteUplink || rt.Kind == rules.RouteOther:
			return rt.Uplink
		case rt.Kind == rules.RouteGroup && rt.Group >= 0 && rt.Group < len(p.Groups) && len(p.Groups[rt.Group].Members) > 0:
			route = p.Groups[rt.Group].Members[0]
		default:
			return -1
		}
	}
	return -1
}
