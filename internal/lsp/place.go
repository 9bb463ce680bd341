package lsp

import (
	"slices"
	"strings"
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
	text       string
	start, end int
	quoted     bool
	open       bool // a string or comment that reaches the end of the scanned text
}

const newline = "\n"

// scan splits NPL text into tokens; line ends are tokens, comments are not. Any
// text can be scanned. base is the offset of src in the document.
func scan(src string, base int) []token {
	var list []token
	for i := 0; i < len(src); {
		start := i
		switch c := src[i]; {
		case c == '\n':
			i++
			list = append(list, token{text: newline, start: base + start, end: base + i})
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(src) && src[i] != '\n' {
				i++
			}
			if i == len(src) {
				list = append(list, token{text: "#", start: base + start, end: base + i, open: true})
			}
		case c == '"':
			for i++; i < len(src) && src[i] != '"' && src[i] != '\n'; i++ {
				if src[i] == '\\' && i+1 < len(src) && src[i+1] == '"' {
					i++
				}
			}
			t := token{text: src[start+1 : i], start: base + start, quoted: true, open: i == len(src)}
			if i < len(src) && src[i] == '"' {
				i++
			}
			t.end = base + i
			list = append(list, t)
		case strings.IndexByte("{}(),;=<>!", c) >= 0:
			i++
			list = append(list, token{text: src[start:i], start: base + start, end: base + i})
		case strings.HasPrefix(src[i:], "->"):
			i += 2
			list = append(list, token{text: "->", start: base + start, end: base + i})
		default:
			for i < len(src) && strings.IndexByte(" \t\r\n{}(),;=<>!\"#", src[i]) < 0 && !strings.HasPrefix(src[i:], "->") {
				i++
			}
			list = append(list, token{text: src[start:i], start: base + start, end: base + i})
		}
	}
	return list
}

// isSign reports a token that is no word and no string.
func (t token) isSign() bool {
	return !t.quoted && (t.text == "->" || t.text == newline || len(t.text) == 1 && strings.Contains("{}(),;=<>!", t.text))
}
