package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// Record is what the lab reads of a decision record (language.md section 8 and
// the daemon's additions).
type Record struct {
	Rule    string          `json:"rule"` // "" where the record has null
	Action  string          `json:"action"`
	Target  json.RawMessage `json:"target"`
	Route   string          `json:"route"`
	Log     Logged          `json:"log"`
	Default bool            `json:"default"`
	Final   bool            `json:"final"`
	Why     string          `json:"why"`

	Time        time.Time       `json:"time"`
	Event       string          `json:"event"`
	Uplink      string          `json:"uplink"`
	Pinned      bool            `json:"pinned"`
	PinnedRoute string          `json:"pinned_route"`
	Text        string          `json:"text"`
	FlowJSON    json.RawMessage `json:"flow"`

	Flow flow.Flow `json:"-"`
}

// Logged is the log modifier: false, true, or the text to log.
type Logged bool

// UnmarshalJSON takes any text for true.
func (l *Logged) UnmarshalJSON(b []byte) error {
	if s := string(b); s == "false" || s == "null" {
		*l = false
		return nil
	}
	*l = true
	return nil
}

// ParseRecord reads one line of the daemon's decisions.
func ParseRecord(line []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("read decision record: %w", err)
	}
	var err error
	if r.Flow, err = flow.ParseJSON(r.FlowJSON); err != nil {
		return r, fmt.Errorf("read the flow of a decision record: %w", err)
	}
	return r, nil
}

// tuple names a connection in the direction of who opened it.
type tuple struct {
	proto    flow.Proto
	src, dst netip.AddrPort
}

// tupleOf returns the connection of a flow; false where the flow lacks a part.
func tupleOf(f *flow.Flow) (tuple, bool) {
	proto, ok1 := f.Proto.Get()
	src, ok2 := f.Src.Get()
	dst, ok3 := f.Dst.Get()
	sport, _ := f.SrcPort.Get()
	dport, _ := f.DstPort.Get()
	return tuple{proto, netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)}, ok1 && ok2 && ok3
}

func (t tuple) String() string {
	name := map[flow.Proto]string{flow.TCP: "tcp", flow.UDP: "udp", flow.ICMP: "icmp", flow.ICMPv6: "icmpv6"}[t.proto]
	if name == "" {
		name = fmt.Sprint(uint8(t.proto))
	}
	return fmt.Sprintf("%s %v > %v", name, t.src, t.dst)
}

const (
	// maxTuples bounds the connections remembered: a script's, several times over.
	maxTuples = 8192
	// maxPerTuple bounds what is remembered of one: the first and the newest are what matters.
	maxPerTuple = 64
)

// decisions remembers the records of each connection.
type decisions struct {
	mu    sync.Mutex
	by    map[tuple][]Record
	order []tuple
	wake  chan struct{} // closed and replaced at each record
}

func newDecisions() *decisions {
	return &decisions{by: map[tuple][]Record{}, wake: make(chan struct{})}
}

func (d *decisions) add(r Record) {
	key, ok := tupleOf(&r.Flow)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list, known := d.by[key]
	if !known {
		if len(d.order) == maxTuples {
			delete(d.by, d.order[0])
			d.order = d.order[1:]
		}
		d.order = append(d.order, key)
	}
	if len(list) == maxPerTuple {
		list = append(list[:1], list[2:]...)
	}
	d.by[key] = append(list, r)
	close(d.wake)
	d.wake = make(chan struct{})
}

// wait returns the records of a connection as soon as want holds for them, and
// otherwise what there is when ctx ends.
func (d *decisions) wait(ctx context.Context, key tuple, want func([]Record) bool) []Record {
	for {
		d.mu.Lock()
		list, wake := append([]Record(nil), d.by[key]...), d.wake
		d.mu.Unlock()
		if len(list) > 0 && want(list) {
			return list
		}
		select {
		case <-ctx.Done():
			return list
		case <-wake:
		}
	}
}
