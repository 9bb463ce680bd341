package actions

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// preparedClasses bounds the chains made beforehand for names: with them a
	// load stays in the seconds, and the rest are made when first needed.
	preparedClasses = 4096
	// maxClasses bounds all of them: names come from outside, and chains stay
	// until the next reload.
	maxClasses = 16384
)

// ErrClasses means that DNS answers have asked for more combinations of name
// rules than the table takes; planning anew forgets the old ones.
var ErrClasses = errors.New("too many combinations of name rules in one table")

// nameIndex finds the alternatives that hold for an address's DNS names.
type nameIndex struct {
	patternIndex
	alts  []*alt    // of the whole policy, in order
	terms []int     // those that ask for names
	mods  []modRule // all rules with modifiers alone, in order
	named bool      // some of mods ask for names
	made  int       // class chains in the table
}

func newNameIndex() *nameIndex { return &nameIndex{patternIndex: newPatternIndex()} }

// take takes an alternative in. Its first list of patterns finds it; the others are checked then.
func (x *nameIndex) take(i int) {
	x.terms = append(x.terms, i)
	for _, p := range x.alts[i].t.names[0] {
		x.add(p, i)
	}
}

// find returns the alternatives that hold for names, in order.
func (x *nameIndex) find(names flow.Names) []int { return x.sure(x.all(names), names) }

// sure sorts hits, and drops those of which another list of names does not hold.
func (x *nameIndex) sure(hits []int, names flow.Names) []int {
	slices.Sort(hits)
	return slices.DeleteFunc(slices.Compact(hits), func(i int) bool { return !x.alts[i].t.named(names) })
}

// named reports whether each of the term's lists matches one of names.
func (t *term) named(names flow.Names) bool {
	for _, list := range t.names {
		if !matchesAny(list, names) {
			return false
		}
	}
	return true
}

func matchesAny(list []rules.NamePattern, names flow.Names) bool {
	for name := range names.All() {
		for i := range list {
			if list[i].Match(name) {
				return true
			}
		}
	}
	return false
}

// Maps of single addresses that are known by names: those whose names settle the
// decision have its candidate as their rank, those whose rules ask more lead to
// the chain of their class. An address is in one of them. The chains' names say
// what they hold, so that a daemon that starts anew can leave the elements.
var (
	rankMaps  = [2]string{"dhost4", "dhost6"}
	chainMaps = [2]string{"chost4", "chost6"}
	modMaps   = [2]string{"mhost4", "mhost6"} // the same for rules that only set modifiers
)

// classMap leads from a class number, which intervals of addresses have in place
// of a candidate, to the chain.
const classMap = "dcls"

// hosts reports whether names can decide.
func (p *Plan) hosts() bool { return len(p.names.terms) > 0 }

// at reports whether the alternative's conditions on the destination hold for addr.
func (a *alt) at(addr netip.Addr) bool {
	for i := range a.dst {
		in := slices.ContainsFunc(a.dst[i].Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
		if in != (a.dst[i].Op == Is) {
			return false
		}
	}
	return true
}

// holding returns what can hold for addr, known by names, up to the first that
// asks nothing more; nil when no alternative asks for these names.
func (p *Plan) holding(addr netip.Addr, names flow.Names) []*entry {
	fi := 0
	if addr.Is6() {
		fi = 1
	}
	x := p.names
	hits := slices.DeleteFunc(x.find(names), func(i int) bool { return x.alts[i].entries[fi] == nil || !x.alts[i].at(addr) })
	if len(hits) == 0 {
		return nil
	}
	hits = append(hits, p.layout.here[fi].at(addr)...)
	slices.Sort(hits)
	return p.firsts(hits, fi)
}

func (p *Plan) firsts(alts []int, fi int) []*entry {
	var list []*entry
	for _, i := range alts {
		e := p.names.alts[i].entries[fi]
		list = append(list, e)
		if len(e.conds) == 0 {
			break
		}
	}
	return list
}

// modClass returns the chains that record modifiers for names in place of the
// general chain; "" for none.
func (p *Plan) modClass(names flow.Names) (mods string, chains []Chain) {
	x := p.names
	if !x.named {
		return "", nil
	}
	var held []modRule
	some := false
	for _, m := range x.mods {
		var terms []term
		for _, t := range m.terms {
			if t.named(names) {
				terms = append(terms, t)
				some = some || len(t.names) > 0
			}
		}
		m.terms = terms
		held = append(held, m)
	}
	if !some {
		return "", nil
	}
	var all []Rule
	for _, c := range p.modChains("", held) {
		all = append(all, c.Rules...)
	}
	mods = "m_" + digest(all)
	return mods, p.modChains(mods, held)
}

// Answer returns the updates for a DNS answer: addr is now known by names (all
// its live names) for ttl. It is one element for the decision; where name rules
// only set modifiers, one more for those. A combination of rules that has not
// been met yet needs a new chain first, and the number of its class.
func (p *Plan) Answer(addr netip.Addr, names flow.Names, ttl time.Duration) ([]Update, error) {
	if p.Table.XT != nil {
		return p.xanswer(addr, names, ttl), nil
	}
	if p.names == nil || !p.hosts() && !p.names.named {
		return nil, nil
	}
	addr = addr.Unmap()
	fi := 0
	if addr.Is6() {
		fi = 1
	}
	var list []Update
	put := func(c Chain) error {
		if p.names.made >= maxClasses {
			return fmt.Errorf("plan names of %s: %w", addr, ErrClasses)
		}
		p.names.made++
		p.chains[c.Name] = true
		list = append(list, Update{Kind: PutChain, Chain: c})
		return nil
	}
	if p.hosts() {
		rank, chain := "", ""
		switch held := p.holding(addr, names); {
		case len(held) == 0:
		case len(held[0].conds) == 0:
			rank = fmt.Sprintf("%#x", held[0].value)
		default:
			name := chainName(held, false)
			if !p.chains[name] {
				if err := put(Chain{Name: name, Rules: row(held, false, p.layout.forest.start)}); err != nil {
					return nil, err
				}
			}
			chain = "jump " + name
		}
		list = append(list, hostUpdate(rankMaps[fi], addr, rank, ttl), hostUpdate(chainMaps[fi], addr, chain, ttl))
	}
	if p.names.named {
		value, chains := p.modClass(names)
		for _, c := range chains {
			if p.chains[c.Name] {
				continue
			}
			if err := put(c); err != nil {
				return nil, err
			}
		}
		if value != "" {
			value = "goto " + value
		}
		list = append(list, hostUpdate(modMaps[fi], addr, value, ttl))
	}
	return list, nil
}

func hostUpdate(set string, addr netip.Addr, value string, ttl time.Duration) Update {
	u := Update{Kind: DelElem, Set: set, Map: true, Elem: Elem{Key: addr.String()}}
	if value != "" {
		u.Kind = PutElem
		u.Elem.Value, u.Elem.Timeout = value, max(ttl, time.Second)
	}
	return u
}

// prepare makes the classes that a single pattern's names give to an address
// that has no rules of its own, as far as no pattern with an asterisk is needed
// for that.
func (p *Plan) prepare() {
	x := p.names
	for _, i := range x.terms {
		asks := func(e *entry) bool { return e != nil && len(e.conds) > 0 }
		if !slices.ContainsFunc(x.alts[i].entries[:], asks) {
			continue
		}
		for _, list := range x.alts[i].t.names {
			for _, pattern := range list {
				for _, name := range samples(pattern) {
					if x.made >= preparedClasses {
						return
					}
					p.prepareName(flow.NewNames(name))
				}
			}
		}
	}
	for _, m := range x.mods {
		for _, t := range m.terms {
			for _, list := range t.names {
				for _, pattern := range list {
					for _, name := range samples(pattern) {
						if x.made < preparedClasses {
							p.prepareMods(flow.NewNames(name))
						}
					}
				}
			}
		}
	}
}

func (p *Plan) prepareName(names flow.Names) {
	hits := p.names.sure(p.names.indexed(names), names)
	for fi, f := range families {
		own := slices.DeleteFunc(slices.Clone(hits), func(i int) bool {
			return p.names.alts[i].entries[fi] == nil || len(p.names.alts[i].dst) > 0
		})
		if held := p.firsts(own, fi); len(held) > 0 && len(held[0].conds) > 0 {
			before := len(p.layout.forest.out)
			p.layout.forest.chain(held, f, false)
			p.names.made += len(p.layout.forest.out) - before
		}
	}
}

func (p *Plan) prepareMods(names flow.Names) {
	_, chains := p.modClass(names)
	for _, c := range chains {
		if !p.chains[c.Name] {
			p.chains[c.Name] = true
			p.names.made++
			p.Table.Chains = append(p.Table.Chains, c)
		}
	}
}

// samples are names that a pattern matches, each standing for its like.
func samples(p rules.NamePattern) []string {
	switch p.Kind {
	case rules.Exact:
		return []string{p.Name}
	case rules.Suffix:
		return []string{p.Name, "x." + p.Name}
	case rules.Subdomain:
		return []string{"x." + p.Name}
	default:
		return []string{strings.ReplaceAll(p.Name, "*", "x")}
	}
}
