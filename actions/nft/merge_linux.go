package nft

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// field is a condition that some bytes of the transport header have one value.
type field struct {
	match int // which of the rule's conditions it was
	at    uint32
	value []byte
	drop  bool // it is part of another one now
}

// merged joins conditions on neighbouring ports into one, as nft does: the kernel
// then compares both in one step. It returns what becomes of each condition on one
// port, nil where nothing is joined.
func merged(list []actions.Match) []field {
	var found []field
	for i := range list {
		m := &list[i]
		port := m.Key == actions.KeySrcPort || m.Key == actions.KeyDstPort
		if !port || m.Op != actions.Is || m.Set != "" || len(m.Nums) != 1 || m.Nums[0].Lo != m.Nums[0].Hi {
			continue
		}
		n := portType.number(m.Nums[0].Lo, true)
		found = append(found, field{match: i, at: portAt(m.Key), value: n[:portType.size:portType.size]})
	}
	if len(found) < 2 {
		return nil
	}
	slices.SortStableFunc(found, func(a, b field) int { return cmp.Compare(a.at, b.at) })
	last, any := 0, false
	for i := 1; i < len(found); i++ {
		f, into := &found[i], &found[last]
		if f.at != into.at+uint32(len(into.value)) {
			last = i
			continue
		}
		into.value = append(into.value, f.value...)
		f.drop, any = true, true
	}
	if !any {
		return nil
	}
	return found
}

// join writes the condition that match i has become, and reports whether that is another.
func (e *encoder) join(list []field, i int) bool {
	for k := range list {
		f := &list[k]
		if f.match != i {
			continue
		}
		if !f.drop {
			e.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, f.at, uint32(len(f.value)), reg1)
			e.cmp(unix.NFT_CMP_EQ, f.value...)
		}
		return true
	}
	return false
}
