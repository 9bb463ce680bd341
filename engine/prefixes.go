package engine

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// prefixIndex files rules under address prefixes of one family. Two prefixes
// are disjoint or one lies in the other, so that all which hold an address are
// the longest one and its chain of parents.
type prefixIndex struct {
	// The first addresses of the elementary intervals: of IPv4; of IPv6, the upper
	// halves where no prefix is longer than they are; else all of them.
	// Their values are the longest prefix around, as an index into entries, or none.
	v4      bounds[uint32]
	v6      bounds[uint64]
	v6long  []bound6
	entries []prefixEntry
	// firstAt has, by entry, where in first the first rules of it and its parents
	// stand, or none; it is nil where no entry has many.
	firstAt []uint32
	first   []early
}

type addr6 struct{ hi, lo uint64 }

type bound6 struct {
	at    addr6
	value uint32
}

type prefixEntry struct {
	ref    ref
	parent uint32 // the next shorter prefix around this one, none
	least  id     // of this and all its parents
	record record // a copy of the rule's, if ref is one, as in a nameSlot
}

func toAddr6(a netip.Addr) addr6 {
	b := a.As16()
	return addr6{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func toAddr4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// LastAddr returns the last address of a prefix.
func LastAddr(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		for i := p.Bits(); i < 32; i++ {
			b[i/8] |= 0x80 >> (i % 8)
		}
		return netip.AddrFrom4(b)
	}
	b := p.Addr().As16()
	for i := p.Bits(); i < 128; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom16(b)
}

// newPrefixIndex makes the index of the given prefixes, which are masked, unique,
// of one family, and in order (by address, then from short to long), with what
// is filed under each.
func newPrefixIndex(list []netip.Prefix, refs []ref, b *builder) *prefixIndex {
	x := &prefixIndex{entries: make([]prefixEntry, 0, len(list))}
	type mark struct {
		at    netip.Addr
		entry uint32
	}
	var marks []mark
	type around struct {
		entry uint32
		last  netip.Addr
	}
	var open []around // the prefixes around the current one, outermost first
	put := func(at netip.Addr, entry uint32) {
		if n := len(marks); n > 0 && marks[n-1].at == at {
			marks[n-1].entry = entry
			return
		}
		marks = append(marks, mark{at, entry})
	}
	// closeBefore ends the prefixes that end before a; the zero Addr ends all.
	closeBefore := func(a netip.Addr) {
		for len(open) > 0 && (!a.IsValid() || open[len(open)-1].last.Less(a)) {
			next := open[len(open)-1].last.Next()
			open = open[:len(open)-1]
			outer := none
			if len(open) > 0 {
				outer = open[len(open)-1].entry
			}
			if next.IsValid() {
				put(next, outer)
			}
		}
	}
	zero := netip.IPv6Unspecified()
	if len(list) > 0 && list[0].Addr().Is4() {
		zero = netip.IPv4Unspecified()
	}
	put(zero, none)
	for i, p := range list {
		closeBefore(p.Addr())
		e := prefixEntry{ref: refs[i], parent: none, least: b.pool.least(refs[i])}
		if refs[i]&refForm == refOne && b.records != nil {
			e.record = b.records[refs[i]]
		}
		if len(open) > 0 {
			e.parent = open[len(open)-1].entry
			e.least = min(e.least, x.entries[e.parent].least)
		}
		at := uint32(len(x.entries))
		x.entries = append(x.entries, e)
		put(p.Addr(), at)
		open = append(open, around{at, LastAddr(p)})
	}
	closeBefore(netip.Addr{})
	var v4 []bound[uint32]
	var v6 []bound[uint64]
	short := true // no IPv6 prefix is longer than 64
	for _, m := range marks {
		if m.at.Is4() {
			v4 = append(v4, bound[uint32]{toAddr4(m.at), m.entry})
			continue
		}
		a := toAddr6(m.at)
		v6, x.v6long = append(v6, bound[uint64]{a.hi, m.entry}), append(x.v6long, bound6{a, m.entry})
		short = short && a.lo == 0
	}
	switch {
	case v4 != nil:
		x.v4 = newBounds(v4)
	case short:
		x.v6, x.v6long = newBounds(v6), nil
	default:
		x.v6long = slices.Clone(x.v6long)
	}
	return x
}

// find returns the longest prefix around a, as an index into entries, or none.
func (x *prefixIndex) find(a netip.Addr) uint32 {
	if a.Is4() {
		return x.v4.find(toAddr4(a))
	}
	k := toAddr6(a)
	if x.v6long == nil {
		return x.v6.find(k.hi)
	}
	lo, hi := 0, len(x.v6long)
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if m := &x.v6long[mid].at; m.hi < k.hi || m.hi == k.hi && m.lo <= k.lo {
			lo = mid
		} else {
			hi = mid
		}
	}
	return x.v6long[lo].value
}
