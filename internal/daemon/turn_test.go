package daemon

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/state"
)

// TestTurnIsMeasured: the time from the round that made a line fail to the kernel
// is in the metrics and in the log.
func TestTurnIsMeasured(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	for range 3 {
		r.round(1, state.Answer{RTT: time.Millisecond})
		r.round(0, state.Answer{Lost: true})
	}
	var text strings.Builder
	r.metrics.WritePrometheus(&text)
	if !strings.Contains(text.String(), "netpolicy_update_seconds_count 1\n") {
		t.Errorf("metrics:\n%s", text.String())
	}
	var said int64 = -1
	for line := range strings.Lines(r.log.String()) {
		var e struct {
			Msg string
			US  *int64 `json:"after_sample_us"`
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Msg == "new flows take other ways" && e.US != nil {
			said = *e.US
		}
	}
	if said < 0 {
		t.Errorf("the log does not say it:\n%s", r.log)
	}
}

// TestChoresAreShort: marks and entries to forget go to the worker in portions,
// and none is lost.
func TestChoresAreShort(t *testing.T) {
	var all job
	for i := range 2*maxChores + 7 {
		k := flowKey{proto: flow.TCP, src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)}
		all.forget = append(all.forget, k)
		if i < maxChores+1 {
			all.marks = append(all.marks, setMark{key: k})
		}
	}
	marks, forget := slices.Clone(all.marks), slices.Clone(all.forget)
	var gotMarks []setMark
	var gotForget []flowKey
	for range 3 {
		j := all.part()
		if len(j.marks) > maxChores || len(j.forget) > maxChores {
			t.Errorf("%d marks and %d entries in one job", len(j.marks), len(j.forget))
		}
		gotMarks, gotForget = append(gotMarks, j.marks...), append(gotForget, j.forget...)
	}
	if !slices.Equal(gotMarks, marks) || !slices.Equal(gotForget, forget) || !all.empty() {
		t.Errorf("%d of %d marks, %d of %d entries came out", len(gotMarks), len(marks), len(gotForget), len(forget))
	}
}

// BenchmarkTurn is what the loop does from a round that makes a line fail until it
// can tell the kernel, while it follows as many flows as it may.
func BenchmarkTurn(b *testing.B) {
	c, _ := newTestCore(b, zoomPolicy)
	for i := range maxFlows {
		f, err := flow.ParseText(fmt.Sprintf("tcp 10.0.%d.%d:5000 > 203.0.113.7:443", i>>8, i&255))
		if err != nil {
			b.Fatal(err)
		}
		e := inspector.Event{Kind: inspector.Open, At: wall, Source: "conntrack", Flow: f}
		c.event(&e, 0, wall)
		c.take()
	}
	now := time.Duration(0)
	round := func(lost bool) {
		now += time.Second
		answer := state.Answer{RTT: time.Millisecond, Lost: lost}
		c.apply(state.RoundEvent(state.Round{Uplink: 0, At: now, Probes: []state.Answer{answer}}), wall)
	}
	for b.Loop() {
		b.StopTimer()
		for range 40 { // well again, whatever it was
			round(false)
		}
		round(true)
		round(true)
		c.take()
		now += time.Hour
		b.StartTimer()
		round(true)
	}
}
