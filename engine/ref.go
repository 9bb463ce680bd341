package engine

import "slices"

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
	refOne   ref = iota << 30 // one id
	refList                   // the pool holds a count, then ids in order
	refNode                   // a node
	refMany                   // the pool holds a count, then refs
	refForm  = 3 << 30
	refNone  = refList // the pool begins with 0: the empty list
	refLimit = 1 << 30
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
