package daemon

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/resolver"
)

const dnsPolicy = `
version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1}
  wan2: {dev: eth2, gateway: 198.51.100.1}
daemon:
  dns_listen: [127.0.0.1:15353]
  dns_upstreams: ["corp udp://192.0.2.10 for .corp.example", "main udp://192.0.2.53"]
default: {block: true}
rules:
  - {name: bad, priority: 200, match: {sni: bad.example}, action: {block: true}}
  - {name: guests, priority: 190, match: {src_ip: 10.0.9.0/24}, action: {block: true}}
  - {name: zoom, priority: 100, match: {sni: .zoom.us}, action: {route: wan2}}
  - {name: some, priority: 90, match: {sni: .corp.example}, action: {route: wan1}}
`

// TestChooseUpstream: a question goes where the connection that follows would, and
// nowhere when that is blocked for good.
func TestChooseUpstream(t *testing.T) {
	c, plan := newTestCore(t, dnsPolicy)
	d := New(Options{}, Parts{})
	if got := d.chooseUpstream("zoom.us", 1, netip.MustParseAddr("10.0.0.5")); !got.Blocked {
		t.Error("before the first policy a question leaves")
	}
	d.snap.Store(&snapshot{live: c.live, plan: exported(plan)})
	mark := func(uplink string) uint32 { m, _ := plan.UplinkMark(uplink); return m }
	for _, x := range []struct {
		name, client string
		blocked      bool
		mark         uint32
		upstreams    []int
	}{
		{"us01.zoom.us", "10.0.0.5", false, mark("wan2"), []int{1}},
		{"www.corp.example", "10.0.0.5", false, mark("wan1"), []int{0}},
		{"bad.example", "10.0.0.5", true, plan.Bypass(), []int{1}},
		{"other.example", "10.0.0.5", true, plan.Bypass(), []int{1}}, // by the default, whatever its address is
		{"other.example", "10.0.9.5", true, plan.Bypass(), []int{1}},
	} {
		got := d.chooseUpstream(x.name, 1, netip.MustParseAddr(x.client))
		if got.Blocked != x.blocked || got.Route.Mark != x.mark || !slices.Equal(got.Upstreams, x.upstreams) {
			t.Errorf("%s for %s: %+v", x.name, x.client, got)
		}
	}
}

// TestChooseTunnel: names whose traffic goes through a SOCKS server are asked for
// through it; those whose traffic has no way out are not asked for.
func TestChooseTunnel(t *testing.T) {
	c, plan := newTestCore(t, `
version: 1
uplinks: {wan1: {dev: eth1, gateway: 192.0.2.1}}
routes:
  direct: {via: main}
  tunnel: {via: "socks 192.0.2.80:1080 on wan1"}
  near: {via: "socks 127.0.0.1:1080"}
  later: {via: "xray later"}
  hole: {via: blackhole}
daemon:
  dns_listen: [127.0.0.1:15353]
  dns_upstreams: ["main udp://192.0.2.53"]
default: {route: direct}
rules:
  - {name: a, priority: 190, match: {sni: tunnel.example}, action: {route: tunnel}}
  - {name: b, priority: 180, match: {sni: near.example}, action: {route: near}}
  - {name: c, priority: 170, match: {sni: later.example}, action: {route: later}}
  - {name: d, priority: 160, match: {sni: hole.example}, action: {route: hole}}
`)
	d := New(Options{}, Parts{})
	d.snap.Store(&snapshot{live: c.live, plan: exported(plan)})
	wan1, _ := plan.UplinkMark("wan1")
	for _, x := range []struct {
		name, server string
		mark         uint32
		noWay        bool
	}{
		{"other.example", "invalid AddrPort", plan.Bypass(), false},
		{"tunnel.example", "192.0.2.80:1080", wan1, false},
		{"near.example", "127.0.0.1:1080", plan.Bypass(), false},
		{"later.example", "invalid AddrPort", plan.Bypass(), true},
		{"hole.example", "invalid AddrPort", plan.Bypass(), true},
	} {
		got := d.chooseUpstream(x.name, 1, netip.MustParseAddr("10.0.0.5"))
		if got.Route.Server.String() != x.server || got.Route.Mark != x.mark || got.NoWay != x.noWay || got.Blocked {
			t.Errorf("%s: %+v", x.name, got)
		}
	}
}

// TestLearnAnswer returns when the kernel has been told, and not before; what takes
// too long is given up.
func TestLearnAnswer(t *testing.T) {
	r := start(t, strings.Replace(dnsPolicy, "  dns_listen: [127.0.0.1:15353]\n  dns_upstreams: [\"corp udp://192.0.2.10 for .corp.example\", \"main udp://192.0.2.53\"]\n", "  on_crash: last\n", 1), nil)
	answer := resolver.Answer{Name: "us01.zoom.us", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, TTL: time.Minute}
	if err := r.learnAnswer(t.Context(), answer); err != nil {
		t.Fatal(err)
	}
	r.host.mu.Lock()
	told := strings.Join(r.host.updates, "\n")
	r.host.mu.Unlock()
	if !strings.Contains(told, "203.0.113.7") {
		t.Errorf("the kernel was told %q", told)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.learnAnswer(ended, answer); err == nil {
		t.Error("no error for an answer that could not wait")
	}
	if err := r.learnAnswer(t.Context(), resolver.Answer{Name: "nothing.example"}); err != nil {
		t.Errorf("an answer without addresses: %v", err)
	}
}

// TestForwarderRuns as the policy asks, and stops when it does not any more.
func TestForwarderRuns(t *testing.T) {
	r := start(t, dnsPolicy, nil)
	source := func() (found bool, why string) {
		for _, s := range r.Status().Sources {
			if s.Name == forwarderName {
				return true, s.Error
			}
		}
		return false, ""
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if found, why := source(); found && why == "" && r.forwarder.Load() != nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("does not run: %v, %s", found, why)
		}
	}
	var figures strings.Builder
	r.metrics.WritePrometheus(&figures)
	for _, want := range []string{"netpolicy_dns_queries_total 0\n", `netpolicy_source_lost_total{source="mock",why="room"} 7`} {
		if !strings.Contains(figures.String(), want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
	r.write(zoomPolicy)
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found, _ := source(); found || r.forwarder.Load() != nil {
		t.Error("runs on without being asked for")
	}
}
