package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

var actionNames = [...]string{
	rules.ActNone: "none", rules.ActRoute: "route", rules.ActSwitchRoute: "switch_route", rules.ActFallback: "fallback",
	rules.ActFailover: "failover", rules.ActBlock: "block",
}

// ActionName returns the action as decisions and policies spell it; "none" for ActNone.
func ActionName(k rules.ActionKind) string { return actionNames[k] }

// Blocked reports whether the flow may not pass: by a block, or because a group
// with when_none block has no usable member.
func (d *Decision) Blocked() bool {
	return d.Kind == rules.ActBlock || d.Kind != rules.ActNone && d.Route < 0
}

// Names returns the set's fields as explanations name them, sorted.
func (s FieldSet) Names() []string {
	out := []string{}
	for f := rules.FieldSNI; f <= rules.FieldCondition; f++ {
		if s.Has(f) {
			out = append(out, f.String())
		}
	}
	slices.Sort(out)
	return out
}

// AppendDecision appends the decision as one JSON object (language.md, section
// 8), without a newline. id labels it as the flow record was; "" leaves it out.
func (p *Program) AppendDecision(b []byte, id string, d *Decision) []byte {
	return append(p.appendDecision(b, id, d), '}')
}

// AppendExplanation appends what AppendDecision does, and with it runner_up,
// specificity and near.
func (p *Program) AppendExplanation(b []byte, id string, e *Explanation) []byte {
	b = p.appendDecision(b, id, &e.Decision)
	b = append(b, `,"runner_up":`...)
	b = p.appendRule(b, e.RunnerUp)
	b = append(b, `,"specificity":{"rule":`...)
	b = appendSpecificity(b, e.Rule >= 0, e.Specificity)
	b = append(b, `,"runner_up":`...)
	b = appendSpecificity(b, e.RunnerUp >= 0, e.RunnerUpSpecificity)
	b = append(b, `},"near":`...)
	return append(p.AppendNear(b, e.Near), '}')
}

// AppendNear appends the rules that came nearest, as an explanation has them.
func (p *Program) AppendNear(b []byte, list []Near) []byte {
	b = append(b, '[')
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"rule":`...)
		b = p.appendRule(b, n.Rule)
		b = append(b, `,"failed":`...)
		b = append(flow.AppendString(b, n.Failed), '}')
	}
	return append(b, ']')
}

func (p *Program) appendDecision(b []byte, id string, d *Decision) []byte {
	b = append(b, '{')
	if id != "" {
		b = append(b, `"id":`...)
		b = append(flow.AppendString(b, id), ',')
	}
	b = append(b, `"rule":`...)
	b = p.appendRule(b, d.Rule)
	b = append(b, `,"action":"`...)
	b = append(b, ActionName(d.Kind)...)
	b = append(b, `","target":`...)
	b = p.appendTarget(b, d)
	b = append(b, `,"route":`...)
	b = p.appendRoute(b, d.Route)
	b = append(b, `,"log":`...)
	switch text, set := d.Mods.Log.Get(); {
	case !set:
		b = append(b, "false"...)
	case text == "":
		b = append(b, "true"...)
	default:
		b = flow.AppendString(b, text)
	}
	b = append(b, `,"throttle":`...)
	if t, set := d.Mods.Throttle.Get(); set {
		b = flow.AppendString(b, p.policy.Throttles[t].Name)
	} else {
		b = append(b, "null"...)
	}
	if m, set := d.Mods.Mark.Get(); set {
		b = append(b, `,"mark":`...)
		b = strconv.AppendUint(b, uint64(m), 10)
	}
	if v, set := d.Mods.DSCP.Get(); set {
		b = append(b, `,"dscp":`...)
		b = strconv.AppendUint(b, uint64(v), 10)
	}
	b = append(b, `,"default":`...)
	b = strconv.AppendBool(b, d.Default)
	b = append(b, `,"final":`...)
	b = strconv.AppendBool(b, d.Final)
	b = append(b, `,"pending":[`...)
	for i, name := range d.Pending.Names() {
		if i > 0 {
			b = append(b, ',')
		}
		b = flow.AppendString(b, name)
	}
	b = append(b, `],"why":`...)
	b = flow.AppendString(b, p.Why(d))
	if d.Hinted {
		b = append(b, `,"name_source":"dns"`...)
	}
	return b
}

func (p *Program) appendRule(b []byte, rule int) []byte {
	if rule < 0 {
		return append(b, "null"...)
	}
	return flow.AppendString(b, p.policy.Rules[rule].Name)
}

func (p *Program) appendRoute(b []byte, route int) []byte {
	if route < 0 {
		return append(b, "null"...)
	}
	return flow.AppendString(b, p.policy.Routes[route].Name)
}

func (p *Program) appendTarget(b []byte, d *Decision) []byte {
	switch d.Kind {
	case rules.ActNone:
		return append(b, "null"...)
	case rules.ActBlock:
		if d.Reject {
			return append(b, `"reject"`...)
		}
		return append(b, `"drop"`...)
	case rules.ActFallback:
		b = append(b, '[')
		for i, r := range d.AskedList {
			if i > 0 {
				b = append(b, ',')
			}
			b = p.appendRoute(b, r)
		}
		return append(b, ']')
	default:
		return p.appendRoute(b, d.Asked)
	}
}

func appendSpecificity(b []byte, some bool, s rules.Specificity) []byte {
	if !some {
		return append(b, "null"...)
	}
	return fmt.Appendf(b, "[%d,%d,%d,%d]", s.Fields, s.Name, s.IP, s.Port)
}

// ActionText returns what the decision does, as a person says it:
// "route best -> tunnel_fast, log, throttle slow".
func (p *Program) ActionText(d *Decision) string {
	text := p.askedText(d.Kind, d.Asked, d.AskedList, d.Reject)
	switch {
	case d.Kind == rules.ActNone:
		text = "none: the flow is left to the kernel"
	case d.Kind == rules.ActBlock:
	case d.Route < 0:
		text += " -> blocked: no member is usable"
	case d.Route != d.Asked:
		text += " -> " + p.policy.Routes[d.Route].Name
	}
	return text + p.modsText(&d.Mods)
}

// OutcomeText returns what a rule, or the default, asks for: "fallback best, backup, log".
func (p *Program) OutcomeText(o *rules.Outcome) string { return OutcomeText(p.policy, o) }

// OutcomeText is Program.OutcomeText for a policy that is not compiled.
func OutcomeText(policy *rules.Policy, o *rules.Outcome) string {
	p := &Program{policy: policy}
	return p.askedText(o.Kind, o.Route, o.Routes, o.Reject) + p.modsText(&o.Mods)
}

// modsText spells modifiers behind an action.
func (p *Program) modsText(m *rules.Modifiers) string {
	var b strings.Builder
	if text, set := m.Log.Get(); set {
		b.WriteString(strings.TrimRight(", log "+quoteUnlessEmpty(text), " "))
	}
	if t, set := m.Throttle.Get(); set {
		b.WriteString(", throttle " + p.policy.Throttles[t].Name)
	}
	if n, set := m.Mark.Get(); set {
		fmt.Fprintf(&b, ", mark %#x", n)
	}
	if v, set := m.DSCP.Get(); set {
		fmt.Fprintf(&b, ", dscp %d", v)
	}
	return b.String()
}

// askedText spells a primary action and its target.
func (p *Program) askedText(kind rules.ActionKind, asked int, list []int, reject bool) string {
	switch kind {
	case rules.ActNone:
		return "none"
	case rules.ActBlock:
		if reject {
			return "block reject"
		}
		return "block drop"
	case rules.ActFallback:
		var names []string
		for _, r := range list {
			names = append(names, p.policy.Routes[r].Name)
		}
		return "fallback " + strings.Join(names, ", ")
	default:
		return ActionName(kind) + " " + p.policy.Routes[asked].Name
	}
}

func quoteUnlessEmpty(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}

// ExplainText returns the explanation of f's decision as lines to read, ending
// in a newline.
func (p *Program) ExplainText(f *flow.Flow, e *Explanation) string {
	var b strings.Builder
	line := func(head, format string, args ...any) {
		fmt.Fprintf(&b, "  %-11s%s\n", head, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "%v\n\n", *f)
	rule := "none"
	if e.Rule >= 0 {
		rule = p.policy.Rules[e.Rule].Name
	}
	line("rule", "%s", rule)
	line("action", "%s", p.ActionText(&e.Decision))
	line("state", "%s", e.State)
	line("why", "%s", e.Why)
	if e.Rule >= 0 {
		line("order", "priority %d, specificity %v", p.policy.Rules[e.Rule].Priority, e.Specificity)
		switch {
		case e.RunnerUp >= 0:
			line("runner-up", "%s: priority %d, specificity %v", p.policy.Rules[e.RunnerUp].Name, p.policy.Rules[e.RunnerUp].Priority, e.RunnerUpSpecificity)
		case p.policy.Default == nil:
			line("runner-up", "none")
		default:
			o := p.policy.Default
			line("runner-up", "the default: %s", p.askedText(o.Kind, o.Route, o.Routes, o.Reject))
		}
	}
	switch pending := strings.Join(e.Pending.Names(), ", "); {
	case e.Final && e.Hinted:
		line("final", "yes; the name comes from DNS, the connection itself has none")
	case e.Final:
		line("final", "yes")
	case e.Hinted:
		line("final", "not yet: the name comes from DNS; may change with %s", pending)
	default:
		line("final", "not yet: may change with %s", pending)
	}
	if len(e.Near) > 0 {
		b.WriteString("\n  did not match\n")
		width := 0
		for _, n := range e.Near {
			width = max(width, len(p.policy.Rules[n.Rule].Name))
		}
		for _, n := range e.Near {
			fmt.Fprintf(&b, "    %-*s  %s\n", width, p.policy.Rules[n.Rule].Name, n.Failed)
		}
	}
	return b.String()
}
