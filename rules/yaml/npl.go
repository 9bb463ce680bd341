package yaml

import (
	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/npl"
)

// add takes over what the parser of NPL found in a string.
func (l *loader) add(diags []diag.Diagnostic) {
	for _, d := range diags {
		to := l.report(d.Code, d.Span, "%s", d.Message)
		to.Help, to.Notes = d.Help, d.Notes
	}
}

// stringCondition reads a condition that is written as NPL writes it.
func (l *loader) stringCondition(n *yaml.Node, in scope) rules.ExprNode {
	w, ok := l.scalar(n, in.name)
	if !ok {
		return rules.ExprNode{Op: rules.OpAnd, Span: w.Span}
	}
	if w.Text == "any" {
		return rules.ExprNode{Span: w.Span}
	}
	node, diags := npl.ParseExpr(l.name, w)
	l.add(diags)
	if node == nil {
		return rules.ExprNode{Op: rules.OpAnd, Span: w.Span}
	}
	return *node
}

// outcome reads what stands under expect: a string as NPL writes it behind `->`.
func (l *loader) outcome(n *yaml.Node) rules.OutcomeNode {
	if n.Kind != yaml.ScalarNode {
		if l.legal(n) {
			l.report("NP004", l.opening(n), "expected an outcome, found %s", kindName(n)).
				Help = "write it as one string: `expect: route NAME`, `block`, `rule NAME`, `default`, or `via NAME`"
		}
		return rules.OutcomeNode{}
	}
	w, ok := l.scalar(n, "expect")
	if !ok {
		return rules.OutcomeNode{}
	}
	o, diags := npl.ParseOutcome(l.name, w)
	l.add(diags)
	return o
}

// flow reads `api.zoom.us tcp/443`: a name or address with protocol and port.
func (l *loader) flow(e entry, a *rules.AssertNode) {
	if e.value.Kind == yaml.MappingNode && l.legal(e.value) {
		l.report("NP004", l.opening(e.value), "expected a name or address for flow, found a block of keys").
			Help = "conditions stand under `match`; a flow is for example `flow: www.example.org tcp/443`"
		return
	}
	w, ok := l.scalar(e.value, "flow")
	if !ok {
		return
	}
	var diags []diag.Diagnostic
	a.Target, a.Proto, a.Port, diags = npl.ParseTarget(l.name, w)
	l.add(diags)
}
