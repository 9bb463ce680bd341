package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/tunnels"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/state"
)

const xrayPolicy = `
version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1}
routes:
  direct: {via: main}
  one: {via: xray "One" on wan1}
  two: {via: xray "Two"}
groups:
  pair: {fallback: [one, two]}
  mixed: {fallback: [one, direct]}
  fast: {lowest_latency: [one, two], tolerance: 20ms}
daemon: {tproxy: [tcp/443], xray_links: [links.txt]}
default: {route: pair}
rules:
  - {name: mixed, priority: 20, match: {port: 80}, action: {route: mixed}}
  - {name: fast, priority: 10, match: {port: 22}, action: {route: fast}}
`

// TestTunnelHealth: groups leave dead tunnels, and lowest_latency takes the faster.
func TestTunnelHealth(t *testing.T) {
	c, _ := newTestCore(t, xrayPolicy)
	gives := func(port string) string {
		f, err := flow.ParseText("tcp 10.0.0.5:5000 > 198.51.100.9:" + port)
		if err != nil {
			t.Fatal(err)
		}
		var d engine.Decision
		c.live.prog.DecideInto(&d, &f, c.live.world)
		return routeName(c.live.policy, d.Route)
	}
	ms := func(one, two int) map[string]time.Duration {
		m := map[string]time.Duration{}
		if one > 0 {
			m["one"] = time.Duration(one) * time.Millisecond
		}
		if two > 0 {
			m["two"] = time.Duration(two) * time.Millisecond
		}
		return m
	}
	for i, x := range []struct {
		one, two          state.Truth
		delays            map[string]time.Duration
		pair, mixed, fast string
	}{
		{state.Unset, state.Unset, nil, "one", "one", "one"}, // nothing is known yet
		{state.True, state.True, ms(100, 40), "one", "one", "two"},
		{state.True, state.True, ms(30, 45), "one", "one", "two"}, // faster by less than the tolerance
		{state.True, state.True, ms(10, 45), "one", "one", "one"},
		{state.False, state.True, ms(0, 45), "two", "direct", "two"},
		{state.False, state.False, nil, "one", "direct", "one"}, // the best of the bad
		{state.True, state.False, ms(50, 0), "one", "one", "one"},
	} {
		c.tunnels(tunnels.Health{Alive: map[string]state.Truth{"one": x.one, "two": x.two}, Delays: x.delays})
		if p, m, f := gives("443"), gives("80"), gives("22"); p != x.pair || m != x.mixed || f != x.fast {
			t.Errorf("%d: pair gives %s, mixed %s, fast %s; want %s, %s, %s", i, p, m, f, x.pair, x.mixed, x.fast)
		}
		// A round of the machine does not lose it, nor does another policy.
		before := slices.Clone(c.live.world.Alive)
		c.apply(state.TickEvent(time.Duration(i+1)*time.Second), time.Now())
		if !slices.Equal(before, c.live.world.Alive) {
			t.Errorf("%d: %v, then %v", i, before, c.live.world.Alive)
		}
	}
	next, _ := newTestCore(t, strings.Replace(xrayPolicy, "  direct: {via: main}\n", "  direct: {via: main}\n  more: {via: blackhole}\n", 1))
	c.replace(next.live, 0)
	if gives("443") != "one" || len(c.live.world.Alive) != len(c.live.policy.Routes) {
		t.Error(c.live.world.Alive)
	}
	c.tunnels(tunnels.Health{})
	if c.live.world.Alive != nil {
		t.Error("without tunnels something is known of them")
	}
}

// TestTunnelDecides: a route whose Xray is not there is rejected, and after a failure
// the group gives another member.
func TestTunnelDecides(t *testing.T) {
	c, plan := newTestCore(t, xrayPolicy)
	d := New(Options{}, Parts{})
	d.snap.Store(&snapshot{live: c.live, plan: exported(plan), host: &testHost})
	decide := func(port string, failed ...string) (v relay.Verdict) {
		f, err := flow.ParseText("tcp 10.0.0.5:5000 > 198.51.100.9:" + port)
		if err != nil {
			t.Fatal(err)
		}
		(&decider{d: d}).Decide(&relay.Ask{Flow: &f, Sniffed: true, Failed: failed}, &v)
		return v
	}
	if v := decide("443"); v.Do != relay.Reject || v.Way.Route != "one" {
		t.Errorf("%+v", v)
	}
	if v := decide("443", "one"); v.Do != relay.Reject || v.Way.Route != "two" {
		t.Errorf("%+v", v)
	}
	if v := decide("80", "one"); v.Do != relay.Dial || v.Way.Route != "direct" || v.Way.Uplink != -1 {
		t.Errorf("%+v", v)
	}
}

// TestCheckXray: each name that can't be run is told at its place, and what would run
// without secrets.
func TestCheckXray(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	text := strings.Replace(xrayPolicy, "  direct:", "  three: {via: xray \"Thre\"}\n  bad: {via: xray \"Bad\"}\n  direct:", 1)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policy.yaml", text)
	write("links.txt", "trojan://Secr3t@a.example:443#One\nss://aes-256-gcm:Secr3t@[2001:db8::1]:8388#Two\ntrojan://Secr3t@c.example:443#Three\ntrojan://Secr3t@d.example:443?allowInsecure=1#Bad\n")
	r, err := LoadPolicy(path, "")
	if err != nil || r.Policy == nil {
		t.Fatal(err, r.Diags)
	}
	list := apiDiagnostics(CheckXray(path, r.Policy, nil), r.Sources, false)
	if len(list) != 2 || list[0].Line != 6 || list[0].Code != "NP504" || !strings.Contains(list[0].Help, "Three") ||
		list[1].Line != 7 || !strings.Contains(list[1].Message, "allowInsecure") || strings.Contains(list[1].Message, "Secr3t") {
		t.Errorf("%+v", list)
	}
	got := strings.Join(DescribeXray(path, r.Policy, nil), "\n")
	for _, want := range []string{
		`route one via xray "One" on wan1: trojan a.example:443 of the file links.txt`, `route two via xray "Two": ss [2001:db8::1]:8388 of`,
		`route three via xray "Thre": rejected, there is no proxy of this name`, `route bad via xray "Bad": rejected, trojan to d.example:443`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if strings.Contains(got, "Secr3t") {
		t.Error(got)
	}
	report := PlanReport{Xray: DescribeXray(path, r.Policy, nil)}
	c, plan := newTestCore(t, text)
	report.Program, report.World, report.Plan = c.live.prog, c.live.world, plan
	for _, json := range []bool{false, true} {
		if out, err := report.String(json); err != nil || !strings.Contains(out, "a.example:443") {
			t.Errorf("%v: %s", err, out)
		}
	}
}
