package print

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// fieldNPL is the name of a predicate's field in NPL.
func fieldNPL(p *rules.PredNode) string {
	switch p.Field {
	case rules.FieldUplink, rules.FieldRoute:
		return p.Field.String() + "." + p.Subject.Text + "." + rules.Metrics()[p.Metric]
	default:
		return p.Field.String()
	}
}

// keywords are the words that NPL may read as something else where a value stands:
// operators, those of other languages, and what begins statements.
var keywords = func() map[string]bool {
	words := strings.Fields(`in not like any and or for exceeded is equals contains matches eq ~ =~ && || & | AND And OR Or NOT
		policy import set uplink route group throttle quota schedule condition health daemon default rule assert never always unreachable
		match when disable on_unknown do description allow limit per reset`)
	set := make(map[string]bool, len(words))
	for _, w := range words {
		set[w] = true
	}
	return set
}()

// valuesNPL are the values of a predicate as NPL spells them. The first parts of
// words carry the comments: owner says of which word each is a part.
func valuesNPL(p *rules.PredNode) (list []string, owner []int) {
	for i, w := range p.Values {
		switch {
		case isElement(w) && splits(p.Field):
			list, owner = append(list, element(w)), append(owner, i)
		case splits(p.Field) && !w.Quoted && strings.Contains(w.Text, ","):
			for _, part := range commaParts(w) {
				list, owner = append(list, value(rules.Word{Text: part})), append(owner, i)
			}
		default:
			list, owner = append(list, value(w)), append(owner, i)
		}
	}
	return list, owner
}

// value is a word where values of predicates stand.
func value(w rules.Word) string {
	if keywords[w.Text] {
		return quoteNPL(w.Text)
	}
	return npl(w)
}

// spelled is the word between a predicate's field and its values: `in` or `like`
// where the text has one of them.
func (p *nplPrinter) spelled(n *rules.PredNode) string {
	if len(n.Values) == 0 || p.src.yaml || n.Key.Span.End <= 0 {
		return ""
	}
	from, to := n.Key.Span.End, n.Values[0].Span.Start
	if from >= to || to > len(p.src.text) {
		return ""
	}
	between := strings.TrimSpace(string(p.src.text[from:to]))
	switch {
	case between == "like" && len(n.Values) == 1:
		return "like"
	case strings.HasPrefix(between, "in") && strings.HasSuffix(between, "{"):
		return "in"
	}
	return ""
}

// expr writes a condition behind what stands on the line already, in several
// lines if it holds comments or is too long for one. Comments that can't be in
// it have been moved by prepare. It returns the comment that belongs at the end
// of the line.
func (p *nplPrinter) expr(n *rules.ExprNode, key any, indent int) []note {
	if !p.inside(key) {
		at, line := p.mark()
		p.flat(n, false)
		if !p.full() || p.oneLine {
			return nil
		}
		p.reset(at, line)
	}
	return p.broken(n, key, indent)
}

// flat writes a condition without line breaks, in brackets where it needs them
// inside of another one.
func (p *nplPrinter) flat(n *rules.ExprNode, within bool) {
	switch n.Op {
	case rules.OpAny:
		p.str("any")
	case rules.OpNot:
		p.str("not ")
		for i := range n.Kids {
			p.flat(&n.Kids[i], true)
		}
	case rules.OpPred:
		p.pred(n, nil, -1)
	default:
		if within {
			p.str("(")
		}
		for i := range n.Kids {
			if i > 0 {
				p.str(connective(n))
			}
			p.flat(&n.Kids[i], n.Op != rules.OpOr || n.Kids[i].Op != rules.OpAnd)
		}
		if within {
			p.str(")")
		}
	}
}

func connective(n *rules.ExprNode) string {
	if n.Op == rules.OpOr {
		return " or "
	}
	return " and "
}

// broken writes a condition over several lines: one operand a line.
func (p *nplPrinter) broken(n *rules.ExprNode, key any, indent int) []note {
	switch n.Op {
	case rules.OpNot:
		if len(n.Kids) == 1 {
			p.str("not ")
			return p.operand(&n.Kids[0], key, indent, n.Op)
		}
	case rules.OpPred:
		return p.pred(n, key, indent)
	case rules.OpAnd, rules.OpOr:
		var end []note
		for i := range n.Kids {
			k := &n.Kids[i]
			m := p.at(k)
			if i > 0 {
				p.str(strings.TrimRight(connective(n), " "))
				p.trail(end)
				p.newline()
				if m != nil {
					p.own(m.lead, indent, true)
				}
				p.indent(indent)
			}
			end = p.operand(k, k, indent, n.Op)
			if m != nil && len(m.trail) > 0 {
				end = m.trail
			}
		}
		return end
	}
	p.flat(n, false)
	return nil
}

// operand writes one side of a connective, in brackets if it is one itself.
func (p *nplPrinter) operand(n *rules.ExprNode, key any, indent int, around rules.Op) []note {
	if n.Op != rules.OpAnd && n.Op != rules.OpOr {
		if n.Op == rules.OpNot {
			return p.broken(n, key, indent)
		}
		return p.pred2(n, key, indent)
	}
	if !p.inside(key) {
		at, line := p.mark()
		p.flat(n, around != rules.OpOr || n.Op != rules.OpAnd)
		if !p.full() {
			return nil
		}
		p.reset(at, line)
	}
	p.str("(")
	p.newline()
	p.indent(indent + step)
	p.trail(p.broken(n, key, indent+step))
	p.newline()
	p.indent(indent)
	p.str(")")
	return nil
}

func (p *nplPrinter) pred2(n *rules.ExprNode, key any, indent int) []note {
	if n.Op == rules.OpPred {
		return p.pred(n, key, indent)
	}
	p.flat(n, true)
	return nil
}

// pred writes one predicate. With indent < 0 it stays on its line.
func (p *nplPrinter) pred(n *rules.ExprNode, key any, indent int) []note {
	pred := &n.Pred
	switch pred.Field {
	case rules.FieldSchedule:
		p.words("schedule", text(pred.Subject.Text))
		return nil
	case rules.FieldQuota:
		p.words("quota", text(pred.Subject.Text), "exceeded")
		return nil
	case rules.FieldCondition:
		p.str(text(pred.Subject.Text))
		return nil
	}
	p.str(fieldNPL(pred))
	if pred.Set.Given() || pred.Set.Text != "" {
		if pred.Negated {
			p.str(" not")
		}
		p.words(" in", text(pred.Set.Text))
		return nil
	}
	values, owner := valuesNPL(pred)
	spelled := p.spelled(pred)
	if spelled == "in" && pred.Cmp.Text == "" || pred.Negated && pred.Cmp.Text == "" || slices.ContainsFunc(pred.Values, isElement) || len(values) > 1 && pred.Cmp.Text != "" {
		if pred.Negated != (pred.Cmp.Text == "!=") {
			p.str(" not")
		}
		p.str(" in {")
		return p.braced(pred, values, owner, key, indent)
	}
	switch {
	case pred.Cmp.Text != "":
		p.str(" ")
		p.str(pred.Cmp.Text)
	case spelled == "like":
		p.str(" like")
	}
	end := p.list(pred, values, owner, key, indent)
	if pred.For.Text != "" {
		p.words(" for", text(pred.For.Text))
	}
	return end
}

// list writes values with commas. They stay on one line if it is not too long and
// no comment is among them.
func (p *nplPrinter) list(pred *rules.PredNode, values []string, owner []int, key any, indent int) []note {
	separator := ","
	if slices.ContainsFunc(values, func(s string) bool { return s[0] == '"' }) {
		separator = ", "
	}
	p.str(" ")
	comments := key != nil && p.inside(key)
	var end []note
	for i, v := range values {
		var m *notes
		if comments && (i == 0 || owner[i] != owner[i-1]) {
			m = p.at(&pred.Values[owner[i]])
		}
		switch {
		case i == 0:
		case comments && owner[i] != owner[i-1]:
			p.str(",")
			p.trail(end)
			p.newline()
			if m != nil {
				p.own(m.lead, indent+step, true)
			}
			p.indent(indent + step)
		case indent >= 0 && !p.oneLine && p.column()+len(separator)+len(v) > width-len(" and"):
			p.str(",")
			p.newline()
			p.indent(indent + step)
		default:
			p.str(separator)
		}
		p.str(v)
		if comments && (i+1 == len(values) || owner[i+1] != owner[i]) {
			end = nil
			if m := p.at(&pred.Values[owner[i]]); m != nil {
				end = m.trail
			}
		}
	}
	return end
}

// braced writes values in the braces of a set.
func (p *nplPrinter) braced(pred *rules.PredNode, values []string, owner []int, key any, indent int) []note {
	comments := key != nil && p.inside(key)
	at, line := p.mark()
	if !comments {
		p.str(" ")
		for i, v := range values {
			if i > 0 {
				p.str(", ")
			}
			p.str(v)
		}
		p.str(" }")
		if indent < 0 || p.oneLine || !p.full() {
			return nil
		}
		p.reset(at, line)
	}
	p.newline()
	for i, v := range values {
		m := p.at(&pred.Values[owner[i]])
		if m != nil && (i == 0 || owner[i] != owner[i-1]) {
			p.own(m.lead, indent+step, i == 0)
		}
		p.indent(indent + step)
		p.str(v)
		p.str(",")
		if m != nil && (i+1 == len(values) || owner[i+1] != owner[i]) {
			p.trail(m.trail)
		}
		p.newline()
	}
	p.indent(indent)
	p.str("}")
	return nil
}

// prepare moves the comments of a condition to where NPL can hold them: before
// its first word no line can end, so that these stand before the clause.
func (p *nplPrinter) prepare(n *rules.ExprNode, key any) {
	if !p.inside(key) {
		return
	}
	to := p.of[key]
	to.flatten()
	first := p.gather(n, key)
	to.lead = append(to.lead, first...)
	if len(to.trail) > 0 && p.endsWithComment(n, key) {
		to.lead = append(to.lead, own(to.trail)...)
		to.trail = nil
	}
}

// gather flattens what is inside of a condition and returns the comments that have to stand before it.
func (p *nplPrinter) gather(n *rules.ExprNode, key any) (before []note) {
	switch n.Op {
	case rules.OpNot:
		if len(n.Kids) == 1 {
			return p.gather(&n.Kids[0], key)
		}
	case rules.OpPred:
		for i := range n.Pred.Values {
			m := p.at(&n.Pred.Values[i])
			m.flatten()
			if i == 0 && m != nil && len(n.Pred.Values) > 1 && !p.isBraced(&n.Pred) {
				before = append(before, own(m.lead)...)
				m.lead = nil
			}
		}
	default:
		for i := range n.Kids {
			k := &n.Kids[i]
			m := p.at(k)
			m.flatten()
			first := p.gather(k, k)
			switch {
			case i == 0:
				if m != nil {
					before = append(before, own(m.lead)...)
					m.lead = nil
				}
				before = append(before, first...)
			case len(first) > 0:
				m.lead = append(m.lead, first...)
			}
			if m != nil && len(m.trail) > 0 && p.endsWithComment(k, k) {
				if i == 0 {
					before = append(before, own(m.trail)...)
				} else {
					m.lead = append(m.lead, own(m.trail)...)
				}
				m.trail = nil
			}
		}
	}
	return before
}

// isBraced reports predicates that are written with the braces of a set.
func (p *nplPrinter) isBraced(n *rules.PredNode) bool {
	return n.Cmp.Text == "" && (n.Negated || p.spelled(n) == "in") || slices.ContainsFunc(n.Values, isElement)
}

// endsWithComment reports whether the last line of a condition has a comment of its own already.
func (p *nplPrinter) endsWithComment(n *rules.ExprNode, key any) bool {
	if !p.inside(key) {
		return false
	}
	switch n.Op {
	case rules.OpNot:
		return len(n.Kids) == 1 && n.Kids[0].Op == rules.OpPred && p.endsWithComment(&n.Kids[0], key)
	case rules.OpPred:
		if len(n.Pred.Values) == 0 || p.isBraced(&n.Pred) {
			return false
		}
		m := p.at(&n.Pred.Values[len(n.Pred.Values)-1])
		return m != nil && len(m.trail) > 0
	default:
		if len(n.Kids) == 0 {
			return false
		}
		k := &n.Kids[len(n.Kids)-1]
		if k.Op == rules.OpAnd || k.Op == rules.OpOr {
			m := p.at(k)
			return m != nil && len(m.trail) > 0
		}
		m := p.at(k)
		return m != nil && len(m.trail) > 0 || p.endsWithComment(k, k)
	}
}
