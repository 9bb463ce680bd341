package npl

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"netpolicy.dev/netpolicy/rules"
)

// membership reads what stands behind `in`: the name of a set, or a set.
func (p *parser) membership(pred *rules.PredNode) bool {
	if p.tok.Kind == Open {
		pred.Values = p.braces()
		return true
	}
	if p.tok.Kind == Word && !p.noValue() && rules.IsName(p.str(p.tok.Token)) {
		pred.Set = p.word()
		if p.tok.Kind == Comma {
			p.report("NP005", p.here(), "`in` has one set: expected its end, found `,`").
				Help = "write `in { a, b }` for values, and `or` between sets"
			return false
		}
		return true
	}
	if !p.noValue() {
		d := p.report("NP004", p.here(), "expected the name of a set or `{` behind `in`, found %s", p.found())
		d.Help = "for values leave `in` out: `" + shorten(pred.Key.Text+" "+p.str(p.tok.Token)) + "`"
		return p.valueList(pred)
	}
	p.report("NP107", p.span(p.last, p.last), "`in` needs the name of a set, or `{ ... }`")
	return false
}

// valueList reads values separated by commas.
func (p *parser) valueList(pred *rules.PredNode) bool {
	list, ok := p.list("a value")
	pred.Values = list
	if ok && p.is("for") {
		p.report("NP003", p.here(), "`for` needs a comparison before the value").
			Help = "write `" + shorten(pred.Key.Text) + " == ... for ...`"
		return p.duration(pred)
	}
	return ok
}

// list reads words and strings separated by commas.
func (p *parser) list(what string) ([]rules.Word, bool) {
	base := len(p.values)
	ok := true
	for {
		if !p.isValue() {
			p.report("NP004", p.here(), "expected %s, found %s", what, p.found())
			ok = false
			break
		}
		p.values = append(p.values, p.word())
		if p.tok.Kind != Comma {
			break
		}
		comma := p.tok
		p.next()
		p.newlines()
		if p.commaEnds(comma) {
			break
		}
		if p.atEnd() || p.tok.Kind == ParenClose || p.tok.first && p.begins() {
			p.report("NP004", p.span(comma.Start, comma.End), "expected %s behind `,`, found the end", what)
			ok = false
			break
		}
	}
	list := p.words.copy(p.values[base:])
	p.values = p.values[:base]
	return list, ok
}

// commaEnds reports a comma between two statements of a line, and whether it was one.
func (p *parser) commaEnds(comma token) bool {
	if p.tok.first || !p.begins() {
		return false
	}
	switch next := p.ahead(1); {
	case next.Kind != Word && next.Kind != String, p.str(next) == "and", p.str(next) == "or":
		return false
	}
	p.report("NP005", p.span(comma.Start, comma.End), "expected the end of the statement, found `,`").
		Help = "a `;` or a new line separates statements"
	p.ended = true
	return true
}

// braces reads `{ a, b }`. It goes on after every error, to the brace or to where
// it must be missing.
func (p *parser) braces() []rules.Word {
	open := p.tok
	base, before := len(p.values), p.depth
	p.depth++
	p.next()
	comma, reported := true, false
	for p.tok.Kind != Close {
		switch {
		case p.setIsOver():
			if p.torn < open.Start {
				p.report("NP006", p.span(open.Start, open.End), "the `{` of the set is not closed").Help = "a `}` is missing before " + p.before()
			}
			p.depth = 0
			return p.element(base)
		case p.tok.Kind == Comma:
			if comma {
				p.report("NP004", p.here(), "expected an element of the set, found `,`")
			}
			comma = true
			p.next()
		case p.is("-"):
			if !reported {
				p.report("NP004", p.here(), "expected an element of the set, found `-`").Help = "elements are separated by commas, and have no dashes"
			}
			comma, reported = true, true
			p.next()
		case p.isValue():
			if !comma && !reported {
				p.report("NP003", p.here(), "expected `,` before %s", p.found()).Help = "elements are separated by commas"
				reported = true
			}
			comma = false
			if p.tok.Kind == Unterminated {
				p.next()
				continue
			}
			p.values = append(p.values, p.setWord())
		default:
			if !reported {
				d := p.report("NP004", p.here(), "expected an element of the set, found %s", p.found())
				if p.tok.Kind == Semicolon {
					d.Help = "elements are separated by commas"
				}
				reported = true
			}
			comma = true
			p.next()
		}
	}
	p.depth = before
	p.next()
	return p.element(base)
}

// setIsOver reports whether the `}` of a set must have been forgotten.
func (p *parser) setIsOver() bool {
	switch p.tok.Kind {
	case EOF, Open, Arrow:
		return true
	case Semicolon:
		next := p.ahead(1)
		return next.Kind == Newline || next.Kind == Word && slices.Contains(p.keys, p.str(next))
	}
	return p.tok.first && p.begins()
}

// element takes the list that was gathered since base.
func (p *parser) element(base int) []rules.Word {
	list := p.words.copy(p.values[base:])
	p.values = p.values[:base]
	return list
}

// setWord reads an element of a set; `keyword "x"` and `regex "x"` are one word.
func (p *parser) setWord() rules.Word {
	if t := p.tok; t.Kind == Word && (p.is("keyword") || p.is("regex")) {
		kind := p.word()
		if p.tok.Kind != String {
			return kind
		}
		w := rules.Word{Text: p.text[t.Start:p.tok.End], Span: p.span(t.Start, p.tok.End)}
		if p.tok.Start == t.End+1 && p.text[t.End] == ' ' {
			w.Body = kind.Body
		} else {
			w.Text = kind.Text + " " + p.str(p.tok.Token)
		}
		p.next()
		return w
	}
	return p.word()
}

// maxText bounds a predicate in explanations: a line of a terminal.
const maxText = 120

// predText is text[start:end] as explanations show it: on one line, and not too long.
func (p *parser) predText(start, end int) string {
	text := p.text[start:end]
	if len(text) > 2*maxText { // enough even if most of it is blanks
		text = text[:2*maxText]
	}
	if strings.ContainsAny(text, "\n\r\t#") {
		text = p.oneLine(start, end)
	} else if end-start <= maxText {
		return text
	}
	return cut(text)
}

// oneLine joins tokens with one blank where anything stood between them, without comments.
func (p *parser) oneLine(start, end int) string {
	var b strings.Builder
	gap := false
	for pos := start; pos < end && b.Len() <= maxText; {
		t := scan(p.text, pos)
		pos = t.End
		switch t.Kind {
		case Space, Newline, Comment, Bad:
			gap = true
			continue
		}
		if gap && b.Len() > 0 {
			b.WriteByte(' ')
		}
		gap = false
		b.WriteString(p.str(t))
	}
	return b.String()
}

// cut shortens a text to maxText bytes, at a character.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	const dots = "..."
	n := maxText - len(dots)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + dots
}

// guessField returns the field that a value without one is probably meant for.
func guessField(value string) string {
	if _, err := netip.ParsePrefix(value); err == nil {
		return "dst.ip"
	}
	if _, err := netip.ParseAddr(value); err == nil {
		return "dst.ip"
	}
	if _, err := strconv.ParseUint(strings.ReplaceAll(value, "-", ""), 10, 64); err == nil {
		return "port"
	}
	switch value {
	case "tcp", "udp", "icmp", "icmpv6":
		return "proto"
	}
	return "sni"
}
