// Package engine decides connections: Compile turns a policy into a program,
// Decide and Explain run it. A decision is a pure function of the policy, the
// flow's facts and the world: no clock, no map order, no floats.
//
//	prog := engine.Compile(policy)
//	d := prog.Decide(&f, world) // d.Route is where the flow goes
//	prog.Why(&d)                // "priority 100 before 10 (default_log)"
package engine

import (
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Decision is the answer for one flow. Indices refer to the policy's slices, -1 is none.
type Decision struct {
	Rule      int // winner, in source order; -1: the default, or none
	Kind      rules.ActionKind
	Asked     int   // route asked for (route, switch_route, failover)
	AskedList []int // routes asked for by fallback; shared, do not modify
	// Route is the concrete route given; -1 for block and none, and for a group
	// with when_none block that has no usable member (the flow is blocked).
	Route    int
	Reject   bool
	Mods     rules.Modifiers
	Default  bool // no rule decided
	Final    bool
	Pending  FieldSet // facts that could still change the answer
	Hinted   bool     // rests on DNS names (name_source "dns")
	RunnerUp int      // the next rule in order that is true; -1: the default
}

// FieldSet is a set of fields, bit i for rules.Field i.
type FieldSet uint64

// Has reports whether f is in the set.
func (s FieldSet) Has(f rules.Field) bool { return s>>f&1 == 1 }

// With returns the set with f added.
func (s FieldSet) With(f rules.Field) FieldSet { return s | 1<<f }

// Program is a compiled policy. It is immutable and safe for concurrent use.
type Program struct {
	policy *rules.Policy
	layers []*layer // one, or after Recompile a second with what has changed
	fields FieldSet // that any rule reads
	// metrics are those of uplinks that any rule reads, bit n for rules.Metric n.
	metrics uint8
	lists   lists
	seeds   seeds
	order   []uint32 // rules in source order, best first
	// crowded is set if a layer is.
	crowded bool
}

// Compile prepares a checked policy for deciding. It can't fail.
//
// The order is total: priority descending, specificity descending, source order.
func Compile(p *rules.Policy) *Program {
	prog := &Program{policy: p, seeds: newSeeds(), lists: lists{}}
	list := make([]uint32, len(p.Rules))
	for i := range list {
		list[i] = uint32(i)
	}
	l, order := newLayer(p, list, prog.seeds)
	prog.layers, prog.order = []*layer{l}, order
	prog.fields, prog.crowded = l.fields, l.crowded
	prog.gather()
	return prog
}

// gather makes what all layers share: the indexes of long lists that are not there
// yet, and what is known of the metrics that rules read.
func (p *Program) gather() {
	for i := range p.policy.Quotas {
		p.lists.add(&p.policy.Quotas[i].Match, p.seeds)
	}
	for i := range p.policy.Rules {
		r := &p.policy.Rules[i]
		p.lists.add(&r.Match, p.seeds)
		if r.When != nil {
			p.lists.add(r.When, p.seeds)
		}
		if p.fields&linkFields != 0 {
			p.metrics |= metricsOf(&r.Match)
			if r.When != nil {
				p.metrics |= metricsOf(r.When)
			}
		}
	}
}

func metricsOf(e *rules.Expr) uint8 {
	if e.Op == rules.OpPred && linkFields.Has(e.Pred.Field) {
		return 1 << e.Pred.Metric
	}
	var m uint8
	for i := range e.Kids {
		m |= metricsOf(&e.Kids[i])
	}
	return m
}

// Reads reports whether a rule reads the field.
func (p *Program) Reads(f rules.Field) bool { return p.fields.Has(f) }

// Policy returns what the program was compiled from.
func (p *Program) Policy() *rules.Policy { return p.policy }

// Order returns the rules' indices, best first.
func (p *Program) Order() []int {
	order := make([]int, len(p.order))
	for i := range p.order {
		order[i] = int(p.order[i])
	}
	return order
}

// Decide decides one flow in one world. It does not modify its arguments and
// starts nothing; *f and *w are only read. Evaluation is first match over the
// total order, in three-valued logic: a rule whose facts are not all known may
// make the decision provisional (Final false), never wrong.
func (p *Program) Decide(f *flow.Flow, w *state.World) (d Decision) {
	p.DecideInto(&d, f, w)
	return d
}

// DecideInto is Decide for callers that make many decisions: a Decision is large,
// and copying it just after it was written costs a tenth of making it.
func (p *Program) DecideInto(d *Decision, f *flow.Flow, w *state.World) {
	*d = Decision{}
	s := search{c: facts{flow: f, prog: p}, d: d}
	if p.crowded {
		var wait laterList
		s.later = &wait
	}
	s.decide(w)
}
