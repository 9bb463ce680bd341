package sniff

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
)

const (
	again = 1 + iota
	full
	pass
	block
)

// blocker blocks bad.example, as soon as a name is there.
func blocker(_ *flow.Flow, x first.Facts, final bool) (uint32, bool) {
	switch {
	case x.SNI == "bad.example" || x.Host == "bad.example":
		return block, true
	case x.SNI != "" || final:
		return pass, true
	}
	return 0, false
}

var (
	holdClient = netip.MustParseAddrPort("10.0.0.5:40000")
	holdServer = netip.MustParseAddrPort("203.0.113.7:443")
)

func segmentOf(seq uint32, b []byte) packet.Packet {
	return packet.Packet{Proto: flow.TCP, Src: holdClient, Dst: holdServer, HasPorts: true, Seq: seq, Flags: packet.ACK, Payload: b, Size: 52 + len(b)}
}

func newHolder() *Holder {
	h := NewHolder(blocker)
	h.Again, h.Full = again, full
	return h
}

func noFlow() *flow.Flow { return &flow.Flow{} }

// TestHold cuts hellos anywhere, sends segments twice and out of order: nothing that
// completes the name leaves before the verdict, each packet is let go once, and in
// the order in which it came.
func TestHold(t *testing.T) {
	hellos := map[string][]byte{}
	for _, name := range []string{"bad.example", "good.example"} {
		hellos[name] = hello(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"bad.example", "good.example"}).Draw(t, "name")
		want := map[string]uint32{"bad.example": block, "good.example": pass}[name]
		var list []packet.Packet
		for b, seq := hellos[name], rapid.Uint32().Draw(t, "seq"); len(b) > 0; {
			n := rapid.IntRange(1, len(b)).Draw(t, "size")
			list = append(list, segmentOf(seq, b[:n]))
			b, seq = b[n:], seq+uint32(n)
		}
		if len(list) > maxSegments {
			list = list[:maxSegments]
		}
		for range rapid.IntRange(0, 2).Draw(t, "retransmissions") {
			i := rapid.IntRange(0, len(list)-1).Draw(t, "again")
			list = slices.Insert(list, rapid.IntRange(i+1, len(list)).Draw(t, "at"), list[i])
		}
		if len(list) > 2 && rapid.Bool().Draw(t, "swap") { // not the first, which says where the stream begins
			i := rapid.IntRange(1, len(list)-2).Draw(t, "with")
			list[i], list[i+1] = list[i+1], list[i]
		}
		h := newHolder()
		now := time.Unix(0, 0)
		var out []Release
		for i := range list {
			out = append(out, h.Packet(list[i], uint32(i), now, noFlow)...)
		}
		out = append(out, h.Tick(now.Add(HoldTime))...)
		if len(out) != len(list) {
			t.Fatalf("%d of %d packets let go: %v", len(out), len(list), out)
		}
		var left []byte
		for i, r := range out {
			if r.ID != uint32(i) {
				t.Fatalf("not in order: %v", out)
			}
			if r.Answer == again {
				left = append(left, list[i].Payload...)
			}
		}
		if _, state := new(first.Reader).Stream(left); state == first.Done && len(left) >= len(hellos[name]) {
			t.Fatal("the whole hello left before it was judged")
		}
		if whole := func() (n int) {
			for i := range list {
				n = max(n, int(list[i].Seq-list[0].Seq)+len(list[i].Payload))
			}
			return n
		}(); whole == len(hellos[name]) && out[len(out)-1].Answer != want {
			t.Fatalf("%v, want %d at the end", out, want)
		}
		if h.buffered != 0 || h.Waits() {
			t.Fatalf("%d bytes kept, or a flow", h.buffered)
		}
		h.Tick(now.Add(2 * HoldTime))
		if len(h.flows)+len(h.order) != 0 {
			t.Fatalf("%d flows kept", len(h.flows))
		}
	})
}

// TestHoldCases: what says nothing, what is no hello, what waits too long, and what
// comes behind the answer.
func TestHoldCases(t *testing.T) {
	bad := hello(t, "bad.example")
	now := time.Unix(0, 0)
	is := func(what string, got []Release, want ...Release) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	h := newHolder()
	is("the handshake", h.Packet(segmentOf(100, nil), 1, now, noFlow), Release{1, again})
	is("a part without the name", h.Packet(segmentOf(100, bad[:20]), 2, now, noFlow))
	is("the rest", h.Packet(segmentOf(120, bad[20:]), 3, now, noFlow), Release{2, block}, Release{3, block})
	is("a retransmission", h.Packet(segmentOf(100, bad), 4, now, noFlow), Release{4, block})
	is("its end", h.Packet(segmentOf(100, nil), 5, now, noFlow), Release{5, block})

	h = newHolder()
	is("HTTP", h.Packet(segmentOf(1, []byte("GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n")), 1, now, noFlow), Release{1, block})

	h = newHolder()
	is("no protocol known", h.Packet(segmentOf(1, []byte("\x00\x01hello")), 1, now, noFlow), Release{1, pass})

	h = newHolder()
	is("the beginning of a request", h.Packet(segmentOf(1, []byte("GE")), 1, now, noFlow))
	is("a moment later", h.Tick(now.Add(HoldTime-1)))
	is("its time is over", h.Tick(now.Add(HoldTime)), Release{1, pass})
	is("the rest of it", h.Packet(segmentOf(3, []byte("T / HTTP/1.1\r\nHost: bad.example\r\n\r\n")), 2, now.Add(HoldTime), noFlow), Release{2, pass})

	h = newHolder()
	message, err := quictest.Hello(&tls.Config{ServerName: "bad.example", NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	id := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	var out []Release
	for i, part := range [][]byte{message[:1000], message[1000:]} {
		p := segmentOf(0, quictest.V1.Initial(id, id, byte(i), append(quictest.Crypto(i*1000, part), make([]byte, 1100-len(part))...)))
		p.Proto = flow.UDP
		out = append(out, h.Packet(p, uint32(i), now, noFlow)...)
	}
	is("QUIC", out, Release{0, block}, Release{1, block})
}

// TestHoldSmall: a hello in so many small segments that a client waits for
// acknowledgements in between is let go step by step, never whole.
func TestHoldSmall(t *testing.T) {
	bad := hello(t, "bad.example")
	h := newHolder()
	now := time.Unix(0, 0)
	var out []Release
	for i := range bad {
		if out = append(out, h.Packet(segmentOf(uint32(i), bad[i:i+1]), uint32(i), now, noFlow)...); out != nil && out[len(out)-1].Answer == block {
			break
		}
		if i-len(out) >= MaxHeld+1 {
			t.Fatalf("%d of %d let go: a client would be stuck", len(out), i)
		}
	}
	if len(out) == 0 || out[len(out)-1].Answer != block || h.Counters.Let.Load() == 0 {
		t.Errorf("%d let go, the last with %v", len(out), out[max(0, len(out)-1):])
	}
}

// TestHoldBounds: flows beyond the bound are answered at once, by what their first
// packet says.
func TestHoldBounds(t *testing.T) {
	h := newHolder()
	now := time.Unix(0, 0)
	for i := range MaxHolding + 1 {
		p := segmentOf(1, []byte("GE"))
		p.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1000)
		got := h.Packet(p, uint32(i), now, noFlow)
		if want := i >= MaxHolding; (len(got) == 1 && got[0].Answer == full) != want {
			t.Fatalf("flow %d: %v", i, got)
		}
	}
	whole := segmentOf(1, hello(t, "bad.example"))
	if got := h.Packet(whole, 0, now, noFlow); len(got) != 1 || got[0].Answer != block {
		t.Errorf("a whole hello beyond the bound: %v", got)
	}
	if got := h.Tick(now.Add(HoldTime)); len(got) != MaxHolding {
		t.Errorf("%d let go", len(got))
	}
	if h.Tick(now.Add(2 * HoldTime)); len(h.flows) != 0 || h.Waits() {
		t.Errorf("%d flows kept", len(h.flows))
	}
}
