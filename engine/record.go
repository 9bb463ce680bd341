package engine

import (
	"slices"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// record is what a rule asks for beside its pivot, ready to be compared, in 16
// bytes. Rules that ask for more than states, destination ports and protocols
// have a tuple beside it, or the flag needsEval.
type record struct {
	rule uint32 // in source order
	do   uint32 // outcome
	// ports is: with hasRange low and, above it, high; with hasPorts the place of a
	// list in layer.ports; with hasTuple in layer.tuples; with needsEval 1 if the
	// rule has a `when` to evaluate (the rule itself need not be read to know).
	ports  uint32
	active state.Set
	protos protoSet
	flags  recordFlags
	reads  uint8 // which fields, and negatesName: an index into layer.reads
}

type recordFlags uint8

const (
	hasRange  recordFlags = 1 << iota // one range of destination ports
	hasPorts                          // several
	hasProto                          // protocols
	needsEval                         // the whole condition is evaluated
	isDead                            // replaced in a later layer
	isSkip                            // on_unknown skip
	isMods                            // no primary action
	hasTuple                          // addresses or source ports
	asks      = hasRange | hasPorts | hasProto | hasTuple | needsEval | isDead
)

// protoSet is a set of the protocols that policies name most.
type protoSet uint8

const (
	protoTCP protoSet = 1 << iota
	protoUDP
	protoICMP
	protoICMPv6
)

// protoBit returns 0 for all other protocols.
func protoBit(n uint32) protoSet {
	switch n {
	case 6:
		return protoTCP
	case 17:
		return protoUDP
	case 1:
		return protoICMP
	case 58:
		return protoICMPv6
	default:
		return 0
	}
}

// readsAll is the index for rules whose set of fields found no place in a layer's list.
const readsAll = 255

// record makes the record of a rule filed under the pivot.
func (b *builder) record(r *rules.Rule, rule int, pivot *pivot) record {
	rec := record{rule: uint32(rule), do: b.outcome(&r.Do), active: r.Active, reads: b.reads(ruleFields(r))}
	if r.OnUnknown == rules.Skip {
		rec.flags |= isSkip
	}
	if r.Do.Kind == rules.ActNone {
		rec.flags |= isMods
	}
	if r.When != nil {
		rec.flags |= needsEval
		rec.ports = 1
		return rec
	}
	var t tuple
	if !b.residual(&r.Match, pivot, &rec, &t) || t.has != 0 && rec.flags&hasPorts != 0 {
		rec.flags = rec.flags&^(hasRange|hasPorts|hasProto) | needsEval
		rec.ports, rec.protos = 0, 0
		return rec
	}
	if t.has != 0 {
		if rec.flags&hasRange != 0 {
			t.ports[0], t.has = rec.ports, t.has|tuplePort
			rec.flags &^= hasRange
		}
		rec.flags |= hasTuple
		rec.ports = uint32(len(b.tuples))
		b.tuples = append(b.tuples, t)
	}
	return rec
}

// residual puts the conjunction e without the pivot into rec and t; false if it does not fit.
func (b *builder) residual(e *rules.Expr, pivot *pivot, rec *record, t *tuple) bool {
	switch e.Op {
	case rules.OpAny:
		return true
	case rules.OpAnd:
		for i := range e.Kids {
			if !b.residual(&e.Kids[i], pivot, rec, t) {
				return false
			}
		}
		return true
	case rules.OpPred:
	default:
		return false
	}
	p := &e.Pred
	if pivot.pred == p {
		return true
	}
	switch {
	case p.Field == rules.FieldPort && rec.flags&(hasRange|hasPorts) == 0 && len(p.Ports) > 0:
		if len(p.Ports) == 1 {
			rec.flags |= hasRange
			rec.ports = packPorts(p.Ports[0])
			return true
		}
		rec.flags |= hasPorts
		rec.ports = b.portList(p)
		return true
	case p.Field == rules.FieldProto && rec.flags&hasProto == 0:
		for _, n := range p.Numbers {
			bit := protoBit(n)
			if bit == 0 {
				return false
			}
			rec.protos |= bit
		}
		rec.flags |= hasProto
		return true
	default:
		return p.Field != rules.FieldPort && t.add(p)
	}
}

func packPorts(r rules.PortRange) uint32 { return uint32(r.Lo) | uint32(r.Hi)<<16 }

// portList puts a predicate's list into the pool of port lists. That of a set is
// there once; equal ones that rules have written out are not looked for: they are short.
func (b *builder) portList(p *rules.Pred) uint32 {
	if p.Set != nil {
		if at, ok := b.portSets[p.Set]; ok {
			return at
		}
	}
	at := uint32(len(b.ports))
	if p.Set != nil {
		if b.portSets == nil {
			b.portSets = map[*rules.Set]uint32{}
		}
		b.portSets[p.Set] = at
	}
	b.ports = append(b.ports, uint32(len(p.Ports)))
	for _, r := range p.Ports {
		b.ports = append(b.ports, packPorts(r))
	}
	return at
}

func inPort(packed uint32, port uint16) bool {
	return uint16(packed) <= port && port <= uint16(packed>>16)
}

// fits says whether what the record itself asks for is true.
func (l *layer) fits(r *record, c *facts) bool {
	if r.flags&(hasRange|hasPorts) != 0 {
		port, known := c.flow.DstPort.Get()
		if !known || !l.inPorts(r, port) {
			return false
		}
	}
	if r.flags&hasProto != 0 {
		proto, known := c.flow.Proto.Get()
		if !known || protoBit(uint32(proto))&r.protos == 0 {
			return false
		}
	}
	return r.flags&hasTuple == 0 || l.tuples[r.ports].eval(c) == isTrue
}

// fails says whether what the record itself asks for is false.
func (l *layer) fails(r *record, c *facts) bool {
	if r.flags&(hasRange|hasPorts) != 0 {
		if port, known := c.flow.DstPort.Get(); known && !l.inPorts(r, port) {
			return true
		}
	}
	if r.flags&hasProto != 0 {
		if proto, known := c.flow.Proto.Get(); known && protoBit(uint32(proto))&r.protos == 0 {
			return true
		}
	}
	return r.flags&hasTuple != 0 && l.tuples[r.ports].eval(c) == isFalse
}

func (l *layer) inPorts(r *record, port uint16) bool {
	if r.flags&hasRange != 0 {
		return inPort(r.ports, port)
	}
	n := l.ports[r.ports]
	for _, packed := range l.ports[r.ports+1 : r.ports+1+n] {
		if inPort(packed, port) {
			return true
		}
	}
	return false
}

// hasWhen reports whether the rule asks for more than its match. Only rules that
// are evaluated do.
func (r *record) hasWhen() bool { return r.flags&needsEval != 0 && r.ports != 0 }

// negatesName is no field: of a rule it says that it negates a predicate of a name.
const negatesName = FieldSet(1 << 63)

// ruleFields are the fields that a rule reads, and negatesName.
func ruleFields(r *rules.Rule) FieldSet {
	s := fieldsOf(&r.Match, false)
	if r.When != nil {
		s |= fieldsOf(r.When, false)
	}
	return s
}

func fieldsOf(e *rules.Expr, negated bool) FieldSet {
	if e.Op == rules.OpPred {
		s := FieldSet(0).With(e.Pred.Field)
		if negated && s&nameFields != 0 {
			s |= negatesName
		}
		return s
	}
	var s FieldSet
	for i := range e.Kids {
		s |= fieldsOf(&e.Kids[i], negated != (e.Op == rules.OpNot))
	}
	return s
}

// reads returns the index of a set of fields.
func (b *builder) reads(s FieldSet) uint8 {
	b.fields |= s &^ negatesName
	if i := slices.Index(b.fieldSets, s); i >= 0 {
		return uint8(i)
	}
	if len(b.fieldSets) == readsAll {
		return readsAll
	}
	b.fieldSets = append(b.fieldSets, s)
	return uint8(len(b.fieldSets) - 1)
}
