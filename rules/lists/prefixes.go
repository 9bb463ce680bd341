package lists

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// wide is an address as a number; an IPv4 address is in the lowest 32 bits.
type wide struct{ hi, lo uint64 }

func toWide(a netip.Addr) wide {
	if a.Is4() {
		b := a.As4()
		return wide{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return wide{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (w wide) addr(width int) netip.Addr {
	if width == 32 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(w.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], w.hi)
	binary.BigEndian.PutUint64(b[8:], w.lo)
	return netip.AddrFrom16(b)
}

func (w wide) less(v wide) bool { return w.hi < v.hi || w.hi == v.hi && w.lo < v.lo }

// add returns w+v modulo 2^128.
func (w wide) add(v wide) wide {
	lo, carry := bits.Add64(w.lo, v.lo, 0)
	hi, _ := bits.Add64(w.hi, v.hi, carry)
	return wide{hi, lo}
}

// ones returns the number whose lowest n bits are set.
func ones(n int) wide {
	switch {
	case n >= 128:
		return wide{^uint64(0), ^uint64(0)}
	case n >= 64:
		return wide{1<<(n-64) - 1, ^uint64(0)}
	default:
		return wide{0, 1<<n - 1}
	}
}

func (w wide) trailingZeros() int {
	if w.lo != 0 {
		return bits.TrailingZeros64(w.lo)
	}
	return 64 + bits.TrailingZeros64(w.hi)
}

// addrRange is an inclusive range of addresses of one family; width is 32 or 128.
type addrRange struct {
	lo, hi wide
	width  int
}

func prefixRange(p netip.Prefix) addrRange {
	lo := toWide(p.Addr())
	return addrRange{lo, lo.add(ones(p.Addr().BitLen() - p.Bits())), p.Addr().BitLen()}
}

// prefixes calls yield with the fewest prefixes that make up the range, in
// order; at most twice its width.
func (r addrRange) prefixes(yield func(netip.Prefix)) {
	for lo := r.lo; ; {
		host := min(lo.trailingZeros(), r.width)
		for host > 0 && r.hi.less(lo.add(ones(host))) {
			host--
		}
		yield(netip.PrefixFrom(lo.addr(r.width), r.width-host))
		last := lo.add(ones(host))
		if !last.less(r.hi) {
			return
		}
		lo = last.add(wide{0, 1})
	}
}

// joinPrefixes sorts prefixes into the disjoint ranges of both families, with
// adjacent ones joined; IPv4 first.
func joinPrefixes(list []netip.Prefix) []addrRange {
	slices.SortFunc(list, netip.Prefix.Compare)
	var ranges []addrRange
	for _, p := range list {
		r := prefixRange(p)
		if len(ranges) > 0 {
			last := &ranges[len(ranges)-1]
			touches := last.hi == ones(last.width) || !last.hi.add(wide{0, 1}).less(r.lo)
			if last.width == r.width && touches {
				if last.hi.less(r.hi) {
					last.hi = r.hi
				}
				continue
			}
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// minimalPrefixes returns the fewest prefixes that hold the same addresses, sorted.
func minimalPrefixes(list []netip.Prefix) []netip.Prefix {
	if len(list) == 0 {
		return nil
	}
	out := make([]netip.Prefix, 0, len(list)) // never more than there were
	for _, r := range joinPrefixes(list) {
		r.prefixes(func(p netip.Prefix) { out = append(out, p) })
	}
	return slices.Clip(out)
}

// complement returns the prefixes of all addresses of both families that list
// does not hold.
func complement(list []netip.Prefix) []netip.Prefix {
	ranges := joinPrefixes(slices.Clone(list))
	var out []netip.Prefix
	for _, width := range []int{32, 128} {
		next, full := wide{}, false
		for _, r := range ranges {
			if r.width != width {
				continue
			}
			if next.less(r.lo) {
				before := r.lo.add(wide{^uint64(0), ^uint64(0)})
				addrRange{next, before, width}.prefixes(func(p netip.Prefix) { out = append(out, p) })
			}
			next, full = r.hi.add(wide{0, 1}), r.hi == ones(width)
		}
		if !full {
			addrRange{next, ones(width), width}.prefixes(func(p netip.Prefix) { out = append(out, p) })
		}
	}
	return out
}
