package npl

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// expr reads a condition into n.
func (p *parser) expr(n *rules.ExprNode) bool { return p.chain(n, rules.OpOr) }

// chain reads conditions joined by `or`, or by `and`.
func (p *parser) chain(n *rules.ExprNode, op rules.Op) bool {
	start, base := p.tok.Start, len(p.kids)
	defer func() { p.kids = p.kids[:base] }()
	if !p.link(n, op) {
		return false
	}
	for p.joins(op) {
		joint := p.tok
		p.next()
		p.newlines()
		if p.tok.first && p.begins() || p.atEnd() || p.tok.Kind == ParenClose {
			p.report("NP107", p.span(joint.Start, joint.End), "there is no condition behind %s", diag.Quote(p.str(joint.Token)))
			return false
		}
		if len(p.kids) == base {
			p.kids = append(p.kids, *n)
		}
		if !p.link(n, op) {
			return false
		}
		p.kids = append(p.kids, *n)
	}
	if len(p.kids) > base {
		*n = rules.ExprNode{Op: op, Span: p.from(start), Kids: p.exprs.copy(p.kids[base:])}
	}
	return true
}

// link reads one part of a chain.
func (p *parser) link(n *rules.ExprNode, op rules.Op) bool {
	if op == rules.OpOr {
		return p.chain(n, rules.OpAnd)
	}
	return p.unary(n)
}

// joins reports whether the current token is the `and` or `or` of a chain. What
// other languages write for it is reported and taken as such.
func (p *parser) joins(op rules.Op) bool {
	word := "or"
	if op == rules.OpAnd {
		word = "and"
	}
	switch p.tok.Kind {
	case Word:
		text := p.str(p.tok.Token)
		if text == word {
			return true
		}
		if foreignJoint(text) != word {
			return false
		}
		p.report("NP004", p.here(), "expected `and`, `or` or the end of the condition, found %s", p.found()).Help = "write `" + word + "`"
		return true
	case Newline: // a line that begins with `and` can only be meant to go on
		if t := p.below(); t.Kind == Word && p.str(t) == word {
			p.next()
			p.report("NP005", p.here(), "the condition ended with the line before").
				Help = "put `" + word + "` at the end of that line, or brackets around the condition"
			return true
		}
	}
	return false
}

// foreignJoint returns what && and || mean here.
func foreignJoint(text string) string {
	switch text {
	case "&&", "&", "AND", "And":
		return "and"
	case "||", "|", "OR", "Or":
		return "or"
	}
	return ""
}

func (p *parser) unary(n *rules.ExprNode) bool {
	foreign := p.tok.Kind == Foreign && p.str(p.tok.Token) == "!" || p.is("NOT")
	if !foreign && !p.is("not") {
		return p.primary(n)
	}
	if foreign {
		p.report("NP004", p.here(), "expected a condition, found %s", p.found()).Help = "write `not`"
	}
	not := p.tok
	if !p.enter() {
		return false
	}
	p.next()
	p.newlines()
	if p.tok.first && p.begins() || p.atEnd() || p.tok.Kind == ParenClose {
		p.report("NP107", p.span(not.Start, not.End), "there is no condition behind %s", diag.Quote(p.str(not.Token)))
		return false
	}
	if !p.unary(n) {
		return false
	}
	p.nesting--
	*n = rules.ExprNode{Op: rules.OpNot, Span: p.from(not.Start), Kids: p.exprs.copy([]rules.ExprNode{*n})}
	return true
}

func (p *parser) primary(n *rules.ExprNode) bool {
	switch p.tok.Kind {
	case ParenOpen:
		return p.paren(n)
	case Word:
		return p.predicate(n)
	}
	d := p.report("NP004", p.here(), "expected a condition, found %s", p.found())
	switch p.tok.Kind {
	case Newline, EOF, Close, Semicolon, Arrow:
		d.Code, d.Message = "NP107", "the condition is missing"
		d.Help = "`any` matches every flow"
	case Open:
		d.Help = "conditions have no braces: `sni zoom.us and port 443`"
	case String:
		d.Help = "name what it is compared with: `" + guessField(strings.Trim(p.str(p.tok.Token), `"`)) + " " + shorten(p.str(p.tok.Token)) + "`"
	}
	return false
}

// paren reads a condition in brackets, in which newlines are blanks.
func (p *parser) paren(n *rules.ExprNode) bool {
	open := p.tok
	if !p.enter() {
		return false
	}
	p.depth++
	p.next()
	if !p.expr(n) {
		return false
	}
	if p.tok.Kind != ParenClose {
		p.noParen(open, "`)`, `and` or `or`")
		return false
	}
	p.depth--
	p.nesting--
	p.next()
	return true
}

// noParen reports that a bracket is not closed, or what stands in it instead.
func (p *parser) noParen(open token, want string) {
	switch p.tok.Kind {
	case Close, EOF, Semicolon, Arrow, Open:
	default:
		if !p.tok.first || !p.begins() {
			p.report("NP004", p.here(), "expected %s, found %s", want, p.found()).Help = p.strayHelp()
			return
		}
	}
	p.report("NP006", p.span(open.Start, open.End), "the `(` is not closed").Help = "a `)` is missing before " + p.before()
	p.depth = 0
}

// predicate reads a predicate, or one of the words that stand for a condition.
func (p *parser) predicate(n *rules.ExprNode) bool {
	start := p.tok.Start
	switch p.str(p.tok.Token) {
	case "any":
		p.next()
		*n = rules.ExprNode{Op: rules.OpAny, Span: p.from(start)}
		return true
	case "schedule":
		return p.named(n, rules.FieldSchedule, "a schedule")
	case "quota":
		return p.named(n, rules.FieldQuota, "a quota")
	case "and", "or":
		p.report("NP107", p.here(), "there is no condition before %s", p.found())
		return false
	}
	if p.tok.first && p.begins() {
		p.report("NP107", p.span(p.last, p.last), "the condition is missing")
		return false
	}
	colon := p.uncolon()
	key := p.word()
	*n = rules.ExprNode{Op: rules.OpPred}
	pred := &n.Pred
	pred.Key = key
	known := p.field(pred)
	if !known {
		if !colon && p.bare() && p.bareName(n, key) {
			return true
		}
		p.unknownField(pred)
	}
	if known || !p.bare() {
		if !p.operator(n) {
			return false
		}
	}
	if !known || n.Op == rules.OpAny || p.torn >= start { // reported
		*n = rules.ExprNode{Op: rules.OpAny, Span: p.from(start)}
		return true
	}
	n.Span = p.from(start)
	pred.Text = p.predText(start, p.last)
	return true
}

// uncolon reports and cuts the `:` of `sni: zoom.us`.
func (p *parser) uncolon() bool {
	text := p.str(p.tok.Token)
	if len(text) < 2 || text[len(text)-1] != ':' {
		return false
	}
	if _, known := fields[text[:len(text)-1]]; !known && oldSpellings[text[:len(text)-1]] == "" {
		return false
	}
	end := p.tok.End - 1
	p.report("NP004", p.span(end, end+1), "expected values behind %s, found `:`", diag.Quote(text[:len(text)-1])).
		Help = "leave the `:` out"
	p.tok.End = end
	return true
}

// field finds the field that the key of a predicate names.
func (p *parser) field(pred *rules.PredNode) bool {
	text := pred.Key.Text
	if f, ok := fields[text]; ok {
		pred.Field = f
		return true
	}
	if now, ok := oldSpellings[text]; ok {
		p.report("NP403", pred.Key.Span, "%s is spelled %s in NPL", diag.Quote(text), diag.Quote(now))
		pred.Field = fields[now]
		return true
	}
	head, rest, found := strings.Cut(text, ".")
	if !found || head != "uplink" && head != "route" {
		return false
	}
	pred.Field = rules.FieldUplink
	if head == "route" {
		pred.Field = rules.FieldRoute
	}
	i := strings.LastIndexByte(rest, '.')
	if i < 0 {
		return false
	}
	from := len(head) + 1
	pred.Subject = pred.Key.Part(from, from+i)
	metric := slices.Index(rules.Metrics(), rest[i+1:])
	if metric < 0 {
		return false
	}
	pred.Metric = rules.Metric(metric)
	return true
}

// bare reports whether nothing follows that a field would need.
func (p *parser) bare() bool {
	switch p.tok.Kind {
	case Newline, Semicolon, Close, EOF, ParenClose, Arrow:
		return true
	case Word:
		switch text := p.str(p.tok.Token); text {
		case "and", "or", "when":
			return true
		default:
			return foreignJoint(text) != "" || p.begins()
		}
	}
	return false
}

// noValue reports whether a value is missing here. Keywords are contextual: only
// `and` and `or` can't be values without quotes, and what begins another statement on a line of its own.
func (p *parser) noValue() bool {
	if p.tok.Kind != Word {
		return !p.isValue()
	}
	switch text := p.str(p.tok.Token); text {
	case "and", "or":
		return true
	case "when":
		return p.keys == nil // in an assertion
	default:
		return foreignJoint(text) != "" || p.tok.first && p.begins()
	}
}

// bareName reads a name that stands alone: a condition. False if it can't be one.
func (p *parser) bareName(n *rules.ExprNode, key rules.Word) bool {
	if !rules.IsName(key.Text) {
		return false
	}
	n.Span = key.Span
	if slices.Contains(states, key.Text) {
		p.report("NP003", key.Span, "expected `state` before %s", diag.Quote(key.Text)).Help = "write `state " + key.Text + "`"
		n.Op = rules.OpAny
		return true
	}
	n.Pred.Field, n.Pred.Subject, n.Pred.Text = rules.FieldCondition, key, cut(key.Text)
	return true
}

// named reads `schedule NAME` and `quota NAME exceeded`.
func (p *parser) named(n *rules.ExprNode, field rules.Field, what string) bool {
	start := p.tok.Start
	key := p.word()
	if p.tok.Kind != Word || p.tok.first {
		p.report("NP107", key.Span, "%s needs the name of %s", key.Text, what)
		return false
	}
	*n = rules.ExprNode{Op: rules.OpPred, Pred: rules.PredNode{Field: field, Key: key, Subject: p.word()}}
	if field == rules.FieldQuota && !p.accept("exceeded") {
		p.report("NP003", p.here(), "expected `exceeded`, found %s", p.found()).
			Help = "write `quota " + shorten(n.Pred.Subject.Text) + " exceeded`"
		if !p.bare() {
			return false
		}
	}
	n.Span = p.from(start)
	n.Pred.Text = p.predText(start, p.last)
	return true
}

// operator reads what follows a field. Where that was reported and the condition
// can go on, n becomes `any`.
func (p *parser) operator(n *rules.ExprNode) bool {
	pred := &n.Pred
	switch p.tok.Kind {
	case Compare:
		return p.comparison(n)
	case Assign, Foreign:
		return p.foreignOperator(n)
	case Open:
		p.report("NP003", p.here(), "expected `in` before the set").Help = "write `" + shorten(pred.Key.Text) + " in { ... }`"
		pred.Values = p.braces()
		return true
	case ParenOpen:
		d := p.report("NP004", p.here(), "expected values behind %s, found `(`", diag.Quote(pred.Key.Text))
		d.Help = "values have no brackets: `" + shorten(pred.Key.Text) + " a, b`"
		return false
	case Word:
		switch p.str(p.tok.Token) {
		case "in":
			p.next()
			return p.membership(pred)
		case "not":
			return p.notIn(n)
		case "like":
			like := p.tok
			p.next()
			if p.noValue() {
				p.report("NP107", p.span(like.Start, like.End), "`like` needs a pattern").Help = "for example `like \"*.zoom.us\"`"
				return false
			}
			pred.Values = []rules.Word{p.word()}
			return true
		case "is", "equals", "contains", "matches", "eq", "~", "=~":
			if next := p.ahead(1); next.Kind == Word || next.Kind == String {
				p.report("NP004", p.here(), "expected values behind %s, found %s", diag.Quote(pred.Key.Text), p.found()).Help = "leave it out; patterns have `*`"
				p.next()
			}
		}
		if p.noValue() {
			break
		}
		return p.valueList(pred)
	case String, SingleQuoted, Unterminated:
		return p.valueList(pred)
	}
	d := p.report("NP107", pred.Key.Span, "%s needs a value", pred.Key.Text)
	if comparable(pred) {
		d.Help = "for example `" + shorten(pred.Key.Text) + " > 120ms`"
	}
	n.Op, n.Span = rules.OpAny, pred.Key.Span
	return true
}

// foreignOperator reports the comparisons of other languages, and reads on as if
// they were ours.
func (p *parser) foreignOperator(n *rules.ExprNode) bool {
	pred := &n.Pred
	text := p.str(p.tok.Token)
	d := p.report("NP004", p.here(), "expected values or a comparison behind %s, found %s", diag.Quote(pred.Key.Text), p.found())
	ours := map[string]string{"=": "==", "=>": ">=", "=<": "<=", "!": "!="}[text]
	d.Help = "write `" + ours + "`"
	if text == "=" && !comparable(pred) {
		d.Help = "leave it out, or write `==`"
		p.next()
		if p.isValue() {
			return p.valueList(pred)
		}
		return false
	}
	return p.comparisonBy(n, rules.Word{Text: ours, Span: p.here()})
}

// comparable reports the fields that only comparisons make sense with.
func comparable(pred *rules.PredNode) bool {
	switch pred.Field {
	case rules.FieldRTT, rules.FieldLatency:
		return true
	case rules.FieldUplink, rules.FieldRoute:
		return pred.Metric <= rules.MetricJitter
	}
	return false
}

// comparison reads `> 120ms for 30s`.
func (p *parser) comparison(n *rules.ExprNode) bool {
	return p.comparisonBy(n, p.wordOf(p.tok.Token))
}

// comparisonBy reads the comparison by cmp, which is the current token.
func (p *parser) comparisonBy(n *rules.ExprNode, cmp rules.Word) bool {
	pred := &n.Pred
	pred.Cmp = cmp
	p.next()
	if p.tok.Kind == Open {
		p.report("NP004", p.here(), "expected one value behind %s, found a set", diag.Quote(pred.Cmp.Text)).
			Help = "write `" + shorten(pred.Key.Text) + " in { ... }`"
		pred.Cmp, pred.Values = rules.Word{}, p.braces()
		return true
	}
	if p.noValue() {
		d := p.report("NP107", pred.Cmp.Span, "there is no value behind %s", diag.Quote(pred.Cmp.Text))
		if p.tok.Kind == Assign || p.tok.Kind == Compare || p.tok.Kind == Foreign {
			d.Code, d.Span, d.Message = "NP004", p.here(), "expected a value, found "+p.found()
			d.Help = "the comparisons are <, <=, >, >=, == and !="
		}
		return false
	}
	one := [1]rules.Word{p.word()}
	pred.Values = p.words.copy(one[:])
	if p.tok.Kind == Comma {
		d := p.report("NP005", p.here(), "a comparison has one value: expected its end, found `,`")
		switch pred.Cmp.Text {
		case "==":
			d.Help = "for a list leave `==` out: `" + shorten(pred.Key.Text+" "+one[0].Text) + ", ...`"
		case "!=":
			d.Help = "for a list write `" + shorten(pred.Key.Text) + " not in { ... }`"
		}
		p.next()
		return p.valueList(pred)
	}
	return p.duration(pred)
}

// duration reads `for 30s`.
func (p *parser) duration(pred *rules.PredNode) bool {
	if !p.is("for") {
		return true
	}
	word := p.tok
	p.next()
	if p.tok.Kind != Word || p.noValue() {
		p.report("NP107", p.span(word.Start, word.End), "`for` needs a time").Help = "for example `for 30s`"
		return false
	}
	pred.For = p.word()
	return true
}

// notIn reads `not in`.
func (p *parser) notIn(n *rules.ExprNode) bool {
	pred := &n.Pred
	p.next()
	if p.accept("in") {
		pred.Negated = true
		return p.membership(pred)
	}
	d := p.report("NP003", p.here(), "expected `in` behind `not`, found %s", p.found())
	d.Help = "write `not " + shorten(pred.Key.Text) + " ...`, or `" + shorten(pred.Key.Text) + " not in ...`"
	p.accept("like")
	if !p.noValue() {
		return p.valueList(pred)
	}
	return false
}
