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

// nameTerm is one alternative of a rule that asks for names.
type nameTerm struct {
	bound uint32 // the rule's candidate
	term  term
}

// nameIndex finds the terms that hold for an address's DNS names.
type nameIndex struct {
	terms  []nameTerm // in the policy's order
	exact  map[string][]int
	suffix map[string][]int // the name and what is under it
	under  map[string][]int // only what is under it
	globs  []globTerm
	mods   []modRule // all rules with modifiers alone, in order
	named  bool      // some of mods ask for names
	made   int       // class chains in the table
}

type globTerm struct {
	pattern rules.NamePattern
	term    int
}

func newNameIndex() *nameIndex {
	return &nameIndex{exact: map[string][]int{}, suffix: map[string][]int{}, under: map[string][]int{}}
}

// add takes a term in. Its first list of patterns finds it; the others are checked then.
func (x *nameIndex) add(t nameTerm) {
	i := len(x.terms)
	x.terms = append(x.terms, t)
	for _, p := range t.term.names[0] {
		switch p.Kind {
		case rules.Exact:
			x.exact[p.Name] = append(x.exact[p.Name], i)
		case rules.Suffix:
			x.suffix[p.Name] = append(x.suffix[p.Name], i)
		case rules.Subdomain:
			x.under[p.Name] = append(x.under[p.Name], i)
		default:
			x.globs = append(x.globs, globTerm{p, i})
		}
	}
}

// find returns the terms that hold for names, in order, up to the first that
// has no other condition.
func (x *nameIndex) find(names flow.Names) []int {
	var hits []int
	for name := range names.All() {
		hits = append(hits, x.exact[name]...)
		hits = append(hits, x.suffix[name]...)
		for rest := name; ; {
			_, parent, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			hits = append(hits, x.suffix[parent]...)
			hits = append(hits, x.under[parent]...)
			rest = parent
		}
		for _, g := range x.globs {
			if g.pattern.Match(name) {
				hits = append(hits, g.term)
			}
		}
	}
	slices.Sort(hits)
	var out []int
	for _, i := range slices.Compact(hits) {
		t := &x.terms[i].term
		if !t.named(names) {
			continue
		}
		out = append(out, i)
		if len(t.matches) == 0 && len(t.world) == 0 {
			break
		}
	}
	return out
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

// class returns the chains for names: the first decides, "" for none; the
// second records modifiers in place of the general chain, "" for none.
func (p *Plan) class(names flow.Names) (decide, mods string, chains []Chain) {
	x := p.names
	if hits := x.find(names); len(hits) > 0 {
		var c Chain
		for _, i := range hits {
			t := &x.terms[i]
			c.Rules = append(c.Rules, Rule{
				If: p.conditions(&t.term),
				Do: []Stmt{{Kind: SetRank, Value: t.bound}, {Kind: Return}},
			})
		}
		c.Name = "c_" + digest(c.Rules)
		decide, chains = c.Name, append(chains, c)
	}
	if !x.named {
		return decide, "", chains
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
	if some {
		var all []Rule
		for _, c := range p.modChains("", held) {
			all = append(all, c.Rules...)
		}
		mods = "m_" + digest(all)
		list := p.modChains(mods, held)
		chains = append(chains, list...)
	}
	return decide, mods, chains
}

// Answer returns the updates for a DNS answer: addr is now known by names (all
// its live names) for ttl. It is one element for the decision; where name rules
// only set modifiers, one more for those. A combination of rules that no single
// pattern gives needs a new chain first.
func (p *Plan) Answer(addr netip.Addr, names flow.Names, ttl time.Duration) ([]Update, error) {
	if p.names == nil || len(p.names.terms) == 0 && !p.names.named {
		return nil, nil
	}
	addr = addr.Unmap()
	decide, mods, chains := p.class(names)
	var list []Update
	for _, c := range chains {
		if p.chains[c.Name] {
			continue
		}
		if p.names.made >= maxClasses {
			return nil, fmt.Errorf("plan names of %s: %w", addr, ErrClasses)
		}
		p.names.made++
		p.chains[c.Name] = true
		list = append(list, Update{Kind: PutChain, Chain: c})
	}
	if len(p.names.terms) > 0 {
		list = append(list, hostUpdate(hostMap("dhost", addr), addr, "jump", decide, ttl))
	}
	if p.names.named {
		list = append(list, hostUpdate(hostMap("mhost", addr), addr, "goto", mods, ttl))
	}
	return list, nil
}

func hostMap(prefix string, a netip.Addr) string {
	if a.Is4() {
		return prefix + "4"
	}
	return prefix + "6"
}

func hostUpdate(set string, addr netip.Addr, verb, chain string, ttl time.Duration) Update {
	u := Update{Kind: DelElem, Set: set, Map: true, Elem: Elem{Key: addr.String()}}
	if chain != "" {
		u.Kind = PutElem
		u.Elem.Value, u.Elem.Timeout = verb+" "+chain, max(ttl, time.Second)
	}
	return u
}

// prepare makes the classes that a single pattern's names give.
func (p *Plan) prepare() {
	for i := range p.names.terms {
		for _, list := range p.names.terms[i].term.names {
			for _, pattern := range list {
				for _, name := range samples(pattern) {
					if p.names.made >= preparedClasses {
						return
					}
					p.prepareName(name)
				}
			}
		}
	}
}

func (p *Plan) prepareName(name string) {
	_, _, chains := p.class(flow.NewNames(name))
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
