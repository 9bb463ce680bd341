package npl

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// single makes an item of a key and its one value.
func (p *parser) single(key rules.Word, value rules.Word) rules.Item {
	span := key.Span
	span.End = max(span.End, value.Span.End)
	return rules.Item{Key: key, Args: p.words.copy([]rules.Word{value}), Span: span}
}

// assign reads the `=` of a declaration.
func (p *parser) assign(d *rules.Decl, keyword, example string) bool {
	if p.tok.Kind == Assign {
		p.next()
		return true
	}
	if p.colon { // it was reported, and stands for the `=`
		return true
	}
	e := p.report("NP003", p.here(), "expected `=`, found %s", p.found())
	e.Help = "write `" + keyword + " " + shorten(d.Name.Text) + " = " + example + "`"
	if p.tok.Kind != Compare && p.tok.Kind != Foreign && p.tok.Kind != Arrow && !p.is(":") {
		return false
	}
	p.next()
	if p.tok.Kind == Assign { // := of other languages
		p.next()
	}
	return true
}

// set reads `set NAME: TYPE = { ... }` or `= file "..." format list`.
func (p *parser) set(d *rules.Decl, _ int) bool {
	return p.setType(d) && p.setSource(d)
}

// setName reads the name of a set, to which the colon may be joined.
func (p *parser) setName() (rules.Word, bool) {
	if p.tok.Kind == Word {
		if i := strings.IndexByte(p.str(p.tok.Token), ':'); i > 0 {
			w := p.wordOf(Token{Word, p.tok.Start, p.tok.Start + i})
			p.tok.Start += i
			return w, true
		}
	}
	return p.name("a set")
}

// setType reads `: TYPE`; the colon is a part of the words around it.
func (p *parser) setType(d *rules.Decl) bool {
	if p.tok.Kind != Word {
		p.report("NP003", p.here(), "expected `:` and the type of the set, found %s", p.found()).
			Help = "write `set " + shorten(d.Name.Text) + ": domain = ...`"
		return false
	}
	w := p.word()
	switch {
	case w.Text == ":":
		if p.tok.Kind != Word {
			p.report("NP107", w.Span, "the set has no type").Help = "for example `: domain`"
			return false
		}
		w = p.word()
	case w.Text[0] == ':':
		w = w.Part(1, len(w.Text))
	default:
		p.report("NP003", w.Span, "expected `:` before the type of the set, found %s", diag.Quote(w.Text)).
			Help = "write `set " + shorten(d.Name.Text) + ": " + shorten(w.Text) + " = ...`"
	}
	d.Items = append(d.Items, p.single(rules.Word{Text: "type", Span: w.Span}, w))
	return true
}

// setSource reads the elements of a set, or where they come from.
func (p *parser) setSource(d *rules.Decl) bool {
	if p.tok.Kind == Open {
		p.report("NP003", p.here(), "expected `=`, found `{`").Help = "write `= { ... }`"
	} else if !p.assign(d, "set", "{ ... }") {
		return false
	}
	if p.tok.Kind == Newline {
		if t := p.below(); t.Kind == Open {
			p.report("NP003", p.here(), "expected `{`, found the end of the line").Help = "the `{` belongs on the line before"
			p.next()
		}
	}
	switch {
	case p.tok.Kind == Open:
		key := rules.Word{Text: "values", Span: p.here()}
		start := p.tok.Start
		d.Items = append(d.Items, rules.Item{Key: key, List: true, Args: p.braces(), Span: p.from(start)})
		return true
	case p.is("file") || p.is("url"):
	default:
		e := p.report("NP004", p.here(), "expected `{`, `file` or `url`, found %s", p.found())
		if p.isValue() {
			e.Help = "elements stand in braces: `{ a, b }`"
		}
		return false
	}
	for p.tok.Kind == Word && !p.begins() {
		key := p.word()
		switch key.Text {
		case "file", "url", "select", "sha256":
			w, ok := p.quoted("the text behind `" + key.Text + "`")
			if !ok {
				return false
			}
			d.Items = append(d.Items, p.single(key, w))
		default:
			if !p.isValue() {
				p.report("NP107", key.Span, "%s needs a value", diag.Quote(key.Text))
				return false
			}
			d.Items = append(d.Items, p.single(key, p.word()))
		}
	}
	return true
}

func (p *parser) uplink(d *rules.Decl, indent int) bool {
	return p.itemBlock(d, "an uplink", indent, uplinkKeys)
}

func (p *parser) throttle(d *rules.Decl, indent int) bool {
	return p.itemBlock(d, "a throttle", indent, throttleKeys)
}

// health reads `health [NAME] { ... }`.
func (p *parser) health(d *rules.Decl, indent int) bool {
	if p.tok.Kind == Word && !p.is(":") {
		d.Name, _ = p.name("an uplink")
	}
	return p.itemBlock(d, "health", indent, healthBlock)
}

// daemon reads `daemon { NAME value, value }`.
func (p *parser) daemon(d *rules.Decl, indent int) bool {
	return p.itemBlock(d, "daemon", indent, nil)
}

// itemBlock reads a block of keys with their values. Which keys exist is left to
// Check, unless one belongs into another block.
func (p *parser) itemBlock(d *rules.Decl, what string, indent int, keys []string) bool {
	b, ok := p.openBlock(what, indent, keys)
	if !ok {
		return false
	}
	for p.more(&b) {
		p.item(d, &b, keys)
	}
	return true
}

// item reads one key of a block.
func (p *parser) item(d *rules.Decl, b *block, keys []string) {
	start := p.tok.Start
	key := p.key()
	if keys != nil && !slices.Contains(keys, strings.ReplaceAll(key.Text, "-", "_")) {
		if home := homeOf(key.Text); home != "" {
			p.report("NP010", key.Span, "%s stands outside of its block", diag.Quote(key.Text)).
				Help = "it belongs inside " + home + ", and this is " + b.what
			p.skip()
			return
		}
	}
	item := rules.Item{Key: key}
	switch {
	case p.atEnd():
		// Check says that a value is missing.
	case p.tok.Kind == Open:
		e := p.report("NP004", p.here(), "expected a value for %s, found `{`", diag.Quote(key.Text))
		switch key.Text {
		case "probe":
			e.Help = "write `probe icmp 1.1.1.1 every 1s`"
		case "threshold":
			e.Help = "write `threshold rtt 120ms / 90ms`"
		}
		item.Bad = true
	case p.tok.Kind == Assign:
		p.report("NP004", p.here(), "expected a value for %s, found `=`", diag.Quote(key.Text)).Help = "leave the `=` out"
		p.next()
		item.Bad = !p.itemValues(&item)
	default:
		item.Bad = !p.itemValues(&item)
	}
	if item.Bad {
		p.skip()
	}
	item.Bad = item.Bad || p.torn >= start
	item.Span = p.from(start)
	if key.Text == "threshold" && !item.Bad {
		p.threshold(d, item)
	} else {
		d.Items = append(d.Items, item)
	}
	if key.Text == "limit" && p.is("per") {
		return // `limit 3GiB per day` is two items in one statement
	}
	p.endOf(key.Text)
}

// key reads the word that begins a statement, without the `:` of YAML.
func (p *parser) key() rules.Word {
	w := p.word()
	if n := len(w.Text) - 1; n > 0 && w.Text[n] == ':' {
		p.report("NP004", w.Part(n, n+1).Span, "expected values behind %s, found `:`", diag.Quote(w.Text[:n])).Help = "leave the `:` out"
		w = w.Part(0, n)
	}
	return w
}

// itemValues reads what stands behind a key.
func (p *parser) itemValues(item *rules.Item) bool {
	var ok bool
	switch item.Key.Text {
	case "threshold":
		base := len(p.values)
		for p.tok.Kind == Word {
			p.values = append(p.values, p.word())
		}
		item.Args = p.element(base)
		return true
	case "probe":
		base := len(p.values)
		if !p.isValue() {
			break
		}
		p.values = append(p.values, p.word())
		if p.isValue() && !p.is("every") {
			targets, fine := p.list("a target")
			if p.values = append(p.values, targets...); !fine {
				p.element(base)
				return false
			}
		}
		if p.is("every") {
			p.values = append(p.values, p.word())
			if p.tok.Kind == Word && !p.begins() {
				p.values = append(p.values, p.word())
			}
		}
		item.Args = p.element(base)
		return true
	}
	item.Args, ok = p.list("a value")
	return ok
}

// threshold adds `threshold rtt 120ms / 90ms` to the one item of its block.
func (p *parser) threshold(d *rules.Decl, item rules.Item) {
	if len(item.Args) == 0 {
		d.Items = append(d.Items, item) // Check says that something is missing
		return
	}
	pair := rules.Item{Key: item.Args[0], Args: item.Args[1:], Span: item.Span}
	for i := range d.Items {
		if old := &d.Items[i]; old.Key.Text == "threshold" && old.Block {
			old.Items = append(old.Items, pair)
			old.Span.End = item.Span.End
			return
		}
	}
	item.Args, item.Block, item.Items = nil, true, []rules.Item{pair}
	d.Items = append(d.Items, item)
}

// viaKinds are the words that may follow `via`.
var viaKinds = []string{"main", "blackhole", "uplink", "dev", "table", "mark", "group", "xray", "socks"}

// route reads `route NAME via ...`; Check reads the words.
func (p *parser) route(d *rules.Decl, _ int) bool {
	start := p.tok.Start
	key := rules.Word{Text: "via", Span: p.here()}
	if p.is("via") {
		key = p.word()
	} else {
		e := p.report("NP003", p.here(), "expected `via`, found %s", p.found())
		e.Help = "write `route " + shorten(d.Name.Text) + " via main`"
		if p.tok.Kind == Assign || p.tok.Kind == Arrow || p.tok.Kind == Foreign || p.is(":") {
			p.next()
			p.accept("via")
		}
		if !slices.Contains(viaKinds, p.str(p.tok.Token)) {
			return false
		}
	}
	item := rules.Item{Key: key}
	base := len(p.values)
	for p.isValue() && !p.tok.first && !p.declares() {
		p.values = append(p.values, p.word())
		if p.tok.Kind == Comma && len(p.values)-base > 2 { // of two gateways
			p.next()
			p.newlines()
			if !p.isValue() || p.tok.first && p.begins() {
				p.report("NP004", p.span(p.last-1, p.last), "expected a value behind `,`, found the end")
				item.Bad = true
				break
			}
			p.tok.first = false
		}
	}
	item.Args = p.element(base)
	item.Span = p.from(start)
	if p.tok.Kind == Open {
		p.report("NP005", p.here(), "expected the end of the route, found `{`").Help = "a route has no block"
		item.Bad = true
	}
	d.Items = append(d.Items, item)
	return !item.Bad
}

// group reads `group NAME = STRATEGY(a, b) tolerance 30ms`.
func (p *parser) group(d *rules.Decl, _ int) bool {
	if !p.assign(d, "group", "fallback(a, b)") {
		return false
	}
	if p.tok.Kind != Word {
		p.report("NP004", p.here(), "expected the strategy of the group, found %s", p.found()).
			Help = "write `group " + shorten(d.Name.Text) + " = fallback(a, b)`"
		return false
	}
	start := p.tok.Start
	item := rules.Item{Key: p.word(), List: true}
	var ok bool
	if item.Args, ok = p.parenList(item.Key.Text, "a route"); !ok {
		return false
	}
	item.Span = p.from(start)
	d.Items = append(d.Items, item)
	for p.tok.Kind == Word && !p.begins() {
		key := p.key()
		if !p.isValue() {
			p.report("NP107", key.Span, "%s needs a value", diag.Quote(key.Text))
			return false
		}
		d.Items = append(d.Items, p.single(key, p.word()))
	}
	return true
}

// parenList reads `(a, b)` behind a word.
func (p *parser) parenList(word, what string) ([]rules.Word, bool) {
	if p.tok.Kind != ParenOpen {
		p.report("NP003", p.here(), "expected `(` behind %s, found %s", diag.Quote(word), p.found()).
			Help = "write `" + shorten(word) + "(a, b)`"
		return nil, false
	}
	open := p.tok
	p.depth++
	p.next()
	base := len(p.values)
	defer func() { p.values = p.values[:base] }()
	for p.tok.Kind != ParenClose {
		if p.tok.Kind != Word || p.tok.first && p.begins() {
			p.noParen(open, what)
			return nil, false
		}
		p.values = append(p.values, p.word())
		if p.tok.Kind == Comma {
			p.next()
			continue
		}
		if p.tok.Kind != ParenClose {
			p.noParen(open, "`,` or `)`")
			return nil, false
		}
	}
	p.depth--
	p.next()
	if len(p.values) == base {
		p.report("NP107", p.span(open.Start, p.last), "%s needs at least one route", word)
		return nil, false
	}
	return p.words.copy(p.values[base:]), true
}

// quota reads `quota NAME { match ...; limit 3GiB per day; reset 04:00 }`.
func (p *parser) quota(d *rules.Decl, indent int) bool {
	b, ok := p.openBlock("a quota", indent, quotaKeys)
	if !ok {
		return false
	}
	var match token
	for p.more(&b) {
		if !p.is("match") {
			p.item(d, &b, quotaKeys)
			continue
		}
		second := match.Kind == Word
		if second {
			p.duplicate(match)
		}
		match = p.tok
		p.next()
		n := new(rules.ExprNode)
		if !p.expr(n) {
			d.Bad = true
			p.skip()
			n = nil
		}
		if !second {
			d.Expr = n
		}
		p.endOf("match")
	}
	return true
}

// duplicate reports a clause that was given before.
func (p *parser) duplicate(first token) {
	p.report("NP105", p.here(), "%s is given already", p.found()).Note(p.span(first.Start, first.End), "first given here")
}

// schedule reads `schedule NAME = weekday mon-thu,sun time 20:30-06:30 tz "Europe/Berlin"`.
func (p *parser) schedule(d *rules.Decl, _ int) bool {
	if !p.assign(d, "schedule", "weekday mon-fri time 08:00-17:00") {
		return false
	}
	if p.tok.Kind != Word || p.tok.first {
		p.report("NP107", d.Name.Span, "the schedule is empty").Help = "write weekday, time, date or tz behind the `=`"
		return false
	}
	for p.tok.Kind == Word && !p.begins() {
		start := p.tok.Start
		item := rules.Item{Key: p.key()}
		ok := true
		switch item.Key.Text {
		case "weekday":
			item.Args, ok = p.list("a day of the week")
		case "tz":
			var w rules.Word
			w, ok = p.quoted("the time zone")
			item.Args = []rules.Word{w}
		default:
			if !p.isValue() {
				p.report("NP107", item.Key.Span, "%s needs a value", diag.Quote(item.Key.Text))
				return false
			}
			item.Args = []rules.Word{p.interval()}
		}
		if !ok {
			return false
		}
		item.Span = p.from(start)
		d.Items = append(d.Items, item)
	}
	return true
}

// interval reads `20:30-06:30`, with or without blanks around the hyphen, as one word.
func (p *parser) interval() rules.Word {
	w := p.word()
	for p.tok.Kind == Word && (p.text[p.tok.Start] == '-' || strings.HasSuffix(w.Text, "-")) {
		next := p.word()
		joined := rules.Word{Text: w.Text + next.Text, Span: w.Span}
		joined.Span.End = next.Span.End
		w = joined
	}
	return w
}

// condition reads `condition NAME = EXPR`.
func (p *parser) condition(d *rules.Decl, _ int) bool {
	if !p.assign(d, "condition", "latency > 120ms") {
		return false
	}
	n := new(rules.ExprNode)
	if !p.expr(n) {
		return false
	}
	d.Expr = n
	return true
}
