package sim

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

var flowClauses = []string{
	"route", "target", "uplink", "action", "block", "by", "rule", "none", "not", "final", "pending", "log", "throttle", "mark", "dscp",
}

// expect reads what follows `expect`: a time and what holds then, a count of
// transitions, or clauses about the flow above.
func (p *parser) expect(at word) {
	next := p.peek()
	switch {
	case next == "transitions":
		p.expectTransitions()
	case next != "" && next[0] >= '0' && next[0] <= '9':
		p.expectAt()
	case p.next == len(p.words):
		p.report("NP003", p.end, "expected what to expect").Help = "for example `expect route backup by zoom`, `expect 9s state DEGRADED`"
	case len(p.s.flows) == 0:
		p.report("NP107", at.span, "there is no flow yet to expect this of").Help = "put a `flow` line above, or give a time: `expect 9s state DEGRADED`"
	default:
		for p.next < len(p.words) {
			if !p.clause() {
				return
			}
		}
	}
}

func (p *parser) expectAt() {
	first := p.here()
	at, ok := p.time("a time")
	if !ok {
		return
	}
	w, ok := p.take("state, share, schedule, quota or condition")
	if !ok {
		return
	}
	e := expectation{at: at, span: first}
	switch w.text {
	case "state":
		if e.state, ok = p.state(); !ok {
			return
		}
	case "share":
		v, ok := p.take("a percentage")
		if !ok {
			return
		}
		e.kind = wantShare
		if e.number, ok = p.percent(v); !ok {
			return
		}
	case "schedule", "quota", "condition":
		p.expectTimed(e, w.text)
		return
	default:
		p.report("NP004", w.span, "expected state, share, schedule, quota or condition, found %s", quote(w.text)).Help = orHelp(diag.DidYouMean(w.text, timed), "what a flow gets is expected without a time, below its `flow` line")
		return
	}
	e.uplink = p.uplink()
	e.span.End = p.words[p.next-1].span.End
	p.s.wantTime = append(p.s.wantTime, e)
}

var timed = []string{"state", "share", "schedule", "quota", "condition"}

// answers are what can be expected of a schedule, a quota or a condition, by its truth.
var answers = map[expectKind][3]string{
	wantSchedule: {"unknown", "closed", "open"}, wantQuota: {"unknown", "left", "exceeded"}, wantCondition: {"unknown", "no", "yes"},
}

// expectTimed reads NAME ANSWER.
func (p *parser) expectTimed(e expectation, what string) {
	e.kind = map[string]expectKind{"schedule": wantSchedule, "quota": wantQuota, "condition": wantCondition}[what]
	var ok bool
	if e.name, ok = p.take("a name"); !ok {
		return
	}
	known := answers[e.kind]
	w, ok := p.take(strings.Join(known[:], ", "))
	if !ok {
		return
	}
	i := slices.Index(known[:], w.text)
	if i < 0 {
		p.report("NP004", w.span, "expected %s, found %s", strings.Join(known[:], ", "), quote(w.text))
		return
	}
	e.number = int64(i)
	e.span.End = w.span.End
	p.s.wantTime = append(p.s.wantTime, e)
}

func (p *parser) expectTransitions() {
	w, _ := p.take("")
	e := expectation{kind: wantTransitions, span: w.span}
	op, ok := p.take("<= or ==")
	if !ok {
		return
	}
	if op.text != "<=" && op.text != "==" {
		p.report("NP203", op.span, "expected <= or ==, found %s", quote(op.text))
		return
	}
	e.exactly = op.text == "=="
	if e.number, ok = p.number("a number of transitions", maxTransitions); !ok {
		return
	}
	if !p.accept("in") {
		p.report("NP003", p.here(), "expected `in` and a length of time").Help = "for example `expect transitions <= 8 in 10m`"
		return
	}
	at := p.here()
	if e.within, ok = p.time("a length of time"); !ok {
		return
	}
	if e.within <= 0 {
		p.report("NP103", at, "the length of time must be above zero")
		return
	}
	e.uplink = p.uplink()
	e.span.End = p.words[p.next-1].span.End
	p.s.wantCount = append(p.s.wantCount, e)
}

func (p *parser) number(what string, most int64) (int64, bool) {
	w, ok := p.take(what)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(w.text, 0, 63)
	if err != nil || int64(n) > most {
		p.report("NP103", w.span, "expected %s up to %d, found %s", what, most, quote(w.text))
		return 0, false
	}
	return int64(n), true
}

// clause reads one clause about the last flow.
func (p *parser) clause() bool {
	w, _ := p.take("")
	e := expectation{flow: len(p.s.flows) - 1, span: w.span}
	if w.text == "not" && !w.quoted {
		e.not = true
		var ok bool
		if w, ok = p.take("what not to expect"); !ok {
			return false
		}
	}
	ok := true
	text := w.text
	if w.quoted {
		text = ""
	}
	switch text {
	case "route":
		e.kind = wantRoute
		e.name, ok = p.take("a route")
	case "target":
		e.kind = wantTarget
		e.name, ok = p.take("a route or a list of routes")
	case "uplink":
		e.kind = wantUplink
		e.name, ok = p.take("an uplink")
	case "action":
		e.kind = wantAction
		if e.name, ok = p.take("an action"); ok && !slices.Contains(actionNames[:], e.name.text) {
			p.report("NP120", e.name.span, "unknown action %s", quote(e.name.text)).Help = diag.DidYouMean(e.name.text, actionNames[:])
			return false
		}
	case "none":
		e.kind, e.name = wantAction, w
	case "block":
		e.kind = wantBlock
		if next := p.peek(); next == "drop" || next == "reject" {
			e.name, _ = p.take("")
		}
	case "by", "rule":
		e.kind = wantRule
		e.name, ok = p.take("a rule, or default")
	case "final":
		e.kind = wantFinal
	case "pending":
		e.kind = wantPending
		e.name, ok = p.take("facts, as in `sni,rtt`")
		for ok && strings.HasSuffix(e.name.text, ",") { // "sni, rtt"
			var more word
			more, ok = p.take("a fact")
			e.name.text += more.text
			e.name.span.End = more.span.End
		}
	case "log":
		e.kind = wantLog
		if p.next < len(p.words) && p.words[p.next].quoted {
			e.name, _ = p.take("")
		}
	case "throttle":
		e.kind = wantThrottle
		e.name, ok = p.take("a throttle")
	case "mark":
		e.kind = wantMark
		e.number, ok = p.number("a mark", 1<<32-1)
	case "dscp":
		e.kind = wantDSCP
		e.number, ok = p.number("a DSCP", 63)
	default:
		p.report("NP102", w.span, "can't expect %s", quote(w.text)).Help = diag.DidYouMean(w.text, flowClauses)
		return false
	}
	if !ok {
		return false
	}
	e.span.End = p.words[p.next-1].span.End
	if e.kind == wantPending && !p.pendingFields(e.name) {
		return false
	}
	p.s.wantFlow = append(p.s.wantFlow, e)
	return true
}

// pendingFields checks the names of facts.
func (p *parser) pendingFields(w word) bool {
	var known []string
	for f := rules.FieldSNI; f <= rules.FieldCondition; f++ {
		known = append(known, f.String())
	}
	for _, name := range strings.Split(w.text, ",") {
		if !slices.Contains(known, name) {
			p.report("NP102", w.span, "unknown fact %s", quote(name)).Help = diag.DidYouMean(name, known)
			return false
		}
	}
	return true
}

// length is how much virtual time the scenario needs.
func (s *Scenario) length() time.Duration {
	end := time.Duration(0)
	for _, x := range s.steps {
		end = max(end, x.at)
		if x.kind == stepRestart || x.kind == stepReboot {
			end = max(end, x.at+x.length)
		}
	}
	for _, f := range s.flows {
		end = max(end, f.at)
	}
	for _, e := range s.wantTime {
		end = max(end, e.at)
	}
	for _, e := range s.wantCount {
		end = max(end, e.within)
	}
	return min(end, maxTime)
}
