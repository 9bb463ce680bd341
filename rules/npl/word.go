package npl

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"netpolicy.dev/netpolicy/rules"
)

// word consumes the current token, a word or string, as a value.
func (p *parser) word() rules.Word {
	t := p.tok
	w := p.wordOf(t.Token)
	p.next()
	return w
}

// wordOf makes a value of a token.
func (p *parser) wordOf(t Token) rules.Word {
	start, end := t.Start, t.End
	w := rules.Word{Span: p.span(start, end)}
	switch t.Kind {
	case String, SingleQuoted:
		w.Quoted = true
		start, end = start+1, end-1
	case Unterminated:
		w.Quoted = true
		start++
	}
	w.Text = p.text[start:end]
	if w.Quoted && t.Kind != SingleQuoted {
		if s, changed := unescape(w.Text); changed {
			w.Text = s
			return w
		}
	}
	if !p.fixed {
		w.Body = p.base + start
	}
	return w
}

// unescape replaces the escapes of a string: \" \\ \n \r \t \u{HEX}. A
// backslash before anything else stands for itself.
func unescape(s string) (text string, changed bool) {
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s, false
	}
	var b strings.Builder
	done := 0
	for i < len(s) {
		r, size := escape(s[i:])
		if size > 0 {
			b.WriteString(s[done:i])
			b.WriteRune(r)
			done = i + size
		} else {
			size = 1
		}
		next := strings.IndexByte(s[i+size:], '\\')
		if next < 0 {
			break
		}
		i += size + next
	}
	if done == 0 {
		return s, false
	}
	b.WriteString(s[done:])
	return b.String(), true
}

// escape reads the escape at the start of s; size 0: it is none.
func escape(s string) (r rune, size int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\':
		return rune(s[1]), 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		hex, found := strings.CutPrefix(s[2:], "{")
		end := strings.IndexByte(hex, '}')
		if !found || end < 1 || end > 6 {
			return 0, 0
		}
		n, err := strconv.ParseUint(hex[:end], 16, 32)
		if err != nil || !utf8.ValidRune(rune(n)) {
			return 0, 0
		}
		return rune(n), 2 + 1 + end + 1
	}
	return 0, 0
}

// isName reports whether s can name something: letters, digits, _ and -,
// beginning with a letter or _.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}

// slab hands out small slices from larger pieces: an AST of a million nodes is
// then some thousand allocations. The zero slab is empty.
type slab[T any] struct {
	free []T
	size int // of the last piece
}

// pieceSize is how many elements a slab allocates at a time, at most; the first
// pieces are smaller so that short texts stay cheap.
const pieceSize = 512

// copy returns a copy of list that no append can write over.
func (s *slab[T]) copy(list []T) []T {
	n := len(list)
	if n == 0 {
		return nil
	}
	if n > len(s.free) {
		if n > pieceSize/4 {
			return append(make([]T, 0, n), list...)
		}
		s.size = min(pieceSize, 2*s.size+8)
		s.free = make([]T, max(n, s.size))
	}
	out := s.free[:n:n]
	s.free = s.free[n:]
	copy(out, list)
	return out
}

// one returns a place for one element.
func (s *slab[T]) one(v T) *T {
	list := [1]T{v}
	return &s.copy(list[:])[0]
}
