//go:build amd64 || arm64

package ebpf

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
	"netpolicy.dev/netpolicy/internal/nstest"
)

// greet sends a ClientHello and hangs up; protocols make it longer.
func greet(t testing.TB, addr, name string, protocols ...string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	// The server answers by closing: only the first flight is wanted.
	_ = tls.Client(c, &tls.Config{ServerName: name, NextProtos: protocols, InsecureSkipVerify: true}).Handshake() // #nosec
	_ = c.Close()
}

func readOnce(c net.Conn) { _, _ = io.ReadAtLeast(c, make([]byte, 32<<10), 1) }

func named(name string) func(*inspector.Event) bool {
	return func(e *inspector.Event) bool { return e.Flow.SNI == flow.Some(name) }
}

func TestNames(t *testing.T) {
	here, peer := pair(t)
	var seen log
	src, _ := start(t, Options{}, seen.emit)
	peer.Serve(t, "192.0.2.2:443", readOnce)
	peer.Serve(t, "[2001:db8::2]:443", readOnce)
	here.Serve(t, "192.0.2.1:443", readOnce)
	long := make([]string, 50)
	for i := range long {
		long[i] = strings.Repeat("x", 100)
	}
	greet(t, "192.0.2.2:443", "four.example")
	greet(t, "[2001:db8::2]:443", "six.example")
	greet(t, "192.0.2.2:443", "long.example", long...)
	peer.Do(t, func() { greet(t, "192.0.2.1:443", "accepted.example") })
	for _, name := range []string{"four.example", "six.example", "long.example", "accepted.example"} {
		wait(t, func() bool { return len(seen.all(inspector.Name, named(name))) == 1 })
	}
	e := seen.all(inspector.Name, named("accepted.example"))[0]
	if e.Flow.Src != flow.Some(netip.MustParseAddr("192.0.2.2")) || e.Flow.IfaceIn != flow.Some("veth") {
		t.Errorf("%+v", e.Flow)
	}
	// What has no name is told to have none, and an upload is not copied.
	peer.Serve(t, "192.0.2.2:22", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	before := src.Counters.Copies.Load()
	c, err := net.Dial("tcp", "192.0.2.2:22")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := c.Write([]byte("SSH-2.0-test\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, func() bool {
		return len(seen.all(inspector.Name, func(e *inspector.Event) bool {
			return e.Flow.DstPort == flow.Some(uint16(22)) && e.Flow.SNI.Status() == flow.None
		})) == 1
	})
	_ = c.Close()
	if n := src.Counters.Copies.Load() - before; n > 1 {
		t.Errorf("%d packets were copied of a connection without names", n)
	}
}

// resolver answers every question with one address.
func resolver(t testing.TB, ns *nstest.NS, addr string) {
	t.Helper()
	l := ns.ListenPacket(t, "udp", addr)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			m.Response = true
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{203, 0, 113, 9}},
			}}
			answer, err := m.Pack()
			if err == nil {
				_, _ = l.WriteTo(answer, from)
			}
		}
	}()
}

func ask(t testing.TB, server, name string) {
	t.Helper()
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	m.ID = 77
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1500)); err != nil {
		t.Fatal(err)
	}
}

func answered(name string) func(*inspector.Event) bool {
	return func(e *inspector.Event) bool {
		return e.Answer.Name == name && slices.Equal(e.Answer.Addrs, []netip.Addr{netip.MustParseAddr("203.0.113.9")})
	}
}

// initial is as large as a QUIC client's first packet, and begins like one.
func initial() []byte {
	b := make([]byte, initialSize)
	b[0], b[4] = 0xc3, 1 // long header, Initial; version 1
	return b
}

const initialSize = 1200

func TestAnswersAndInitials(t *testing.T) {
	_, peer := pair(t)
	var seen log
	src, _ := start(t, Options{}, seen.emit)
	resolver(t, peer, "192.0.2.2:53")
	learn := func(name string) {
		ask(t, "192.0.2.2:53", name)
		wait(t, func() bool { return len(seen.all(inspector.Answered, answered(name))) == 1 })
	}
	learn("a.example")
	each := src.Counters.Copies.Load() // of a question and its answer
	c, err := net.Dial("udp", "192.0.2.2:443")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range 20 {
		_, _ = c.Write(initial())
		_, _ = c.Write([]byte("short header"))
	}
	learn("b.example") // behind it in the ring
	if n := src.Counters.Copies.Load() - 2*each; n != 6 {
		t.Errorf("%d Initials were copied", n)
	}
}

// TestQUICName reads a name from a post-quantum hello over two Initials.
func TestQUICName(t *testing.T) {
	_, peer := pair(t)
	var seen log
	start(t, Options{}, seen.emit)
	// Without it the second packet meets an ICMP error.
	l := peer.ListenPacket(t, "udp", "192.0.2.2:443")
	defer func() { _ = l.Close() }()
	hello, err := quictest.Hello(&tls.Config{ServerName: "quic.example", NextProtos: []string{"h3"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", "192.0.2.2:443")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	id := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	for i, part := range [][]byte{hello[:1000], hello[1000:]} {
		frames := append(quictest.Crypto(i*1000, part), make([]byte, 1250-len(part))...)
		_, _ = c.Write(quictest.V1.Initial(id, id, byte(i), frames))
	}
	wait(t, func() bool { return len(seen.all(inspector.Name, named("quic.example"))) == 1 })
}

// TestForwarded is a router between two others.
func TestForwarded(t *testing.T) {
	nstest.Need(t)
	here, lan, wan := nstest.Here(t), nstest.New(t), nstest.New(t)
	nstest.Link(t, here, "lan0", lan, "eth0", "192.0.2.1/24", "192.0.2.2/24")
	nstest.Link(t, here, "wan0", wan, "eth0", "198.51.100.1/24", "198.51.100.2/24")
	t.Cleanup(func() {
		here.Run(t, "", "ip", "link", "delete", "lan0")
		here.Run(t, "", "ip", "link", "delete", "wan0")
	})
	here.Set(t, "net/ipv4/ip_forward", "1")
	lan.Run(t, "", "ip", "route", "add", "default", "via", "192.0.2.1")
	wan.Run(t, "", "ip", "route", "add", "default", "via", "198.51.100.1")
	var seen log
	src, _ := start(t, Options{Ifaces: []string{"lan0", "wan0"}}, seen.emit)
	wan.Serve(t, "198.51.100.2:443", readOnce)
	resolver(t, wan, "198.51.100.2:53")
	lan.Do(t, func() {
		greet(t, "198.51.100.2:443", "through.example", strings.Repeat("y", 200), strings.Repeat("z", 200))
		ask(t, "198.51.100.2:53", "b.example")
	})
	wait(t, func() bool { return len(seen.all(inspector.Name, named("through.example"))) == 1 })
	wait(t, func() bool { return len(seen.all(inspector.Answered, answered("b.example"))) == 1 })
	e := seen.all(inspector.Name, named("through.example"))[0]
	if e.Flow.IfaceIn != flow.Some("lan0") || e.Flow.Src != flow.Some(netip.MustParseAddr("192.0.2.2")) {
		t.Errorf("%+v", e.Flow)
	}
	before := src.Counters.Copies.Load()
	lan.Do(t, func() {
		c, err := net.Dial("udp", "198.51.100.2:443")
		if err != nil {
			t.Error(err)
			return
		}
		for range 20 {
			_, _ = c.Write(initial())
		}
		_ = c.Close()
		ask(t, "198.51.100.2:53", "c.example") // behind them in the ring
	})
	wait(t, func() bool { return len(seen.all(inspector.Answered, answered("c.example"))) == 1 })
	if n := src.Counters.Copies.Load() - before - 2; n != 6 { // without a question and its answer
		t.Errorf("%d Initials were copied", n)
	}
	if n := len(seen.all(inspector.Open, nil)); n != 0 {
		t.Errorf("%d connections are told that are not this host's", n)
	}
}
