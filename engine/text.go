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
	data     string // the literals, one after the other, in order
	filter   []uint64
	shift    uint8 // of the hash, to a bit of the filter
	grams    []gramSlot
	mask     uint32 // of grams
	short    [gramSize]bool
	// crowd has the literals of which too many share their first bytes; they are
	// not in the table.
	crowd *automaton
}

// gramCrowd is the most literals that are searched among those with one gram.
const gramCrowd = 16

// gramSize is how many first bytes find a literal; shorter ones are found by all they have.
const gramSize = 4

type literal struct {
	at     uint32
	size   uint16
	parent int32 // -1: none
	what   tagged
}

// gramSlot is a slot of an open-addressing table that is at most half full.
type gramSlot struct {
	gram     uint32 // 0: empty
	from, to uint32 // literals
}

// gram packs the first bytes of s; a shorter text has its length on top, where
// no byte of a text is so low.
func gram(s string) uint32 {
	switch len(s) {
	case 1:
		return uint32(s[0]) | 1<<24
	case 2:
		return uint32(s[0]) | uint32(s[1])<<8 | 2<<24
	case 3:
		return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | 3<<24
	default:
		return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
	}
}

func gramHash(g uint32) uint32 { return g * 0x9e3779b1 } // 2^32 over the golden ratio

// textFiling is one literal with what is filed under it.
type textFiling struct {
	text string
	nameFiling
}

func (b *builder) textIndex(list []textFiling, without classSet) *textIndex {
	slices.SortFunc(list, func(a, b textFiling) int {
		if c := strings.Compare(a.text, b.text); c != 0 {
			return c
		}
		return a.compare(&b.nameFiling)
	})
	x := &textIndex{}
	var data strings.Builder
	var group []nameFiling
	for from := 0; from < len(list); {
		to := from
		group = group[:0]
		for ; to < len(list) && list[to].text == list[from].text; to++ {
			group = append(group, list[to].nameFiling)
		}
		l := literal{at: uint32(data.Len()), size: uint16(len(list[from].text)), parent: -1, what: b.tagged(group, without)}
		data.WriteString(list[from].text)
		x.literals = append(x.literals, l)
		from = to
	}
	x.data, x.literals = data.String(), slices.Clone(x.literals)
	x.link(b)
	return x
}

// gramRun are the literals with one gram.
type gramRun struct{ gram, from, to uint32 }

// link sets parents and makes the table, the filter and the automaton.
func (x *textIndex) link(b *builder) {
	var runs []gramRun
	for i := range x.literals {
		text := x.text(i)
		g := gram(text)
		if n := len(runs); len(text) < gramSize || n == 0 || runs[n-1].gram != g {
			runs = append(runs, gramRun{g, uint32(i), uint32(i)})
		}
		if len(text) < gramSize {
			x.short[len(text)] = true
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
	x.grams, x.mask = make([]gramSlot, size), uint32(size-1)
	x.shift = 32 - 6
	for bits := 64; bits < 16*len(runs) && x.shift > 1; bits *= 2 {
		x.shift--
	}
	x.filter = make([]uint64, max(1, 1<<(32-x.shift)/64))
	for _, r := range runs {
		h := gramHash(r.gram)
		bit := h >> x.shift
		x.filter[bit/64] |= 1 << (bit % 64)
		at := h & x.mask
		for x.grams[at].gram != 0 {
			at = (at + 1) & x.mask
		}
		x.grams[at] = gramSlot(r)
	}
}

// uncrowd moves the literals of long runs to the automaton and returns the others.
func (x *textIndex) uncrowd(b *builder, runs []gramRun) []gramRun {
	var crowd []uint32
	few := runs[:0]
	for _, r := range runs {
		if r.to-r.from <= gramCrowd {
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

// may reports whether literals may begin with the gram.
func (x *textIndex) may(g uint32) bool {
	bit := gramHash(g) >> x.shift
	return x.filter[bit/64]>>(bit%64)&1 == 1
}

// find returns the longest literal that text begins with among those with the
// gram, -1 for none. Its parents begin it too.
func (x *textIndex) find(g uint32, text string) int32 {
	at := gramHash(g) & x.mask
	for x.grams[at].gram != g {
		if x.grams[at].gram == 0 {
			return -1
		}
		at = (at + 1) & x.mask
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
// every text that matches. Control characters, which grams reserve, have none.
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
