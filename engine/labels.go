package engine

import (
	"hash/maphash"
	"math/bits"
)

// maxName is the most bytes of a canonical name (RFC 1035, section 2.3.4); what
// is longer is none, and is not looked up.
const maxName = 253

// seeds key the hashes of names, which come from attackers; one set for a program
// and its successors.
type seeds [7]uint64

func newSeeds() seeds {
	var s seeds
	for i := range s {
		s[i] = maphash.String(maphash.MakeSeed(), "") | 1
	}
	return s
}

// nameHash is a keyed hash of a name: 64 bits that say where it stands in a
// table, and 32 more to compare.
type nameHash struct {
	hash  uint64
	check uint32
}

// window is 32 bytes of a name, from the right; what would be before the name is 0.
const window = 32

// ofName hashes a whole name.
func (s *seeds) ofName(name string) (h nameHash) {
	var list [partsAtOnce]part
	var c cursor
	for c.start(name); !c.done; {
		if n := s.parts(&c, name, &everyName, &list); c.done && n > 0 {
			h = list[n-1].nameHash
		}
	}
	return h
}

// everyName is an index that may hold every name.
var everyName = nameIndex{depths: ^depths(0), filter: []uint64{^uint64(0)}}

// part is a part of a name that begins at a label.
type part struct {
	nameHash
	whole bool // the name itself
}

// partsAtOnce is more labels than most names have.
const partsAtOnce = 6

// cursor says how far a name has been cut into parts.
type cursor struct {
	acc   [2]uint64 // of the windows behind this one
	end   int       // of this window
	ahead uint32    // the bytes of this window that are still to come
	depth int       // labels seen
	done  bool
}

// start makes the zero cursor ready.
func (c *cursor) start(name string) {
	c.end, c.ahead, c.done = len(name), ^uint32(0), len(name) == 0 || len(name) > maxName
}

// parts hashes the next parts of a name, from the shortest to the name itself,
// and returns how many: those that may be in the index, and none for what a name
// with an empty first label is under.
//
// A part is hashed by its windows of 32 bytes, of which the last is masked: no
// branch depends on where the labels end or whether the index has them, as these
// would be mispredicted.
func (s *seeds) parts(c *cursor, name string, x *nameIndex, out *[partsAtOnce]part) int {
	n, depth := 0, c.depth
	for !c.done {
		left := c.end - window
		var w0, w1, w2, w3 uint64
		if len(name) >= 8 {
			w0, w1, w2, w3 = wordAt(name, left), wordAt(name, left+8), wordAt(name, left+16), wordAt(name, left+24)
		} else {
			w3 = shortWord(name)
		}
		dots := (dotsIn(w0) | dotsIn(w1)<<8 | dotsIn(w2)<<16 | dotsIn(w3)<<24) & c.ahead
		// A part ends at each dot, and at the left end of the window if the name
		// begins there or a dot stands before it.
		last := left <= 0 || name[left-1] == '.'
		for dots != 0 || last {
			from := max(0, -left)
			if dots != 0 {
				from = bits.Len32(dots)
				dots &^= 1 << (from - 1)
			} else {
				last = false
			}
			depth++
			whole := left+from <= 0
			if x.depths.has(depth) && left+from != 1 {
				hi, lo := bits.Mul64(w0&after(from)^s[0], w1&after(from-8)^s[1])
				hi2, lo2 := bits.Mul64(w2&after(from-16)^s[2], w3&after(from-24)^s[3])
				size := uint64(c.end - left - from)
				h := min(fold(hi^lo^c.acc[0]^size<<56, hi2^lo2^s[4]), emptySlot-1)
				out[n] = part{nameHash{h, uint32((lo>>32 ^ hi) + (lo2>>32 ^ hi2) + c.acc[1])}, whole}
				n += x.maybe(h)
			}
			if whole {
				c.done = true
				return n
			}
			if n == partsAtOnce {
				// What is to the left of this part is ahead.
				c.ahead, c.depth = 1<<max(0, from-1)-1, depth
				if dots != 0 || last {
					return n
				}
			}
		}
		hi, lo := bits.Mul64(w0^s[0]^c.acc[0], w1^s[1])
		hi2, lo2 := bits.Mul64(w2^s[2]^c.acc[1], w3^s[3])
		c.acc = [2]uint64{fold(hi^lo, hi2^lo2^s[5]), hi + lo2*s[6]}
		c.end, c.ahead = left, 1<<(window-1)-1 // without the dot just before the last window
		if n == partsAtOnce {
			c.depth = depth
			return n
		}
	}
	return n
}

// fold multiplies to 128 bits and joins the halves.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// word returns eight bytes as a number.
func word(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// wordAt returns the eight bytes from at on of a text that has as many; what
// would be before the text is 0.
func wordAt(s string, at int) uint64 {
	from := max(at, 0)
	return word(s[from:from+8]) << (8 * uint(from-at))
}

// shortWord returns a text of fewer than eight bytes as the last of a word.
func shortWord(s string) uint64 {
	w := uint64(0)
	for i := range len(s) {
		w = w>>8 | uint64(s[i])<<56
	}
	return w
}

// mask has the lowest n bytes set, n below 8.
func mask(n int) uint64 { return 1<<(8*n) - 1 }

// after has the bytes of a word from n on set; all if n is negative.
func after(n int) uint64 { return ^uint64(0) << (8 * max(0, n)) }

// dotsIn returns a bit for each of eight bytes that is a dot.
func dotsIn(w uint64) uint32 {
	const low, high, dots = 0x7f7f7f7f7f7f7f7f, 0x8080808080808080, 0x2e2e2e2e2e2e2e2e
	x := w ^ dots
	x = ^(x&low + low | x) & high // the highest bit of each byte that is a dot
	return uint32(x >> 7 * 0x0102040810204080 >> 56)
}
