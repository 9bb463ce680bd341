package daemon

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/porttest"
	"netpolicy.dev/netpolicy/internal/socks"
	"netpolicy.dev/netpolicy/relay"
	"netpolicy.dev/netpolicy/resolver"
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
	if v := ask("tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=null http_host=null", sniffed); v.Way.Server.String() != "127.0.0.1:1090" {
		t.Errorf("tunnel: %+v", v.Way)
	}
	if v := ask(plain+" sni=us01.zoom.us http_host=null", sniffed); v.Throttle != (relay.Throttle{Name: "slow", Down: 125_000, Up: 64_000, Per: relay.PerHost, Burst: v.Throttle.Burst}) {
		t.Errorf("throttle: %+v", v.Throttle)
	}
	if v := ask("tcp 10.0.0.5:5000 > 0.0.0.0:443 sni=us01.zoom.us http_host=null", func(a *relay.Ask) { a.Sniffed = true; a.Flow.Dst = flow.Value[netip.Addr]{} }); v.Do != relay.Resolve || v.Way.Route != "fast" {
		t.Errorf("a name without an address: %+v", v)
	}
}

const tunnelPolicy = `
version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1}
routes:
  tunnel: {via: "socks 192.0.2.80:1080 on wan1"}
  direct: {via: main}
daemon: {relay: [127.0.0.1:1080]}
default: {route: tunnel}
rules:
  - {name: first, priority: 300, match: {sni: .first.example}, action: {route: tunnel}}
  - {name: inner, priority: 200, match: {dst_ip: 10.0.0.0/8}, action: {block: reject}}
  - {name: home, priority: 190, match: {dst_ip: 198.51.100.0/24}, action: {route: direct}}
`

// TestRelayAddresses: where rules ask for the address of a name that is about to go
// through a SOCKS server, it is resolved, through the server, and what was decided is
// what the server is asked for.
func TestRelayAddresses(t *testing.T) {
	c, plan := newTestCore(t, tunnelPolicy)
	d := New(Options{}, Parts{})
	d.snap.Store(&snapshot{live: c.live, plan: exported(plan), host: &testHost})
	now := time.Now()
	c.names.Add(inspector.Answer{Name: "known.example", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.9")}, TTL: time.Minute}, now)
	d.hints.learn(c.names, []netip.Addr{netip.MustParseAddr("203.0.113.9")}, now)
	mark, ok := plan.UplinkMark("wan1")
	if !ok {
		t.Fatal("the line that only the tunnel is on has no mark")
	}
	for _, x := range []struct {
		name, sni, dst string
		resolved       bool
		do             relay.Action
		route          string
		sendName       bool
	}{
		{"a name, address to be found", "x.example", "", false, relay.Resolve, "tunnel", false},
		{"its address is blocked", "x.example", "10.1.2.3", true, relay.Reject, "", false},
		{"its address goes elsewhere", "x.example", "198.51.100.3", true, relay.Dial, "direct", false},
		{"its address goes through", "x.example", "203.0.113.9", true, relay.Dial, "tunnel", false},
		{"not even with a name that DNS told", "known.example", "203.0.113.9", true, relay.Dial, "tunnel", false},
		{"a rule that wants no address comes first", "a.first.example", "", false, relay.Dial, "tunnel", true},
		{"a forwarded flow with a name that nobody told", "x.example", "203.0.113.9", false, relay.Dial, "tunnel", false},
		{"a forwarded flow with the name that DNS told", "known.example", "203.0.113.9", false, relay.Dial, "tunnel", true},
	} {
		f := flow.Flow{
			Proto: flow.Some(flow.TCP), Src: flow.Some(netip.MustParseAddr("10.0.0.5")), DstPort: flow.Some(uint16(443)),
			SNI: flow.Name(x.sni), HTTPHost: flow.Absent[string](),
		}
		if x.dst != "" {
			f.Dst = flow.Some(netip.MustParseAddr(x.dst))
		}
		var v relay.Verdict
		(&decider{d: d}).Decide(&relay.Ask{Flow: &f, Sniffed: true, Resolved: x.resolved}, &v)
		if v.Do != x.do || v.Do != relay.Reject && (v.Way.Route != x.route || v.Way.SendName != x.sendName) {
			t.Errorf("%s: %+v", x.name, v)
		}
		if v.Way.Route == "tunnel" && (v.Way.Server.String() != "192.0.2.80:1080" || v.Way.Mark != mark) {
			t.Errorf("%s: by %+v", x.name, v.Way)
		}
	}
}

// TestLookupsLeak: without a forwarder, a name for a SOCKS server is asked for at those
// of the host's resolvers that are everybody's, through the server, and at no others.
func TestLookupsLeak(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan socks.Target, 1)
	go func() {
		defer close(asked)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, to, err := socks.Accept(c, c, nil); err == nil {
			asked <- to
			_ = socks.WriteReply(c, socks.ReplyOK, netip.AddrPort{})
		}
	}()
	at, _ := l.Addr().(*net.TCPAddr)
	route := resolver.Route{Server: at.AddrPort()}
	for _, private := range []string{"127.0.0.53:53", "192.168.1.1:53", "[fd00::1]:53", "[fe80::1]:53", "0.0.0.0:53"} {
		if c, err := dialResolver(t.Context(), "udp", private, &route); err == nil {
			t.Errorf("%s is asked at %v", private, c.RemoteAddr())
		}
	}
	c, err := dialResolver(t.Context(), "udp", "203.0.113.53:53", &route)
	if err != nil {
		t.Fatal(err)
	}
	if to := <-asked; to.String() != "203.0.113.53:53" || c.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("%v is asked for %v", c.RemoteAddr(), to)
	}
	_ = c.Close()
	_ = l.Close()
	<-asked
	if c, err := dialResolver(t.Context(), "udp", "203.0.113.53:53", &route); err == nil {
		t.Errorf("without the server somebody is asked: %v", c.RemoteAddr())
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

// TestRelayReopens: a reload that names other listeners changes them alone: what came in
// by the others, or by one that has gone, goes on.
func TestRelayReopens(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mark sockets")
	}
	one, two := porttest.Free(t).String(), porttest.Free(t).String()
	policy := func(listen string) string {
		return "version: 1\nroutes: {direct: {via: main}}\ndefault: {route: direct}\ndaemon: {relay: [\"" + listen + "\"], mark_mask: 0x70000000}\n"
	}
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() {
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	to, _ := far.Addr().(*net.TCPAddr)
	r := start(t, policy(one), nil)
	through := func(server string) (c net.Conn) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			c, err := net.Dial("tcp", server)
			if err == nil {
				t.Cleanup(func() { c.Close() })
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				if _, err = socks.Ask(c, "", "", socks.Connect, socks.TargetOf(to.AddrPort())); err == nil {
					return c
				}
			}
			if time.Now().After(end) {
				t.Fatalf("through %s: %v", server, err)
			}
		}
	}
	say := func(c net.Conn) error {
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	old := through(one)
	if err := say(old); err != nil {
		t.Fatal(err)
	}
	was := r.relay.Load()
	r.write(policy(two))
	if got, err := r.Reload(t.Context()); err != nil || got.Result != api.Applied {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := say(through(two)); err != nil {
		t.Error(err)
	}
	if err := say(old); err != nil {
		t.Errorf("the connection by the listener that has gone: %v", err)
	}
	if c, err := net.Dial("tcp", one); err == nil {
		_ = c.Close()
		t.Error("the listener that has gone takes connections")
	}
	if r.relay.Load() != was {
		t.Error("it is another relay")
	}
	// One that can't be opened is told, and tried again.
	busy, err := net.Listen("tcp", one)
	if err != nil {
		t.Fatal(err)
	}
	r.write(strings.Replace(policy(two), `["`, `["`+one+`", "`, 1))
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	why := func() string {
		for _, s := range r.Status().Sources {
			if s.Name == relayName {
				return s.Error
			}
		}
		return "no such source"
	}
	for end := time.Now().Add(30 * time.Second); !strings.Contains(why(), one); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("status says %q", why())
		}
	}
	_ = busy.Close()
	if err := say(through(one)); err != nil {
		t.Error(err)
	}
	if err := say(old); err != nil {
		t.Error(err)
	}
}
