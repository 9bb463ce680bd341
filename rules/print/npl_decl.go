package print

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// declBlock returns the statements in a declaration's braces.
func (p *nplPrinter) declBlock(s section, d *rules.Decl) []statement {
	var list []statement
	switch s {
	case uplinks, throttles, health, daemon:
		for i := range d.Items {
			list = appendItem(list, s, &d.Items[i])
		}
	case quotas:
		if d.Expr != nil {
			list = append(list, statement{key: &d.Expr, at: d.Expr.Span.Start, keyword: "match", expr: d.Expr})
		}
		limit, per := find(d.Items, "limit"), find(d.Items, "per")
		for i := range d.Items {
			it := &d.Items[i]
			st := statement{key: it, at: it.Span.Start, keyword: plain(it.Key.Text), words: wordList(it.Args, " ")}
			switch it {
			case limit:
				if per != nil {
					st.words += " per " + wordList(per.Args, " ")
				}
			case per:
				if limit != nil {
					continue
				}
			}
			list = append(list, st)
		}
	}
	return list
}

// appendItem adds what an item says, in one or several statements.
func appendItem(list []statement, s section, it *rules.Item) []statement {
	st := statement{key: it, at: it.Span.Start, keyword: plain(it.Key.Text)}
	switch {
	case st.keyword == "threshold" && it.Block:
		for i := range it.Items {
			sub := &it.Items[i]
			list = append(list, statement{
				key: sub, at: sub.Span.Start, keyword: "threshold", words: plain(sub.Key.Text) + " " + bounds(sub.Args),
			})
		}
		return list
	case st.keyword == "threshold":
		words := split(it.Args)
		if len(words) > 0 {
			st.words = text(words[0].Text) + " " + bounds(words[1:])
		}
	case st.keyword == "probe":
		kind, targets, every := probe(it)
		st.words = strings.TrimSpace(kind + " " + wordList(targets, ", "))
		if len(every) > 0 {
			st.words += " every " + wordList(every, " ")
		}
	case st.keyword == "gateway" || s == daemon:
		args := it.Args
		if st.keyword == "gateway" || isList(st.keyword) {
			args = split(args)
		}
		st.words = wordList(args, ", ")
	default:
		st.words = wordList(it.Args, " ")
	}
	return append(list, st)
}

// bounds is `120ms / 90ms`, of any spacing.
func bounds(args []rules.Word) string {
	if enter, exit, ok := threshold(args); ok {
		return text(enter) + " / " + text(exit)
	}
	return wordList(args, " ")
}

// probe takes a probe apart, be it a block or words.
func probe(it *rules.Item) (kind string, targets, every []rules.Word) {
	if it.Block {
		for i := range it.Items {
			switch sub := &it.Items[i]; plain(sub.Key.Text) {
			case "kind":
				kind = wordList(sub.Args, " ")
			case "targets":
				targets = split(sub.Args)
			case "every":
				every = sub.Args
			}
		}
		return kind, targets, every
	}
	words := split(it.Args)
	if len(words) == 0 {
		return "", nil, nil
	}
	end := len(words)
	if i := slices.IndexFunc(words, func(w rules.Word) bool { return w.Text == "every" && !w.Quoted }); i > 0 {
		end, every = i, words[i+1:]
	}
	return npl(words[0]), words[1:end], every
}

// decl prints a declaration; the comment it returns belongs at the end of its line.
func (p *nplPrinter) decl(d *decl, n *rules.Decl, block []statement) []note {
	name := text(n.Name.Text)
	switch d.section {
	case sets:
		p.set(d, n, name)
	case uplinks:
		p.words("uplink", name)
		p.block(d, block)
	case routes:
		p.words("route", name, "via", via(n))
	case groups:
		p.words("group", name, "=", group(n.Items))
	case throttles:
		p.words("throttle", name)
		p.block(d, block)
	case quotas:
		p.words("quota", name)
		p.block(d, block)
	case schedules:
		p.words("schedule", name, "=", schedule(n.Items))
	case conditions:
		p.words("condition", name, "=")
		if n.Expr != nil {
			p.str(" ")
			return p.expr(n.Expr, &n.Expr, step)
		}
	case health:
		p.str("health")
		if n.Name.Text != "" {
			p.words("", name)
		}
		p.block(d, block)
	case daemon:
		p.str("daemon")
		p.block(d, block)
	}
	return nil
}

// via is where a route leads, with what YAML may say under keys of its own.
func via(n *rules.Decl) string {
	var words []rules.Word
	for _, key := range []string{"via", "gateway", "on"} {
		it := find(n.Items, key)
		if it == nil {
			continue
		}
		if key != "via" {
			words = append(words, rules.Word{Text: key})
		}
		words = append(words, split(it.Args)...)
	}
	var parts []string
	for i, w := range words {
		switch {
		case i == 1 && (words[0].Text == "xray" || words[0].Text == "socks"):
			parts = append(parts, str(w))
		case i > 3 && words[i-2].Text == "gateway":
			parts[i-1] += ","
			parts = append(parts, npl(w))
		default:
			parts = append(parts, npl(w))
		}
	}
	return strings.Join(parts, " ")
}

func group(items []rules.Item) string {
	chosen := strategyOf(items)
	var parts []string
	if chosen != nil {
		parts = append(parts, plain(chosen.Key.Text)+"("+wordList(split(chosen.Args), ", ")+")")
	}
	for i := range items {
		it := &items[i]
		if it == chosen {
			continue
		}
		key := plain(it.Key.Text)
		if key == "meets" {
			key = "sla"
		}
		parts = append(parts, key+" "+wordList(it.Args, " "))
	}
	return strings.Join(parts, " ")
}

func schedule(items []rules.Item) string {
	var parts []string
	for _, key := range []string{"weekday", "time", "date", "tz"} {
		it := find(items, key)
		if it == nil {
			continue
		}
		switch key {
		case "weekday":
			parts = append(parts, key, wordList(split(it.Args), ","))
		case "tz":
			for _, w := range it.Args {
				parts = append(parts, key, str(w))
			}
		default:
			parts = append(parts, key, strings.ReplaceAll(wordList(it.Args, "-"), " ", ""))
		}
	}
	return strings.Join(parts, " ")
}

// set prints `set NAME: TYPE = ...`.
func (p *nplPrinter) set(d *decl, n *rules.Decl, name string) {
	p.words("set", name+":", "")
	if it := find(n.Items, "type"); it != nil {
		p.str(wordList(it.Args, " "))
	}
	p.str(" =")
	if values := find(n.Items, "values"); values != nil {
		p.elements(d, n, values)
		return
	}
	for _, key := range []string{"file", "url", "select", "format", "sha256", "refresh", "on_error"} {
		it := find(n.Items, key)
		if it == nil {
			continue
		}
		for _, w := range it.Args {
			switch key {
			case "file", "url", "select", "sha256":
				p.words("", key, str(w))
			default:
				p.words("", key, text(w.Text))
			}
		}
	}
}

// elements prints the elements of a set. Where the text has line breaks they
// stay; other lines break when they are full.
func (p *nplPrinter) elements(d *decl, n *rules.Decl, it *rules.Item) {
	commas := true
	if t := find(n.Items, "type"); t != nil && len(t.Args) == 1 {
		commas = t.Args[0].Text != "process" && t.Args[0].Text != "user"
	}
	spell := func(w rules.Word) string {
		switch {
		case isElement(w) && commas:
			return element(w)
		case commas && !w.Quoted && strings.Contains(w.Text, ","):
			parts := commaParts(w)
			for i := range parts {
				parts[i] = text(parts[i])
			}
			return strings.Join(parts, ", ")
		default:
			return npl(w)
		}
	}
	if len(it.Args) == 0 {
		p.str(" {}")
		return
	}
	comments := p.inside(it)
	if !comments && !p.src.broken(d.span.Start, d.span.End) {
		at, line := p.mark()
		p.str(" {")
		for i, w := range it.Args {
			if i > 0 {
				p.str(",")
			}
			p.words("", spell(w))
			if p.full() {
				break
			}
		}
		p.str(" }")
		if !p.full() {
			return
		}
		p.reset(at, line)
	}
	p.str(" {")
	m := p.at(it)
	if m != nil {
		p.trail(m.open)
	}
	p.newline()
	fresh := true // at the start of a line
	for i := range it.Args {
		w := &it.Args[i]
		s := spell(*w)
		c := p.at(w)
		breaks := i > 0 && p.src.broken(it.Args[i-1].Span.End, w.Span.Start)
		if !fresh && (breaks || c != nil && len(c.lead)+len(c.open)+len(c.tail) > 0 || p.column()+1+len(s)+1 > width) {
			p.newline()
			fresh = true
		}
		if c != nil {
			c.flatten()
			p.own(c.lead, step, i == 0)
		}
		if fresh {
			if i > 0 && breaks && p.src.blankBefore(w.Span.Start) {
				p.blank()
			}
			p.indent(step)
		} else {
			p.str(" ")
		}
		p.str(s)
		p.str(",")
		if fresh = c != nil && len(c.trail) > 0; fresh {
			p.trail(c.trail)
			p.newline()
		}
	}
	if !fresh {
		p.newline()
	}
	if m != nil {
		p.own(m.tail, step, false)
	}
	p.str("}")
}
