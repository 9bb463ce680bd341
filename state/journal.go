package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// EventKind is what happened to a machine.
type EventKind uint8

// The kinds of event, one for each method that changes a machine.
const (
	EventRound EventKind = iota
	EventTick
	EventLink
	EventForce
	EventClear
	EventFailover
)

var eventNames = [...]string{"round", "tick", "link", "force", "clear", "failover"}

// Event is one input of a machine, as a journal records it. Round holds the
// data of EventRound; the others use At, Uplink and what their method takes.
type Event struct {
	Kind   EventKind
	At     time.Duration
	Uplink int // -1: the whole host
	Round  Round
	Up     bool          // EventLink
	To     State         // EventForce
	Until  time.Duration // EventForce
	Reason string        // EventForce
}

// RoundEvent is the event of Step(r).
func RoundEvent(r Round) Event { return Event{Kind: EventRound, At: r.At, Uplink: r.Uplink, Round: r} }

// TickEvent is the event of Tick(now).
func TickEvent(now time.Duration) Event { return Event{Kind: EventTick, At: now, Uplink: -1} }

// Apply calls the method that the event stands for.
func (m Machine) Apply(cfg Config, e Event) (Machine, []Transition) {
	switch e.Kind {
	case EventRound:
		return m.Step(cfg, e.Round)
	case EventTick:
		return m.Tick(cfg, e.At)
	case EventLink:
		return m.Link(cfg, e.Uplink, e.Up, e.At)
	case EventForce:
		return m.Force(cfg, e.Uplink, e.To, e.Until, e.Reason, e.At)
	case EventClear:
		return m.Clear(cfg, e.Uplink, e.At)
	case EventFailover:
		return m.AskFailover(cfg, e.At)
	}
	return m, nil
}

// maxLine bounds one line of a journal; a round of maxProbes answers is a tenth of it.
const maxLine = 64 << 10

// line is one line of a journal: an event, "start", or "moved", a transition.
// Uplinks are written by name, so that a journal can be read without its policy.
type line struct {
	Ev       string          `json:"ev"`
	At       time.Duration   `json:"at_ns"`
	Uplink   string          `json:"uplink,omitempty"`
	RTT      []*int64        `json:"rtt_us,omitempty"` // null: lost
	Down     bool            `json:"down,omitempty"`
	Dials    int             `json:"dials,omitempty"`
	Failures int             `json:"failures,omitempty"`
	From     string          `json:"from,omitempty"`
	To       string          `json:"to,omitempty"`
	Until    time.Duration   `json:"until_ns,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Why      string          `json:"why,omitempty"`
	State    json.RawMessage `json:"state,omitempty"` // start: the machine, as Encode writes it
}

// AppendStart appends the line that a journal begins with: the whole machine,
// so that what follows can be replayed.
func AppendStart(dst []byte, cfg Config, m Machine, policyHash, bootID string) []byte {
	var state bytes.Buffer
	if json.Compact(&state, m.Encode(cfg, policyHash, bootID)) != nil {
		return dst
	}
	return appendLine(dst, line{Ev: "start", At: m.now, State: state.Bytes()})
}

// AppendEvent appends an event and the transitions that followed from it.
func AppendEvent(dst []byte, cfg Config, e Event, ts []Transition) []byte {
	if int(e.Kind) >= len(eventNames) {
		return dst
	}
	l := line{Ev: eventNames[e.Kind], At: e.At, Uplink: uplinkName(cfg, e.Uplink)}
	switch e.Kind {
	case EventRound:
		l.At, l.Uplink = e.Round.At, uplinkName(cfg, e.Round.Uplink)
		l.Down, l.Dials, l.Failures = e.Round.Down, e.Round.Dials, e.Round.Failures
		for _, a := range e.Round.Probes[:min(len(e.Round.Probes), maxProbes)] {
			if a.Lost {
				l.RTT = append(l.RTT, nil)
				continue
			}
			us := a.RTT.Microseconds()
			l.RTT = append(l.RTT, &us)
		}
	case EventLink:
		l.Down = !e.Up
	case EventForce:
		l.To, l.Until, l.Reason = e.To.String(), e.Until, clip(e.Reason)
	}
	dst = appendLine(dst, l)
	for _, t := range ts {
		dst = appendLine(dst, line{
			Ev: "moved", At: t.At, Uplink: uplinkName(cfg, t.Uplink),
			From: t.From.String(), To: t.To.String(), Why: t.Why,
		})
	}
	return dst
}

func appendLine(dst []byte, l line) []byte {
	b, err := json.Marshal(l)
	if err != nil {
		return dst // can't happen: strings and integers only
	}
	return append(append(dst, b...), '\n')
}

func uplinkName(cfg Config, i int) string {
	if i < 0 || i >= len(cfg.Uplinks) {
		return ""
	}
	return cfg.Uplinks[i].Name
}

// ParseEvent reads one line of a journal. ok is false for a line that is no
// event: a start, or a transition, which follows from the events.
func ParseEvent(cfg Config, text []byte) (e Event, ok bool, err error) {
	l, err := parseLine(text)
	if err != nil {
		return Event{}, false, err
	}
	return l.event(cfg)
}

func parseLine(text []byte) (line, error) {
	var l line
	if len(text) > maxLine && !bytes.HasPrefix(text, []byte(`{"ev":"start"`)) {
		return l, fmt.Errorf("longer than %d bytes", maxLine)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, err
	}
	if !validTimes(l.At, l.Until) {
		return l, errRange
	}
	return l, nil
}

func (l line) event(cfg Config) (Event, bool, error) {
	if l.Ev == "start" || l.Ev == "moved" {
		return Event{}, false, nil
	}
	kind := slices.Index(eventNames[:], l.Ev)
	if kind < 0 {
		return Event{}, false, fmt.Errorf("unknown event %q", l.Ev)
	}
	e := Event{Kind: EventKind(kind), At: l.At, Uplink: -1, Up: !l.Down, Until: l.Until, Reason: l.Reason}
	if l.Uplink != "" {
		e.Uplink = slices.IndexFunc(cfg.Uplinks, func(u UplinkConfig) bool { return u.Name == l.Uplink })
		if e.Uplink < 0 {
			return e, false, fmt.Errorf("the policy has no uplink %q", l.Uplink)
		}
	}
	switch e.Kind {
	case EventForce:
		to, known := Parse(l.To)
		if !known {
			return e, false, fmt.Errorf("unknown state %q", l.To)
		}
		e.To = to
	case EventRound:
		e.Round = Round{Uplink: e.Uplink, At: l.At, Down: l.Down, Dials: l.Dials, Failures: l.Failures}
		for _, us := range l.RTT[:min(len(l.RTT), maxProbes)] {
			a := Answer{Lost: us == nil}
			if us != nil {
				a.RTT = time.Duration(min(max(*us, 0), maxRTT)) * time.Microsecond
			}
			e.Round.Probes = append(e.Round.Probes, a)
		}
	}
	return e, true, nil
}

// ParseStart reads a line of a journal as its start. ok is false for other
// lines. A start under another policy is carried over by name.
func ParseStart(cfg Config, text []byte) (m Machine, ok bool, err error) {
	l, err := parseLine(text)
	if err != nil || l.Ev != "start" {
		return Machine{}, false, err
	}
	s, err := parseSnapshot(l.State)
	if err != nil {
		return Machine{}, true, err
	}
	if m, err = s.machine(cfg); err == nil {
		return m, true, nil
	}
	old := s.config()
	if m, err = s.machine(old); err != nil {
		return Machine{}, true, err
	}
	return m.Reconfigure(old, cfg), true, nil
}

// Replay runs a journal again and returns the machine at its end and the
// journal that this run writes: byte for byte the same one, unless the code or
// the policy differs. It must begin with a start line.
func Replay(cfg Config, journal []byte) (Machine, []byte, error) {
	var m Machine
	var out []byte
	number, begun := 0, false
	for text := range bytes.Lines(journal) {
		number++
		text = bytes.TrimSpace(text)
		if len(text) == 0 {
			continue
		}
		l, err := parseLine(text)
		if err != nil {
			return m, out, fmt.Errorf("journal line %d: %w", number, err)
		}
		if l.Ev == "start" {
			s, err := parseSnapshot(l.State)
			if err == nil {
				m, err = s.machine(cfg)
			}
			if err != nil {
				return m, out, fmt.Errorf("journal line %d: %w", number, err)
			}
			begun = true
			out = AppendStart(out, cfg, m, s.Policy, s.Boot)
			continue
		}
		if !begun {
			return m, out, errors.New("the journal does not begin with a start line")
		}
		e, ok, err := l.event(cfg)
		if err != nil {
			return m, out, fmt.Errorf("journal line %d: %w", number, err)
		}
		if ok {
			var ts []Transition
			m, ts = m.Apply(cfg, e)
			out = AppendEvent(out, cfg, e, ts)
		}
	}
	return m, out, nil
}

// String describes the transition in one line, without its time.
func (t Transition) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s", t.From, t.To)
	if t.Why != "" {
		fmt.Fprintf(&b, ": %s", t.Why)
	}
	return b.String()
}
