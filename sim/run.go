package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const (
	// maxRounds bounds the work of one run; a week of seconds on eight uplinks fits.
	maxRounds = 5_000_000
	// dialsPerRound is how many dials `errors=` spreads its failures over, each round.
	dialsPerRound = 20
	// tickEvery is how often the machine is told the time.
	tickEvery = time.Second
)

// Result is what a run did.
type Result struct {
	Log          []Entry       // in order of time
	Expectations int           // how many were looked at
	Failed       int           // how many did not hold
	Length       time.Duration // virtual
}

// Run runs a scenario under a policy. The diagnostics are the expectations that
// did not hold (NP320), each with what happened instead; or, instead of a run,
// names that the policy does not have. Nothing is shared with earlier runs.
func Run(s *Scenario, p *rules.Policy) (Result, []diag.Diagnostic) {
	r := &runner{driver: newDriver(p, s.start), s: s, lines: make([]lineState, len(p.Uplinks))}
	for i := range r.lines {
		r.lines[i].set = healthy()
	}
	r.bind()
	if len(r.diags) > 0 {
		return Result{}, r.diags
	}
	r.run()
	slices.SortStableFunc(r.diags, func(a, b diag.Diagnostic) int { return cmp.Compare(a.Span.Start, b.Span.Start) })
	return Result{
		Log: r.log, Failed: len(r.diags), Length: s.length(),
		Expectations: len(s.wantFlow) + len(s.wantTime) + len(s.wantCount),
	}, r.diags
}

// runner runs one scenario.
type runner struct {
	*driver
	s     *Scenario
	diags []diag.Diagnostic
	lines []lineState // by uplink

	uplinks []int    // by step: the uplink meant, -1: the host
	former  []answer // by step: what a `sample A..B` replaced

	away bool // between the two ends of a restart
	back time.Duration
	boot int
	file []byte // the state file, while away
}

// lineState is how an uplink answers now.
type lineState struct {
	set                answer
	lossDebt, errsDebt int64 // parts per million that are due: deterministic losses
	nextRound          time.Duration
}

func (r *runner) fail(e *expectation, code diag.Code, format string, args ...any) *diag.Diagnostic {
	r.diags = append(r.diags, diag.Diagnostic{Code: code, Severity: diag.Error, Span: e.span, Message: fmt.Sprintf(format, args...)})
	return &r.diags[len(r.diags)-1]
}

// bind looks every name up in the policy.
func (r *runner) bind() {
	r.former = make([]answer, len(r.s.steps))
	r.uplinks = make([]int, len(r.s.steps))
	for i, st := range r.s.steps {
		switch st.kind {
		case stepSample, stepRestore:
			r.uplinks[i] = r.sampled(st)
		case stepForce, stepClear:
			r.uplinks[i] = r.uplink(st.uplink)
		}
	}
	for _, list := range [][]expectation{r.s.wantTime, r.s.wantCount} {
		for i := range list {
			r.uplink(list[i].uplink)
			if _, ok := answers[list[i].kind]; ok {
				r.timed(list[i].kind, list[i].name)
			}
		}
	}
	for i := range r.s.wantFlow {
		r.bindFlow(&r.s.wantFlow[i])
	}
	rounds := 0
	for _, u := range r.config.Uplinks {
		if u.Every > 0 {
			rounds += int(r.s.length() / u.Every)
		}
	}
	if rounds > maxRounds {
		r.fail(&expectation{span: r.s.PolicySpan}, "NP905", "the scenario needs %d probe rounds, more than %d", rounds, maxRounds).
			Help = "shorten it, or raise `every`"
	}
}

// uplink is the index of an uplink, -1 if none is named or there is no such one.
func (r *runner) uplink(w word) int {
	if w.span == (diag.Span{}) {
		return -1
	}
	var names []string
	for i, u := range r.policy.Uplinks {
		if u.Name == w.text {
			return i
		}
		names = append(names, u.Name)
	}
	r.undefined(w, "uplink", names)
	return -1
}

// timed is the index of a schedule, quota or condition, -1 if there is no such one.
func (r *runner) timed(kind expectKind, w word) int {
	what, names := "condition", []string(nil)
	switch kind {
	case wantSchedule:
		what = "schedule"
		for i := range r.policy.Schedules {
			names = append(names, r.policy.Schedules[i].Name)
		}
	case wantQuota:
		what = "quota"
		for i := range r.policy.Quotas {
			names = append(names, r.policy.Quotas[i].Name)
		}
	default:
		for i := range r.policy.Conditions {
			names = append(names, r.policy.Conditions[i].Name)
		}
	}
	i := slices.Index(names, w.text)
	if i < 0 {
		r.undefined(w, what, names)
	}
	return i
}

func (r *runner) undefined(w word, what string, names []string) {
	r.fail(&expectation{span: w.span}, "NP110", "the policy has no %s %s", what, quote(w.text)).Help = diag.DidYouMean(w.text, names)
}

// sampled is the uplink that a sample is for: the only one may be left out.
func (r *runner) sampled(st step) int {
	if st.uplink.span == (diag.Span{}) {
		if len(r.policy.Uplinks) != 1 && st.kind == stepSample {
			r.fail(&expectation{span: r.s.PolicySpan}, "NP107", "the policy has %d uplinks: a sample at %s must say uplink=NAME", len(r.policy.Uplinks), st.at)
		}
		return 0
	}
	i := r.uplink(st.uplink)
	if i >= 0 && st.kind == stepSample && r.config.Uplinks[i].Every <= 0 {
		r.fail(&expectation{span: st.uplink.span}, "NP207", "the uplink %s has no probe: its health stays unknown", quote(st.uplink.text)).
			Help = "give it a `probe` in the policy"
	}
	return i
}

func (r *runner) bindFlow(e *expectation) {
	check := func(w word, what string, n int, name func(int) string) {
		var names []string
		for i := range n {
			names = append(names, name(i))
		}
		if !slices.Contains(names, w.text) {
			r.undefined(w, what, names)
		}
	}
	routes := func(w word) {
		check(w, "route", len(r.policy.Routes), func(i int) string { return r.policy.Routes[i].Name })
	}
	switch e.kind {
	case wantRoute:
		routes(e.name)
	case wantTarget:
		for _, name := range strings.Split(e.name.text, ",") {
			routes(word{text: name, span: e.name.span})
		}
	case wantUplink:
		r.uplink(e.name)
	case wantRule:
		if e.name.text != "default" {
			check(e.name, "rule", len(r.policy.Rules), func(i int) string { return r.policy.Rules[i].Name })
		}
	case wantThrottle:
		check(e.name, "throttle", len(r.policy.Throttles), func(i int) string { return r.policy.Throttles[i].Name })
	}
}

// run moves the clock from event to event: at equal times inputs, rounds, a
// tick, flows, expectations.
func (r *runner) run() {
	order := func(n int, at func(int) time.Duration, kind func(int) stepKind) []int {
		list := make([]int, n)
		for i := range list {
			list[i] = i
		}
		slices.SortStableFunc(list, func(a, b int) int { return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(kind(a), kind(b))) })
		return list
	}
	none := func(int) stepKind { return 0 }
	steps := order(len(r.s.steps), func(i int) time.Duration { return r.s.steps[i].at }, func(i int) stepKind { return r.s.steps[i].kind })
	flows := order(len(r.s.flows), func(i int) time.Duration { return r.s.flows[i].at }, none)
	wants := order(len(r.s.wantTime), func(i int) time.Duration { return r.s.wantTime[i].at }, none)
	decided := make([]Decided, len(r.s.flows))
	end, nextTick := r.s.length(), time.Duration(0)
	for now := time.Duration(0); now <= end; {
		for ; len(steps) > 0 && r.s.steps[steps[0]].at <= now; steps = steps[1:] {
			r.step(steps[0])
		}
		if r.away && now >= r.back {
			r.resume(now)
		}
		r.rounds(now)
		if now >= nextTick {
			if !r.away {
				r.apply(state.TickEvent(now))
			}
			nextTick += tickEvery
		}
		for ; len(flows) > 0 && r.s.flows[flows[0]].at <= now; flows = flows[1:] {
			f := r.s.flows[flows[0]]
			decided[flows[0]] = r.flow(now, f.flow)
		}
		for ; len(wants) > 0 && r.s.wantTime[wants[0]].at <= now; wants = wants[1:] {
			r.checkTime(&r.s.wantTime[wants[0]])
		}
		next := nextTick
		for i := range r.lines {
			if r.config.Uplinks[i].Every > 0 {
				next = min(next, r.lines[i].nextRound)
			}
		}
		if len(steps) > 0 {
			next = min(next, r.s.steps[steps[0]].at)
		}
		if len(flows) > 0 {
			next = min(next, r.s.flows[flows[0]].at)
		}
		if len(wants) > 0 {
			next = min(next, r.s.wantTime[wants[0]].at)
		}
		if r.away {
			next = min(next, max(r.back, now+1))
		}
		now = next
	}
	for i := range r.s.wantFlow {
		r.checkFlow(&r.s.wantFlow[i], decided[r.s.wantFlow[i].flow])
	}
	for i := range r.s.wantCount {
		r.checkCount(&r.s.wantCount[i])
	}
}

// step carries out one input.
func (r *runner) step(i int) {
	st, uplink := r.s.steps[i], r.uplinks[i]
	switch st.kind {
	case stepSample:
		r.former[i] = r.lines[uplink].set
		r.set(uplink, st.set, st.at)
	case stepRestore:
		r.set(uplink, r.former[st.of], st.at)
	case stepForce:
		r.apply(state.Event{Kind: state.EventForce, At: st.at, Uplink: uplink, To: st.to, Until: st.at + st.length, Reason: st.reason})
	case stepCarry:
		r.usage.Add(&st.flow, st.bytes, r.start.Add(st.at))
		r.world(st.at)
	case stepClear:
		r.apply(state.Event{Kind: state.EventClear, At: st.at, Uplink: uplink})
	case stepRestart, stepReboot:
		r.file = r.machine.Encode(r.config, fmt.Sprintf("%x", r.policy.Hash), r.bootID())
		if st.kind == stepReboot {
			r.boot++
		}
		r.away, r.back = true, st.at+st.length
	}
}

func (r *runner) bootID() string { return fmt.Sprintf("boot-%d", r.boot) }

// resume starts the machine again from its state file.
func (r *runner) resume(now time.Duration) {
	before := r.machine.World(r.config)
	r.machine, _, _ = state.Resume(r.config, r.file, r.bootID(), fmt.Sprintf("%x", r.policy.Hash), now)
	r.away, r.file = false, nil
	r.newClock()
	after := r.machine.World(r.config)
	for i := range r.lines {
		if from, to := before.Uplinks[i].State, after.Uplinks[i].State; from != to {
			r.log = append(r.log, Entry{At: now, Transition: &state.Transition{At: now, Uplink: i, From: from, To: to, Why: "started anew"}})
		}
		if r.lines[i].set.down {
			r.apply(state.Event{Kind: state.EventLink, At: now, Uplink: i, Up: false})
		}
	}
	if before.Global != after.Global {
		r.log = append(r.log, Entry{At: now, Transition: &state.Transition{At: now, Uplink: -1, From: before.Global, To: after.Global, Why: "started anew"}})
	}
}

// set makes an uplink answer in a new way.
func (r *runner) set(uplink int, a answer, now time.Duration) {
	l := &r.lines[uplink]
	if a.down != l.set.down && !r.away {
		r.apply(state.Event{Kind: state.EventLink, At: now, Uplink: uplink, Up: !a.down})
	}
	l.set, l.lossDebt, l.errsDebt = a, 0, 0
}

// rounds finishes the rounds that are due now.
func (r *runner) rounds(now time.Duration) {
	for i := range r.lines {
		l, every := &r.lines[i], r.config.Uplinks[i].Every
		if every <= 0 || now < l.nextRound {
			continue
		}
		l.nextRound += every
		if l.set.silent || r.away {
			continue
		}
		round := state.Round{Uplink: i, At: now, Down: l.set.down}
		for range max(1, len(r.policy.Uplinks[i].Probe.Targets)) {
			round.Probes = append(round.Probes, state.Answer{RTT: l.set.rtt, Lost: due(&l.lossDebt, l.set.loss)})
		}
		if l.set.errors > 0 {
			round.Dials = dialsPerRound
			for range dialsPerRound {
				if due(&l.errsDebt, l.set.errors) {
					round.Failures++
				}
			}
		}
		r.apply(state.RoundEvent(round))
	}
}

// due spreads a share of events evenly: with 250,000 parts per million every
// fourth call is true.
func due(debt *int64, ppm int64) bool {
	if *debt += ppm; *debt < 1_000_000 {
		return false
	}
	*debt -= 1_000_000
	return true
}
