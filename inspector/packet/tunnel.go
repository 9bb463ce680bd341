package packet

import (
	"encoding/binary"

	"netpolicy.dev/netpolicy/flow"
)

// IP protocols that carry packets.
const (
	protoIPIP flow.Proto = 4
	proto6in4 flow.Proto = 41
	protoGRE  flow.Proto = 47
)

// UDP ports of tunnels.
const (
	portGTPU   = 2152
	portVXLAN  = 4789
	portCAPWAP = 5247 // data channel
)

// tunnel looks into protocols that lie directly in IP.
func (d *decoder) tunnel(proto flow.Proto, b []byte) (Packet, bool) {
	switch proto {
	case protoIPIP, proto6in4:
		return d.ip(b)
	case protoGRE:
		return d.gre(b)
	default:
		return Packet{}, false
	}
}

// gre reads RFC 2784 and 2890, and version 1 of PPTP (RFC 2637, 4.1).
func (d *decoder) gre(b []byte) (Packet, bool) {
	if len(b) < 4 {
		return Packet{}, false
	}
	flags, t := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	n := 4
	for _, field := range []uint16{0x8000, 0x2000, 0x1000} { // checksum, key, sequence number
		if flags&field != 0 {
			n += 4
		}
	}
	if version1 := flags&7 == 1; version1 && flags&0x0080 != 0 { // acknowledgement number
		n += 4
	}
	if len(b) < n || flags&0x4000 != 0 { // source routing is gone from the RFC
		return Packet{}, false
	}
	return d.etherType(t, b[n:])
}

// udpTunnel looks into tunnels over UDP.
func (d *decoder) udpTunnel(p Packet) (Packet, bool) {
	has := func(port uint16) bool { return p.Src.Port() == port || p.Dst.Port() == port }
	switch b := p.Payload; {
	case has(portVXLAN) && len(b) >= 8 && b[0] == 0x08: // RFC 7348, 5
		return d.ethernet(b[8:])
	case has(portGTPU):
		return d.gtpu(b)
	case has(portCAPWAP):
		return d.capwap(b)
	default:
		return Packet{}, false
	}
}

// gtpu reads a user packet of GTP version 1 (3GPP TS 29.281, 5.1).
func (d *decoder) gtpu(b []byte) (Packet, bool) {
	const gPDU = 255
	if len(b) < 8 || b[0]>>4 != 3 || b[1] != gPDU {
		return Packet{}, false
	}
	if b[0]&7 == 0 {
		return d.ip(b[8:])
	}
	if len(b) < 12 {
		return Packet{}, false
	}
	next, rest := b[11], b[12:]
	for next != 0 {
		if d.depth++; d.depth > maxDepth || len(rest) < 1 {
			return Packet{}, false
		}
		n := 4 * int(rest[0])
		if n == 0 || len(rest) < n {
			return Packet{}, false
		}
		next, rest = rest[n-1], rest[n:]
	}
	return d.ip(rest)
}

// capwap reads the data channel (RFC 5415, 4.3; RFC 5416): 802.11 frames, with
// their frame control swapped by some vendors, or 802.3 frames.
func (d *decoder) capwap(b []byte) (Packet, bool) {
	if len(b) < 8 || b[0] != 0 { // version 0, clear text header
		return Packet{}, false
	}
	const (
		native   = 0x01 // T, in byte 2: the frame is the binding's own, 802.11
		fragment = 0x80 // F, in byte 3
	)
	n := int(b[1]>>3) * 4
	if n < 8 || len(b) < n+2 || b[3]&fragment != 0 {
		return Packet{}, false
	}
	frame := b[n:]
	if b[2]&native == 0 {
		return d.ethernet(frame)
	}
	if inner, ok := d.wifi(frame[0], frame[1], frame); ok {
		return inner, true
	}
	return d.wifi(frame[1], frame[0], frame)
}
