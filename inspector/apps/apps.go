// Package apps recognises protocols by the first bytes of a client, where these
// are more than a guess: each has a fixed text, a magic number, or a header
// whose parts must fit each other. Its names are the values of the field `app` in
// policies. TLS, QUIC and HTTP have packages of their own, because they also
// tell a name.
//
//	app, state := apps.Stream(bytes)
//
// It is pure, allocates nothing, and looks at a few dozen bytes.
package apps

import "encoding/binary"

// The values of the field `app` in policies.
const (
	BitTorrent = "bittorrent"
	DNS        = "dns"
	DTLS       = "dtls"
	HTTP       = "http" // HTTP/1, and HTTP/2 without TLS
	QUIC       = "quic"
	SSH        = "ssh"
	STUN       = "stun"
	TLS        = "tls"
	WireGuard  = "wireguard"
)

// Stream recognises the beginning of a client's TCP stream: SSH, BitTorrent, DNS
// and STUN. It returns "" for none; then more says whether further bytes could
// still make it one.
func Stream(b []byte) (app string, more bool) {
	for _, k := range streamTexts {
		n := min(len(k.text), len(b))
		if string(b[:n]) != k.text[:n] {
			continue
		}
		if n == len(k.text) {
			return k.app, false
		}
		more = true
	}
	if app, m := dnsStream(b); app != "" {
		return app, false
	} else if m {
		more = true
	}
	if app, m := stunStream(b); app != "" {
		return app, false
	} else if m {
		more = true
	}
	return "", more
}

// streamTexts begin a stream: RFC 4253, 4.2; BEP 3.
var streamTexts = [...]struct{ text, app string }{
	{"SSH-", SSH},
	{"\x13BitTorrent protocol", BitTorrent},
}

// Datagram recognises a client's UDP datagram: DTLS, STUN, WireGuard, DNS and
// BitTorrent. It returns "" for none.
func Datagram(b []byte) (app string) {
	switch {
	case isDTLS(b):
		return DTLS
	case isSTUN(b) && len(b) == stunHeader+int(binary.BigEndian.Uint16(b[2:])):
		return STUN
	case isWireGuard(b):
		return WireGuard
	case isDNS(b):
		return DNS
	case isBitTorrent(b):
		return BitTorrent
	default:
		return ""
	}
}

// isDTLS knows the record header (RFC 6347, 4.1): a handshake, DTLS 1.0 or 1.2,
// epoch 0, a length that fits, a ClientHello.
func isDTLS(b []byte) bool {
	const header, clientHello = 13, 1
	return len(b) > header && b[0] == 22 && b[1] == 0xfe && (b[2] == 0xff || b[2] == 0xfd) &&
		b[3] == 0 && b[4] == 0 && header+int(binary.BigEndian.Uint16(b[11:])) <= len(b) && b[header] == clientHello
}

const (
	stunHeader = 20
	stunCookie = 0x2112a442 // RFC 8489, 5
	stunNot    = 0xc1       // bits that are not set: two of the format, and that of a response
)

// isSTUN knows the header of a STUN request or indication (RFC 8489, 5). The
// older kind without the cookie (RFC 3489) has nothing to know it by.
func isSTUN(b []byte) bool {
	return len(b) >= stunHeader && b[0]&stunNot == 0 && b[3]&3 == 0 && binary.BigEndian.Uint32(b[4:]) == stunCookie
}

// stunStream knows STUN and TURN over TCP: the same header.
func stunStream(b []byte) (app string, more bool) {
	if isSTUN(b) {
		return STUN, false
	}
	if len(b) >= stunHeader || len(b) > 0 && b[0]&stunNot != 0 || len(b) > 3 && b[3]&3 != 0 {
		return "", false
	}
	var cookie [4]byte
	binary.BigEndian.PutUint32(cookie[:], stunCookie)
	for i := 4; i < min(len(b), 8); i++ {
		if b[i] != cookie[i-4] {
			return "", false
		}
	}
	return "", true
}

// isWireGuard knows the four messages by type, reserved zeros and length
// (WireGuard's paper, 5.4): initiation, response, cookie, and data, which is padded.
func isWireGuard(b []byte) bool {
	if len(b) < 32 || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return false
	}
	switch b[0] {
	case 1:
		return len(b) == 148
	case 2:
		return len(b) == 92
	case 3:
		return len(b) == 64
	case 4:
		return len(b)%16 == 0
	default:
		return false
	}
}

// isBitTorrent knows what runs over UDP: the DHT (BEP 5: bencoded, keys in
// order), a tracker's connect request (BEP 15), and the first packet of uTP (BEP
// 29), whose numbers are fixed. Encrypted BitTorrent can't be told.
func isBitTorrent(b []byte) bool {
	for _, t := range [...]string{"d1:ad2:id20:", "d1:rd2:id20:", "BT-SEARCH * HTTP/1.1\r\n"} {
		if len(b) >= len(t) && string(b[:len(t)]) == t {
			return true
		}
	}
	const connect = "\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00"
	if len(b) == 16 && string(b[:len(connect)]) == connect {
		return true
	}
	const (
		utpHeader = 20
		synV1     = 0x41
	)
	return len(b) >= utpHeader && b[0] == synV1 && b[1] <= 2 &&
		binary.BigEndian.Uint32(b[8:]) == 0 && // no delay measured yet
		binary.BigEndian.Uint16(b[16:]) == 1 && binary.BigEndian.Uint16(b[18:]) == 0 && // sequence, acknowledged
		(b[1] != 0 || len(b) == utpHeader)
}

// dnsHeader is RFC 1035, 4.1.1.
const dnsHeader = 12

// maxQuery bounds a question over TCP. Questions are under 300 bytes with their
// options, and no text begins with a number as small.
const maxQuery = 1024

// dnsStream knows a question over TCP by its length and header.
func dnsStream(b []byte) (app string, more bool) {
	if len(b) < 2 {
		return "", len(b) == 0 || int(b[0])<<8 < maxQuery
	}
	n := int(binary.BigEndian.Uint16(b))
	if n < dnsHeader+5 || n > maxQuery {
		return "", false
	}
	msg := b[2:min(len(b), 2+n)]
	if !dnsStart(msg, false) {
		return "", false
	}
	if len(msg) < n {
		return "", true
	}
	if isDNS(msg) {
		return DNS, false
	}
	return "", false
}

// dnsStart checks as much of a header as is there; answers are only for datagrams.
func dnsStart(b []byte, answers bool) bool {
	for i, c := range b[:min(len(b), dnsHeader)] {
		switch i {
		case 2: // QR, OPCODE 0, AA, TC, RD
			if c&0x78 != 0 || c&0x80 != 0 && !answers {
				return false
			}
		case 3: // RA, Z, AD, CD, RCODE
			if c&0x40 != 0 {
				return false
			}
		case 4, 8: // more than 255 questions or authorities
			if c != 0 {
				return false
			}
		case 5:
			if c != 1 {
				return false
			}
		case 10: // additional records: options, a signature
			if c != 0 {
				return false
			}
		case 6, 7, 9, 11:
			if b[2]&0x80 == 0 && c > 2 {
				return false
			}
		}
	}
	return true
}

// isDNS knows one question, or its answer: the header, and a name that ends, with
// a type and a class that exist.
func isDNS(b []byte) bool {
	if len(b) < dnsHeader+5 || !dnsStart(b, true) {
		return false
	}
	at := dnsHeader
	for b[at] != 0 {
		at += 1 + int(b[at])
		const maxLabel, maxName = 63, 255
		if at >= len(b) || b[at] > maxLabel || at-dnsHeader > maxName {
			return false
		}
	}
	if len(b) < at+5 {
		return false
	}
	class := binary.BigEndian.Uint16(b[at+3:]) &^ 0x8000 // the top bit is mDNS's
	return binary.BigEndian.Uint16(b[at+1:]) != 0 && (class == 1 || class == 3 || class == 4 || class == 255)
}
