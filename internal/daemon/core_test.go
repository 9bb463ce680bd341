package daemon

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/state"
)

var wall = time.Unix(1_700_000_000, 0).UTC()

// event makes one from the text spelling of a flow.
func event(t *testing.T, kind inspector.Kind, text string) inspector.Event {
	t.Helper()
	f, err := flow.ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	return inspector.Event{Kind: kind, At: wall, Source: "conntrack", Flow: f}
}

// lines returns what the tail would show of the records, without what is the same in all.
func lines(t *testing.T, o outputs) []string {
	t.Helper()
	var out []string
	for _, r := range o.records {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Event, Rule, Action, Route, Uplink string
			Pinned                             bool
			PinnedRoute                        string `json:"pinned_route"`
			Final                              bool
		}
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s: %s by %q to %q over %q", v.Event, v.Action, v.Rule, v.Route, v.Uplink)
		if v.Pinned {
			line += " pinned to " + v.PinnedRoute
		}
		if !v.Final {
			line += " provisional"
		}
		out = append(out, line)
	}
	return out
}

func expect(t *testing.T, c *core, want ...string) outputs {
	t.Helper()
	o := c.take()
	if diff := cmp.Diff(want, lines(t, o)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	return o
}

const web = "tcp 10.0.0.5:5000 > 203.0.113.7:443"

func TestNameComesLate(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	direct, _ := plan.CTMark(0)
	e := event(t, inspector.Open, web)
	e.Mark = direct
	c.event(&e, 0, wall)
	expect(t, c, `open: route by "" to "direct" over "" provisional`)

	// The name wants another route: the flow is established and stays.
	e = event(t, inspector.Name, web+" sni=us01.zoom.us")
	e.Source = "afpacket"
	c.event(&e, 0, wall)
	o := expect(t, c, `name: route by "zoom" to "fast" over "" pinned to direct`)
	if len(o.setMarks) > 0 || !o.records[0].Log {
		t.Errorf("marks %v, log %v", o.setMarks, o.records[0].Log)
	}

	// The same again is nothing new.
	c.event(&e, 0, wall)
	expect(t, c)
}

func TestLateNameBlocksAtOnce(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	direct, _ := plan.CTMark(0)
	e := event(t, inspector.Open, web)
	e.Mark = direct
	c.event(&e, 0, wall)
	c.take()
	e = event(t, inspector.Name, web+" sni=bad.example")
	c.event(&e, 0, wall)
	o := expect(t, c, `name: block by "bad" to "" over ""`)
	want := []setMark{{key: mustKey(t, web), value: plan.BlockMark(false), mask: plan.CTMask}}
	if diff := cmp.Diff(want, o.setMarks, cmp.AllowUnexported(setMark{}, flowKey{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestLateNameBlocksOwnFlows: with a relay, too, a flow of the gateway itself is blocked
// by a name that comes late, once its mark tells that the table has decided it; one that
// the relay has made never is.
func TestLateNameBlocksOwnFlows(t *testing.T) {
	const own = "tcp 192.0.2.2:5000 > 203.0.113.7:443"
	for _, daemon := range []string{"", "daemon: {relay: [127.0.0.1:1080]}\n", "daemon: {tproxy: [tcp/443]}\n", "daemon: {dns_listen: [127.0.0.1:53], dns_upstreams: [\"main udp://192.0.2.53\"]}\n"} {
		c, plan := newTestCore(t, daemon+zoomPolicy)
		direct, _ := plan.CTMark(0)
		for _, x := range []struct {
			name      string
			nameFirst bool
			mark      uint32
			want      int
		}{
			{"a program's", false, direct, 1},
			{"a program's, the name comes first", true, direct, 1},
			{"the relay's", false, 0, 0},
			{"the relay's, the name comes first", true, 0, 0},
		} {
			if daemon == "" && x.mark == 0 {
				continue // there is no relay
			}
			open := event(t, inspector.Open, own)
			open.Mark = x.mark
			early := event(t, inspector.Open, own)
			early.Source = "ebpf"
			name := event(t, inspector.Name, own+" sni=bad.example")
			name.Source = "ebpf"
			events := []inspector.Event{open, name}
			if x.nameFirst {
				events = []inspector.Event{early, name, open}
			}
			var marks []setMark
			for i := range events {
				c.event(&events[i], 0, wall)
				marks = append(marks, c.take().setMarks...)
			}
			blocked := 0
			for _, m := range marks {
				if m.value == plan.BlockMark(false) {
					blocked++
				}
			}
			// Without a relay it is marked before its mark is known, and again.
			if blocked < x.want || x.want == 0 && len(marks) > 0 {
				t.Errorf("%s%s: marks %v", daemon, x.name, marks)
			}
			end := event(t, inspector.Close, own)
			c.event(&end, 0, wall)
			c.take()
		}
	}
}

// TestMasqueradedName: the name of a flow of this host is read behind the translation of
// its address; what was forwarded has the same address there, and is told by others.
func TestMasqueradedName(t *testing.T) {
	const own, behind = "tcp 192.0.2.2:5000 > 203.0.113.7:443", "tcp 198.51.100.2:5000 > 203.0.113.7:443"
	for _, x := range []struct {
		source    string
		nameFirst bool
		ambiguous bool
		blocked   bool
	}{
		{"ebpf", false, false, true},
		{"ebpf", true, false, true},
		{"afpacket", false, false, false},
		{"afpacket", true, false, false},
		{"ebpf", false, true, false},
	} {
		c, plan := newTestCore(t, zoomPolicy)
		direct, _ := plan.CTMark(0)
		open := event(t, inspector.Open, own)
		open.Mark = direct
		name := event(t, inspector.Name, behind+" sni=bad.example")
		name.Source = x.source
		events := []inspector.Event{open, name}
		if x.nameFirst {
			events = []inspector.Event{name, open}
		}
		if x.ambiguous {
			second := event(t, inspector.Open, "tcp 10.0.0.1:5000 > 203.0.113.7:443")
			events = []inspector.Event{open, second, name}
		}
		var marks []setMark
		for i := range events {
			c.event(&events[i], 0, wall)
			marks = append(marks, c.take().setMarks...)
		}
		if got := len(marks) == 1 && marks[0].key == mustKey(t, own); got != x.blocked || len(marks) > 1 {
			t.Errorf("%+v: marks %v", x, marks)
		}
		for k, f := range c.flows {
			if src, _ := f.flow.Src.Get(); src != k.src.Addr() {
				t.Errorf("%+v: the flow %v has %v", x, k, src)
			}
		}
	}
}

// TestRoundTripComesLate: the round trip of a forwarded connection is a fact like any
// other that comes late. One on which no decision depends has no record; one that
// asks for another route leaves the connection where it is, and one that blocks does.
func TestRoundTripComesLate(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy+`  - {name: far, priority: 90, match: {rtt_ms: ">300"}, action: {route: fast}}
  - {name: away, priority: 95, match: {rtt_ms: ">900"}, action: block}
`)
	direct, _ := plan.CTMark(0)
	open := event(t, inspector.Open, web)
	open.Mark = direct
	c.event(&open, 0, wall)
	c.take()
	for _, x := range []struct {
		rtt   string
		want  []string
		marks int
	}{
		{"20", nil, 0},
		{"350", []string{`facts: route by "far" to "fast" over "" pinned to direct provisional`}, 0},
		{"950", []string{`facts: block by "away" to "" over "" provisional`}, 1},
	} {
		e := event(t, inspector.Update, web+" rtt_ms="+x.rtt)
		e.Source = captured
		c.event(&e, 0, wall)
		if o := expect(t, c, x.want...); len(o.setMarks) != x.marks || len(o.flush) != 0 {
			t.Errorf("rtt %s: marks %v, flushed %v", x.rtt, o.setMarks, o.flush)
		}
		if got := c.flows[mustKey(t, web)].flow.RTT; got != e.Flow.RTT {
			t.Errorf("rtt %s: %v is known", x.rtt, got)
		}
	}
	end := event(t, inspector.Close, web)
	c.event(&end, 0, wall)
	var ended api.Ended
	if o := c.take(); len(o.ended) != 1 {
		t.Errorf("%d ends", len(o.ended))
	} else if err := json.Unmarshal(o.ended[0].line(wall), &ended); err != nil || ended.RTTms != 950 {
		t.Errorf("%v, %+v", err, ended)
	}
	// Of a flow that nobody follows it says nothing.
	e := event(t, inspector.Update, "tcp 10.0.0.5:5001 > 203.0.113.7:443 rtt_ms=20")
	e.Source = captured
	c.event(&e, 0, wall)
	if expect(t, c); len(c.flows) != 0 {
		t.Errorf("%d flows", len(c.flows))
	}
}

func mustKey(t *testing.T, text string) flowKey {
	t.Helper()
	e := event(t, inspector.Open, text)
	k, ok := keyOf(&e.Flow)
	if !ok {
		t.Fatal("no key")
	}
	return k
}

// TestProcessComesLate: conntrack sees a local flow first, the socket's owner follows.
func TestProcessComesLate(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	const local = "udp 10.0.0.1:5000 > 203.0.113.7:9999"
	e := event(t, inspector.Open, local)
	c.event(&e, 0, wall)
	c.take()
	e = event(t, inspector.Open, local+" process=game")
	e.Source = "sockdiag"
	c.event(&e, 0, wall)
	o := expect(t, c, `facts: block by "game" to "" over "" provisional`)
	if len(o.setMarks) != 1 || o.setMarks[0].value != plan.BlockMark(true) {
		t.Errorf("marks: %+v", o.setMarks)
	}
	// The socket's end is not the flow's.
	e.Kind = inspector.Close
	c.event(&e, 0, wall)
	if len(c.flows) != 1 {
		t.Error("sockdiag closed a flow of conntrack's")
	}
	e.Source = "conntrack"
	c.event(&e, 0, wall)
	if len(c.flows) != 0 {
		t.Error("the flow is still there")
	}
}

// TestNameComesEarly: two sources race; and what leaves behind NAT is no flow of its own.
func TestNameComesEarly(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	const local = "tcp 10.0.0.1:5000 > 203.0.113.7:443"
	for _, text := range []string{local + " sni=us01.zoom.us", "tcp 192.0.2.2:6000 > 203.0.113.7:443 sni=us01.zoom.us"} {
		e := event(t, inspector.Name, text)
		c.event(&e, 0, wall)
	}
	expect(t, c)
	e := event(t, inspector.Open, local)
	c.event(&e, 0, wall)
	expect(t, c, `open: route by "zoom" to "fast" over "wan1"`)
	c.expire(earlyLife)
	if len(c.early) != 0 {
		t.Error("early names are remembered for ever")
	}
}

// TestQuestionsLeaveRoomForNames: a resolver on this host asks more than waits.
func TestQuestionsLeaveRoomForNames(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	for i := range 2 * maxEarly {
		e := event(t, inspector.Name, fmt.Sprintf("udp 10.0.0.1:%d > 203.0.113.53:53 app=dns", 1024+i))
		c.event(&e, 0, wall)
	}
	const local = "tcp 10.0.0.1:5000 > 203.0.113.7:443"
	e := event(t, inspector.Name, local+" sni=us01.zoom.us")
	c.event(&e, 0, wall)
	e = event(t, inspector.Open, local)
	c.event(&e, 0, wall)
	expect(t, c, `open: route by "zoom" to "fast" over "wan1"`)
}

func TestFlowsOfWhichOnlyANameWasSeen(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	for _, text := range []string{web, "tcp 10.0.0.6:5000 > 203.0.113.7:443"} {
		e := event(t, inspector.Name, text+" sni=bad.example")
		e.Source = "afpacket"
		c.event(&e, 0, wall)
	}
	if o := c.take(); len(o.setMarks) != 2 {
		t.Errorf("%d flows are blocked by the name alone, want 2", len(o.setMarks))
	}
	e := event(t, inspector.Update, "tcp 10.0.0.6:5000 > 203.0.113.7:443 rtt_ms=20") // tells no ends either
	e.Source = captured
	c.event(&e, 0, wall)
	e = event(t, inspector.Open, web)
	c.event(&e, time.Second, wall)
	c.expire(looseLife - 1)
	if len(c.flows) != 2 {
		t.Errorf("%d flows are followed, want 2", len(c.flows))
	}
	c.expire(looseLife)
	if len(c.flows) != 1 || c.flows[mustKey(t, web)] == nil || len(c.loose) != 0 {
		t.Errorf("%d flows are followed, want the one that conntrack knows", len(c.flows))
	}
}

func TestAnswersThatNameThisHostAreNotBelieved(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	own, lan := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")
	c.own = map[netip.Addr]bool{own: true}
	addrs := []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fe80::1"), lan}
	a := inspector.Event{Kind: inspector.Answered, Answer: inspector.Answer{Name: "bad.example", Addrs: addrs, TTL: time.Hour}}
	c.event(&a, 0, wall)
	if len(c.dirty) != 1 || !c.dirty[lan] || c.names.Len() != 1 {
		t.Errorf("%v have names now, want %s alone", c.dirty, lan)
	}
	if addrs[0] != netip.MustParseAddr("::ffff:10.0.0.1") {
		t.Error("the event was changed")
	}
}

func TestHintsDecideTheFirstPacket(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	a := inspector.Event{Kind: inspector.Answered, Source: "afpacket", Answer: inspector.Answer{
		Name: "us01.zoom.us", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, TTL: time.Hour,
	}}
	c.event(&a, 0, wall)
	if !c.dirty[a.Answer.Addrs[0]] {
		t.Error("the kernel would not be told")
	}
	e := event(t, inspector.Open, web)
	c.event(&e, 0, wall)
	expect(t, c, `open: route by "zoom" to "fast" over "wan1" provisional`)
}

func TestIgnoredFlows(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	for _, text := range []string{
		"tcp 127.0.0.1:5000 > 127.0.0.1:80",
		"udp 10.0.0.5:5353 > 224.0.0.251:5353",
		"tcp 10.0.0.1:5000 > 192.0.2.2:22", // within this host
		"udp 10.0.0.5:68 > 10.0.0.1:67",    // DHCP
		"icmp 192.0.2.2 > 1.1.1.1",         // our own probe
	} {
		e := event(t, inspector.Open, text)
		c.event(&e, 0, wall)
	}
	expect(t, c)
	e := event(t, inspector.Open, "icmp 10.0.0.5 > 1.1.1.1") // a client's ping is nobody's probe
	c.event(&e, 0, wall)
	if o := c.take(); len(o.records) != 1 {
		t.Errorf("%d records", len(o.records))
	}
}

// TestDeadUplink: only flows that get another line are forgotten, and only when the line is dead.
func TestDeadUplink(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	fast, _ := plan.CTMark(1)
	for _, text := range []string{web + " sni=us01.zoom.us", "tcp 10.0.0.5:5001 > 203.0.113.8:22", "udp 10.0.0.5:5002 > 203.0.113.9:53"} {
		e := event(t, inspector.Open, text)
		if text != "udp 10.0.0.5:5002 > 203.0.113.9:53" {
			e.Mark = fast
		}
		c.event(&e, 0, wall)
	}
	c.take()
	c.apply(state.TickEvent(0), wall)
	var flushed []flowKey
	for i := range 3 {
		c.apply(state.RoundEvent(state.Round{Uplink: 0, At: time.Duration(i+1) * time.Second, Probes: []state.Answer{{Lost: true}}}), wall)
		c.apply(state.RoundEvent(state.Round{Uplink: 1, At: time.Duration(i+1) * time.Second, Probes: []state.Answer{{RTT: time.Millisecond}}}), wall)
		c.work(maxFlows, time.Duration(i+1)*time.Second, wall)
		flushed = append(flushed, c.take().flush...)
	}
	if len(flushed) != 1 || flushed[0] != mustKey(t, web) {
		t.Errorf("flushed %v", flushed)
	}
	if c.live.world.Global != state.Failover {
		t.Errorf("state %s", c.live.world.Global)
	}
}

// TestSlowUplinkKeepsItsFlows: FAILOVER by quality moves new flows only.
func TestSlowUplinkKeepsItsFlows(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	e := event(t, inspector.Open, web+" sni=us01.zoom.us")
	e.Mark, _ = plan.CTMark(1)
	c.event(&e, 0, wall)
	c.take()
	var out []string
	for i := range 9 {
		at := time.Duration(i+1) * time.Second
		c.apply(state.RoundEvent(state.Round{Uplink: 1, At: at, Probes: []state.Answer{{RTT: time.Millisecond}}}), wall)
		c.apply(state.RoundEvent(state.Round{Uplink: 0, At: at, Probes: []state.Answer{{RTT: 300 * time.Millisecond}}}), wall)
		c.work(maxFlows, at, wall)
		o := c.take()
		if len(o.flush) > 0 {
			t.Fatalf("flushed %v", o.flush)
		}
		out = append(out, lines(t, o)...)
	}
	want := []string{`state: route by "zoom" to "backup" over "wan1" pinned to fast`}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
}

// TestInterruptMovesFlows: a group may ask for it.
func TestInterruptMovesFlows(t *testing.T) {
	c, plan := newTestCore(t, strings.Replace(zoomPolicy, "ha: {fallback: [fast, backup]}", "ha: {fallback: [fast, backup], interrupt: true}", 1))
	e := event(t, inspector.Open, web+" sni=us01.zoom.us")
	e.Mark, _ = plan.CTMark(1)
	c.event(&e, 0, wall)
	c.take()
	c.apply(state.TickEvent(time.Second), wall)
	c.apply(state.Event{Kind: state.EventForce, At: time.Second, Uplink: 0, To: state.Failover, Until: time.Hour, Reason: "test"}, wall)
	c.work(100, time.Second, wall)
	if o := expect(t, c, `state: route by "zoom" to "backup" over "wan2"`); len(o.flush) != 1 || len(c.flows) != 0 {
		t.Errorf("flush %v, %d flows", o.flush, len(c.flows))
	}
}

// TestReloadDecidesAnew: what comes to the same is not recorded again, what is blocked now is blocked at once.
func TestReloadDecidesAnew(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	for _, text := range []string{web + " sni=us01.zoom.us", "tcp 10.0.0.5:5001 > 203.0.113.8:22 sni=none.example"} {
		e := event(t, inspector.Open, text)
		c.event(&e, 0, wall)
	}
	c.take()
	next, plan := newTestCore(t, strings.Replace(zoomPolicy, "{port: 22}, action: {route: fast}", "{port: 22}, action: {block: reject}", 1))
	c.replace(next.live, 0)
	expect(t, c)
	c.work(1, 0, wall)
	c.work(100, 0, wall)
	o := expect(t, c, `policy: block by "pinned" to "" over ""`)
	if len(o.setMarks) != 1 || o.setMarks[0].value != plan.BlockMark(true) || len(c.todo) > 0 {
		t.Errorf("marks %v, %d to do", o.setMarks, len(c.todo))
	}
	// And let go again.
	again, plan := newTestCore(t, zoomPolicy)
	c.replace(again.live, 0)
	c.work(100, 0, wall)
	fast, _ := plan.CTMark(1)
	if o := c.take(); len(o.setMarks) != 1 || o.setMarks[0].value != fast {
		t.Errorf("marks %v", o.setMarks)
	}
}

func TestHitsByRule(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	for i, name := range []string{"us01.zoom.us", "us02.zoom.us", "none.example"} {
		e := event(t, inspector.Open, fmt.Sprintf("tcp 10.0.0.5:%d > 203.0.113.7:443 sni=%s", 5000+i, name))
		c.event(&e, 0, wall)
	}
	e := event(t, inspector.Open, "tcp 10.0.0.5:6000 > 203.0.113.8:22 sni=none.example")
	c.event(&e, 0, wall.Add(time.Second))
	want := []api.Hits{{Rule: "zoom", Decisions: 2}, {Rule: "pinned", Decisions: 1}}
	if diff := cmp.Diff(want, hits(&c.live)); diff != "" {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
	var lasts []string
	for i := -1; i < len(c.live.policy.Rules); i++ {
		lasts = append(lasts, "never")
		if at := c.live.last(i); !at.IsZero() {
			lasts[i+1] = at.Sub(wall).String()
		}
	}
	if diff := cmp.Diff([]string{"0s", "never", "0s", "1s", "never"}, lasts); diff != "" {
		t.Errorf("last decisions (-want +got):\n%s", diff)
	}
	if got := hits(&live{}); len(got) != 0 {
		t.Errorf("hits without a policy: %v", got)
	}
}

func TestFailoverIsAskedFor(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy+`
  - {name: away, priority: 300, match: {port: 7}, action: {failover: backup}}
`)
	c.apply(state.TickEvent(time.Second), wall)
	e := event(t, inspector.Open, "tcp 10.0.0.5:4999 > 203.0.113.7:7")
	e.Earlier = true
	c.event(&e, 2*time.Second, wall)
	if o := c.take(); len(o.transitions) != 0 {
		t.Errorf("a flow from before the start: transitions %v", o.transitions)
	}
	e = event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:7")
	c.event(&e, 2*time.Second, wall)
	o := c.take()
	if len(o.transitions) != 2 || c.live.world.Uplinks[0].State != state.Failover {
		t.Errorf("transitions %v", o.transitions)
	}
}

// TestSameInputsSameOutputs runs a random sequence of inputs twice.
func TestSameInputsSameOutputs(t *testing.T) {
	const seed = 7
	run := func() []string {
		rnd := rand.New(rand.NewPCG(seed, seed))
		c, plan := newTestCore(t, zoomPolicy)
		fast, _ := plan.CTMark(1)
		var out []string
		for i := range 3000 {
			now := time.Duration(i) * 100 * time.Millisecond
			at := wall.Add(now)
			text := fmt.Sprintf("tcp 10.0.0.%d:5000 > 203.0.113.%d:%d", 5+rnd.IntN(20), rnd.IntN(30), []int{22, 443}[rnd.IntN(2)])
			switch rnd.IntN(8) {
			case 0:
				e := event(t, inspector.Name, text+[]string{" sni=us01.zoom.us", " sni=bad.example", " sni=x.example"}[rnd.IntN(3)])
				c.event(&e, now, at)
			case 1:
				e := event(t, inspector.Close, text)
				c.event(&e, now, at)
			case 2:
				e := inspector.Event{Kind: inspector.Answered, Answer: inspector.Answer{
					Name: []string{"a.zoom.us", "bad.example"}[rnd.IntN(2)], TTL: time.Minute,
					Addrs: []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(rnd.IntN(30))})},
				}}
				c.event(&e, now, at)
			case 3:
				a := state.Answer{RTT: time.Duration(rnd.IntN(200)) * time.Millisecond, Lost: rnd.IntN(3) > 0}
				c.apply(state.RoundEvent(state.Round{Uplink: rnd.IntN(2), At: now, Probes: []state.Answer{a}}), at)
			case 4:
				c.apply(state.TickEvent(now), at)
			default:
				e := event(t, inspector.Open, text)
				e.Mark = []uint32{0, fast}[rnd.IntN(2)]
				c.event(&e, now, at)
			}
			c.work(3, now, at)
			o := c.take()
			out = append(out, lines(t, o)...)
			out = append(out, fmt.Sprint(o.transitions, o.setMarks, o.flush))
			for _, j := range o.journal {
				out = append(out, string(j.lines))
			}
		}
		return out
	}
	a, b := run(), run()
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("seed %d: two runs differ:\n%s", seed, diff)
	}
	if len(a) < 1000 {
		t.Errorf("only %d outputs: the test tests nothing", len(a))
	}
}

func TestJournalReplays(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	for i := range 40 {
		c.apply(state.RoundEvent(state.Round{Uplink: i % 2, At: time.Duration(i) * time.Second / 2, Probes: []state.Answer{{Lost: i < 10}}}), wall)
	}
	parts := c.take().journal
	if len(parts) != 1 || !parts[0].fresh {
		t.Fatalf("%d parts", len(parts))
	}
	_, again, err := state.Replay(c.live.health, parts[0].lines)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(parts[0].lines), string(again)); diff != "" {
		t.Error(diff)
	}
}

// TestRecordsAreSmall: who gives an address many long names, and a policy whose rules spell out much, do not make
// a record large.
func TestRecordsAreSmall(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy+"  - {name: wordy, priority: 300, match: {any_of: [{sni: a.example}, {http_host: b.example}, {domain: c.example}]}, action: {block: true}}\n")
	at := netip.MustParseAddr("203.0.113.7")
	for i := range 32 {
		name := strings.Repeat(strings.Repeat("x", 60)+".", 3) + strconv.Itoa(i) + ".example"
		e := inspector.Event{Kind: inspector.Answered, Answer: inspector.Answer{Name: name, Addrs: []netip.Addr{at}, TTL: time.Hour}}
		c.event(&e, time.Second, time.Now())
	}
	e := event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:443")
	c.event(&e, time.Second, time.Now())
	out := c.take()
	if len(out.records) != 1 || out.records[0].Near == nil {
		t.Fatalf("%d records", len(out.records))
	}
	r := out.records[0]
	r.Context.Near = r.Near()
	line, err := r.MarshalJSON()
	if err != nil || !json.Valid(line) {
		t.Fatalf("%v: %s", err, line)
	}
	if len(line) > 8<<10 {
		t.Errorf("a record of %d bytes: %.3000s", len(line), line)
	}
	var got struct {
		Flow struct{ DNS []string }
		Near []struct{ Rule, Failed string }
	}
	if err := json.Unmarshal(line, &got); err != nil || len(got.Flow.DNS) != maxNamed {
		t.Errorf("%v: %d names", err, len(got.Flow.DNS))
	}
	for _, n := range got.Near {
		if names := strings.Count(n.Failed, ".example"); n.Rule == "zoom" && (names != maxNamed || !strings.Contains(n.Failed, "and 28 more")) {
			t.Errorf("%d names in %s", names, n.Failed)
		}
	}
	if !slices.ContainsFunc(got.Near, func(n struct{ Rule, Failed string }) bool {
		return n.Rule == "wordy" && strings.HasSuffix(n.Failed, "...")
	}) {
		t.Errorf("near: %+v", got.Near)
	}
}
