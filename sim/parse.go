package sim

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/state"
)

const (
	// maxSource bounds a scenario's text: thousands of lines; a longer one is no
	// scenario.
	maxSource = 4 << 20
	// maxTime bounds the virtual clock, so that a run ends: a week of seconds
	// takes a second or two.
	maxTime = 7 * 24 * time.Hour
	// maxTransitions is more than any week has.
	maxTransitions = 1_000_000
)

// Scenario is a parsed scenario. Names in it are looked up when it runs.
type Scenario struct {
	File string
	// Policy is the path of the policy as written, relative to the scenario's file.
	Policy     string
	PolicySpan diag.Span
	// start is when 0 s is, in the zone of schedules and quotas that name none;
	// zero: not said.
	start     time.Time
	steps     []step
	flows     []flowStep
	wantFlow  []expectation // in order of their lines
	wantTime  []expectation
	wantCount []expectation
}

// stepKind is what a step does; steps at the same time run in this order.
type stepKind uint8

const (
	stepRestore stepKind = iota // the end of `sample A..B`
	stepSample
	stepForce
	stepClear
	stepRestart
	stepReboot
	stepCarry
)

// step is one input on the virtual clock.
type step struct {
	kind   stepKind
	at     time.Duration
	uplink word // the zero word: not given
	set    answer
	of     int // stepRestore: the index of the sample's slot
	to     state.State
	length time.Duration // force: how long; restart: how long it is away
	reason string
	bytes  int64     // carry: how many
	flow   flow.Flow // carry: by which
}

// answer is what every probe of an uplink answers.
type answer struct {
	rtt          time.Duration
	loss, errors int64 // parts per million
	down         bool
	silent       bool // no round finishes
}

// healthy is the answer of an uplink that was never sampled.
func healthy() answer { return answer{rtt: 10 * time.Millisecond} }

type flowStep struct {
	at   time.Duration
	flow flow.Flow
	span diag.Span
}

// expectKind is what an expectation looks at.
type expectKind uint8

const (
	wantState expectKind = iota
	wantShare
	wantSchedule
	wantQuota
	wantCondition
	wantTransitions
	wantRoute
	wantTarget
	wantUplink
	wantAction
	wantBlock
	wantRule
	wantFinal
	wantPending
	wantLog
	wantThrottle
	wantMark
	wantDSCP
)

// expectation is one clause of an `expect` line.
type expectation struct {
	kind    expectKind
	not     bool
	at      time.Duration
	flow    int // index into flows
	uplink  word
	state   state.State
	number  int64
	exactly bool          // transitions ==
	within  time.Duration // transitions: the window
	name    word          // what was asked for, "" where it may be left out
	span    diag.Span
}

// word is a token with its place.
type word struct {
	text   string
	quoted bool
	span   diag.Span
}

// Parse reads a scenario. The scenario is nil when there is an error.
func Parse(file string, src []byte) (*Scenario, []diag.Diagnostic) {
	p := &parser{s: &Scenario{File: file}}
	switch {
	case len(src) > maxSource:
		p.report("NP901", diag.Span{File: file}, "the scenario is longer than %d bytes", maxSource)
	case !utf8.Valid(src):
		p.report("NP008", diag.Span{File: file}, "the scenario is not UTF-8")
	default:
		p.text(string(src))
	}
	if len(p.diags) > 0 {
		return nil, p.diags
	}
	return p.s, nil
}

type parser struct {
	s     *Scenario
	diags []diag.Diagnostic

	// The line at hand.
	words []word
	next  int
	end   diag.Span // where the line ends
}

func (p *parser) report(code diag.Code, span diag.Span, format string, args ...any) *diag.Diagnostic {
	p.diags = append(p.diags, diag.Diagnostic{Code: code, Severity: diag.Error, Span: span, Message: fmt.Sprintf(format, args...)})
	return &p.diags[len(p.diags)-1]
}

func (p *parser) text(src string) {
	at := 0
	if strings.HasPrefix(src, "\xef\xbb\xbf") {
		at = 3
	}
	first := diag.Span{File: p.s.File, Start: at, End: at}
	for at < len(src) {
		line, _, _ := strings.Cut(src[at:], "\n")
		if p.split(line, at) && len(p.words) > 0 {
			p.line(line, at)
		}
		at += len(line) + 1
	}
	if p.s.Policy == "" && len(p.diags) == 0 {
		p.report("NP107", first, "the scenario names no policy").Help = "begin with `policy FILE`"
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// split cuts a line that begins at offset base into words; a # at the start of
// a word begins a comment. It reports whether that went well.
func (p *parser) split(line string, base int) bool {
	p.words, p.next = p.words[:0], 0
	i := 0
	for {
		for i < len(line) && isBlank(line[i]) {
			i++
		}
		p.end = diag.Span{File: p.s.File, Start: base + i, End: base + i}
		if i == len(line) || line[i] == '#' {
			return true
		}
		start := i
		if line[i] == '"' {
			text, err := strconv.QuotedPrefix(line[i:])
			if err != nil {
				p.report("NP002", p.span(base, start, len(line)), "the string is not closed")
				return false
			}
			i += len(text)
			inner, err := strconv.Unquote(text)
			if err != nil {
				inner = text
			}
			p.words = append(p.words, word{inner, true, p.span(base, start, i)})
			continue
		}
		for i < len(line) && !isBlank(line[i]) {
			if line[i] == '"' { // key="a value"
				text, err := strconv.QuotedPrefix(line[i:])
				if err != nil {
					p.report("NP002", p.span(base, i, len(line)), "the string is not closed")
					return false
				}
				i += len(text) - 1
			}
			i++
		}
		p.words = append(p.words, word{line[start:i], false, p.span(base, start, i)})
	}
}

func (p *parser) span(base, start, end int) diag.Span {
	return diag.Span{File: p.s.File, Start: base + start, End: base + end}
}

var statements = []string{"policy", "sample", "flow", "expect", "force", "clear", "restart", "reboot", "start", "carry"}

func (p *parser) line(line string, base int) {
	w, _ := p.take("")
	switch w.text {
	case "policy":
		p.policy(w)
	case "sample":
		p.sample()
	case "flow":
		p.flow(line, base)
		return // reads to the end of the line by itself
	case "expect":
		p.expect(w)
	case "force":
		p.force()
	case "clear":
		if at, ok := p.time("a time"); ok {
			p.step(step{kind: stepClear, at: at, uplink: p.uplink()})
		}
	case "start":
		p.start(w)
	case "carry":
		p.carry(line, base)
		return
	case "restart", "reboot":
		p.restart(w)
	default:
		p.report("NP101", w.span, "unknown statement %s", quote(w.text)).Help = diag.DidYouMean(w.text, statements)
		return
	}
	if p.next < len(p.words) && !p.lineFailed(base) {
		w := p.words[p.next]
		p.report("NP005", w.span, "expected the end of the line, found %s", quote(w.text))
	}
}

// lineFailed reports whether the last diagnostic is about the line that begins at base.
func (p *parser) lineFailed(base int) bool {
	return len(p.diags) > 0 && p.diags[len(p.diags)-1].Span.Start >= base
}

// take returns the next word; what says what was expected, "" expects nothing.
func (p *parser) take(what string) (word, bool) {
	if p.next < len(p.words) {
		p.next++
		return p.words[p.next-1], true
	}
	if what != "" {
		p.report("NP003", p.end, "expected %s", what)
	}
	return word{}, false
}

// peek returns the text of the next word if it is not quoted, or "".
func (p *parser) peek() string {
	if p.next < len(p.words) && !p.words[p.next].quoted {
		return p.words[p.next].text
	}
	return ""
}

// accept takes the next word if it is text.
func (p *parser) accept(text string) bool {
	if p.peek() != text {
		return false
	}
	p.next++
	return true
}

func (p *parser) step(s step) { p.s.steps = append(p.s.steps, s) }

func (p *parser) policy(at word) {
	w, ok := p.take("the policy's file")
	switch {
	case !ok:
	case p.s.Policy != "":
		p.report("NP105", at.span, "the scenario has a policy already").Notes = []diag.Note{{Span: p.s.PolicySpan, Message: "first given here"}}
	case w.text == "":
		p.report("NP004", w.span, "expected the policy's file, found an empty string")
	default:
		p.s.Policy, p.s.PolicySpan = w.text, w.span
	}
}

// start reads DATE TIME [ZONE].
func (p *parser) start(at word) {
	date, ok := p.take("a date")
	if !ok {
		return
	}
	clock, ok := p.take("a time of day")
	if !ok {
		return
	}
	zone := time.UTC
	if w, given := p.take(""); given {
		var err error
		if zone, err = time.LoadLocation(w.text); err != nil || w.text == "" || w.text == "Local" {
			p.report("NP213", w.span, "no time zone is called %s", quote(w.text)).Help = "names are those of the IANA database: Europe/Berlin"
			return
		}
	}
	t, err := time.ParseInLocation("2006-01-02 15:04", date.text+" "+clock.text, zone)
	switch {
	case err != nil:
		span := date.span
		span.End = clock.span.End
		p.report("NP213", span, "expected a date and a time such as 2026-11-27 20:00, found %s %s", quote(date.text), quote(clock.text))
	case !p.s.start.IsZero():
		p.report("NP105", at.span, "the scenario has a start already")
	default:
		p.s.start = t
	}
}

// carry reads T SIZE FLOW.
func (p *parser) carry(line string, base int) {
	at, ok := p.time("a time")
	if !ok {
		return
	}
	w, ok := p.take("an amount such as 3GiB")
	if !ok {
		return
	}
	n, ok := size(w.text)
	if !ok {
		p.report("NP203", w.span, "expected an amount such as 3GiB, found %s", quote(w.text)).Help = "the units are B, KiB, MiB, GiB and TiB"
		return
	}
	if f, _, ok := p.flowText(line, base); ok {
		p.step(step{kind: stepCarry, at: at, bytes: n, flow: f})
	}
}

// size reads a whole number of bytes.
func size(s string) (int64, bool) {
	for shift, unit := range []string{"B", "KiB", "MiB", "GiB", "TiB"} {
		digits, ok := strings.CutSuffix(s, unit)
		n, err := strconv.ParseUint(digits, 10, 63)
		if ok && err == nil && n <= 1<<62>>(10*shift) {
			return int64(n) << (10 * shift), true
		}
	}
	return 0, false
}

// time reads a time since the start, or a length of time.
func (p *parser) time(what string) (time.Duration, bool) {
	w, ok := p.take(what)
	if !ok {
		return 0, false
	}
	return p.duration(w, what)
}

func (p *parser) duration(w word, what string) (time.Duration, bool) {
	d, err := time.ParseDuration(w.text)
	switch {
	case err != nil:
		p.report("NP203", w.span, "expected %s, found %s", what, quote(w.text)).Help = "for example `500ms`, `30s`, `1m30s`"
		return 0, false
	case d < 0 || d > maxTime:
		p.report("NP103", w.span, "%s must lie between 0s and %dh", what, maxTime/time.Hour)
		return 0, false
	}
	return d, true
}

// uplink reads an optional uplink=U.
func (p *parser) uplink() word {
	w, ok := p.value("uplink")
	if !ok {
		return word{}
	}
	return w
}

// value reads key=VALUE if it comes next.
func (p *parser) value(key string) (word, bool) {
	v, ok := strings.CutPrefix(p.peek(), key+"=")
	if !ok {
		return word{}, false
	}
	w, _ := p.take("")
	return p.cut(w, v), true
}

// cut is the last part of a word, with its own place. A quoted value is unquoted.
func (p *parser) cut(w word, tail string) word {
	w.span.Start = w.span.End - len(tail)
	w.text = tail
	if s, err := strconv.Unquote(tail); err == nil && strings.HasPrefix(tail, `"`) {
		w.text, w.quoted = s, true
	}
	return w
}

func (p *parser) sample() {
	w, ok := p.take("a time or A..B")
	if !ok {
		return
	}
	var from, to time.Duration
	a, b, ranged := strings.Cut(w.text, "..")
	if from, ok = p.duration(word{text: a, span: w.span}, "a time"); !ok {
		return
	}
	if ranged {
		if to, ok = p.duration(p.cut(w, b), "the end of the time"); !ok {
			return
		}
		if to <= from {
			p.report("NP103", w.span, "the end of the time must come after its start")
			return
		}
	}
	s := step{kind: stepSample, at: from, set: healthy()}
	seen := map[string]bool{}
	for p.next < len(p.words) {
		w, _ := p.take("")
		key, text, has := strings.Cut(w.text, "=")
		if !has || w.quoted {
			p.report("NP004", w.span, "expected key=value, found %s", quote(w.text))
			return
		}
		if seen[key] {
			p.report("NP105", w.span, "%s is given twice", key)
			return
		}
		seen[key] = true
		if !p.sampleValue(&s, w, key, p.cut(w, text)) {
			return
		}
	}
	if len(seen) == 0 || len(seen) == 1 && seen["uplink"] {
		p.report("NP107", p.end, "the sample sets nothing").Help = "for example `rtt=20ms` or `loss=100%`"
		return
	}
	s.of = len(p.s.steps)
	p.step(s)
	if ranged {
		p.step(step{kind: stepRestore, at: to, uplink: s.uplink, of: s.of})
	}
}

var sampleKeys = []string{"uplink", "rtt", "loss", "errors", "link", "rounds"}

func (p *parser) sampleValue(s *step, w word, key string, v word) (ok bool) {
	switch key {
	case "uplink":
		s.uplink, ok = v, true
	case "rtt":
		if s.set.rtt, ok = p.duration(v, "a round-trip time"); ok && s.set.rtt > time.Hour {
			p.report("NP103", v.span, "no round trip takes longer than an hour")
			ok = false
		}
	case "loss":
		s.set.loss, ok = p.percent(v)
	case "errors":
		s.set.errors, ok = p.percent(v)
	case "link":
		if ok = v.text == "up" || v.text == "down"; !ok {
			p.report("NP004", v.span, "expected up or down, found %s", quote(v.text))
		}
		s.set.down = v.text == "down"
	case "rounds":
		if ok = v.text == "none"; !ok {
			p.report("NP004", v.span, "expected none, found %s", quote(v.text))
		}
		s.set.silent = true
	default:
		w.span.End = w.span.Start + len(key)
		p.report("NP102", w.span, "unknown key %s", quote(key)).Help = diag.DidYouMean(key, sampleKeys)
	}
	return ok
}

// percent reads "5%" or "0.5%" as parts per million.
func (p *parser) percent(w word) (int64, bool) {
	digits, has := strings.CutSuffix(w.text, "%")
	whole, frac, point := strings.Cut(digits, ".")
	n, err := strconv.ParseUint(whole+(frac + "0000")[:4], 10, 32)
	if !has || err != nil || len(frac) > 4 || point && frac == "" || whole == "" || n > 1_000_000 {
		p.report("NP203", w.span, "expected a percentage from 0%% to 100%%, found %s", quote(w.text)).Help = "for example `5%` or `0.5%`"
		return 0, false
	}
	return int64(n), true
}

func (p *parser) state() (state.State, bool) {
	w, ok := p.take("a state")
	if !ok {
		return 0, false
	}
	s, ok := state.Parse(w.text)
	if !ok {
		p.report("NP204", w.span, "unknown state %s", quote(w.text)).Help = orHelp(diag.DidYouMean(w.text, stateNames()), "NORMAL, DEGRADED, FAILOVER or RECOVERY")
	}
	return s, ok
}

func stateNames() []string {
	var names []string
	for s := state.Normal; s <= state.Recovery; s++ {
		names = append(names, s.String())
	}
	return names
}

func orHelp(help, other string) string {
	if help != "" {
		return help
	}
	return other
}

func (p *parser) flow(line string, base int) {
	at, ok := p.time("a time")
	if !ok {
		return
	}
	if f, span, ok := p.flowText(line, base); ok {
		p.s.flows = append(p.s.flows, flowStep{at, f, span})
	}
}

// flowText reads the rest of a line that begins at base.
func (p *parser) flowText(line string, base int) (f flow.Flow, span diag.Span, ok bool) {
	if p.next == len(p.words) {
		p.report("NP003", p.end, "expected a flow, as in `tcp 10.0.0.5:5000 > 1.2.3.4:443`")
		return f, span, false
	}
	span = diag.Span{File: p.s.File, Start: p.words[p.next].span.Start, End: p.words[len(p.words)-1].span.End}
	f, err := flow.ParseText(line[span.Start-base : span.End-base])
	if err != nil {
		where, message := span, err.Error()
		var e *flow.Error
		if errors.As(err, &e) {
			where.Start, message = min(span.Start+e.Pos, span.End), e.Message
			for _, w := range p.words { // the word at that place
				if w.span.Start <= where.Start && where.Start < w.span.End {
					where.End = w.span.End
				}
			}
		}
		p.report("NP004", where, "%s", message)
		return f, span, false
	}
	return f, span, true
}

func (p *parser) force() {
	at, ok := p.time("a time")
	if !ok {
		return
	}
	s := step{kind: stepForce, at: at, reason: "scenario"}
	if s.to, ok = p.state(); !ok {
		return
	}
	s.uplink = p.uplink()
	if !p.accept("for") {
		p.report("NP003", p.here(), "expected `for` and how long").Help = "for example `force 10s FAILOVER for 10m`"
		return
	}
	if s.length, ok = p.time("how long"); !ok {
		return
	}
	if p.accept("reason") {
		w, ok := p.take("the reason")
		if !ok {
			return
		}
		s.reason = w.text
	}
	p.step(s)
}

// here is the place of the next word, or the end of the line.
func (p *parser) here() diag.Span {
	if p.next < len(p.words) {
		return p.words[p.next].span
	}
	return p.end
}

func (p *parser) restart(w word) {
	at, ok := p.time("a time")
	if !ok {
		return
	}
	s := step{kind: stepRestart, at: at, length: time.Second}
	if w.text == "reboot" {
		s.kind = stepReboot
	}
	if p.accept("for") {
		if s.length, ok = p.time("how long"); !ok {
			return
		}
	}
	p.step(s)
}

// quote shows a piece of the user's text, shortened.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return "`" + s + "`"
}
