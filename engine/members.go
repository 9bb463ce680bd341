package engine

import (
	"net/netip"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// listKey tells the lists of predicates apart: predicates over one set have one list.
type listKey struct {
	// The first element: one of these is set.
	names    *rules.NamePattern
	prefixes *netip.Prefix
	globs    *rules.Glob
	ports    *rules.PortRange
	macs     *flow.MAC
	numbers  *uint32
	size     int
}

type fieldList struct {
	listKey
	field rules.Field
}

func listKeyOf(p *rules.Pred) listKey {
	switch {
	case len(p.Names) > 0:
		return listKey{names: &p.Names[0], size: len(p.Names)}
	case len(p.Prefixes) > 0:
		return listKey{prefixes: &p.Prefixes[0], size: len(p.Prefixes)}
	case len(p.Globs) > 0:
		return listKey{globs: &p.Globs[0], size: len(p.Globs)}
	case len(p.Ports) > 0:
		return listKey{ports: &p.Ports[0], size: len(p.Ports)}
	case len(p.MACs) > 0:
		return listKey{macs: &p.MACs[0], size: len(p.MACs)}
	case len(p.Numbers) > 0:
		return listKey{numbers: &p.Numbers[0], size: len(p.Numbers)}
	default:
		return listKey{}
	}
}

// indexedList is from how many elements on a list gets an index for when its
// predicate is evaluated by itself: a scan of so many takes as long as a lookup.
const indexedList = 16

// members answers whether a name, address or string is in a long list: an index
// with the list's elements and, in place of a rule, the id 0.
type members struct {
	index *index
	pool  pool
	// loose are the elements that no index can hold.
	loose []rules.NamePattern
	globs []rules.Glob
}

// lists are the members of all long lists of a policy's names, prefixes and globs.
type lists map[listKey]*members

// add makes the indexes of the long lists in e that have none yet.
func (out lists) add(e *rules.Expr, s seeds) {
	for i := range e.Kids {
		out.add(&e.Kids[i], s)
	}
	p := &e.Pred
	if e.Op != rules.OpPred || len(p.Names)+len(p.Prefixes)+len(p.Globs) < indexedList {
		return
	}
	if key := listKeyOf(p); out[key] == nil {
		out[key] = newMembers(p, s)
	}
}

func newMembers(p *rules.Pred, s seeds) *members {
	m := &members{}
	own := &builder{seeds: s, single: map[[2]uint32]tagged{}, spreads: map[string]ref{}}
	own.pool.words = []uint32{0}
	d := &draft{}
	// The list may belong to several fields: it is filed under one of their kind.
	part := rules.Pred{Field: rules.FieldDstIP, Prefixes: p.Prefixes}
	switch {
	case len(p.Names) > 0:
		part.Field = rules.FieldDomain
	case len(p.Globs) > 0:
		part.Field = rules.FieldProcess
	}
	for _, n := range p.Names {
		if nameScore(&n) == 0 {
			m.loose = append(m.loose, n)
			continue
		}
		part.Names = append(part.Names, n)
	}
	for _, g := range p.Globs {
		if literalOf(string(g)) == "" && g != "" {
			m.globs = append(m.globs, g)
			continue
		}
		part.Globs = append(part.Globs, g)
	}
	c, _ := classOf(part.Field)
	d.elements(own, &part, false, 0)
	m.index = own.index(d, c, 0, false)
	m.pool = own.pool
	return m
}

// name says whether a canonical name is in the list.
func (m *members) name(s *seeds, name string, list []rules.NamePattern) bool {
	if x := m.index.names; x != nil && m.inTable(x, s, name) {
		return true
	}
	if x := m.index.text; x != nil && m.inText(x, name, func() bool { return matchPatterns(list, name) }) {
		return true
	}
	return matchAny(m.loose, name)
}

// matchPatterns tries the patterns that a table can't hold.
func matchPatterns(list []rules.NamePattern, name string) bool {
	for i := range list {
		if _, table := nameKindOf(&list[i]); !table && list[i].Match(name) {
			return true
		}
	}
	return false
}

func (m *members) inTable(x *nameIndex, s *seeds, name string) bool {
	var list [partsAtOnce]part
	var c cursor
	for c.start(name); !c.done; {
		n := s.parts(&c, name, x, &list)
		for _, p := range list[:n] {
			slot, found := x.look(p.nameHash, x.home(p.hash)), false
			if slot == nil {
				continue
			}
			m.pool.tags(slot.what, func(t tag, _ ref) {
				k := t.kind()
				found = found || k == kindSuffix || k == kindExact && p.whole || k == kindUnder && !p.whole
			})
			if found {
				return true
			}
		}
	}
	return false
}

// inText says whether a keyword stands in the text, or a pattern's literal does
// and the patterns match.
func (m *members) inText(x *textIndex, text string, match func() bool) bool {
	found, verify := false, false
	look := func(what tagged) {
		m.pool.tags(what, func(t tag, _ ref) {
			found = found || t.kind() == kindText
			verify = verify || t.kind() == kindVerify
		})
	}
	if a := x.crowd; a != nil {
		s := uint32(0)
		for i := 0; i < len(text) && !found; i++ {
			s = a.next(s, text[i])
			for at := s; at != 0; at = a.ends[at].link {
				if e := &a.ends[at]; e.own != none && e.holds(x, text, i+1) {
					look(e.what)
				}
			}
		}
	}
	for l, at := x.next(text, 0); at >= 0 && !found; l, at = x.next(text, at+1) {
		for ; l >= 0; l = x.literals[l].parent {
			look(x.literals[l].what)
		}
	}
	if x.short != nil && !found {
		found = m.inText(x.short, text, func() bool { verify = true; return false })
	}
	return found || verify && match()
}

// addr says whether an address is in the list.
func (m *members) addr(a netip.Addr) bool {
	family := 1
	if a.Is4() {
		family = 0
	}
	x := m.index.prefixes[family]
	return x != nil && a.Zone() == "" && x.find(a) != none
}

// glob says whether a string is in the list.
func (m *members) glob(s string, list []rules.Glob) bool {
	if _, ok := m.index.strings[s]; ok {
		return true
	}
	x := m.index.text
	if x != nil && m.inText(x, s, func() bool { return matchGlobs(list, s) }) {
		return true
	}
	return matchGlobs(m.globs, s)
}

func matchGlobs(list []rules.Glob, s string) bool {
	for _, g := range list {
		if g.Match(s) {
			return true
		}
	}
	return false
}

// leastTagged returns the first id filed under one name.
func (p *pool) leastTagged(t tagged) id {
	least := none
	p.tags(t, func(_ tag, r ref) { least = min(least, p.least(r)) })
	return least
}

// tags calls f for all that is filed under one name.
func (p *pool) tags(t tagged, f func(tag, ref)) {
	if t&taggedMany == 0 {
		f(tag(t&(1<<tagBits-1)), refOne|ref(t>>tagBits))
		return
	}
	at := uint32(t &^ taggedMany)
	for n := p.words[at]; n > 0; n-- {
		f(tag(p.words[at+1]), ref(p.words[at+2]))
		at += 2
	}
}
