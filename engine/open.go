package engine

import (
	"sort"

	"netpolicy.dev/netpolicy/rules"
)

// enough reports whether rules that read the given fields can add nothing more.
func (s *search) enough(reads FieldSet) bool {
	return (s.restsOnly || s.waited(reads)) && s.rested(reads)
}

// waited reports whether such rules have no fact to wait for that is not known of.
func (s *search) waited(reads FieldSet) bool {
	waits := reads & s.c.unknown
	return waits == 0 || waits&^s.d.Pending == 0 && !s.d.Final
}

// rested reports whether it is known that the decision rests on DNS names, or no
// such rule can be false by them. As hints they make a name's predicate true or
// leave it unknown, so that only a rule that negates one can be.
func (s *search) rested(reads FieldSet) bool {
	c := &s.c
	return c.dns == 0 || s.d.Hinted || reads&c.dnsReads == 0 || c.dns == nameHints && reads&negatesName == 0
}

func (l *layer) readsOf(r uint8) FieldSet {
	if r == readsAll {
		return l.fields | negatesName
	}
	return l.reads[r]
}

// consider looks at one rule that may be open; its states have been checked.
func (s *search) consider(i id, r *record) {
	if r.flags&(isSkip|isDead) != 0 || s.enough(s.l.readsOf(r.reads)) || s.l.fails(r, &s.c) {
		return
	}
	d, c := s.d, &s.c
	if !differs(&s.l.outcomes[r.do], s.outcome, s.above(s.l.position(i)), &d.Mods) {
		return
	}
	rule := &c.prog.policy.Rules[r.rule]
	switch v := c.rule(rule); {
	case v == isUnknown:
		d.Final = false
		c.collect(rule, &d.Pending)
	case v == isFalse && c.rests(rule):
		d.restOnDNS(c, rule)
	default:
		return
	}
	if all := s.c.prog.fields | negatesName; s.waited(all) && s.rested(all) {
		s.bound = 0
	}
}

// runs looks at a node's rest, from each run only at what can add something.
func (s *search) runs(list []runGroup) {
	for i := range list {
		g := &list[i]
		if !g.active.Has(s.c.state) {
			continue
		}
		reads := s.l.readsOf(g.reads)
		for k := range g.runs {
			if r := &g.runs[k]; r.ids[0] >= s.bound || s.enough(reads) {
				break // the others have nothing better, and nothing else to tell
			}
			s.oneRun(&g.runs[k], reads)
		}
	}
}

func (s *search) oneRun(r *run, reads FieldSet) {
	do := &s.l.outcomes[r.do]
	for i := 0; i < len(r.ids) && r.ids[i] < s.bound && !s.enough(reads); {
		pos := s.l.position(r.ids[i])
		if differs(do, s.outcome, s.above(pos), &s.d.Mods) {
			s.consider(r.ids[i], &s.l.records[r.ids[i]])
			i++
			continue
		}
		// Nor do the others, up to where the modifiers above them change.
		change := none
		for _, m := range s.mods {
			if m >= pos {
				change = min(change, m)
			}
		}
		if change == none {
			return
		}
		i += sort.Search(len(r.ids)-i, func(k int) bool { return s.l.position(r.ids[i+k]) > change })
	}
}

// differs reports whether the rule's outcome, were the rule true, would change
// the result, given the modifiers that true rules above it have set.
func differs(o, result *rules.Outcome, above rules.Modifiers, mods *rules.Modifiers) bool {
	merge(&above, &o.Mods)
	if o.Kind == rules.ActNone {
		merge(&above, mods) // the walk goes on: what is still unset is set as before
		return above != *mods
	}
	return above != *mods || result == nil || !samePrimary(o, result)
}

// rests reports whether a rule that is not unknown is so by DNS names only.
func (c *facts) rests(r *rules.Rule) bool {
	return c.dns != 0 && c.ruleBlind(r) == isUnknown
}

// ruleBlind evaluates a rule as if DNS names were not there.
func (c *facts) ruleBlind(r *rules.Rule) tri {
	c.blind = true
	v := c.rule(r)
	c.blind = false
	return v
}

// restOnDNS notes that the decision hangs on DNS names that a rule has read. As
// hints they are provisional; as the domain itself they are final.
func (d *Decision) restOnDNS(c *facts, r *rules.Rule) {
	d.Hinted = true
	if c.dns == nameHints {
		d.Final = false
		c.collect(r, &d.Pending)
	}
}

// collect adds the facts that keep a rule open: what its unknown predicates
// read, as far as they lie under no false `and` and no true `or`, and the
// hinted facts that carry its value.
func (c *facts) collect(r *rules.Rule, set *FieldSet) {
	if c.rule(r) == isUnknown {
		c.collectUnknown(&r.Match, set)
		if r.When != nil {
			c.collectUnknown(r.When, set)
		}
	}
	if c.dns == nameHints && c.ruleBlind(r) == isUnknown {
		c.collectHinted(&r.Match, set)
		if r.When != nil {
			c.collectHinted(r.When, set)
		}
	}
}
