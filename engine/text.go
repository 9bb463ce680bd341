package engine

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"netpolicy.dev/netpolicy/rules"
)

// textIndex finds which of its literals stand in a text. A literal is found by
// its first bytes: a filter of one bit, then a table, then a search among the few
// literals that begin with them. A literal that begins with another one has it
// as its parent. Where many begin alike, an automaton finds them.
type textIndex struct {
	literals []literal
	data     string     // the literals, one after the other, in order
	width    int        // how many first bytes find a literal: no more than the shortest has
	filter   []uint64   // of a power of two: two bits of a word for each gram
	shift    uint8      // of the hash, to a word of the filter
	grams    []gramSlot // of a power of two; nil: all literals are in crowd
	// crowd has the literals of which too many share their first bytes; they are
	// not in the table.
	crowd *automaton
	// short has the literals that are too short to share a width with the others.
	short *textIndex
}

// gramCrowd is the most literals that are searched among those with one gram.
const gramCrowd = 4

// A literal of fewer bytes than shortText is rare in rules and frequent in texts.
const (
	shortText = 4
	maxWidth  = 7
)

// wordLiterals is for how many literals one word of the filter is: with two bits
// set in it for each, of a thousand places in a text four pass that should not.
const wordLiterals = 2

type literal struct {
	at     uint32
	size   uint16
	parent int32 // -1: none
	what   tagged
}

// gramSlot is a slot of an open-addressing table that is at most half full.
type gramSlot struct {
	gram     uint64 // the first bytes; 0: empty
	from, to uint32 // literals
}

func gramHash(g uint64) uint64 { return g * 0x9e3779b97f4a7c15 } // 2^64 over the golden ratio

// textFiling is one literal with what is filed under it.
type textFiling struct {
	text string
	nameFiling
}

// textIndex makes the index; list is sorted in place.
func (b *builder) textIndex(list []textFiling, without classSet) *textIndex {
	slices.SortFunc(list, func(a, b textFiling) int {
		if c := strings.Compare(a.text, b.text); c != 0 {
			return c
		}
		return a.compare(&b.nameFiling)
	})
	long, short := make([]textFiling, 0, len(list)), []textFiling(nil)
	for _, f := range list {
		if len(f.text) < shortText {
			short = append(short, f)
		} else {
			long = append(long, f)
		}
	}
	x := b.textPart(long, without)
	if len(short) > 0 {
		x.short = b.textPart(short, without)
	}
	return x
}

func (b *builder) textPart(list []textFiling, without classSet) *textIndex {
	x := &textIndex{width: maxWidth}
	var data strings.Builder
	var group []nameFiling
	for from := 0; from < len(list); {
		to := from
		group = group[:0]
		text := list[from].text
		for ; to < len(list) && list[to].text == text; to++ {
			group = append(group, list[to].nameFiling)
		}
		x.literals = append(x.literals, literal{uint32(data.Len()), uint16(len(text)), -1, b.tagged(group, without)})
		data.WriteString(text)
		x.width = min(x.width, len(text))
		from = to
	}
	x.data, x.literals = data.String(), slices.Clone(x.literals)
	x.link(b)
	return x
}

// gramRun are the literals with one gram.
type gramRun struct {
	gram     uint64
	from, to uint32
}

// link sets parents and makes the table, the filter and the automaton.
func (x *textIndex) link(b *builder) {
	var runs []gramRun
	for i := range x.literals {
		text := x.text(i)
		g := gramAt(text, 0) & mask(x.width)
		if n := len(runs); n == 0 || runs[n-1].gram != g {
			runs = append(runs, gramRun{g, uint32(i), uint32(i)})
		}
		r := &runs[len(runs)-1]
		r.to = uint32(i + 1)
		for p := int32(i) - 1; p >= int32(r.from); p = x.literals[p].parent {
			if strings.HasPrefix(text, x.text(int(p))) {
				x.literals[i].parent = p
				break
			}
		}
	}
	if runs = x.uncrowd(b, runs); len(runs) == 0 {
		return
	}
	size := 8
	for size < 2*len(runs) {
		size *= 2
	}
	x.grams = make([]gramSlot, size)
	x.shift = 64
	for words := 1; words*wordLiterals < len(runs); words *= 2 {
		x.shift--
	}
	x.filter = make([]uint64, 1<<(64-x.shift))
	for _, r := range runs {
		h := gramHash(r.gram)
		x.filter[h>>1>>(x.shift-1)] |= 1<<(h>>12&63) | 1<<(h>>18&63)
		at := x.slot(h)
		for x.grams[at].gram != 0 {
			at = (at + 1) & (len(x.grams) - 1)
		}
		x.grams[at] = gramSlot(r)
	}
}

// slot returns where a search in the table begins: by other bits than the filter's.
func (x *textIndex) slot(hash uint64) int { return int(hash>>24) & (len(x.grams) - 1) }

// uncrowd moves the literals of long runs to the automaton and returns the others:
// none if most are in long runs, as looking twice costs more.
func (x *textIndex) uncrowd(b *builder, runs []gramRun) []gramRun {
	crowded := 0
	for _, r := range runs {
		if r.to-r.from > gramCrowd {
			crowded += int(r.to - r.from)
		}
	}
	all := 2*crowded > len(x.literals)
	var crowd []uint32
	few := runs[:0]
	for _, r := range runs {
		if !all && r.to-r.from <= gramCrowd {
			few = append(few, r)
			continue
		}
		for i := r.from; i < r.to; i++ {
			crowd = append(crowd, i)
		}
	}
	if len(crowd) > 0 {
		x.crowd = newAutomaton(x, crowd, b.pool.leastTagged)
	}
	return few
}

func (x *textIndex) text(i int) string {
	l := &x.literals[i]
	return x.data[l.at : l.at+uint32(l.size)]
}

// gramAt returns the bytes from i on, at least one and at most eight, as a number.
func gramAt(text string, i int) uint64 {
	if n := len(text); n >= 8 {
		from := min(i, n-8)
		return word(text[from:from+8]) >> (8 * uint(i-from) & 63)
	}
	return shortWord(text) >> (8 * uint(8-len(text)+i) & 63)
}

// next returns the longest literal of the table at the first place from on where
// there is one, and the place; -1 where there is none. Its parents are there, too.
func (x *textIndex) next(text string, from int) (longest int32, at int) {
	if x.grams == nil {
		return -1, -1
	}
	m, shift, filter := mask(x.width), x.shift-1, x.filter
	i := from
	for ; i+8 <= len(text); i++ {
		g := word(text[i:i+8]) & m
		h := gramHash(g)
		if w := filter[h>>1>>(shift&63)]; w>>(h>>12&63)&(w>>(h>>18&63))&1 == 1 {
			if l := x.find(g, text[i:]); l >= 0 {
				return l, i
			}
		}
	}
	for rest := gramAt(text, i); i <= len(text)-x.width; i++ {
		g := rest & m
		h := gramHash(g)
		if w := filter[h>>1>>(shift&63)]; w>>(h>>12&63)&(w>>(h>>18&63))&1 == 1 {
			if l := x.find(g, text[i:]); l >= 0 {
				return l, i
			}
		}
		rest >>= 8
	}
	return -1, -1
}

// find returns the longest literal that text begins with among those with the
// gram, -1 for none.
func (x *textIndex) find(g uint64, text string) int32 {
	at := x.slot(gramHash(g))
	for x.grams[at].gram != g {
		if x.grams[at].gram == 0 {
			return -1
		}
		at = (at + 1) & (len(x.grams) - 1)
	}
	// The last literal not above text is the longest that begins it, or lies
	// under all that do.
	from, to := x.grams[at].from, x.grams[at].to
	lo, hi := from, to
	for lo < hi {
		mid := (lo + hi) / 2
		if x.text(int(mid)) <= text {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == from {
		return -1
	}
	for l := int32(lo - 1); l >= 0; l = x.literals[l].parent {
		if strings.HasPrefix(text, x.text(int(l))) {
			return l
		}
	}
	return -1
}

// literalOf returns the longest part of a glob without a star: it stands in
// every text that matches. One with control characters, of which a gram may not
// begin with the lowest, has none.
func literalOf(glob string) string {
	best := ""
	for part := range strings.SplitSeq(glob, "*") {
		if len(part) > len(best) {
			best = part
		}
	}
	if strings.ContainsFunc(best, unicode.IsControl) {
		return ""
	}
	return best
}

// patternLiteral returns a text that stands in every name which a keyword, glob
// or regular expression matches; "" if there is none.
func patternLiteral(n *rules.NamePattern) string {
	switch n.Kind {
	case rules.GlobName:
		return literalOf(n.Name)
	case rules.Regex:
		re, err := syntax.Parse(n.Name, syntax.Perl)
		if err != nil {
			return ""
		}
		return regexLiteral(re)
	default:
		return n.Name
	}
}

// regexLiteral returns the longest text that every match of re has in it.
func regexLiteral(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 {
			return strings.ToLower(foldable(re.Rune))
		}
		return string(re.Rune)
	case syntax.OpCapture, syntax.OpPlus:
		return regexLiteral(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return regexLiteral(re.Sub[0])
		}
	case syntax.OpConcat:
		best := ""
		for _, sub := range re.Sub {
			if l := regexLiteral(sub); len(l) > len(best) {
				best = l
			}
		}
		return best
	}
	return ""
}

// foldable returns the text if all of it is ASCII: other letters fold to more
// than one, and names hold no capitals.
func foldable(list []rune) string {
	for _, r := range list {
		if r >= 0x80 {
			return ""
		}
	}
	return string(list)
}
