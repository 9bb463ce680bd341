package analysis

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// A space has one dimension for each fact that a policy looks at, and a point in it is
// all that a decision depends on: the facts of a flow, and of the world. A rule is the
// union of the boxes of all points at which it is true in Kleene's logic; so that a
// fact is not known yet is one of its values, at which no predicate on it is true.
//
// A space has all points that can be, and some that can't: facts count as independent
// of one another. What holds of all points then holds of all flows.
//
//   - A name has its values several times: as known, as one of the destination's DNS
//     names that stand in for it, and for domain as one of those that are all there
//     is. Of several DNS names that match, a point has one.
//   - What isn't compared value by value (regular expressions, keywords, wildcards,
//     lists from the web) has a dimension of its own, which tells whether it matches.
type space struct {
	policy *rules.Policy
	// sizes is how many values each dimension has, keys what it is about.
	sizes []int32
	keys  []dimKey
	dims  map[dimKey]int32

	names     [3]*axis[string]         // by nameFields
	addresses [2]*axis[address]        // dst.ip, src.ip
	numbers   map[dimKey]*axis[uint64] // of fields and metrics that are numbers
	words     map[rules.Field][]string // of fields that are texts, in order
	exact     [3][]exactName           // the pieces of the names that are one name
	lists     map[listKey]*list        // what is known of lists of values
	made      map[literalKey][]box     // of lists
	// elements of lists, and names with patterns, that may still be compared.
	elements, tries int
	// examples are texts that match what is not compared, for witnesses.
	examples  map[dimKey][]string
	numbering map[*rules.Set]int // for the keys of lists that aren't compared
}

const (
	// The elements of lists that are compared are one in perElement of the effort, from
	// fewElements to maxElements; names that are matched by a pattern one in perMatch.
	perElement  = 1000
	fewElements = 1000
	maxElements = 200_000
	perMatch    = 200
	// shortList is the size up to which lists are always compared.
	shortList = 16
	// maxAllBoxes bounds the boxes of all rules.
	maxAllBoxes = 500_000
	// maxApart is how many patterns of one list have a dimension each.
	maxApart = 4
	// maxTold is how many names of one list have a dimension each where none may match.
	maxTold = 16
	// maxBoxes bounds the boxes of one rule.
	maxBoxes = 256
)

// dimKey is what a dimension is about: a field, or a metric of an uplink, or whether
// what is not compared matches the field.
type dimKey struct {
	field  rules.Field
	ref    int
	metric rules.Metric
	match  string
}

// Values that facts have in common. Dimensions of schedules, quotas and conditions
// have the values of state.Truth, that of the state those of state.State.
const (
	unknown  = 0
	absent   = 1
	known    = 2 // the first of those that are known
	isKnown  = 2 // the only one of alpn
	noMatch  = 0
	isMatch  = 1
	nameForm = 3     // as what a name can be there
	noName   = "no " // before what no DNS name matches
	// maxExamples bounds the texts that are kept of one dimension.
	maxExamples = 8
)

// The forms of a name, in the order of their values.
const (
	asAll   = iota // one of the DNS names that are all there is: domain only
	asHint         // one of the DNS names, while the name may still come
	asKnown        // the name itself
)

var nameFields = [3]rules.Field{rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost}

type exactName struct {
	piece int32
	name  string
}

// listKey is one list of values, as one field looks at it.
type listKey struct {
	field rules.Field
	set   *rules.Set // nil: written in place
	first any        // the address of the first element; without any, nil or that of the predicate
	size  int
}

// list is what is known of a list of values.
type list struct {
	open bool   // it is not compared
	id   string // stands for it in keys of dimensions
}

type literalKey struct {
	list    listKey
	negated bool
}

func newSpace(p *rules.Policy, e Effort) *space {
	s := &space{
		policy: p, dims: map[dimKey]int32{}, addresses: [2]*axis[address]{addressAxis(), addressAxis()},
		names: [3]*axis[string]{nameAxis(), nameAxis(), nameAxis()}, numbers: map[dimKey]*axis[uint64]{},
		words: map[rules.Field][]string{}, lists: map[listKey]*list{}, made: map[literalKey][]box{}, examples: map[dimKey][]string{}, numbering: map[*rules.Set]int{},
	}
	s.elements, s.tries = min(maxElements, max(fewElements, int(e/perElement))), int(e/perMatch)
	for i, set := range p.Sets {
		s.numbering[set] = i
	}
	// Protocols without ports have none, which narrow says.
	for n := range 256 {
		if flow.Proto(n).HasPorts() {
			s.number(dimKey{field: rules.FieldProto}).cut(uint64(n), uint64(n)+1)
		}
	}
	for i := range p.Rules {
		if r := &p.Rules[i]; r.Active != 0 {
			s.gather(&r.Match)
			if r.When != nil {
				s.gather(r.When)
			}
		}
	}
	for i, a := range s.names {
		a.seal()
		for k := range len(a.cuts) - 1 {
			if name, ok := nameOf(a.cuts[k]); ok && a.cuts[k+1] == a.cuts[k]+afterKey {
				s.exact[i] = append(s.exact[i], exactName{int32(k), name})
			}
		}
	}
	for _, a := range s.addresses {
		a.seal()
	}
	for _, a := range s.numbers {
		a.seal()
	}
	for f, list := range s.words {
		slices.Sort(list)
		s.words[f] = slices.Compact(list)
	}
	return s
}

// number returns the axis of a field or metric that is a number.
func (s *space) number(key dimKey) *axis[uint64] {
	a := s.numbers[key]
	if a == nil {
		limit := uint64(endless)
		switch key.field {
		case rules.FieldPort, rules.FieldSrcPort:
			limit = 1 << 16
		case rules.FieldProto:
			limit = 1 << 8
		case rules.FieldDSCP:
			limit = 1 << 6
		case rules.FieldMark, rules.FieldASN:
			limit = 1 << 32
		case rules.FieldSrcMAC:
			limit = 1 << 48
		case rules.FieldUplink:
			switch key.metric {
			case rules.MetricUp:
				limit = 2
			case rules.MetricState:
				limit = 4
			}
		}
		a = numberAxis(limit)
		s.numbers[key] = a
	}
	return a
}

// keyOf returns what the predicate's dimension is about.
func keyOf(p *rules.Pred) dimKey {
	switch p.Field {
	case rules.FieldUplink, rules.FieldRoute:
		return dimKey{field: rules.FieldUplink, ref: p.Ref, metric: p.Metric}
	case rules.FieldSchedule, rules.FieldQuota, rules.FieldCondition:
		return dimKey{field: p.Field, ref: p.Ref}
	default:
		return dimKey{field: p.Field}
	}
}

// dim returns a dimension, which is made if it is not there yet.
func (s *space) dim(key dimKey) int32 {
	d, ok := s.dims[key]
	if !ok {
		d = int32(len(s.keys))
		s.dims[key], s.keys, s.sizes = d, append(s.keys, key), append(s.sizes, s.size(key))
	}
	return d
}

func (s *space) size(key dimKey) int32 {
	if key.match != "" {
		return isMatch + 1
	}
	switch key.field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		n := int32(len(s.names[nameAt(key.field)].cuts) - 1)
		return known + nameForm*n
	case rules.FieldDstIP, rules.FieldSrcIP:
		return known + int32(len(s.addresses[key.field-rules.FieldDstIP].cuts)-1)
	case rules.FieldALPN:
		return isKnown + 1
	case rules.FieldState:
		return int32(state.Recovery) + 1
	case rules.FieldSchedule, rules.FieldQuota, rules.FieldCondition:
		return int32(state.True) + 1
	}
	if a := s.numbers[key]; a != nil {
		return key.first() + int32(len(a.cuts)-1)
	}
	return known + int32(len(s.words[key.field])) + 1
}

func nameAt(f rules.Field) int { return slices.Index(nameFields[:], f) }

// listOf returns what is known of the list of a predicate.
func (s *space) listOf(p *rules.Pred) (listKey, *list) {
	key := listKey{field: p.Field, set: p.Set}
	fill := func(n int, first func() any) {
		if n > 0 {
			key.first, key.size = first(), n
		}
	}
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		fill(len(p.Names), func() any { return &p.Names[0] })
	case rules.FieldDstIP, rules.FieldSrcIP:
		fill(len(p.Prefixes), func() any { return &p.Prefixes[0] })
	case rules.FieldPort, rules.FieldSrcPort:
		fill(len(p.Ports), func() any { return &p.Ports[0] })
	case rules.FieldSrcMAC:
		fill(len(p.MACs), func() any { return &p.MACs[0] })
	case rules.FieldProto, rules.FieldDSCP, rules.FieldMark, rules.FieldASN:
		fill(len(p.Numbers), func() any { return &p.Numbers[0] })
	default:
		fill(len(p.Globs), func() any { return &p.Globs[0] })
	}
	if key.size == 0 && p.Set == nil {
		key.first = p // of a set that could not be read: another one has other elements
	}
	l := s.lists[key]
	if l == nil {
		l = &list{open: key.first == any(p) || key.size > max(s.elements, shortList), id: fmt.Sprintf("list %d", len(s.lists))}
		if p.Set != nil {
			l.id = fmt.Sprintf("set %d", s.numbering[p.Set])
			// What comes from the web changes while the policy runs; a list without elements
			// may be one that nobody has read.
			from := p.Set.List
			l.open = l.open || from.URL != "" || from != (rules.ListRef{}) && key.size == 0
		}
		if !l.open && key.size > shortList {
			s.elements -= key.size
		}
		s.lists[key] = l
	}
	return key, l
}

// gather cuts the axes where the predicates of a condition begin and end.
func (s *space) gather(e *rules.Expr) {
	for i := range e.Kids {
		s.gather(&e.Kids[i])
	}
	if e.Op != rules.OpPred {
		return
	}
	p := &e.Pred
	switch p.Field {
	case rules.FieldState, rules.FieldSchedule, rules.FieldQuota, rules.FieldCondition, rules.FieldALPN:
		return
	case rules.FieldRTT, rules.FieldLatency, rules.FieldErrorRate, rules.FieldConnBytes, rules.FieldConnAge, rules.FieldUplink, rules.FieldRoute:
		s.gatherNumber(p)
		return
	}
	if _, l := s.listOf(p); l.open {
		return
	}
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		a := s.names[nameAt(p.Field)]
		for i := range p.Names {
			from, to := nameRun(&p.Names[i])
			a.cut(from, to)
		}
	case rules.FieldDstIP, rules.FieldSrcIP:
		a := s.addresses[p.Field-rules.FieldDstIP]
		for _, prefix := range p.Prefixes {
			from, to := within(prefix)
			a.cut(from, to)
		}
	case rules.FieldPort, rules.FieldSrcPort:
		for _, r := range p.Ports {
			s.number(keyOf(p)).cut(uint64(r.Lo), uint64(r.Hi)+1)
		}
	case rules.FieldSrcMAC:
		for _, m := range p.MACs {
			s.number(keyOf(p)).cut(macNumber(m), macNumber(m)+1)
		}
	case rules.FieldProto, rules.FieldDSCP, rules.FieldMark, rules.FieldASN:
		for _, n := range p.Numbers {
			s.number(keyOf(p)).cut(uint64(n), uint64(n)+1)
		}
	default:
		for _, g := range p.Globs {
			if isWord(p.Field, g) {
				s.words[p.Field] = append(s.words[p.Field], string(g))
			}
		}
	}
}

func (s *space) gatherNumber(p *rules.Pred) {
	if p.Field == rules.FieldRoute && p.Ref < 0 {
		return
	}
	key := keyOf(p)
	a := s.number(key)
	if key.isState() {
		a.cut(0, 1, 2, 3)
		return
	}
	for _, r := range compared(p) {
		if limit := a.cuts[1]; r[0] < limit { // not sealed yet: the second cut is the limit
			a.cut(r[0], min(r[1], limit))
		}
	}
}

// open reports whether the dimension tells whether something that is not compared
// matches.
func (k dimKey) open() bool {
	return k.match != "" && k.field != rules.FieldALPN && !strings.HasPrefix(k.match, noName)
}

func (k dimKey) isState() bool { return k.field == rules.FieldUplink && k.metric == rules.MetricState }

// first returns the number of the first value that is known. What is measured of an
// uplink is never absent; whether it is up, and its state, are always known.
func (k dimKey) first() int32 {
	switch {
	case k.field != rules.FieldUplink:
		return known
	case k.metric == rules.MetricUp || k.metric == rules.MetricState:
		return 0
	default:
		return unknown + 1
	}
}

// compared returns the numbers that a comparison is true of, as runs up to before the
// second number.
func compared(p *rules.Pred) [][2]uint64 {
	b := uint64(max(p.Bound, 0))
	switch {
	case p.Bound < 0 && p.Cmp <= rules.Le: // ==, <, <=
		return nil
	case p.Bound < 0:
		return [][2]uint64{{0, endless}}
	}
	switch p.Cmp {
	case rules.Eq:
		return [][2]uint64{{b, b + 1}}
	case rules.Lt:
		return [][2]uint64{{0, b}}
	case rules.Le:
		return [][2]uint64{{0, b + 1}}
	case rules.Gt:
		return [][2]uint64{{b + 1, endless}}
	default:
		return [][2]uint64{{b, endless}}
	}
}

func macNumber(m flow.MAC) uint64 {
	var b [8]byte
	copy(b[2:], m[:])
	return binary.BigEndian.Uint64(b[:])
}

// isWord reports whether a pattern of the field is nothing but a text.
func isWord(f rules.Field, g rules.Glob) bool {
	switch f {
	case rules.FieldProcess, rules.FieldProcessPath, rules.FieldUser, rules.FieldGroup, rules.FieldCgroup:
		return strings.IndexByte(string(g), '*') < 0
	default:
		return true
	}
}
