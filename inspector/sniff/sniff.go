// Package sniff turns packets into events: it follows connections just far enough
// for package first to read what the client says first, and reads DNS answers
// over UDP and TCP. It is pure: packets with their times go in, events come out. All it
// keeps is bounded, and what the bounds cost is counted.
package sniff

import (
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/apps"
	"netpolicy.dev/netpolicy/inspector/dns"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/inspector/packet"
)

// Defaults of Options.
const (
	// MaxFlows connections are followed at a time. One takes about 600 bytes;
	// beyond it the one that has been quiet the longest is forgotten.
	MaxFlows = 8192
	// MaxBuffered bytes wait for the rest of their hello, over all connections.
	MaxBuffered = 4 << 20
	// Idle is how long a quiet connection is remembered.
	Idle = 10 * time.Second
)

// Options say how to sniff. The zero Options are for live traffic with defaults.
type Options struct {
	MaxFlows    int
	MaxBuffered int
	Idle        time.Duration
	// Recorded is for captures: it tells of every connection's beginning, RTT and
	// end, and believes DNS answers whose question was not captured. Live
	// sniffing tells of names and of forwarded connections' RTT alone, wants the
	// question (an answer out of the blue may come from anyone), and takes a
	// forwarded packet, seen on two interfaces, once.
	Recorded bool
	// Details tells also what no rule asks for: inspector.Hello, and DNS answers
	// without addresses.
	Details bool
}

// Counters says what a Sniffer did. They belong to its goroutine.
type Counters struct {
	Packets     uint64 // handed in
	Names       uint64 // verdicts: a name or a protocol, or known to be absent
	Partial     uint64 // verdicts on a hello of which a part was missed
	Answers     uint64 // DNS answers told
	Unsolicited uint64 // DNS answers without a question, not believed
	Evicted     uint64 // connections forgotten for want of room
	Overflow    uint64 // connections given up for want of buffer
	Lost        uint64 // pieces out of order beyond what is kept of one connection
	Duplicates  uint64 // packets seen before on another interface
}

// Sniffer follows connections. It is for one goroutine.
type Sniffer struct {
	opt      Options
	source   string
	emit     func(inspector.Event)
	Counters Counters

	conns    map[key]*conn
	oldest   conn // sentinel of the ring in order of last activity
	buffered int
	reader   first.Reader
	queries  queries
	recent   recent
	late     []*conn // whose round-trip times the next Tick tells, unless that has happened
}

// New returns a sniffer whose events carry source and go to emit.
func New(source string, opt Options, emit func(inspector.Event)) *Sniffer {
	if opt.MaxFlows <= 0 {
		opt.MaxFlows = MaxFlows
	}
	if opt.MaxBuffered <= 0 {
		opt.MaxBuffered = MaxBuffered
	}
	if opt.Idle <= 0 {
		opt.Idle = Idle
	}
	s := &Sniffer{opt: opt, source: source, emit: emit, conns: make(map[key]*conn)}
	s.reader.Details = opt.Details
	s.oldest.prev, s.oldest.next = &s.oldest, &s.oldest
	return s
}

// dnsPort is where DNS is spoken in the clear.
const dnsPort = 53

// Packet takes one packet, seen at the given time, that came in by iface; "" is for
// one on its way out, and where it is not known.
// Times should not go back by more than Options.Idle.
func (s *Sniffer) Packet(p packet.Packet, at time.Time, iface string) {
	s.Counters.Packets++
	s.expire(at)
	switch {
	case p.Proto == flow.TCP && p.HasPorts:
		s.tcp(p, at, iface)
	case p.Proto == flow.UDP && p.HasPorts:
		s.udp(p, at, iface)
	case s.opt.Recorded:
		s.track(p, at, iface)
	}
}

// track follows what has no stream: it tells of the beginning and the end.
func (s *Sniffer) track(p packet.Packet, at time.Time, iface string) *conn {
	k, fromA := keyOf(p)
	c := s.conns[k]
	if c == nil {
		c = s.open(k, at, iface)
		c.clientIsA = fromA != looksLikeServer(p)
		c.dscp = p.DSCP
		s.event(inspector.Open, c, at)
	}
	s.touch(c, at)
	c.count(p, fromA == c.clientIsA)
	return c
}

// looksLikeServer guesses from ports alone whether the sender is the server.
func looksLikeServer(p packet.Packet) bool {
	const privileged = 1024
	return p.HasPorts && p.Src.Port() < privileged && p.Dst.Port() >= privileged
}

// udp takes one datagram.
func (s *Sniffer) udp(p packet.Packet, at time.Time, iface string) {
	k, fromA := keyOf(p)
	c := s.conns[k]
	answers := !s.opt.Recorded && len(p.Payload) > 0 && (c == nil || fromA != c.clientIsA) && s.cameIn(p, iface, at)
	if !s.opt.Recorded && len(p.Payload) > 0 && p.Src.Port() != dnsPort && !looksLikeServer(p) {
		again := s.recent.seen(fingerprint(s.recent.seeded(), p), at)
		switch {
		case c == nil && again:
			s.Counters.Duplicates++ // a forwarded packet's copy
		case c == nil:
			c = s.open(k, at, iface)
			c.clientIsA, c.dscp = fromA, p.DSCP
		}
	}
	if s.opt.Recorded {
		c = s.track(p, at, iface)
	} else if c != nil {
		s.touch(c, at)
		s.measure(c, fromA == c.clientIsA, answers, at, iface)
	}
	if c != nil && !c.done && len(p.Payload) > 0 {
		s.datagram(c, p, fromA, at)
	}
	if p.Src.Port() == dnsPort || p.Dst.Port() == dnsPort {
		s.dnsMessage(p, p.Payload, at, false, answers, iface)
		if c != nil && c.done && !s.opt.Recorded {
			s.close(c, at) // each question has a port of its own: they would crowd others out
		}
	}
}

// datagram looks at what one side has said so far.
func (s *Sniffer) datagram(c *conn, p packet.Packet, fromA bool, at time.Time) {
	i := dirIndex(fromA)
	d := c.datagrams[i]
	if d == nil {
		d = &first.Datagrams{Details: s.opt.Details}
		c.datagrams[i] = d
	}
	before := d.Held()
	state := d.Write(p.Payload)
	s.buffered += d.Held() - before
	x := d.Facts()
	switch {
	case state == first.More && s.buffered > s.opt.MaxBuffered:
		s.Counters.Overflow++
		s.settle(c)
	case state == first.More:
	case x.SNI != "": // only a client says that
		c.clientIsA = fromA
		s.named(c, x, at)
	case fromA != c.clientIsA:
	case s.doubtful(x):
		s.settle(c)
	default:
		s.named(c, x, at)
	}
}

// doubtful reports facts of a datagram that may have come from a server. Live,
// its connection is known under another address when NAT lies between; a capture
// tells of all that it holds.
func (s *Sniffer) doubtful(x first.Facts) bool {
	x.Hello = nil
	return !s.opt.Recorded && (x == first.Facts{} || x == first.Facts{App: apps.QUIC})
}

// tcp takes one TCP segment.
func (s *Sniffer) tcp(p packet.Packet, at time.Time, iface string) {
	k, fromA := keyOf(p)
	c := s.conns[k]
	syn, begins := p.Flags&packet.SYN != 0, p.Flags&(packet.SYN|packet.ACK) == packet.SYN
	answers := !s.opt.Recorded && syn && !begins && s.cameIn(p, iface, at)
	if c != nil && begins && c.renewedBy(p, fromA) {
		s.close(c, at)
		c = nil
	}
	if c == nil {
		if p.Flags&packet.RST != 0 && !s.opt.Recorded || !s.worthOpening(p, at) {
			return
		}
		c = s.open(k, at, iface)
		c.clientIsA = fromA
		if !begins && (syn || looksLikeServer(p)) {
			c.clientIsA = !fromA
		}
		c.oriented = syn
		c.dscp = p.DSCP
		if s.opt.Recorded {
			s.event(inspector.Open, c, at)
		}
	} else if !s.opt.Recorded && !c.done && len(p.Payload) > 0 {
		s.recent.seen(fingerprint(s.recent.seeded(), p), at) // so that a copy does not open another
	}
	s.touch(c, at)
	fromClient := fromA == c.clientIsA
	switch {
	case s.opt.Recorded:
		c.count(p, fromClient)
		s.handshake(c, p, fromClient, at)
	case syn:
		s.measure(c, begins && fromClient, answers && c.acknowledged(p), at, iface)
	}
	if !c.done || c.dns {
		s.stream(c, p, fromA, at)
	}
	if p.Flags&packet.RST != 0 {
		s.close(c, at)
	} else if p.Flags&packet.FIN != 0 {
		if c.fins |= 1 << dirIndex(fromA); c.fins == 3 {
			c.closing = true // later segments still count; expiry tells the end
		}
	}
}

// worthOpening reports whether a segment may begin a connection for us. Live,
// it must not be another interface's copy of a segment taken already.
func (s *Sniffer) worthOpening(p packet.Packet, at time.Time) bool {
	if s.opt.Recorded {
		return true
	}
	syn := p.Flags&(packet.SYN|packet.ACK) == packet.SYN
	if !syn && (len(p.Payload) == 0 || p.Src.Port() == dnsPort) {
		return false
	}
	if s.recent.seen(fingerprint(s.recent.seeded(), p), at) {
		s.Counters.Duplicates++
		return false
	}
	return true
}

// stream adds a segment to its direction and looks at what is there now.
func (s *Sniffer) stream(c *conn, p packet.Packet, fromA bool, at time.Time) {
	h := &c.half[dirIndex(fromA)]
	before := h.held()
	grew := h.add(p, c.dns)
	s.buffered += h.held() - before
	if s.buffered > s.opt.MaxBuffered {
		s.Counters.Overflow++
		s.settle(c)
		return
	}
	s.answered(c, p, fromA, at)
	if !grew {
		return
	}
	if c.dns && fromA != c.clientIsA && (h.syn || c.half[dirIndex(!fromA)].syn || s.opt.Recorded) {
		s.dnsStream(c, h, p, at)
		return
	}
	if c.done || c.oriented && fromA != c.clientIsA {
		return
	}
	s.verdict(c, h, fromA, at)
}

// answered settles a hello of which a part was missed: the server, which needs
// all of it, has answered.
func (s *Sniffer) answered(c *conn, p packet.Packet, fromA bool, at time.Time) {
	if !c.done && c.partial != (first.Facts{}) && fromA != c.clientIsA && len(p.Payload) > 0 {
		s.Counters.Partial++
		s.named(c, c.partial, at)
	}
}

// dnsStream takes the whole messages at the front of a DNS server's stream.
func (s *Sniffer) dnsStream(c *conn, h *half, p packet.Packet, at time.Time) {
	for {
		msg, rest, ok := dns.Next(h.buf)
		if !ok {
			return
		}
		s.dnsMessage(p, msg, at, true, false, "")
		s.buffered -= len(h.buf) - len(rest)
		h.buf = rest
	}
}

// maxGuesses is how many segments of a connection whose beginning was missed
// are tried, in case they came out of order.
const maxGuesses = 12

// verdict reads the beginning of the stream from one side.
func (s *Sniffer) verdict(c *conn, h *half, fromA bool, at time.Time) {
	x, state := s.reader.Stream(h.buf)
	if state == first.Unknown && !h.syn {
		// Not the beginning, perhaps: nothing can be said.
		if h.guesses++; h.guesses >= maxGuesses || len(h.buf) >= first.MaxStream {
			s.settle(c)
		}
		return
	}
	if x != (first.Facts{}) {
		c.clientIsA, c.oriented = fromA, true
	}
	if state == first.More {
		c.partial = x
		return
	}
	s.named(c, x, at)
}

// named tells the facts found, and that there are no others.
func (s *Sniffer) named(c *conn, x first.Facts, at time.Time) {
	s.Counters.Names++
	s.settle(c)
	c.told, c.partial = tell(x), first.Facts{}
	s.event(inspector.Name, c, at)
}

// settle ends the reading of a connection.
func (s *Sniffer) settle(c *conn) {
	c.done = true
	if c.dns {
		return
	}
	for i := range c.half {
		s.buffered -= c.half[i].held()
		s.Counters.Lost += c.half[i].lost
		c.half[i].drop()
		if d := c.datagrams[i]; d != nil {
			s.buffered -= d.Held()
			s.Counters.Lost += uint64(d.Lost())
			c.datagrams[i] = nil
		}
	}
}

// event tells what is known of c.
func (s *Sniffer) event(kind inspector.Kind, c *conn, at time.Time) {
	c.untold = false
	e := inspector.Event{Kind: kind, At: at, Source: s.source, Flow: c.flow(), ECH: c.told.ech, Hello: c.told.hello}
	if kind == inspector.Update || kind == inspector.Close {
		e.Stats = c.stats
	}
	s.emit(e)
}

// Settled reports whether nothing more is to be learned from the segments of
// the packet's connection.
func (s *Sniffer) Settled(p packet.Packet) bool {
	k, _ := keyOf(p)
	c := s.conns[k]
	return c != nil && c.done && !c.dns
}

// Flush forgets every connection and, for captures, tells of its end.
func (s *Sniffer) Flush(at time.Time) {
	for s.oldest.next != &s.oldest {
		s.close(s.oldest.next, at)
	}
}

// Tick forgets what has been quiet for long, as Packet does, and tells the
// round-trip times that no other event has told. A live source calls it each second.
func (s *Sniffer) Tick(now time.Time) {
	s.expire(now)
	s.tellLate(now)
}

func (s *Sniffer) expire(now time.Time) {
	for c := s.oldest.next; c != &s.oldest && now.Sub(c.last) > s.opt.Idle; c = s.oldest.next {
		s.close(c, c.last)
	}
}

func (s *Sniffer) open(k key, at time.Time, iface string) *conn {
	if len(s.conns) >= s.opt.MaxFlows {
		s.Counters.Evicted++
		s.close(s.oldest.next, s.oldest.next.last)
	}
	c := &conn{key: k, last: at, iface: iface, dns: k.proto == flow.TCP && (k.a.Port() == dnsPort || k.b.Port() == dnsPort)}
	s.conns[k] = c
	c.link(&s.oldest)
	return c
}

func (s *Sniffer) touch(c *conn, at time.Time) {
	c.last = at
	c.unlink()
	c.link(&s.oldest)
}

// close forgets c. Of a hello that never became whole counts what was read of
// it: sniffing timed out (language.md, 4).
func (s *Sniffer) close(c *conn, at time.Time) {
	client := dirIndex(c.clientIsA)
	switch h, d := &c.half[client], c.datagrams[client]; {
	case c.done:
	case c.oriented && len(h.buf) > 0 && (h.syn || c.partial != first.Facts{}):
		s.Counters.Partial++
		s.named(c, c.partial, at)
	case d != nil && !s.doubtful(d.Facts()):
		s.Counters.Partial++
		s.named(c, d.Facts(), at)
	}
	if c.untold {
		s.event(inspector.Update, c, at)
	}
	c.dns = false
	s.settle(c)
	c.unlink()
	delete(s.conns, c.key)
	if s.opt.Recorded {
		s.event(inspector.Close, c, at)
	}
}
