// Package engine decides connections: Compile turns a policy into a program,
// Decide and Explain run it. A decision is a pure function of the policy, the
// flow's facts and the world: no clock, no map order, no floats.
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
	Route     int   // the concrete route given; -1 for block and none
	Reject    bool
	Mods      rules.Modifiers
	Default   bool // no rule decided
	Final     bool
	Pending   FieldSet // facts that could still change the answer
	Hinted    bool     // rests on DNS names (name_source "dns")
	RunnerUp  int      // the next rule in order that is true; -1: the default
}

// FieldSet is a set of fields, bit i for rules.Field i.
type FieldSet uint32

// Has reports whether f is in the set.
func (s FieldSet) Has(f rules.Field) bool { return s>>f&1 == 1 }

// Program is a compiled policy. It is immutable and safe for concurrent use.
type Program struct {
	policy *rules.Policy
	order  []int // rule indices, best first
}

// Policy returns what the program was compiled from.
func (p *Program) Policy() *rules.Policy { return p.policy }

// Compile prepares a checked policy for deciding. It can't fail.
func Compile(p *rules.Policy) *Program { panic("unwritten") }

// Decide decides one flow in one world. It does not modify its arguments and
// starts nothing; *f and *w are only read.
func (p *Program) Decide(f *flow.Flow, w *state.World) Decision { panic("unwritten") }
