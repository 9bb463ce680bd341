package sniff

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
)

// sight is a packet as a gateway sees it, so many milliseconds after noon; in is the
// interface that it comes in by, "" for one that leaves.
type sight struct {
	ms int
	in string
	p  packet.Packet
}

// wan is the gateway's own address, behind which it hides its clients.
var wan = netip.MustParseAddrPort("198.51.100.2:61000")

// forwarded makes the sights of packets that go through the gateway, each with the
// millisecond before it: as it comes in, and as it leaves at once.
func forwarded(list ...any) (out []sight) {
	for i := 0; i < len(list); i += 2 {
		ms, p := list[i].(int), list[i+1].(packet.Packet)
		in := "wan"
		if p.Src == client {
			in = "lan"
		}
		out = append(out, sight{ms, in, p}, sight{ms, "", p})
	}
	return out
}

// translated hides the client on the far side.
func translated(x sight) sight {
	switch {
	case x.in == "" && x.p.Src == client:
		x.p.Src = wan
	case x.in == "wan" && x.p.Dst == client:
		x.p.Dst = wan
	}
	return x
}

func TestRoundTrips(t *testing.T) {
	l, shake := open()
	syn, answer := shake[0], shake[1]
	answer.Ack = syn.Seq + 1
	whole := l.segment(true, packet.PSH|packet.ACK, string(hello(t, "us01.zoom.us")))
	with := func(p packet.Packet, change func(*packet.Packet)) packet.Packet {
		change(&p)
		return p
	}
	initial := func(from byte, n int, size int) []byte {
		id := []byte{from, 2, 3, 4, 5, 6, 7, 8}
		return quictest.V1.Initial(id, id, byte(n), quictest.Crypto(0, make([]byte, size)))
	}
	asks := udp(client, server, initial(1, 0, 300))
	told := udp(server, client, initial(9, 0, 200))
	resolver := netip.MustParseAddrPort("192.0.2.53:53")
	question := udp(client, resolver, message(t, 7, "a.example.", ""))
	reply := udp(resolver, client, message(t, 7, "a.example.", "192.0.2.1"))
	none := message(t, 7, "a.example.", "192.0.2.1")[:12+len("\x01a\x07example\x00")+4] // an answer without addresses
	none[7] = 0
	for _, c := range []struct {
		name  string
		local bool // the client is this host
		sent  []sight
		want  string // the round trips told, and by which kind of event
	}{
		{"TCP", false, forwarded(0, syn, 25, answer), "update 25"},
		{"takes the name along", false, forwarded(0, syn, 25, answer, 26, whole), "name 25"},
		{"answered twice", false, forwarded(0, syn, 25, answer, 30, answer), "update 25"},
		{"asked twice", false, forwarded(0, syn, 200, syn, 225, answer), ""},
		{"asked twice, the first was slow", false, forwarded(0, syn, 200, syn, 201, answer, 225, answer), ""},
		{"asked again later", false, forwarded(0, syn, 25, answer, 200, syn, 225, answer), "update 25"},
		{"too late to tell from a repeated answer", false, forwarded(0, syn, 1000, answer), ""},
		{"no answer", false, forwarded(0, syn), ""},
		{"refused", false, forwarded(0, syn, 25, with(answer, func(p *packet.Packet) { p.Flags = packet.RST | packet.ACK })), ""},
		{"an answer to something else", false, forwarded(0, syn, 25, with(answer, func(p *packet.Packet) { p.Ack++ })), ""},
		{"the same ends again", false, forwarded(0, syn, 25, answer, 400, with(syn, func(p *packet.Packet) { p.Seq += 5000 }),
			440, with(answer, func(p *packet.Packet) { p.Ack += 5000 })), "update 25, update 40"},
		{"data in the SYN", false, forwarded(0, with(syn, func(p *packet.Packet) { p.Payload = []byte("\x7f\x80hello") }),
			25, with(answer, func(p *packet.Packet) { p.Ack += 7 })), "update 25"},
		{"TCP of this host", true, forwarded(0, syn, 25, answer), ""},
		{"on a bridge and its port", false, []sight{{0, "lan", syn}, {0, "br0", syn}, {0, "", syn}, {25, "wan", answer}, {25, "", answer}, {25, "", answer}}, "update 25"},
		{"answered by this host", false, []sight{{0, "lan", syn}, {1, "", answer}}, ""},
		{"relayed", false, []sight{
			{0, "lan", syn},
			{1, "", answer},
			{2, "", with(syn, func(p *packet.Packet) { p.Src, p.Seq = wan, 99 })},
			{27, "wan", with(answer, func(p *packet.Packet) { p.Dst, p.Seq, p.Ack = wan, 444, 100 })},
			{28, "", answer},
		}, ""},

		{"to a port that is forwarded", false, []sight{
			{0, "lan", with(syn, func(p *packet.Packet) { p.Dst = wan })},
			{0, "", syn},
			{25, "wan", answer},
			{25, "", with(answer, func(p *packet.Packet) { p.Src = wan })},
		}, "update 25"},

		{"QUIC", false, forwarded(0, asks, 25, told), "update 25"},
		{"QUIC, in two", false, forwarded(0, asks, 3, udp(client, server, initial(1, 1, 400)), 25, told), "update 25"},
		{"QUIC, asked twice", false, forwarded(0, asks, 100, udp(client, server, initial(1, 1, 300)), 125, told), ""},
		{"QUIC of this host", true, forwarded(0, asks, 25, told), ""},
		{"QUIC answered by this host", false, []sight{{0, "lan", asks}, {1, "", told}}, ""},

		{"DNS", false, forwarded(0, question, 25, reply), "update 25"},
		{"DNS without addresses", false, forwarded(0, question, 25, udp(resolver, client, none)), "update 25"},
		{"DNS, answered twice", false, forwarded(0, question, 25, reply, 26, reply), "update 25"},
		{"DNS, asked twice", false, forwarded(0, question, 500, question, 525, reply), ""},
		{"DNS, the same later", false, forwarded(0, question, 25, reply, 11_000, question, 11_030, reply), "update 25, update 30"},
		{"DNS, another question", false, forwarded(0, question, 25, udp(resolver, client, message(t, 8, "a.example.", "192.0.2.1"))), ""},
		{"DNS of this host", true, forwarded(0, question, 25, reply), ""},
		{"DNS answered by this host", false, []sight{{0, "lan", question}, {1, "", reply}}, ""},
	} {
		for _, nat := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/nat=%v", c.name, nat), func(t *testing.T) {
				var got []string
				s := New("test", Options{}, func(e inspector.Event) {
					if rtt, ok := e.Flow.RTT.Get(); ok {
						got = append(got, fmt.Sprintf("%s %d", e.Kind, rtt/1000))
						if src, _ := e.Flow.Src.Get(); src != client.Addr() || e.Flow.IfaceIn != flow.Some("lan") {
							t.Errorf("told of %v", e.Flow)
						}
						if e.Kind == inspector.Update && e.Stats.RTT != time.Duration(rtt)*time.Microsecond {
							t.Errorf("stats %+v", e.Stats)
						}
					}
				})
				end := noon
				for _, x := range c.sent {
					if nat {
						x = translated(x)
					}
					if c.local && x.in == "lan" {
						continue
					}
					end = noon.Add(time.Duration(x.ms) * time.Millisecond)
					s.Packet(x.p, end, x.in)
				}
				s.Tick(end)
				s.Tick(end)
				if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestRoundTripsAreBounded floods a small sniffer with handshakes of which nobody says
// more: what waits to be told stays within its bound, and each is told once.
func TestRoundTripsAreBounded(t *testing.T) {
	told := map[netip.AddrPort]int{}
	s := New("test", Options{MaxFlows: 50}, func(e inspector.Event) {
		if e.Stats.RTT > 0 {
			src, _ := e.Flow.Src.Get()
			port, _ := e.Flow.SrcPort.Get()
			told[netip.AddrPortFrom(src, port)]++
		}
	})
	const n = 2000
	for i := range n {
		_, shake := open()
		src := netip.AddrPortFrom(client.Addr(), uint16(1+i))
		shake[0].Src, shake[1].Dst = src, src
		shake[0].Seq, shake[1].Ack = uint32(i), uint32(i+1)
		s.Packet(shake[0], noon, "lan")
		s.Packet(shake[1], noon.Add(time.Millisecond), "wan")
		if len(s.late) > 50 || len(s.conns) > 50 {
			t.Fatalf("after %d: %d round trips wait, of %d connections", i, len(s.late), len(s.conns))
		}
	}
	s.Tick(noon)
	for src, times := range told {
		if times != 1 {
			t.Errorf("%v was told %d times", src, times)
		}
	}
	if len(told) != n || len(s.late) != 0 {
		t.Errorf("%d connections of %d have a round trip, %d wait", len(told), n, len(s.late))
	}
}

// TestHostileRoundTrips sends packets of chance between few ends: what is told lies
// within the bounds, between a packet of the client's and one that came in after it.
func TestHostileRoundTrips(t *testing.T) {
	const seed = 3
	random := rand.New(rand.NewPCG(seed, seed))
	ends := []netip.AddrPort{client, server, wan, netip.AddrPortFrom(server.Addr(), 53), netip.AddrPortFrom(client.Addr(), 53)}
	flags := []packet.Flags{packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.RST, packet.SYN | packet.FIN, packet.FIN | packet.ACK}
	at, told := noon, 0
	s := New("test", Options{MaxFlows: 4}, func(e inspector.Event) {
		if rtt, ok := e.Flow.RTT.Get(); ok {
			told++
			if rtt < 0 || rtt >= maxRTT.Microseconds() || e.Flow.IfaceIn.Unknown() {
				t.Fatalf("seed %d: told of %v", seed, e.Flow)
			}
		}
	})
	for range 200_000 {
		at = at.Add(time.Duration(random.IntN(400)-50) * time.Millisecond / 4)
		p := packet.Packet{Proto: flow.TCP, HasPorts: true, Seq: random.Uint32N(3), Ack: random.Uint32N(3), Flags: flags[random.IntN(len(flags))]}
		if random.IntN(2) == 0 {
			p = udp(client, server, message(t, uint16(random.IntN(2)), "a.example.", []string{"", "192.0.2.1"}[random.IntN(2)]))
		}
		p.Src, p.Dst = ends[random.IntN(len(ends))], ends[random.IntN(len(ends))]
		s.Packet(p, at, []string{"", "lan", "wan"}[random.IntN(3)])
		if random.IntN(50) == 0 {
			s.Tick(at)
		}
		if len(s.late) > 4 || len(s.conns) > 4 {
			t.Fatalf("seed %d: %d round trips wait, of %d connections", seed, len(s.late), len(s.conns))
		}
	}
	if told == 0 {
		t.Error("no round trip was told")
	}
}

// BenchmarkForwarded is what a connection through NAT costs: its handshake and hello,
// each seen twice.
func BenchmarkForwarded(b *testing.B) {
	_, shake := open()
	first := shake[2]
	first.Payload = hello(b, "us01.zoom.us")
	names := 0
	s := New("test", Options{}, func(e inspector.Event) {
		if e.Kind == inspector.Name {
			names++
		}
	})
	var list []sight
	for _, p := range []packet.Packet{shake[0], shake[1], first} {
		for _, x := range forwarded(0, p) {
			list = append(list, translated(x))
		}
	}
	b.ReportAllocs()
	n := 0
	for at := noon; b.Loop(); n++ {
		at = at.Add(20 * time.Microsecond)
		port := uint16(n)
		for _, x := range list {
			p := x.p
			p.Seq += uint32(n)
			for _, end := range []*netip.AddrPort{&p.Src, &p.Dst} {
				if *end != server {
					*end = netip.AddrPortFrom(end.Addr(), port)
				}
			}
			if p.Src == server {
				p.Ack = shake[0].Seq + 1 + uint32(n)
			}
			s.Packet(p, at, x.in)
			at = at.Add(10 * time.Microsecond)
		}
		if n%1000 == 0 {
			s.Tick(at)
		}
	}
	if names != n {
		b.Errorf("%d names of %d connections", names, n)
	}
}
