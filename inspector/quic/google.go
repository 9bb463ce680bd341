package quic

import (
	"encoding/binary"
	"errors"
)

// Google's QUIC before TLS, as the "QUIC Crypto" and "QUIC Wire Layout"
// documents of the Chromium project tell. Its first packets were not encrypted;
// a hash of 12 bytes stands where the tag is now.
const (
	googleHash = 12
	// maxEntries bounds a CHLO's tags (as Google's own parser does).
	maxEntries = 128
)

// publicHeader recognises the header of Q039 to Q043 with a version: flags, a
// connection ID of eight bytes, the version, a packet number.
func publicHeader(b []byte) (version uint32, ok bool) {
	const hasVersion, hasCID, reset, unused = 0x01, 0x08, 0x02, 0xc0
	if len(b) < 14 || b[0]&(hasVersion|hasCID) != hasVersion|hasCID || b[0]&(reset|unused) != 0 {
		return 0, false
	}
	version = binary.BigEndian.Uint32(b[9:])
	return version, version >= 0x51303339 && version <= 0x51303433 && (version&0xff <= '9') // "Q039" to "Q043"
}

// publicPacket takes a packet that publicHeader recognised.
func (c *Client) publicPacket(version uint32, b []byte) {
	number := [...]int{1, 2, 4, 6}[b[0]>>4&3]
	if at := 13 + number; len(b) > at {
		if c.version != version {
			c.begin(version, true)
		}
		c.googleFrames(b[at:])
	}
}

// googleLong cuts a packet of Q046 off: the long header of an older draft, with
// both lengths in one byte and no Length.
func googleLong(b []byte) (h header, rest []byte, ok bool) {
	length := func(nibble byte) int {
		if nibble == 0 {
			return 0
		}
		return int(nibble) + 3
	}
	number := 6 + length(b[5]>>4) + length(b[5]&15)
	if len(b) < number {
		return h, nil, false
	}
	h = header{version: q046, dcid: b[6 : 6+length(b[5]>>4)], raw: b}
	h.number = number + int(b[0]&3) + 1
	h.initial = len(b) >= h.number
	return h, nil, true
}

// googleFrames takes the data of stream 1, where the handshake is spoken, from
// a packet's hash and frames.
func (c *Client) googleFrames(b []byte) {
	r := reader{b}
	if _, ok := r.take(googleHash); !ok {
		return
	}
	for len(r.b) > 0 {
		const stream, withLength, ping, handshake = 0x80, 0x20, 0x07, 1
		kind, _ := r.uint8()
		if kind == ping {
			continue
		}
		if kind&stream == 0 {
			return // padding to the end, or an acknowledgement: no hello
		}
		id, ok1 := r.number(int(kind&3) + 1)
		offsetBytes := int(kind >> 2 & 7)
		if offsetBytes > 0 {
			offsetBytes++
		}
		offset, ok2 := r.number(offsetBytes)
		n, ok3 := uint64(len(r.b)), true
		if kind&withLength != 0 {
			n, ok3 = r.number(2)
		}
		data, ok4 := r.take(n)
		if !ok1 || !ok2 || !ok3 || !ok4 {
			return
		}
		if id == handshake && !c.message.add(offset, data) {
			c.lost++
		}
	}
}

// number reads an unsigned number of n bytes.
func (r *reader) number(n int) (uint64, bool) {
	v, ok := r.take(uint64(n))
	x := uint64(0)
	for _, c := range v {
		x = x<<8 | uint64(c)
	}
	return x, ok
}

// Errors of ServerName.
var (
	ErrIncomplete = errors.New("the CHLO goes on after these bytes")
	ErrNotCHLO    = errors.New("not a CHLO")
)

// ServerName reads the SNI out of a CHLO; nil when it has none. It aliases msg.
func ServerName(msg []byte) ([]byte, error) {
	const tag = "CHLO"
	if n := min(len(msg), len(tag)); string(msg[:n]) != tag[:n] {
		return nil, ErrNotCHLO
	}
	const head, entry = 8, 8
	if len(msg) < head {
		return nil, ErrIncomplete
	}
	count := int(binary.LittleEndian.Uint16(msg[4:]))
	if count > maxEntries {
		return nil, ErrNotCHLO
	}
	values := head + count*entry
	from := uint32(0)
	for i := range count {
		at := head + i*entry
		if len(msg) < at+entry {
			return nil, ErrIncomplete
		}
		to := binary.LittleEndian.Uint32(msg[at+4:])
		if to < from || to > MaxHello {
			return nil, ErrNotCHLO
		}
		if string(msg[at:at+4]) == "SNI\x00" {
			if len(msg) < values+int(to) {
				return nil, ErrIncomplete
			}
			if from == to {
				return nil, nil
			}
			return msg[values+int(from) : values+int(to)], nil
		}
		from = to
	}
	return nil, nil
}
