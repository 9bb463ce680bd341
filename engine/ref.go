package engine

import (
	"cmp"
	"fmt"
	"slices"
)

// An id is a rule's place in its layer's order: the lower goes first.
type id = uint32

// none is no id, and above all.
const none = ^id(0)

// crowd is the length up to which a list of candidates is scanned; a longer one
// gets a node of its own, which tells its rules apart by what else they ask for.
const crowd = 16

// ref is what an index holds for a key: the rules filed there. Its two highest
// bits say which form the others have.
type ref uint32

const (
	refOne  ref = iota << 30 // one id
	refList                  // the pool holds a count, then ids in order
	refNode                  // a node
	refMany                  // the pool holds a count, then refs
	refForm = 3 << 30
	refNone = refList // the pool begins with 0: the empty list
)

// pool keeps what refs lead to, in as few pieces as possible.
type pool struct {
	words []uint32
	nodes []*node
}

func (p *pool) list(r ref) []uint32 {
	at := uint32(r &^ refForm)
	n := p.words[at]
	return p.words[at+1 : at+1+n]
}

// least returns the first id below r.
func (p *pool) least(r ref) id {
	switch r & refForm {
	case refOne:
		return id(r)
	case refNode:
		return p.nodes[r&^refForm].least
	case refList:
		if l := p.list(r); len(l) > 0 {
			return l[0]
		}
		return none
	default:
		least := none
		for _, x := range p.list(r) {
			least = min(least, p.least(ref(x)))
		}
		return least
	}
}

func (p *pool) add(form ref, list []uint32) ref {
	at := len(p.words)
	p.words = append(p.words, uint32(len(list)))
	p.words = append(p.words, list...)
	return form | ref(at)
}

// filing is what one key of an index has gathered: ids, and refs that several
// keys share.
type filing struct {
	ids  []id
	refs []ref
}

// ref makes the filing's ref; without are the classes that need not be looked at below.
func (b *builder) ref(f filing, without classSet) ref {
	if len(f.refs) > crowd {
		return b.spread(f, without)
	}
	slices.Sort(f.ids)
	ids := slices.Compact(f.ids)
	b.crowded = b.crowded || len(ids) > shortList
	var own ref
	switch {
	case len(ids) == 0:
		own = refNone
	case len(ids) == 1:
		own = refOne | ref(ids[0])
	case len(ids) <= crowd:
		own = b.pool.add(refList, ids)
	default:
		b.pool.nodes = append(b.pool.nodes, nil)
		b.heads = append(b.heads, headOf(ids))
		at := len(b.pool.nodes) - 1
		open := b.open
		b.pool.nodes[at] = b.node(ids, without, open)
		b.open = open
		own = refNode | ref(at)
	}
	switch {
	case len(f.refs) == 0:
		return own
	case len(ids) == 0 && len(f.refs) == 1:
		return f.refs[0]
	}
	many := make([]uint32, 0, len(f.refs)+1)
	for _, r := range f.refs {
		many = append(many, uint32(r))
	}
	slices.Sort(many)
	many = slices.Compact(many)
	if len(ids) > 0 {
		many = append(many, uint32(own))
	}
	return b.pool.add(refMany, many)
}

// spread makes the ref of a key that many different lists share: their rules are
// filed as if each list were short, so that they get a node which tells them
// apart. Keys that the same lists share get the same ref.
func (b *builder) spread(f filing, without classSet) ref {
	slices.Sort(f.refs)
	refs := slices.Compact(f.refs)
	key := fmt.Sprint(without, b.open, f.ids, refs)
	if r, ok := b.spreads[key]; ok {
		return r
	}
	var out filing
	out.ids = slices.Clone(f.ids)
	for _, r := range refs {
		switch r & refForm {
		case refOne:
			out.ids = append(out.ids, id(r))
		case refList:
			out.ids = append(out.ids, b.pool.list(r)...)
		default: // many rules of one list: they have a node already
			out.refs = append(out.refs, r)
		}
	}
	slices.SortFunc(out.refs, func(x, y ref) int { return cmp.Compare(b.pool.least(x), b.pool.least(y)) })
	own := b.ref(filing{ids: out.ids}, without)
	if len(out.refs) > 0 {
		list := []uint32{uint32(own)}
		for _, r := range out.refs {
			list = append(list, uint32(r))
		}
		own = b.pool.add(refMany, list)
	}
	b.spreads[key] = own
	return own
}
