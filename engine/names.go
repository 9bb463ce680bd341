package engine

import (
	"cmp"
	"math/bits"
	"slices"

	"netpolicy.dev/netpolicy/rules"
)

// nameIndex files rules under names: exact ones, and suffixes, which match what
// is under them. It is an open-addressing table in the order of the hashes, so
// that a lookup of a name that is not there stops at the first higher hash. The
// hash is keyed: names come from attackers.
type nameIndex struct {
	slots  []nameSlot // home slots, and a tail for those that did not fit
	homes  uint64
	depths depths
	// filter has two bits set in one word for each name: most parts of most names
	// are under no rule, and need not be looked for.
	filter []uint64
}

// filterNames is how many names a word of the filter is for: with two bits of 64
// for each, one part in twenty passes that should not.
const filterNames = 8

// maybe returns 1 if the filter has the bits of a hash, else 0.
func (x *nameIndex) maybe(hash uint64) int {
	at, _ := bits.Mul64(hash, uint64(len(x.filter)))
	w := x.filter[at]
	return int(w >> (hash & 63) & (w >> (hash >> 6 & 63)) & 1)
}

// depths has bit n for every number n of labels that some name has; the last is
// for all from there on.
type depths uint64

const deepest = 63

func (d depths) with(n int) depths { return d | 1<<min(n, deepest) }
func (d depths) has(n int) bool    { return d>>min(n, deepest)&1 == 1 }

// nameSlot is one name. hash and check are all that is compared: 96 bits of
// keyed hash, so that a wrong match is not to be expected in the life of all
// routers there are.
type nameSlot struct {
	hash  uint64 // emptySlot: none
	check uint32
	what  tagged
	// record is a copy of the rule's, if there is but one: where tables are larger
	// than caches it would be the next miss. Programs with more than one layer don't
	// read it, as they change records: see differ.patched.
	record record
}

const emptySlot = ^uint64(0)

// homesPercent is how many home slots there are for 100 names.
const homesPercent = 135

// tag says how and for which of the name fields a rule is filed: a nameKind and
// a field's place in facts.modes.
type tag uint8

const (
	kindExact  uint8 = iota // the whole name
	kindSuffix              // the name and what is under it
	kindUnder               // what is under the name
	kindText                // found in the name, and that is all: see textIndex
	kindVerify              // found in the name: the rule has to be evaluated
)

func newTag(kind uint8, field int) tag { return tag(kind)<<2 | tag(field) }

func (t tag) kind() uint8    { return uint8(t >> 2) }
func (t tag) field() fields3 { return 1 << (t & 3) }

// fields3 is a set of name fields, bit i for facts.modes[i].
type fields3 uint8

// tagged is one id with its tag (5 bits), or, with the highest bit, the place in
// the pool of: a count, then for each tag the tag and the ref of what is filed.
type tagged uint32

const (
	taggedMany tagged = 1 << 31
	tagBits           = 5
)

// nameFiling is one name with one thing filed under it.
type nameFiling struct {
	hash   uint64
	check  uint32
	tag    tag
	shared bool   // what is a ref
	what   uint32 // an id or a ref
}

func (a *nameFiling) compare(b *nameFiling) int {
	switch {
	case a.hash != b.hash:
		return cmp.Compare(a.hash, b.hash)
	case a.check != b.check:
		return cmp.Compare(a.check, b.check)
	case a.tag != b.tag:
		return cmp.Compare(a.tag, b.tag)
	default:
		return cmp.Compare(a.what, b.what)
	}
}

func labels(name string) int {
	n := 1
	for i := range len(name) {
		if name[i] == '.' {
			n++
		}
	}
	return n
}

// nameIndex makes the index; list is sorted in place.
func (b *builder) nameIndex(list []nameFiling, depths depths, without classSet) *nameIndex {
	slices.SortFunc(list, func(a, b nameFiling) int { return a.compare(&b) })
	names := 0
	for i := range list {
		if i == 0 || list[i].hash != list[i-1].hash || list[i].check != list[i-1].check {
			names++
		}
	}
	x := &nameIndex{homes: uint64(names)*homesPercent/100 + 1, depths: depths, filter: make([]uint64, names/filterNames+1)}
	slots := make([]nameSlot, 0, x.homes+64)
	for from := 0; from < len(list); {
		to := from + 1
		for to < len(list) && list[to].hash == list[from].hash && list[to].check == list[from].check {
			to++
		}
		hash := list[from].hash
		word, _ := bits.Mul64(hash, uint64(len(x.filter)))
		x.filter[word] |= 1<<(hash&63) | 1<<(hash>>6&63)
		home, _ := bits.Mul64(hash, x.homes)
		for uint64(len(slots)) < home {
			slots = append(slots, nameSlot{hash: emptySlot})
		}
		slot := nameSlot{hash: hash, check: list[from].check, what: b.tagged(list[from:to], without)}
		if slot.what&taggedMany == 0 && b.records != nil {
			slot.record = b.records[slot.what>>tagBits]
		}
		slots = append(slots, slot)
		from = to
	}
	for uint64(len(slots)) < x.homes {
		slots = append(slots, nameSlot{hash: emptySlot})
	}
	x.slots = slices.Clone(append(slots, nameSlot{hash: emptySlot}))
	return x
}

// tagged makes what a name's slot holds from all that is filed under it, in the
// order of tags and ids.
func (b *builder) tagged(list []nameFiling, without classSet) tagged {
	if len(list) == 1 && !list[0].shared {
		return tagged(list[0].what<<tagBits | uint32(list[0].tag))
	}
	b.words = b.words[:0]
	for from := 0; from < len(list); {
		to := from
		var f filing
		for ; to < len(list) && list[to].tag == list[from].tag; to++ {
			if list[to].shared {
				f.refs = append(f.refs, ref(list[to].what))
			} else {
				f.ids = append(f.ids, list[to].what)
			}
		}
		words := b.words
		b.words = nil // b.ref may come back here for a node of its own
		r := b.ref(f, without)
		b.words = append(words, uint32(list[from].tag), uint32(r))
		from = to
	}
	if len(b.words) != 2 {
		return b.groups(b.words)
	}
	// The names of a set share one group.
	key := [2]uint32{b.words[0], b.words[1]}
	t, ok := b.single[key]
	if !ok {
		t = b.groups(b.words)
		b.single[key] = t
	}
	return t
}

func (b *builder) groups(words []uint32) tagged {
	at := len(b.pool.words)
	b.pool.words = append(append(b.pool.words, uint32(len(words)/2)), words...)
	return taggedMany | tagged(at)
}

// home returns the slot at which a search for the hash begins.
func (x *nameIndex) home(hash uint64) uint64 {
	at, _ := bits.Mul64(hash, x.homes)
	return at
}

// look returns the slot of a name, or nil; home is its home slot.
func (x *nameIndex) look(key nameHash, home uint64) *nameSlot {
	for x.slots[home].hash < key.hash {
		home++
	}
	for ; x.slots[home].hash == key.hash; home++ {
		if n := &x.slots[home]; n.check == key.check {
			return n
		}
	}
	return nil
}

// nameKindOf is the table's part of a name pattern: the kind, or false for
// those that a textIndex holds.
func nameKindOf(n *rules.NamePattern) (uint8, bool) {
	switch n.Kind {
	case rules.Exact:
		return kindExact, true
	case rules.Suffix:
		return kindSuffix, true
	case rules.Subdomain:
		return kindUnder, true
	default:
		return 0, false
	}
}
