package actions

import "slices"

// entry is one alternative as a place in the table sees it: what is still to be
// asked for there, and the candidate it gives.
type entry struct {
	value uint32
	conds []Match
	text  string // both, for comparing
	asked [nFields]asked
	known bool // asked is
}

// asked is what an entry asks of a field.
type asked struct {
	cond  int // which of its conditions does; -1: none
	spans []span
}

func newEntry(value uint32, conds []Match) *entry {
	r := Rule{If: conds, Do: []Stmt{{Kind: SetRank, Value: value}}}
	return &entry{value: value, conds: conds, text: r.String()}
}

// forest grows chains that find the first entry that holds in a list. Equal
// lists share a chain.
type forest struct {
	leaf   int    // how many rules may stand in a row where a split is possible
	copies int    // how often a split may copy an entry, on average
	start  uint32 // the default's candidate
	have   map[string]bool
	sets   map[string]bool
	out    []Chain
	maps   []Set
	rules  int // rules of out
	most   int // rules of the longest chain of out
	bound  int // beyond so many rules nothing is split any more
}

// chain returns the name of the chain for the list in the family. A guarded chain
// keeps a rank that is lower than its own find; any other replaces it, by the
// default's where nothing holds.
func (f *forest) chain(list []*entry, family Family, guarded bool) string {
	name := chainName(list, guarded)
	if f.have[name] {
		return name
	}
	f.have[name] = true
	c := Chain{Name: name, Rules: f.grow(list, family, guarded)}
	f.rules += len(c.Rules)
	f.most = max(f.most, len(c.Rules))
	f.out = append(f.out, c)
	return name
}

func chainName(list []*entry, guarded bool) string {
	texts := make([]string, len(list), len(list)+1)
	for i, e := range list {
		texts[i] = e.text
	}
	if guarded {
		return "g_" + digestText(append(texts, "guarded"))
	}
	return "c_" + digestText(texts)
}

// grow returns the rules for the list: all in a row, or a lookup that leads to
// the part that can hold, followed by the entries that do not ask for its key.
func (f *forest) grow(list []*entry, family Family, guarded bool) []Rule {
	if len(list) > f.leaf && f.rules < f.bound {
		if s := f.bestSplit(list, family); s != nil {
			set := Set{Name: "t_", Type: s.field.setType(family), Map: true, Ranges: true}
			for _, p := range s.parts() {
				set.Elems = append(set.Elems, Elem{Key: s.field.spell(p.span, family), Value: "goto " + f.chain(p.list, family, guarded)})
			}
			set.Name += digestElems(set.Elems)
			if !f.sets[set.Name] {
				f.sets[set.Name] = true
				f.maps = append(f.maps, set)
			}
			look := Rule{Do: []Stmt{{Kind: Lookup, Key: s.field.key, V6: s.field.addr && family == IPv6, Target: set.Name}}}
			if s.field.ported {
				look.If = []Match{{Key: KeyL4Proto, Set: portSet}}
			}
			return append([]Rule{look}, f.grow(s.rest, family, guarded)...)
		}
	}
	return row(list, guarded, f.start)
}

// row returns the rules for the list, one after the other. Entries of one epoch
// need one look at the rank that was found before: it is below them all or above.
func row(list []*entry, guarded bool, start uint32) []Rule {
	var rules []Rule
	for i, e := range list {
		conds := e.conds
		if guarded {
			epoch := func(j int) uint32 { return list[j].value >> actionBits }
			alone := (i == 0 || epoch(i-1) != epoch(i)) && (i+1 == len(list) || epoch(i+1) != epoch(i))
			switch {
			case alone:
				conds = append([]Match{{Key: KeyRank, Op: Above, Nums: num(e.value)}}, conds...)
			case i == 0 || epoch(i-1) != epoch(i):
				rules = append(rules, Rule{If: []Match{{Key: KeyRank, Op: Below, Nums: num(e.value &^ actionMask)}}, Do: []Stmt{{Kind: Return}}})
			}
		}
		rules = append(rules, Rule{If: conds, Do: []Stmt{{Kind: SetRank, Value: e.value}, {Kind: Return}}})
		if len(e.conds) == 0 {
			return rules
		}
	}
	if !guarded {
		rules = append(rules, Rule{Do: []Stmt{{Kind: SetRank, Value: start}}})
	}
	return rules
}

// field is what a list can be split by.
type field struct {
	key    Key
	addr   bool
	ported bool // only packets with ports have it
	last   func(Family) point
}

const nFields = 5

var fields = [nFields]field{
	{key: KeyL4Proto, last: func(Family) point { return point{0, 255} }},
	{key: KeyDstPort, ported: true, last: func(Family) point { return point{0, 65535} }},
	{key: KeySrcPort, ported: true, last: func(Family) point { return point{0, 65535} }},
	{key: KeyDst, addr: true, last: lastAddr},
	{key: KeySrc, addr: true, last: lastAddr},
}

func lastAddr(f Family) point {
	if f == IPv4 {
		return point{0, 1<<32 - 1}
	}
	return point{^uint64(0), ^uint64(0)}
}

func (x *field) setType(f Family) string {
	switch {
	case x.addr && f == IPv4:
		return "type ipv4_addr"
	case x.addr:
		return "type ipv6_addr"
	case x.ported:
		return "type inet_service"
	default:
		return "type inet_proto"
	}
}

func (x *field) spell(s span, f Family) string {
	if x.addr {
		return s.addrs(f)
	}
	return s.numbers()
}

// asks returns what e asks of field number x.
func (e *entry) asks(x int) *asked {
	if !e.known {
		e.known = true
		for i := range fields {
			e.asked[i] = fields[i].askedBy(e)
		}
	}
	return &e.asked[x]
}

func (x *field) askedBy(e *entry) asked {
	for i := range e.conds {
		m := &e.conds[i]
		if m.Key != x.key || m.Op != Is || m.Mask != 0 || len(m.Nums)+len(m.Prefixes) == 0 {
			continue
		}
		spans := make([]span, 0, len(m.Nums)+len(m.Prefixes))
		for _, r := range m.Nums {
			spans = append(spans, numberSpan(r))
		}
		for _, p := range m.Prefixes {
			spans = append(spans, prefixSpan(p))
		}
		return asked{i, unite(spans)}
	}
	return asked{cond: -1}
}

// split is a list divided by a field.
type split struct {
	x     int // the field's number
	field *field
	last  point
	list  []*entry
	edges []edge
	rest  []*entry // what does not ask
}

// part is what can hold within a span.
type part struct {
	span
	list []*entry
}

// bestSplit returns the split whose longest part is shortest; nil when none makes
// the list a good deal shorter without too many copies.
func (f *forest) bestSplit(list []*entry, family Family) *split {
	var best *split
	least := len(list) - len(list)/4
	for i := range fields {
		s := newSplit(i, list, family)
		if s == nil {
			continue
		}
		longest, copies := len(s.rest), 0
		sweep(s.edges, s.last, func(_ span, ids []int) {
			n := len(ids) + len(s.rest)
			longest, copies = max(longest, n), copies+n
		})
		if longest < least && copies <= f.copies*len(list) {
			best, least = s, longest
		}
	}
	return best
}

func newSplit(x int, list []*entry, family Family) *split {
	s := &split{x: x, field: &fields[x], last: fields[x].last(family), list: list}
	for _, e := range list {
		if e.asks(x).cond < 0 {
			s.rest = append(s.rest, e)
		}
	}
	if len(s.rest) > len(list)*3/4 {
		return nil
	}
	s.edges = edges(len(list), func(i int) []span { return list[i].asks(x).spans })
	return s
}

// parts returns what each span leads to: the entries that ask for it, without
// asking, and those that don't ask. Neighbours that are alike are one.
func (s *split) parts() []part {
	var wild []int
	for i, e := range s.list {
		if e.asks(s.x).cond < 0 {
			wild = append(wild, i)
		}
	}
	var out []part
	var before []int
	sweep(s.edges, s.last, func(piece span, ids []int) {
		if n := len(out); n > 0 && out[n-1].hi.next() == piece.lo && slices.Equal(ids, before) {
			out[n-1].hi = piece.hi
			return
		}
		before = slices.Clone(ids)
		all := slices.Concat(ids, wild)
		slices.Sort(all)
		p := part{span: piece}
		for _, i := range all {
			e := s.within(i, piece)
			if e == nil {
				continue
			}
			p.list = append(p.list, e)
			if len(e.conds) == 0 {
				break
			}
		}
		out = append(out, p)
	})
	return out
}

// within returns entry i for packets of the piece; nil when it can't hold there.
func (s *split) within(i int, piece span) *entry {
	e := s.list[i]
	conds := make([]Match, 0, len(e.conds))
	for j, m := range e.conds {
		if j == e.asks(s.x).cond {
			continue
		}
		switch ports, known := s.hasPorts(piece); {
		case !known || m.Key != KeyL4Proto || m.Set != portSet:
			conds = append(conds, m)
		case ports != (m.Op == Is):
			return nil
		}
	}
	if len(conds) == len(e.conds) {
		return e
	}
	return newEntry(e.value, conds)
}

// hasPorts reports whether packets of the piece have ports, and whether that is known.
func (s *split) hasPorts(piece span) (ports, known bool) {
	switch {
	case s.field.ported:
		return true, true
	case s.field.key == KeyL4Proto && piece.lo == piece.hi:
		return HasPorts(uint8(piece.lo.lo)), true
	default:
		return false, false
	}
}

func digestElems(list []Elem) string {
	var texts []string
	for _, e := range list {
		texts = append(texts, e.String())
	}
	return digestText(texts)
}
