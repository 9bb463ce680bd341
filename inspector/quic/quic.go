// Package quic reads the ClientHello out of a client's first QUIC datagrams.
// Their keys follow from what stands in the packet itself (RFC 9001, 5.2), so
// anyone on the path can read them. It knows QUIC version 1 and 2 (RFC 9000,
// 9369), the drafts 22 to 34, Facebook's variants of them, and Google's QUIC
// from Q039 to T051.
//
//	var c quic.Client
//	for datagram := range datagrams {
//		if !c.Datagram(datagram) {
//			continue // not QUIC, or nothing new
//		}
//		hello, err := parser.ParseMessage(c.Message()) // package tlshello
//	}
//
// CRYPTO frames may come in any order, over several packets, coalesced with
// others, and under more than one connection ID. What a packet says counts only
// when its authentication tag is right. It is pure, bounded and safe on hostile
// input.
package quic

import (
	"encoding/binary"
	"fmt"
)

const (
	// MaxHello is how much of a client's handshake is put together. Post-quantum
	// hellos are under 4 KiB.
	MaxHello = 16 << 10
	// maxSpans bounds the pieces with gaps between them. Browsers shuffle a
	// hello in a few dozen.
	maxSpans = 64
	// minInitial is the shortest datagram with an Initial (RFC 9000, 14.1). A
	// reserved version alone would be too weak a sign.
	minInitial = 1200
	// maxCID is the longest connection ID (RFC 9000, 17.2).
	maxCID = 20
	// maxPackets bounds the packets read of one datagram; a client coalesces
	// three at most.
	maxPackets = 8
)

// Client puts together what a client says in the Initial packets of one flow.
// The zero Client is ready; it is for one goroutine.
type Client struct {
	version uint32 // of the packets that were read; 0 for none
	keys    []keys // of the first connection ID, and of that after a Retry
	google  bool
	message assembler
	scratch []byte
	lost    int
}

// maxKeys: the keys of the first connection ID, and those of the latest.
const maxKeys = 2

// Message returns what is there of the client's first message, from its
// beginning on: a TLS ClientHello without record header, or with Google a CHLO
// (see ServerName). It lives until the next Datagram.
func (c *Client) Message() []byte { return c.message.prefix() }

// Version returns the version of the packets that were read: "1", "2",
// "draft-29", "mvfst-27" (Facebook's, by its draft) and "mvfst-exp", or Google's
// four letters, such as "Q046"; "" while none was.
func (c *Client) Version() string {
	switch v := c.version; {
	case v == 0:
		return ""
	case v == version1:
		return "1"
	case v == version2:
		return "2"
	case v == facebookExperiment:
		return "mvfst-exp"
	case v>>8 == facebook:
		return fmt.Sprintf("mvfst-%d", draft(v))
	case draft(v) != 0:
		return fmt.Sprintf("draft-%d", draft(v))
	default:
		return string(binary.BigEndian.AppendUint32(nil, v))
	}
}

// Google reports whether Message is a CHLO of Google's own handshake.
func (c *Client) Google() bool { return c.google }

// Lost counts the pieces that a bound made it lose.
func (c *Client) Lost() int { return c.lost }

// Held is how many bytes it keeps.
func (c *Client) Held() int { return cap(c.message.buf) + cap(c.scratch) }

// Datagram takes the payload of one datagram from the client. It reports
// whether that is QUIC, as far as a packet with a long header tells; a short
// header tells nothing.
func (c *Client) Datagram(b []byte) (isQUIC bool) {
	if v, ok := publicHeader(b); ok {
		c.publicPacket(v, b)
		return true
	}
	for range maxPackets {
		p, rest, ok := longHeader(b)
		if !ok {
			return isQUIC
		}
		isQUIC = true
		c.packet(p)
		b = rest
	}
	return isQUIC
}

// packet takes one packet with a long header.
func (c *Client) packet(p header) {
	if !p.initial {
		return
	}
	if p.version == q046 {
		if c.version != p.version {
			c.begin(p.version, true)
		}
		c.googleFrames(p.raw[p.number:])
		return
	}
	s, ok := scheduleOf(p.version)
	if !ok {
		return
	}
	if p.version == c.version {
		for i := range c.keys {
			if clear, ok := c.keys[i].open(c.scratch, p); ok {
				c.take(clear, p.version)
				return
			}
		}
	}
	k := s.keys(p.dcid)
	clear, ok := k.open(c.scratch, p)
	if !ok {
		return // the keys are of an earlier packet that was not seen, or it is cut
	}
	if p.version != c.version {
		c.keys = nil
	}
	c.begin(p.version, p.version == q050)
	if len(c.keys) == maxKeys {
		c.keys = c.keys[:maxKeys-1]
	}
	c.keys = append(c.keys, k)
	c.take(clear, p.version)
}

// begin starts a new message: the first, or once more after a Retry or a
// version negotiation, when the client says everything again.
func (c *Client) begin(version uint32, google bool) {
	c.version, c.google = version, google
	c.message = assembler{}
}

func (c *Client) take(clear []byte, version uint32) {
	c.scratch = clear[:0]
	crypto := byte(frameCrypto)
	if version == q050 || version == t050 || version == t051 {
		crypto = googleCrypto
	}
	c.frames(clear, crypto)
}

// Frames that a client's Initial may hold (RFC 9000, 12.4 and 19).
const (
	framePadding = 0x00
	framePing    = 0x01
	frameAck     = 0x02
	frameAckECN  = 0x03
	frameCrypto  = 0x06
	googleCrypto = 0x08 // of Q050, T050 and T051, otherwise alike
)

// frames takes the CRYPTO frames among those of one packet.
func (c *Client) frames(b []byte, crypto byte) {
	r := reader{b}
	for len(r.b) > 0 {
		kind, _ := r.uint8()
		switch kind {
		case framePadding, framePing:
		case frameAck, frameAckECN:
			if !r.skipAck(kind == frameAckECN) {
				return
			}
		case crypto:
			offset, ok1 := r.varint()
			n, ok2 := r.varint()
			data, ok3 := r.take(n)
			if !ok1 || !ok2 || !ok3 {
				return
			}
			if !c.message.add(offset, data) {
				c.lost++
			}
		default:
			return // CONNECTION_CLOSE, or not allowed here
		}
	}
}

// header is a packet with a long header.
type header struct {
	version uint32
	initial bool
	dcid    []byte
	number  int    // where the packet number begins
	raw     []byte // the packet as its Length says
}

// longHeader cuts the packet at the front of b off. ok is false when there is none.
func longHeader(b []byte) (h header, rest []byte, ok bool) {
	const formAndFixed = 0xc0
	if len(b) < 7 || b[0]&formAndFixed != formAndFixed {
		return h, nil, false
	}
	h.version = binary.BigEndian.Uint32(b[1:])
	h.raw = b
	switch {
	case !known(h.version): // also 0, a version negotiation, which is a server's
		return h, nil, false
	case reserved(h.version) && len(b) < minInitial:
		return h, nil, false
	case h.version == q046:
		return googleLong(b)
	}
	r := reader{b[5:]}
	dcid, ok1 := r.vector8()
	scid, ok2 := r.vector8()
	if !ok1 || !ok2 || len(dcid) > maxCID || len(scid) > maxCID {
		return h, nil, false
	}
	h.dcid = dcid
	kind := packetType(b[0], h.version)
	if kind == typeRetry || reserved(h.version) {
		return h, nil, true // what follows has no length
	}
	if kind == typeInitial {
		token, ok := r.varint()
		if _, ok2 := r.take(token); !ok || !ok2 {
			return h, nil, true
		}
	}
	length, ok := r.varint()
	if !ok {
		return h, nil, true
	}
	h.number = len(b) - len(r.b)
	if _, ok := r.take(length); !ok {
		return h, nil, true // cut: its tag can't be checked
	}
	h.initial = kind == typeInitial
	h.raw = b[:h.number+int(length)]
	return h, r.b, true
}

// Types of packets with a long header, in version 1 (RFC 9000, 17.2).
const (
	typeInitial = iota
	type0RTT
	typeHandshake
	typeRetry
)

// packetType reads the type bits; version 2 counts one further (RFC 9369, 3.2).
func packetType(first byte, version uint32) int {
	t := int(first >> 4 & 3)
	if version == version2 {
		t = (t + 3) & 3
	}
	return t
}

// reader cuts values off the front of b.
type reader struct{ b []byte }

func (r *reader) take(n uint64) ([]byte, bool) {
	if uint64(len(r.b)) < n {
		return nil, false
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v, true
}

func (r *reader) uint8() (uint8, bool) {
	v, ok := r.take(1)
	if !ok {
		return 0, false
	}
	return v[0], true
}

func (r *reader) vector8() ([]byte, bool) {
	n, ok := r.uint8()
	if !ok {
		return nil, false
	}
	return r.take(uint64(n))
}

// varint reads RFC 9000, 16.
func (r *reader) varint() (uint64, bool) {
	if len(r.b) == 0 {
		return 0, false
	}
	v, ok := r.take(1 << (r.b[0] >> 6))
	if !ok {
		return 0, false
	}
	n := uint64(v[0] & 0x3f)
	for _, c := range v[1:] {
		n = n<<8 | uint64(c)
	}
	return n, true
}

// skipAck skips the fields of an ACK frame (RFC 9000, 19.3).
func (r *reader) skipAck(ecn bool) bool {
	skip := func(n uint64) bool {
		for ; n > 0; n-- { // ends with the packet
			if _, ok := r.varint(); !ok {
				return false
			}
		}
		return true
	}
	if !skip(2) { // largest acknowledged, delay
		return false
	}
	ranges, ok := r.varint()
	if !ok || !skip(1) || ranges > uint64(len(r.b)) || !skip(2*ranges) {
		return false
	}
	return !ecn || skip(3)
}
