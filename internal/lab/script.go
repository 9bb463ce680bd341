package lab

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/state"
)

// scriptName is the file that RunDirs looks for in a directory.
const scriptName = "lab.txt"

// Limits of a script: far above what a person reads, far below what hurts.
const (
	maxScriptBytes = 1 << 20
	maxScriptLines = 2000
	maxRepeat      = 500
)

// Script is a parsed lab.txt; docs/lab.md defines the language.
type Script struct {
	Main   string // the uplink of the gateway's own default routes
	Policy string // file name relative to the script, "policy.yaml" unless said
	Steps  []Step
}

// Step is one line of a script.
type Step struct {
	File string
	Line int
	Text string
	Do   any // one of the command types below
}

// Where returns "file:line".
func (s Step) Where() string { return fmt.Sprintf("%s:%d", s.File, s.Line) }

// The commands.
type (
	// Say prints a headline.
	Say struct{ Text string }
	// Sleep waits.
	Sleep struct{ For time.Duration }
	// SetFault makes an uplink ill; the zero Fault heals it.
	SetFault struct {
		Uplink string
		Fault  Fault
	}
	// Await waits until a state holds; Within 0 asks once. Uplink "" is the global state.
	Await struct {
		State  state.State
		Uplink string
		Within time.Duration
	}
	// Reload puts another policy file in place of the running one.
	Reload struct {
		File   string
		Result string // "applied", "unchanged", "rejected"
		Code   string // of the error, when rejected; "" any
	}
	// Daemon kills (SIGKILL) or starts netpolicyd.
	Daemon struct{ Kill bool }
	// Xray starts an Xray in the internet with a configuration, or ends the one of the
	// name; File "" ends it.
	Xray struct{ Name, File string }
	// AwaitRoute waits until the tunnel of a route via xray is known to be alive, or dead.
	AwaitRoute struct {
		Route  string
		Alive  bool
		Within time.Duration
	}
	// TransferStart begins a transfer that goes on until it is stopped.
	TransferStart struct{ Name, Host, Port string }
	// TransferCheck fails unless the transfer moves on, over Uplink if that is not "".
	TransferCheck struct{ Name, Uplink string }
	// TransferStop ends one.
	TransferStop struct{ Name string }
	// Connect opens Times new connections, one after the other.
	Connect struct {
		Host, Port string
		Kind       string // "tcp", "tls", "udp"
		SNI        string // "" is the host's name
		V6         bool
		Times      int
		Expect     Expect
	}
)

// Outcome is what becomes of a connection.
type Outcome uint8

// The outcomes. Connected is the zero value.
const (
	Connected Outcome = iota
	Blocked           // silence
	Rejected          // an answer that says no
)

var outcomeNames = [...]string{"connected", "blocked", "rejected"}

// String returns the script's word for the outcome.
func (o Outcome) String() string { return outcomeNames[o] }

// Expect is what a connect line expects; "" expects nothing in particular.
type Expect struct {
	Outcome             Outcome
	Rule, Route, Uplink string // Rule "default" is the policy's default
	Logged              bool
	// Share expects Lo to Hi percent of the connections on one uplink; "" does not.
	Share  string
	Lo, Hi int
}

// ParseScript reads a script. file is for messages. All errors are returned,
// joined, each beginning with file:line.
func ParseScript(file string, src []byte) (*Script, error) {
	if len(src) > maxScriptBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, maxScriptBytes)
	}
	lines := strings.Split(string(src), "\n")
	if len(lines) > maxScriptLines {
		return nil, fmt.Errorf("%s: more than %d lines", file, maxScriptLines)
	}
	s := &Script{Main: Wan1, Policy: "policy.yaml"}
	var errs []error
	for i, text := range lines {
		text, _, _ = strings.Cut(text, "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		words := &words{rest: strings.Fields(text)}
		do, err := s.command(words, text)
		if err == nil {
			err = words.end()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, i+1, err))
		} else if do != nil {
			s.Steps = append(s.Steps, Step{File: file, Line: i + 1, Text: text, Do: do})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(s.Steps) == 0 {
		return nil, fmt.Errorf("%s:1: the script does nothing", file)
	}
	return s, nil
}

// words are what is left of a line.
type words struct{ rest []string }

func (w *words) next(what string) (string, error) {
	if len(w.rest) == 0 {
		return "", fmt.Errorf("%s is missing at the end", what)
	}
	word := w.rest[0]
	w.rest = w.rest[1:]
	return word, nil
}

// accept takes the word if it comes next.
func (w *words) accept(word string) bool {
	if len(w.rest) == 0 || w.rest[0] != word {
		return false
	}
	w.rest = w.rest[1:]
	return true
}

func (w *words) end() error {
	if len(w.rest) > 0 {
		return fmt.Errorf("unexpected %q", w.rest[0])
	}
	return nil
}

func (w *words) oneOf(what string, choices ...string) (string, error) {
	word, err := w.next(what)
	if err == nil && !slices.Contains(choices, word) {
		err = fmt.Errorf("%s %q: want %s", what, word, strings.Join(choices, ", "))
	}
	return word, err
}

func (w *words) uplink() (string, error) { return w.oneOf("uplink", Wan1, Wan2) }

func (w *words) duration(what string) (time.Duration, error) {
	word, err := w.next(what)
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(word)
	if err != nil || d <= 0 || d > time.Hour {
		return 0, fmt.Errorf("%s %q: want a duration such as 200ms or 30s", what, word)
	}
	return d, nil
}

// command reads one line; nil means that it was a setting.
func (s *Script) command(w *words, text string) (any, error) {
	head, _ := w.next("command")
	switch head {
	case "main", "policy":
		return nil, s.setting(head, w)
	case "say":
		w.rest = nil
		return Say{strings.TrimSpace(strings.TrimPrefix(text, "say"))}, nil
	case "sleep":
		d, err := w.duration("how long")
		return Sleep{d}, err
	case "fault", "heal":
		return parseFault(head, w)
	case "await", "expect":
		return parseAwait(head, w)
	case "connect":
		return parseConnect(w)
	case "transfer":
		return parseTransfer(w)
	case "reload":
		return parseReload(w)
	case "xray":
		return parseXray(w)
	case "daemon":
		what, err := w.oneOf("daemon command", "kill", "start")
		return Daemon{what == "kill"}, err
	}
	return nil, fmt.Errorf("unknown command %q: want main, policy, say, sleep, fault, heal, await, expect, connect, transfer, reload, xray or daemon", head)
}

func (s *Script) setting(head string, w *words) (err error) {
	if len(s.Steps) > 0 {
		return fmt.Errorf("%s must come before the first command", head)
	}
	if head == "main" {
		s.Main, err = w.uplink()
	} else {
		s.Policy, err = w.next("policy file")
	}
	return err
}

func parseFault(head string, w *words) (any, error) {
	var f SetFault
	var err error
	if f.Uplink, err = w.uplink(); err != nil || head == "heal" {
		return f, err
	}
	for {
		word, err := w.oneOf("fault", "delay", "loss", "down", "blackhole")
		if err != nil {
			return nil, err
		}
		switch word {
		case "delay":
			f.Fault.Delay, err = w.duration("delay")
		case "loss":
			f.Fault.Loss, err = w.loss()
		case "down":
			f.Fault.Down = true
		case "blackhole":
			f.Fault.Blackhole = true
		}
		if err != nil {
			return nil, err
		}
		if len(w.rest) == 0 {
			return f, nil
		}
	}
}

// loss reads a percentage into parts per million.
func (w *words) loss() (int, error) {
	word, err := w.next("loss")
	if err != nil {
		return 0, err
	}
	number, percent := strings.CutSuffix(word, "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !percent || !(v > 0 && v <= 100) {
		return 0, fmt.Errorf("loss %q: want a percentage such as 10%%", word)
	}
	return int(math.Round(v * 10_000)), nil
}

func parseXray(w *words) (any, error) {
	what, err := w.oneOf("xray command", "start", "stop")
	if err != nil {
		return nil, err
	}
	var x Xray
	if x.Name, err = w.next("name"); err == nil && what == "start" {
		x.File, err = w.next("configuration file")
	}
	return x, err
}

func parseAwaitRoute(w *words) (any, error) {
	var a AwaitRoute
	var err error
	if a.Route, err = w.next("route"); err != nil {
		return nil, err
	}
	health, err := w.oneOf("health", "alive", "dead")
	if err != nil {
		return nil, err
	}
	a.Alive = health == "alive"
	if _, err := w.oneOf("limit", "within"); err != nil {
		return nil, err
	}
	a.Within, err = w.duration("within")
	return a, err
}

func parseAwait(head string, w *words) (any, error) {
	if head == "await" && w.accept("route") {
		return parseAwaitRoute(w)
	}
	var a Await
	if _, err := w.oneOf("what", "state"); err != nil {
		return nil, err
	}
	name, err := w.next("state")
	if err != nil {
		return nil, err
	}
	var ok bool
	if a.State, ok = state.Parse(name); !ok {
		return nil, fmt.Errorf("state %q: want NORMAL, DEGRADED, FAILOVER or RECOVERY", name)
	}
	if w.accept("on") {
		if a.Uplink, err = w.uplink(); err != nil {
			return nil, err
		}
	}
	if head == "await" {
		if _, err := w.oneOf("limit", "within"); err != nil {
			return nil, err
		}
		if a.Within, err = w.duration("within"); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (w *words) hostPort() (host, port string, err error) {
	word, err := w.next("host:port")
	if err != nil {
		return "", "", err
	}
	host, port, err = net.SplitHostPort(word)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
		return "", "", fmt.Errorf("%q: want host:port", word)
	}
	return host, port, nil
}

func parseConnect(w *words) (any, error) {
	c := Connect{Kind: "tcp", Times: 1}
	var err error
	if c.Host, c.Port, err = w.hostPort(); err != nil {
		return nil, err
	}
	c.V6 = strings.Contains(c.Host, ":")
	for len(w.rest) > 0 {
		word, _ := w.next("option")
		times, isTimes := strings.CutPrefix(word, "x")
		switch {
		case word == "expect":
			if len(w.rest) == 0 {
				return nil, errors.New("what to expect is missing at the end")
			}
			c.Expect, err = parseExpect(w)
			return c, err
		case word == "tcp" || word == "tls" || word == "udp":
			c.Kind = word
		case word == "v6":
			c.V6 = true
		case word == "sni":
			if c.SNI, err = w.next("name"); err != nil {
				return nil, err
			}
		case isTimes:
			if c.Times, err = strconv.Atoi(times); err != nil || c.Times < 1 || c.Times > maxRepeat {
				return nil, fmt.Errorf("%q: want x1 to x%d", word, maxRepeat)
			}
		default:
			return nil, fmt.Errorf("unknown option %q: want tcp, tls, udp, v6, sni NAME, xN or expect", word)
		}
	}
	return c, nil
}

// parseExpect reads what a connect line expects, up to the end of the line.
func parseExpect(w *words) (e Expect, err error) {
	for len(w.rest) > 0 {
		word, _ := w.next("expectation")
		switch word {
		case "connected":
			e.Outcome = Connected
		case "blocked":
			e.Outcome = Blocked
		case "rejected":
			e.Outcome = Rejected
		case "logged":
			e.Logged = true
		case "rule":
			e.Rule, err = w.next("rule")
		case "route":
			e.Route, err = w.next("route")
		case "uplink":
			e.Uplink, err = w.uplink()
		case "share":
			e.Share, e.Lo, e.Hi, err = w.share()
		default:
			err = fmt.Errorf("unknown expectation %q: want connected, blocked, rejected, logged, rule, route, uplink or share", word)
		}
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// share reads "wan1 5%..40%".
func (w *words) share() (uplink string, lo, hi int, err error) {
	if uplink, err = w.uplink(); err != nil {
		return "", 0, 0, err
	}
	word, err := w.next("share")
	if err != nil {
		return "", 0, 0, err
	}
	from, to, ok := strings.Cut(word, "..")
	percent := func(s string) int {
		n, err := strconv.Atoi(strings.TrimSuffix(s, "%"))
		if err != nil || !strings.HasSuffix(s, "%") || n < 0 || n > 100 {
			ok = false
		}
		return n
	}
	lo, hi = percent(from), percent(to)
	if !ok || lo > hi {
		return "", 0, 0, fmt.Errorf("share %q: want a range such as 5%%..40%%", word)
	}
	return uplink, lo, hi, nil
}

func parseTransfer(w *words) (any, error) {
	what, err := w.oneOf("transfer command", "start", "check", "stop")
	if err != nil {
		return nil, err
	}
	name, err := w.next("transfer's name")
	if err != nil {
		return nil, err
	}
	switch what {
	case "start":
		t := TransferStart{Name: name}
		t.Host, t.Port, err = w.hostPort()
		return t, err
	case "check":
		t := TransferCheck{Name: name}
		if _, err := w.oneOf("what", "alive"); err != nil {
			return nil, err
		}
		if w.accept("uplink") {
			t.Uplink, err = w.uplink()
		}
		return t, err
	}
	return TransferStop{name}, nil
}

func parseReload(w *words) (any, error) {
	r := Reload{Result: "applied"}
	var err error
	if r.File, err = w.next("policy file"); err != nil || len(w.rest) == 0 {
		return r, err
	}
	if _, err := w.oneOf("option", "expect"); err != nil {
		return nil, err
	}
	if r.Result, err = w.oneOf("result", "applied", "unchanged", "rejected"); err != nil {
		return nil, err
	}
	if r.Result == "rejected" && len(w.rest) > 0 {
		r.Code, err = w.next("code")
	}
	return r, err
}
