package print

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// condition makes the YAML of a condition: keys, or a string in NPL where keys
// can't say the same.
func (p *yamlPrinter) condition(key string, n *rules.ExprNode, note any) node {
	if !sayable(n) {
		return node{key: key, text: exprText(n), note: note}
	}
	out := node{key: key, kind: mapping, note: note, kids: p.keys(n)}
	if (n.Op == rules.OpAnd || n.Op == rules.OpAny) && out.kids[0].note == any(n) {
		out.kids[0].note = nil // its comments are those of the whole
	}
	return out
}

// exprText is a condition in NPL on one line.
func exprText(n *rules.ExprNode) string {
	p := nplPrinter{comments: &comments{}, oneLine: true}
	p.flat(n, false)
	return string(p.b)
}

// keys are the keys of the block that says a condition.
func (p *yamlPrinter) keys(n *rules.ExprNode) []node {
	if n.Op != rules.OpAnd {
		return []node{p.key(n)}
	}
	list := make([]node, 0, len(n.Kids))
	for i := range n.Kids {
		k := p.key(&n.Kids[i])
		if n.Kids[i].Op == rules.OpAny || slices.ContainsFunc(list, func(o node) bool { return sameKey(o.key, k.key) }) {
			return []node{p.several("all", n, n)}
		}
		list = append(list, k)
	}
	if len(list) < 2 { // as one key it would stand alone, without its `and`
		return []node{p.several("all", n, n)}
	}
	return list
}

func sameKey(a, b string) bool {
	if a == "proto" {
		a = "protocol"
	}
	if b == "proto" {
		b = "protocol"
	}
	return a == b
}

// several is `all: [...]` or `any_of: [...]`.
func (p *yamlPrinter) several(key string, n *rules.ExprNode, note any) node {
	out := node{key: key, kind: sequence, note: note, kids: make([]node, len(n.Kids))}
	for i := range n.Kids {
		k := &n.Kids[i]
		item := node{kind: mapping, kids: p.keys(k)}
		if k.Op == rules.OpAnd && len(item.kids) > 1 {
			item.note = k
		}
		out.kids[i] = item
	}
	return out
}

// key is one key of a block: a predicate, or what combines conditions.
func (p *yamlPrinter) key(n *rules.ExprNode) node {
	switch n.Op {
	case rules.OpAny:
		return node{key: "any", text: "true", plain: true, note: n}
	case rules.OpAnd, rules.OpOr:
		return p.several(keyword(n), n, n)
	case rules.OpNot:
		out := node{key: "not", kind: mapping, note: n}
		if len(n.Kids) == 1 {
			out.kids = p.keys(&n.Kids[0])
			for i := range out.kids {
				if out.kids[i].note == any(&n.Kids[0]) {
					out.kids[i].note = nil // its comments are those of `not`
				}
			}
		}
		return out
	}
	return p.pred(n)
}

// field is the key of a predicate's field.
func (p *yamlPrinter) field(pred *rules.PredNode) string {
	switch pred.Field {
	case rules.FieldProto:
		if p.src.yaml && pred.Key.Text == "proto" {
			return "proto"
		}
		return "protocol"
	case rules.FieldRTT, rules.FieldLatency:
		return pred.Field.String() + "_ms"
	case rules.FieldUplink, rules.FieldRoute:
		return fieldNPL(pred)
	default:
		return strings.ReplaceAll(pred.Field.String(), ".", "_")
	}
}

func (p *yamlPrinter) pred(n *rules.ExprNode) node {
	pred := &n.Pred
	key := p.field(pred)
	switch {
	case pred.Field >= rules.FieldSchedule:
		return node{key: key, text: pred.Subject.Text, note: n}
	case pred.Set.Text != "":
		in := "in"
		if pred.Negated {
			in = "not_in"
		}
		return node{key: key, kind: mapping, note: n, kids: []node{{key: in, text: pred.Set.Text}}}
	case pred.Negated:
		return node{key: key, kind: mapping, note: n, kids: []node{words("not_in", pred.Values, nil, true)}}
	case pred.Cmp.Text != "":
		text := pred.Cmp.Text
		if len(pred.Values) > 0 {
			text += pred.Values[0].Text
		}
		if pred.For.Text != "" {
			text += " for " + pred.For.Text
		}
		return node{key: key, text: text, note: n}
	case slices.ContainsFunc(pred.Values, func(w rules.Word) bool { return compared(pred.Field, w.Text) }):
		if len(pred.Values) == 1 {
			return node{key: key, kind: mapping, note: n, kids: []node{words("like", pred.Values, nil, false)}}
		}
		return node{key: key, kind: mapping, note: n, kids: []node{words("in", pred.Values, nil, true)}}
	default:
		return words(key, pred.Values, n, false)
	}
}

// compared reports values that the reader takes for a comparison.
func compared(f rules.Field, s string) bool {
	s = strings.TrimLeft(s, " \t")
	switch f {
	case rules.FieldProcess, rules.FieldProcessPath, rules.FieldUser, rules.FieldGroup, rules.FieldCgroup:
		return strings.HasPrefix(s, "==") || strings.HasPrefix(s, "!=")
	default:
		return s != "" && strings.IndexByte("<>=!", s[0]) >= 0
	}
}

// ordered reports the fields that take one bound.
func ordered(p *rules.PredNode) bool {
	switch p.Field {
	case rules.FieldRTT, rules.FieldLatency, rules.FieldErrorRate, rules.FieldConnBytes, rules.FieldConnAge:
		return true
	case rules.FieldUplink, rules.FieldRoute:
		return p.Metric != rules.MetricState && p.Metric != rules.MetricUp
	default:
		return false
	}
}

// sayable reports conditions that keys can say.
func sayable(n *rules.ExprNode) bool {
	switch n.Op {
	case rules.OpAny:
		return true
	case rules.OpPred:
		return sayablePred(&n.Pred)
	}
	if len(n.Kids) == 0 || n.Op == rules.OpNot && len(n.Kids) != 1 {
		return false
	}
	for i := range n.Kids {
		if !sayable(&n.Kids[i]) {
			return false
		}
	}
	return true
}

func sayablePred(p *rules.PredNode) bool {
	switch {
	case p.Field >= rules.FieldSchedule:
		return rules.IsName(p.Subject.Text)
	case p.Field == rules.FieldUplink || p.Field == rules.FieldRoute:
		if !rules.IsName(p.Subject.Text) {
			return false
		}
	}
	if p.Set.Text != "" {
		return rules.IsName(p.Set.Text)
	}
	if len(p.Values) == 0 || p.Cmp.Text != "" && (len(p.Values) > 1 || p.Negated) {
		return false
	}
	for _, w := range p.Values {
		if w.Quoted && splits(p.Field) && (strings.Contains(w.Text, ",") || isElement(rules.Word{Text: w.Text})) {
			return false // without NPL's quotes it is something else
		}
		if p.Field <= rules.FieldSrcIP && strings.Contains(w.Text, ":") && foreign(w.Text) {
			return false
		}
	}
	first := p.Values[0].Text
	switch {
	case ordered(p) && (len(p.Values) > 1 || p.Negated):
		return false
	case p.Cmp.Text == "" && !ordered(p):
		return true
	}
	// What stands behind the comparison is read by words.
	return first != "" && !strings.ContainsAny(first, " \t\r\n\"()=<>!,") && !(p.Cmp.Text == "" && compared(p.Field, first)) &&
		(p.Cmp.Text == "" || compared(p.Field, p.Cmp.Text)) && !strings.ContainsAny(p.For.Text, " \t\r\n\"()=,")
}

// foreign reports values like those of other tools, which the reader of YAML refuses.
func foreign(s string) bool {
	kind, _, _ := strings.Cut(s, ":")
	return slices.Contains([]string{
		"geosite", "geoip", "domain", "domain-suffix", "full", "keyword", "regexp", "regex", "rule-set", "rule_set", "set", "ext",
	}, kind)
}
