// Package analysis finds out what a policy says of itself: whether its assertions hold,
// and which of its rules never decide.
//
// Assertions are tried: it decides by the engine, over facts and worlds that it makes up.
// Rules are compared as boxes in a space of numbered facts (see space), of which cover
// finds out whether some lie within others, and witness makes a flow and a world. It is
// pure.
package analysis

import (
	"slices"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// Result is what became of a policy's assertions.
type Result struct {
	Tried  int // assertions about one connection
	Failed int
	// Unproven are the assertions about conditions, and the invariants, which are
	// not tried.
	Unproven int
	Diags    []diag.Diagnostic // NP320, one for each assertion that failed
}

// Assertions tries every assertion about one connection in each of its states:
// once with all other facts unknown and once with all others absent. Of an
// assertion that fails the first failure is told.
func Assertions(prog *engine.Program) Result {
	p := prog.Policy()
	r := Result{Unproven: len(p.Invariants)}
	for i := range p.Asserts {
		a := &p.Asserts[i]
		if a.Flow == nil {
			r.Unproven++
			continue
		}
		r.Tried++
		if d := try(prog, a); d != nil {
			r.Failed++
			r.Diags = append(r.Diags, *d)
		}
	}
	return r
}

// try returns what is wrong with an assertion, or nil.
func try(prog *engine.Program, a *rules.Assert) *diag.Diagnostic {
	p := prog.Policy()
	for s := state.Normal; s <= state.Recovery; s++ {
		if !a.States.Has(s) {
			continue
		}
		for _, others := range []string{"unknown", "absent"} {
			f, w := *a.Flow, engine.OfflineWorld(p, s)
			know(p, &f, w, others == "absent")
			d := prog.Decide(&f, w)
			if holds(&a.Expect, &d) {
				continue
			}
			out := diag.New("NP320", a.Expect.Span, "in state %s with all other facts %s the result is `%s`", s, others, prog.ActionText(&d))
			out.Help = prog.Why(&d)
			if d.Rule >= 0 {
				out.Note(p.Rules[d.Rule].NameSpan, "decided by this rule")
			} else if p.Default != nil {
				out.Note(p.Default.Span, "decided by the default")
			}
			return &out
		}
	}
	return nil
}

// holds compares the primary action and its target alone.
func holds(e *rules.Expect, d *engine.Decision) bool {
	switch {
	case e.Do != nil:
		if e.Do.Kind != d.Kind {
			return false
		}
		switch d.Kind {
		case rules.ActBlock:
			return e.Do.Reject == d.Reject
		case rules.ActFallback:
			return slices.Equal(e.Do.Routes, d.AskedList)
		default:
			return e.Do.Route == d.Asked
		}
	case e.Default:
		return d.Default
	case e.Via >= 0:
		return d.Route == e.Via
	default:
		return e.Rule == d.Rule
	}
}

// know completes what is not known of a flow and a world: everything stays
// unknown, or everything is known to be absent.
func know(p *rules.Policy, f *flow.Flow, w *state.World, absent bool) {
	w.Schedules, w.Quotas, w.Conditions = nil, nil, nil
	if !absent {
		return
	}
	no := func(n int) []state.Truth {
		list := make([]state.Truth, n)
		for i := range list {
			list[i] = state.False
		}
		return list
	}
	w.Schedules, w.Quotas, w.Conditions = no(len(p.Schedules)), no(len(p.Quotas)), no(len(p.Conditions))
	missing(&f.Proto)
	missing(&f.SrcPort)
	missing(&f.DstPort)
	missing(&f.DSCP)
	missing(&f.Mark)
	missing(&f.SNI)
	missing(&f.HTTPHost)
	missing(&f.Dst)
	missing(&f.Src)
	for _, v := range []*flow.Value[int64]{&f.Latency, &f.ErrorRate, &f.RTT, &f.ConnBytes, &f.ConnAge} {
		missing(v)
	}
	for _, v := range []*flow.Value[string]{
		&f.Process, &f.ProcessPath, &f.User, &f.Group, &f.Cgroup, &f.IfaceIn, &f.IfaceOut, &f.App, &f.ALPN, &f.Country,
	} {
		missing(v)
	}
	missing(&f.SrcMAC)
	missing(&f.ASN)
}

func missing[T comparable](v *flow.Value[T]) {
	if v.Unknown() {
		*v = flow.Absent[T]()
	}
}
