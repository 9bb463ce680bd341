package conntrack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// rules turn connection tracking on and mark what goes to port 443.
const rules = `
table inet t {
	chain forward {
		type filter hook forward priority 0
		ct state new tcp dport 443 ct mark set 0x5000000
		ct state new counter
	}
}`

// start runs s and returns its events and a function that ends it.
func start(t *testing.T, s *Source, size int) (<-chan inspector.Event, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan inspector.Event, size)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(e inspector.Event) { events <- e }) }()
	stop := func() {
		cancel()
		for {
			select {
			case <-events:
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
				done <- nil
				return
			}
		}
	}
	t.Cleanup(stop)
	return events, stop
}

// wait returns the first event for which ok holds.
func wait(t *testing.T, events <-chan inspector.Event, ok func(inspector.Event) bool) inspector.Event {
	t.Helper()
	for {
		select {
		case e := <-events:
			if ok(e) {
				return e
			}
		case <-time.After(time.Minute):
			t.Fatal("the event does not come")
		}
	}
}

// router makes client - here - server and returns the two ends.
func router(t *testing.T) (client, server *nstest.NS) {
	t.Helper()
	nstest.Need(t)
	here := nstest.Here(t)
	client, server = nstest.New(t), nstest.New(t)
	nstest.Link(t, here, "lan", client, "eth0", "10.0.0.1/24 2001:db8:1::1/64", "10.0.0.5/24 2001:db8:1::5/64")
	nstest.Link(t, here, "wan", server, "eth0", "192.0.2.1/24 2001:db8:2::1/64", "192.0.2.9/24 2001:db8:2::9/64")
	for ns, gw := range map[*nstest.NS][]string{client: {"10.0.0.1", "2001:db8:1::1"}, server: {"192.0.2.1", "2001:db8:2::1"}} {
		ns.Run(t, "", "ip", "route", "add", "default", "via", gw[0])
		ns.Run(t, "", "ip", "-6", "route", "add", "default", "via", gw[1])
	}
	here.Set(t, "net/ipv4/ip_forward", "1")
	here.Set(t, "net/ipv6/conf/all/forwarding", "1")
	here.Set(t, "net/netfilter/nf_conntrack_acct", "1")
	here.Set(t, "net/netfilter/nf_conntrack_events", "1")
	here.Run(t, rules, "nft", "-f", "-")
	t.Cleanup(func() {
		here.Run(t, "", "nft", "delete", "table", "inet", "t")
		here.Run(t, "", "ip", "link", "delete", "lan")
		here.Run(t, "", "ip", "link", "delete", "wan")
		flush(t)
	})
	return client, server
}

func flush(t *testing.T) {
	t.Helper()
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		t.Error("flush the conntrack table:", err)
	}
}

// echo sends back what the client sends.
func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// dial connects to addr from inside ns.
func dial(t *testing.T, ns *nstest.NS, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	ns.Do(t, func() { c, err = net.Dial(network, addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestForwarded(t *testing.T) {
	client, server := router(t)
	server.Serve(t, "[::]:443", echo)
	old := dial(t, client, "tcp", "192.0.2.9:443") // before the source starts

	s := New(Options{})
	events, stop := start(t, s, 1000)
	for _, addr := range []string{"", "192.0.2.9:443", "[2001:db8:2::9]:443"} {
		c := old
		if addr != "" {
			c = dial(t, client, "tcp", addr)
		}
		src, dst := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())
		want := flow.Flow{
			Proto: flow.Some(flow.TCP), Src: flow.Some(src.Addr()), Dst: flow.Some(dst.Addr()),
			SrcPort: flow.Some(src.Port()), DstPort: flow.Some(dst.Port()),
		}
		e := wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Open && e.Flow == want })
		if e.Mark != 0x5000000 || e.Source != "conntrack" || e.At.IsZero() {
			t.Errorf("open %v: %+v", src, e)
		}
		if _, err := c.Write(make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	flush(t)
	for range 3 {
		e := wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Close })
		if e.Mark != 0x5000000 || e.Stats.BytesUp < 5000 || e.Stats.BytesDown < 5000 || e.Stats.PacketsUp < 4 || !e.Stats.Replied {
			t.Errorf("close: %+v", e)
		}
	}
	stop()
	if n := s.Counters.Bad.Load(); n != 0 {
		t.Errorf("%d messages not understood", n)
	}
}

func TestRefreshCounts(t *testing.T) {
	client, server := router(t)
	server.Serve(t, "192.0.2.9:80", echo)
	events, _ := start(t, New(Options{Refresh: 50 * time.Millisecond}), 1000)
	c := dial(t, client, "tcp", "192.0.2.9:80")
	if _, err := c.Write(make([]byte, 7000)); err != nil {
		t.Fatal(err)
	}
	wait(t, events, func(e inspector.Event) bool { return e.Stats.BytesUp > 7000 })
	if _, err := c.Write(make([]byte, 7000)); err != nil {
		t.Fatal(err)
	}
	wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Update && e.Stats.BytesUp > 14000 })
}

// TestOldConnection covers what the kernel sends no events of: connections
// older than the first listener, unless the sysctl says otherwise.
func TestOldConnection(t *testing.T) {
	client, _ := router(t)
	nstest.Here(t).Set(t, "net/netfilter/nf_conntrack_events", "2")
	u := dial(t, client, "udp", "192.0.2.77:9")
	if _, err := u.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	events, _ := start(t, New(Options{Refresh: 50 * time.Millisecond}), 1000)
	wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Open })
	flush(t)
	wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Close })
}

// TestUnanswered shows how a failed dial is told: a Close without a reply.
func TestUnanswered(t *testing.T) {
	client, _ := router(t)
	events, _ := start(t, New(Options{}), 1000)
	u := dial(t, client, "udp", "192.0.2.77:9")
	if _, err := u.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	wait(t, events, func(e inspector.Event) bool {
		p, _ := e.Flow.DstPort.Get()
		return e.Kind == inspector.Open && p == 9
	})
	flush(t)
	if e := wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Close }); e.Stats.Replied {
		t.Errorf("%+v", e)
	}
}

// TestLostEvents overruns the event socket and expects that no connection is
// missed for good, neither its beginning nor its end.
func TestLostEvents(t *testing.T) {
	client, _ := router(t)
	s := New(Options{ReadBuffer: 4096})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hold, began := make(chan struct{}), make(chan struct{}, 1)
	var opened, closed []netip.AddrPort
	progress := make(chan [2]int, 1)
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(e inspector.Event) {
			if p, _ := e.Flow.DstPort.Get(); e.Kind == inspector.Update || p < 10000 {
				return
			}
			select {
			case began <- struct{}{}:
			default:
			}
			<-hold
			src, _ := e.Flow.Src.Get()
			port, _ := e.Flow.DstPort.Get()
			if e.Kind == inspector.Open {
				opened = append(opened, netip.AddrPortFrom(src, port))
			} else {
				closed = append(closed, netip.AddrPortFrom(src, port))
			}
			select {
			case <-progress:
			default:
			}
			progress <- [2]int{len(opened), len(closed)}
		})
	}()
	const flows = 2000
	pc := client.ListenPacket(t, "udp4", ":0")
	defer func() { _ = pc.Close() }()
	for i := 0; i < flows; i++ {
		if _, err := pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 77), Port: 10000 + i}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			<-began // the source listens, and is now held
		}
	}
	close(hold)
	for n := range progress {
		if n[0] == flows {
			break
		}
	}
	if s.Counters.Resyncs.Load() == 0 {
		t.Error("the socket was not overrun: the test shows nothing")
	}
	flush(t)
	for n := range progress {
		if n[1] == flows {
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	seen := map[netip.AddrPort]bool{}
	for _, a := range opened {
		if seen[a] {
			t.Errorf("%v opened twice", a)
		}
		seen[a] = true
	}
}

func TestFull(t *testing.T) {
	client, _ := router(t)
	s := New(Options{MaxEntries: 1})
	events, _ := start(t, s, 1000)
	for range 3 {
		u := dial(t, client, "udp", "192.0.2.77:9")
		if _, err := u.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Open })
	}
	flush(t)
	for range 3 {
		wait(t, events, func(e inspector.Event) bool { return e.Kind == inspector.Close })
	}
	if s.Counters.Full.Load() == 0 {
		t.Error("the bound was not met")
	}
}

func TestParseIsSafe(t *testing.T) {
	for n := range 64 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 37)
		}
		if _, err := parse(b); err == nil {
			t.Errorf("%d bytes of noise were understood", n)
		}
	}
}
