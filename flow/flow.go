// Package flow says what a connection is: a comparable value whose facts are
// either known, known to be absent, or not known yet. It reads and writes the
// two spellings people use, one line of text and NDJSON, holds the one function
// through which every name passes, and computes the flow hash as the kernel does.
//
//	f, err := flow.ParseText("tcp 10.0.0.5:5000 > 1.2.3.4:443 sni=us01.zoom.us")
//
// The package is pure: no I/O, no clock, no floats in what it stores.
package flow

import "net/netip"

// Proto is an IP protocol number (IANA "Assigned Internet Protocol Numbers").
type Proto uint8

// The protocols that have a name in policies and in flow text.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
)

// HasPorts reports whether the protocol's header begins with two ports: TCP,
// UDP, DCCP (RFC 4340), SCTP (RFC 9260) and UDP-Lite (RFC 3828). Flows of all
// others have none.
func (p Proto) HasPorts() bool {
	const dccp, sctp, udpLite = 33, 132, 136
	switch p {
	case TCP, UDP, dccp, sctp, udpLite:
		return true
	default:
		return false
	}
}

// MAC is an IEEE 802 48-bit address.
type MAC [6]byte

// String returns the address in lower case with colons: "02:42:ac:11:00:02".
func (m MAC) String() string {
	const hex = "0123456789abcdef"
	b := make([]byte, 0, 3*len(m))
	for i, x := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, hex[x>>4], hex[x&15])
	}
	return string(b)
}

// Flow is everything known about one connection. It is comparable; the zero
// Flow knows nothing. Addresses are unmapped (no IPv4-mapped IPv6), names are
// canonical (see CanonicalName).
type Flow struct {
	// What most decisions read stands first, in as few cache lines as can be.

	Proto            Value[Proto]
	SrcPort, DstPort Value[uint16] // None for protocols without ports
	DSCP             Value[uint8]  // 0..63
	Mark             Value[uint32] // the packet mark it came with

	SNI      Value[string]
	HTTPHost Value[string]
	// Domain, when not unknown, overrides what is derived from SNI, HTTPHost and DNS.
	Domain Value[string]
	// DNS holds the live DNS names of Dst: hints until the real name is known.
	DNS Names

	Dst, Src Value[netip.Addr]

	Latency   Value[int64] // overrides the primary uplink's RTT, microseconds
	ErrorRate Value[int64] // overrides the primary uplink's error rate, parts per million

	// State overrides the global state for this decision: "", or one of
	// NORMAL, DEGRADED, FAILOVER, RECOVERY.
	State string

	RTT         Value[int64]  // this connection's own RTT, microseconds
	Process     Value[string] // the program's name (comm)
	ProcessPath Value[string] // its executable
	User        Value[string] // user name, or the number where there is no name
	Cgroup      Value[string]
	SrcMAC      Value[MAC]
	IfaceIn     Value[string]
	IfaceOut    Value[string]
	Group       Value[string] // of the process: its name, or the number where there is no name
	App         Value[string] // the protocol that was recognised: "bittorrent"
	ALPN        Value[string] // as offered, joined by commas: "h2,http/1.1"
	Country     Value[string] // of Dst, ISO 3166-1 alpha-2 in capitals
	ASN         Value[uint32] // of Dst
	ConnBytes   Value[int64]  // carried so far, both directions
	ConnAge     Value[int64]  // microseconds

	// ID is the caller's label, carried from a flow record to its decision.
	ID string
}
