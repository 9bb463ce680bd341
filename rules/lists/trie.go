package lists

import (
	"encoding/binary"
	"math/bits"
)

// srsTrie is the succinct trie in which an .srs file keeps names. Its nodes are
// numbered level by level, from the root, 0. The bitmap goes through them in this
// order: a 0 for every child of a node, a 1 at the node's end. So the n-th 0 is
// the child n+1, whose label is labels[n]. A leaf bit marks where a key ends.
//
// It is walked as it stands: tables of its nodes would take many times the room.
type srsTrie struct {
	leaves, bitmap []byte // 64-bit words, big endian
	labels         []byte
	ends           []trieMark // where every 64th node ends
}

// trieMark is a word of the bitmap, and how many nodes end in the words before it.
type trieMark struct{ word, before int32 }

// maxKey bounds a stored name, in bytes: a legal name, its mark and a dot, and
// as much again for names that are not in ASCII.
const maxKey = 512

func word(b []byte, i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }

// index finds the ends of the nodes; false if there are not as many nodes as
// labels.
func (t *srsTrie) index() bool {
	nodes, last := 0, 0
	for w := range len(t.bitmap) / 8 {
		n := bits.OnesCount64(word(t.bitmap, w))
		if n == 0 {
			continue
		}
		if (nodes+63)/64 < (nodes+n+63)/64 {
			t.ends = append(t.ends, trieMark{int32(w), int32(nodes)})
		}
		nodes += n
		last = 64*w + 63 - bits.LeadingZeros64(word(t.bitmap, w))
	}
	return nodes == len(t.labels)+1 && last+1-nodes == len(t.labels)
}

// first returns where in the bitmap the children of a node begin that is not the
// root: behind the end of the node before it.
func (t *srsTrie) first(node int) int {
	mark := t.ends[(node-1)/64]
	w, skip := int(mark.word), node-1-int(mark.before)
	for {
		bitsLeft := word(t.bitmap, w)
		n := bits.OnesCount64(bitsLeft)
		if skip >= n {
			skip -= n
			w++
			continue
		}
		for range skip {
			bitsLeft &= bitsLeft - 1
		}
		return 64*w + bits.TrailingZeros64(bitsLeft) + 1
	}
}

func (t *srsTrie) end(pos int) bool { return word(t.bitmap, pos/64)>>(pos%64)&1 == 1 }

func (t *srsTrie) leaf(node int) bool {
	return node/64 < len(t.leaves)/8 && word(t.leaves, node/64)>>(node%64)&1 == 1
}

// keys yields every key but the empty one, until yield returns false; a key is
// only good until then. It reports whether there are keys over maxKey, which it
// leaves out. Every child has one parent, so that a walk from the root ends.
func (t *srsTrie) keys(yield func(key []byte) bool) (long bool) {
	type step struct{ node, pos int }
	var key []byte
	for path := []step{{}}; len(path) > 0; {
		top := &path[len(path)-1]
		key = key[:len(path)-1]
		if t.end(top.pos) {
			path = path[:len(path)-1]
			continue
		}
		label := top.pos - top.node
		top.pos++
		key = append(key, t.labels[label])
		child := label + 1
		if t.leaf(child) && !yield(key) {
			return long
		}
		at := t.first(child)
		if len(key) < maxKey {
			path = append(path, step{child, at})
		} else if !t.end(at) {
			long = true
		}
	}
	return long
}
