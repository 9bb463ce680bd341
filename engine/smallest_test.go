package engine_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/engine/oracle"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// smallest drops rules, parts of conditions, elements of lists and facts for as
// long as engine and oracle still differ, and tells what is left.
func smallest(p *rules.Policy, f *flow.Flow, w *state.World) string {
	small, fact := clone(p), *f
	differ := func() bool {
		return !equal(engine.Compile(small).Decide(&fact, w), oracle.Decide(small, &fact, w))
	}
	if !differ() {
		return fmt.Sprintf("(a copy of the policy is decided as it should: the difference lies in what lists share)\nflow %+v\nrules %+v", *f, p.Rules)
	}
	for again := true; again; {
		again = dropRules(small, differ)
		for i := range small.Rules {
			r := &small.Rules[i]
			again = dropParts(&r.Match, small, differ) || again
			if r.When == nil {
				continue
			}
			again = dropParts(r.When, small, differ) || again
			was := r.When
			if r.When = nil; differ() {
				again = true
			} else {
				r.When = was
			}
		}
		again = dropFacts(&fact, differ) || again
		if small.Default != nil {
			was := small.Default
			if small.Default = nil; differ() {
				again = true
			} else {
				small.Default = was
			}
		}
	}
	return tell(small, &fact, w)
}

func tell(p *rules.Policy, f *flow.Flow, w *state.World) string {
	var b strings.Builder
	for i := range p.Rules {
		r := &p.Rules[i]
		when := "always"
		if r.When != nil {
			when = tellExpr(r.When)
		}
		fmt.Fprintf(&b, "%s: priority %d, active %04b, on_unknown %d, match %s, when %s, do %+v\n",
			r.Name, r.Priority, r.Active, r.OnUnknown, tellExpr(&r.Match), when, r.Do)
	}
	got, want := engine.Compile(p).Decide(f, w), oracle.Decide(p, f, w)
	fmt.Fprintf(&b, "default %+v\nflow %+v\nworld %+v\n got %+v, pending %v\nwant %+v, pending %v",
		p.Default, *f, *w, got, got.Pending.Names(), want, want.Pending.Names())
	return b.String()
}

func tellExpr(e *rules.Expr) string {
	var kids []string
	for i := range e.Kids {
		kids = append(kids, tellExpr(&e.Kids[i]))
	}
	if e.Op != rules.OpPred {
		return [...]string{"any", "all", "any_of", "not"}[e.Op] + "(" + strings.Join(kids, ", ") + ")"
	}
	p := &e.Pred
	s := p.Field.String()
	if p.Set != nil {
		s += " set " + p.Set.Name
	}
	for _, n := range p.Names {
		s += " " + n.String()
	}
	switch {
	case p.Prefixes != nil:
		s += fmt.Sprint(p.Prefixes)
	case p.Ports != nil:
		s += fmt.Sprint(p.Ports)
	case p.Numbers != nil:
		s += fmt.Sprint(p.Numbers)
	case p.MACs != nil:
		s += fmt.Sprint(p.MACs)
	case p.Globs != nil:
		s += fmt.Sprintf("%q", p.Globs)
	case p.Names == nil:
		s += fmt.Sprintf(" %d metric %d, states %04b, cmp %d %d", p.Ref, p.Metric, p.States, p.Cmp, p.Bound)
	}
	return s
}

func dropRules(p *rules.Policy, differ func() bool) bool {
	dropped := false
	for size := max(1, len(p.Rules)/2); size > 0; size /= 2 {
		for i := 0; i+size <= len(p.Rules); {
			was := p.Rules
			p.Rules = slices.Concat(was[:i], was[i+size:])
			if differ() {
				dropped = true
				continue
			}
			p.Rules = was
			i += size
		}
	}
	return dropped
}

// dropParts puts a kid, or fewer of them, in the place of an expression.
func dropParts(e *rules.Expr, p *rules.Policy, differ func() bool) bool {
	try := func(x rules.Expr) bool {
		was := *e
		if *e = x; differ() {
			return true
		}
		*e = was
		return false
	}
	if e.Op == rules.OpPred {
		return dropElements(&e.Pred, p, differ)
	}
	for _, k := range e.Kids {
		if try(k) {
			return true
		}
	}
	dropped := false
	for i := 0; i < len(e.Kids) && e.Op != rules.OpNot; {
		if try(rules.Expr{Op: e.Op, Kids: slices.Concat(e.Kids[:i], e.Kids[i+1:])}) {
			dropped = true
			continue
		}
		i++
	}
	for i := range e.Kids {
		dropped = dropParts(&e.Kids[i], p, differ) || dropped
	}
	return dropped
}

// dropElements shortens the list of a predicate, and of all that name its set.
func dropElements(pred *rules.Pred, p *rules.Policy, differ func() bool) bool {
	dropped := shorter(&pred.Globs, pred, p, differ)
	dropped = shorter(&pred.Names, pred, p, differ) || dropped
	dropped = shorter(&pred.Prefixes, pred, p, differ) || dropped
	dropped = shorter(&pred.Ports, pred, p, differ) || dropped
	dropped = shorter(&pred.Numbers, pred, p, differ) || dropped
	return shorter(&pred.MACs, pred, p, differ) || dropped
}

func shorter[T any](list *[]T, pred *rules.Pred, p *rules.Policy, differ func() bool) bool {
	share := func() {
		if s := pred.Set; s != nil {
			s.Elements = rules.Elements{Names: pred.Names, Prefixes: pred.Prefixes, Ports: pred.Ports, MACs: pred.MACs, Globs: pred.Globs, Numbers: pred.Numbers}
			for i := range p.Rules {
				reuse(&p.Rules[i].Match, s)
			}
		}
	}
	dropped := false
	for size := max(1, len(*list)/2); size > 0; size /= 2 {
		for i := 0; i+size <= len(*list) && len(*list) > 1; {
			was := *list
			*list = slices.Concat(was[:i], was[i+size:])
			if share(); differ() {
				dropped = true
				continue
			}
			*list = was
			share()
			i += size
		}
	}
	return dropped
}

// reuse makes the predicates that name the set have its elements.
func reuse(e *rules.Expr, s *rules.Set) {
	for i := range e.Kids {
		reuse(&e.Kids[i], s)
	}
	if p := &e.Pred; e.Op == rules.OpPred && p.Set == s {
		p.Names, p.Prefixes, p.Ports, p.MACs, p.Globs = s.Names, s.Prefixes, s.Ports, s.MACs, s.Globs
		p.Numbers = s.Numbers
	}
}

func dropFacts(f *flow.Flow, differ func() bool) bool {
	dropped := false
	for _, v := range []*flow.Value[string]{
		&f.SNI, &f.HTTPHost, &f.Domain, &f.Process, &f.ProcessPath, &f.User, &f.Cgroup, &f.IfaceIn,
		&f.App, &f.ALPN, &f.Group, &f.IfaceOut, &f.Country,
	} {
		dropped = dropFact(v, differ) || dropped
	}
	for _, v := range []*flow.Value[netip.Addr]{&f.Src, &f.Dst} {
		dropped = dropFact(v, differ) || dropped
	}
	for _, v := range []*flow.Value[uint16]{&f.SrcPort, &f.DstPort} {
		dropped = dropFact(v, differ) || dropped
	}
	for _, v := range []*flow.Value[int64]{&f.RTT, &f.Latency, &f.ErrorRate, &f.ConnBytes, &f.ConnAge} {
		dropped = dropFact(v, differ) || dropped
	}
	dropped = dropFact(&f.Proto, differ) || dropped
	dropped = dropFact(&f.SrcMAC, differ) || dropped
	dropped = dropFact(&f.DSCP, differ) || dropped
	dropped = dropFact(&f.Mark, differ) || dropped
	dropped = dropFact(&f.ASN, differ) || dropped
	names := slices.Collect(f.DNS.All())
	for i := range names {
		was := f.DNS
		if f.DNS = flow.NewNames(slices.Concat(names[:i], names[i+1:])...); differ() {
			return true
		}
		f.DNS = was
	}
	return dropped
}

// dropFact makes a fact absent.
func dropFact[T comparable](v *flow.Value[T], differ func() bool) bool {
	was := *v
	if was == flow.Absent[T]() {
		return false
	}
	if *v = flow.Absent[T](); differ() {
		return true
	}
	*v = was
	return false
}

// clone copies a policy with all its lists; predicates that name one set share
// the copy's elements.
func clone(p *rules.Policy) *rules.Policy {
	q := *p
	q.Routes, q.Groups, q.Throttles = slices.Clone(p.Routes), slices.Clone(p.Groups), slices.Clone(p.Throttles)
	sets := map[*rules.Set]*rules.Set{}
	q.Sets = make([]*rules.Set, len(p.Sets))
	for i, s := range p.Sets {
		c := *s
		c.Elements = rules.Elements{
			Names: slices.Clone(s.Names), Prefixes: slices.Clone(s.Prefixes), Ports: slices.Clone(s.Ports),
			MACs: slices.Clone(s.MACs), Globs: slices.Clone(s.Globs), Numbers: slices.Clone(s.Numbers),
		}
		q.Sets[i], sets[s] = &c, &c
	}
	q.Rules = slices.Clone(p.Rules)
	for i := range q.Rules {
		r := &q.Rules[i]
		r.Match = cloneExpr(r.Match, sets)
		if r.When != nil {
			when := cloneExpr(*r.When, sets)
			r.When = &when
		}
	}
	return &q
}

func cloneExpr(e rules.Expr, sets map[*rules.Set]*rules.Set) rules.Expr {
	e.Kids = slices.Clone(e.Kids)
	for i := range e.Kids {
		e.Kids[i] = cloneExpr(e.Kids[i], sets)
	}
	p := &e.Pred
	if p.Set != nil {
		p.Set = sets[p.Set]
		reuse(&e, p.Set)
		return e
	}
	p.Names, p.Prefixes, p.Ports = slices.Clone(p.Names), slices.Clone(p.Prefixes), slices.Clone(p.Ports)
	p.MACs, p.Globs, p.Numbers = slices.Clone(p.MACs), slices.Clone(p.Globs), slices.Clone(p.Numbers)
	return e
}
