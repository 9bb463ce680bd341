package engine

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// prefixIndex files rules under address prefixes of one family. Two prefixes
// are disjoint or one lies in the other, so that all which hold an address are
// the longest one and its chain of parents.
type prefixIndex struct {
	v4      bounds   // IPv4: the first addresses of the elementary intervals
	v6      []addr6  // IPv6: the same
	longest []uint32 // the longest prefix around an interval, as an index into entries; none
	entries []prefixEntry
}

type addr6 struct{ hi, lo uint64 }

type prefixEntry struct {
	ref    ref
	parent uint32 // the next shorter prefix around this one, none
	least  id     // of this and all its parents
}

func toAddr6(a netip.Addr) addr6 {
	b := a.As16()
	return addr6{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func toAddr4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
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

// newPrefixIndex makes the index of the given prefixes, which are masked, unique
// and of one family, with what is filed under each.
func newPrefixIndex(list []netip.Prefix, refs []ref, least func(ref) id) *prefixIndex {
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(list[a].Addr().Compare(list[b].Addr()), cmp.Compare(list[a].Bits(), list[b].Bits()))
	})
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
	for _, i := range order {
		p := list[i]
		closeBefore(p.Addr())
		e := prefixEntry{ref: refs[i], parent: none, least: least(refs[i])}
		if len(open) > 0 {
			e.parent = open[len(open)-1].entry
			e.least = min(e.least, x.entries[e.parent].least)
		}
		at := uint32(len(x.entries))
		x.entries = append(x.entries, e)
		put(p.Addr(), at)
		open = append(open, around{at, lastOf(p)})
	}
	closeBefore(netip.Addr{})
	x.longest = make([]uint32, len(marks))
	starts := make([]uint32, 0, len(marks))
	for i, m := range marks {
		x.longest[i] = m.entry
		if m.at.Is4() {
			starts = append(starts, toAddr4(m.at))
		} else {
			x.v6 = append(x.v6, toAddr6(m.at))
		}
	}
	x.v6 = slices.Clip(x.v6)
	if x.v6 == nil {
		x.v4 = newBounds(starts)
	}
	return x
}

// find returns the longest prefix around a, as an index into entries, or none.
func (x *prefixIndex) find(a netip.Addr) uint32 {
	if a.Is4() {
		return x.longest[x.v4.find(toAddr4(a))]
	}
	k := toAddr6(a)
	lo, hi := 0, len(x.v6)
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if m := &x.v6[mid]; m.hi < k.hi || m.hi == k.hi && m.lo <= k.lo {
			lo = mid
		} else {
			hi = mid
		}
	}
	return x.longest[lo]
}
