package engine

import (
	"cmp"
	"slices"

	"netpolicy.dev/netpolicy/rules"
)

// rank is a rule's place in the total order: priority descending, specificity
// descending, source order.
type rank struct {
	priority int
	fields   int
	rest     uint32 // name, ip and port of the specificity, most significant first
	rule     uint32 // in source order
}

func rankOf(r *rules.Rule, i int) rank {
	s := r.Specificity()
	return rank{r.Priority, s.Fields, uint32(s.Name)<<16 | uint32(s.IP)<<8 | uint32(s.Port), uint32(i)}
}

// before is negative when a goes first. No two ranks of one policy are equal.
func (a rank) before(b rank) int {
	switch {
	case a.priority != b.priority:
		return cmp.Compare(b.priority, a.priority)
	case a.fields != b.fields:
		return cmp.Compare(b.fields, a.fields)
	case a.rest != b.rest:
		return cmp.Compare(b.rest, a.rest)
	default:
		return cmp.Compare(a.rule, b.rule)
	}
}

// orderOf returns the rules in source order as the total order has them, best first.
func orderOf(p *rules.Policy) []uint32 {
	list := make([]rank, len(p.Rules))
	for i := range p.Rules {
		list[i] = rankOf(&p.Rules[i], i)
	}
	slices.SortFunc(list, rank.before)
	order := make([]uint32, len(list))
	for i := range list {
		order[i] = list[i].rule
	}
	return order
}
