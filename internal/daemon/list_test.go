package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
)

// listing returns a line for each flow of a page.
func listing(t *testing.T, f api.Flows) []string {
	t.Helper()
	var out []string
	for _, x := range f.Flows {
		var facts struct{ Dst string }
		var d struct{ Rule, Route string }
		if err := json.Unmarshal(x.Flow, &facts); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(x.Decision, &d); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %s(%s) %q to %q over %q %d/%d rtt %v", facts.Dst, x.Name, x.NameFrom, d.Rule, d.Route, x.Uplink, x.BytesUp, x.BytesDown, x.RTTms)
		if x.Pinned {
			line += " stays on " + x.PinnedRoute
		}
		out = append(out, line)
	}
	return out
}

func TestListFlows(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	for i, text := range []string{
		"tcp 10.0.0.5:5000 > 203.0.113.1:443 sni=us01.zoom.us rtt_ms=12.5",
		"tcp 10.0.0.5:5001 > 203.0.113.2:22",
		"tcp 10.0.0.1:5002 > 203.0.113.3:80 http_host=web.example process=Fetch rtt_ms=80",
	} {
		e := event(t, inspector.Open, text)
		e.Stats = inspector.Stats{BytesUp: uint64(10 * (i + 1)), BytesDown: 100, Retrans: 2}
		r.send(e)
	}
	answer := inspector.Event{Kind: inspector.Answered, At: time.Now(), Source: "afpacket", Answer: inspector.Answer{Name: "ssh.example", TTL: time.Hour}}
	answer.Answer.Addrs = append(answer.Answer.Addrs, mustKey(t, "tcp 10.0.0.5:5001 > 203.0.113.2:22").dst.Addr())
	r.send(answer)
	again := event(t, inspector.Open, "tcp 10.0.0.5:5001 > 203.0.113.2:22 app=ssh")
	r.send(again)

	zoom := `203.0.113.1:443 us01.zoom.us(sni) "zoom" to "fast" over "wan1" 10/100 rtt 12.5`
	ssh := `203.0.113.2:22 ssh.example(dns) "pinned" to "fast" over "wan1" 20/100 rtt -1`
	web := `203.0.113.3:80 web.example(http_host) "" to "direct" over "" 30/100 rtt 80`
	for _, c := range []struct {
		q       api.FlowsRequest
		matched int
		want    []string
	}{
		{api.FlowsRequest{Sort: api.ByBytes, Limit: 10}, 3, []string{web, ssh, zoom}},
		{api.FlowsRequest{Sort: api.ByRTT, Limit: 10}, 3, []string{web, zoom, ssh}},
		{api.FlowsRequest{Sort: api.ByAge, Limit: 10}, 3, []string{zoom, ssh, web}},
		{api.FlowsRequest{Sort: api.ByRate, Limit: 1, Offset: 1}, 3, []string{ssh}},
		{api.FlowsRequest{Sort: api.ByBytes, Limit: 10, Offset: 5}, 3, nil},
		{api.FlowsRequest{Sort: api.ByBytes, Limit: 10, Match: "ZOOM"}, 1, []string{zoom}},
		{api.FlowsRequest{Sort: api.ByBytes, Limit: 10, Match: "fetch"}, 1, []string{web}},
		{api.FlowsRequest{Sort: api.ByBytes, Limit: 10, Match: "pinned"}, 1, []string{ssh}},
		{api.FlowsRequest{Sort: api.ByBytes, Limit: 10, Match: "113.3:80"}, 1, []string{web}},
	} {
		got, err := r.Flows(t.Context(), c.q)
		if err != nil {
			t.Fatal(err)
		}
		if got.Total != 3 || got.Matched != c.matched {
			t.Errorf("%+v: %d of %d", c.q, got.Matched, got.Total)
		}
		if diff := cmp.Diff(c.want, listing(t, got)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c.q, diff)
		}
		for _, f := range got.Flows {
			if f.Retransmits != 2 || f.Age < 0 || f.Source != "conntrack" {
				t.Errorf("%+v", f)
			}
			// What a list tells of a flow can be asked about.
			if _, err := r.Explain(api.ExplainRequest{Flow: f.Flow}); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestFlowsUnderAnotherPolicy: what was decided by a policy that is gone is not
// spelled by the names of the present one.
func TestFlowsUnderAnotherPolicy(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	e := event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.1:22")
	e.Mark, _ = plan.CTMark(1)
	c.event(&e, 0, wall)
	text := zoomPolicy[:strings.Index(zoomPolicy, "rules:")] + "rules: [{name: other, priority: 1, match: {port: 99}, action: {route: fast}}]\n"
	next, _ := newTestCore(t, text)
	c.replace(next.live, 0)
	list, place := c.scan(nil, new(int), 0, &api.FlowsRequest{Sort: api.ByBytes}, wall)
	if len(list) != 1 || place != -1 {
		t.Fatalf("%d flows, go on from %d", len(list), place)
	}
	for range 2 {
		flows := c.copies(list)
		got := listing(t, api.Flows{Flows: []api.Flow{flows[0].describe(&c.live, wall)}})
		want := []string{`203.0.113.1:22 () "" to "direct" over "wan1" 0/0 rtt -1 stays on fast`}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		c.work(10, 0, wall)
	}
}

// TestRoster: the roster holds what the map holds, whatever comes and goes.
func TestRoster(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	open := func(i int) inspector.Event {
		return event(t, inspector.Open, fmt.Sprintf("udp 10.0.0.5:%d > 203.0.113.1:%d", 1024+i%50000, 1000+i/50000))
	}
	const many = portion + 10
	for i := range many {
		e := open(i)
		c.event(&e, 0, wall)
	}
	for i := 0; i < many; i += 3 {
		e := open(i)
		e.Kind = inspector.Close
		c.event(&e, 0, wall)
	}
	if len(c.roster) != len(c.flows) {
		t.Fatalf("%d in the roster, %d flows", len(c.roster), len(c.flows))
	}
	for i, f := range c.roster {
		if f.place != i || c.flows[f.key] != f {
			t.Fatalf("place %d has the flow of %d", i, f.place)
		}
	}
	for i := range many {
		e := open(many + i)
		c.event(&e, 0, wall)
	}
	var list []listed
	steps := 0
	for place := 0; place >= 0; steps++ {
		before := len(list)
		list, place = c.scan(list, new(int), place, &api.FlowsRequest{Sort: api.ByRate}, wall)
		if len(list)-before > portion {
			t.Fatalf("%d flows at once", len(list)-before)
		}
	}
	if len(list) != len(c.flows) || steps != 2 {
		t.Errorf("%d of %d flows in %d steps", len(list), len(c.flows), steps)
	}
}

func TestTraffic(t *testing.T) {
	var m traffic
	read := func(source string, at time.Duration, up, down, retrans uint64) {
		m.take(&inspector.Event{Source: source, Stats: inspector.Stats{BytesUp: up, BytesDown: down, Retrans: retrans}}, wall.Add(at))
	}
	expect := func(at time.Duration, bytesUp, bytesDown, up, down uint64) {
		t.Helper()
		gotUp, gotDown := m.rates(wall.Add(at))
		if m.up != bytesUp || m.down != bytesDown || gotUp != up || gotDown != down {
			t.Errorf("at %s: %d/%d bytes, %d/%d a second; want %d/%d, %d/%d", at, m.up, m.down, gotUp, gotDown, bytesUp, bytesDown, up, down)
		}
	}
	expect(0, 0, 0, 0, 0)
	read("conntrack", 0, 1000, 5000, 0)
	expect(0, 1000, 5000, 0, 0)
	read("conntrack", 10*time.Second, 3000, 105000, 0)
	expect(10*time.Second, 3000, 105000, 200, 10000)
	expect(30*time.Second, 3000, 105000, 0, 0) // it rests
	read("sockdiag", 31*time.Second, 2500, 100000, 1)
	expect(31*time.Second, 2500, 100000, 0, 0) // counted otherwise: no rate yet
	read("sockdiag", 32*time.Second, 2500, 100700, 3)
	read("conntrack", 32*time.Second, 9000, 900000, 0)
	expect(32*time.Second, 2500, 100700, 0, 700)
	if m.retrans != 3 {
		t.Errorf("%d retransmits", m.retrans)
	}
}

// BenchmarkList is what the loop does for a list in one go, with as many flows as
// are followed at most: a portion of the scan, and a page.
func BenchmarkList(b *testing.B) {
	c, _ := newTestCore(b, zoomPolicy)
	for i := range maxFlows {
		f, err := flow.ParseText(fmt.Sprintf("udp 10.0.0.5:%d > 203.0.113.%d:443 sni=us%d.zoom.us process=zoom", i%65536, i%250, i))
		if err != nil {
			b.Fatal(err)
		}
		c.event(&inspector.Event{Kind: inspector.Open, At: wall, Source: "conntrack", Flow: f}, 0, wall)
		c.take()
	}
	for _, q := range []api.FlowsRequest{{Sort: api.ByRate}, {Sort: api.ByBytes, Match: "nothing"}} {
		b.Run("portion/match="+q.Match, func(b *testing.B) {
			list, place := []listed(nil), 0
			for b.Loop() {
				if list, place = c.scan(list[:0], new(int), max(place, 0), &q, wall); q.Match != "" && len(list) > 0 {
					b.Fatal("a match")
				}
			}
		})
	}
	list, _ := c.scan(nil, new(int), 0, &api.FlowsRequest{}, wall)
	b.Run("page", func(b *testing.B) {
		for b.Loop() {
			if n := len(c.copies(list[:api.MaxFlows])); n != api.MaxFlows {
				b.Fatal(n)
			}
		}
	})
}

// TestFirstFlow: an id of another run names no connection of this one.
func TestFirstFlow(t *testing.T) {
	r := start(t, zoomPolicy, func(_ *Options, p *Parts) { p.FirstFlow = 1 << 51 })
	r.send(event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.1:443"))
	r.sync()
	f, err := r.Flows(t.Context(), api.FlowsRequest{Sort: api.ByAge, Limit: 1})
	if err != nil || len(f.Flows) != 1 || f.Flows[0].ID != "2251799813685249" {
		t.Errorf("%+v, %v", f, err)
	}
	if err := r.Kill(t.Context(), 1); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an id of another run: %v", err)
	}
}
