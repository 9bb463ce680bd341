package lsp

import (
	"bytes"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules/npl"
)

// placeNPL returns what can stand before end in an NPL text.
func placeNPL(src []byte, end int) place {
	from := lastDeclaration(src, end)
	tokens, p, ok := wordAt(scan(string(src[from:end]), from), end)
	if !ok {
		return p
	}
	block, statement, set := enclosing(tokens)
	p.statement(block, statement, set)
	return p
}

// wordAt takes the word that ends at end off the tokens; ok is false within a
// string or a comment.
func wordAt(tokens []token, end int) (before []token, p place, ok bool) {
	p.start = end
	if len(tokens) == 0 {
		return tokens, p, true
	}
	switch last := tokens[len(tokens)-1]; {
	case last.open:
		return nil, p, false
	case last.end == end && last.kind == npl.Word:
		p.start = last.start
		tokens = tokens[:len(tokens)-1]
	}
	return tokens, p, true
}

// lastDeclaration returns where the last line before end starts that begins with
// a declaration's keyword: what stands before it is another declaration, closed
// or not.
func lastDeclaration(src []byte, end int) int {
	for at := end; at > 0; {
		at = bytes.LastIndexByte(src[:at], '\n') + 1
		line := src[at:end]
		for i, c := range line {
			if c != '_' && (c < 'a' || c > 'z') {
				line = line[:i]
				break
			}
		}
		if at+len(line) < end && isDeclaration(string(line)) {
			return at
		}
		at = max(at-1, 0)
	}
	return 0
}

func isDeclaration(text string) bool {
	return slices.ContainsFunc(texts[inTopNPL], func(w word) bool { return w.label == text })
}

// enclosing returns the head of the block that the end of the tokens lies in, nil
// at the top, and the statement so far. Within the braces of a set the statement
// is the one that the set stands in.
func enclosing(tokens []token) (block, statement []token, set bool) {
	type frame struct {
		head []token
		set  bool
	}
	var frames []frame
	depth := 0
	for _, t := range tokens {
		inner := len(frames) > 0 && frames[len(frames)-1].set
		switch {
		case t.kind == npl.Open:
			last := ""
			if len(statement) > 0 {
				last = statement[len(statement)-1].text
			}
			literal := last == "=" || last == "in" || inner
			frames = append(frames, frame{statement, literal})
			if !literal {
				statement, depth = nil, 0
			}
		case t.kind == npl.Close:
			if len(frames) == 0 {
				continue
			}
			top := frames[len(frames)-1]
			frames = frames[:len(frames)-1]
			statement = nil
			if top.set {
				statement = append(slices.Clone(top.head), token{text: "{}"})
			}
		case inner:
		case t.kind == npl.Semicolon, t.kind == npl.Newline && depth <= 0 && !continues(statement):
			statement, depth = nil, 0
		case t.kind == npl.Newline:
		default:
			switch t.kind {
			case npl.ParenOpen:
				depth++
			case npl.ParenClose:
				depth--
			}
			statement = append(statement, t)
		}
	}
	for _, f := range frames {
		if !f.set {
			block = f.head
		}
	}
	return block, statement, len(frames) > 0 && frames[len(frames)-1].set
}

// continues reports a statement that goes on in the next line.
func continues(statement []token) bool {
	if len(statement) == 0 {
		return true // line ends before a statement mean nothing
	}
	last := statement[len(statement)-1]
	return !last.quoted() && slices.Contains([]string{",", "and", "or", "not"}, last.text)
}

// textAt returns a token's text, "" where there is none.
func textAt(tokens []token, i int) string {
	if i < 0 || i >= len(tokens) {
		return ""
	}
	return tokens[i].text
}

// statement says what can stand behind the tokens of a statement.
func (p *place) statement(block, s []token, set bool) {
	switch head := textAt(block, 0); {
	case set:
		p.element(block, s)
	case head == "rule":
		p.ruleClause(s)
	case head == "uplink", head == "health":
		p.health(head, s)
	case head == "throttle":
		p.items(s, inThrottle)
		if textAt(s, 0) == "per" && len(s) == 1 {
			p.offers(inPer)
		}
	case head == "quota":
		switch {
		case textAt(s, 0) == "match":
			p.expr(s[1:], false)
		case textAt(s, 0) == "per" && len(s) == 1:
			p.offers(inPeriod)
		default:
			p.items(s, inQuotaMatch, inQuota)
		}
	case head == "daemon":
		p.items(s, inDaemon)
		switch {
		case textAt(s, 0) == "on_crash" && len(s) == 1:
			p.offers(inOnCrash)
		case textAt(s, 0) == "backend" && len(s) == 1:
			p.offers(inBackend)
		case textAt(s, 0) == "enforce" && len(s) == 1:
			p.offers(inEnforce)
		case textAt(s, 0) == "hello" && len(s) == 1:
			p.offers(inHello)
		case textAt(s, 0) == "masquerade":
			p.named(uplinkKind)
		}
	case len(block) == 0:
		p.declaration(s)
	}
}

// items offers keys at the start of a statement.
func (p *place) items(s []token, in ...category) {
	if len(s) == 0 {
		p.offers(in...)
	}
}

// element is a place within the braces of a set.
func (p *place) element(block, s []token) {
	if len(block) == 0 && textAt(s, 0) == "set" {
		if slices.ContainsFunc(s, func(t token) bool { return t.is("domain") }) {
			p.offers(inElement)
		}
		return
	}
	if field := lastField(s); field != "" {
		p.values(field)
	}
}

func (p *place) ruleClause(s []token) {
	switch textAt(s, 0) {
	case "":
		p.offers(inRuleNPL)
	case "match":
		p.expr(s[1:], false)
	case "when":
		p.expr(s[1:], true)
	case "do":
		p.actions(s[1:])
	case "disable":
		if len(s) == 1 {
			p.offers(inState)
		} else if last := textAt(s, len(s)-1); last == "state" || last == "," {
			p.offers(inState)
		}
	case "on_unknown":
		if len(s) == 1 {
			p.offers(inOnUnknown)
		}
	case "allow":
		p.offers(inCode)
	}
}

func (p *place) health(head string, s []token) {
	if len(s) == 0 {
		if head == "uplink" {
			p.offers(inUplink)
		} else {
			p.offers(inPrimary)
		}
		p.offers(inHealth)
		return
	}
	switch first := s[0].text; {
	case first == "primary" && len(s) == 1:
		p.named(uplinkKind)
	case first == "threshold" && len(s) == 1:
		p.offers(inThreshold)
	case first == "probe" && len(s) == 1:
		p.offers(inProbe)
	case (first == "metered" || first == "required") && len(s) == 1:
		p.offers(inBool)
	}
}

// declaration is a place in a statement at the top.
func (p *place) declaration(s []token) {
	last := textAt(s, len(s)-1)
	switch textAt(s, 0) {
	case "":
		p.offers(inTopNPL)
	case "import":
		if len(s) == 2 {
			p.offers(inImportNPL)
		}
	case "set":
		p.set(s)
	case "route":
		p.route(s)
	case "group":
		p.group(s)
	case "schedule":
		switch {
		case last == "weekday", last == "," && len(s) > 2:
			p.offers(inWeekday)
		case len(s) >= 3 && last != "time" && last != "date" && last != "tz":
			p.offers(inSchedule)
		}
	case "condition":
		if len(s) >= 3 && s[2].text == "=" {
			p.expr(s[3:], true)
		}
	case "health":
		if len(s) == 1 {
			p.named(uplinkKind)
		}
	case "default":
		p.actions(s[1:])
	case "rule":
		switch {
		case len(s) < 2, last == "priority":
		case !slices.ContainsFunc(s, func(t token) bool { return t.is("disabled") }):
			p.offers(inHead)
		}
	case "assert", "never", "always":
		p.claim(s)
	case "unreachable":
		if len(s) == 1 {
			p.offers(inLevel)
		}
	}
}

// set is `set NAME: type = ...`, whose colon may be a word of its own.
func (p *place) set(s []token) {
	last := textAt(s, len(s)-1)
	switch {
	case len(s) >= 2 && strings.HasSuffix(last, ":"):
		p.offers(inSetType)
	case last == "=":
		p.offers(inSetSource)
	case last == "format":
		p.offers(inFormat)
	case last == "on_error":
		p.offers(inOnError)
	case slices.ContainsFunc(s, func(t token) bool { return t.is("file") || t.is("url") }) &&
		!slices.Contains([]string{"file", "url", "select", "sha256", "refresh"}, last):
		p.offers(inSetOption)
	}
}

// route is `route NAME via ...`.
func (p *place) route(s []token) {
	last := textAt(s, len(s)-1)
	switch {
	case len(s) == 2:
		p.offers(inRouteYAML)
	case len(s) == 3:
		p.offers(inVia)
	case last == "uplink" && len(s) == 4, last == "on":
		p.named(uplinkKind)
	case last == "group" && len(s) == 4:
		p.named(groupKind)
	case len(s) == 5 && (s[3].text == "dev" || s[3].text == "xray"):
		p.offers(inRouteTail)
	}
}

// group is `group NAME = strategy(...) options`.
func (p *place) group(s []token) {
	depth := 0
	for _, t := range s {
		switch t.kind {
		case npl.ParenOpen:
			depth++
		case npl.ParenClose:
			depth--
		}
	}
	switch last := textAt(s, len(s)-1); {
	case len(s) < 3:
	case len(s) == 3:
		p.offers(inStrategy)
	case depth > 0:
		p.named(routeKind)
	case last == "sla" && len(s) > 4:
		p.named(conditionKind)
	case last == "when_none":
		p.offers(inWhenNone)
	case last == "interrupt":
		p.offers(inBool)
	case len(s) > 4 && last != "tolerance" && last != "min_hold" && last != "sticky":
		p.offers(inGroup)
	}
}

// claim is `assert ... when STATES -> OUTCOME`, `never` or `always`.
func (p *place) claim(s []token) {
	arrow := slices.IndexFunc(s, func(t token) bool { return t.kind == npl.Arrow })
	when := slices.IndexFunc(s, func(t token) bool { return t.is("when") })
	switch last := textAt(s, len(s)-1); {
	case arrow >= 0:
		p.outcome(s[arrow+1:], s[0].text != "assert")
	case when >= 0 && (last == "when" || last == ","):
		p.offers(inState)
	case when >= 0:
		p.in = append(p.in, inTail)
	case len(s) > 1 && s[1].quoted():
		p.offers(inTail)
	default:
		if p.expr(s[1:], false); p.has(inConnective) {
			p.offers(inTail)
		}
	}
}

func (p *place) outcome(s []token, invariant bool) {
	switch textAt(s, len(s)-1) {
	case "rule":
		p.named(ruleKind)
	case "via":
		p.named(routeKind)
	default:
		if p.actions(s); p.has(inAction) {
			if p.offers(inOutcome); invariant {
				p.offers(inViaOutcome)
			}
		}
	}
}

// actions is a place in a list of actions.
func (p *place) actions(s []token) {
	depth, from := 0, 0
	for i, t := range s {
		switch {
		case t.kind == npl.ParenOpen:
			depth++
		case t.kind == npl.ParenClose:
			depth--
		case t.kind == npl.Comma && depth <= 0:
			from = i + 1
		}
	}
	switch s = s[from:]; {
	case len(s) == 0:
		p.offers(inAction)
	case s[0].text == "fallback" && depth > 0:
		p.named(routeKind)
	case len(s) > 1:
	case s[0].text == "route", s[0].text == "switch_route", s[0].text == "failover":
		p.named(routeKind)
	case s[0].text == "throttle":
		p.named(throttleKind)
	case s[0].text == "block":
		p.offers(inBlock)
	}
}

// expr is a place in a condition; world means one over facts of the world.
func (p *place) expr(s []token, world bool) {
	last, before := textAt(s, len(s)-1), textAt(s, len(s)-2)
	var kind npl.Kind
	if len(s) > 0 {
		kind = s[len(s)-1].kind
	}
	field := lastField(s)
	switch {
	case kind == npl.String:
		p.ended(s)
	case last == "", last == "(", last == "and", last == "or", last == "not" && !isField(before):
		p.begin(world)
	case last == "not":
		p.offers(inNotIn)
	case last == "in":
		p.named(setKind)
	case kind == npl.Comma, kind == npl.Compare, kind == npl.Assign, kind == npl.Foreign:
		p.values(field)
	case last == "schedule":
		p.named(scheduleKind)
	case last == "quota":
		p.named(quotaKind)
	case last == "like", last == "for", before == "quota":
	case isField(last) && field == last:
		p.offers(inCompare)
		p.values(field)
	default:
		p.ended(s)
	}
}

// begin is the start of a predicate.
func (p *place) begin(world bool) {
	if world {
		p.offers(inWorldNPL, inPredicate)
	} else {
		p.offers(inFieldNPL, inPredicate)
	}
	p.named(conditionKind)
	p.metrics = true
}

// ended is a place behind a predicate.
func (p *place) ended(s []token) {
	p.offers(inConnective)
	for i := len(s) - 1; i >= 0 && !isConnective(s[i]); i-- {
		if s[i].kind == npl.Compare && s[i].text[0] != '=' && s[i].text[0] != '!' {
			p.offers(inFor)
			return
		}
	}
}

// values is the place of a field's value.
func (p *place) values(field string) {
	switch {
	case field == "state" || strings.HasSuffix(field, ".state"):
		p.offers(inState)
	case field == "proto":
		p.offers(inProto)
	}
}

// lastField is the field of the predicate at the end of the tokens, or "".
func lastField(s []token) string {
	for i := len(s) - 1; i >= 0; i-- {
		if isConnective(s[i]) {
			return ""
		}
		if !s[i].quoted() && isField(s[i].text) && (i == 0 || isConnective(s[i-1]) || s[i-1].text == "not") {
			return s[i].text
		}
	}
	return ""
}

func isConnective(t token) bool {
	return !t.quoted() && slices.Contains([]string{"and", "or", "(", "match", "when"}, t.text)
}

func isField(text string) bool {
	if strings.HasPrefix(text, "uplink.") || strings.HasPrefix(text, "route.") {
		return true
	}
	same := func(w word) bool { return w.label == text }
	return slices.ContainsFunc(texts[inFieldNPL], same) || slices.ContainsFunc(texts[inWorldNPL], same)
}
