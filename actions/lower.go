package actions

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// maxTerms bounds the alternatives into which one rule's and/or/not is
// expanded. It only bounds what a hostile policy can ask for: a list is one
// condition however long, so real rules have one or two.
const maxTerms = 256

var errTerms = errors.New("more alternatives than the table takes for one rule")

// portProtos are the protocols whose header begins with two ports, as the
// kernel's `th sport` reads them: TCP, UDP, DCCP, SCTP, UDP-Lite.
var portProtos = []Range{{6, 6}, {17, 17}, {33, 33}, {132, 132}, {136, 136}}

// portSet is the table's set of them.
const portSet = "ported"

// HasPorts reports whether the protocol has ports for the table.
func HasPorts(proto uint8) bool {
	return slices.Contains(portProtos, Range{uint32(proto), uint32(proto)})
}

// term is one way in which a rule can be true at a flow's first packet: all of
// its parts must hold. A predicate that can't be known then has no term.
type term struct {
	matches []Match
	names   [][]rules.NamePattern // each list must match one of the address's DNS names
	world   []worldLit
}

// worldLit is a predicate over the world, negated or not.
type worldLit struct {
	pred    rules.Pred
	negated bool
}

// lowerer turns one rule's condition into terms. In negation normal form a
// predicate that is unknown makes the whole at most unknown where it stands
// alone, so leaving its alternative out gives "true" exactly where Kleene's
// logic does.
type lowerer struct {
	family  Family // what the terms are for
	host    *Host
	mask    uint32       // our packet mark bits: always 0 in a packet that comes in
	skipped map[int]bool // fields that the table can't look at
}

func (l *lowerer) expr(e *rules.Expr, negated bool) ([]term, error) {
	switch e.Op {
	case rules.OpPred:
		return l.pred(&e.Pred, negated), nil
	case rules.OpNot:
		return l.expr(&e.Kids[0], !negated)
	case rules.OpAnd, rules.OpOr:
		if (e.Op == rules.OpAnd) != negated {
			return l.all(e.Kids, negated)
		}
		var list []term
		for i := range e.Kids {
			ts, err := l.expr(&e.Kids[i], negated)
			if err != nil {
				return nil, err
			}
			if list = append(list, ts...); len(list) > maxTerms {
				return nil, errTerms
			}
		}
		return list, nil
	default:
		if negated {
			return nil, nil
		}
		return []term{{}}, nil
	}
}

// all is the conjunction: every combination of the kids' terms.
func (l *lowerer) all(kids []rules.Expr, negated bool) ([]term, error) {
	list := []term{{}}
	for i := range kids {
		ts, err := l.expr(&kids[i], negated)
		if err != nil {
			return nil, err
		}
		if len(list)*len(ts) > maxTerms {
			return nil, errTerms
		}
		var next []term
		for _, a := range list {
			for _, b := range ts {
				next = append(next, term{
					matches: slices.Concat(a.matches, b.matches),
					names:   slices.Concat(a.names, b.names),
					world:   slices.Concat(a.world, b.world),
				})
			}
		}
		list = next
	}
	return list, nil
}

func one(m Match) []term { return []term{{matches: []Match{m}}} }

func opOf(negated bool) Op {
	if negated {
		return Not
	}
	return Is
}

// pred lowers one predicate to its alternatives: none for never, an empty term
// for always.
func (l *lowerer) pred(p *rules.Pred, negated bool) []term {
	switch p.Field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		if negated || len(p.Names) == 0 {
			return nil // hints make a name true, never false
		}
		return []term{{names: [][]rules.NamePattern{p.Names}}}
	case rules.FieldDstIP:
		return l.prefixes(KeyDst, p.Prefixes, negated)
	case rules.FieldSrcIP:
		return l.prefixes(KeySrc, p.Prefixes, negated)
	case rules.FieldPort:
		return ports(KeyDstPort, p.Ports, negated)
	case rules.FieldSrcPort:
		return ports(KeySrcPort, p.Ports, negated)
	case rules.FieldProto:
		return numbers(Match{Key: KeyL4Proto}, p.Numbers, negated)
	case rules.FieldDSCP:
		return numbers(Match{Key: KeyDSCP, V6: l.family == IPv6}, p.Numbers, negated)
	case rules.FieldMark:
		ours := func(n uint32) bool { return n&l.mask != 0 }
		return numbers(Match{Key: KeyMark, Mask: ^l.mask}, slices.DeleteFunc(slices.Clone(p.Numbers), ours), negated)
	case rules.FieldIfaceIn:
		return iface(p.Globs, negated)
	case rules.FieldUser:
		return l.user(p, negated)
	case rules.FieldProcess, rules.FieldProcessPath, rules.FieldCgroup, rules.FieldGroup:
		l.skipped[int(p.Field)] = true
		if negated { // a forwarded flow has none: known to be absent
			return one(Match{Key: KeyIif, Op: Not, Nums: []Range{{0, 0}}})
		}
		return nil
	default:
		if p.Field.OfWorld() {
			return []term{{world: []worldLit{{*p, negated}}}}
		}
		l.skipped[int(p.Field)] = true
		return nil
	}
}

func (l *lowerer) prefixes(key Key, list []netip.Prefix, negated bool) []term {
	var own []netip.Prefix
	for _, p := range list {
		if p.Addr().Is4() == (l.family == IPv4) {
			own = append(own, p)
		}
	}
	own = disjoint(own)
	all := len(own) == 1 && own[0].Bits() == 0
	switch {
	case len(own) == 0 && !negated, all && negated:
		return nil
	case len(own) == 0, all:
		return one(l.ownFamily())
	default:
		return one(Match{Key: key, V6: l.family == IPv6, Op: opOf(negated), Prefixes: own})
	}
}

func (l *lowerer) ownFamily() Match {
	n := uint32(nfIPv4)
	if l.family == IPv6 {
		n = nfIPv6
	}
	return Match{Key: KeyNFProto, Nums: []Range{{n, n}}}
}

// disjoint sorts and drops what another prefix covers: interval sets refuse overlaps.
func disjoint(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range list {
		if n := len(out); n > 0 && out[n-1].Contains(p.Addr()) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func ports(key Key, list []rules.PortRange, negated bool) []term {
	var nums []Range
	for _, r := range list {
		nums = append(nums, Range{uint32(r.Lo), uint32(r.Hi)})
	}
	all := len(nums) == 1 && nums[0] == Range{0, 65535}
	has := Match{Key: KeyL4Proto, Set: portSet}
	none := Match{Key: KeyL4Proto, Op: Not, Set: portSet}
	switch {
	case !negated && len(nums) == 0:
		return nil
	case !negated && all:
		return one(has)
	case !negated:
		return []term{{matches: []Match{has, {Key: key, Nums: nums}}}}
	case len(nums) == 0:
		return []term{{}}
	case all:
		return one(none) // no port at all: `not` is true
	default:
		return []term{{matches: []Match{has, {Key: key, Op: Not, Nums: nums}}}, {matches: []Match{none}}}
	}
}

func numbers(m Match, list []uint32, negated bool) []term {
	if len(list) == 0 {
		if negated {
			return []term{{}}
		}
		return nil
	}
	m.Op = opOf(negated)
	for _, n := range list {
		m.Nums = append(m.Nums, Range{n, n})
	}
	return one(m)
}

// iface lowers iface.in. The host's own packets have no incoming interface;
// for nft its name is then empty.
func iface(list []rules.Glob, negated bool) []term {
	m := Match{Key: KeyIifname, Op: opOf(negated)}
	for _, g := range list {
		if g != "" && len(g) < ifNameSize && !strings.ContainsAny(string(g), "*\"/ ") {
			m.Texts = append(m.Texts, string(g))
		}
	}
	slices.Sort(m.Texts)
	m.Texts = slices.Compact(m.Texts)
	if len(m.Texts) == 0 {
		if negated {
			return []term{{}}
		}
		return nil
	}
	return one(m)
}

// ifNameSize is IFNAMSIZ: an interface name is shorter.
const ifNameSize = 16

// user lowers `user` to numbers. A forwarded flow has no user: known to be absent.
func (l *lowerer) user(p *rules.Pred, negated bool) []term {
	uids, known := l.uids(p.Globs)
	if !known {
		l.skipped[int(p.Field)] = true
	}
	var list []term
	if negated {
		list = one(Match{Key: KeyIif, Op: Not, Nums: []Range{{0, 0}}})
	}
	if known && len(uids) > 0 {
		list = append(list, one(Match{Key: KeyUID, Op: opOf(negated), Nums: uids})...)
	} else if known && negated {
		list = append(list, one(Match{Key: KeyUID, Nums: []Range{{0, 1<<32 - 1}}})...)
	}
	return list
}

// uids returns the numbers of the users that match, and false when that can't
// be listed: a glob that may match numbers without a name.
func (l *lowerer) uids(list []rules.Glob) ([]Range, bool) {
	named := make(map[uint32]bool, len(l.host.Users))
	for _, uid := range l.host.Users {
		named[uid] = true
	}
	var ids []uint32
	for _, g := range list {
		rest := strings.Trim(strings.ReplaceAll(string(g), "*", ""), "0123456789")
		if strings.Contains(string(g), "*") && rest == "" {
			return nil, false
		}
		if n, err := strconv.ParseUint(string(g), 10, 32); err == nil && !named[uint32(n)] {
			ids = append(ids, uint32(n))
		}
		for _, name := range sortedKeys(l.host.Users) {
			if g.Match(name) {
				ids = append(ids, l.host.Users[name])
			}
		}
	}
	slices.Sort(ids)
	var nums []Range
	for _, n := range slices.Compact(ids) {
		nums = append(nums, Range{n, n})
	}
	return nums, true
}

// lowerRule returns the rule's terms for both families, merged where the
// family does not matter, and the fields that were left out.
func lowerRule(r *rules.Rule, h *Host, mask uint32) ([]term, []rules.Field, error) {
	if r.Active == 0 {
		return nil, nil, nil
	}
	l := lowerer{family: IPv4, host: h, mask: mask, skipped: map[int]bool{}}
	match := &r.Match
	if r.When != nil {
		match = &rules.Expr{Op: rules.OpAnd, Kids: []rules.Expr{r.Match, *r.When}}
	}
	terms, err := l.expr(match, false)
	if err != nil {
		return nil, nil, err
	}
	if readsFamily(match) {
		for i := range terms {
			terms[i].pin(l.ownFamily())
		}
		l.family = IPv6
		more, err := l.expr(match, false)
		if err != nil {
			return nil, nil, err
		}
		for i := range more {
			more[i].pin(l.ownFamily())
		}
		terms = append(terms, more...)
	}
	for i := range terms {
		if r.Active != state.AllStates {
			terms[i].world = append(terms[i].world, worldLit{rules.Pred{Field: rules.FieldState, States: r.Active}, false})
		}
		terms[i].dropDoubles()
	}
	var left []rules.Field
	for f := range int(rules.FieldState) {
		if l.skipped[f] {
			left = append(left, rules.Field(f))
		}
	}
	return terms, left, nil
}

func readsFamily(e *rules.Expr) bool {
	if e.Op == rules.OpPred {
		switch e.Pred.Field {
		case rules.FieldDstIP, rules.FieldSrcIP, rules.FieldDSCP:
			return true
		}
	}
	return slices.ContainsFunc(e.Kids, func(k rules.Expr) bool { return readsFamily(&k) })
}

// pin makes sure that the term only holds in the family it was made for: a
// match on an address or DSCP implies it.
func (t *term) pin(own Match) {
	for _, m := range t.matches {
		switch m.Key {
		case KeySrc, KeyDst, KeyDSCP:
			return
		}
	}
	t.matches = slices.Insert(t.matches, 0, own)
}

// dropDoubles leaves out equal matches, as two port conditions bring, and the
// test for ports where the protocols asked for all have them.
func (t *term) dropDoubles() {
	var out []Match
	ported := slices.ContainsFunc(t.matches, func(m Match) bool {
		return m.Key == KeyL4Proto && m.Op == Is && len(m.Nums) > 0 &&
			!slices.ContainsFunc(m.Nums, func(r Range) bool { return !slices.Contains(portProtos, r) })
	})
	t.matches = slices.DeleteFunc(t.matches, func(m Match) bool { return ported && m.Op == Is && m.Set == portSet })
	seen := map[string]bool{}
	for i := range t.matches {
		text := (&Rule{If: t.matches[i : i+1]}).String()
		if !seen[text] {
			seen[text] = true
			out = append(out, t.matches[i])
		}
	}
	t.matches = out
}

// String spells a world predicate for the key of its guard.
func (w worldLit) String() string {
	p := &w.pred
	return fmt.Sprintf("%v %d %d %d %d %d %d", w.negated, p.Field, p.States, p.Cmp, p.Bound, p.Ref, p.Metric)
}
