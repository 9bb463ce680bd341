// Package packet finds the connection and the payload in a captured packet. It
// is pure, allocates nothing, and reads only what lies in the bytes it is given.
//
//	p, ok := packet.Decode(packet.Ethernet, frame, packet.Options{Tunnels: true})
//	if ok && p.Proto == flow.TCP { use(p.Seq, p.Payload) }
package packet

import (
	"encoding/binary"
	"net/netip"

	"netpolicy.dev/netpolicy/flow"
)

// Packet is one IP packet's transport header and payload.
type Packet struct {
	Proto    flow.Proto
	Src, Dst netip.AddrPort // ports are 0 for protocols without ports
	// HasPorts is false for protocols without ports, and for fragments after
	// the first, whose ports are elsewhere.
	HasPorts bool
	DSCP     uint8
	// Seq, Ack and Flags are TCP's; Flags is byte 13 of the header.
	Seq, Ack uint32
	Flags    Flags
	// Payload is the transport payload that was captured; it aliases the input.
	Payload []byte
	// Length is the payload's length on the wire: more than len(Payload) when
	// the capture is cut.
	Length int
	// Size is the IP packet's length on the wire, its header included.
	Size int
	// Fragment is true for IP fragments; the first holds the transport header.
	Fragment bool
}

// Flags are TCP flags (RFC 9293, 3.1).
type Flags uint8

// The flags that matter here.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// LinkType is a LINKTYPE_ value of the pcap registry
// (https://www.tcpdump.org/linktypes.html).
type LinkType uint16

// The link types that are read.
const (
	Null       LinkType = 0   // BSD loopback: host-order family
	Ethernet   LinkType = 1   //
	PPP        LinkType = 9   //
	RawBSD     LinkType = 12  // DLT_RAW on most systems
	RawOpenBSD LinkType = 14  //
	PPPHDLC    LinkType = 50  //
	PPPoE      LinkType = 51  // PPP over Ethernet session header
	Raw        LinkType = 101 //
	IEEE80211  LinkType = 105 //
	Loop       LinkType = 108 // OpenBSD loopback: network-order family
	LinuxSLL   LinkType = 113 // cooked v1
	IPv4       LinkType = 228 //
	IPv6       LinkType = 229 //
	LinuxSLL2  LinkType = 276 // cooked v2
)

// Options say how to decode.
type Options struct {
	// Tunnels looks inside IP-in-IP, 6in4, GRE, VXLAN, GTP-U and CAPWAP, and
	// reports the innermost connection. Off, the tunnel itself is reported:
	// what a router's own policy sees.
	Tunnels bool
}

// maxDepth bounds headers within headers. Deeper nesting than two tunnels with
// their VLAN tags and extension headers does not occur in the wild.
const maxDepth = 16

// decoder carries what a nesting of headers needs.
type decoder struct {
	opt   Options
	depth int
}

// Decode reads a packet of the given link type. It returns false for what is
// not IP, or too short to hold its headers.
func Decode(link LinkType, b []byte, opt Options) (Packet, bool) {
	d := decoder{opt: opt}
	return d.link(link, b)
}

// DecodeIP reads a packet that begins with an IP header.
func DecodeIP(b []byte, opt Options) (Packet, bool) { return Decode(Raw, b, opt) }

func (d *decoder) link(link LinkType, b []byte) (Packet, bool) {
	switch link {
	case Ethernet:
		return d.ethernet(b)
	case Raw, RawBSD, RawOpenBSD, IPv4, IPv6:
		return d.ip(b)
	case Null, Loop:
		if len(b) < 4 {
			return Packet{}, false
		}
		return d.ip(b[4:])
	case LinuxSLL:
		if len(b) < 16 {
			return Packet{}, false
		}
		return d.etherType(binary.BigEndian.Uint16(b[14:]), b[16:])
	case LinuxSLL2:
		if len(b) < 20 {
			return Packet{}, false
		}
		return d.etherType(binary.BigEndian.Uint16(b), b[20:])
	case PPP, PPPHDLC:
		return d.ppp(b)
	case PPPoE:
		return d.pppoe(b)
	case IEEE80211:
		if len(b) < 2 {
			return Packet{}, false
		}
		return d.wifi(b[0], b[1], b)
	default:
		return Packet{}, false
	}
}

// Ethernet types (IEEE 802 registry).
const (
	etherIPv4   = 0x0800
	etherVLAN   = 0x8100
	etherTEB    = 0x6558 // transparent Ethernet bridging, inside GRE
	etherIPv6   = 0x86dd
	etherMPLS   = 0x8847
	etherPPPoE  = 0x8864
	etherQinQ   = 0x88a8
	etherQinQv1 = 0x9100
	etherPPP    = 0x880b // PPP inside GRE
)

func (d *decoder) ethernet(b []byte) (Packet, bool) {
	if len(b) < 14 {
		return Packet{}, false
	}
	return d.etherType(binary.BigEndian.Uint16(b[12:]), b[14:])
}

func (d *decoder) etherType(t uint16, b []byte) (Packet, bool) {
	for {
		if d.depth++; d.depth > maxDepth {
			return Packet{}, false
		}
		switch t {
		case etherIPv4, etherIPv6:
			return d.ip(b)
		case etherVLAN, etherQinQ, etherQinQv1:
			if len(b) < 4 {
				return Packet{}, false
			}
			t, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		case etherMPLS:
			if len(b) < 4 {
				return Packet{}, false
			}
			if bottom := b[2]&1 == 1; bottom {
				return d.ip(b[4:])
			}
			b = b[4:]
		case etherPPPoE:
			return d.pppoe(b)
		case etherPPP:
			return d.ppp(b)
		case etherTEB:
			return d.ethernet(b)
		default:
			return Packet{}, false
		}
	}
}

func (d *decoder) pppoe(b []byte) (Packet, bool) {
	if len(b) < 6 || b[1] != 0 { // code 0: session data
		return Packet{}, false
	}
	return d.ppp(b[6:])
}

// ppp reads the protocol field, after address and control where they are not
// compressed away (RFC 1661, 2; RFC 1662, 3.1).
func (d *decoder) ppp(b []byte) (Packet, bool) {
	if len(b) >= 2 && b[1] == 0x03 && (b[0] == 0xff || b[0] == 0x0f) {
		b = b[2:]
	} else if len(b) >= 4 && b[0] <= 1 && b[2] == 0 && (b[3] == 0x21 || b[3] == 0x57) {
		b = b[2:] // a direction byte and its filler, as some captures have
	}
	switch {
	case len(b) >= 1 && (b[0] == 0x21 || b[0] == 0x57): // compressed protocol field
		return d.ip(b[1:])
	case len(b) >= 2 && b[0] == 0 && (b[1] == 0x21 || b[1] == 0x57):
		return d.ip(b[2:])
	default:
		return Packet{}, false
	}
}

// wifi reads a data frame of IEEE 802.11 with an LLC/SNAP header. The two bytes
// of its frame control are given apart: some access points swap them.
func (d *decoder) wifi(control, flags byte, b []byte) (Packet, bool) {
	const (
		typeData  = 0x08
		qos       = 0x80
		toFromDS  = 0x03
		protected = 0x40
		order     = 0x80
	)
	if len(b) < 24 || control&0x0c != typeData || flags&protected != 0 {
		return Packet{}, false
	}
	n := 24
	if flags&toFromDS == toFromDS {
		n += 6
	}
	if control&qos != 0 {
		n += 2
		if flags&order != 0 {
			n += 4
		}
	}
	if len(b) < n+8 || b[n] != 0xaa || b[n+1] != 0xaa || b[n+2] != 3 {
		return Packet{}, false
	}
	return d.etherType(binary.BigEndian.Uint16(b[n+6:]), b[n+8:])
}

func (d *decoder) ip(b []byte) (Packet, bool) {
	if d.depth++; d.depth > maxDepth || len(b) == 0 {
		return Packet{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return d.ipv4(b)
	case 6:
		return d.ipv6(b)
	default:
		return Packet{}, false
	}
}

func (d *decoder) ipv4(b []byte) (Packet, bool) {
	if len(b) < 20 {
		return Packet{}, false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 { // segmentation offload: the length is not known yet
		total = len(b)
	}
	if head < 20 || total < head || len(b) < head {
		return Packet{}, false
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	p := Packet{
		Proto:    flow.Proto(b[9]),
		Src:      netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0),
		Dst:      netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0),
		DSCP:     b[1] >> 2,
		Size:     total,
		Fragment: fragment&0x3fff != 0,
	}
	return d.transport(p, b[head:min(total, len(b))], total-head, fragment&0x1fff != 0)
}

// IPv6 extension headers (IANA "IPv6 Extension Header Types").
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAuth     = 51
	extDestOpts = 60
)

func (d *decoder) ipv6(b []byte) (Packet, bool) {
	if len(b) < 40 {
		return Packet{}, false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 { // jumbogram or segmentation offload
		length = len(b) - 40
	}
	p := Packet{
		Proto: flow.Proto(b[6]),
		Src:   netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), 0),
		Dst:   netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])).Unmap(), 0),
		DSCP:  uint8(binary.BigEndian.Uint16(b) >> 6 & 0x3f),
		Size:  40 + length,
	}
	rest := b[40:min(40+length, len(b))]
	later := false
	for {
		if d.depth++; d.depth > maxDepth {
			return Packet{}, false
		}
		var n int
		switch p.Proto {
		case extHopByHop, extRouting, extDestOpts:
			if len(rest) < 8 {
				return Packet{}, false
			}
			n = 8 + 8*int(rest[1])
		case extAuth:
			if len(rest) < 8 {
				return Packet{}, false
			}
			n = 8 + 4*int(rest[1])
		case extFragment:
			if len(rest) < 8 {
				return Packet{}, false
			}
			n = 8
			p.Fragment = true
			later = binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0
		default:
			return d.transport(p, rest, length, later)
		}
		if len(rest) < n {
			return Packet{}, false
		}
		p.Proto, rest, length = flow.Proto(rest[0]), rest[n:], length-n
		if later {
			return d.transport(p, rest, length, true)
		}
	}
}

// transport reads the transport header at the front of b; length is what b
// would be uncut, and later is true for fragments after the first.
func (d *decoder) transport(p Packet, b []byte, length int, later bool) (Packet, bool) {
	p.Payload, p.Length = b, length
	if later {
		return p, true
	}
	if d.opt.Tunnels {
		if inner, ok := d.tunnel(p.Proto, b); ok {
			return inner, true
		}
	}
	switch p.Proto {
	case flow.TCP:
		if len(b) < 20 {
			return Packet{}, false
		}
		head := int(b[12]>>4) * 4
		if head < 20 || head > length {
			return Packet{}, false
		}
		p.Seq, p.Ack, p.Flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), Flags(b[13])
		p.Payload, p.Length = b[min(head, len(b)):], length-head
	case flow.UDP:
		if len(b) < 8 {
			return Packet{}, false
		}
		if n := int(binary.BigEndian.Uint16(b[4:])); n >= 8 && n < length {
			length = n
		}
		p.Payload, p.Length = b[8:max(8, min(length, len(b)))], length-8
	default:
		return p, true
	}
	p.ports(b)
	if p.Proto == flow.UDP && d.opt.Tunnels {
		if inner, ok := d.udpTunnel(p); ok {
			return inner, true
		}
	}
	return p, true
}

func (p *Packet) ports(b []byte) {
	p.HasPorts = true
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
}
