package yaml

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// The keys of a rule.
var ruleKeys = []string{"name", "priority", "when", "disable", "match", "action", "on_unknown", "description", "allow"}

// rules reads the list of rules.
func (l *loader) rules(ast *rules.AST, n *yaml.Node) {
	if isNull(n) || !l.legal(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		l.report("NP004", l.opening(n), "expected a list of rules, found %s", kindName(n)).Help = "begin every rule with `- name: ...`"
		return
	}
	ast.Rules = make([]rules.RuleNode, 0, len(n.Content))
	for _, k := range n.Content {
		if !l.legal(k) || k.Kind != yaml.MappingNode {
			if k.Kind != yaml.AliasNode && k.Style&yaml.TaggedStyle == 0 && k.Anchor == "" {
				l.report("NP004", l.opening(k), "expected a rule, found %s", kindName(k)).Help = "a rule is a block: `- name: ...`"
			}
			continue
		}
		ast.Rules = append(ast.Rules, l.rule(k))
	}
}

func (l *loader) rule(n *yaml.Node) rules.RuleNode {
	r := rules.RuleNode{Span: l.nodeSpan(n)}
	guess := map[string]bool{} // clauses that are there, or that an unknown key may be meant for
	for _, e := range l.entries(n, "a rule") {
		switch e.key.Text {
		case "name":
			r.Name, _ = l.given(e)
		case "priority":
			r.Priority, _ = l.scalar(e.value, "priority")
			guess["priority"] = true
		case "when":
			r.When = l.when(e)
		case "disable":
			r.Disable = l.scalars(e.value, "disable")
		case "match":
			r.Match = l.match(e)
		case "action":
			r.Do = l.action(e.value, "action")
			if r.Do == nil { // reported; not missing
				r.Do = unread(e.key.Span)
			}
		case "on_unknown":
			r.OnUnknown, _ = l.scalar(e.value, "on_unknown")
		case "description":
			r.Description, _ = l.scalar(e.value, "description")
		case "allow":
			r.Allow = l.scalars(e.value, "allow")
		default:
			guess[l.unknownClause(e.key)] = true
		}
	}
	if !guess["priority"] {
		place := r.Name.Span
		if !r.Name.Given() {
			place = l.opening(n)
		}
		l.report("NP107", place, "the rule has no priority").Help = "add `priority: 100`; rules with a higher one are looked at first"
	}
	if r.Match == nil && guess["match"] {
		r.Match = &rules.ExprNode{}
	}
	if r.Do == nil && guess["action"] {
		r.Do = unread(r.Span)
	}
	return r
}

// unread stands for an action that was reported.
func unread(span diag.Span) *rules.Action {
	return &rules.Action{Span: span, Items: []rules.Item{{Key: rules.Word{Text: "continue", Span: span}, Span: span, Bad: true}}}
}

// given reads a scalar whose absence is reported here already: the word keeps a place.
func (l *loader) given(e entry) (rules.Word, bool) {
	w, ok := l.scalar(e.value, e.key.Text)
	if !ok {
		w = rules.Word{Text: "_", Span: e.key.Span}
	}
	return w, ok
}

// unknownClause reports a key and returns the clause that it may be meant for.
func (l *loader) unknownClause(key rules.Word) string {
	if _, ok := fields[key.Text]; ok {
		l.report("NP010", key.Span, "%s belongs under match", diag.Quote(key.Text)).Help = "write `match: {" + key.Text + ": ...}`"
		return "match"
	}
	if slices.Contains(rules.Actions(), key.Text) {
		l.report("NP010", key.Span, "%s belongs under action", diag.Quote(key.Text)).Help = "write `action: {" + key.Text + ": ...}`"
		return "action"
	}
	d := l.report("NP102", key.Span, "a rule has no key %s", diag.Quote(key.Text))
	if d.Help = diag.DidYouMean(key.Text, ruleKeys); d.Help == "" {
		d.Help = "it has " + list(ruleKeys)
	}
	if first, _, found := strings.Cut(key.Text, " "); found {
		return first // "match {port" for want of a colon
	}
	return diag.Suggest(key.Text, ruleKeys)
}

// when reads `{state: NORMAL}` or `{state: [NORMAL, DEGRADED]}`.
func (l *loader) when(e entry) *rules.ExprNode {
	if e.value.Kind == yaml.ScalarNode && !isNull(e.value) && l.legal(e.value) {
		w := l.word(e.value)
		l.report("NP004", w.Span, "expected a block of keys for when, found %s", diag.Quote(w.Text)).
			Help = "write `when: {state: " + w.Text + "}`"
		return nil
	}
	node := &rules.ExprNode{Op: rules.OpAnd, Span: l.nodeSpan(e.value)}
	entries := l.entries(e.value, "when")
	for _, k := range entries {
		if k.key.Text != "state" {
			d := l.report("NP102", k.key.Span, "when has no key %s", diag.Quote(k.key.Text))
			if d.Help = diag.DidYouMean(k.key.Text, []string{"state"}); d.Help == "" {
				d.Help = "it has `state`"
			}
			continue
		}
		values := l.scalars(k.value, "state")
		if len(values) == 0 {
			continue
		}
		node.Kids = append(node.Kids, rules.ExprNode{
			Op: rules.OpPred, Span: l.span(k.key.Span.Start, l.nodeEnd(k.value)),
			Pred: rules.PredNode{Field: rules.FieldState, Key: k.key, Values: values},
		})
	}
	if len(entries) == 0 && e.value.Kind == yaml.MappingNode {
		l.report("NP107", node.Span, "when has no condition").Help = "leave it out, or write `when: {state: NORMAL}`"
	}
	return node
}

// action reads primary actions and modifiers: a block, or a short string such
// as "route direct, log". It returns nil where that fails.
func (l *loader) action(n *yaml.Node, what string) *rules.Action {
	if n.Kind == yaml.ScalarNode {
		w, ok := l.scalar(n, what)
		if !ok {
			return nil
		}
		a := &rules.Action{Span: w.Span, Items: l.knownActions(actionWords(w))}
		if len(a.Items) == 0 {
			return nil
		}
		return a
	}
	if !l.legal(n) || n.Kind != yaml.MappingNode {
		l.entries(n, what) // says why
		return nil
	}
	a := &rules.Action{Span: l.nodeSpan(n)}
	entries := l.entries(n, what)
	a.Items = make([]rules.Item, 0, len(entries))
	for _, e := range entries {
		item := l.item(e)
		if e.key.Text == "continue" {
			item.Bad = item.Bad || l.refused(item)
		}
		a.Items = append(a.Items, item)
	}
	if a.Items = l.knownActions(a.Items); len(a.Items) == 0 && len(entries) > 0 {
		return nil // every key was reported
	}
	return a
}

// refused reports `continue` with a value other than true.
func (l *loader) refused(item rules.Item) bool {
	if len(item.Args) == 1 && item.Args[0].Text == "true" {
		return false
	}
	l.report("NP004", item.Span, "expected `continue: true`")
	return true
}

// knownActions drops and reports unknown actions.
func (l *loader) knownActions(items []rules.Item) []rules.Item {
	known := rules.Actions()
	return slices.DeleteFunc(items, func(item rules.Item) bool {
		if slices.Contains(known, item.Key.Text) {
			return false
		}
		d := l.report("NP120", item.Key.Span, "no action is called %s", diag.Quote(item.Key.Text))
		if d.Help = diag.DidYouMean(item.Key.Text, known); d.Help == "" {
			d.Help = "the actions are " + list(known)
		}
		return true
	})
}

// actionWords reads "fallback(a, b), log": commas outside brackets separate actions.
func actionWords(w rules.Word) []rules.Item {
	var items []rules.Item
	depth, start := 0, 0
	cut := func(end int) {
		var item *rules.Item
		for _, word := range w.Part(start, end).Split() {
			switch {
			case item == nil:
				items = append(items, rules.Item{Key: word, Span: word.Span})
				item = &items[len(items)-1]
			case word.Text == "(" || word.Text == ")":
				item.List = true
			default:
				item.Args = append(item.Args, word)
				item.Span.End = word.Span.End
			}
		}
		start = end + 1
	}
	for i := range len(w.Text) {
		switch w.Text[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth <= 0 {
				cut(i)
			}
		}
	}
	cut(len(w.Text))
	if len(items) == 0 {
		items = append(items, rules.Item{Key: w, Span: w.Span})
	}
	return items
}

// text is a predicate as explanations show it.
func text(key rules.Word, values []rules.Word) string {
	const most = 120 // a line of a terminal
	var b strings.Builder
	b.WriteString(key.Text)
	for i, v := range values {
		sep := " "
		if i > 0 {
			sep = ", "
		}
		if b.Len()+len(v.Text) > most {
			b.WriteString(sep + "...")
			break
		}
		b.WriteString(sep)
		b.WriteString(v.Text)
	}
	return b.String()
}
