package actions

import (
	"net/netip"
	"slices"
	"strings"
)

const (
	// listPrefix begins the names of the sets that hold rules' lists; a digest of
	// what they hold follows.
	listPrefix = "l_"
	// maxLists bounds them: the kernel finds a set by reading the list of sets.
	// Beyond it, lists of up to maxSpread elements become rules of their own.
	maxLists  = 1000
	maxSpread = 16
)

// setTypes are the types of sets for the keys whose lists can be many and long.
// The others stay nameless; `ip6 dscp @set` would be wrong even: nft 1.0.6
// compares it with a key of another length.
var setTypes = map[Key]string{KeyL4Proto: "inet_proto", KeySrcPort: "inet_service", KeyDstPort: "inet_service"}

// spread gives each of the term's lists a set, or, where there are too many
// already, puts one condition for each element in its place: alternatives for
// "one of", one after the other for "none of".
func (p *Plan) spread(t term) []term {
	for j := range t.matches {
		if p.intern(&t.matches[j]) {
			continue
		}
		singles := t.matches[j].singles()
		if t.matches[j].Op == Not {
			t.matches = slices.Concat(t.matches[:j], singles, t.matches[j+1:])
			return p.spread(t)
		}
		var list []term
		for _, m := range singles {
			one := t
			one.matches = slices.Clone(t.matches)
			one.matches[j] = m
			list = append(list, p.spread(one)...)
		}
		return list
	}
	return []term{t}
}

// singles returns one match for each element.
func (m *Match) singles() []Match {
	var list []Match
	add := func(one Match) {
		one.Key, one.V6, one.Mask, one.Op = m.Key, m.V6, m.Mask, m.Op
		list = append(list, one)
	}
	for i := range m.Nums {
		add(Match{Nums: m.Nums[i : i+1]})
	}
	for i := range m.Prefixes {
		add(Match{Prefixes: m.Prefixes[i : i+1]})
	}
	for i := range m.Texts {
		add(Match{Texts: m.Texts[i : i+1]})
	}
	return list
}

// intern gives a match on several elements a set with a name, shared by equal
// lists, and returns false where it should be spread instead. Nameless sets
// would be slower by far: for each the kernel looks for a free name by reading
// all the others (10,000 of them: half a minute).
func (p *Plan) intern(m *Match) bool {
	elems := m.elems()
	if len(elems) < 2 || m.Set != "" {
		return true
	}
	typ := setTypes[m.Key]
	if m.Key == KeySrc || m.Key == KeyDst {
		typ = "ipv4_addr"
		if m.V6 {
			typ = "ipv6_addr"
		}
	}
	if typ == "" {
		return true
	}
	key := typ + " " + strings.Join(elems, " ")
	name, ok := p.listOf[key]
	if !ok {
		if len(p.lists) >= maxLists && len(elems) <= maxSpread {
			return false
		}
		s := Set{Name: listPrefix + digestText([]string{key}), Type: "type " + typ}
		for _, e := range elems {
			s.Elems = append(s.Elems, Elem{Key: e})
		}
		s.Ranges = slices.ContainsFunc(m.Nums, func(r Range) bool { return r.Lo != r.Hi }) ||
			slices.ContainsFunc(m.Prefixes, func(x netip.Prefix) bool { return !x.IsSingleIP() })
		name = s.Name
		p.listOf[key] = name
		p.lists = append(p.lists, s)
	}
	m.Set = name
	return true
}
