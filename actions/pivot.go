package actions

import (
	"fmt"
	"net/netip"
	"slices"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// pivot is by what the table finds an alternative.
type pivot uint8

// The pivots. Each finds its own first match, and the least candidate of all wins.
const (
	byDst pivot = iota // by the destination: its address, or the names that DNS gave it
	bySrc
	byRest // one tree of chains over everything else
	byLog  // none: rules that only set modifiers
)

// maxEpoch bounds the epochs: candidates from classBase on are the numbers of classes.
const (
	classBase = 0xf0000000
	maxEpoch  = classBase>>actionBits - 1
)

// alt is one alternative of one rule that decides.
type alt struct {
	rule     *rules.Rule
	t        term // without what the pivot has asked for
	pivot    pivot
	prefixes []netip.Prefix // the pivot's
	dst      []Match        // of an alternative with names: asked when an address is known
	value    uint32
	entries  [2]*entry // for IPv4 and IPv6, once known; nil: it can't hold there
}

// shape is how a policy is laid out.
type shape struct {
	few    int // an alternative is found by an address when that is in so few intervals
	leaf   int // how many rules may stand in a row
	copies int // how often a split may copy an entry, on average
}

// shapes are tried in order, until the table is within bounds.
var shapes = []shape{{2000, 8, 4}, {2000, 8, 32}, {2000, 32, 8}, {64, 8, 32}, {64, 32, 8}, {4, 32, 32}}

// The bounds of a table, and of the rules that one packet may meet in a row.
// Measured: within them a load stays in seconds.
const (
	maxChains  = 30_000
	maxRules   = 100_000
	maxLongest = 32
	// maxTable is what is refused: it would not load in minutes.
	maxTable = 4 * maxRules
)

var families = [2]Family{IPv4, IPv6}

func familyIndex(f Family) int {
	if f == IPv6 {
		return 1
	}
	return 0
}

// layout is the deciding part of a table.
type layout struct {
	forest forest
	dst    [2]Set // intervals of destinations to candidates and classes
	src    [2]Set // intervals of sources to chains
	rest   [2]string
	here   [2]intervals
	// classes are the numbers of class chains in use, in order.
	classes []string
	number  map[string]uint32
	taken   map[uint32]bool
}

// intervals say which alternatives an address has, without its names; they are
// sorted and don't overlap.
type intervals struct {
	pieces []span
	alts   [][]int
}

// at returns the alternatives of the address, in order.
func (x *intervals) at(a netip.Addr) []int {
	p := addrPoint(a)
	i, found := slices.BinarySearchFunc(x.pieces, p, func(s span, p point) int { return s.lo.compare(p) })
	if !found {
		i--
	}
	if i < 0 || x.pieces[i].hi.compare(p) < 0 {
		return nil
	}
	return x.alts[i]
}

// choosePivots decides by what each alternative is found, and takes that out of
// its conditions.
func choosePivots(alts []*alt, few int) {
	for _, key := range []Key{KeyDst, KeySrc} {
		counts := cutCounts(alts, key)
		for i, a := range alts {
			if a.pivot != byRest || len(a.t.names) > 0 {
				continue
			}
			j := a.prefixCond(key)
			if j < 0 || counts[i] > few && (len(a.t.matches) > 1 || len(a.t.world) > 0) {
				continue
			}
			a.pivot = byDst
			if key == KeySrc {
				a.pivot = bySrc
			}
			a.prefixes = a.t.matches[j].Prefixes
			a.t.matches = slices.Delete(slices.Clone(a.t.matches), j, j+1)
		}
	}
	for _, a := range alts {
		if len(a.t.names) == 0 {
			continue
		}
		a.pivot = byDst
		var rest []Match
		for _, m := range a.t.matches {
			if m.Key == KeyDst {
				a.dst = append(a.dst, m)
			} else {
				rest = append(rest, m)
			}
		}
		a.t.matches = rest
	}
}

// prefixCond returns the condition that the address of the key is in one of some prefixes.
func (a *alt) prefixCond(key Key) int {
	return slices.IndexFunc(a.t.matches, func(m Match) bool { return m.Key == key && m.Op == Is && len(m.Prefixes) > 0 })
}

// cutCounts returns for each alternative into how many intervals the prefixes of
// all cut its own.
func cutCounts(alts []*alt, key Key) []int {
	var cuts [2][]point
	spans := make([][]span, len(alts))
	for i, a := range alts {
		j := a.prefixCond(key)
		if j < 0 || a.pivot != byRest {
			continue
		}
		m := &a.t.matches[j]
		f := familyIndex(addressFamily(m.V6))
		for _, p := range m.Prefixes {
			s := prefixSpan(p)
			spans[i] = append(spans[i], s)
			cuts[f] = append(cuts[f], s.lo, s.hi.next())
		}
	}
	for f := range cuts {
		slices.SortFunc(cuts[f], point.compare)
		cuts[f] = slices.Compact(cuts[f])
	}
	counts := make([]int, len(alts))
	for i, a := range alts {
		if len(spans[i]) == 0 {
			continue
		}
		f := familyIndex(addressFamily(a.t.matches[a.prefixCond(key)].V6))
		for _, s := range spans[i] {
			from, _ := slices.BinarySearchFunc(cuts[f], s.lo, point.compare)
			to := len(cuts[f])
			if end := s.hi.next(); end != (point{}) {
				to, _ = slices.BinarySearchFunc(cuts[f], end, point.compare)
			}
			counts[i] += to - from
		}
	}
	return counts
}

func addressFamily(v6 bool) Family {
	if v6 {
		return IPv6
	}
	return IPv4
}

// class returns the table's number for the class chain: from its name, so that
// other classes keep theirs when one comes or goes.
func (l *layout) class(chain string) uint32 {
	n, ok := l.number[chain]
	if !ok {
		for n = classBase | digestNumber(chain); l.taken[n]; n = classBase | (n + 1) {
		}
		l.taken[n] = true
		l.number[chain] = n
		l.classes = append(l.classes, chain)
	}
	return n
}

// lay lays the alternatives out. They have their pivots, values and entries.
func (b *builder) lay(s shape) *layout {
	alts := b.alts
	l := &layout{number: map[string]uint32{}, taken: map[uint32]bool{}}
	l.forest = forest{leaf: s.leaf, copies: s.copies, start: b.start, have: map[string]bool{}, sets: map[string]bool{}, bound: maxRules}
	named := slices.ContainsFunc(alts, func(a *alt) bool { return len(a.t.names) > 0 })
	for fi, f := range families {
		suffix := []string{"4", "6"}[fi]
		typ := []string{"type ipv4_addr", "type ipv6_addr"}[fi]
		l.dst[fi] = Set{Name: "dpref" + suffix, Type: typ, Map: true, Ranks: true, Ranges: true}
		l.src[fi] = Set{Name: "spref" + suffix, Type: typ, Map: true, Ranges: true}
		var rest []*entry
		for _, a := range alts {
			if e := a.entries[fi]; e != nil && a.pivot == byRest && len(a.t.names) == 0 {
				rest = append(rest, e)
				if len(e.conds) == 0 {
					break
				}
			}
		}
		if len(rest) > 0 {
			l.rest[fi] = l.forest.chain(rest, f, true)
		}
		sweepAlts(alts, byDst, fi, func(piece span, found []int, list []*entry) {
			if named {
				l.here[fi].pieces = append(l.here[fi].pieces, piece)
				l.here[fi].alts = append(l.here[fi].alts, found)
			}
			addElem(&l.dst[fi], piece, f, fmt.Sprintf("%#x", l.value(list, f)))
		})
		sweepAlts(alts, bySrc, fi, func(piece span, _ []int, list []*entry) {
			addElem(&l.src[fi], piece, f, "jump "+l.forest.chain(list, f, true))
		})
	}
	return l
}

// value is what a destination's element holds for the list: its candidate where
// nothing more is asked, else the number of its class.
func (l *layout) value(list []*entry, f Family) uint32 {
	if len(list[0].conds) == 0 {
		return list[0].value
	}
	return l.class(l.forest.chain(list, f, false))
}

// addElem adds the piece to the map, or makes the last element longer.
func addElem(s *Set, piece span, f Family, value string) {
	if n := len(s.Elems); n > 0 && s.Elems[n-1].Value == value && s.last.hi.next() == piece.lo {
		s.last.hi = piece.hi
		s.Elems[n-1].Key = s.last.addrs(f)
		return
	}
	s.last = piece
	s.Elems = append(s.Elems, Elem{Key: piece.addrs(f), Value: value})
}

// sweepAlts calls each for every piece of the pivot's addresses where something
// can hold, with the alternatives up to the first that asks nothing more.
func sweepAlts(alts []*alt, by pivot, fi int, each func(piece span, found []int, list []*entry)) {
	var own []int
	for i, a := range alts {
		if a.pivot == by && a.entries[fi] != nil && len(a.prefixes) > 0 {
			own = append(own, i)
		}
	}
	cuts := edges(len(own), func(k int) []span {
		var spans []span
		for _, p := range alts[own[k]].prefixes {
			if p.Addr().Is4() == (families[fi] == IPv4) {
				spans = append(spans, prefixSpan(p))
			}
		}
		return unite(spans)
	})
	sweep(cuts, lastAddr(families[fi]), func(piece span, ids []int) {
		var found []int
		var list []*entry
		for _, k := range ids {
			e := alts[own[k]].entries[fi]
			found, list = append(found, own[k]), append(list, e)
			if len(e.conds) == 0 {
				break
			}
		}
		each(piece, found, list)
	})
}

// epochs gives each alternative its candidate and each rule of modifiers its
// bound: a new epoch begins where the pivot changes, or what a winner brings.
func (b *builder) epochs(items []item) (last uint32, ok bool) {
	var epoch uint32
	var before string
	for _, it := range items {
		key := fmt.Sprint(byLog)
		if it.alt != nil {
			key = fmt.Sprint(it.alt.pivot, modsKey(it.alt.rule))
		}
		if key != before {
			before = key
			epoch++
		}
		if it.alt != nil {
			it.alt.value = epoch<<actionBits | it.action
		} else {
			b.mods[it.mod].bound = epoch<<actionBits | actionMask
		}
	}
	if epoch >= maxEpoch {
		b.lacks(diag.Error, diag.Span{}, "", "the rules alternate %d times between kinds that are looked up differently; the table takes %d", epoch, maxEpoch)
		return 0, false
	}
	return epoch + 1, true
}

// item is one alternative, or one rule that only sets modifiers, in order.
type item struct {
	alt    *alt
	action uint32
	mod    int
}

// modsKey tells apart what winners bring; "" is nothing.
func modsKey(r *rules.Rule) string {
	m := &r.Do.Mods
	if !anyMods(m) {
		return ""
	}
	if !m.Log.Unknown() {
		return fmt.Sprint(r.Name, *m)
	}
	return fmt.Sprint(*m)
}

// entry returns the alternative as chains of the family ask for it, nil when it
// can't hold there.
func (p *Plan) entry(a *alt, f Family) *entry {
	var conds []Match
	for _, m := range p.conditions(&a.t) {
		switch m.Key {
		case KeyNFProto:
			if m.Set == "" {
				if m.Nums[0].Lo != nfOf(f) {
					return nil
				}
				continue
			}
		case KeySrc, KeyDst, KeyDSCP:
			if m.V6 != (f == IPv6) {
				return nil
			}
		}
		conds = append(conds, m)
	}
	for _, m := range a.dst {
		if m.V6 != (f == IPv6) {
			return nil
		}
	}
	if len(a.prefixes) > 0 && a.prefixes[0].Addr().Is4() != (f == IPv4) {
		return nil
	}
	return newEntry(a.value, conds)
}

func nfOf(f Family) uint32 {
	if f == IPv6 {
		return nfIPv6
	}
	return nfIPv4
}
