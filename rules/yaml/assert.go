package yaml

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// blocks returns the elements of a section that is a list of blocks, such as
// rules; others are reported. example is how an element begins.
func (l *loader) blocks(n *yaml.Node, section, one, example string) []*yaml.Node {
	if isNull(n) || !l.legal(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		l.report("NP004", l.opening(n), "expected a list of %s, found %s", section, kindName(n)).
			Help = "begin every " + one[strings.IndexByte(one, ' ')+1:] + " with `- " + example + "`"
		return nil
	}
	list := make([]*yaml.Node, 0, len(n.Content))
	for _, k := range n.Content {
		if !l.legal(k) {
			continue
		}
		if k.Kind != yaml.MappingNode {
			d := l.report("NP004", l.opening(k), "expected %s, found %s", one, kindName(k))
			if d.Help = one + " is a block: `- " + example + "`"; k.Kind == yaml.ScalarNode && section == "rules" {
				d.Help = ruleLine(k.Value, d.Help)
			}
			continue
		}
		list = append(list, k)
	}
	return list
}

// ruleLine is the help for a rule that is written as one line of another tool.
func ruleLine(text, otherwise string) string {
	parts := strings.Split(text, ",")
	if len(parts) < 2 || len(text) > maxText {
		return otherwise
	}
	value, action := strings.TrimSpace(parts[1]), "route: direct"
	if len(parts) > 2 {
		switch target := strings.TrimSpace(parts[2]); target {
		case "DIRECT":
		case "REJECT":
			action = "block: reject"
		default:
			action = "route: " + target
		}
	}
	field := ""
	switch strings.TrimSpace(parts[0]) {
	case "DOMAIN":
		field = "domain: " + value
	case "DOMAIN-SUFFIX":
		field = "domain: ." + value
	case "IP-CIDR", "IP-CIDR6":
		field = "dst_ip: \"" + value + "\""
	case "SRC-IP-CIDR":
		field = "src_ip: \"" + value + "\""
	case "DST-PORT":
		field = "port: " + value
	case "GEOIP":
		field = "country: " + value
	case "PROCESS-NAME":
		field = "process: " + value
	case "MATCH", "FINAL":
		return "write `default: {route: " + value + "}` at the top"
	default:
		return otherwise
	}
	return "write `- {name: ..., priority: 100, match: {" + field + "}, action: {" + action + "}}`"
}

// badKey reports a key that a block does not have.
func (l *loader) badKey(key rules.Word, where string, known []string, words map[string]string) {
	d := l.report("NP102", key.Span, "%s has no key %s", where, diag.Quote(key.Text))
	if d.Help = foreignKey(words, key.Text); d.Help != "" {
		return
	}
	if d.Help = diag.DidYouMean(key.Text, known); d.Help == "" {
		d.Help = "it has " + list(known)
	}
}

// imports reads a list of file names and blocks with a path and a checksum.
func (l *loader) imports(n *yaml.Node) []rules.ImportNode {
	if isNull(n) {
		return nil
	}
	elements := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		if !l.legal(n) {
			l.lost = true
			return nil
		}
		elements = n.Content
	}
	list := make([]rules.ImportNode, 0, len(elements))
	for _, k := range elements {
		node := rules.ImportNode{Span: l.nodeSpan(k)}
		if k.Kind == yaml.MappingNode {
			l.importBlock(k, &node)
		} else {
			node.Path, _ = l.scalar(k, "the path of an import")
		}
		if !node.Path.Given() {
			l.lost = true // reported; its names are missing
			continue
		}
		list = append(list, node)
	}
	return list
}

func (l *loader) importBlock(n *yaml.Node, node *rules.ImportNode) {
	before := l.diags.Len()
	for _, e := range l.entries(n, "an import") {
		switch e.key.Text {
		case "path":
			node.Path, _ = l.scalar(e.value, "path")
		case "sha256":
			node.SHA256, _ = l.scalar(e.value, "sha256")
		default:
			l.badKey(e.key, "an import", []string{"path", "sha256"}, map[string]string{"file": "path", "url": "path", "hash": "sha256", "checksum": "sha256"})
		}
	}
	if !node.Path.Given() && l.diags.Len() == before {
		l.report("NP107", l.opening(n), "the import has no path").Help = "add `path: FILE`"
	}
}

// asserts reads the list of assertions. What could not be read is left out.
func (l *loader) asserts(n *yaml.Node) []rules.AssertNode {
	known := []string{"flow", "match", "when", "expect"}
	foreign := map[string]string{
		"sni": "flow", "domain": "flow", "host": "flow", "connection": "flow", "target": "flow", "name": "flow", "assert": "flow",
		"state": "when", "states": "when", "action": "expect", "route": "write `expect: route NAME`", "then": "expect", "outcome": "expect",
	}
	blocks := l.blocks(n, "assertions", "an assertion", "{flow: www.example.org tcp/443, expect: route NAME}")
	list := make([]rules.AssertNode, 0, len(blocks))
	for _, k := range blocks {
		a := rules.AssertNode{Span: l.nodeSpan(k)}
		before := l.diags.Len()
		var subject, expect *rules.Word // the keys
		for _, e := range l.entries(k, "an assertion") {
			switch e.key.Text {
			case "flow", "match":
				if subject != nil {
					l.report("NP004", e.key.Span, "an assertion has one of flow and match").Note(subject.Span, "the other one is here")
					continue
				}
				subject = &e.key
				if e.key.Text == "flow" {
					l.flow(e, &a)
				} else {
					a.Expr = l.match(e)
				}
			case "when":
				a.When = l.stateList(e)
			case "expect":
				expect = &e.key
				a.Expect = l.outcome(e.value)
			default:
				l.badKey(e.key, "an assertion", known, foreign)
			}
		}
		if l.complete(k, before, "the assertion", subject, expect) {
			list = append(list, a)
		}
	}
	return list
}

// complete reports what an assertion or invariant lacks, and whether all of it could be read.
func (l *loader) complete(n *yaml.Node, before int, what string, subject, expect *rules.Word) bool {
	switch {
	case l.failed(before): // an unknown key may be meant for it
	case subject == nil && what == "the assertion":
		l.report("NP107", l.opening(n), "%s does not say which flow it is about", what).Help = "add `flow: www.example.org tcp/443`, or `match`"
	case subject == nil:
		l.report("NP107", l.opening(n), "%s does not say what it is about", what).Help = "add `never`, `always` or `unreachable`"
	case expect == nil:
		l.report("NP107", subject.Span, "%s does not say what it expects", what).Help = "add `expect`: for example `expect: route NAME`"
	}
	return !l.failed(before)
}

// failed reports whether there were errors since there were so many reports.
func (l *loader) failed(before int) bool {
	if l.diags.Len() == before {
		return false
	}
	list := l.diags.List()
	return diag.HasErrors(list[max(0, len(list)-(l.diags.Len()-before)):])
}

// stateList reads the states in which an assertion or invariant holds.
func (l *loader) stateList(e entry) []rules.Word {
	if e.value.Kind == yaml.MappingNode && l.legal(e.value) {
		l.report("NP004", l.opening(e.value), "expected states for when, found a block of keys").Help = "write `when: NORMAL`, or a list"
		return nil
	}
	return l.scalars(e.value, "when")
}

// invariants reads the list of invariants. What could not be read is left out.
func (l *loader) invariants(n *yaml.Node) []rules.InvariantNode {
	known := []string{"never", "always", "unreachable", "when", "expect"}
	foreign := map[string]string{
		"match": "never or always", "flow": "never or always", "assert": "always", "must": "always", "via": "write `expect: via NAME`",
		"route": "write `expect: via NAME`", "action": "expect", "state": "when", "states": "when", "outcome": "expect",
	}
	blocks := l.blocks(n, "invariants", "an invariant", "{never: {dst_ip: 10.0.0.0/8}, expect: via NAME}")
	list := make([]rules.InvariantNode, 0, len(blocks))
	for _, k := range blocks {
		v := rules.InvariantNode{Span: l.nodeSpan(k)}
		before := l.diags.Len()
		var expect, when *rules.Word // the keys
		for _, e := range l.entries(k, "an invariant") {
			switch e.key.Text {
			case "never", "always", "unreachable":
				if v.Kind.Given() {
					l.report("NP004", e.key.Span, "an invariant has one of never, always and unreachable").Note(v.Kind.Span, "the other one is here")
					continue
				}
				v.Kind = e.key
				if e.key.Text == "unreachable" {
					v.Level, _ = l.scalar(e.value, "unreachable")
					continue
				}
				node := l.condition(e.value, matchScope.as(e.key.Text))
				v.Expr = &node
			case "when":
				when, v.When = &e.key, l.stateList(e)
			case "expect":
				expect = &e.key
				v.Expect = l.outcome(e.value)
			default:
				l.badKey(e.key, "an invariant", known, foreign)
			}
		}
		kind := &v.Kind
		switch {
		case !kind.Given():
			kind = nil
		case kind.Text == "unreachable":
			for _, key := range []*rules.Word{when, expect} {
				if key != nil {
					l.report("NP004", key.Span, "`unreachable` stands alone: it has no %s", key.Text)
				}
			}
			expect = kind
		}
		if l.complete(k, before, "the invariant", kind, expect) {
			list = append(list, v)
		}
	}
	return list
}
