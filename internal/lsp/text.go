package lsp

import (
	"sort"
	"unicode/utf8"

	"netpolicy.dev/netpolicy/diag"
)

// text is a document's bytes with the lines that the protocol counts: a line ends
// with "\n", "\r\n" or "\r". Positions count UTF-16 units, or bytes where the
// client has agreed.
type text struct {
	bytes []byte
	lines []int // offset of each line's first byte
	utf8  bool
}

func newText(b []byte, utf8 bool) *text {
	t := &text{bytes: b, lines: []int{0}, utf8: utf8}
	for i, c := range b {
		if c == '\n' || c == '\r' && (i+1 == len(b) || b[i+1] != '\n') {
			t.lines = append(t.lines, i+1)
		}
	}
	return t
}

// lineEnd returns the offset behind line n, before its line end.
func (t *text) lineEnd(n int) int {
	end := len(t.bytes)
	if n+1 < len(t.lines) {
		end = t.lines[n+1]
		for end > t.lines[n] && (t.bytes[end-1] == '\n' || t.bytes[end-1] == '\r') {
			end--
		}
	}
	return end
}

// offset returns the byte that a position stands at. A position behind the end of
// its line is the line's end, one behind the last line the text's end, and one
// within a character the character's start.
func (t *text) offset(p position) int {
	switch {
	case p.Line < 0:
		return 0
	case p.Line >= len(t.lines):
		return len(t.bytes)
	}
	at, end := t.lines[p.Line], t.lineEnd(p.Line)
	for units := p.Character; at < end; {
		r, size := utf8.DecodeRune(t.bytes[at:])
		if units -= t.units(r, size); units < 0 {
			break
		}
		at += size
	}
	return at
}

// units is how many units of a position a character takes.
func (t *text) units(r rune, size int) int {
	switch {
	case t.utf8:
		return size
	case r > 0xffff:
		return 2
	default:
		return 1
	}
}

// position returns the place of a byte; an offset outside the text is moved to its
// nearest end.
func (t *text) position(offset int) position {
	offset = min(max(offset, 0), len(t.bytes))
	line := sort.SearchInts(t.lines, offset+1) - 1
	p := position{Line: line}
	for at := t.lines[line]; at < offset; {
		r, size := utf8.DecodeRune(t.bytes[at:])
		p.Character += t.units(r, size)
		at += size
	}
	return p
}

func (t *text) rangeOf(start, end int) textRange {
	return textRange{t.position(start), t.position(end)}
}

func (t *text) rangeOfSpan(s diag.Span) textRange { return t.rangeOf(s.Start, s.End) }

// slice returns the bytes of a span, as far as they exist.
func (t *text) slice(start, end int) string {
	start = min(max(start, 0), len(t.bytes))
	return string(t.bytes[start:min(max(end, start), len(t.bytes))])
}
