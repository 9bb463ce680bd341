package rules

import (
	"net/netip"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/state"
)

func (c *checker) readAsserts() {
	c.place = inAssert
	defer func() { c.place = inMatch }()
	for i := range c.ast.Asserts {
		n := &c.ast.Asserts[i]
		a := Assert{Span: n.Span, Text: n.text(), States: c.statesOf(n.When)}
		if n.Expr != nil {
			a.Match = c.expr(n.Expr)
		} else {
			a.Flow = c.connection(n)
		}
		a.Expect = c.expect(&n.Expect, "an assertion")
		c.p.Asserts = append(c.p.Asserts, a)
	}
}

// text is the assertion in one line, without what it expects.
func (n *AssertNode) text() string {
	var b strings.Builder
	if n.Expr == nil {
		b.WriteString(n.Target.Text)
		if n.Proto.Given() {
			b.WriteString(" " + n.Proto.Text)
		}
		if n.Port.Given() {
			b.WriteString("/" + n.Port.Text)
		}
	}
	for i, w := range n.When {
		sep := ","
		if i == 0 {
			sep = " when "
		}
		b.WriteString(sep + w.Text)
	}
	return strings.TrimSpace(b.String())
}

// statesOf reads the states behind `when`; none given: all.
func (c *checker) statesOf(words []Word) state.Set {
	if len(words) == 0 {
		return state.AllStates
	}
	var set state.Set
	for _, w := range words {
		set |= c.state(w)
	}
	return set
}

// connection makes the flow that an assertion names.
func (c *checker) connection(n *AssertNode) *flow.Flow {
	f := &flow.Flow{}
	target := n.Target.Text
	if a, err := netip.ParseAddr(strings.Trim(target, "[]")); err == nil {
		f.Dst = flow.Some(a.Unmap().WithZone(""))
	} else if name, err := flow.CanonicalName(target); err == nil {
		f.SNI = flow.Some(name)
	} else {
		d := c.report("NP210", n.Target.Span, "%s is neither a domain name nor an IP address", diag.Quote(target))
		if strings.Contains(target, "*") {
			d.Help = "an assertion is about one connection: write a name"
		}
	}
	if n.Proto.Given() {
		numbers := c.protos(&PredNode{Key: Word{Text: "protocol"}, Values: []Word{n.Proto}})
		if len(numbers) > 0 {
			f.Proto = flow.Some(flow.Proto(numbers[0]))
		}
		if len(numbers) > 0 && !flow.Proto(numbers[0]).HasPorts() {
			f.DstPort, f.SrcPort = flow.Absent[uint16](), flow.Absent[uint16]()
			if n.Port.Given() {
				c.report("NP202", n.Port.Span, "%s has no ports", n.Proto.Text)
			}
			return f
		}
	}
	if n.Port.Given() {
		if port, ok := c.port(n.Port); ok {
			f.DstPort = flow.Some(port)
		}
	}
	return f
}

// expect reads what stands behind `->`.
func (c *checker) expect(n *OutcomeNode, where string) Expect {
	e := Expect{Span: n.Span, Rule: -1, Via: -1, Default: n.Default}
	switch {
	case n.Action != nil:
		o := c.outcome(n.Action)
		if o.Kind == ActNone {
			c.report("NP122", n.Action.Span, "%s compares the primary action and its target", where).
				Help = "route, switch_route, fallback, failover or block; or `rule NAME`, `default`"
			return e
		}
		e.Do = &o
	case n.Rule.Given():
		e.Rule = c.resolve(n.Rule, c.rules, nil, "rule")
	case n.Via.Given():
		e.Via = c.routeRef(n.Via)
	}
	return e
}

func (c *checker) readInvariants() {
	c.place = inAssert
	defer func() { c.place = inMatch }()
	for i := range c.ast.Invariants {
		n := &c.ast.Invariants[i]
		v := Invariant{Span: n.Span, Text: n.Kind.Text}
		switch n.Kind.Text {
		case "never", "always":
			if n.Kind.Text == "always" {
				v.Kind = Always
			}
			if n.Expr != nil {
				v.Match = c.expr(n.Expr)
			}
			v.States = c.statesOf(n.When)
			v.Expect = c.expect(&n.Expect, "an invariant")
		case "unreachable":
			v.Kind = Unreachable
			v.Warn = c.oneOf(n.Level, "unreachable", "none", "warn") == "warn"
		}
		c.p.Invariants = append(c.p.Invariants, v)
	}
}

// unproven says once that assertions and invariants are not proven for all inputs.
func (c *checker) unproven() {
	switch asserts, invariants := c.p.Asserts, c.p.Invariants; {
	case len(asserts) > 0:
		c.report("NP322", asserts[0].Span, "assertions are tried on the connections that they name, and not proven for all").
			Help = "every fact that an assertion does not name is once unknown and once absent"
	case len(invariants) > 0:
		c.report("NP322", invariants[0].Span, "invariants are checked for their form, and not proven")
	}
}
