// Package inspector is how the engine learns of connections. A Source observes
// and emits events; each event carries what is known of one flow so far. Below
// it, tlshello, dns and packet are pure parsers, sniff turns packets into
// events, and conntrack, sockdiag, afpacket, nflog, replay and mock are sources.
//
//	src := conntrack.New(conntrack.Options{})
//	err := src.Run(ctx, func(e inspector.Event) { queue.Offer(e) })
//
// Sources never decide and never enforce. Every table they keep is bounded,
// and what a bound made them lose is counted.
package inspector

import (
	"context"
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/flow"
)

// Kind says what an event tells.
type Kind uint8

// The kinds of events. The zero Kind is Open.
const (
	// Open: a connection seen for the first time by this source.
	Open Kind = iota
	// Name: the SNI or the Host is learned, or known to be absent.
	Name
	// Update: round-trip time, bytes, retransmits or mark changed.
	Update
	// Close: the connection is gone. Its Stats are the last ones known.
	Close
	// Answered: a DNS answer was seen; only Answer is set.
	Answered
	// Logged: the kernel logged a packet through an nflog group.
	Logged
)

var kindNames = [...]string{"open", "name", "update", "close", "answer", "logged"}

// String returns the kind in lower case, as NDJSON spells it.
func (k Kind) String() string {
	if int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// ParseKind reads what String writes.
func ParseKind(s string) (Kind, bool) {
	for i, n := range kindNames {
		if n == s {
			return Kind(i), true
		}
	}
	return 0, false
}

// Event is one observation.
type Event struct {
	Kind Kind
	// At is when the source saw it; for replay, the packet's own time.
	At time.Time
	// Source is the source's name: conntrack, sockdiag, afpacket, replay, mock, nflog.
	Source string
	// Flow is what is known; facts that the source cannot know stay unknown.
	// Src is the side that opened the connection.
	Flow flow.Flow
	// Stats is set for Update and Close, and for an Open of a connection that
	// was under way already.
	Stats Stats
	// Answer is set for kind Answered alone.
	Answer Answer
	// Mark is the conntrack mark where the source knows it, else 0.
	Mark uint32
	// Prefix is the log prefix of a Logged event.
	Prefix string
	// ECH is true when the ClientHello has an encrypted part, in which another
	// name may lie: Flow.SNI is the outer one. GREASE looks the same (RFC 9849,
	// 6.2). For kind Answered: the answer gives out the keys for that.
	ECH bool
	// Hello is set by sources that were asked for such details, else nil.
	Hello *Hello
	// PID is the number of the process that owns the socket, where the source can
	// tell it for sure (ebpf), else 0.
	PID uint32
	// Earlier is true for an Open that found a connection under way, from before
	// the source began. Where a source can't tell, it is false.
	Earlier bool
}

// Stats are running figures of a connection. Zero means not known (or none
// yet); counters only grow during a connection's life.
type Stats struct {
	RTT, MinRTT            time.Duration
	Retrans                uint64 // segments sent again
	BytesUp, BytesDown     uint64 // up: from Src to Dst
	PacketsUp, PacketsDown uint64
	// Replied is true when the far end has sent anything. A Close without it is
	// a failed dial, where the source can tell (conntrack).
	Replied bool
	// Reset is true for a Close by RST, from either end, where the source can tell (ebpf).
	Reset bool
}

// Hello is what people ask of a ClientHello beside its names, and no rule does. ""
// is not known. It is not changed once it is in an event.
type Hello struct {
	// TLS is the highest version offered: "1.3".
	TLS string `json:"tls,omitempty"`
	// QUIC is the version of the packets that carry it: "1", "2", "draft-29",
	// "Q046". It may be known without the rest.
	QUIC string `json:"quic,omitempty"`
	// JA4 is the fingerprint of the program that sent it.
	JA4 string `json:"ja4,omitempty"`
}

// Answer is one DNS answer, its CNAME chain resolved to the name that was asked for.
type Answer struct {
	Name  string // canonical
	Addrs []netip.Addr
	// TTL is the least TTL along the chain, as sent (see ClampTTL).
	TTL time.Duration
	// ALPN are the protocols that the first HTTPS or SVCB record offers besides
	// the default, joined by commas.
	ALPN string
}

// Source observes connections.
type Source interface {
	// Name is what events carry in their Source field.
	Name() string
	// Run observes until ctx ends, and returns having stopped all it started:
	// nil when ctx ended it (or, for replay, at the end of the input), else what
	// made it impossible to go on. emit must not block; it is called from one
	// goroutine at a time.
	Run(ctx context.Context, emit func(Event)) error
}

// Counted is a Source that says what its bounds, or the kernel's, have made it
// lose since it was made, by why. It is safe for concurrent use.
type Counted interface {
	Losses() map[string]uint64
}
