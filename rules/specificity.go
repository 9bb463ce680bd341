package rules

import (
	"cmp"
	"fmt"
	"math/bits"
)

// Specificity ranks rules of equal priority: compared left to right, the higher
// comes first. The zero value is that of `any`.
type Specificity struct {
	Fields int // how many predicates hold together
	Name   int // sni, domain, http.host: exact 4, .x and *.x 3, other globs 2, keywords and regexes 1
	IP     int // prefix length, IPv4 + 96
	Port   int // destination ports: 16 - floor(log2(how many))
}

// Compare returns -1, 0 or +1: a positive result means that s is more specific than o.
func (s Specificity) Compare(o Specificity) int {
	return cmp.Or(cmp.Compare(s.Fields, o.Fields), cmp.Compare(s.Name, o.Name),
		cmp.Compare(s.IP, o.IP), cmp.Compare(s.Port, o.Port))
}

// String returns the tuple as explanations show it: "(2,3,0,0)".
func (s Specificity) String() string {
	return fmt.Sprintf("(%d,%d,%d,%d)", s.Fields, s.Name, s.IP, s.Port)
}

// Components are the names of the tuple's parts, in order.
func (Specificity) Components() [4]string { return [4]string{"fields", "name", "ip", "port"} }

// Specificity returns the rank of the rule's match. It does not depend on how
// the match is spelled: `not` is pushed down to the predicates, nested `and`s
// are flattened, and a list is one predicate.
func (r *Rule) Specificity() Specificity { return specificity(r.Match, false) }

func specificity(e Expr, negated bool) Specificity {
	var c conjunction
	c.add(e, negated)
	c.spec.Fields += bits.OnesCount64(c.seen)
	return c.spec
}

// conjunction gathers the direct predicates of flattened `and`s.
type conjunction struct {
	seen uint64 // the fields of direct predicates, bit i for Field i
	spec Specificity
}

func (c *conjunction) add(e Expr, negated bool) {
	switch {
	case e.Op == OpAny:
	case e.Op == OpNot:
		for _, k := range e.Kids {
			c.add(k, !negated)
		}
	case e.Op == OpPred:
		c.seen |= 1 << e.Pred.Field
		if !negated {
			c.max(e.Pred.specificity())
		}
	case e.Op == OpAnd && !negated, e.Op == OpOr && negated, len(e.Kids) == 1: // of one kid, `or` is `and`
		for _, k := range e.Kids {
			c.add(k, negated)
		}
	default:
		least := specificityOfAny(e.Kids, negated)
		c.spec.Fields += least.Fields
		c.max(least)
	}
}

// max raises name, ip and port; fields are summed by the caller.
func (c *conjunction) max(s Specificity) {
	c.spec.Name = max(c.spec.Name, s.Name)
	c.spec.IP = max(c.spec.IP, s.IP)
	c.spec.Port = max(c.spec.Port, s.Port)
}

// specificityOfAny is the component-wise minimum: an `or` can't make a rule more specific.
func specificityOfAny(kids []Expr, negated bool) Specificity {
	if len(kids) == 0 {
		return Specificity{}
	}
	least := specificity(kids[0], negated)
	for _, k := range kids[1:] {
		s := specificity(k, negated)
		least = Specificity{min(least.Fields, s.Fields), min(least.Name, s.Name), min(least.IP, s.IP), min(least.Port, s.Port)}
	}
	return least
}

// specificity is the predicate's own value, without its field.
func (p *Pred) specificity() Specificity {
	var s Specificity
	if p.Set != nil && p.Set.List != (ListRef{}) { // so that a refreshed list never re-orders rules
		if p.Set.Type == DomainSet {
			s.Name = 3
		}
		return s
	}
	switch p.Field {
	case FieldSNI, FieldDomain, FieldHTTPHost:
		for i, n := range p.Names {
			if v := n.Kind.specificity(); i == 0 || v < s.Name {
				s.Name = v
			}
		}
	case FieldDstIP, FieldSrcIP:
		for i, prefix := range p.Prefixes {
			v := prefix.Bits()
			if prefix.Addr().Is4() {
				v += 96
			}
			if i == 0 || v < s.IP {
				s.IP = v
			}
		}
	case FieldPort:
		n := 0
		for _, r := range p.Ports {
			n += int(r.Hi) - int(r.Lo) + 1
		}
		if n > 0 {
			s.Port = max(0, 17-bits.Len(uint(n)))
		}
	}
	return s
}

func (k PatternKind) specificity() int {
	switch k {
	case Exact:
		return 4
	case Suffix, Subdomain:
		return 3
	case GlobName:
		return 2
	default:
		return 1
	}
}
