package engine

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// compiled is one rule, ready to be evaluated: the conjunction of its literals
// and of what is left over.
type compiled struct {
	rule     *rules.Rule
	index    int // in source order
	literals []literal
	rest     []rules.Expr // conditions that are not literals: or, and under not
	names    bool         // reads sni, domain or http.host
}

type literal struct {
	pred    *rules.Pred
	negated bool
}

// guard settles most rules without a look at their conditions. It holds one
// predicate that must be true for the rule to be true, as bits of a fact.
type guard struct {
	value, mask uint64
	fields      FieldSet // all that the rule reads
	slot        uint8
	active      state.Set
	primary     bool // the rule has a primary action
	skip        bool // on_unknown skip
}

// Compile prepares a checked policy for deciding. It can't fail.
//
// The order is total: priority descending, specificity descending, source order.
func Compile(p *rules.Policy) *Program {
	prog := &Program{
		policy: p,
		order:  make([]int, len(p.Rules)),
		specs:  make([]rules.Specificity, len(p.Rules)),
		rules:  make([]compiled, len(p.Rules)),
		guards: make([]guard, len(p.Rules)),
	}
	for i := range p.Rules {
		prog.order[i] = i
		prog.specs[i] = p.Rules[i].Specificity()
	}
	slices.SortStableFunc(prog.order, func(a, b int) int {
		return cmp.Or(
			cmp.Compare(p.Rules[b].Priority, p.Rules[a].Priority),
			prog.specs[b].Compare(prog.specs[a]),
		)
	})
	for pos, i := range prog.order {
		c := compiled{rule: &p.Rules[i], index: i}
		c.add(&p.Rules[i].Match, false)
		prog.rules[pos] = c
		prog.guards[pos] = guardOf(&c)
	}
	return prog
}

// add takes e, negated or not, into the conjunction. Nested ands are flattened.
func (c *compiled) add(e *rules.Expr, negated bool) {
	switch e.Op {
	case rules.OpAny:
		if negated {
			c.rest = append(c.rest, rules.Expr{Op: rules.OpOr}) // an empty `or` is false
		}
	case rules.OpPred:
		c.literals = append(c.literals, literal{&e.Pred, negated})
		c.names = c.names || readsName(e)
	case rules.OpNot:
		c.add(&e.Kids[0], !negated)
	case rules.OpAnd:
		if negated {
			c.rest = append(c.rest, rules.Expr{Op: rules.OpNot, Kids: []rules.Expr{*e}})
			c.names = c.names || readsName(e)
			return
		}
		for i := range e.Kids {
			c.add(&e.Kids[i], false)
		}
	case rules.OpOr:
		if negated { // not (a or b) = not a and not b
			for i := range e.Kids {
				c.add(&e.Kids[i], true)
			}
			return
		}
		c.rest = append(c.rest, *e)
		c.names = c.names || readsName(e)
	}
}

func readsName(e *rules.Expr) bool {
	if e.Op == rules.OpPred {
		return e.Pred.Field == rules.FieldSNI || e.Pred.Field == rules.FieldDomain || e.Pred.Field == rules.FieldHTTPHost
	}
	return slices.ContainsFunc(e.Kids, func(k rules.Expr) bool { return readsName(&k) })
}

// guardOf picks the literal whose guard looks at the most bits.
func guardOf(c *compiled) guard {
	best := guard{slot: slotNone}
	for _, l := range c.literals {
		if l.negated {
			continue
		}
		if g := literalGuard(l.pred); bits.OnesCount64(g.mask) > bits.OnesCount64(best.mask) {
			best = g
		}
	}
	best.active, best.fields = c.rule.Active, fieldsOf(&c.rule.Match)
	best.primary, best.skip = c.rule.Do.Kind != rules.ActNone, c.rule.OnUnknown == rules.Skip
	return best
}

func fieldsOf(e *rules.Expr) FieldSet {
	if e.Op == rules.OpPred {
		return FieldSet(0).With(e.Pred.Field)
	}
	var s FieldSet
	for i := range e.Kids {
		s |= fieldsOf(&e.Kids[i])
	}
	return s
}

// literalGuard keeps the bits on which every element of the predicate agrees.
func literalGuard(p *rules.Pred) guard {
	var g common
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		return nameGuard(p)
	case rules.FieldDstIP, rules.FieldSrcIP:
		for _, n := range p.Prefixes {
			g.add(addrWord(n.Addr()), prefixMask(n.Addr().Is4(), n.Bits()))
		}
	case rules.FieldPort, rules.FieldSrcPort:
		for _, r := range p.Ports {
			// The bits above the highest one in which the ends differ are shared by all between.
			g.add(uint64(r.Lo), 0xffff&(^uint64(0)<<bits.Len16(r.Lo^r.Hi)))
		}
	case rules.FieldProto:
		for _, n := range p.Numbers {
			g.add(uint64(n), 0xff)
		}
	}
	return guard{value: g.value, mask: g.mask, slot: slotOf(p.Field)}
}

// nameGuard compares the hash of as many last labels as every pattern has.
func nameGuard(p *rules.Pred) guard {
	depth := nameDepth
	for _, n := range p.Names {
		if n.Kind == rules.GlobName {
			return guard{}
		}
		depth = min(depth, strings.Count(n.Name, ".")+1)
	}
	var g common
	for _, n := range p.Names {
		var words [nameDepth]uint64
		suffixes(words[:], n.Name)
		g.add(words[depth-1], ^uint64(0))
	}
	return guard{value: g.value, mask: g.mask, slot: uint8(nameField(p.Field)*nameDepth + depth - 1)}
}

// nameField is the field's place in facts.names.
func nameField(f rules.Field) int {
	switch f {
	case rules.FieldSNI:
		return 0
	case rules.FieldDomain:
		return 1
	default:
		return 2
	}
}

func slotOf(f rules.Field) uint8 {
	switch f {
	case rules.FieldDstIP:
		return slotDst
	case rules.FieldSrcIP:
		return slotSrc
	case rules.FieldPort:
		return slotPort
	case rules.FieldSrcPort:
		return slotSrcPort
	default:
		return slotProto
	}
}

func prefixMask(v4 bool, length int) uint64 {
	if v4 {
		length += 32 // the tag above the address
	}
	return ^uint64(0) << (64 - min(length, 64))
}

// common gathers what all added words have in common.
type common struct {
	value, mask uint64
	some        bool
}

func (g *common) add(value, mask uint64) {
	if !g.some {
		g.value, g.mask, g.some = value, mask, true
		return
	}
	g.mask &= mask &^ (g.value ^ value)
}

// verdict is what a guard knows of its rule.
type verdict uint8

const (
	guardFalse verdict = iota // the rule is false
	guardOpen                 // the rule is not true
	guardEval                 // ask the rule
)

func (g *guard) check(c *facts) verdict {
	if !g.active.Has(c.state) {
		return guardFalse
	}
	switch c.known[g.slot] {
	case slotValue:
		if (c.word[g.slot]^g.value)&g.mask != 0 {
			return guardFalse
		}
		return guardEval
	case slotAbsent:
		return guardFalse
	case slotUnknown:
		return guardOpen
	case slotHints:
		for i := range c.nHint {
			if (c.hints[i][g.slot%nameDepth]^g.value)&g.mask == 0 {
				return guardEval
			}
		}
		return guardOpen
	default:
		return guardEval
	}
}

// eval evaluates the whole rule; its states have been checked.
func (r *compiled) eval(c *facts) tri {
	v := isTrue
	for i := range r.literals {
		v = min(v, r.literals[i].eval(c))
		if v == isFalse {
			return v
		}
	}
	for i := range r.rest {
		v = min(v, c.expr(&r.rest[i]))
		if v == isFalse {
			return v
		}
	}
	return v
}

func (l *literal) eval(c *facts) tri {
	v := c.pred(l.pred)
	if l.negated {
		return not(v)
	}
	return v
}

// expr evaluates a condition. Its depth is bounded by the parser.
func (c *facts) expr(e *rules.Expr) tri {
	switch e.Op {
	case rules.OpPred:
		return c.pred(&e.Pred)
	case rules.OpNot:
		return not(c.expr(&e.Kids[0]))
	case rules.OpAnd:
		v := isTrue
		for i := range e.Kids {
			if v = min(v, c.expr(&e.Kids[i])); v == isFalse {
				break
			}
		}
		return v
	case rules.OpOr:
		v := isFalse
		for i := range e.Kids {
			if v = max(v, c.expr(&e.Kids[i])); v == isTrue {
				break
			}
		}
		return v
	default:
		return isTrue
	}
}
