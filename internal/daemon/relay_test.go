package daemon

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/relay"
)

const relayPolicy = `
version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1}
  wan2: {dev: eth2, gateway: 198.51.100.1}
routes:
  direct: {via: main}
  fast: {via: uplink wan1}
  backup: {via: uplink wan2}
  tunnel: {via: "socks 127.0.0.1:1090 on wan2"}
groups:
  ha: {fallback: [fast, backup]}
throttles:
  slow: {down: 1mbit, up: 512kbit, per: host}
daemon: {tproxy: [tcp/443]}
default: {route: direct}
rules:
  - {name: bad, priority: 200, match: {sni: bad.example}, action: {block: true}}
  - {name: refused, priority: 190, match: {sni: no.example}, action: {block: reject}}
  - {name: zoom, priority: 100, match: {sni: .zoom.us}, action: {route: ha, throttle: slow}}
  - {name: far, priority: 90, match: {dst_ip: 203.0.113.0/24}, action: {route: tunnel}}
`

// asks is a decider on the policy.
func asks(t *testing.T) (ask func(text string, change func(*relay.Ask)) relay.Verdict, d *Daemon) {
	t.Helper()
	c, plan := newTestCore(t, relayPolicy)
	d = New(Options{}, Parts{})
	d.snap.Store(&snapshot{live: c.live, plan: exported(plan), host: &testHost})
	return func(text string, change func(*relay.Ask)) (v relay.Verdict) {
		t.Helper()
		f, err := flow.ParseText(text)
		if err != nil {
			t.Fatal(err)
		}
		a := relay.Ask{Flow: &f}
		if change != nil {
			change(&a)
		}
		(&decider{d: d}).Decide(&a, &v)
		return v
	}, d
}

const plain = "tcp 10.0.0.5:5000 > 198.51.100.9:443"

func TestRelayDecides(t *testing.T) {
	ask, d := asks(t)
	plan := d.snap.Load().plan
	mark := func(uplink string) uint32 { m, _ := plan.UplinkMark(uplink); return m }
	sniffed := func(a *relay.Ask) { a.Sniffed = true }
	if v := ask(plain, nil); !v.Sniff {
		t.Errorf("the name is not waited for: %+v", v)
	}
	for _, c := range []struct {
		name, flow string
		change     func(*relay.Ask)
		do         relay.Action
		route      string
		uplink     int
		mark       uint32
	}{
		{"no rule", plain + " sni=null http_host=null", sniffed, relay.Dial, "direct", -1, 0},
		{"by name", plain + " sni=us01.zoom.us http_host=null", sniffed, relay.Dial, "fast", 0, mark("wan1")},
		{"its first way failed", plain + " sni=us01.zoom.us http_host=null", func(a *relay.Ask) { a.Sniffed, a.Failed = true, []string{"fast"} }, relay.Dial, "backup", 1, mark("wan2")},
		{"blocked", plain + " sni=bad.example http_host=null", sniffed, relay.Drop, "", 0, 0},
		{"rejected", plain + " sni=no.example http_host=null", sniffed, relay.Reject, "", 0, 0},
		{"through a tunnel on an uplink", "tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=null http_host=null", sniffed, relay.Dial, "tunnel", 1, mark("wan2")},
	} {
		v := ask(c.flow, c.change)
		if v.Do != c.do || v.Do == relay.Dial && (v.Way.Route != c.route || v.Way.Uplink != c.uplink || v.Way.Mark != c.mark) || v.Sniff {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
	for flow, want := range map[string]relay.Action{
		"tcp 10.0.0.5:5000 > 127.0.0.1:443":  relay.Reject,
		"tcp 10.0.0.5:5000 > 169.254.1.1:80": relay.Reject,
		"tcp 10.0.0.5:5000 > 10.0.0.1:443":   relay.Reject, // the gateway's own
		"tcp 127.0.0.1:5000 > 127.0.0.1:443": relay.Dial,
	} {
		if v := ask(flow+" sni=null http_host=null", sniffed); v.Do != want {
			t.Errorf("%s: %+v", flow, v)
		}
	}
	if v := ask("tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=null http_host=null", sniffed); v.Way.Server.String() != "127.0.0.1:1090" || !v.Way.SendName {
		t.Errorf("tunnel: %+v", v.Way)
	}
	if v := ask(plain+" sni=us01.zoom.us http_host=null", sniffed); v.Throttle != (relay.Throttle{Name: "slow", Down: 125_000, Up: 64_000, Per: relay.PerHost, Burst: v.Throttle.Burst}) {
		t.Errorf("throttle: %+v", v.Throttle)
	}
	if v := ask("tcp 10.0.0.5:5000 > 0.0.0.0:443 sni=us01.zoom.us http_host=null", func(a *relay.Ask) { a.Sniffed = true; a.Flow.Dst = flow.Value[netip.Addr]{} }); v.Do != relay.Resolve || v.Way.Route != "fast" {
		t.Errorf("a name without an address: %+v", v)
	}
}

// TestRelayTells: dials that speak against a line become a report for the machine,
// and connections become events.
func TestRelayTells(t *testing.T) {
	_, d := asks(t)
	d.parts.Now = func() time.Duration { return time.Second }
	x := newDials(d)
	for i, f := range []relay.Failure{relay.None, relay.TimedOut, relay.Refused, relay.Local, relay.Unreachable} {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i), 9}), 443)
		x.stood(to.Addr())
		x.Dialled(&relay.Outcome{Uplink: 1, Failure: relay.TimedOut, Dst: netip.MustParseAddrPort("198.18.0.1:443")}) // never reached: a scan, perhaps
		x.Dialled(&relay.Outcome{Uplink: 1, Failure: f, Dst: to})
		if f == relay.TimedOut { // that many others ask for the dead server says nothing new
			x.Dialled(&relay.Outcome{Uplink: 1, Failure: f, Dst: to})
		}
	}
	x.Dialled(&relay.Outcome{Uplink: -1, Failure: relay.TimedOut})
	x.stood(netip.MustParseAddr("203.0.113.9"))
	x.Closed(&relay.Conn{Uplink: 1, Dst: netip.MustParseAddrPort("203.0.113.9:443")}, &relay.End{EarlyReset: true})
	<-d.events
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.report(ctx) }()
	r := <-d.rounds
	stop()
	<-done
	if r.generation != passive || r.round.Uplink != 1 || r.round.Dials != 3 || r.round.Failures != 3 || len(r.round.Probes) != 0 {
		t.Errorf("%+v", r)
	}
	conn := relay.Conn{Proto: flow.TCP, Src: netip.MustParseAddrPort("10.0.0.5:5000"), Dst: netip.MustParseAddrPort("203.0.113.9:443"), Name: "us01.zoom.us", Uplink: 1, Up: 5}
	x.Opened(&conn)
	x.Closed(&conn, &relay.End{RTT: time.Millisecond})
	open, end := <-d.events, <-d.events
	if name, _ := open.Flow.SNI.Get(); open.Kind != inspector.Open || open.Source != relayName || name != "us01.zoom.us" {
		t.Errorf("%+v", open)
	}
	if end.Kind != inspector.Close || end.Stats.RTT != time.Millisecond || end.Stats.BytesUp != 5 {
		t.Errorf("%+v", end)
	}
}
