package npl

import (
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
		if s := rules.Unescape(w.Text); s != w.Text {
			w.Text = s
			return w
		}
	}
	if !p.fixed {
		w.Body = p.base + start
	}
	return w
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
