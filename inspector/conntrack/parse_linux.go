package conntrack

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/mdlayher/netlink"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

// Attributes of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig     = 1
	ctaStatus        = 3
	ctaMark          = 8
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaID            = 12
	ctaZone          = 18

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaCountersPackets = 1
	ctaCountersBytes   = 2

	// statusSeenReply is IPS_SEEN_REPLY of nf_conntrack_common.h.
	statusSeenReply = 1 << 1
)

// entry is one conntrack entry as a message tells it.
type entry struct {
	key   key
	id    uint32
	mark  uint32
	stats inspector.Stats
}

// key identifies an entry among those alive. Ports are zero without ports.
type key struct {
	proto            flow.Proto
	zone             uint16
	src, dst         netip.Addr
	srcPort, dstPort uint16
}

// compare orders keys.
func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.proto, o.proto), cmp.Compare(k.zone, o.zone), k.src.Compare(o.src), k.dst.Compare(o.dst),
		cmp.Compare(k.srcPort, o.srcPort), cmp.Compare(k.dstPort, o.dstPort))
}

// hasPorts reports whether the protocol's first four bytes are two ports
// (TCP, UDP, DCCP, SCTP, UDP-Lite).
func hasPorts(p flow.Proto) bool {
	switch p {
	case flow.TCP, flow.UDP, 33, 132, 136:
		return true
	}
	return false
}

// flow returns what the key says of the connection.
func (k key) flow() flow.Flow {
	f := flow.Flow{
		Proto: flow.Some(k.proto), Src: flow.Some(k.src), Dst: flow.Some(k.dst),
		SrcPort: flow.Absent[uint16](), DstPort: flow.Absent[uint16](),
	}
	if hasPorts(k.proto) {
		f.SrcPort, f.DstPort = flow.Some(k.srcPort), flow.Some(k.dstPort)
	}
	return f
}

var errNoTuple = errors.New("conntrack message without an original tuple")

// parse reads a message's body: nfgenmsg (4 bytes), then attributes.
func parse(b []byte) (entry, error) {
	var e entry
	if len(b) < 4 {
		return e, errNoTuple
	}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return e, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			ad.Nested(e.key.parse)
		case ctaStatus:
			e.stats.Replied = ad.Uint32()&statusSeenReply != 0
		case ctaMark:
			e.mark = ad.Uint32()
		case ctaID:
			e.id = ad.Uint32()
		case ctaZone:
			e.key.zone = ad.Uint16()
		case ctaCountersOrig:
			ad.Nested(counters(&e.stats.PacketsUp, &e.stats.BytesUp))
		case ctaCountersReply:
			ad.Nested(counters(&e.stats.PacketsDown, &e.stats.BytesDown))
		}
	}
	if err := ad.Err(); err != nil {
		return e, err
	}
	if !e.key.src.IsValid() || !e.key.dst.IsValid() || e.key.proto == 0 {
		return e, errNoTuple
	}
	return e, nil
}

func (k *key) parse(ad *netlink.AttributeDecoder) error {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(k.parseIP)
		case ctaTupleProto:
			ad.Nested(k.parseProto)
		}
	}
	return ad.Err()
}

func (k *key) parseIP(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctaIPv4Src, ctaIPv6Src:
			k.src, _ = netip.AddrFromSlice(ad.Bytes())
		case ctaIPv4Dst, ctaIPv6Dst:
			k.dst, _ = netip.AddrFromSlice(ad.Bytes())
		}
	}
	return ad.Err()
}

func (k *key) parseProto(ad *netlink.AttributeDecoder) error {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaProtoNum:
			k.proto = flow.Proto(ad.Uint8())
		case ctaProtoSrcPort:
			k.srcPort = ad.Uint16()
		case ctaProtoDstPort:
			k.dstPort = ad.Uint16()
		}
	}
	return ad.Err()
}

func counters(packets, bytes *uint64) func(*netlink.AttributeDecoder) error {
	return func(ad *netlink.AttributeDecoder) error {
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			switch ad.Type() {
			case ctaCountersPackets:
				*packets = ad.Uint64()
			case ctaCountersBytes:
				*bytes = ad.Uint64()
			}
		}
		return ad.Err()
	}
}
