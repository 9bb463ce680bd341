package engine

import (
	"bytes"
	"math/bits"
	"strings"
)

// automaton finds literals in a text in one pass over it (Aho and Corasick,
// "Efficient string matching", 1975). It holds those of a textIndex of which too
// many begin alike, so that a text costs the same however they are chosen. Of a
// literal it holds as many bytes as tell it from all others; the rest is compared.
//
// States are numbered level by level, so that the children of one stand
// together, in the order of their bytes.
type automaton struct {
	states []autoState
	labels []byte // by state: the byte that leads to it
	ends   []autoEnd
	depth  int // of the deepest state: a state depends on no more bytes before it
}

// autoState is what each byte of a text reads, in 16 bytes.
type autoState struct {
	first uint32 // child
	fail  uint32 // the longest proper suffix that is a state, too
	least id     // of the literals that end here and at all links
	// few has, from the lowest byte, the number of children, and the bytes that lead
	// to them if they are at most fewChildren. No literal has control characters, so
	// that there are fewer than 256 children, and 0 is none.
	few uint32
}

const fewChildren = 3

// children returns how many there are.
func (s *autoState) children() uint32 { return s.few & 0xff }

// autoEnd is what ends in a state.
type autoEnd struct {
	own     id     // the least that is filed under the literal, none: no literal ends here
	literal uint32 // in textIndex.literals
	link    uint32 // the next state on the way of fail in which a literal ends; 0: none
	what    tagged // what is filed under the literal
	depth   uint16 // how many bytes of the literal have been read
	whole   bool   // that is all of it
}

// span is a state that is to be made: the literals that begin with its text.
type span struct{ from, to, depth int }

// newAutomaton takes literals, in order and unique, as places in all, and the
// least id that is filed under each.
func newAutomaton(x *textIndex, list []uint32, least func(tagged) id) *automaton {
	a := &automaton{}
	level := []span{{0, len(list), 0}}
	a.add(0)
	for ; len(level) > 0; a.depth++ {
		var next []span
		base := len(a.states) - len(level)
		for i, at := range level {
			s := autoState{first: uint32(len(a.states)), least: none}
			l := list[at.from]
			if whole := len(x.text(int(l))) == at.depth; whole || at.to-at.from == 1 {
				what := x.literals[l].what
				s.least = least(what)
				a.ends[base+i] = autoEnd{own: s.least, literal: l, what: what, depth: uint16(at.depth), whole: whole}
				at.from++
			}
			for at.from < at.to {
				label := x.text(int(list[at.from]))[at.depth]
				to := at.from + 1
				for to < at.to && x.text(int(list[to]))[at.depth] == label {
					to++
				}
				next = append(next, span{at.from, to, at.depth + 1})
				a.add(label)
				if n := s.children(); n < fewChildren {
					s.few |= uint32(label) << (8 * (n + 1))
				}
				s.few++
				at.from = to
			}
			a.states[base+i] = s
		}
		level = next
	}
	a.link()
	return a
}

func (a *automaton) add(label byte) {
	a.states = append(a.states, autoState{})
	a.ends = append(a.ends, autoEnd{own: none})
	a.labels = append(a.labels, label)
}

// link sets what a state falls back to; shorter texts come first.
func (a *automaton) link() {
	for s := range a.states {
		first := a.states[s].first
		for child := first; child < first+a.states[s].children(); child++ {
			c := &a.states[child]
			if s > 0 {
				c.fail = a.next(a.states[s].fail, a.labels[child])
			}
			if a.ends[c.fail].own != none {
				a.ends[child].link = c.fail
			} else {
				a.ends[child].link = a.ends[c.fail].link
			}
			c.least = min(c.least, a.states[c.fail].least)
		}
	}
}

// next returns the state after one more byte of a text.
func (a *automaton) next(s uint32, b byte) uint32 {
	if b < ' ' {
		return 0
	}
	for {
		at := &a.states[s]
		if n := at.children(); n <= fewChildren {
			// All are compared at once: which one it is can't be predicted.
			x := at.few>>8 ^ uint32(b)*0x010101
			if equal := (x - 0x010101) &^ x & 0x808080; equal != 0 {
				return at.first + uint32(bits.TrailingZeros32(equal))/8
			}
		} else if i := bytes.IndexByte(a.labels[at.first:at.first+n], b); i >= 0 {
			return at.first + uint32(i)
		}
		if s == 0 {
			return 0
		}
		s = at.fail
	}
}

// run follows a text from a state and notes the state after each byte. A long text
// is followed from two places at once, so that cache misses overlap.
func (a *automaton) run(s uint32, text string, visited *[crowdText]uint32) uint32 {
	// The second run begins so far before the end of the first that from there on
	// it does not depend on where it began, and both are as long.
	half := (len(text) + a.depth + 1) / 2
	from := len(text) - half
	if from <= 0 {
		for i := range len(text) {
			s = a.next(s, text[i])
			visited[i] = s
		}
		return s
	}
	second := uint32(0)
	for i := range half {
		s, second = a.next(s, text[i]), a.next(second, text[from+i])
		visited[from+i] = second // written again if it is below half
		visited[i] = s
	}
	return second
}

// holds reports whether the literal of an end stands in a text of which the
// state has been reached with the bytes before to.
func (e *autoEnd) holds(x *textIndex, text string, to int) bool {
	return e.whole || strings.HasPrefix(text[to-int(e.depth):], x.text(int(e.literal)))
}
