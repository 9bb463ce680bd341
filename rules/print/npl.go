package print

import (
	"cmp"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// NPL prints a policy in NPL. The AST must have been read without errors: of a
// partial one what is there is printed, and the caller has to refuse to use it.
// What NPL can't say at all (a name with blanks) comes out as text that does not
// read; compare with [Canonical] before you keep it.
func NPL(a *rules.AST) []byte {
	list := declarations(a)
	p := &nplPrinter{comments: file(a, list), ast: a}
	p.b = make([]byte, 0, len(a.Source)+len(a.Source)/2+1024)
	p.own(p.head, 0, true)
	if len(p.head) > 0 {
		p.blank()
	}
	if !a.Version.Given() {
		p.str("policy 1")
		p.newline()
	}
	for i := range list {
		p.declaration(&list[i])
	}
	p.own(p.tail, 0, len(p.b) == 0)
	if a.NPL {
		return align(a.Source, p.b)
	}
	return p.b
}

type nplPrinter struct {
	writer
	*comments
	ast     *rules.AST
	oneLine bool // nothing may break the line
	unit    unit // of the declaration that is printed
}

// oneLine is how many columns a block may take that its author wrote on one line: in
// NPL the author has seen it so.
func oneLine(a *rules.AST) int {
	const asWritten = 160
	if a.NPL {
		return asWritten
	}
	return width
}

// statement is one line of a block: a clause or an item.
type statement struct {
	key     any // what its comments belong to
	at      int // its offset in the text
	keyword string
	words   string
	expr    *rules.ExprNode // after the keyword, in place of words
}

// declaration prints one declaration with its comments.
func (p *nplPrinter) declaration(d *decl) {
	if len(p.of) > 0 {
		p.unit = unit{key: d.key, start: d.span.Start, end: d.span.End, expand: func() []unit { return p.parts(p.ast, *d) }}
	}
	var block []statement
	rule, isRule := d.key.(*rules.RuleNode)
	dec, isDecl := d.key.(*rules.Decl)
	switch {
	case isRule:
		block = p.ruleBlock(rule)
	case isDecl:
		block = p.declBlock(d.section, dec)
	}
	isBlock := isRule || d.section == uplinks || d.section == throttles || d.section == quotas || d.section == health || d.section == daemon
	n := p.at(d.key)
	if n != nil {
		p.keep(d, dec, block)
		if isBlock {
			n.single()
			for _, s := range block {
				p.at(s.key).flatten()
				if s.expr != nil {
					p.prepare(s.expr, s.key)
				}
			}
		} else {
			p.line(d, dec, n)
		}
		p.own(n.lead, 0, len(p.b) == 0)
	}
	if d.blank {
		p.blank()
	}
	var end []note
	switch key := d.key.(type) {
	case *rules.RuleNode:
		p.ruleHead(key)
		p.block(d, block)
	case *rules.Decl:
		end = p.decl(d, key, block)
	case *rules.Word:
		p.words("policy", text(key.Text))
	case *rules.ImportNode:
		p.words("import", str(key.Path))
		if key.SHA256.Given() {
			p.words(" sha256", str(key.SHA256))
		}
	case *rules.Action:
		p.words("default", actions(key))
	case *rules.AssertNode:
		p.assert(key)
	case *rules.InvariantNode:
		p.invariant(key)
	}
	if n != nil {
		if len(end) == 0 {
			end = n.trail
		}
		p.trail(end)
		p.newline()
		p.own(n.after, 0, false)
		return
	}
	p.newline()
}

// line prepares the comments of a declaration that has no block.
func (p *nplPrinter) line(d *decl, dec *rules.Decl, n *notes) {
	if d.section == sets {
		if values := find(dec.Items, "values"); values != nil {
			m := p.make(&unit{key: values, parent: &p.unit})
			m.open, m.tail = append(m.open, n.open...), append(m.tail, n.tail...)
			n.open, n.tail = nil, nil
			n.lead, n.trail = append(n.lead, own(m.lead)...), append(n.trail, m.trail...)
			m.lead, m.trail = nil, nil
			if len(values.Args) == 0 {
				n.lead, n.trail = append(n.lead, own(m.tail)...), append(n.trail, m.open...)
				m.open, m.tail = nil, nil
			}
			if len(m.open) > 1 {
				n.lead, m.open = append(n.lead, own(m.open[1:])...), m.open[:1]
			}
		}
	}
	n.flatten()
	if d.section == conditions && dec.Expr != nil {
		p.at(&dec.Expr).flatten()
		p.prepare(dec.Expr, &dec.Expr)
		if m := p.at(&dec.Expr); m != nil {
			n.lead = append(n.lead, m.lead...)
			m.lead = nil
			n.trail = append(n.trail, m.trail...)
			m.trail = nil
			if last := p.lastPart(dec.Expr, &dec.Expr); last.any() { // it is behind the whole declaration
				n.trail = append(n.trail, last.trail...)
				last.trail = nil
				m := p.at(&dec.Expr)
				m.inner = p.remains(dec.Expr, &dec.Expr)
			}
		}
		n.single()
	}
}

// keep moves comments that have no place in the declaration's NPL.
func (p *nplPrinter) keep(d *decl, dec *rules.Decl, block []statement) {
	n := p.at(d.key)
	if rule, ok := d.key.(*rules.RuleNode); ok {
		for _, w := range []*rules.Word{&rule.Name, &rule.Priority, &rule.Disabled} {
			if m := p.at(w); m != nil {
				n.lead = append(n.lead, own(append(m.lead, m.tail...))...)
				n.open = append(n.open, append(m.open, m.trail...)...)
				delete(p.of, w)
			}
		}
	}
	if !n.inner {
		return
	}
	if d.section == quotas {
		if limit, per := find(dec.Items, "limit"), find(dec.Items, "per"); limit != nil && per != nil && p.at(per) != nil {
			p.merge(limit, per) // one statement
		}
	}
	known := map[any]bool{}
	for i := range block {
		known[block[i].key] = true
		if block[i].expr != nil {
			know(known, p.exprKids(block[i].expr))
		}
	}
	if dec != nil {
		if d.section == conditions && dec.Expr != nil {
			known[&dec.Expr] = true
			know(known, p.exprKids(dec.Expr))
		}
		if values := find(dec.Items, "values"); values != nil && d.section == sets {
			known[values] = true
			know(known, wordUnits(values.Args))
		}
		for i := range dec.Items {
			it := &dec.Items[i]
			if m := p.at(it); m != nil && it.Block && len(it.Items) > 0 && !known[it] {
				to := p.make(&unit{key: &it.Items[0], parent: &p.unit})
				to.lead = slices.Concat(own(m.lead), own(m.open), own(m.trail), to.lead, own(m.tail))
				m.lead, m.open, m.trail, m.tail = nil, nil, nil, nil
			}
		}
	}
	p.settle(&p.unit, func(key any) bool { return known[key] })
}

// merge gives the comments of one part to another.
func (p *nplPrinter) merge(to, from any) {
	m := p.at(from)
	n := p.make(&unit{key: to, parent: &p.unit})
	n.lead = slices.Concat(n.lead, own(m.lead), own(m.tail))
	n.trail = slices.Concat(n.trail, m.open, m.trail)
	delete(p.of, from)
}

func know(known map[any]bool, list []unit) {
	for i := range list {
		known[list[i].key] = true
		know(known, list[i].children())
	}
}

// block prints ` { ... }`: on one line if it was written so, is not too long and
// has no comments inside.
func (p *nplPrinter) block(d *decl, list []statement) {
	slices.SortStableFunc(list, func(a, b statement) int { return cmp.Compare(a.at, b.at) })
	n := p.at(d.key)
	if len(list) == 0 && (n == nil || len(n.open)+len(n.tail) == 0) {
		p.str(" {}")
		return
	}
	if !p.inside(d.key) && !p.src.broken(d.span.Start, d.span.End) {
		at, line := p.mark()
		p.oneLine = true
		p.str(" { ")
		for i := range list {
			if i > 0 {
				p.str("; ")
			}
			p.statement(&list[i], 0)
		}
		p.str(" }")
		p.oneLine = false
		if p.column() <= oneLine(p.ast) {
			return
		}
		p.reset(at, line)
	}
	p.str(" {")
	if n != nil {
		p.trail(n.open)
	}
	p.newline()
	if n != nil && len(n.open) > 1 {
		p.own(own(n.open[1:]), step, true)
	}
	for i := range list {
		s := &list[i]
		m := p.at(s.key)
		if m != nil {
			p.own(m.lead, step, i == 0)
		}
		if i > 0 && p.src.blankBefore(s.at) {
			p.blank()
		}
		p.indent(step)
		end := p.statement(s, 2*step)
		if m != nil && len(m.trail) > 0 {
			end = m.trail
		}
		p.trail(end)
		p.newline()
	}
	if n != nil {
		p.own(n.tail, step, len(list) == 0)
	}
	p.str("}")
}

func (p *nplPrinter) statement(s *statement, indent int) []note {
	p.str(s.keyword)
	if s.expr != nil {
		p.str(" ")
		return p.expr(s.expr, s.key, indent)
	}
	if s.words != "" {
		p.str(" ")
		p.str(s.words)
	}
	return nil
}

func (p *nplPrinter) ruleHead(r *rules.RuleNode) {
	p.words("rule", text(r.Name.Text))
	if r.Priority.Given() {
		p.words(" priority", text(r.Priority.Text))
	}
	if isDisabled(r) {
		p.str(" disabled")
	}
}

func isDisabled(r *rules.RuleNode) bool { return r.Disabled.Given() && r.Disabled.Text != "false" }

// ruleBlock returns the clauses of a rule.
func (p *nplPrinter) ruleBlock(r *rules.RuleNode) []statement {
	list := make([]statement, 0, 8)
	if r.Match != nil {
		list = append(list, statement{key: &r.Match, at: r.Match.Span.Start, keyword: "match", expr: r.Match})
	}
	if r.When != nil {
		list = append(list, statement{key: &r.When, at: r.When.Span.Start, keyword: "when", expr: r.When})
	}
	if len(r.Disable) > 0 {
		list = append(list, statement{key: &r.Disable, at: r.Disable[0].Span.Start, keyword: "disable state", words: commas(r.Disable)})
	}
	if r.OnUnknown.Given() {
		list = append(list, statement{key: &r.OnUnknown, at: r.OnUnknown.Span.Start, keyword: "on_unknown", words: wordList(split([]rules.Word{r.OnUnknown}), " ")})
	}
	if r.Do != nil {
		list = append(list, statement{key: r.Do, at: r.Do.Span.Start, keyword: "do", words: actions(r.Do)})
	}
	if r.Description.Given() {
		list = append(list, statement{key: &r.Description, at: r.Description.Span.Start, keyword: "description", words: str(r.Description)})
	}
	if len(r.Allow) > 0 {
		list = append(list, statement{key: &r.Allow, at: r.Allow[0].Span.Start, keyword: "allow", words: wordList(r.Allow, ", ")})
	}
	return list
}

// commas is a list of words without blanks between, the parts of comma lists apart.
func commas(list []rules.Word) string {
	var parts []string
	for _, w := range list {
		for _, part := range commaParts(w) {
			parts = append(parts, text(part))
		}
	}
	return strings.Join(parts, ",")
}

func wordList(list []rules.Word, separator string) string {
	parts := make([]string, len(list))
	for i, w := range list {
		parts[i] = npl(w)
	}
	return strings.Join(parts, separator)
}

// nameList is wordList for words that mean the same with quotes and without.
func nameList(list []rules.Word, separator string) string {
	parts := make([]string, len(list))
	for i, w := range list {
		parts[i] = text(w.Text)
	}
	return strings.Join(parts, separator)
}

// actions are primary actions and modifiers in NPL. What only YAML can say and
// means nothing (`log: false`) is left out.
func actions(a *rules.Action) string {
	list := make([]string, 0, len(a.Items))
	for i := range a.Items {
		if s := action(&a.Items[i]); s != "" {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return "continue"
	}
	return strings.Join(list, ", ")
}

func action(it *rules.Item) string {
	key := it.Key.Text
	if len(it.Args) == 0 {
		return key
	}
	first := it.Args[0]
	switch key {
	case "fallback":
		return key + "(" + nameList(split(it.Args), ", ") + ")"
	case "log":
		switch {
		case first.Quoted:
		case first.Text == "true":
			return key
		case first.Text == "false":
			return ""
		}
		return key + " " + str(first)
	case "block", "continue":
		if first.Text == "true" {
			return key
		}
	}
	return key + " " + nameList(it.Args, " ")
}

func (p *nplPrinter) assert(a *rules.AssertNode) {
	p.str("assert ")
	if a.Expr != nil {
		p.broken2(a.Expr)
	} else {
		p.str(str(a.Target))
		if a.Proto.Given() || a.Port.Given() {
			p.str(" ")
			p.str(text(a.Proto.Text))
		}
		if a.Port.Given() {
			p.str("/")
			p.str(a.Port.Text)
		}
	}
	p.whenExpect(a.When, &a.Expect)
}

// broken2 writes a condition that is followed by more: it has no comments inside.
func (p *nplPrinter) broken2(n *rules.ExprNode) { p.expr(n, nil, step) }

func (p *nplPrinter) invariant(v *rules.InvariantNode) {
	p.str(text(v.Kind.Text))
	if v.Expr == nil {
		p.words("", text(v.Level.Text))
		return
	}
	p.str(" ")
	p.broken2(v.Expr)
	p.whenExpect(v.When, &v.Expect)
}

func (p *nplPrinter) whenExpect(when []rules.Word, o *rules.OutcomeNode) {
	if len(when) > 0 {
		p.words(" when", commas(when))
	}
	p.words(" ->", outcome(o))
}

func outcome(o *rules.OutcomeNode) string {
	switch {
	case o.Action != nil:
		return actions(o.Action)
	case o.Rule.Text != "":
		return "rule " + text(o.Rule.Text)
	case o.Via.Text != "":
		return "via " + text(o.Via.Text)
	default:
		return "default"
	}
}
