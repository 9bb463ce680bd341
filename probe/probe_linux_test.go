package probe

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/state"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// Marks of the two uplinks, as a plan would choose them.
const (
	mark1 = 0x10000000
	mark2 = 0x20000000
)

// lines makes two uplinks with a table each, the main default on the first, and
// the far target 203.0.113.1, 2001:db8:ff::1 behind both.
func lines(t *testing.T) (here, far1, far2 *nstest.NS) {
	t.Helper()
	nstest.Need(t)
	here, far1, far2 = nstest.Here(t), nstest.New(t), nstest.New(t)
	nstest.Link(t, here, "wan1", far1, "eth0", "192.0.2.2/24 2001:db8:1::2/64", "192.0.2.1/24 2001:db8:1::1/64")
	nstest.Link(t, here, "wan2", far2, "eth0", "198.51.100.2/24 2001:db8:2::2/64", "198.51.100.1/24 2001:db8:2::1/64")
	for _, far := range []*nstest.NS{far1, far2} {
		// Else it would answer when asked for 203.0.113.1 by ARP.
		far.Set(t, "net/ipv4/conf/all/arp_ignore", "1")
		far.Address(t, "lo", "203.0.113.1/32 2001:db8:ff::1/128")
	}
	batch := `route add default via 192.0.2.1 dev wan1
route add default via 192.0.2.1 dev wan1 table 101
route add default via 198.51.100.1 dev wan2 table 102
rule add fwmark 0x10000000/0x70000000 table 101 priority 100
rule add fwmark 0x20000000/0x70000000 table 102 priority 101
`
	here.Run(t, batch, "ip", "-batch", "-")
	here.Run(t, `route add default via 2001:db8:1::1 dev wan1
route add default via 2001:db8:1::1 dev wan1 table 101
route add default via 2001:db8:2::1 dev wan2 table 102
rule add fwmark 0x10000000/0x70000000 table 101 priority 100
rule add fwmark 0x20000000/0x70000000 table 102 priority 101
`, "ip", "-6", "-batch", "-")
	t.Cleanup(func() {
		here.Run(t, "", "ip", "link", "delete", "wan1")
		here.Run(t, "", "ip", "link", "delete", "wan2")
		for _, f := range []string{"-4", "-6"} {
			here.Run(t, "", "ip", f, "rule", "delete", "priority", "100")
			here.Run(t, "", "ip", f, "rule", "delete", "priority", "101")
		}
	})
	return here, far1, far2
}

// start probes and returns the rounds.
func start(t *testing.T, uplinks ...Uplink) <-chan state.Round {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	rounds := make(chan state.Round, 10_000)
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		done <- Run(ctx, uplinks, func() time.Duration { return time.Since(began) }, func(r state.Round) { rounds <- r })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return rounds
}

func next(t *testing.T, rounds <-chan state.Round) state.Round {
	t.Helper()
	select {
	case r := <-rounds:
		return r
	case <-time.After(time.Minute):
		t.Fatal("no round comes")
		return state.Round{}
	}
}

func serve(t *testing.T, ns *nstest.NS, addr string) {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(t, func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

func targets(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

const hour = time.Hour // an Every that never comes: what arrives came at once

func TestAliveAndDead(t *testing.T) {
	_, far1, far2 := lines(t)
	for _, far := range []*nstest.NS{far1, far2} {
		serve(t, far, "[::]:443")
	}
	near, lost := "192.0.2.1:443", "203.0.113.77:443"
	for _, c := range []struct {
		name   string
		uplink Uplink
		lost   []bool
	}{
		{"icmp, first line", Uplink{Dev: "wan1", Mark: mark1, Targets: targets("203.0.113.1:0", "[2001:db8:ff::1]:0", near)}, []bool{false, false, false}},
		{"tcp, first line", Uplink{Dev: "wan1", Kind: TCP, Mark: mark1, Targets: targets("203.0.113.1:443", "[2001:db8:ff::1]:443", near)}, []bool{false, false, false}},
		{"icmp, second line by its own mark", Uplink{Dev: "wan2", Mark: mark2, Targets: targets("203.0.113.1:0", "[2001:db8:ff::1]:0")}, []bool{false, false}},
		{"tcp, second line by its own mark", Uplink{Dev: "wan2", Kind: TCP, Mark: mark2, Targets: targets("203.0.113.1:443", "[2001:db8:ff::1]:443")}, []bool{false, false}},
		{"second line without a mark has no gateway", Uplink{Dev: "wan2", Targets: targets("203.0.113.1:0", "[2001:db8:ff::1]:0", "198.51.100.1:0")}, []bool{true, true, false}},
		{"second line with the bypass mark has none either", Uplink{Dev: "wan2", Mark: 0x70000000, Targets: targets("203.0.113.1:0", "[2001:db8:ff::1]:0")}, []bool{true, true}},
		{"one of two lost, icmp", Uplink{Dev: "wan1", Mark: mark1, Targets: targets(lost, near)}, []bool{true, false}},
		{"one of two lost, tcp", Uplink{Dev: "wan1", Kind: TCP, Mark: mark1, Targets: targets(lost, near)}, []bool{true, false}},
		{"refused", Uplink{Dev: "wan1", Kind: TCP, Mark: mark1, Targets: targets("192.0.2.1:444")}, []bool{true}},
		{"no targets", Uplink{Dev: "wan1"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.uplink.Index, c.uplink.Every = 7, hour
			if slices.Contains(c.lost, true) || c.lost == nil { // Every is waited for
				c.uplink.Every = time.Second
			}
			r := next(t, start(t, c.uplink))
			if r.Uplink != 7 || r.Down || len(r.Probes) != len(c.lost) || r.At <= 0 {
				t.Fatalf("%+v", r)
			}
			for i, a := range r.Probes {
				if a.Lost != c.lost[i] || !a.Lost && (a.RTT <= 0 || a.RTT > c.uplink.Every) {
					t.Errorf("%v: %+v, want lost %v", c.uplink.Targets[i], a, c.lost[i])
				}
			}
		})
	}
}

// TestReversePath shows what docs/probes.md says of rp_filter.
func TestReversePath(t *testing.T) {
	here, _, _ := lines(t)
	for value, lost := range map[string]bool{"0": false, "1": true, "2": false} {
		here.Set(t, "net/ipv4/conf/wan2/rp_filter", value)
		every := hour
		if lost {
			every = 300 * time.Millisecond
		}
		r := next(t, start(t, Uplink{Dev: "wan2", Mark: mark2, Every: every, Targets: targets("203.0.113.1:0")}))
		if r.Probes[0].Lost != lost {
			t.Errorf("rp_filter %s: %+v, want lost %v", value, r, lost)
		}
	}
}

// TestDelayed answers by hand: first with forgeries, then late.
func TestDelayed(t *testing.T) {
	_, far, _ := lines(t)
	far.Set(t, "net/ipv4/icmp_echo_ignore_all", "1")
	far.Set(t, "net/ipv6/icmp/echo_ignore_all", "1")
	const delay = 60 * time.Millisecond
	for _, c := range []struct {
		name, network, any, target string
		proto                      int
		request, reply             icmp.Type
	}{
		{"IPv4", "ip4:icmp", "0.0.0.0", "192.0.2.1:0", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply},
		{"IPv6", "ip6:ipv6-icmp", "::", "[2001:db8:1::1]:0", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply},
	} {
		t.Run(c.name, func(t *testing.T) {
			var pc net.PacketConn
			var err error
			far.Do(t, func() { pc, err = net.ListenPacket(c.network, c.any) })
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			defer func() { _ = pc.Close(); <-done }()
			go func() {
				defer close(done)
				buf := make([]byte, 1500)
				for {
					n, from, err := pc.ReadFrom(buf)
					if err != nil {
						return
					}
					m, err := icmp.ParseMessage(c.proto, buf[:n])
					if err != nil || m.Type != c.request {
						continue
					}
					echo, ok := m.Body.(*icmp.Echo)
					if !ok {
						continue
					}
					say := func(e icmp.Echo) {
						if b, err := (&icmp.Message{Type: c.reply, Body: &e}).Marshal(nil); err == nil {
							_, _ = pc.WriteTo(b, from)
						}
					}
					say(icmp.Echo{ID: echo.ID + 1, Seq: echo.Seq, Data: echo.Data})
					say(icmp.Echo{ID: echo.ID, Seq: echo.Seq ^ 1, Data: echo.Data})
					say(icmp.Echo{ID: echo.ID, Seq: echo.Seq, Data: make([]byte, len(echo.Data))})
					say(icmp.Echo{ID: echo.ID, Seq: echo.Seq, Data: echo.Data[1:]})
					time.Sleep(delay)
					say(*echo)
				}
			}()
			r := next(t, start(t, Uplink{Dev: "wan1", Mark: mark1, Every: hour, Targets: targets(c.target)}))
			if len(r.Probes) != 1 || r.Probes[0].Lost || r.Probes[0].RTT < delay {
				t.Errorf("%+v, want at least %v", r, delay)
			}
		})
	}
}

// TestForeignHost has another host answer in the target's stead.
func TestForeignHost(t *testing.T) {
	want := icmp.Echo{ID: 5, Seq: 6, Data: []byte("0123456789abcdef")}
	b, err := (&icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &want}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	target := netip.MustParseAddr("192.0.2.1")
	if !answers(b, &net.IPAddr{IP: net.IPv4(192, 0, 2, 1)}, family4, target, want) {
		t.Error("the target's own answer does not count")
	}
	if answers(b, &net.IPAddr{IP: net.IPv4(192, 0, 2, 9)}, family4, target, want) {
		t.Error("another host's answer counts")
	}
	for n := range len(b) {
		if answers(b[:n], &net.IPAddr{IP: net.IPv4(192, 0, 2, 1)}, family4, target, want) {
			t.Errorf("%d of %d bytes count", n, len(b))
		}
	}
}

func TestLinkDown(t *testing.T) {
	here, far, _ := lines(t)
	rounds := start(t,
		Uplink{Index: 1, Dev: "wan1", Mark: mark1, Every: hour, Targets: targets("192.0.2.1:0")},
		Uplink{Index: 2, Dev: "wan2", Mark: mark2, Every: hour, Targets: targets("198.51.100.1:0")})
	for range 2 {
		if r := next(t, rounds); r.Down || r.Probes[0].Lost {
			t.Fatalf("%+v", r)
		}
	}
	for name, c := range map[string]struct{ down, up func() }{
		"carrier": {
			func() { far.Run(t, "", "ip", "link", "set", "eth0", "down") },
			func() { far.Run(t, "", "ip", "link", "set", "eth0", "up") },
		},
		"set down": {
			func() { here.Run(t, "", "ip", "link", "set", "wan1", "down") },
			func() { here.Run(t, "", "ip", "link", "set", "wan1", "up") },
		},
		"gone": {
			func() { here.Run(t, "", "ip", "link", "set", "wan1", "name", "other") },
			func() { here.Run(t, "", "ip", "link", "set", "other", "name", "wan1") },
		},
	} {
		c.down()
		if r := next(t, rounds); r.Uplink != 1 || !r.Down || len(r.Probes) != 0 {
			t.Errorf("%s: %+v, want down", name, r)
		}
		c.up()
		if r := next(t, rounds); r.Uplink != 1 || r.Down || len(r.Probes) != 1 {
			t.Errorf("%s: %+v, want a round", name, r)
		}
	}
}

// TestDownInTheMiddle takes the line away while a round waits for its answers: it is
// down, and nothing was lost. Where the line was gone before the probe was sent,
// which is lost at once, it is taken away again.
func TestDownInTheMiddle(t *testing.T) {
	here, _, _ := lines(t)
	rounds := start(t, Uplink{Dev: "wan1", Mark: mark1, Every: hour, Targets: targets("192.0.2.77:0")})
	for range 20 {
		here.Run(t, "", "ip", "link", "set", "wan1", "down")
		r := next(t, rounds)
		if r.Down {
			return
		}
		if r = next(t, rounds); !r.Down {
			t.Fatalf("%+v, want down", r)
		}
		here.Run(t, "", "ip", "link", "set", "wan1", "up")
	}
	t.Error("no round ended with the line")
}

func TestDownRepeats(t *testing.T) {
	nstest.Need(t)
	const every = 20 * time.Millisecond
	rounds := start(t, Uplink{Dev: "none", Every: every, Targets: targets("192.0.2.1:0")})
	first := next(t, rounds)
	for n := time.Duration(1); n < 5; n++ {
		if r := next(t, rounds); !r.Down || r.At-first.At < (n-1)*every {
			t.Errorf("round %d: %+v after %+v", n, r, first)
		}
	}
}
