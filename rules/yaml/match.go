package yaml

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// fields are the keys of match that look at one fact.
var fields = map[string]rules.Field{
	"sni": rules.FieldSNI, "domain": rules.FieldDomain, "http_host": rules.FieldHTTPHost,
	"protocol": rules.FieldProto, "proto": rules.FieldProto,
	"port": rules.FieldPort, "src_port": rules.FieldSrcPort, "src_ip": rules.FieldSrcIP, "dst_ip": rules.FieldDstIP,
	"iface_in": rules.FieldIfaceIn, "process": rules.FieldProcess, "process_path": rules.FieldProcessPath,
	"user": rules.FieldUser, "cgroup": rules.FieldCgroup, "dscp": rules.FieldDSCP, "mark": rules.FieldMark,
	"rtt_ms": rules.FieldRTT, "latency_ms": rules.FieldLatency, "error_rate": rules.FieldErrorRate,
}

// matchKeys are the keys of match, for suggestions.
var matchKeys = []string{
	"any", "sni", "domain", "http_host", "protocol", "proto", "port", "src_port", "src_ip", "dst_ip", "iface_in", "process",
	"process_path", "user", "cgroup", "dscp", "mark", "rtt_ms", "latency_ms", "error_rate", "all", "any_of", "not",
}

// oldSpellings are other names of fields: those of NPL, and with hyphens.
var oldSpellings = map[string]string{
	"http.host": "http_host", "src.port": "src_port", "src.ip": "src_ip", "dst.ip": "dst_ip", "iface.in": "iface_in",
	"process.path": "process_path", "http-host": "http_host", "src-port": "src_port", "src-ip": "src_ip", "dst-ip": "dst_ip",
	"iface-in": "iface_in", "process-path": "process_path", "rtt": "rtt_ms", "latency": "latency_ms", "rtt-ms": "rtt_ms",
	"latency-ms": "latency_ms", "error-rate": "error_rate",
}

// otherNames are what people try first; the edit distance would mislead.
var otherNames = map[string]string{
	"dst_port": "port", "dest_port": "port", "dport": "port", "sport": "src_port", "ip": "dst_ip", "host": "sni or domain",
	"interface": "iface_in", "uid": "user", "state": "when: {state: ...}",
}

// laterFields are those of the schema that this version does not have.
var laterFields = map[string]bool{
	"app": true, "alpn": true, "group": true, "src_mac": true, "iface_out": true, "country": true, "asn": true,
	"conn_bytes": true, "conn_age": true,
}

// match reads the block under match: all its keys must hold.
func (l *loader) match(e entry) *rules.ExprNode {
	if e.value.Kind == yaml.MappingNode && len(e.value.Content) == 0 {
		l.report("NP107", l.nodeSpan(e.value), "match has no condition").Help = "`any: true` matches every flow"
		return &rules.ExprNode{Span: e.key.Span}
	}
	if e.value.Kind == yaml.ScalarNode && e.value.Value == "any" && l.legal(e.value) {
		return &rules.ExprNode{Span: l.word(e.value).Span}
	}
	node := l.condition(e.value, "match")
	return &node
}

// condition reads a block of keys as their conjunction.
func (l *loader) condition(n *yaml.Node, what string) rules.ExprNode {
	node := rules.ExprNode{Op: rules.OpAnd, Span: l.nodeSpan(n)}
	entries := l.entries(n, what)
	if len(entries) == 0 && n.Kind == yaml.MappingNode && what != "match" {
		l.report("NP107", l.nodeSpan(n), "%s has no condition", what)
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
			node.Kids = append(node.Kids, l.several(*e))
			continue
		case "not":
			node.Kids = append(node.Kids, rules.ExprNode{
				Op: rules.OpNot, Span: l.nodeSpan(e.value), Kids: []rules.ExprNode{l.condition(e.value, "not")},
			})
			continue
		case "proto", "protocol":
			if proto != nil {
				l.duplicate(e.key, *proto)
				continue
			}
			proto = &e.key
		}
		if kid, ok := l.predicate(*e); ok {
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
func (l *loader) several(e entry) rules.ExprNode {
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
		node.Kids = append(node.Kids, l.condition(k, e.key.Text))
	}
	return node
}

// predicate reads one field and its values.
func (l *loader) predicate(e entry) (rules.ExprNode, bool) {
	field, ok := fields[e.key.Text]
	if !ok {
		now, old := oldSpellings[e.key.Text]
		if !old {
			l.unknownField(e.key)
			return rules.ExprNode{}, false
		}
		l.report("NP403", e.key.Span, "%s is spelled %s in YAML", diag.Quote(e.key.Text), diag.Quote(now))
		field = fields[now]
	}
	values := l.scalars(e.value, e.key.Text)
	if len(values) == 0 {
		return rules.ExprNode{}, false // reported
	}
	p := rules.PredNode{Field: field, Key: e.key, Values: values, Text: text(e.key, values)}
	if field == rules.FieldRTT || field == rules.FieldLatency || field == rules.FieldErrorRate {
		if e.value.Kind == yaml.SequenceNode {
			l.report("NP004", l.opening(e.value), "expected one comparison for %s, found a list", e.key.Text).
				Help = "all keys must hold: a list has no meaning here"
			return rules.ExprNode{}, false
		}
		p.Cmp, p.Values[0] = comparator(values[0])
	}
	return rules.ExprNode{Op: rules.OpPred, Span: l.span(e.key.Span.Start, l.nodeEnd(e.value)), Pred: p}, true
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

func (l *loader) unknownField(key rules.Word) {
	if laterFields[key.Text] {
		l.report("NP207", key.Span, "this version can't match by %s", key.Text)
		return
	}
	d := l.report("NP102", key.Span, "match has no key %s", diag.Quote(key.Text))
	if other, ok := otherNames[key.Text]; ok {
		d.Help = "write `" + other + "`"
		return
	}
	if d.Help = diag.DidYouMean(key.Text, matchKeys); d.Help == "" {
		d.Help = "the keys are " + list(matchKeys)
	}
}
