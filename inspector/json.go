package inspector

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// eventJSON is an event as one line of NDJSON. The flow inside is a flow
// record (language.md, section 8).
type eventJSON struct {
	Kind   string          `json:"kind"`
	At     time.Time       `json:"at,omitzero"`
	Source string          `json:"source,omitempty"`
	Flow   json.RawMessage `json:"flow,omitempty"`
	Stats  *statsJSON      `json:"stats,omitempty"`
	Answer *answerJSON     `json:"answer,omitempty"`
	Mark   uint32          `json:"ct_mark,omitempty"`
	Prefix string          `json:"prefix,omitempty"`

	Earlier bool   `json:"earlier,omitempty"`
	ECH     bool   `json:"ech,omitempty"`
	Hello   *Hello `json:"hello,omitempty"`
	PID     uint32 `json:"pid,omitempty"`
}

type statsJSON struct {
	RTT         int64  `json:"rtt_us,omitempty"`
	MinRTT      int64  `json:"min_rtt_us,omitempty"`
	Retrans     uint64 `json:"retrans,omitempty"`
	BytesUp     uint64 `json:"bytes_up,omitempty"`
	BytesDown   uint64 `json:"bytes_down,omitempty"`
	PacketsUp   uint64 `json:"packets_up,omitempty"`
	PacketsDown uint64 `json:"packets_down,omitempty"`
	Replied     bool   `json:"replied,omitempty"`
	Reset       bool   `json:"reset,omitempty"`
}

type answerJSON struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs"`
	TTL   int64        `json:"ttl"` // seconds
	ALPN  string       `json:"alpn,omitempty"`
}

// AppendJSON appends the event as one JSON object, without a newline. ParseJSON
// reads it back, durations to the microsecond, TTLs to the second.
func (e *Event) AppendJSON(b []byte) ([]byte, error) {
	j := eventJSON{Kind: e.Kind.String(), At: e.At, Source: e.Source, Mark: e.Mark, Prefix: e.Prefix, Earlier: e.Earlier, ECH: e.ECH, Hello: e.Hello, PID: e.PID}
	if e.Kind == Answered {
		j.Answer = &answerJSON{e.Answer.Name, append([]netip.Addr{}, e.Answer.Addrs...), int64(e.Answer.TTL / time.Second), e.Answer.ALPN}
	} else {
		j.Flow = e.Flow.AppendJSON(nil)
	}
	if s := e.Stats; s != (Stats{}) {
		j.Stats = &statsJSON{
			s.RTT.Microseconds(), s.MinRTT.Microseconds(), s.Retrans, s.BytesUp, s.BytesDown, s.PacketsUp, s.PacketsDown, s.Replied, s.Reset,
		}
	}
	line, err := json.Marshal(j)
	if err != nil {
		return b, fmt.Errorf("write event: %w", err)
	}
	return append(b, line...), nil
}

// ParseJSON reads one event. An object without the key "kind" is a flow record,
// and stands for the opening of that flow.
func ParseJSON(line []byte) (Event, error) {
	if len(line) > flow.MaxRecord {
		return Event{}, fmt.Errorf("event longer than %d bytes", flow.MaxRecord)
	}
	var j eventJSON
	if err := json.Unmarshal(line, &j); err != nil {
		return Event{}, fmt.Errorf("read event: %w", err)
	}
	if j.Kind == "" {
		f, err := flow.ParseJSON(line)
		if err != nil {
			return Event{}, fmt.Errorf("read flow record: %w", err)
		}
		return Event{Kind: Open, Flow: f}, nil
	}
	kind, ok := ParseKind(j.Kind)
	if !ok {
		return Event{}, fmt.Errorf("read event: unknown kind %q", j.Kind)
	}
	e := Event{Kind: kind, At: j.At, Source: j.Source, Mark: j.Mark, Prefix: j.Prefix, Earlier: j.Earlier, ECH: j.ECH, Hello: j.Hello, PID: j.PID}
	if s := j.Stats; s != nil {
		e.Stats = Stats{
			time.Duration(s.RTT) * time.Microsecond, time.Duration(s.MinRTT) * time.Microsecond,
			s.Retrans, s.BytesUp, s.BytesDown, s.PacketsUp, s.PacketsDown, s.Replied, s.Reset,
		}
	}
	switch {
	case kind == Answered && j.Answer == nil:
		return Event{}, errors.New("read event: an answer without its answer")
	case kind == Answered:
		e.Answer = Answer{j.Answer.Name, j.Answer.Addrs, time.Duration(j.Answer.TTL) * time.Second, j.Answer.ALPN}
	default:
		f, err := flow.ParseJSON(j.Flow)
		if err != nil {
			return Event{}, fmt.Errorf("read the event's flow: %w", err)
		}
		e.Flow = f
	}
	return e, nil
}
