package afpacket

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func start(t *testing.T, s *Source) <-chan inspector.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan inspector.Event, 10_000)
	done := make(chan error, 1)
	go func() {
		err := s.Run(ctx, func(e inspector.Event) { events <- e })
		if err != nil {
			close(events) // ends who waits for it
		}
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	// It listens when it sees a question and its answer.
	ready(t, events)
	return events
}

// ready talks DNS to itself on lo until the source tells of it.
func ready(t *testing.T, events <-chan inspector.Event) {
	t.Helper()
	serveDNS(t, nstest.Here(t), "127.0.0.9:53")
	for i := 0; ; i++ {
		ask(t, nstest.Here(t), "udp", "127.0.0.9:53", fmt.Sprintf("ready%d.example.", i))
		for patience, waiting := time.After(20*time.Millisecond), true; waiting; {
			select {
			case e, ok := <-events:
				if !ok {
					t.FailNow() // Run has said why
				}
				if e.Kind == inspector.Answered {
					return
				}
			case <-patience:
				waiting = false
			}
		}
	}
}

// answer makes the answer to a question: 198.51.100.7, by way of an alias.
func answer(question []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response = true
	alias := dnsmessage.MustNewName("cdn.example.")
	m.Answers = []dnsmessage.Resource{
		{Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 300}, Body: &dnsmessage.CNAMEResource{CNAME: alias}},
		{Header: dnsmessage.ResourceHeader{Name: alias, Class: dnsmessage.ClassINET, TTL: 90}, Body: &dnsmessage.AResource{A: [4]byte{198, 51, 100, 7}}},
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// serveDNS answers over UDP and TCP inside ns.
func serveDNS(t *testing.T, ns *nstest.NS, addr string) {
	t.Helper()
	pc, l := ns.ListenPacket(t, "udp", addr), ns.Listen(t, addr)
	done := make(chan struct{}, 2)
	t.Cleanup(func() { _, _ = pc.Close(), l.Close(); <-done; <-done })
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(answer(buf[:n]), from)
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 2)
			if _, err := io.ReadFull(c, head); err == nil {
				q := make([]byte, binary.BigEndian.Uint16(head))
				if _, err := io.ReadFull(c, q); err == nil {
					a := answer(q)
					_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
				}
			}
			_ = c.Close()
		}
	}()
}

// ask sends one question from ns and reads the answer.
func ask(t *testing.T, ns *nstest.NS, network, server, name string) {
	t.Helper()
	c := dial(t, ns, network, server)
	defer func() { _ = c.Close() }()
	exchange(t, c, network, name)
}

func exchange(t *testing.T, c net.Conn, network, name string) {
	t.Helper()
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(len(name)) * 259, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if network == "tcp" {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1500)); err != nil {
		t.Fatal(err)
	}
}

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

// serveTLS accepts TLS, or whatever else, and reads until the client closes.
func serveTLS(t *testing.T, ns *nstest.NS, addr string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}
	ns.Serve(t, addr, func(c net.Conn) {
		if s := tls.Server(c, config); s.Handshake() == nil {
			_, _ = io.Copy(io.Discard, s)
		}
	})
}

// narrow splits what is written into small segments.
type narrow struct{ net.Conn }

func (n narrow) Write(b []byte) (int, error) {
	for i := 0; i < len(b); i += 200 {
		if _, err := n.Conn.Write(b[i:min(i+200, len(b))]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func handshake(t *testing.T, c net.Conn, name string) *tls.Conn {
	t.Helper()
	s := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}) // #nosec: a test's own server
	if err := s.Handshake(); err != nil {
		t.Fatal(err)
	}
	return s
}

// router makes client - here - server with masquerading, as a home router has it.
func router(t *testing.T) (client, server *nstest.NS) {
	t.Helper()
	nstest.Need(t)
	here := nstest.Here(t)
	client, server = nstest.New(t), nstest.New(t)
	nstest.Link(t, here, "lan", client, "eth0", "10.0.0.1/24 2001:db8:1::1/64", "10.0.0.5/24 2001:db8:1::5/64")
	nstest.Link(t, here, "wan", server, "eth0", "192.0.2.1/24 2001:db8:2::1/64", "192.0.2.9/24 2001:db8:2::9/64")
	here.Run(t, "", "ip", "link", "add", "br0", "type", "bridge")
	here.Run(t, "", "ip", "link", "set", "br0", "up")
	client.Run(t, "", "ip", "route", "add", "default", "via", "10.0.0.1")
	client.Run(t, "", "ip", "-6", "route", "add", "default", "via", "2001:db8:1::1")
	server.Run(t, "", "ip", "-6", "route", "add", "default", "via", "2001:db8:2::1")
	here.Set(t, "net/ipv4/ip_forward", "1")
	here.Set(t, "net/ipv6/conf/all/forwarding", "1")
	here.Run(t, "table ip nat {\n chain post {\n type nat hook postrouting priority 100\n oifname wan masquerade random\n }\n}\n", "nft", "-f", "-")
	t.Cleanup(func() {
		here.Run(t, "", "nft", "delete", "table", "ip", "nat")
		for _, dev := range []string{"lan", "wan", "br0"} {
			here.Run(t, "", "ip", "link", "delete", dev)
		}
	})
	return client, server
}

// quiet returns the events until the source tells of a last DNS answer, so that
// nothing more can come of what was done before.
func quiet(t *testing.T, events <-chan inspector.Event) []inspector.Event {
	t.Helper()
	// The same answer again, within a second, would be taken for a copy.
	last := fmt.Sprintf("end%d.example", time.Now().UnixNano())
	ask(t, nstest.Here(t), "udp", "127.0.0.9:53", last+".")
	var out []inspector.Event
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.FailNow()
			}
			if e.Answer.Name == last {
				return out
			}
			if e.Flow.App != flow.Some("dns") { // the questions themselves
				out = append(out, e)
			}
		case <-time.After(time.Minute):
			t.Fatal("the last answer is not seen")
		}
	}
}

func TestForwarded(t *testing.T) {
	client, server := router(t)
	serveTLS(t, server, "[::]:443")
	serveDNS(t, server, "192.0.2.9:53")
	events := start(t, New(Options{}))
	for _, c := range []struct {
		name, addr, sni string
		narrow          bool
	}{
		{"IPv4", "192.0.2.9:443", "us01.zoom.us", false},
		{"IPv4, split", "192.0.2.9:443", "us02.zoom.us", true},
		{"IPv6", "[2001:db8:2::9]:443", "us03.zoom.us", false},
		{"no name", "192.0.2.9:443", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dial(t, client, "tcp", c.addr)
			raw := conn
			if c.narrow {
				raw = narrow{conn}
			}
			handshake(t, raw, c.sni)
			_ = conn.Close()
			got := quiet(t, events)
			if len(got) != 1 {
				t.Fatalf("%d events: %+v", len(got), got)
			}
			src, dst := netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(c.addr)
			want := flow.Flow{
				Proto: flow.Some(flow.TCP), Src: flow.Some(src.Addr()), SrcPort: flow.Some(src.Port()),
				Dst: flow.Some(dst.Addr()), DstPort: flow.Some(dst.Port()),
				SNI: flow.Absent[string](), HTTPHost: flow.Absent[string](), DSCP: flow.Some[uint8](0), IfaceIn: flow.Some("lan"),
				App: flow.Some("tls"), ALPN: flow.Absent[string](),
			}
			if c.sni != "" {
				want.SNI = flow.Some(c.sni)
			}
			if got[0].Flow.RTT.Unknown() {
				t.Error("no round-trip time")
			}
			got[0].Flow.RTT = flow.Value[int64]{}
			if got[0].Kind != inspector.Name || got[0].Flow != want || got[0].Source != "afpacket" {
				t.Errorf("got %+v", got[0])
			}
		})
	}
	for _, network := range []string{"udp", "tcp"} {
		ask(t, client, network, "192.0.2.9:53", "over-"+network+".example.")
		var answers []inspector.Event
		for _, e := range quiet(t, events) {
			if e.Kind == inspector.Answered {
				answers = append(answers, e)
			}
		}
		if len(answers) != 1 || answers[0].Answer.Name != "over-"+network+".example" || answers[0].Answer.TTL != 90*time.Second ||
			len(answers[0].Answer.Addrs) != 1 || answers[0].Answer.Addrs[0] != netip.MustParseAddr("198.51.100.7") {
			t.Errorf("%s: %+v", network, answers)
		}
	}
}

// TestRoundTrips: what a server says before its client does, or over UDP, is measured
// too, and told within a second or two.
func TestRoundTrips(t *testing.T) {
	client, server := router(t)
	server.Serve(t, "[::]:25", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	serveDNS(t, server, "192.0.2.9:53")
	events := start(t, New(Options{}))
	expect := func(local net.Addr) {
		t.Helper()
		for e := range events {
			rtt, known := e.Flow.RTT.Get()
			src, _ := e.Flow.Src.Get()
			port, _ := e.Flow.SrcPort.Get()
			if !known || netip.AddrPortFrom(src, port).String() != local.String() {
				continue
			}
			if e.Kind != inspector.Update || e.Stats.RTT.Microseconds() != rtt || e.Flow.IfaceIn != flow.Some("lan") {
				t.Errorf("%+v", e)
			}
			return
		}
	}
	for _, addr := range []string{"192.0.2.9:25", "[2001:db8:2::9]:25"} {
		expect(dial(t, client, "tcp", addr).LocalAddr())
	}
	c := dial(t, client, "udp", "192.0.2.9:53")
	exchange(t, c, "udp", "measured.example.")
	expect(c.LocalAddr())
}

// TestArrived reads the times that the kernel gives.
func TestArrived(t *testing.T) {
	now := time.Now()
	control := func(at time.Time) []byte {
		b := make([]byte, unix.CmsgSpace(16))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		h.Level, h.Type = unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW
		h.SetLen(unix.CmsgLen(16))
		binary.NativeEndian.PutUint64(b[unix.CmsgLen(0):], uint64(at.Unix()))
		binary.NativeEndian.PutUint64(b[unix.CmsgLen(8):], uint64(at.Nanosecond()))
		return b
	}
	for _, c := range []struct {
		name string
		oob  []byte
		want time.Duration // before now
	}{
		{"just now", control(now), 0},
		{"a while ago", control(now.Add(-30 * time.Millisecond)), 30 * time.Millisecond},
		{"the clock was set forward", control(now.Add(-time.Hour)), 0},
		{"the clock was set back", control(now.Add(time.Hour)), 0},
		{"none", nil, 0},
		{"cut", control(now.Add(-time.Second))[:unix.CmsgLen(8)], 0},
		{"something else", unix.UnixRights(1), 0},
	} {
		if got := now.Sub(arrived(c.oob, now)); got != c.want {
			t.Errorf("%s: %v ago", c.name, got)
		}
	}
}

// TestQUIC sends a hello in two datagrams through the router.
func TestQUIC(t *testing.T) {
	client, server := router(t)
	server.Do(t, func() {
		sink, err := net.ListenPacket("udp", "[::]:8443")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = sink.Close() })
	})
	events := start(t, New(Options{}))
	hello, err := quictest.Hello(&tls.Config{ServerName: "quic.example", NextProtos: []string{"h3"}})
	if err != nil {
		t.Fatal(err)
	}
	id := []byte("12345678")
	for _, addr := range []string{"192.0.2.9:8443", "[2001:db8:2::9]:8443"} {
		c := dial(t, client, "udp", addr)
		for i, part := range [][2]int{{0, 900}, {900, len(hello)}} {
			b := quictest.V1.Initial(id, id, byte(i), quictest.Crypto(part[0], hello[part[0]:part[1]]))
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		got := quiet(t, events)
		if len(got) != 1 || got[0].Flow.SNI != flow.Some("quic.example") || got[0].Flow.App != flow.Some("quic") ||
			got[0].Flow.ALPN != flow.Some("h3") || got[0].Flow.IfaceIn != flow.Some("lan") {
			t.Errorf("%s: %+v", addr, got)
		}
		_ = c.Close()
	}
}

// TestUnasked sends an answer that nobody asked for.
func TestUnasked(t *testing.T) {
	client, server := router(t)
	_ = client
	s := New(Options{})
	events := start(t, s)
	var q dnsmessage.Message
	q.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("bank.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var c net.Conn
	server.Do(t, func() {
		d := net.Dialer{LocalAddr: &net.UDPAddr{Port: 53}}
		c, err = d.Dial("udp", "192.0.2.1:40000")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(answer(b)); err != nil {
		t.Fatal(err)
	}
	if got := quiet(t, events); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestLocal watches connections from here, on lo and out.
func TestLocal(t *testing.T) {
	_, server := router(t)
	serveTLS(t, server, "192.0.2.9:443")
	serveTLS(t, nstest.Here(t), "127.0.0.1:443")
	events := start(t, New(Options{}))
	for _, addr := range []string{"192.0.2.9:443", "127.0.0.1:443"} {
		c := dial(t, nstest.Here(t), "tcp", addr)
		handshake(t, c, "local.example")
		_ = c.Close()
		got := quiet(t, events)
		if len(got) != 1 || got[0].Flow.SNI != flow.Some("local.example") || !got[0].Flow.IfaceIn.Unknown() {
			t.Errorf("%s: %+v", addr, got)
		}
	}
}

// TestBridge takes the bridge for the interface that a packet came in by.
func TestBridge(t *testing.T) {
	client, server := router(t)
	here := nstest.Here(t)
	here.Run(t, "", "ip", "addr", "flush", "dev", "lan")
	here.Run(t, "", "ip", "link", "set", "lan", "master", "br0")
	here.Run(t, "", "ip", "addr", "add", "10.0.0.1/24", "dev", "br0")
	serveTLS(t, server, "192.0.2.9:443")
	events := start(t, New(Options{}))
	c := dial(t, client, "tcp", "192.0.2.9:443")
	handshake(t, c, "bridged.example")
	if got := quiet(t, events); len(got) != 1 || got[0].Flow.IfaceIn != flow.Some("br0") {
		t.Errorf("%+v", got)
	}
}

// TestUpload expects that a long upload stops coming to user space.
func TestUpload(t *testing.T) {
	client, server := router(t)
	serveTLS(t, server, "192.0.2.9:443")
	s := New(Options{})
	events := start(t, s)
	conn := dial(t, client, "tcp", "192.0.2.9:443")
	up := handshake(t, conn, "upload.example")
	for s.Counters.Shed.Load() == 0 {
		if _, err := up.Write(make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if got := quiet(t, events); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	// Both copies, before and after NAT, are left out in the end.
	for s.Counters.Shed.Load() < 2 {
		if _, err := up.Write(make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
	}
	quiet(t, events)
	before := s.Counters.Packets.Load()
	for range 500 {
		if _, err := up.Write(make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
	}
	quiet(t, events)
	if n := s.Counters.Packets.Load() - before; n > 100 {
		t.Errorf("%d packets of the upload came through", n)
	}
}
