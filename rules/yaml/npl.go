package yaml

import (
	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// stringCondition reads a condition that is written as NPL writes it.
func (l *loader) stringCondition(n *yaml.Node, in scope) rules.ExprNode {
	w, ok := l.scalar(n, in.name)
	if !ok {
		return rules.ExprNode{Op: rules.OpAnd, Span: w.Span}
	}
	if w.Text == "any" {
		return rules.ExprNode{Span: w.Span}
	}
	l.report("NP004", w.Span, "expected a block of keys for %s, found %s", in.name, diag.Quote(w.Text))
	return rules.ExprNode{Op: rules.OpAnd, Span: w.Span}
}

// outcome reads what stands under expect: a string as NPL writes it behind `->`.
func (l *loader) outcome(n *yaml.Node) (rules.OutcomeNode, bool) {
	if n.Kind != yaml.ScalarNode {
		if l.legal(n) {
			l.report("NP004", l.opening(n), "expected an outcome, found %s", kindName(n)).
				Help = "write it as one string: `expect: route NAME`, `block`, `rule NAME`, `default`, or `via NAME`"
		}
		return rules.OutcomeNode{}, false
	}
	w, ok := l.scalar(n, "expect")
	o := rules.OutcomeNode{Span: w.Span}
	if !ok {
		return o, false
	}
	items := actionWords(w)
	first := items[0]
	switch one := len(items) == 1 && len(first.Args) == 1; {
	case one && first.Key.Text == "rule":
		o.Rule = first.Args[0]
	case one && first.Key.Text == "via":
		o.Via = first.Args[0]
	case len(items) == 1 && first.Key.Text == "default" && len(first.Args) == 0:
		o.Default = true
	default:
		o.Action = &rules.Action{Span: w.Span, Items: l.knownActions(items, foreignWord)}
		ok = len(o.Action.Items) > 0
	}
	return o, ok
}
