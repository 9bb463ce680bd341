package yaml

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// match reads what stands under match: a block whose keys must all hold, or a string.
func (l *loader) match(e entry) *rules.ExprNode {
	if e.value.Kind == yaml.MappingNode && len(e.value.Content) == 0 {
		l.report("NP107", l.nodeSpan(e.value), "match has no condition").Help = "`any: true` matches every flow"
		return &rules.ExprNode{Span: e.key.Span}
	}
	node := l.condition(e.value, matchScope)
	return &node
}

// when reads what stands under when; nil where that fails.
func (l *loader) when(e entry) *rules.ExprNode {
	n := e.value
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		l.report("NP107", l.nodeSpan(n), "when has no condition").Help = "leave it out, or write `when: {state: NORMAL}`"
		return nil
	}
	if n.Kind == yaml.ScalarNode && l.onlyStates(n.Value) {
		w := l.word(n)
		states := w.Text
		if strings.Contains(states, ",") {
			states = "[" + states + "]"
		}
		l.report("NP004", w.Span, "expected a condition for when, found %s", diag.Quote(w.Text)).
			Help = "write `when: {state: " + states + "}`"
		return nil
	}
	node := l.condition(n, whenScope)
	return &node
}

// onlyStates reports a list of states that is no name of a condition.
func (l *loader) onlyStates(text string) bool {
	for part := range strings.SplitSeq(text, ",") {
		if _, ok := state.Parse(strings.TrimSpace(part)); !ok {
			return false
		}
	}
	return !l.conditions[strings.TrimSpace(text)]
}

// condition reads a block of keys as their conjunction, or a string in NPL.
func (l *loader) condition(n *yaml.Node, in scope) rules.ExprNode {
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		return l.stringCondition(n, in)
	}
	node := rules.ExprNode{Op: rules.OpAnd, Span: l.nodeSpan(n)}
	if n.Kind == yaml.SequenceNode && l.legal(n) {
		l.report("NP004", l.opening(n), "expected a block of keys for %s, found a list", in.name).
			Help = "write `all: [...]` or `any_of: [...]`"
		return node
	}
	entries := l.entries(n, in.name)
	if len(entries) == 0 && n.Kind == yaml.MappingNode && in.name != "match" {
		l.report("NP107", l.nodeSpan(n), "%s has no condition", in.name)
	}
	var anyKey, proto *rules.Word
	for i := range entries {
		e := &entries[i]
		switch e.key.Text {
		case "any":
			if w, ok := l.scalar(e.value, "any"); ok && w.Text != "true" {
				l.report("NP004", w.Span, "expected `any: true`, found %s", diag.Quote(w.Text)).Help = "leave `any` out"
			}
			anyKey = &e.key
			continue
		case "all", "any_of":
			node.Kids = append(node.Kids, l.several(*e, in))
			continue
		case "not":
			node.Kids = append(node.Kids, rules.ExprNode{
				Op: rules.OpNot, Span: l.nodeSpan(e.value), Kids: []rules.ExprNode{l.condition(e.value, in.as("not"))},
			})
			continue
		case "schedule", "quota", "condition":
			if kid, ok := l.named(*e); ok {
				node.Kids = append(node.Kids, kid)
			}
			continue
		case "proto", "protocol":
			if proto != nil {
				l.duplicate(e.key, *proto)
				continue
			}
			proto = &e.key
		}
		if kid, ok := l.predicate(*e, in); ok {
			node.Kids = append(node.Kids, kid)
		}
	}
	return l.conjunction(node, entries, anyKey)
}

// conjunction simplifies: one condition stands alone, and `any` beats all.
func (l *loader) conjunction(node rules.ExprNode, entries []entry, anyKey *rules.Word) rules.ExprNode {
	switch {
	case anyKey != nil:
		if len(entries) > 1 {
			d := l.report("NP205", anyKey.Span, "`any` matches every flow: the other keys are ignored")
			d.Help = "remove `any`, or the other keys"
			for _, e := range entries {
				if e.key.Span != anyKey.Span && len(d.Notes) < maxNotes {
					d.Note(e.key.Span, diag.Quote(e.key.Text)+" is ignored")
				}
			}
		}
		node.Op = rules.OpAny
	case len(node.Kids) == 1:
		return node.Kids[0]
	}
	return node
}

// maxNotes bounds the notes of one diagnostic.
const maxNotes = 5

// several reads `all: [..]` or `any_of: [..]`.
func (l *loader) several(e entry, in scope) rules.ExprNode {
	node := rules.ExprNode{Op: rules.OpAnd, Span: l.nodeSpan(e.value)}
	if e.key.Text == "any_of" {
		node.Op = rules.OpOr
	}
	if e.value.Kind != yaml.SequenceNode {
		if l.legal(e.value) {
			l.report("NP004", l.opening(e.value), "expected a list of conditions for %s, found %s", e.key.Text, kindName(e.value))
		}
		return node
	}
	if l.legal(e.value) && len(e.value.Content) == 0 {
		l.report("NP107", l.nodeSpan(e.value), "the list of %s is empty", e.key.Text)
	}
	for _, k := range e.value.Content {
		node.Kids = append(node.Kids, l.condition(k, in.as(e.key.Text)))
	}
	return node
}

// named reads references to schedules, quotas and conditions; of several any will do.
func (l *loader) named(e entry) (rules.ExprNode, bool) {
	field := rules.FieldCondition
	switch e.key.Text {
	case "schedule":
		field = rules.FieldSchedule
	case "quota":
		field = rules.FieldQuota
	}
	node := rules.ExprNode{Op: rules.OpOr, Span: l.span(e.key.Span.Start, l.nodeEnd(e.value))}
	for _, w := range l.scalars(e.value, e.key.Text) {
		for _, name := range commaParts(w) {
			if len(node.Kids) == maxNames {
				l.report("NP905", name.Span, "%s has more than %d names", e.key.Text, maxNames)
				return node, false
			}
			p := rules.PredNode{Field: field, Key: e.key, Subject: name}
			switch field {
			case rules.FieldSchedule:
				p.Text = bounded("schedule " + name.Text)
			case rules.FieldQuota:
				if rest, ok := strings.CutSuffix(name.Text, " exceeded"); ok {
					p.Subject = name.Part(0, len(strings.TrimRight(rest, " \t")))
				}
				p.Text = bounded("quota " + p.Subject.Text + " exceeded")
			default:
				p.Key, p.Text = name, bounded(name.Text)
			}
			node.Kids = append(node.Kids, rules.ExprNode{Op: rules.OpPred, Span: name.Span, Pred: p})
		}
	}
	switch len(node.Kids) {
	case 0:
		return node, false // reported
	case 1:
		return rules.ExprNode{Op: rules.OpPred, Span: node.Span, Pred: node.Kids[0].Pred}, true
	}
	return node, true
}

// maxNames bounds the list of a key such as schedule: a node takes a hundred
// times as much room as a name of few letters.
const maxNames = 1000

// commaParts splits a word at its commas, without the blanks around the parts.
func commaParts(w rules.Word) []rules.Word {
	var parts []rules.Word
	for start := 0; start <= len(w.Text); {
		end := strings.IndexByte(w.Text[start:], ',')
		if end < 0 {
			end = len(w.Text) - start
		}
		part := w.Text[start : start+end]
		from := start + len(part) - len(strings.TrimLeft(part, " \t\n"))
		parts = append(parts, w.Part(from, max(from, start+len(strings.TrimRight(part, " \t\n")))))
		start += end + 1
	}
	return parts
}

// predicate reads one field and its values.
func (l *loader) predicate(e entry, in scope) (rules.ExprNode, bool) {
	p := rules.PredNode{Key: e.key}
	if !l.field(e.key, in, &p) {
		return rules.ExprNode{}, false
	}
	node := rules.ExprNode{Op: rules.OpPred, Span: l.span(e.key.Span.Start, l.nodeEnd(e.value))}
	ok := false
	switch e.value.Kind {
	case yaml.MappingNode:
		ok = l.membership(e, &p)
	case yaml.SequenceNode:
		ok = l.valueList(e, &p)
	default:
		ok = l.value(e, &p)
	}
	node.Pred = p
	return node, ok
}

// value reads one value, a comma list or a comparison.
func (l *loader) value(e entry, p *rules.PredNode) bool {
	w, ok := l.scalar(e.value, e.key.Text)
	if !ok || named(p.Field) && l.foreignValue(w, false) {
		return false
	}
	p.Values, p.Text = []rules.Word{w}, text(e.key, " ", []rules.Word{w})
	if !ordered(p) && !compared(p.Field, w.Text) {
		return true
	}
	var bound rules.Word
	if p.Cmp, bound = comparator(w); !p.Cmp.Given() {
		p.Values[0] = bound
		return true
	}
	if ordered(p) || p.Field.OfWorld() {
		bound, p.For, ok = l.duration(bound)
	}
	p.Values[0] = bound
	return ok
}

// named reports the fields whose values users of other tools write as geosite:x.
func named(f rules.Field) bool { return f <= rules.FieldSrcIP }

// valueList reads a list of values: any of them.
func (l *loader) valueList(e entry, p *rules.PredNode) bool {
	if ordered(p) {
		l.report("NP004", l.opening(e.value), "expected one comparison for %s, found a list", e.key.Text).
			Help = "all keys must hold: a list has no meaning here"
		return false
	}
	for _, w := range l.scalars(e.value, e.key.Text) {
		switch {
		case compared(p.Field, w.Text):
			l.report("NP004", w.Span, "expected a value for %s, found the comparison %s", e.key.Text, diag.Quote(w.Text)).
				Help = "write `" + e.key.Text + ": {not_in: [...]}` for none of a list"
		case named(p.Field) && l.foreignValue(w, false):
		default:
			p.Values = append(p.Values, w)
		}
	}
	p.Text = text(e.key, " ", p.Values)
	return len(p.Values) > 0
}

// membership reads `{in: SET}`, `{not_in: SET}`, or the same with a list.
func (l *loader) membership(e entry, p *rules.PredNode) bool {
	known := []string{"in", "not_in", "like"}
	entries := l.entries(e.value, e.key.Text)
	if len(entries) == 0 {
		if len(e.value.Content) == 0 && l.legal(e.value) {
			l.report("NP107", l.nodeSpan(e.value), "%s has no value", e.key.Text).Help = "write a value, a list, `{in: SET}` or `{not_in: SET}`"
		}
		return false
	}
	if len(entries) > 1 {
		d := l.report("NP004", entries[1].key.Span, "expected one of in and not_in for %s", e.key.Text)
		d.Help = "for several write `all: [{" + e.key.Text + ": ...}, ...]`"
		d.Note(entries[0].key.Span, "the other one is here")
		return false
	}
	k := entries[0]
	switch k.key.Text {
	case "in", "like":
	case "not_in":
		p.Negated = true
	default:
		d := l.report("NP102", k.key.Span, "%s has no key %s", e.key.Text, diag.Quote(k.key.Text))
		if d.Help = foreignKey(memberWords, k.key.Text); d.Help != "" {
			return false
		}
		if d.Help = diag.DidYouMean(k.key.Text, known); d.Help == "" {
			d.Help = "write a value, a list, `{in: SET}` or `{not_in: SET}`"
		}
		return false
	}
	op := " " + strings.ReplaceAll(k.key.Text, "_", " ") + " "
	values := l.scalars(k.value, k.key.Text)
	if named(p.Field) && len(values) > 0 {
		kept := values[:0]
		for _, w := range values {
			if !l.foreignValue(w, false) {
				kept = append(kept, w)
			}
		}
		values = kept
	}
	p.Text = text(e.key, op, values)
	switch {
	case len(values) == 0:
		return false // reported
	case k.value.Kind == yaml.ScalarNode && k.key.Text != "like" && rules.IsName(values[0].Text):
		p.Set = values[0]
	default:
		p.Values = values
	}
	return true
}

// comparator splits ">120" into its sign and its bound.
func comparator(w rules.Word) (cmp, bound rules.Word) {
	w = w.Part(len(w.Text)-len(strings.TrimLeft(w.Text, " \t")), len(w.Text))
	i := strings.IndexFunc(w.Text, func(r rune) bool { return !strings.ContainsRune("<>=!", r) })
	if i < 0 {
		i = len(w.Text)
	}
	rest := i
	for rest < len(w.Text) && (w.Text[rest] == ' ' || w.Text[rest] == '\t') {
		rest++
	}
	if i > 0 {
		cmp = w.Part(0, i)
	}
	return cmp, w.Part(rest, len(w.Text))
}

// duration splits "120ms for 30s" into the bound and how long it has to hold.
func (l *loader) duration(w rules.Word) (bound, hold rules.Word, ok bool) {
	words := w.Split()
	for i := range words {
		if words[i].Text != "for" || words[i].Quoted || i == 0 {
			continue
		}
		switch {
		case i+1 == len(words):
			l.report("NP107", words[i].Span, "`for` needs a duration").Help = "for example `for 30s`"
			return w, hold, false
		case i+2 < len(words):
			l.report("NP005", words[i+2].Span, "expected the end of the comparison, found %s", diag.Quote(words[i+2].Text))
			return w, hold, false
		case i > 1:
			l.report("NP005", words[1].Span, "expected `for` behind the bound, found %s", diag.Quote(words[1].Text))
			return w, hold, false
		}
		return words[0], words[i+1], true
	}
	return w, hold, true
}

// maxText bounds the text of a predicate: a line of a terminal.
const maxText = 120

// bounded cuts a text to maxText bytes.
func bounded(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText - len("...")
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

// text is a predicate as explanations show it.
func text(key rules.Word, op string, values []rules.Word) string {
	n := len(key.Text) + len(op)
	for i := range values {
		n += len(", ") + len(values[i].Text)
	}
	var b strings.Builder
	b.Grow(min(n, 2*maxText))
	b.WriteString(key.Text)
	b.WriteString(op)
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		if b.Len()+len(v.Text) > maxText {
			b.WriteString("...")
			break
		}
		b.WriteString(v.Text)
	}
	return bounded(b.String())
}
