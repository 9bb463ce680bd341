package lsp

import (
	"slices"

	"netpolicy.dev/netpolicy/rules/npl"
)

// place is what can stand somewhere in a text, which may be broken.
type place struct {
	start   int // of the word that stands there or is being written
	in      []category
	names   []kind
	metrics bool // uplink.NAME.metric and route.NAME.metric
}

func (p *place) offers(c ...category) { p.in = append(p.in, c...) }
func (p *place) named(k ...kind)      { p.names = append(p.names, k...) }
func (p *place) has(c category) bool  { return slices.Contains(p.in, c) }

// placeAt returns what can stand at an offset. The word there counts up to end.
func (d *document) placeAt(end int) place {
	if d.npl {
		return placeNPL(d.text.bytes, end)
	}
	return placeYAML(d.text.bytes, end)
}

// wordEnd returns the end of the word around an offset, for hovers.
func (d *document) wordEnd(offset int) int {
	b := d.text.bytes
	for offset < len(b) && (isWordByte(b[offset]) || d.npl && b[offset] == '.' && offset+1 < len(b) && isWordByte(b[offset+1])) {
		offset++
	}
	return offset
}

func isWordByte(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// token is a word, a string or a sign of NPL.
type token struct {
	text       string // of a string what stands between its quotes
	start, end int
	kind       npl.Kind
	open       bool // a string or comment that reaches the end of the text
}

// quoted reports a string.
func (t token) quoted() bool { return t.kind == npl.String || t.kind == npl.Unterminated }

// is reports a token that is no string and has the text.
func (t token) is(text string) bool { return t.text == text && !t.quoted() }

// scan returns the tokens of NPL text without blanks, and without the comments
// that end before the text does. base is the offset of src in the document.
func scan(src string, base int) []token {
	var list []token
	for _, l := range npl.Lex([]byte(src)) {
		t := token{text: src[l.Start:l.End], start: base + l.Start, end: base + l.End, kind: l.Kind}
		atEnd := l.End == len(src)
		switch l.Kind {
		case npl.Space:
			continue
		case npl.Comment:
			if t.open = atEnd; !atEnd {
				continue
			}
		case npl.Unterminated:
			t.open = atEnd
			t.text = t.text[1:]
		case npl.String:
			t.text = t.text[1 : len(t.text)-1]
		}
		list = append(list, t)
	}
	return list
}
