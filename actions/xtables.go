package actions

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Xtables is the table as iptables and ipset hold it: the chains of both
// families, and the sets that they ask. Every name begins with XPrefix, and a
// set's name either says what it holds or carries the shape of its plan, so the
// sets of two plans stand beside each other while one replaces the other.
type Xtables struct {
	Chains []XChain
	Sets   []XSet
}

// XPrefix begins the names of all our chains and sets.
const XPrefix = "np_"

// XNames is the table's map that iptables has no like of: which sets of names an
// address is in. Its values are their names, divided by spaces.
const XNames = "names"

// XChain is one chain of ours in one table of one family.
type XChain struct {
	Family Family
	Table  string // mangle, nat, filter
	Name   string
	Hooks  []string // the built-in chains that jump to it
	Rules  []string // as iptables-restore reads them, without "-A name"
}

// XSet is an ipset. Elems are those that never change while the shape is the same.
type XSet struct {
	Name  string
	Type  string // as `ipset create` reads it, with its options
	Elems []string
}

// Lists reports whether the set's elements are sets.
func (s *XSet) Lists() bool { return strings.HasPrefix(s.Type, "list:set") }

// xAny are the sets that hold every address: what a set of sets has while its
// condition is true.
var xAny = [2]string{XPrefix + "any4", XPrefix + "any6"}

// XSets returns the ipsets with all their elements, those that hold others last.
func (t *Table) XSets() []XSet {
	if t.XT == nil {
		return nil
	}
	more := map[string][]string{}
	for i := range t.Sets {
		s := &t.Sets[i]
		for _, e := range s.Elems {
			timeout := ""
			if e.Timeout > 0 {
				timeout = fmt.Sprintf(" timeout %d", XSeconds(e.Timeout))
			}
			if s.Name != XNames {
				more[s.Name] = append(more[s.Name], e.Key+timeout)
				continue
			}
			for set := range strings.FieldsSeq(e.Value) {
				more[set] = append(more[set], e.Key+timeout)
			}
		}
	}
	list := slices.Clone(t.XT.Sets)
	for i := range list {
		list[i].Elems = slices.Concat(list[i].Elems, more[list[i].Name])
	}
	slices.SortStableFunc(list, func(a, b XSet) int {
		switch {
		case a.Lists() == b.Lists():
			return 0
		case a.Lists():
			return 1
		default:
			return -1
		}
	})
	return list
}

// XSeconds is a time limit as ipset takes it: whole seconds, rounded up.
func XSeconds(d time.Duration) int64 { return max(1, (d.Milliseconds()+999)/1000) }

// xTables are the tables in the order in which they are written: those that mark
// come last, so that no packet is marked before what follows is there.
var xTables = []string{"filter", "nat", "mangle"}

// XText returns one family's chains as `iptables-restore --noflush` reads them,
// with the jumps to them. It is what a dry run prints.
func (x *Xtables) XText(f Family) string {
	var b strings.Builder
	for _, table := range xTables {
		of := x.Of(f, table)
		if len(of) == 0 {
			continue
		}
		fmt.Fprintf(&b, "*%s\n", table)
		for _, c := range of {
			fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
		}
		for _, c := range of {
			for _, r := range c.Rules {
				fmt.Fprintf(&b, "-A %s %s\n", c.Name, r)
			}
		}
		for _, c := range of {
			for _, h := range c.Hooks {
				fmt.Fprintf(&b, "-I %s 1 -j %s\n", h, c.Name)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// Of returns the chains of one table.
func (x *Xtables) Of(f Family, table string) []*XChain {
	var list []*XChain
	for i := range x.Chains {
		if c := &x.Chains[i]; c.Family == f && c.Table == table {
			list = append(list, c)
		}
	}
	return list
}

// Tables returns the names of the tables in the order in which they are written.
func (x *Xtables) Tables() []string { return slices.Clone(xTables) }

// xtext is Text for iptables.
func (t *Table) xtext() string {
	var b strings.Builder
	b.WriteString("# ipset restore\n")
	for _, s := range t.XSets() {
		fmt.Fprintf(&b, "create %s %s\n", s.Name, s.Type)
		for _, e := range s.Elems {
			fmt.Fprintf(&b, "add %s %s\n", s.Name, e)
		}
	}
	b.WriteString("# iptables-restore --noflush\n" + t.XT.XText(IPv4))
	b.WriteString("# ip6tables-restore --noflush\n" + t.XT.XText(IPv6))
	return b.String()
}

// xplace stands for the shape in names until it is known. No name of a rule or
// a device holds it.
const xplace = "\x00"

// xTagSize is how much of the shape names carry: with two plans beside each
// other at most, 24 bits tell them apart.
const xTagSize = 6

// seal digests the table into its shape, and puts that into the names.
func (t *Table) seal(policyHash string) {
	h := sha256.New()
	fmt.Fprintln(h, policyHash)
	for _, s := range t.XT.Sets {
		fmt.Fprintln(h, s.Name, s.Type, s.Elems)
	}
	fmt.Fprintln(h, t.XT.XText(IPv4), t.XT.XText(IPv6))
	t.Shape = hex.EncodeToString(h.Sum(nil))
	tag := t.Shape[:xTagSize]
	put := func(s *string) { *s = strings.ReplaceAll(*s, xplace, tag) }
	for i := range t.XT.Sets {
		put(&t.XT.Sets[i].Name)
	}
	for i := range t.XT.Chains {
		for j := range t.XT.Chains[i].Rules {
			put(&t.XT.Chains[i].Rules[j])
		}
	}
	for i := range t.Sets {
		put(&t.Sets[i].Name)
	}
}

// xassert is assert for iptables: the updates after which sets of n's shape,
// whatever they hold, hold what n says. Names are left to run out.
func xassert(n *Table) []Update {
	var list []Update
	for i := range n.Sets {
		s := &n.Sets[i]
		if s.Name == XNames || len(s.Elems) > 0 {
			continue
		}
		for _, k := range xAny {
			list = append(list, Update{Kind: DelElem, Set: s.Name, Elem: Elem{Key: k}})
		}
	}
	var put []Update
	for i := range n.Sets {
		put = append(put, diffElems(&Set{}, &n.Sets[i])...)
	}
	return append(put, list...) // what is new first: no moment without an answer
}
