package sniff

import (
	"hash/maphash"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
)

const (
	// flight is how far apart packets are that ask together: a hello in several
	// datagrams, and copies of one packet on a bridge and its port. Who gets no
	// answer asks again later than this: TCP after 200 ms or more, QUIC and STUN
	// after some times the round trip.
	flight = 10 * time.Millisecond
	// maxRTT bounds what is taken for a round trip: after a second who answered may
	// have answered again, because the answer was lost (RFC 6298, 2.1; RFC 9002, 6.2.2).
	maxRTT = time.Second
)

// trip is a round trip in the making: from the first packet that asks to the first
// that answers.
type trip struct {
	asked time.Time // zero: not yet
	over  bool      // it was measured, or can't be
}

// ask takes a packet that asks. When it was asked again there is no telling what
// will be answered (Karn's algorithm; RFC 6298, 3), and nothing is measured.
func (t *trip) ask(at time.Time) {
	if t.asked.IsZero() {
		t.asked = at
	} else if at.Sub(t.asked) > flight {
		t.over = true
	}
}

// answer takes an answer; ok is true for the first one, if it tells the time.
func (t *trip) answer(at time.Time) (rtt time.Duration, ok bool) {
	if t.over || t.asked.IsZero() {
		return 0, false
	}
	t.over = true
	rtt = at.Sub(t.asked)
	return rtt, rtt > 0 && rtt < maxRTT
}

// measure takes a packet of a live connection: asks is true for one with which the
// client asks, answers for the server's. Only connections that are forwarded are
// measured: those whose first packet came in.
func (s *Sniffer) measure(c *conn, asks, answers bool, at time.Time, iface string) {
	switch {
	case c.iface == "":
	case asks && iface != "":
		c.trip.ask(at)
	case !asks && answers:
		if rtt, ok := c.trip.answer(at); ok {
			s.took(c, rtt, at)
		}
	}
}

// took notes a round-trip time. The name that most connections tell next takes it
// along; else the next Tick tells it.
func (s *Sniffer) took(c *conn, rtt time.Duration, at time.Time) {
	if len(s.late) >= s.opt.MaxFlows {
		s.tellLate(at)
	}
	c.stats.RTT, c.stats.MinRTT, c.untold = rtt, rtt, true
	s.late = append(s.late, c)
}

func (s *Sniffer) tellLate(at time.Time) {
	for _, c := range s.late {
		if c.untold {
			s.event(inspector.Update, c, at)
		}
	}
	clear(s.late)
	s.late = s.late[:0]
}

// resolved measures how long a question of DNS took. Nothing else is known of its
// flow any more.
func (s *Sniffer) resolved(asked *question, p packet.Packet, at time.Time) {
	if rtt, ok := asked.trip.answer(at); ok {
		k, fromA := keyOf(p)
		s.took(&conn{key: k, clientIsA: !fromA, iface: asked.iface, dscp: asked.dscp}, rtt, at)
	}
}

// acknowledged reports whether a SYN/ACK is the answer to the client's SYN.
func (c *conn) acknowledged(p packet.Packet) bool {
	h := &c.half[dirIndex(c.clientIsA)]
	return h.syn && p.Ack-h.begin <= h.next-h.begin // more with data in the SYN (RFC 7413)
}

// cameIn reports whether a packet came in from elsewhere: it does so now, or it
// leaves as the copy of one that did, NAT or not. What this host says itself, in
// the name of a far end perhaps, tells nothing of that one.
func (s *Sniffer) cameIn(p packet.Packet, iface string, at time.Time) bool {
	var h maphash.Hash
	h.SetSeed(s.recent.seeded())
	maphash.WriteComparable(&h, struct {
		proto    flow.Proto
		seq, ack uint32
		flags    packet.Flags
	}{p.Proto, p.Seq, p.Ack, p.Flags})
	const enough = 64 // beyond the identifiers of QUIC, DNS and STUN
	_, _ = h.Write(p.Payload[:min(len(p.Payload), enough)])
	if iface == "" {
		return s.recent.has(h.Sum64(), at)
	}
	s.recent.seen(h.Sum64(), at)
	return true
}

// handshake measures in a capture, the time from SYN to the client's first ACK: the
// whole round trip as seen from any point between the two.
func (s *Sniffer) handshake(c *conn, p packet.Packet, fromClient bool, at time.Time) {
	switch begins := p.Flags&(packet.SYN|packet.ACK) == packet.SYN; {
	case begins && c.trip.asked.IsZero():
		c.trip.asked = at
	case begins:
		c.trip.over = true // sent again: no telling which one was answered
	case !fromClient:
		c.stats.Replied = true
	case fromClient && c.stats.Replied && !c.trip.over && !c.trip.asked.IsZero():
		c.trip.over = true
		if rtt := at.Sub(c.trip.asked); rtt > 0 {
			c.stats.RTT, c.stats.MinRTT = rtt, rtt
			s.event(inspector.Update, c, at)
		}
	}
}
