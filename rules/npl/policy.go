package npl

import (
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// policy reads the whole file.
func (p *parser) policy() {
	p.newlines()
	if p.tok.Kind == EOF {
		if p.diags.Len() == 0 {
			p.report("NP107", p.span(p.last, p.last), "the file has no policy").Help = "begin it with `policy 1`"
		}
		return
	}
	first := p.tok
	if p.is("policy") {
		p.versioned = true
	} else if p.yaml() {
		return
	}
	for p.tok.Kind != EOF {
		switch p.tok.Kind {
		case Newline, Semicolon:
			p.next()
		case Word:
			p.declaration()
		case Close:
			p.report("NP004", p.here(), "expected a declaration, found `}`").Help = "no block is open here"
			p.next()
		default:
			p.report("NP004", p.here(), "expected a declaration, found %s", p.found())
			p.ast.Lost = true
			p.next()
			p.skip()
		}
	}
	if !p.versioned {
		p.report("NP108", p.span(first.Start, first.End), "the file does not begin with `policy 1`").
			Help = "write `policy 1` before it"
	}
}

// yaml reports a file that is YAML as a whole, and nothing else of it.
func (p *parser) yaml() bool {
	text := p.str(p.tok.Token)
	key := strings.TrimSuffix(text, ":")
	if _, section := yamlSections[key]; !section || key == text && !strings.HasPrefix(p.text[p.tok.End:], " :") {
		return false
	}
	p.report("NP101", p.here(), "%s is YAML, and this file is read as NPL", diag.Quote(text)).
		Help = "name the file .yaml, or begin it with `policy 1` and write NPL"
	p.ast.Lost = true
	for p.tok.Kind != EOF { // comments are kept, and strange characters reported
		p.next()
	}
	return true
}

// declares reports whether the current token begins a declaration on its line:
// where a word may also be something else, what follows it decides.
func (p *parser) declares() bool {
	if p.tok.Kind != Word {
		return false
	}
	switch p.str(p.tok.Token) {
	case "set", "import", "condition", "default", "assert", "never", "always", "unreachable", "policy":
		return p.tok.first && p.headed()
	case "rule":
		return p.tok.first && p.headed() || p.ahead(1).Kind == Word && (p.ahead(2).Kind == Open || p.ahead(2).Kind == Word)
	case "uplink":
		return p.tok.first && p.headed() || p.ahead(1).Kind == Word && p.ahead(2).Kind == Open
	case "health", "daemon":
		return p.tok.first && p.headed() || p.ahead(1).Kind == Open
	case "route":
		via := p.ahead(2)
		return p.ahead(1).Kind == Word && via.Kind == Word && p.str(via) == "via"
	case "throttle", "quota":
		return p.ahead(1).Kind == Word && p.ahead(2).Kind == Open
	case "group", "schedule":
		return p.ahead(1).Kind == Word && p.ahead(2).Kind == Assign
	}
	return false
}

// headed reports whether what follows the current word could be a declaration's head.
func (p *parser) headed() bool {
	switch p.ahead(1).Kind {
	case Word, String, Open, ParenOpen:
		return true
	}
	return false
}

// declaration reads one declaration, whatever stands there.
func (p *parser) declaration() {
	start, stray := p.tok.Start, p.lastRule
	p.lastRule = -1
	switch p.str(p.tok.Token) {
	case "policy":
		p.policyVersion()
	case "import":
		p.importFile(start)
	case "set":
		p.declare(&p.ast.Sets, "a set", p.set)
	case "uplink":
		p.declare(&p.ast.Uplinks, "an uplink", p.uplink)
	case "route":
		p.declare(&p.ast.Routes, "a route", p.route)
	case "group":
		p.declare(&p.ast.Groups, "a group", p.group)
	case "throttle":
		p.declare(&p.ast.Throttles, "a throttle", p.throttle)
	case "quota":
		p.declare(&p.ast.Quotas, "a quota", p.quota)
	case "schedule":
		p.declare(&p.ast.Schedules, "a schedule", p.schedule)
	case "condition":
		p.declare(&p.ast.Conditions, "a condition", p.condition)
	case "health":
		p.declare(&p.ast.Health, "", p.health)
	case "daemon":
		p.declare(&p.ast.Daemon, "", p.daemon)
	case "default":
		p.defaultAction(start)
	case "rule":
		p.rule()
	case "assert":
		p.assert()
	case "never", "always":
		p.invariant()
	case "unreachable":
		p.unreachable()
	default:
		if stray >= 0 && p.strayClause(stray) {
			return
		}
		p.unknownDeclaration()
	}
}

// declare adds a declaration to its list; those in it, which were reported, come first.
func (p *parser) declare(list *[]rules.Decl, what string, body func(d *rules.Decl, indent int) bool) {
	d := p.decl(what, body)
	*list = append(*list, d)
}

// decl reads a declaration: its name, unless it has none, and what follows.
// body returns false where that could not be read.
func (p *parser) decl(what string, body func(d *rules.Decl, indent int) bool) rules.Decl {
	start, indent := p.tok.Start, p.indent
	keyword := p.str(p.tok.Token)
	p.next()
	d := rules.Decl{}
	ok := true
	p.colon = false
	switch {
	case keyword == "set":
		d.Name, ok = p.setName()
	case what != "":
		d.Name, ok = p.name(what)
	}
	ok = ok && body(&d, indent)
	d.Bad = d.Bad || !ok || p.torn >= start && keyword != "uplink"
	if !ok {
		p.skip()
	}
	d.Span = p.from(start)
	p.end("the " + keyword)
	return d
}

// name reads the name of what is declared. False where the rest can't be read either.
func (p *parser) name(what string) (rules.Word, bool) {
	switch p.tok.Kind {
	case Word:
		w := p.word()
		if n := len(w.Text) - 1; n > 0 && w.Text[n] == ':' {
			p.report("NP004", w.Part(n, n+1).Span, "expected the name of %s and no `:`", what).Help = "leave the `:` out"
			p.colon = true
			w = w.Part(0, n)
		}
		return w, true
	case String, SingleQuoted, Unterminated:
		at := p.here()
		w := p.word()
		if w.Quoted = false; rules.IsName(w.Text) {
			p.report("NP004", at, "expected the name of %s, found a string", what).Help = "names have no quotes: " + shorten(w.Text)
		}
		return w, true
	}
	p.report("NP107", p.here(), "%s has no name", what).Help = "a name is letters, digits, _ and -, and begins with a letter or _"
	p.ast.Lost = true
	// A name that no other declaration has keeps Check from reporting it again.
	return rules.Word{Text: "_" + strconv.Itoa(p.tok.Start), Span: p.here()}, p.tok.Kind == Open || p.tok.Kind == Assign
}

// policyVersion reads `policy 1`.
func (p *parser) policyVersion() {
	keyword := p.tok
	p.next()
	if p.tok.Kind != Word {
		p.report("NP107", p.span(keyword.Start, keyword.End), "policy needs its version").Help = "write `policy 1`"
		p.versioned = true
		p.skip()
		return
	}
	w := p.word()
	switch {
	case p.ast.Version.Given():
		p.report("NP105", p.span(keyword.Start, keyword.End), "the version is given already").Note(p.ast.Version.Span, "first given here")
	case !p.versioned:
		p.report("NP108", p.span(keyword.Start, keyword.End), "`policy` must be the first statement of the file").Help = "move it up"
		p.versioned = true
		p.ast.Version = w
	default:
		p.ast.Version = w
	}
	p.end("`policy`")
}

// quoted reads a string; a word in its place is reported and taken.
func (p *parser) quoted(what string) (rules.Word, bool) {
	switch p.tok.Kind {
	case String, SingleQuoted, Unterminated:
		return p.word(), true
	case Word:
		if !p.begins() {
			p.report("NP004", p.here(), "expected %s in quotes, found %s", what, p.found()).
				Help = "write " + doubleQuoted(p.str(p.tok.Token))
			return p.word(), true
		}
	}
	p.report("NP107", p.span(p.last, p.last), "%s is missing", what)
	return rules.Word{}, false
}

// importFile reads `import "FILE" sha256 "..."`.
func (p *parser) importFile(start int) {
	p.next()
	n := rules.ImportNode{}
	var ok bool
	if n.Path, ok = p.quoted("the file to import"); ok && p.accept("sha256") {
		n.SHA256, ok = p.quoted("the checksum")
	}
	if n.Span = p.from(start); n.Path.Given() && p.torn < start {
		p.ast.Imports = append(p.ast.Imports, n)
	} else {
		p.ast.Lost = true
	}
	if !ok {
		p.skip()
	}
	p.end("the import")
}

// defaultAction reads `default route direct`.
func (p *parser) defaultAction(start int) {
	p.next()
	action, ok := p.actionList()
	at := p.from(start)
	if !ok {
		p.skip()
	}
	if p.ast.Default != nil {
		p.report("NP105", at, "the default is given already").Note(p.defaultAt, "first given here")
	} else {
		p.ast.Default, p.defaultAt = action, at
	}
	p.end("the default")
}

// assert reads `assert "api.zoom.us" tcp/443 when NORMAL -> route tunnel_fast`.
// One that can't be read is left out.
func (p *parser) assert() {
	start := p.tok.Start
	p.next()
	n := rules.AssertNode{}
	ok := true
	switch p.tok.Kind {
	case String, SingleQuoted, Unterminated:
		n.Target = p.word()
		if p.tok.Kind == Word && !p.is("when") {
			n.Proto, n.Port = p.protoPort()
		}
	default:
		if p.unquotedTarget() {
			p.report("NP004", p.here(), "expected the name in quotes, found %s", p.found()).Help = "write " + doubleQuoted(p.str(p.tok.Token))
			n.Target = p.word()
			if p.tok.Kind == Word && !p.is("when") {
				n.Proto, n.Port = p.protoPort()
			}
			break
		}
		n.Expr = new(rules.ExprNode)
		ok = p.expr(n.Expr)
	}
	ok = ok && p.expectation(&n.When, &n.Expect)
	if n.Span = p.from(start); ok && p.torn < start {
		p.ast.Asserts = append(p.ast.Asserts, n)
	} else {
		p.skip()
	}
	p.end("the assertion")
}

// unquotedTarget reports a name or address where `assert` wants it in quotes.
func (p *parser) unquotedTarget() bool {
	text := p.str(p.tok.Token)
	if _, field := fields[text]; p.tok.Kind != Word || field || !strings.ContainsAny(text, ".:") || strings.HasPrefix(text, "uplink.") || strings.HasPrefix(text, "route.") {
		return false
	}
	next := p.ahead(1)
	return next.Kind == Arrow || next.Kind == Word && (p.str(next) == "when" || strings.Contains(p.str(next), "/"))
}

// protoPort reads `tcp/443`, or a protocol without a port.
func (p *parser) protoPort() (proto, port rules.Word) {
	w := p.word()
	i := strings.IndexByte(w.Text, '/')
	switch {
	case i < 0 && strings.Trim(w.Text, "0123456789") == "":
		p.report("NP004", w.Span, "expected protocol and port, found %s", diag.Quote(w.Text)).Help = "write `tcp/" + shorten(w.Text) + "`"
		return rules.Word{}, rules.Word{}
	case i < 0:
		return w, rules.Word{}
	case i == 0 || i == len(w.Text)-1:
		p.report("NP004", w.Span, "expected protocol and port, found %s", diag.Quote(w.Text)).Help = "for example `tcp/443`"
		return rules.Word{}, rules.Word{}
	}
	return w.Part(0, i), w.Part(i+1, len(w.Text))
}

// expectation reads `when NORMAL -> OUTCOME`.
func (p *parser) expectation(when *[]rules.Word, o *rules.OutcomeNode) bool {
	if p.accept("when") {
		list, ok := p.stateList()
		if *when = list; !ok {
			return false
		}
	}
	if p.tok.Kind != Arrow {
		d := p.report("NP003", p.here(), "expected `->`, found %s", p.found())
		if p.tok.Kind != Foreign && p.tok.Kind != Assign && !p.is("=") {
			if d.Help = p.strayHelp(); p.atEnd() {
				d.Help = "say what is expected: `-> route NAME`"
			}
			return false
		}
		d.Help = "write `->`"
	}
	p.next()
	return p.outcome(o)
}

// stateList reads `NORMAL,DEGRADED`, with or without `state` before it.
func (p *parser) stateList() ([]rules.Word, bool) {
	if p.is("state") {
		p.next()
	}
	return p.list("a state")
}

// outcome reads what stands behind `->`.
func (p *parser) outcome(o *rules.OutcomeNode) bool {
	start := p.tok.Start
	if p.tok.Kind != Word {
		p.report("NP107", p.here(), "the outcome is missing: found %s", p.found()).Help = outcomeHelp
		return false
	}
	switch p.str(p.tok.Token) {
	case "default":
		p.next()
		o.Default = true
	case "rule", "via":
		keyword := p.word()
		if p.tok.Kind != Word {
			p.report("NP107", keyword.Span, "%s needs a name", diag.Quote(keyword.Text))
			return false
		}
		if keyword.Text == "rule" {
			o.Rule = p.word()
		} else {
			o.Via = p.word()
		}
	default:
		item, ok := p.action(true)
		if !ok {
			return false
		}
		if p.tok.Kind == Comma {
			p.report("NP005", p.here(), "an outcome is one action: expected its end, found `,`").
				Help = "only the primary action is compared: leave the rest out"
			return false
		}
		o.Action = p.actions.one(rules.Action{Span: p.from(start), Items: p.items.copy([]rules.Item{item})})
	}
	o.Span = p.from(start)
	return true
}

// invariant reads `never EXPR when STATES -> OUTCOME` and the same with always.
func (p *parser) invariant() {
	start := p.tok.Start
	n := rules.InvariantNode{Kind: p.word(), Expr: new(rules.ExprNode)}
	if p.expr(n.Expr) && p.expectation(&n.When, &n.Expect) {
		n.Span = p.from(start)
		p.ast.Invariants = append(p.ast.Invariants, n)
	} else {
		p.skip()
	}
	p.end("the invariant")
}

// unreachable reads `unreachable none`.
func (p *parser) unreachable() {
	start := p.tok.Start
	n := rules.InvariantNode{Kind: p.word()}
	if p.tok.Kind == Word {
		n.Level = p.word()
		n.Span = p.from(start)
		p.ast.Invariants = append(p.ast.Invariants, n)
	} else {
		p.report("NP107", n.Kind.Span, "unreachable needs `none` or `warn`")
		p.skip()
	}
	p.end("unreachable")
}
