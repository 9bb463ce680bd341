package rules

import (
	"math"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/state"
)

// reservedRules are names that records, logs, filters and metrics have for the default, and
// metrics for the rules beyond their bound.
var reservedRules = [...]string{"default", "_default", "_other"}

func (c *checker) readRules() {
	list := c.ast.Rules
	names := c.rules
	c.p.Rules = make([]Rule, len(list))
	for i := range list {
		n := &list[i]
		if n.Name.Given() {
			c.name(n.Name, "a rule")
			if slices.Contains(reservedRules[:], n.Name.Text) {
				c.report("NP106", n.Name.Span, "a rule can't be called %s: so records and metrics call decisions of other rules, or of none", diag.Quote(n.Name.Text))
			}
			if first, ok := names[n.Name.Text]; ok {
				c.report("NP106", n.Name.Span, "a rule called %s exists already", diag.Quote(n.Name.Text)).
					Note(list[first].Name.Span, "first used here")
			} else {
				names[n.Name.Text] = i
			}
		} else {
			c.report("NP107", headOf(n.Span), "the rule has no name").Help = c.form("write `rule NAME {`", "add `name: ...`")
		}
		c.rule(n, &c.p.Rules[i])
	}
}

// headOf is the empty span at the start of one: where something is missing.
func headOf(s diag.Span) diag.Span {
	return diag.Span{File: s.File, Start: s.Start, End: min(s.Start+1, s.End)}
}

// where is the place of a finding about the rule as a whole.
func (n *RuleNode) where() diag.Span {
	if n.Name.Given() {
		return n.Name.Span
	}
	return headOf(n.Span)
}

func (c *checker) rule(n *RuleNode, r *Rule) {
	*r = Rule{Name: n.Name.Text, Span: n.Span, NameSpan: n.Name.Span, Active: state.AllStates}
	if n.Priority.Given() {
		p, _ := c.integer(n.Priority, "priority", math.MinInt32, math.MaxInt32)
		r.Priority = int(p)
	}
	c.active(n, r)
	if w := n.Disabled; w.Given() && w.Text != "disabled" && !c.boolean(w, "disabled") {
		n.Disabled = Word{}
	}
	if n.Disabled.Given() {
		r.Active = 0
	}
	if n.Match != nil {
		r.Match = c.expr(n.Match)
	} else {
		c.report("NP107", n.where(), "the rule does not say what it matches").Help = c.form("add `match`; `match any` is every flow", "add `match`; `match: {any: true}` is every flow")
	}
	if n.OnUnknown.Given() {
		c.onUnknown(n.OnUnknown, r)
	}
	for _, w := range n.Allow {
		if e, ok := diag.Lookup(diag.Code(w.Text)); !ok || e.Severity == diag.Error {
			c.report("NP004", w.Span, "expected the code of a warning or hint, found %s", diag.Quote(w.Text))
		}
		r.Allow = append(r.Allow, diag.Code(w.Text))
	}
	if n.Do == nil {
		c.report("NP122", n.where(), "the rule has no action").Help = c.form("add `do`", "add `action`") + ": route, switch_route, fallback, failover, block, log or throttle"
		return
	}
	before := c.diags.Len()
	r.Do = c.outcome(n.Do)
	if r.Do.Kind == ActNone && r.Do.Mods == (Modifiers{}) && c.diags.Len() == before && !explicit(n.Do) {
		c.report("NP122", n.Do.Span, "the rule does nothing").Help = "route, switch_route, fallback, failover, block, log, throttle, mark or dscp"
	}
}

// onUnknown reads wait, "wait 300ms", provisional or skip.
func (c *checker) onUnknown(w Word, r *Rule) {
	words := w.Split()
	switch c.oneOf(words[0], "on_unknown", "wait", "provisional", "skip") {
	case "wait":
		r.OnUnknown = Wait
		if len(words) > 1 {
			r.Hold = c.duration(words[1], "wait", time.Millisecond, maxHold)
			words = words[1:]
		}
	case "provisional":
		r.OnUnknown = Provisional
	case "skip":
		r.OnUnknown = Skip
	}
	if len(words) > 1 {
		c.report("NP005", words[1].Span, "expected the end of on_unknown, found %s", diag.Quote(words[1].Text))
	}
}

// maxHold bounds how long a flow can be held up: a TCP client repeats its first
// segment after a second (RFC 6298, section 2).
const maxHold = time.Second

// explicit reports whether an action without effect is meant, or was reported.
func explicit(a *Action) bool {
	return slices.ContainsFunc(a.Items, func(i Item) bool { return i.Key.Text == "continue" || i.Bad })
}

// active combines `when` and `disable`.
func (c *checker) active(n *RuleNode, r *Rule) {
	before := c.diags.Len()
	when := state.AllStates
	if n.When != nil {
		when, r.When = c.when(n.When)
	}
	disabled := state.Set(0)
	for _, w := range n.Disable {
		disabled |= c.state(w)
	}
	r.Active = when &^ disabled
	if r.Active == 0 && c.diags.Len() == before {
		c.report("NP307", n.where(), "the rule is disabled in every state in which it would be looked at")
	}
}

// states evaluates a condition that reads nothing but the state.
func (c *checker) states(e *ExprNode) state.Set {
	switch e.Op {
	case OpAnd, OpOr, OpNot:
		set := state.Set(0)
		if e.Op == OpAnd {
			set = state.AllStates
		}
		for i := range e.Kids {
			k := c.states(&e.Kids[i])
			switch e.Op {
			case OpAnd:
				set &= k
			case OpOr:
				set |= k
			default:
				return state.AllStates &^ k
			}
		}
		return set
	case OpPred:
		set := state.Set(0)
		for _, w := range e.Pred.Values {
			set |= c.state(w)
		}
		c.lasting(&e.Pred, &Pred{Field: FieldState}, true)
		if c.equality(&e.Pred) {
			return state.AllStates &^ set
		}
		return set
	default:
		return state.AllStates
	}
}

// state reads one or several states.
func (c *checker) state(w Word) state.Set {
	set := state.Set(0)
	for _, part := range w.commaList() {
		s, ok := state.Parse(part.Text)
		if !ok {
			d := c.report("NP204", part.Span, "no state is called %s", diag.Quote(part.Text))
			known := []string{"NORMAL", "DEGRADED", "FAILOVER", "RECOVERY"}
			if d.Help = diag.DidYouMean(part.Text, known); d.Help == "" {
				d.Help = "the states are NORMAL, DEGRADED, FAILOVER and RECOVERY"
			}
			continue
		}
		set = set.With(s)
	}
	return set
}

// Actions are the keys that may stand under `action`, primary ones first.
func Actions() []string {
	return []string{"route", "switch_route", "fallback", "failover", "block", "log", "throttle", "mark", "dscp", "continue"}
}

// defaultOutcome reads the default: as a rule's action, but nothing follows it.
func (c *checker) defaultOutcome(a *Action) *Outcome {
	if len(a.Items) == 0 {
		c.report("NP122", a.Span, "the default has no action")
	}
	for i := range a.Items {
		if a.Items[i].Key.Text == "continue" {
			c.report("NP207", a.Items[i].Key.Span, "nothing follows the default: `continue` has no meaning here")
		}
	}
	o := c.outcome(a)
	return &o
}

// outcome reads primary actions and modifiers.
func (c *checker) outcome(a *Action) Outcome {
	o := Outcome{Span: a.Span, Route: -1}
	var primary *Item // the first one, or `continue`
	for i := range a.Items {
		item := &a.Items[i]
		switch item.Key.Text {
		case "route", "switch_route", "fallback", "failover", "block", "continue":
			if primary != nil {
				c.report("NP121", item.Key.Span, "a rule has one primary action: %s stands beside %s", item.Key.Text, primary.Key.Text).
					Note(primary.Key.Span, "the other one is here")
				c.primaryAction(item, &Outcome{}) // for its own errors
				continue
			}
			primary = item
			c.primaryAction(item, &o)
		default:
			c.modifier(item, &o.Mods)
		}
	}
	return o
}

func (c *checker) primaryAction(item *Item, o *Outcome) {
	switch item.Key.Text {
	case "route":
		o.Kind = ActRoute
	case "switch_route":
		o.Kind = ActSwitchRoute
	case "failover":
		o.Kind = ActFailover
	case "fallback":
		o.Kind, o.Routes = ActFallback, c.members(item)
		return
	case "block":
		o.Kind = ActBlock
		o.Reject = c.block(item)
		return
	default:
		return
	}
	if w, ok := c.single(item); ok {
		o.Route = c.routeRef(w)
	}
}

// block reads true, drop or reject; NPL's bare `block` has no word.
func (c *checker) block(item *Item) bool {
	if len(item.Args) == 0 && !item.List && !item.Block && !item.Bad {
		return false
	}
	w, ok := c.single(item)
	if !ok {
		return false
	}
	return c.oneOf(w, "block", "true", "drop", "reject") == "reject"
}

func (c *checker) modifier(item *Item, m *Modifiers) {
	if item.Key.Text == "log" && len(item.Args) == 0 && !item.List && !item.Block && !item.Bad {
		m.Log = flow.Some("")
		return
	}
	w, ok := c.single(item)
	if !ok {
		return
	}
	switch item.Key.Text {
	case "log":
		c.log(w, m)
	case "throttle":
		if i := c.resolve(w, c.throttles, c.usedThrottles, "throttle"); i >= 0 {
			m.Throttle = flow.Some(i)
		}
	case "mark":
		if n, ok := c.integer(w, "mark", 0, math.MaxUint32); ok {
			m.Mark = flow.Some(uint32(n))
		}
	case "dscp":
		if n, ok := c.integer(w, "dscp", 0, 63); ok {
			m.DSCP = flow.Some(uint8(n))
		}
	default:
		c.report("NP120", item.Key.Span, "no action is called %s", diag.Quote(item.Key.Text)).
			Help = diag.DidYouMean(item.Key.Text, Actions())
	}
}

// maxLogText bounds the text of a log action: it stands in every record of the rule.
const maxLogText = 200

func (c *checker) log(w Word, m *Modifiers) {
	switch {
	case w.Text == "true" && !w.Quoted:
		m.Log = flow.Some("")
	case w.Text == "false" && !w.Quoted:
	case !w.Quoted && slices.Contains([]string{"true", "false", "yes", "no", "on", "off"}, strings.ToLower(w.Text)):
		c.boolean(w, "log") // `log: no` would log "no"
	case len(w.Text) > maxLogText:
		c.report("NP905", w.Span, "the text of a log action is longer than %d bytes", maxLogText)
	default:
		m.Log = flow.Some(w.Text)
	}
}
