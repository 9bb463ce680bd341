package sniff

import (
	"net/netip"
	"slices"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/dns"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/inspector/packet"
)

// key is a connection's two ends in order, so that both directions share it.
type key struct {
	proto flow.Proto
	a, b  netip.AddrPort
}

// keyOf returns the packet's key, and whether end a sent it.
func keyOf(p packet.Packet) (k key, fromA bool) {
	if p.Src.Compare(p.Dst) <= 0 {
		return key{p.Proto, p.Src, p.Dst}, true
	}
	return key{p.Proto, p.Dst, p.Src}, false
}

// dirIndex is the index in conn.half of the direction from a, or from b.
func dirIndex(fromA bool) int {
	if fromA {
		return 0
	}
	return 1
}

// conn is one connection.
type conn struct {
	key        key
	prev, next *conn // the ring in order of activity
	last       time.Time
	iface      string
	dscp       uint8

	clientIsA bool
	oriented  bool // by SYN or hello, not by guess
	done      bool // no more is to be learned
	dns       bool // port 53: its answers are read to the end
	closing   bool
	fins      uint8

	trip      trip
	untold    bool // no event has told the round-trip time yet
	stats     inspector.Stats
	told      told
	partial   first.Facts // of a hello that goes on
	half      [2]half     // from a, from b
	datagrams [2]*first.Datagrams
}

// told is what an event has told of the first bytes.
type told struct {
	app, sni, host, alpn flow.Value[string]
	ech                  bool
	hello                *inspector.Hello
}

// tell makes facts final: what is not there is absent.
func tell(x first.Facts) told {
	var f flow.Flow
	x.Fill(&f, true)
	return told{f.App, f.SNI, f.HTTPHost, f.ALPN, x.ECH, x.Hello}
}

func (c *conn) link(ring *conn) {
	c.prev, c.next = ring.prev, ring
	ring.prev.next, ring.prev = c, c
}

func (c *conn) unlink() { c.prev.next, c.next.prev = c.next, c.prev }

// renewedBy reports whether a SYN begins another connection with the same ends.
func (c *conn) renewedBy(p packet.Packet, fromA bool) bool {
	h := &c.half[dirIndex(fromA)]
	return c.closing || h.syn && h.begin != p.Seq+1 || c.done && !h.syn
}

// count adds a packet to the running figures.
func (c *conn) count(p packet.Packet, up bool) {
	if up {
		c.stats.PacketsUp++
		c.stats.BytesUp += uint64(p.Size)
	} else {
		c.stats.PacketsDown++
		c.stats.BytesDown += uint64(p.Size)
		c.stats.Replied = true
	}
}

// flow returns what is known of the connection.
func (c *conn) flow() flow.Flow {
	src, dst := c.key.b, c.key.a
	if c.clientIsA {
		src, dst = c.key.a, c.key.b
	}
	f := flow.Flow{
		Proto: flow.Some(c.key.proto), Src: flow.Some(src.Addr()), Dst: flow.Some(dst.Addr()),
		SrcPort: flow.Absent[uint16](), DstPort: flow.Absent[uint16](),
		App: c.told.app, SNI: c.told.sni, HTTPHost: c.told.host, ALPN: c.told.alpn, DSCP: flow.Some(c.dscp),
	}
	if c.key.proto == flow.TCP || c.key.proto == flow.UDP {
		f.SrcPort, f.DstPort = flow.Some(src.Port()), flow.Some(dst.Port())
	}
	if c.iface != "" {
		f.IfaceIn = flow.Some(c.iface)
	}
	if c.stats.RTT > 0 {
		f.RTT = flow.Some(c.stats.RTT.Microseconds())
	}
	return f
}

const (
	// maxSegments out of order are kept a direction. A hello has a few.
	maxSegments = 16
	// maxAhead bounds how far ahead of the expected byte a segment is kept.
	maxAhead = first.MaxStream
)

// half is one direction of a TCP connection, as far as it was put together.
type half struct {
	known   bool   // begin and next hold
	syn     bool   // begin comes from the SYN: the true beginning
	begin   uint32 // sequence number of the stream's first byte, as far as known
	next    uint32 // sequence number after buf
	guesses int
	lost    uint64 // segments that were too many, or too far ahead
	buf     []byte
	ahead   []segment
}

type segment struct {
	seq  uint32
	data []byte
}

// held is how many bytes are buffered.
func (h *half) held() int {
	n := len(h.buf)
	for _, s := range h.ahead {
		n += len(s.data)
	}
	return n
}

func (h *half) drop() { h.buf, h.ahead, h.lost = nil, nil, 0 }

// add takes a segment; it reports whether buf grew. With the first byte of a
// sequence number seen twice, the first one counts.
func (h *half) add(p packet.Packet, dnsStream bool) (grew bool) {
	seq := p.Seq
	if p.Flags&packet.SYN != 0 {
		seq++
		if !h.syn {
			// What came before the SYN was something else, or is about to be
			// placed after it.
			h.drop()
			h.known, h.syn, h.begin, h.next = true, true, seq, seq
		}
	}
	if len(p.Payload) == 0 || h.next == h.begin && isPadding(p) {
		return false
	}
	if !h.known {
		h.known, h.begin, h.next = true, seq, seq
	}
	if before := int32(h.begin - seq); before > 0 && !h.syn && before <= maxAhead && len(h.ahead) < maxSegments {
		// The beginning was missed, and this lies further in front.
		if len(h.buf) > 0 {
			h.ahead = append(h.ahead, segment{h.begin, h.buf})
		}
		h.buf, h.begin, h.next = nil, seq, seq
	}
	most := first.MaxStream
	if dnsStream {
		most = 2 + dns.MaxMessage
	}
	if d := int32(seq - h.next); d > 0 {
		if d <= maxAhead && len(h.ahead) < maxSegments {
			h.ahead = append(h.ahead, segment{seq, slices.Clone(p.Payload[:min(len(p.Payload), most)])})
		} else {
			h.lost++
		}
		return false
	}
	grew = h.append(seq, p.Payload, most)
	for again := true; again; {
		again = false
		for i, s := range h.ahead {
			if int32(s.seq-h.next) <= 0 {
				h.ahead = slices.Delete(h.ahead, i, i+1)
				again = true
				grew = h.append(s.seq, s.data, most) || grew
				break
			}
		}
	}
	return grew
}

// isPadding recognises a bare acknowledgement whose IP length counts the
// padding of the shortest Ethernet frame (46 bytes) as data: some routers
// forward such packets, and neither TLS nor HTTP begins with zeros.
func isPadding(p packet.Packet) bool {
	const shortest = 46
	if p.Flags != packet.ACK || p.Size > shortest {
		return false
	}
	for _, b := range p.Payload {
		if b != 0 {
			return false
		}
	}
	return true
}

// append adds what of data lies after next. seq is not after next.
func (h *half) append(seq uint32, data []byte, most int) bool {
	skip := int(int32(h.next - seq))
	if skip >= len(data) {
		return false
	}
	data = data[skip:]
	h.next += uint32(len(data))
	n := min(len(data), most-len(h.buf))
	if n <= 0 {
		return false
	}
	h.buf = append(h.buf, data[:n]...)
	return true
}
