package print

import (
	"cmp"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// node makes the YAML of a declaration, and moves the comments that have no
// place in it to the nearest one.
func (p *yamlPrinter) node(d decl) node {
	var n node
	switch key := d.key.(type) {
	case *rules.Word:
		n = node{kind: scalar, text: key.Text, plain: key.Text == "1"}
	case *rules.ImportNode:
		if n = p.imported(key); d.section == ruleList {
			n.key = "import"
			n = node{kind: mapping, block: true, kids: []node{n}}
		}
	case *rules.Decl:
		n = p.decl(d, key)
	case *rules.Action:
		n = p.action("", key, key)
	case *rules.RuleNode:
		n = p.rule(key)
	case *rules.AssertNode:
		n = p.assert(key)
	case *rules.InvariantNode:
		n = p.invariant(key)
	}
	n.note = d.key
	if m := p.at(d.key); m != nil && m.inner {
		known := map[any]bool{}
		p.know(known, &n)
		u := unit{key: d.key, start: d.span.Start, end: d.span.End, expand: func() []unit { return p.parts(p.ast, d) }}
		p.settle(&u, func(key any) bool { return known[key] })
	}
	p.lift(&n, d.section.isList())
	return n
}

func (p *yamlPrinter) know(known map[any]bool, n *node) {
	if n.note != nil {
		known[n.note] = true
	}
	for i := range n.kids {
		p.know(known, &n.kids[i])
	}
}

func (p *yamlPrinter) imported(i *rules.ImportNode) node {
	if !i.SHA256.Given() {
		return node{text: i.Path.Text}
	}
	return node{kind: mapping, kids: []node{
		{key: "path", text: i.Path.Text, note: &i.Path},
		{key: "sha256", text: i.SHA256.Text, note: &i.SHA256},
	}}
}

func (p *yamlPrinter) rule(r *rules.RuleNode) node {
	type clause struct {
		at int
		node
	}
	list := make([]clause, 0, 9)
	add := func(at int, n node) { list = append(list, clause{at, n}) }
	add(r.Name.Span.Start, node{key: "name", text: r.Name.Text, note: &r.Name})
	priority := node{key: "priority", text: r.Priority.Text, note: &r.Priority}
	at := r.Priority.Span.Start
	if !r.Priority.Given() {
		priority.text, at = "0", r.Name.Span.Start
	}
	add(at, priority)
	if isDisabled(r) {
		add(r.Disabled.Span.Start, node{key: "disabled", text: "true", plain: true, note: &r.Disabled})
	}
	if r.When != nil {
		add(r.When.Span.Start, p.condition("when", r.When, &r.When))
	}
	if len(r.Disable) > 0 {
		add(r.Disable[0].Span.Start, words("disable", r.Disable, &r.Disable, false))
	}
	if r.Match != nil {
		add(r.Match.Span.Start, p.condition("match", r.Match, &r.Match))
	}
	if r.OnUnknown.Given() {
		add(r.OnUnknown.Span.Start, node{key: "on_unknown", text: r.OnUnknown.Text, note: &r.OnUnknown})
	}
	if r.Description.Given() {
		add(r.Description.Span.Start, node{key: "description", text: r.Description.Text, note: &r.Description})
	}
	if len(r.Allow) > 0 {
		add(r.Allow[0].Span.Start, words("allow", r.Allow, &r.Allow, true))
	}
	if r.Do != nil {
		add(r.Do.Span.Start, p.action("action", r.Do, r.Do))
	}
	slices.SortStableFunc(list, func(a, b clause) int { return cmp.Compare(a.at, b.at) })
	n := node{kind: mapping, block: true, kids: make([]node, len(list))}
	for i := range list {
		n.kids[i] = list[i].node
	}
	return n
}

// words are one or several values.
func words(key string, list []rules.Word, note any, always bool) node {
	if len(list) == 1 && !always {
		return node{key: key, text: list[0].Text, note: note}
	}
	n := node{key: key, kind: sequence, note: note, kids: make([]node, len(list))}
	for i := range list {
		n.kids[i] = node{text: list[i].Text, note: &list[i]}
	}
	return n
}

// action is what a rule does: keys, or a string where keys would say something else.
func (p *yamlPrinter) action(key string, a *rules.Action, note any) node {
	n := node{key: key, kind: mapping, note: note, kids: make([]node, 0, len(a.Items))}
	for i := range a.Items {
		it := &a.Items[i]
		repeated := slices.ContainsFunc(a.Items[:i], func(x rules.Item) bool { return x.Key.Text == it.Key.Text })
		if repeated || it.Key.Text == "log" && len(it.Args) == 1 && it.Args[0].Quoted && readsAsBoolean(it.Args[0].Text) {
			return node{key: key, text: actions(a), note: note}
		}
		kid := node{key: it.Key.Text, note: it}
		switch {
		case len(it.Args) == 0 || len(it.Args) == 1 && it.Args[0].Text == "true":
			kid.text, kid.plain = "true", true
		case it.Key.Text == "fallback":
			list := split(it.Args)
			kid = words(it.Key.Text, list, it, true)
		default:
			kid = words(it.Key.Text, it.Args, it, it.List)
		}
		n.kids = append(n.kids, kid)
	}
	if len(n.kids) == 0 {
		n.kids = append(n.kids, node{key: "continue", text: "true", plain: true})
	}
	return n
}

// readsAsBoolean reports texts that `log` would not take for a text.
func readsAsBoolean(s string) bool {
	return slices.Contains([]string{"true", "false", "yes", "no", "on", "off"}, strings.ToLower(s))
}

func (p *yamlPrinter) assert(a *rules.AssertNode) node {
	n := node{kind: mapping}
	if a.Expr != nil {
		n.kids = append(n.kids, p.condition("match", a.Expr, &a.Expr))
	} else {
		flow := text(a.Target.Text)
		if a.Proto.Given() {
			flow += " " + a.Proto.Text
		}
		if a.Port.Given() {
			flow += "/" + a.Port.Text
		}
		n.kids = append(n.kids, node{key: "flow", text: flow, note: &a.Target})
	}
	return expectation(n, a.When, &a.When, &a.Expect)
}

func expectation(n node, when []rules.Word, note any, o *rules.OutcomeNode) node {
	if len(when) > 0 {
		n.kids = append(n.kids, words("when", when, note, false))
	}
	n.kids = append(n.kids, node{key: "expect", text: outcome(o), note: o})
	return n
}

func (p *yamlPrinter) invariant(v *rules.InvariantNode) node {
	n := node{kind: mapping}
	if v.Expr == nil {
		n.kids = append(n.kids, node{key: v.Kind.Text, text: v.Level.Text})
		return n
	}
	n.kids = append(n.kids, p.condition(v.Kind.Text, v.Expr, &v.Expr))
	return expectation(n, v.When, &v.When, &v.Expect)
}

// decl makes the YAML of a named declaration, or of health and daemon.
func (p *yamlPrinter) decl(d decl, dec *rules.Decl) node {
	if d.section == conditions && dec.Expr != nil {
		n := p.condition(dec.Name.Text, dec.Expr, &dec.Expr)
		if m := p.at(&dec.Expr); m != nil { // the value is the declaration's own
			own := p.make(&unit{key: dec})
			own.lead, own.open, own.tail = append(own.lead, m.lead...), append(own.open, m.open...), append(own.tail, m.tail...)
			own.trail = append(own.trail, m.trail...)
			m.lead, m.open, m.tail, m.trail = nil, nil, nil, nil
		}
		return n
	}
	n := node{key: dec.Name.Text, kind: mapping, block: p.src.broken(d.span.Start, d.span.End)}
	if d.section == quotas && dec.Expr != nil {
		n.kids = append(n.kids, p.condition("match", dec.Expr, &dec.Expr))
	}
	strategy := (*rules.Item)(nil)
	if d.section == groups {
		strategy = strategyOf(dec.Items)
	}
	for i := range dec.Items {
		it := &dec.Items[i]
		kid := p.item(d.section, it, it == strategy)
		if d.section == groups && it != strategy && kid.key == "sla" {
			kid.key = "meets"
		}
		n.kids = append(n.kids, kid)
	}
	if d.section == quotas && dec.Expr != nil {
		at := slices.IndexFunc(dec.Items, func(it rules.Item) bool { return it.Span.Start > dec.Expr.Span.Start })
		if at < 0 {
			at = len(dec.Items)
		}
		match := n.kids[0]
		copy(n.kids, n.kids[1:at+1])
		n.kids[at] = match
	}
	return n
}

// item makes the YAML of one key of a declaration.
func (p *yamlPrinter) item(s section, it *rules.Item, members bool) node {
	key := plain(it.Key.Text)
	switch {
	case key == "probe":
		return p.probe(it)
	case it.Block:
		n := node{key: key, kind: mapping, note: it}
		for i := range it.Items {
			sub := &it.Items[i]
			if key == "threshold" {
				n.kids = append(n.kids, node{key: plain(sub.Key.Text), text: bounds(sub.Args), note: sub})
			} else {
				n.kids = append(n.kids, p.item(s, sub, false))
			}
		}
		return n
	case key == "threshold":
		args := split(it.Args)
		if len(args) == 0 {
			return node{key: key, kind: mapping, note: it}
		}
		return node{key: key, kind: mapping, note: it, kids: []node{{key: args[0].Text, text: bounds(args[1:])}}}
	case members:
		return words(key, split(it.Args), it, true)
	case s == routes && key == "via":
		return node{key: key, text: wordList(split(it.Args), " "), note: it}
	case s == schedules && (key == "time" || key == "date"):
		return node{key: key, text: strings.ReplaceAll(wordList(it.Args, "-"), " ", ""), note: it}
	case key == "gateway" || isList(key) || key == "weekday":
		return words(key, split(it.Args), it, it.List)
	case key == "values" && s == sets:
		return words(key, it.Args, it, true)
	case len(it.Args) == 1 && it.Args[0].Text == "true" && !it.List:
		return node{key: key, text: "true", plain: true, note: it}
	default:
		return words(key, it.Args, it, it.List)
	}
}

func (p *yamlPrinter) probe(it *rules.Item) node {
	n := node{key: "probe", kind: mapping, note: it}
	if it.Block {
		for i := range it.Items {
			sub := &it.Items[i]
			if key := plain(sub.Key.Text); key == "targets" {
				n.kids = append(n.kids, words(key, split(sub.Args), sub, true))
			} else {
				n.kids = append(n.kids, words(key, sub.Args, sub, sub.List))
			}
		}
		return n
	}
	kind, targets, every := probe(it)
	n.kids = append(n.kids, node{key: "kind", text: kind})
	if len(targets) > 0 {
		n.kids = append(n.kids, words("targets", targets, nil, true))
	}
	if len(every) > 0 {
		n.kids = append(n.kids, words("every", every, nil, false))
	}
	return n
}
