package npl

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// rule reads `rule NAME priority 100 { ... }`.
func (p *parser) rule() {
	start, indent := p.tok.Start, p.indent
	p.next()
	p.ast.Rules = append(p.ast.Rules, rules.RuleNode{})
	r := &p.ast.Rules[len(p.ast.Rules)-1]
	index := len(p.ast.Rules) - 1
	ok := p.ruleHead(r)
	var body clausesOf
	if ok {
		var b block
		if b, ok = p.openBlock("a rule", indent, clauses); ok {
			for p.more(&b) {
				p.clause(&p.ast.Rules[index], &body)
			}
			p.lastRule, p.lastClose = index, token{Token{Close, max(p.last-1, 0), p.last}, false}
		}
	}
	if !ok {
		p.skip()
		body.lost = true
	}
	r = &p.ast.Rules[index] // rules inside the rule may have moved it
	r.Span = p.from(start)
	if body.lost = body.lost || p.torn >= start; body.lost {
		p.unread(r)
	}
	if index > rules.MaxRules { // Check refuses the policy: no need to keep more
		p.ast.Rules = p.ast.Rules[:index]
		p.lastRule = -1
	}
	p.end("the rule")
}

// ruleHead reads what stands before the brace.
func (p *parser) ruleHead(r *rules.RuleNode) bool {
	var ok bool
	if r.Name, ok = p.name("a rule"); !ok {
		return false
	}
	if r.Name.Text == "priority" && p.tok.Kind == Word && strings.Trim(p.str(p.tok.Token), "0123456789") == "" {
		p.report("NP107", r.Name.Span, "the rule has no name").Help = "write `rule NAME priority " + p.str(p.tok.Token) + " {`"
		r.Priority = p.word()
	}
	for {
		switch {
		case p.is("priority") || p.is("priority:"):
			key := p.key()
			if p.tok.Kind == Assign {
				p.report("NP004", p.here(), "expected a number behind `priority`, found `=`").Help = "leave the `=` out"
				p.next()
			}
			if r.Priority.Given() {
				p.report("NP105", key.Span, "the priority is given already").Note(r.Priority.Span, "first given here")
			}
			if p.tok.Kind != Word {
				p.report("NP107", key.Span, "priority needs a number").Help = "rules with a higher one are looked at first"
				continue
			}
			r.Priority = p.word()
		case p.is("disabled"):
			r.Disabled = p.word()
		case p.tok.Kind == Word && strings.Trim(p.str(p.tok.Token), "0123456789") == "" && !r.Priority.Given():
			p.report("NP003", p.here(), "expected `priority` before %s", p.found()).Help = "write `priority " + p.str(p.tok.Token) + "`"
			r.Priority = p.word()
		default:
			return true
		}
	}
}

// clausesOf remembers where the clauses of a rule were given.
type clausesOf struct {
	seen [7]token // in the order of clauses
	lost bool     // one could not be read at all, and may be any of them
}

// unread puts in place what Check would miss and what was reported.
func (p *parser) unread(r *rules.RuleNode) {
	if r.Match == nil {
		r.Match = &rules.ExprNode{Span: r.Name.Span}
	}
	if r.Do == nil {
		r.Do = unreadAction(r.Name.Span)
	}
}

// unreadAction stands for an action that was reported. It is a modifier, which
// may stand beside everything.
func unreadAction(span diag.Span) *rules.Action {
	return &rules.Action{Span: span, Items: []rules.Item{{Key: rules.Word{Text: "log", Span: span}, Span: span, Bad: true}}}
}

// clause reads one clause of a rule.
func (p *parser) clause(r *rules.RuleNode, body *clausesOf) {
	keyword := p.tok
	text := p.str(p.tok.Token)
	index := slices.Index(clauses, text)
	if index < 0 {
		if p.otherClause(r, body) {
			return
		}
		index = slices.Index(clauses, p.instead)
	}
	text = clauses[index]
	target, dropped := r, rules.RuleNode{}
	if first := body.seen[index]; first.Kind == Word {
		p.duplicate(first)
		target = &dropped // read it for its own errors
	} else {
		body.seen[index] = keyword
	}
	p.next()
	if p.tok.Kind == Assign || p.tok.Kind == Foreign && p.str(p.tok.Token) != "!" || p.tok.Kind == Arrow {
		p.report("NP004", p.here(), "%s is followed by %s", diag.Quote(text), p.found()).Help = "leave it out"
		p.next()
	}
	if !p.clauseBody(target, text) {
		p.skip()
	}
	p.endOf(text)
}

// clauseBody reads what stands behind the keyword of a clause. Where that fails,
// what Check would miss is put in place.
func (p *parser) clauseBody(r *rules.RuleNode, keyword string) (ok bool) {
	start := p.last
	switch keyword {
	case "match":
		r.Match = p.exprs.one(rules.ExprNode{})
		if ok = p.expr(r.Match); !ok {
			*r.Match = rules.ExprNode{Span: p.from(start)}
		}
	case "when":
		n := p.exprs.one(rules.ExprNode{})
		if ok = p.expr(n); ok {
			r.When = n
		}
	case "do":
		r.Do, ok = p.actionList()
	case "disable":
		r.Disable, ok = p.stateList()
	case "on_unknown":
		if ok = p.tok.Kind == Word; !ok {
			p.report("NP107", p.span(p.last, p.last), "on_unknown needs a value").Help = "wait, provisional or skip"
			return false
		}
		r.OnUnknown = p.word()
		if r.OnUnknown.Text == "wait" && p.tok.Kind == Word && !p.begins() {
			r.OnUnknown = p.joined(r.OnUnknown, p.word())
		}
	case "description":
		r.Description, ok = p.quoted("the description")
	case "allow":
		r.Allow, ok = p.list("a code")
	}
	return ok
}

// joined is two words as one, as they stand in the text.
func (p *parser) joined(a, b rules.Word) rules.Word {
	w := rules.Word{Text: a.Text + " " + b.Text, Span: a.Span}
	w.Span.End = b.Span.End
	if b.Body == a.Body+len(a.Text)+1 && a.Body > 0 {
		w.Body = a.Body
	}
	return w
}

// otherClause reports a word that is no clause. It returns false with
// p.instead the clause that was meant, where the rest can be read as that.
func (p *parser) otherClause(r *rules.RuleNode, body *clausesOf) bool {
	text := p.str(p.tok.Token)
	key := strings.TrimSuffix(text, ":")
	span := p.span(p.tok.Start, p.tok.End)
	_, field := fields[key]
	if _, old := oldSpellings[key]; old || strings.HasPrefix(key, "uplink.") || strings.HasPrefix(key, "route.") {
		field = true
	}
	indent := p.indent
	next := p.ahead(1)
	block := next.Kind == Open || next.Kind == Newline || next.Kind == EOF || key != text && strings.HasPrefix(p.str(next), "[")
	switch {
	case slices.Contains(clauses, key): // with a colon
		p.report("NP104", span, "no clause is called %s", diag.Quote(text)).Help = "leave the `:` out"
		if !block {
			return p.takeAs(key)
		}
		p.meant(r, body, key)
	case clauseNames[key] != "":
		p.report("NP104", span, "no clause is called %s", diag.Quote(text)).Help = "write `" + clauseNames[key] + "`"
		if !block {
			return p.takeAs(clauseNames[key])
		}
		p.meant(r, body, clauseNames[key])
	case key == "priority" || key == "disabled":
		p.report("NP010", span, "%s belongs before the `{` of the rule", diag.Quote(key)).Help = "write `rule NAME " + key + map[bool]string{true: " 100", false: ""}[key == "priority"] + " {`"
		p.next()
		if key == "priority" && p.tok.Kind == Word && !r.Priority.Given() {
			r.Priority = p.word()
		}
		p.skip()
		return true
	case key == "name":
		p.report("NP104", span, "no clause is called %s", diag.Quote(text)).Help = "the name stands behind `rule`: `rule NAME {`"
	case slices.Contains(rules.Actions(), key):
		d := p.report("NP010", span, "the action %s stands outside of `do`", diag.Quote(key))
		if d.Help = "write `do " + key + " ...`"; body.seen[4].Kind == Word {
			d.Help = "put it behind `do`, with a comma: `do ..., " + key + " ...`"
		}
		p.meant(r, body, "do")
	case field || key == "any" || key == "not":
		d := p.report("NP010", span, "the condition on %s stands outside of `match`", diag.Quote(key))
		if key == "any" || key == "not" {
			d.Message = "the condition stands outside of `match`"
		}
		if d.Help = "write `match " + key + " ...`"; body.seen[0].Kind == Word {
			d.Help = "put it behind `match`, with `and`"
		}
		p.meant(r, body, "match")
	case homeOf(key) != "":
		p.report("NP010", span, "%s stands outside of its block", diag.Quote(key)).Help = "it belongs inside " + homeOf(key) + ", and this is a rule"
	case key == "and" || key == "or" || foreignJoint(key) != "":
		p.report("NP104", span, "no clause begins with %s", diag.Quote(text)).Help = "a condition goes on only behind `and` or `or` at the end of a line"
	default:
		d := p.report("NP104", span, "no clause is called %s", diag.Quote(text))
		guess := diag.Suggest(key, clauses)
		if guess == "" {
			d.Help = "the clauses are " + list(clauses)
			if otherNames[key] != "" {
				p.meant(r, body, "match")
			}
			break
		}
		d.Help = "did you mean `" + guess + "`?"
		if !block {
			return p.takeAs(guess)
		}
		p.meant(r, body, guess)
	}
	p.next()
	p.skip()
	if next.Kind == Newline && key != text { // the lines of a block in YAML
		p.skipDeeper(indent)
	}
	return true
}

// takeAs reads the rest of the statement as the clause that was meant.
func (p *parser) takeAs(keyword string) bool {
	p.instead = keyword
	return false
}

// meant notes that a clause was given, and reported.
func (p *parser) meant(r *rules.RuleNode, body *clausesOf, keyword string) {
	if i := slices.Index(clauses, keyword); body.seen[i].Kind != Word {
		body.seen[i] = p.tok
	}
	switch {
	case keyword == "match" && r.Match == nil:
		r.Match = &rules.ExprNode{Span: r.Name.Span}
	case keyword == "do" && r.Do == nil:
		r.Do = unreadAction(r.Name.Span)
	}
}

// strayClause reads a clause that stands behind the rule it belongs to: the `}`
// came too early. False if the current word is none.
func (p *parser) strayClause(index int) bool {
	if !slices.Contains(clauses, p.str(p.tok.Token)) {
		return false
	}
	p.report("NP010", p.here(), "%s stands outside of a rule", p.found()).
		Note(p.span(p.lastClose.Start, p.lastClose.End), "the rule ends here")
	p.keys = clauses
	var body clausesOf
	r := &p.ast.Rules[index]
	scratch := *r
	for {
		p.clause(&scratch, &body)
		for p.tok.Kind == Newline || p.tok.Kind == Semicolon {
			p.next()
		}
		if p.tok.Kind != Word || !slices.Contains(clauses, p.str(p.tok.Token)) {
			break
		}
	}
	p.keys = nil
	if p.tok.Kind == Close {
		p.next() // the one that closes the rule
	}
	p.unread(r)
	p.end("the rule")
	return true
}

// actionList reads `route direct, log`. It is never nil: without a readable
// action it says so to Check.
func (p *parser) actionList() (*rules.Action, bool) {
	start := p.tok.Start
	ok := true
	var few [4]rules.Item
	items := few[:0]
	if p.atEnd() || p.tok.first && p.begins() {
		p.report("NP107", p.span(p.last, p.last), "the action is missing").Help = "the actions are " + list(rules.Actions())
		return unreadAction(p.span(p.last, p.last)), false
	}
	for {
		var item rules.Item
		if item, ok = p.action(false); !ok {
			break
		}
		if item.Key.Text != "" {
			items = append(items, item)
		}
		if p.tok.Kind != Comma {
			if !p.isJoint() {
				break
			}
			p.report("NP004", p.here(), "expected `,` between actions, found %s", p.found()).Help = "write `,`"
		}
		comma := p.tok
		p.next()
		p.newlines()
		if p.commaEnds(comma) {
			break
		}
		if p.atEnd() || p.tok.first && p.begins() {
			p.report("NP004", p.span(comma.Start, comma.End), "expected an action behind %s, found the end", diag.Quote(p.str(comma.Token)))
			ok = false
			break
		}
	}
	if !ok || len(items) == 0 {
		bad := unreadAction(p.from(start))
		items = append(items, bad.Items...)
	}
	return p.actions.one(rules.Action{Span: p.from(start), Items: p.items.copy(items)}), ok
}

// isJoint reports `and` and its like where a comma belongs.
func (p *parser) isJoint() bool {
	return p.tok.Kind == Word && (p.is("and") || foreignJoint(p.str(p.tok.Token)) == "and")
}

// action reads one action. An unknown one is reported and gives no key; its
// words are passed over, so that the next ones can be read.
func (p *parser) action(outcome bool) (rules.Item, bool) {
	start := p.tok.Start
	if p.tok.Kind != Word {
		d := p.report("NP004", p.here(), "expected an action, found %s", p.found())
		if d.Help = "the actions are " + list(rules.Actions()); p.tok.Kind == Open {
			d.Help = "actions have no braces: `do route direct, log`"
		}
		return rules.Item{}, false
	}
	text := p.str(p.tok.Token)
	key := text
	if n := len(text) - 1; n > 0 && text[n] == ':' && slices.Contains(rules.Actions(), text[:n]) {
		key = text[:n]
		p.report("NP004", p.span(p.tok.Start+n, p.tok.End), "%s is followed by `:`", diag.Quote(key)).Help = "leave the `:` out"
		p.tok.End = p.tok.Start + n
	}
	if !slices.Contains(actionNames, key) {
		p.unknownAction(text, outcome)
		return rules.Item{}, !outcome
	}
	item := rules.Item{Key: p.word()}
	ok := p.actionArgs(&item)
	item.Span = p.from(start)
	return item, ok
}

// actionNames are the actions; a copy, since rules.Actions makes a new list each time.
var actionNames = rules.Actions()

func (p *parser) unknownAction(text string, outcome bool) {
	d := p.report("NP120", p.here(), "no action is called %s", diag.Quote(text))
	switch text {
	case "allow", "accept", "pass", "direct", "permit":
		d.Help = "write `route NAME`; a route `via main` is the kernel's own routing"
	case "drop", "deny", "reject", "discard":
		if d.Help = "write `block`"; text == "reject" {
			d.Help = "write `block reject`"
		}
	case "goto", "via", "outbound", "use", "proxy":
		d.Help = "write `route NAME`"
	default:
		if d.Help = diag.DidYouMean(text, rules.Actions()); d.Help == "" {
			d.Help = "the actions are " + list(rules.Actions())
			if outcome {
				d.Help += "; an outcome may also be `rule NAME`, `default` or `via NAME`"
			}
		}
	}
	if outcome {
		return
	}
	p.next()
	for p.isValue() && !p.isJoint() && !p.begins() {
		p.next()
	}
	if p.tok.Kind == ParenOpen {
		p.parenList(text, "a route")
	}
}

// actionArgs reads what an action needs.
func (p *parser) actionArgs(item *rules.Item) bool {
	key := item.Key.Text
	if p.tok.Kind == Assign || p.tok.Kind == Arrow && key != "log" {
		p.report("NP004", p.here(), "%s is followed by %s", diag.Quote(key), p.found()).Help = "leave it out"
		p.next()
	}
	switch key {
	case "fallback":
		item.List = true
		var ok bool
		item.Args, ok = p.parenList(key, "a route")
		return ok
	case "continue":
		return true
	case "block":
		if p.isValue() && !p.isJoint() && !p.begins() {
			if !p.is("reject") && !p.is("drop") {
				p.report("NP004", p.here(), "expected `reject`, `drop` or the end of `block`, found %s", p.found()).Help = diag.DidYouMean(p.str(p.tok.Token), []string{"reject", "drop"})
				p.next()
				return true
			}
			item.Args = p.oneWord()
		}
		return true
	case "log":
		if p.isValue() && !p.isJoint() && !p.begins() {
			if p.tok.Kind == Word {
				d := p.report("NP004", p.here(), "expected a text in quotes or the end of `log`, found %s", p.found())
				if d.Help = "write `log " + doubleQuoted(p.str(p.tok.Token)) + "`"; p.is("true") {
					d.Help = "write `log` alone"
				}
				p.next()
				return true
			}
			item.Args = p.oneWord()
		}
		return true
	}
	if p.isValue() && !p.isJoint() && (p.tok.Kind != Word || !p.tok.first || !p.begins()) {
		item.Args = p.oneWord()
		return true
	}
	d := p.report("NP107", item.Key.Span, "%s needs a value", diag.Quote(key))
	switch key {
	case "route", "switch_route", "failover":
		d.Message = diag.Quote(key) + " needs the name of a route"
	case "throttle":
		d.Message = diag.Quote(key) + " needs the name of a throttle"
	}
	item.Bad = true
	return p.atEnd() || p.tok.Kind == Comma
}

// oneWord is the current word as a list.
func (p *parser) oneWord() []rules.Word {
	one := [1]rules.Word{p.word()}
	return p.words.copy(one[:])
}
