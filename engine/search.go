package engine

import (
	"net/netip"
	"sort"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// search walks the layers of a program for the rules that a flow may match. A
// rule's position is its place in the order of the whole program; with one layer
// it is its id.
type search struct {
	c     facts
	l     *layer
	bound id // ids of this layer from here on are of no interest
	// sum keeps the compiler from dropping loads that are made ahead of their use.
	sum uint64
	// verify is set where the rules found have to be evaluated.
	verify bool
	// low: with next set, every true rule from here on counts, and best is the first.
	next bool
	low  uint32
	// open is set in a search for open rules above the winner: rules that are
	// unknown, or not true only by DNS names, and would have given something else.
	open    bool
	outcome *rules.Outcome // the winner's, the default's, or nil
	// restsOnly is set among open rules that can wait for nothing: what they can tell
	// is that the decision rests on DNS names.
	restsOnly bool
	// d is the decision, complete but for what open rules do to it.
	d *Decision

	// later are long lists and nodes that wait until what is cheap has been looked
	// at; then the most promising goes first: see drain.
	later  *laterList // nil if no layer has any
	nLater int

	best, second         uint32 // positions, none
	bestRule, secondRule uint32
	bestDo               *rules.Outcome
	// mods are the first setters of each modifier among the rules without a
	// primary action: their positions, none, and numbers.
	mods    [modKinds]uint32
	modRule [modKinds]uint32
	sawMods bool
}

const modKinds = 4 // log, throttle, mark, dscp

// reset makes the zero search ready; its facts are set by gather.
func (s *search) reset() {
	s.best, s.second = none, none
	s.mods = [modKinds]uint32{none, none, none, none}
}

// run searches all layers.
func (s *search) run(p *Program) {
	for _, l := range p.layers {
		s.l = l
		s.limit()
		s.node(l.root)
		if s.nLater > 0 {
			s.drain()
		}
	}
}

// laterList is room for what waits.
type laterList [laterMost]later

// laterMost is how many places can wait; when one more comes, all are looked at.
const laterMost = 16

// later is a rule, list or node that waits: its least id above; below, its place in
// the pool, which of these it is, and whether its rules have to be evaluated.
type later uint64

const (
	laterNode   later = 1 << 30
	laterVerify later = 1 << 31
	laterOne    later = 1<<30 - 1 // no place in the pool
)

// postpone makes a rule, list or node wait.
func (s *search) postpone(r ref, least id) {
	if s.nLater == laterMost {
		s.drain()
		if least >= s.bound {
			return
		}
	}
	n := later(least)<<32 | later(r&^refForm)
	switch r & refForm {
	case refOne:
		n |= laterOne
	case refNode:
		n |= laterNode
	}
	if s.verify {
		n |= laterVerify
	}
	s.later[s.nLater] = n
	s.nLater++
}

// drain looks at what waits, the one with the least id first: what it holds
// spares most of the others.
func (s *search) drain() {
	verify := s.verify
	for s.nLater > 0 {
		first := 0
		for i := 1; i < s.nLater; i++ {
			if s.later[i] < s.later[first] {
				first = i
			}
		}
		n := s.later[first]
		if id(n>>32) >= s.bound {
			break // so are all others
		}
		s.nLater--
		s.later[first] = s.later[s.nLater]
		s.verify = n&laterVerify != 0
		switch at := ref(n &^ (laterNode | laterVerify)); {
		case n&laterNode != 0:
			s.node(s.l.pool.nodes[at])
		case at == ref(laterOne):
			s.candidate(id(n >> 32))
		default:
			s.list(s.l.pool.list(at))
		}
	}
	s.nLater, s.verify = 0, verify
}

// limit sets the bound for the current layer.
func (s *search) limit() {
	most := s.second
	if s.open || s.next {
		most = s.best
	}
	if s.bound = most; s.l.positions != nil {
		s.bound = s.l.firstFrom(most)
	}
}

// firstFrom returns the first id at or after a position.
func (l *layer) firstFrom(pos uint32) id {
	if pos == none {
		return pos
	}
	return id(sort.Search(len(l.positions), func(i int) bool { return l.positions[i] >= pos }))
}

func (l *layer) position(i id) uint32 {
	if l.positions == nil {
		return i
	}
	return l.positions[i]
}

// node looks at all rules of a node that the flow may match.
func (s *search) node(n *node) {
	if n.least >= s.bound {
		return
	}
	if n.extra && s.extra(n) {
		return
	}
	for i := range n.indexes {
		x := &n.indexes[i]
		switch {
		case s.open && classFields[x.class]&s.c.blindUnknown != 0:
			s.opened(x)
		case x.class == classNames: // the two that most rules are filed in, without a jump table
			s.names(x)
		case x.class == classDst:
			s.addr(&x.prefixes, s.c.flow.Dst)
		default:
			s.index(x)
		}
	}
	if s.open && n.runs != nil {
		s.runs(n.runs)
		return
	}
	s.list(n.rest)
}

// opened looks at the rules of an index of which the facts are not known. Where DNS
// names are all that will ever be known of a name, those that it makes true are
// found by them, and all others are false.
func (s *search) opened(x *index) {
	if x.class != classNames || s.c.dns != nameDNS {
		s.node(x.open)
		return
	}
	s.names(x)
	s.drain() // what waits was found by another question
	was := s.restsOnly
	s.restsOnly = true
	s.node(x.open)
	s.drain()
	s.restsOnly = was
}

// extra looks at what few nodes have; true if that was enough.
func (s *search) extra(n *node) bool {
	if n.first != nil && !s.open && s.early(n.first) {
		return true
	}
	if n.far != nil {
		s.ahead(n.far)
	}
	return false
}

// index looks up the flow's facts of the index's class, which is neither names nor
// destinations.
func (s *search) index(x *index) {
	f := s.c.flow
	switch x.class {
	case classSrc:
		s.addr(&x.prefixes, f.Src)
	case classPort:
		s.port(&x.ports, f.DstPort)
	case classSrcPort:
		s.port(&x.ports, f.SrcPort)
	case classProto:
		number(s, x.numbers, f.Proto)
	case classDSCP:
		number(s, x.numbers, f.DSCP)
	case classMark:
		number(s, x.numbers, f.Mark)
	case classMAC:
		if m, known := f.SrcMAC.Get(); known {
			s.key(x.numbers, macNumber(m))
		}
	case classProcess:
		s.text(x, f.Process)
	case classPath:
		s.text(x, f.ProcessPath)
	case classUser:
		s.text(x, f.User)
	case classCgroup:
		s.text(x, f.Cgroup)
	case classIface:
		s.text(x, f.IfaceIn)
	default:
		s.rare(x)
	}
}

// rare looks up what few rules ask for.
func (s *search) rare(x *index) {
	f := s.c.flow
	switch x.class {
	case classApp:
		s.text(x, f.App)
	case classALPN:
		list, known := f.ALPN.Get()
		for more := known; more; {
			var id string
			id, list, more = strings.Cut(list, ",")
			if r, ok := x.strings[id]; ok {
				s.visit(r)
			}
		}
	case classGroup:
		s.text(x, f.Group)
	case classIfaceOut:
		s.text(x, f.IfaceOut)
	case classCountry:
		s.text(x, f.Country)
	case classASN:
		number(s, x.numbers, f.ASN)
	}
}

func (s *search) hasProto(of protoSet) bool {
	proto, known := s.c.flow.Proto.Get()
	return known && protoBit(uint32(proto))&of != 0
}

func (s *search) list(ids []id) {
	for _, i := range ids {
		if i >= s.bound {
			return
		}
		s.candidate(i)
	}
}

// shortList is up to how many rules a list is looked at at once.
const shortList = 3

// visit looks at what a ref leads to.
func (s *search) visit(r ref) {
	switch r & refForm {
	case refOne:
		if id(r) < s.bound {
			s.candidate(id(r))
		}
	case refList:
		switch list := s.l.pool.list(r); {
		case len(list) <= shortList:
			s.list(list)
		case list[0] < s.bound:
			s.postpone(r, list[0])
		}
	case refNode:
		if least := s.l.pool.nodes[r&^refForm].least; least < s.bound {
			s.postpone(r, least)
		}
	default:
		for _, x := range s.l.pool.list(r) {
			s.visit(ref(x))
		}
	}
}

// candidate looks at one rule.
func (s *search) candidate(i id) { s.rule(i, &s.l.records[i]) }

// rule looks at one rule, of which the record may be a copy.
func (s *search) rule(i id, r *record) {
	if !r.active.Has(s.c.state) {
		return
	}
	if s.open {
		s.consider(i, r)
		return
	}
	if r.flags&asks != 0 || s.verify {
		switch {
		case r.flags&isDead != 0:
			return
		case r.flags&needsEval != 0 || s.verify:
			rule := &s.c.prog.policy.Rules[r.rule]
			if s.c.expr(&rule.Match) != isTrue || r.hasWhen() && s.c.expr(rule.When) != isTrue {
				return
			}
		case !s.l.fits(r, &s.c):
			return
		}
	}
	s.found(s.l.position(i), r)
}

// found takes note of a true rule.
func (s *search) found(pos uint32, r *record) {
	switch {
	case s.next:
		if pos < s.low || pos >= s.best {
			return
		}
		s.best, s.bestRule = pos, r.rule
	case r.flags&isMods != 0:
		s.foundMods(pos, r)
		return
	case pos < s.best:
		s.second, s.secondRule = s.best, s.bestRule
		s.best, s.bestRule, s.bestDo = pos, r.rule, &s.l.outcomes[r.do]
	case pos > s.best && pos < s.second:
		s.second, s.secondRule = pos, r.rule
	default:
		return
	}
	s.limit()
}

func (s *search) foundMods(pos uint32, r *record) {
	s.sawMods = true
	m := &s.l.outcomes[r.do].Mods
	for k, unset := range [modKinds]bool{m.Log.Unknown(), m.Throttle.Unknown(), m.Mark.Unknown(), m.DSCP.Unknown()} {
		if !unset && pos < s.mods[k] {
			s.mods[k], s.modRule[k] = pos, r.rule
		}
	}
}

// above returns the modifiers that true rules before a position have set.
func (s *search) above(pos uint32) rules.Modifiers {
	var m rules.Modifiers
	if !s.sawMods {
		return m
	}
	set := func(k int) *rules.Modifiers { return &s.c.prog.policy.Rules[s.modRule[k]].Do.Mods }
	if s.mods[0] < pos {
		m.Log = set(0).Log
	}
	if s.mods[1] < pos {
		m.Throttle = set(1).Throttle
	}
	if s.mods[2] < pos {
		m.Mark = set(2).Mark
	}
	if s.mods[3] < pos {
		m.DSCP = set(3).DSCP
	}
	return m
}

// ahead reads where a search for the destination begins, so that its cache miss
// overlaps with what is done before.
func (s *search) ahead(x *prefixIndex) {
	if a, known := s.c.flow.Dst.Get(); known && a.Is4() {
		s.sum += uint64(x.v4.cell(toAddr4(a)))
	}
}

func (s *search) addr(x *[2]*prefixIndex, v flow.Value[netip.Addr]) {
	a, known := v.Get()
	if !known || a.Zone() != "" { // no prefix holds an address with a zone
		return
	}
	family := x[1]
	if a.Is4() {
		family = x[0]
	}
	if family == nil {
		return
	}
	e := family.find(a)
	if e != none && family.firstAt != nil && !s.open {
		if at := family.firstAt[e]; at != none && s.early(family.first[at:at+firstRules]) {
			return
		}
	}
	for e != none {
		at := &family.entries[e]
		if at.least >= s.bound {
			return
		}
		if at.ref&refForm == refOne && s.l.positions == nil {
			if id(at.ref) < s.bound {
				s.rule(id(at.ref), &at.record)
			}
		} else {
			s.visit(at.ref)
		}
		e = at.parent
	}
}

// bigTree is from how many leaves on there are so many rules around a port that
// even single ones wait for better ones.
const bigTree = 64

func (s *search) port(x *portIndex, v flow.Value[uint16]) {
	port, known := v.Get()
	if !known || x.tree == nil {
		return
	}
	leaf := int(x.bounds.find(uint32(port)))
	if x.path[leaf] >= s.bound {
		return
	}
	for at := leaf + len(x.path); at > 0; at >>= 1 {
		switch n := &x.tree[at]; {
		case n.least >= s.bound:
		case len(x.path) > bigTree && n.ref&refForm != refMany:
			s.postpone(n.ref, n.least)
		default:
			s.visit(n.ref)
		}
	}
}

func number[T uint8 | uint32 | flow.Proto](s *search, m map[uint64]ref, v flow.Value[T]) {
	if n, known := v.Get(); known {
		s.key(m, uint64(n))
	}
}

func (s *search) key(m map[uint64]ref, n uint64) {
	if r, ok := m[n]; ok {
		s.visit(r)
	}
}

func (s *search) text(x *index, v flow.Value[string]) {
	t, known := v.Get()
	if !known {
		return
	}
	if r, ok := x.strings[t]; ok {
		s.visit(r)
	}
	if x.text != nil {
		s.contained(x.text, t, 1)
	}
}

// names looks up all that the name fields can be compared with.
func (s *search) names(x *index) {
	c := &s.c
	for i := range c.nQueries {
		q := &c.queries[i]
		s.name(x, c.text(i), q.fields)
	}
	if c.dns != 0 {
		for name := range c.flow.DNS.All() {
			s.name(x, name, c.dnsFields)
		}
	}
}

// name looks up a name and what it lies under, and looks for literals in it. The
// first slots of the table are read before the literals are looked for, so that
// their cache misses overlap with each other and with that.
func (s *search) name(x *index, name string, fields fields3) {
	if x.names == nil {
		if x.text != nil {
			s.contained(x.text, name, fields)
		}
		return
	}
	var list [partsAtOnce]part
	var c cursor
	c.start(name)
	n := s.l.seeds.parts(&c, name, x.names, &list)
	for i := range n {
		s.sum += x.names.slots[x.names.home(list[i].hash)].hash
	}
	if x.text != nil {
		s.contained(x.text, name, fields)
	}
	s.parts(x.names, list[:n], fields)
	for !c.done { // more labels than anyone has
		n = s.l.seeds.parts(&c, name, x.names, &list)
		s.parts(x.names, list[:n], fields)
	}
}

// parts looks up parts of a name.
func (s *search) parts(x *nameIndex, list []part, fields fields3) {
	for i := range list {
		p := &list[i]
		kinds := uint8(1<<kindSuffix | 1<<kindUnder)
		if p.whole {
			kinds = 1<<kindExact | 1<<kindSuffix
		}
		if n := x.look(p.nameHash, x.home(p.hash)); n != nil {
			s.slot(n, fields, kinds)
		}
	}
}

// slot looks at what is filed under a name.
func (s *search) slot(n *nameSlot, fields fields3, kinds uint8) {
	if n.what&taggedMany != 0 || s.l.positions != nil {
		s.tagged(n.what, fields, kinds)
		return
	}
	t, i := tag(n.what&(1<<tagBits-1)), id(n.what>>tagBits)
	if t.field()&fields != 0 && kinds>>t.kind()&1 == 1 && i < s.bound {
		s.rule(i, &n.record)
	}
}

// contained looks for literals in a text.
func (s *search) contained(x *textIndex, text string, fields fields3) {
	for l, at := x.next(text, 0); at >= 0; l, at = x.next(text, at+1) {
		for ; l >= 0; l = x.literals[l].parent {
			s.tagged(x.literals[l].what, fields, 1<<kindText|1<<kindVerify)
		}
	}
	if x.crowd != nil {
		s.crowd(x, text, fields)
	}
	if x.short != nil {
		s.contained(x.short, text, fields)
	}
}

// crowd looks for the literals of an index's automaton, the most promising first.
func (s *search) crowd(x *textIndex, text string, fields fields3) {
	var visited [crowdText]uint32
	a := x.crowd
	state := uint32(0)
	for from := 0; from < len(text); from += crowdText {
		part := text[from:min(from+crowdText, len(text))]
		best, next := 0, 0 // a decision looks for two rules: the winner and the runner-up
		least, more := none, none
		state = a.run(state, part, &visited)
		for i := range len(part) {
			switch l := a.states[visited[i]].least; {
			case l < least:
				best, next, least, more = i, best, l, least
			case l > least && l < more:
				next, more = i, l
			}
		}
		s.ends(x, visited[best], text, from+best+1, fields)
		s.ends(x, visited[next], text, from+next+1, fields)
		s.drain()
		for i := range len(part) {
			s.ends(x, visited[i], text, from+i+1, fields)
		}
	}
}

// crowdText is how much of a text is looked at at once: all of a name.
const crowdText = 256

// ends looks at the literals that end in a state.
func (s *search) ends(x *textIndex, at uint32, text string, to int, fields fields3) {
	for x.crowd.states[at].least < s.bound {
		if e := &x.crowd.ends[at]; e.own < s.bound && e.holds(x, text, to) {
			s.tagged(e.what, fields, 1<<kindText|1<<kindVerify)
		}
		at = x.crowd.ends[at].link
	}
}

// tagged looks at what is filed under a name, for the fields that have the name
// and the kinds of match (bit n for kind n) that it is.
func (s *search) tagged(t tagged, fields fields3, kinds uint8) {
	if t&taggedMany == 0 {
		s.group(tag(t&(1<<tagBits-1)), refOne|ref(t>>tagBits), fields, kinds)
		return
	}
	words := s.l.pool.words[t&^taggedMany:]
	for i := range words[0] {
		s.group(tag(words[1+2*i]), ref(words[2+2*i]), fields, kinds)
	}
}

func (s *search) group(t tag, r ref, fields fields3, kinds uint8) {
	switch {
	case t.field()&fields == 0 || kinds>>t.kind()&1 == 0:
		return
	case t.kind() != kindVerify || s.verify:
		if r&refForm != refOne {
			s.visit(r)
		} else if id(r) < s.bound {
			s.candidate(id(r))
		}
		return
	}
	s.verify = true
	s.visit(r)
	s.verify = false
}
