package analysis

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// axis numbers what a fact can be: the line of all keys, cut where anything that the
// policy compares begins or ends. Between two cuts no rule tells keys apart.
type axis[K any] struct {
	compare func(a, b K) int
	cuts    []K
}

func (a *axis[K]) cut(at ...K) { a.cuts = append(a.cuts, at...) }

// seal ends the gathering of cuts.
func (a *axis[K]) seal() {
	slices.SortFunc(a.cuts, a.compare)
	a.cuts = slices.CompactFunc(a.cuts, func(x, y K) bool { return a.compare(x, y) == 0 })
}

// at returns the number of the piece that begins at the key or contains it.
func (a *axis[K]) at(k K) int32 {
	return int32(sort.Search(len(a.cuts), func(i int) bool { return a.compare(a.cuts[i], k) > 0 })) - 1
}

// appendRun appends the pieces from one cut to before another.
func (a *axis[K]) appendRun(list []span, from, to K) []span {
	if lo, hi := a.at(from), a.at(to)-1; lo <= hi {
		return append(list, span{lo, hi})
	}
	return list
}

// numberAxis is an axis of numbers below limit.
func numberAxis(limit uint64) *axis[uint64] {
	return &axis[uint64]{compare: cmp.Compare[uint64], cuts: []uint64{0, limit}}
}

// endless is a limit for numbers that have none: no measurement comes near it.
const endless = 1 << 63

// address is an IP address as a number, IPv4 before IPv6; the last is beyond all.
type address struct {
	family uint64 // 0, 1; 2 is the end
	hi, lo uint64
}

func (a address) compare(b address) int {
	return cmp.Or(cmp.Compare(a.family, b.family), cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo))
}

func addressAxis() *axis[address] {
	return &axis[address]{compare: address.compare, cuts: []address{{0, 0, 0}, {1, 0, 0}, {2, 0, 0}}}
}

func addressOf(a netip.Addr) address {
	if a.Is4() {
		b := a.As4()
		return address{0, 0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return address{1, binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// addr is the inverse of addressOf.
func (a address) addr() netip.Addr {
	if a.family == 0 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(a.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// within returns the prefix's first address and the one after its last.
func within(p netip.Prefix) (from, to address) {
	from = addressOf(p.Addr())
	to = from
	free := p.Addr().BitLen() - p.Bits()
	switch {
	case p.Addr().Is4():
		if to.lo += 1 << free; to.lo>>32 != 0 {
			to = address{1, 0, 0}
		}
	case free == 128:
		to = address{2, 0, 0}
	case free >= 64:
		if to.hi += 1 << (free - 64); to.hi == 0 {
			to = address{2, 0, 0}
		}
	default:
		if to.lo += 1 << free; to.lo == 0 {
			if to.hi++; to.hi == 0 {
				to = address{2, 0, 0}
			}
		}
	}
	return from, to
}

// Names are ordered by their labels from the last one on, each of which is ended by
// labelEnd: what lies under a name stands behind it in one run.
const (
	labelEnd   = "\x01"
	afterLabel = "\x02" // no label goes on with it: what is under a name ends before it
	afterKey   = "\x00" // a key with it is the next one after the key
	beyond     = "\xff" // after all names
)

func nameAxis() *axis[string] {
	return &axis[string]{compare: strings.Compare, cuts: []string{"", beyond}}
}

func nameKey(name string) string {
	labels := strings.Split(name, ".")
	slices.Reverse(labels)
	return strings.Join(labels, labelEnd) + labelEnd
}

// nameOf is the inverse of nameKey; false: no name has the key.
func nameOf(key string) (string, bool) {
	rest, ok := strings.CutSuffix(key, labelEnd)
	if !ok {
		return "", false
	}
	labels := strings.Split(rest, labelEnd)
	slices.Reverse(labels)
	return strings.Join(labels, "."), true
}

// under returns where the names below one begin and end.
func under(key string) (from, to string) {
	return key + afterKey, strings.TrimSuffix(key, labelEnd) + afterLabel
}

// nameRun returns the keys from and to that the pattern matches, for globs that it
// may match; for what can stand anywhere all.
func nameRun(p *rules.NamePattern) (from, to string) {
	switch p.Kind {
	case rules.Exact:
		key := nameKey(p.Name)
		return key, key + afterKey
	case rules.Suffix:
		key := nameKey(p.Name)
		_, to = under(key)
		return key, to
	case rules.Subdomain:
		return under(nameKey(p.Name))
	case rules.GlobName:
		star := strings.LastIndexByte(p.Name, '*')
		if _, plain, ok := strings.Cut(p.Name[star:], "."); ok {
			return under(nameKey(plain))
		}
	}
	return "", beyond
}

// exact reports whether the pattern is told by the keys that it matches.
func exact(p *rules.NamePattern) bool { return p.Kind <= rules.Subdomain }
