package engine

import (
	"cmp"

	"netpolicy.dev/netpolicy/rules"
)

// rank is a rule's place in the total order: priority descending, specificity
// descending, source order.
type rank struct {
	priority int
	fields   int
	rest     uint32 // name, ip and port of the specificity, most significant first
	rule     uint32 // in source order
	at       uint32 // its place in a list that is being sorted
}

func rankOf(r *rules.Rule, i int) rank {
	s := r.Specificity()
	return rank{r.Priority, s.Fields, uint32(s.Name)<<16 | uint32(s.IP)<<8 | uint32(s.Port), uint32(i), 0}
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
