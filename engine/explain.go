package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// nearCount is how many rules an explanation tells about that did not match:
// what fits a screen beside the answer.
const nearCount = 5

// maxParts is how many alternatives of a condition are told: they stand on one line.
const maxParts = 5

// Explanation is a decision and how it came about.
type Explanation struct {
	Decision
	State state.State // the state it was decided in
	Why   string      // see Program.Why
	// Specificity and RunnerUpSpecificity are the tuples of the winner and the
	// runner-up; zero where there is none.
	Specificity, RunnerUpSpecificity rules.Specificity
	// Near are the rules that came nearest to matching, in the total order.
	Near []Near
}

// Near is a rule that is not true.
type Near struct {
	Rule   int
	Failed string // its first condition that is false or unknown, and the flow's value
}

// Explain decides as Decide does and tells why. It takes time and memory in
// proportion to the number of rules.
func (p *Program) Explain(f *flow.Flow, w *state.World) Explanation {
	var e Explanation
	var wait laterList
	s := search{c: facts{flow: f, prog: p}, d: &e.Decision, later: &wait}
	s.decide(w)
	c := &s.c
	e.State = c.state
	e.Why = p.Why(&e.Decision)
	if e.Rule >= 0 {
		e.Specificity = p.policy.Rules[e.Rule].Specificity()
	}
	if e.RunnerUp >= 0 {
		e.RunnerUpSpecificity = p.policy.Rules[e.RunnerUp].Specificity()
	}
	e.Near = p.near(c)
	return e
}

// Why says in one line what made the winner win: the first component of the
// order in which it goes before the runner-up.
func (p *Program) Why(d *Decision) string {
	switch {
	case d.Default:
		why := "no rule matches"
		if !d.Final {
			why = "no rule is certain to match"
		}
		if p.policy.Default == nil {
			return why + ", and there is no default"
		}
		return why + ": default"
	case d.RunnerUp < 0 && p.policy.Default == nil:
		return "the only match; there is no default"
	case d.RunnerUp < 0:
		return "the only match; otherwise default"
	}
	won, next := &p.policy.Rules[d.Rule], &p.policy.Rules[d.RunnerUp]
	switch a, b := won.Specificity(), next.Specificity(); {
	case won.Priority != next.Priority:
		return fmt.Sprintf("priority %d before %d (%s)", won.Priority, next.Priority, next.Name)
	case a != b:
		return fmt.Sprintf("specificity %v before %v (%s)", a, b, next.Name)
	default:
		return fmt.Sprintf("listed before %s", next.Name)
	}
}

// Near returns the rules that came nearest to matching, without who won.
func (p *Program) Near(f *flow.Flow, w *state.World) []Near {
	c := facts{flow: f, prog: p}
	c.gather(w)
	return p.near(&c)
}

// near finds the rules that are not true and came nearest to it: fewest
// conditions that do not hold, then most that do, then the order.
func (p *Program) near(c *facts) []Near {
	type candidate struct{ pos, failed, held int }
	var best []candidate
	for pos := range p.order {
		r := &p.policy.Rules[p.order[pos]]
		k := candidate{pos: pos}
		if !r.Active.Has(c.state) {
			k.failed++
		}
		for _, e := range ruleConditions(r) {
			if c.expr(e) == isTrue {
				k.held++
			} else {
				k.failed++
			}
		}
		if k.failed == 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(best, k, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(a.failed, b.failed), cmp.Compare(b.held, a.held), cmp.Compare(a.pos, b.pos))
		})
		if i < nearCount {
			best = slices.Insert(best, i, k)
			best = best[:min(len(best), nearCount)]
		}
	}
	slices.SortFunc(best, func(a, b candidate) int { return cmp.Compare(a.pos, b.pos) })
	out := make([]Near, 0, len(best))
	for _, k := range best {
		out = append(out, Near{int(p.order[k.pos]), c.failed(&p.policy.Rules[p.order[k.pos]])})
	}
	return out
}

// ruleConditions lists what a rule asks for beside its states.
func ruleConditions(r *rules.Rule) []*rules.Expr {
	list := conditions(&r.Match, nil)
	if r.When != nil {
		list = conditions(r.When, list)
	}
	return list
}

// conditions lists what must hold together, with nested ands flattened, in the
// user's order.
func conditions(e *rules.Expr, list []*rules.Expr) []*rules.Expr {
	switch e.Op {
	case rules.OpAny:
		return list
	case rules.OpAnd:
		for i := range e.Kids {
			list = conditions(&e.Kids[i], list)
		}
		return list
	default:
		return append(list, e)
	}
}

// failed tells the first condition of a rule that is not true.
func (c *facts) failed(r *rules.Rule) string {
	switch {
	case r.Active == 0:
		return "disabled in every state"
	case !r.Active.Has(c.state):
		return fmt.Sprintf("state %s (now: %s)", stateList(r.Active), c.state)
	}
	for _, e := range ruleConditions(r) {
		if c.expr(e) != isTrue {
			return c.describe(e, false)
		}
	}
	return ""
}

// describe shows a condition that is not true, as the user wrote it, with the
// flow's values. negated is whether an odd number of nots stand around it.
func (c *facts) describe(e *rules.Expr, negated bool) string {
	switch {
	case e.Op == rules.OpAny:
		return "not any"
	case e.Op == rules.OpPred:
		text := c.predText(&e.Pred)
		if negated && !strings.Contains(text, "!=") { // "!=" is spelled in the text already
			text = "not " + text
		}
		return text + " (" + c.value(&e.Pred) + ")"
	case e.Op == rules.OpNot:
		return c.describe(&e.Kids[0], !negated)
	case (e.Op == rules.OpAnd) != negated:
		// The first kid that fails is why the whole fails.
		for i := range e.Kids {
			v := c.expr(&e.Kids[i])
			if negated {
				v = not(v)
			}
			if v != isTrue {
				return c.describe(&e.Kids[i], negated)
			}
		}
		return "no condition"
	default:
		var parts []string
		for i := range e.Kids {
			if i == maxParts {
				parts = append(parts, fmt.Sprintf("and %d more", len(e.Kids)-i))
				break
			}
			parts = append(parts, c.describe(&e.Kids[i], negated))
		}
		return "none of: " + strings.Join(parts, "; ")
	}
}

// predText spells a predicate as the user wrote it; policies built without text
// get the canonical spelling.
func (c *facts) predText(p *rules.Pred) string {
	if p.Text != "" {
		return p.Text
	}
	var parts []string
	for _, n := range p.Names {
		parts = append(parts, n.String())
	}
	for _, n := range p.Prefixes {
		parts = append(parts, n.String())
	}
	for _, r := range p.Ports {
		if r.Lo == r.Hi {
			parts = append(parts, fmt.Sprint(r.Lo))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", r.Lo, r.Hi))
		}
	}
	for _, n := range p.Numbers {
		if p.Field == rules.FieldProto {
			parts = append(parts, flow.Proto(n).String())
		} else {
			parts = append(parts, fmt.Sprint(n))
		}
	}
	for _, g := range p.Globs {
		parts = append(parts, string(g))
	}
	switch p.Field {
	case rules.FieldState:
		parts = append(parts, stateList(p.States))
	case rules.FieldUplink, rules.FieldRoute:
		name := "none"
		if p.Ref >= 0 && p.Ref < len(c.prog.policy.Uplinks) {
			name = c.prog.policy.Uplinks[p.Ref].Name
		}
		subject := p.Field.String() + "." + name + "." + rules.Metrics()[p.Metric] + " "
		if p.Metric == rules.MetricState {
			return subject + stateList(p.States)
		}
		return subject + cmpText(p.Cmp) + amount(p.Metric, p.Bound)
	case rules.FieldSchedule:
		return "schedule " + nameAt(c.prog.policy.Schedules, p.Ref, func(s *rules.Schedule) string { return s.Name })
	case rules.FieldQuota:
		return "quota " + nameAt(c.prog.policy.Quotas, p.Ref, func(q *rules.Quota) string { return q.Name }) + " exceeded"
	case rules.FieldCondition:
		return nameAt(c.prog.policy.Conditions, p.Ref, func(k *rules.Condition) string { return k.Name })
	case rules.FieldRTT, rules.FieldLatency, rules.FieldConnAge:
		parts = append(parts, cmpText(p.Cmp)+fixed(p.Bound, 3)+" ms")
	case rules.FieldErrorRate:
		parts = append(parts, cmpText(p.Cmp)+fixed(p.Bound, 4)+"%")
	case rules.FieldConnBytes:
		parts = append(parts, cmpText(p.Cmp)+fmt.Sprint(p.Bound))
	}
	return p.Field.String() + " " + strings.Join(parts, ",")
}

func cmpText(c rules.Cmp) string { return [...]string{"==", "<", "<=", ">", ">="}[c] }

// nameAt names an element of a policy's list; policies built by hand may refer to none.
func nameAt[T any](list []T, i int, name func(*T) string) string {
	if i < 0 || i >= len(list) {
		return "?"
	}
	return name(&list[i])
}

// amount spells a value of a metric in its unit.
func amount(m rules.Metric, n int64) string {
	switch m {
	case rules.MetricRTT, rules.MetricP90, rules.MetricJitter:
		return fixed(n, 3) + " ms"
	case rules.MetricLoss, rules.MetricErrorRate:
		return fixed(n, 4) + "%"
	case rules.MetricUp:
		return fmt.Sprint(n == 1)
	case rules.MetricState:
		return state.State(n).String()
	default:
		return fmt.Sprint(n)
	}
}

func stateList(s state.Set) string {
	var parts []string
	for v := state.Normal; v <= state.Recovery; v++ {
		if s.Has(v) {
			parts = append(parts, v.String())
		}
	}
	if parts == nil {
		return "never"
	}
	return strings.Join(parts, ",")
}

// value tells what is known of the field that a predicate reads.
func (c *facts) value(p *rules.Pred) string {
	f, w, field := c.flow, c.world, p.Field
	switch field {
	case rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost:
		return c.nameValue(field)
	case rules.FieldDstIP:
		return show(f.Dst)
	case rules.FieldSrcIP:
		return show(f.Src)
	case rules.FieldPort:
		return show(f.DstPort)
	case rules.FieldSrcPort:
		return show(f.SrcPort)
	case rules.FieldProto:
		return show(f.Proto)
	case rules.FieldProcess:
		return show(f.Process)
	case rules.FieldProcessPath:
		return show(f.ProcessPath)
	case rules.FieldUser:
		return show(f.User)
	case rules.FieldCgroup:
		return show(f.Cgroup)
	case rules.FieldSrcMAC:
		return show(f.SrcMAC)
	case rules.FieldIfaceIn:
		return show(f.IfaceIn)
	case rules.FieldDSCP:
		return show(f.DSCP)
	case rules.FieldMark:
		return show(f.Mark)
	case rules.FieldRTT:
		return showFixed(f.RTT, 3, " ms")
	case rules.FieldLatency:
		return showFixed(c.latency, 3, " ms")
	case rules.FieldErrorRate:
		return showFixed(c.errorRate, 4, "%")
	case rules.FieldApp:
		return show(f.App)
	case rules.FieldALPN:
		return show(f.ALPN)
	case rules.FieldGroup:
		return show(f.Group)
	case rules.FieldIfaceOut:
		return show(f.IfaceOut)
	case rules.FieldCountry:
		return show(f.Country)
	case rules.FieldASN:
		return show(f.ASN)
	case rules.FieldConnBytes:
		return show(f.ConnBytes)
	case rules.FieldConnAge:
		return showFixed(f.ConnAge, 3, " ms")
	case rules.FieldUplink, rules.FieldRoute:
		switch n, known := metric(w, p.Ref, p.Metric).Get(); {
		case known:
			return "now: " + amount(p.Metric, n)
		case p.Ref < 0:
			return "the route leads over no uplink"
		default:
			return "not measured yet"
		}
	case rules.FieldSchedule:
		return nowText(bit(w.Schedules, p.Ref))
	case rules.FieldQuota:
		return nowText(bit(w.Quotas, p.Ref))
	case rules.FieldCondition:
		return nowText(bit(w.Conditions, p.Ref))
	default:
		return "now: " + c.state.String()
	}
}

func nowText(v tri) string {
	return [...]string{isFalse: "now: no", isUnknown: "not known yet", isTrue: "now: yes"}[v]
}

func (c *facts) nameValue(field rules.Field) string {
	switch i := nameField(field); c.modes[i] {
	case nameKnown:
		return "flow: " + c.text(c.asked[i])
	case nameHints, nameDNS:
		return "flow: by DNS " + someNames(c.flow.DNS)
	case nameUnknown:
		return "flow: not known yet"
	}
	v := map[rules.Field]flow.Value[string]{
		rules.FieldSNI: c.flow.SNI, rules.FieldDomain: c.flow.Domain, rules.FieldHTTPHost: c.flow.HTTPHost,
	}[field]
	if v.Status() == flow.Invalid {
		return "flow: not a legal name"
	}
	return "flow: none"
}

// shownNames is how many names of an address a text spells out: an address may have dozens, each of
// which is told with every condition on names.
const shownNames = 4

// someNames spells the first names of a set, and how many more there are.
func someNames(n flow.Names) string {
	first := n.First(shownNames)
	text := strings.Join(slices.Collect(first.All()), ", ")
	if first == n {
		return text
	}
	more := -shownNames
	for range n.All() {
		more++
	}
	return fmt.Sprintf("%s and %d more", text, more)
}

func show[T comparable](v flow.Value[T]) string {
	switch n, known := v.Get(); {
	case known:
		return fmt.Sprintf("flow: %v", n)
	case v.Unknown():
		return "flow: not known yet"
	default:
		return "flow: none"
	}
}

func showFixed(v flow.Value[int64], digits int, unit string) string {
	if n, known := v.Get(); known {
		return "flow: " + fixed(n, digits) + unit
	}
	return show(v)
}

// fixed writes n units of 10^-digits as a decimal, without trailing zeros.
func fixed(n int64, digits int) string {
	s := fmt.Sprintf("%0*d", digits+1, n)
	whole, frac := s[:len(s)-digits], strings.TrimRight(s[len(s)-digits:], "0")
	if frac == "" {
		return whole
	}
	return whole + "." + frac
}
