package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/recorder"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/sim"
	"netpolicy.dev/netpolicy/state"
)

// play gives a core connections before, during and after a failover, and returns
// what it decided and what it recorded, by segment.
func play(t *testing.T, tp *tape) (p *rules.Policy, decided, segments []string) {
	t.Helper()
	c, _ := newTestCore(t, zoomPolicy)
	c.tape = tp
	take := func() {
		o := c.take()
		for _, r := range o.records {
			decided = append(decided, string(r.Decision))
		}
		for _, part := range o.taped {
			if part.fresh {
				segments = append(segments, "")
			}
			segments[len(segments)-1] += string(part.lines)
		}
	}
	port := 5000
	open := func(at time.Duration, facts string) {
		port++
		e := event(t, inspector.Open, fmt.Sprintf("tcp 10.0.0.5:%d > 203.0.113.7:443 %s", port, facts))
		c.event(&e, at, wall)
		take()
	}
	open(0, "sni=us01.zoom.us")
	answer := inspector.Event{Kind: inspector.Answered, Answer: inspector.Answer{Name: "bad.example", Addrs: mustAddrs("203.0.113.7"), TTL: time.Minute}}
	c.event(&answer, 0, wall)
	open(0, "")
	for i := range 5 {
		at := time.Duration(i+1) * time.Second
		c.apply(state.RoundEvent(state.Round{Uplink: 0, At: at, Probes: []state.Answer{{Lost: true}}}), wall)
		c.apply(state.RoundEvent(state.Round{Uplink: 1, At: at, Probes: []state.Answer{{RTT: time.Millisecond}}}), wall)
		take()
		open(at, "sni=us01.zoom.us")
	}
	return c.live.policy, decided, segments
}

// replays runs recordings and returns the decisions.
func replays(t *testing.T, p *rules.Policy, recorded string) (decided []string) {
	t.Helper()
	log, err := sim.Replay(p, []byte(recorded))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range log {
		if e.Decided != nil {
			decided = append(decided, sim.DescribeDecision(p, e.Decided.Decision))
		}
	}
	return decided
}

// TestTapeReplays: what was recorded is decided again as it was, the failover included.
func TestTapeReplays(t *testing.T) {
	p, decided, segments := play(t, &tape{})
	if len(segments) != 1 {
		t.Fatalf("%d segments", len(segments))
	}
	got := replays(t, p, segments[0])
	if len(got) != len(decided) || len(got) != 7 {
		t.Fatalf("%d decisions replayed, %d made", len(got), len(decided))
	}
	for i, want := range []string{"route ha -> fast by zoom", "block drop by bad", "route ha -> fast by zoom", "route ha -> fast by zoom", "route ha -> backup by zoom", "route ha -> backup by zoom", "route ha -> backup by zoom"} {
		if !strings.HasPrefix(got[i], want) {
			t.Errorf("flow %d: %s, want %s", i, got[i], want)
		}
	}
}

// TestTapeSegments: each segment can be replayed by itself.
func TestTapeSegments(t *testing.T) {
	tp := &tape{}
	p, _, whole := play(t, tp)
	c, _ := newTestCore(t, zoomPolicy)
	c.tape = &tape{}
	c.apply(state.RoundEvent(state.Round{Uplink: 0, At: time.Second, Probes: []state.Answer{{Lost: true}}}), wall)
	c.tape.size = recorder.Segment
	for i := range 4 {
		c.apply(state.RoundEvent(state.Round{Uplink: 0, At: time.Duration(i+2) * time.Second, Probes: []state.Answer{{Lost: true}}}), wall)
	}
	e := event(t, inspector.Open, web+" sni=us01.zoom.us")
	c.event(&e, 6*time.Second, wall)
	o := c.take()
	last := ""
	for _, part := range o.taped {
		if part.fresh {
			last = ""
		}
		last += string(part.lines)
	}
	if got := replays(t, p, last); len(got) != 1 || !strings.HasPrefix(got[0], "route ha -> backup by zoom") {
		t.Errorf("the second segment by itself: %q", got)
	}
	if got := replays(t, p, whole[0]+last); len(got) != 8 {
		t.Errorf("both: %q", got)
	}
}

// TestTapeMask: no name of a flow is in the recording.
func TestTapeMask(t *testing.T) {
	_, _, segments := play(t, &tape{mask: recorder.Mask()})
	if all := strings.Join(segments, ""); strings.Contains(all, "zoom") || strings.Contains(all, "bad.example") {
		t.Errorf("names are recorded:\n%s", all)
	}
	if f := masked(&flow.Flow{}, recorder.Mask()); f != (flow.Flow{}) {
		t.Errorf("masking made facts: %v", f)
	}
}

func mustAddrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}
