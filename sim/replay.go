package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// flowLine is the line of a journal that holds a flow: its facts as a flow record.
type flowLine struct {
	Ev   string          `json:"ev"`
	At   time.Duration   `json:"at_ns"`
	Flow json.RawMessage `json:"flow"`
}

// AppendFlow appends a flow to a journal of state events, so that Replay decides it again.
func AppendFlow(dst []byte, at time.Duration, f flow.Flow) []byte {
	dst = fmt.Appendf(dst, `{"ev":"flow","at_ns":%d,"flow":`, at)
	return append(f.AppendJSON(dst), "}\n"...)
}

// Replay runs a recorded journal (state.AppendEvent, AppendFlow) under a policy
// and returns what happens: what was recorded if the policy is the one of the
// recording, else what it would have done. Without a start line it begins with
// a new machine; a start under another policy is carried over by name.
func Replay(p *rules.Policy, journal []byte) ([]Entry, error) {
	r := NewReplayer(p)
	var log []Entry
	number := 0
	for text := range bytes.Lines(journal) {
		number++
		more, err := r.Line(text)
		log = append(log, more...)
		if err != nil {
			return log, fmt.Errorf("journal line %d: %w", number, err)
		}
	}
	return log, nil
}

// Replayer is Replay for journals that are too long to keep. Journals one after
// the other, each with a start line, are one.
type Replayer struct{ driver *driver }

// NewReplayer begins a replay under a policy.
func NewReplayer(p *rules.Policy) *Replayer { return &Replayer{newDriver(p, time.Time{})} }

// Line takes the next line and returns what happens. After an error the replay
// can go on with the next.
func (r *Replayer) Line(text []byte) ([]Entry, error) {
	r.driver.log = nil
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return nil, nil
	}
	err := r.driver.replay(text)
	return r.driver.log, err
}

func (d *driver) replay(text []byte) error {
	var l flowLine
	if err := json.Unmarshal(text, &l); err != nil {
		return err
	}
	if l.Ev == "flow" {
		f, err := flow.ParseJSON(l.Flow)
		if err != nil {
			return err
		}
		d.flow(l.At, f)
		return nil
	}
	if m, ok, err := state.ParseStart(d.config, text); ok || err != nil {
		if err == nil {
			d.machine = m
		}
		return err
	}
	e, ok, err := state.ParseEvent(d.config, text)
	if err != nil {
		return err
	}
	// A failover that a decision asked for was recorded beside its flow; the
	// flow asks again by itself, and asking twice changes nothing.
	if ok {
		d.apply(e)
	}
	return nil
}
