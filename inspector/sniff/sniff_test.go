package sniff

import (
	"bytes"
	"crypto/ecdh"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
)

var (
	noon   = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	client = netip.MustParseAddrPort("10.0.0.5:40000")
	server = netip.MustParseAddrPort("192.0.2.9:443")
)

// hello is the ClientHello of crypto/tls for a name; "" for none.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	return helloOf(t, &tls.Config{ServerName: name, InsecureSkipVerify: true}) // #nosec: only the first flight is used
}

func helloOf(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(a, c).Handshake()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	<-done
	return append(head, body...)
}

// line is a TCP connection under test.
type line struct{ seq, ack uint32 }

func (l *line) segment(up bool, flags packet.Flags, data string) packet.Packet {
	p := packet.Packet{
		Proto: flow.TCP, Src: client, Dst: server, HasPorts: true, Flags: flags, Seq: l.seq,
		Payload: []byte(data), Length: len(data), Size: 40 + len(data),
	}
	n := &l.seq
	if !up {
		p.Src, p.Dst, p.Seq = server, client, l.ack
		n = &l.ack
	}
	*n += uint32(len(data))
	if flags&(packet.SYN|packet.FIN) != 0 {
		*n++
	}
	return p
}

// open returns a line and its handshake.
func open() (*line, []packet.Packet) {
	l := &line{seq: 0xffffff00, ack: 77} // the sequence number wraps
	return l, []packet.Packet{l.segment(true, packet.SYN, ""), l.segment(false, packet.SYN|packet.ACK, ""), l.segment(true, packet.ACK, "")}
}

// run feeds packets a millisecond apart and returns events as short text.
func run(opt Options, packets ...packet.Packet) []string {
	var out []string
	s := New("test", opt, func(e inspector.Event) { out = append(out, text(e)) })
	at := noon
	for _, p := range packets {
		s.Packet(p, at, "")
		at = at.Add(time.Millisecond)
	}
	s.Flush(at)
	return out
}

func text(e inspector.Event) string {
	if e.Kind == inspector.Answered {
		return fmt.Sprintf("answer %s %v %v", e.Answer.Name, e.Answer.Addrs, e.Answer.TTL)
	}
	f := e.Flow
	f.DSCP = flow.Value[uint8]{}
	return e.Kind.String() + " " + string(f.AppendJSON(nil))
}

const (
	up   = `{"proto":"tcp","src":"10.0.0.5:40000","dst":"192.0.2.9:443"`
	zoom = "name " + up + `,"sni":"us01.zoom.us","http_host":null,"app":"tls","alpn":null}`
	none = "name " + up + `,"sni":null,"http_host":null,"app":null,"alpn":null}`
)

// app is the event of a connection whose protocol alone is known.
func app(name string) string {
	return "name " + up + `,"sni":null,"http_host":null,"app":"` + name + `","alpn":null}`
}

func parts(b []byte, n int) []string {
	var out []string
	for p := range slices.Chunk(b, n) {
		out = append(out, string(p))
	}
	return out
}

func TestNames(t *testing.T) {
	whole := string(hello(t, "us01.zoom.us"))
	l, syn := open()
	with := func(segments ...packet.Packet) []packet.Packet { return append(slices.Clone(syn), segments...) }
	say := func(data ...string) []packet.Packet {
		m := *l
		var out []packet.Packet
		for _, d := range data {
			out = append(out, m.segment(true, packet.PSH|packet.ACK, d))
		}
		return out
	}
	split := say(parts([]byte(whole), 100)...)
	turned := slices.Clone(split)
	slices.Reverse(turned)
	for _, c := range []struct {
		name    string
		packets []packet.Packet
		want    []string
	}{
		{"whole", with(say(whole)...), []string{zoom}},
		{"split", with(split...), []string{zoom}},
		{"split, backwards", with(turned...), []string{zoom}},
		{"split, twice", with(append(slices.Clone(split), split...)...), []string{zoom}},
		{"without the handshake", say(whole), []string{zoom}},
		{"without the handshake, backwards", turned[len(turned)-10:], []string{zoom}},
		{"no name", with(say(string(hello(t, "")))...), []string{app("tls")}},
		{"ssh", with(say("SSH-2.0-x\r\n")...), []string{app("ssh")}},
		{"ssh without the handshake", say("SSH-2.0-x\r\n"), []string{app("ssh")}},
		{"bittorrent", with(say("\x13BitTor", "rent protocol")...), []string{app("bittorrent")}},
		{"something else", with(say("\x7f\x80hello")...), []string{none}},
		{"something else without the handshake", say("\x7f\x80hello"), nil},
		{"padding before", with(append([]packet.Packet{{
			Proto: flow.TCP, Src: client, Dst: server, HasPorts: true, Flags: packet.ACK, Seq: l.seq, Payload: make([]byte, 6), Size: 46,
		}}, say(whole)...)...), []string{zoom}},
		{"hello that never ends", with(say(whole[:60])...), []string{none}},
		{"the server speaks first", with(append([]packet.Packet{func() packet.Packet { m := *l; return m.segment(false, packet.ACK, "220 hi\r\n") }()}, say(whole)...)...), []string{zoom}},
		{
			"http", with(say("GET / HTTP/1.1\r\nAccept: x\r\nhOst: ", "WWW.Example:8080\r\n\r\n")...),
			[]string{"name " + up + `,"sni":null,"http_host":"www.example","app":"http","alpn":null}`},
		},
		{"http without host", with(say("GET / HTTP/1.0\r\n\r\n")...), []string{app("http")}},
		{"connect", with(say("CONNECT a.example:443 HTTP/1.1\r\n")...), []string{"name " + up + `,"sni":null,"http_host":"a.example","app":"http","alpn":null}`}},
		{"http to an address", with(say("GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n")...), []string{"name " + up + `,"sni":null,"http_host":"","app":"http","alpn":null}`}},
		{"nearly http", with(say("GET it now\r\n")...), []string{none}},
		{"second copy of a forwarded packet", with(append(say(whole), func() []packet.Packet {
			var nat []packet.Packet
			for _, p := range with(say(whole)...) {
				if p.Src == client {
					p.Src = netip.MustParseAddrPort("198.51.100.2:61000")
					nat = append(nat, p)
				}
			}
			return nat
		}()...)...), []string{zoom}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, run(Options{}, c.packets...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAnyOrder delivers a hello's segments shuffled, with repeats.
func TestAnyOrder(t *testing.T) {
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed))
	whole := hello(t, "us01.zoom.us")
	for range 300 {
		l, syn := open()
		var segments []packet.Packet
		for _, part := range parts(whole, 110+random.IntN(400)) {
			p := l.segment(true, packet.ACK, part)
			segments = append(segments, p)
			if random.IntN(3) == 0 {
				segments = append(segments, p)
			}
		}
		random.Shuffle(len(segments), func(i, j int) { segments[i], segments[j] = segments[j], segments[i] })
		if got := run(Options{}, append(syn, segments...)...); !slices.Equal(got, []string{zoom}) {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

func TestRecorded(t *testing.T) {
	l, packets := open()
	packets = append(packets, l.segment(true, packet.PSH|packet.ACK, string(hello(t, "us01.zoom.us"))),
		l.segment(false, packet.ACK, "x"), l.segment(true, packet.FIN|packet.ACK, ""), l.segment(false, packet.FIN|packet.ACK, ""))
	again := line{seq: 9, ack: 9}
	packets = append(packets, again.segment(true, packet.SYN, "")) // the same ends once more
	want := []string{
		"open " + up + "}",
		"update " + up + `,"rtt_ms":2}`,
		"name " + up + `,"sni":"us01.zoom.us","http_host":null,"rtt_ms":2,"app":"tls","alpn":null}`,
		"close " + up + `,"sni":"us01.zoom.us","http_host":null,"rtt_ms":2,"app":"tls","alpn":null}`,
		"open " + up + "}",
		"close " + up + "}",
	}
	if diff := cmp.Diff(want, run(Options{Recorded: true}, packets...)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// message builds a question, or with an address its answer.
func message(t *testing.T, id uint16, name, addr string) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: addr != ""},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	if addr != "" {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()},
		}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func udp(src, dst netip.AddrPort, data []byte) packet.Packet {
	return packet.Packet{Proto: flow.UDP, Src: src, Dst: dst, HasPorts: true, Payload: data, Length: len(data)}
}

func TestAnswers(t *testing.T) {
	resolver := netip.MustParseAddrPort("192.0.2.53:53")
	wan := netip.MustParseAddrPort("198.51.100.2:61000")
	ask, tell := message(t, 7, "a.example.", ""), message(t, 7, "a.example.", "192.0.2.1")
	const want = "answer a.example [192.0.2.1] 1m0s"
	const asked = `name {"proto":"udp","src":"10.0.0.5:40000","dst":"192.0.2.53:53","sni":null,"http_host":null,"app":"dns","alpn":null}`
	for _, c := range []struct {
		name     string
		recorded bool
		packets  []packet.Packet
		want     []string
	}{
		{"asked and told", false, []packet.Packet{udp(client, resolver, ask), udp(resolver, client, tell)}, []string{asked, want}},
		{"forwarded through NAT: four copies", false, []packet.Packet{
			udp(client, resolver, ask), udp(wan, resolver, ask), udp(resolver, wan, tell), udp(resolver, client, tell),
		}, []string{asked, want}},
		{"not asked", false, []packet.Packet{udp(resolver, client, tell)}, nil},
		{"another id", false, []packet.Packet{udp(client, resolver, ask), udp(resolver, client, message(t, 8, "a.example.", "192.0.2.1"))}, []string{asked}},
		{"another name", false, []packet.Packet{udp(client, resolver, ask), udp(resolver, client, message(t, 7, "b.example.", "192.0.2.1"))}, []string{asked}},
		{"another server", false, []packet.Packet{udp(client, resolver, ask), udp(netip.MustParseAddrPort("192.0.2.54:53"), client, tell)}, []string{asked}},
		{"a capture of one side", true, []packet.Packet{udp(resolver, client, tell)}, []string{
			`open {"proto":"udp","src":"10.0.0.5:40000","dst":"192.0.2.53:53"}`, want, `close {"proto":"udp","src":"10.0.0.5:40000","dst":"192.0.2.53:53"}`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, run(Options{Recorded: c.recorded}, c.packets...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestQUIC reads hellos of crypto/tls off QUIC.
func TestQUIC(t *testing.T) {
	msg, err := quictest.Hello(&tls.Config{ServerName: "us01.zoom.us", NextProtos: []string{"h3"}})
	if err != nil {
		t.Fatal(err)
	}
	id := []byte("12345678")
	initial := func(number, from, to int) []byte {
		return quictest.V1.Initial(id, id, byte(number), quictest.Crypto(from, msg[from:to]))
	}
	one, two := initial(0, 0, 900), initial(1, 900, len(msg))
	const ends = `{"proto":"udp","src":"10.0.0.5:40000","dst":"192.0.2.9:443"`
	const want = "name " + ends + `,"sni":"us01.zoom.us","http_host":null,"app":"quic","alpn":"h3"}`
	const nothing = "name " + ends + `,"sni":null,"http_host":null,"app":"quic","alpn":null}`
	other := func(name string) string {
		return "name " + ends + `,"sni":null,"http_host":null,"app":` + name + `,"alpn":null}`
	}
	up := func(data ...[]byte) (list []packet.Packet) {
		for _, d := range data {
			list = append(list, udp(client, server, d))
		}
		return list
	}
	wan := netip.MustParseAddrPort("198.51.100.2:61000")
	for _, c := range []struct {
		name     string
		recorded bool
		packets  []packet.Packet
		want     []string
	}{
		{"in two", false, up(one, two), []string{want}},
		{"in two, backwards", false, up(two, one), []string{want}},
		{"with an answer between", false, append(append(up(one), udp(server, client, []byte("\xc3\x00\x00\x00\x01\x00\x08abcdefgh"))), up(two)...), []string{want}},
		{"half of it", false, up(two), nil},
		{"half of it, recorded", true, up(two), []string{"open " + ends + "}", nothing, "close" + strings.TrimPrefix(nothing, "name")}},
		{"through NAT", false, []packet.Packet{
			udp(client, server, one), udp(wan, server, one), udp(client, server, two), udp(wan, server, two),
		}, []string{want}},
		{"recorded", true, up(one, two), []string{"open " + ends + "}", want, "close" + strings.TrimPrefix(want, "name")}},
		{"WireGuard", false, up(append([]byte{1, 0, 0, 0}, make([]byte, 144)...)), []string{other(`"wireguard"`)}},
		{"something else", false, up([]byte("hello, world"), []byte("hello, world")), nil},
		{"a server's, behind NAT", false, []packet.Packet{udp(netip.AddrPortFrom(server.Addr(), 8443), wan, []byte("\xc3\x00\x00\x00\x01\x00\x08abcdefgh"))}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, run(Options{Recorded: c.recorded}, c.packets...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestMissed is for a hello of which a segment was never seen: the server's
// answer shows that there is no more to wait for.
func TestMissed(t *testing.T) {
	b := string(hello(t, "us01.zoom.us"))
	l, packets := open()
	packets = append(packets, l.segment(true, packet.ACK, b[:len(b)-50]))
	l.seq += 50
	packets = append(packets, l.segment(false, packet.ACK, "\x16\x03\x03"))
	var out []string
	s := New("test", Options{}, func(e inspector.Event) { out = append(out, text(e)) })
	for _, p := range packets {
		s.Packet(p, noon, "")
	}
	if !slices.Equal(out, []string{zoom}) || s.Counters.Partial != 1 {
		t.Errorf("%q, %+v", out, s.Counters)
	}
}

// TestECH expects the mark beside the outer name.
func TestECH(t *testing.T) {
	key, err := ecdh.X25519().GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	// An ECHConfigList of one (RFC 9849, 4): X25519, HKDF-SHA256, AES-128-GCM.
	config := append([]byte{1, 0, 32, 0, 32}, key.PublicKey().Bytes()...)
	config = append(config, 0, 4, 0, 1, 0, 1, 0, 12)
	config = append(config, "outer.secret"...)
	config = append(config, 0, 0)
	list := binary.BigEndian.AppendUint16(nil, uint16(4+len(config)))
	list = append(list, 0xfe, 0x0d)
	list = append(binary.BigEndian.AppendUint16(list, uint16(len(config))), config...)
	b := helloOf(t, &tls.Config{ServerName: "inner.example", EncryptedClientHelloConfigList: list, MinVersion: tls.VersionTLS13})
	l, packets := open()
	packets = append(packets, l.segment(true, packet.ACK, string(b)))
	var got []inspector.Event
	s := New("test", Options{}, func(e inspector.Event) { got = append(got, e) })
	for _, p := range packets {
		s.Packet(p, noon, "")
	}
	if len(got) != 1 || !got[0].ECH || got[0].Flow.SNI != flow.Some("outer.secret") {
		t.Errorf("%+v", got)
	}
}

// TestDetails: who asks for them gets the hello's, and answers without addresses.
func TestDetails(t *testing.T) {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeHTTPS, Class: dnsmessage.ClassINET}
	service := dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName(".")}
	service.SetParam(dnsmessage.SVCParamALPN, []byte("\x02h3\x02h2"))
	m := dnsmessage.Message{
		Header: dnsmessage.Header{Response: true}, Questions: []dnsmessage.Question{question},
		Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: question.Class, TTL: 60}, Body: &dnsmessage.HTTPSResource{SVCBResource: service},
		}},
	}
	services, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	l, packets := open()
	packets = append(packets, l.segment(true, packet.ACK, string(hello(t, "us01.zoom.us"))))
	resolver := netip.MustParseAddrPort("192.0.2.53:53")
	packets = append(packets, udp(resolver, client, services), udp(resolver, client, message(t, 7, "none.example.", "0.0.0.0")[:12]))
	for _, details := range []bool{false, true} {
		var names, answers []inspector.Event
		s := New("test", Options{Recorded: true, Details: details}, func(e inspector.Event) {
			switch e.Kind {
			case inspector.Name:
				names = append(names, e)
			case inspector.Answered:
				answers = append(answers, e)
			}
		})
		for _, p := range packets {
			s.Packet(p, noon, "")
		}
		switch {
		case len(names) != 1 || names[0].Flow.SNI != flow.Some("us01.zoom.us"):
			t.Fatalf("details %v: %+v", details, names)
		case !details && (names[0].Hello != nil || answers != nil):
			t.Errorf("not asked for: %+v %+v", names[0].Hello, answers)
		case details && (names[0].Hello == nil || names[0].Hello.TLS != "1.3" || !strings.HasPrefix(names[0].Hello.JA4, "t13d")):
			t.Errorf("%+v", names[0].Hello)
		case details && (len(answers) != 1 || answers[0].Answer.ALPN != "h3,h2" || answers[0].Answer.Addrs != nil):
			t.Errorf("%+v", answers)
		}
	}
}

func TestAnswersOverTCP(t *testing.T) {
	l, packets := open()
	var stream []byte
	for i := range 3 {
		m := message(t, uint16(i), fmt.Sprintf("n%d.example.", i), "192.0.2.1")
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(m))), m...)
	}
	for _, part := range parts(stream, 30) {
		packets = append(packets, l.segment(false, packet.ACK, part))
	}
	for i := range packets {
		for _, end := range []*netip.AddrPort{&packets[i].Src, &packets[i].Dst} {
			if *end == server {
				*end = netip.AddrPortFrom(server.Addr(), 53)
			}
		}
	}
	got := run(Options{}, packets...)
	if len(got) != 3 || !strings.HasPrefix(got[2], "answer n2.example") {
		t.Errorf("%q", got)
	}
	// Without the beginning anybody could have sent it.
	if got := run(Options{}, packets[3:]...); len(got) != 0 {
		t.Errorf("midstream: %q", got)
	}
}

// TestBounds floods a small sniffer; what it holds stays within its bounds.
func TestBounds(t *testing.T) {
	s := New("test", Options{MaxFlows: 50, MaxBuffered: 10_000}, func(inspector.Event) {})
	part := hello(t, "us01.zoom.us")[:80]
	for i := range 2000 {
		l, packets := open()
		src := netip.AddrPortFrom(client.Addr(), uint16(i))
		packets = append(packets, l.segment(true, packet.ACK, string(part)))
		l.seq += 5000
		packets = append(packets, l.segment(true, packet.ACK, string(bytes.Repeat([]byte("x"), 1000))))
		for _, p := range packets {
			if p.Src == client {
				p.Src = src
				p.Seq += uint32(i)
				s.Packet(p, noon, "")
			}
		}
		if len(s.conns) > 50 || s.buffered > 10_000 || s.buffered < 0 {
			t.Fatalf("after %d: %d connections, %d bytes", i, len(s.conns), s.buffered)
		}
		id := binary.BigEndian.AppendUint64(nil, uint64(i))
		s.Packet(udp(src, server, quictest.V1.Initial(id, id, 0, quictest.Crypto(0, part[5:]))), noon, "")
		l2 := netip.AddrPortFrom(server.Addr(), 53)
		s.Packet(udp(src, l2, message(t, uint16(i), "a.example.", "")), noon, "")
	}
	s.Flush(noon)
	if s.buffered != 0 || len(s.conns) != 0 {
		t.Errorf("%d bytes, %d connections after Flush", s.buffered, len(s.conns))
	}
	if s.Counters.Evicted == 0 || s.Counters.Overflow == 0 {
		t.Errorf("the bounds were not met: %+v", s.Counters)
	}
}

// TestLost counts the segments out of order that are too many.
func TestLost(t *testing.T) {
	s := New("test", Options{}, func(inspector.Event) {})
	l, packets := open()
	for range maxSegments + 3 {
		l.seq += 10 // a gap before each
		packets = append(packets, l.segment(true, packet.ACK, "x"))
	}
	for _, p := range packets {
		s.Packet(p, noon, "")
	}
	if s.Flush(noon); s.Counters.Lost != 3 {
		t.Errorf("%+v", s.Counters)
	}
}

func TestTick(t *testing.T) {
	_, packets := open()
	s := New("test", Options{Idle: time.Second}, func(inspector.Event) {})
	for _, p := range packets {
		s.Packet(p, noon, "")
	}
	s.Tick(noon.Add(time.Second))
	if len(s.conns) != 1 {
		t.Error("forgotten too soon")
	}
	s.Tick(noon.Add(time.Second + 1))
	if len(s.conns) != 0 {
		t.Error("not forgotten")
	}
}
