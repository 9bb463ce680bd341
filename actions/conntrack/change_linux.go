package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/netfilter/nfnetlink_conntrack.h and of
// net/netfilter/nf_internals.h (CTA_FILTER_FLAG), Linux 5.8. Kernels that filter
// by IPv6 addresses take the wrong ones (6.18 does), so we compare them.
const (
	ctaFilter           = 25
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	filterProto         = 1 << 3 // PROTO_NUM
)

// change sends one message for each connection that t stands for, with the
// attributes that add gives. ErrNotFound when there is none.
func (c *Conn) change(kind netlink.HeaderType, t Tuple, add func(*netlink.AttributeEncoder)) error {
	tuples, err := c.tuples(t)
	if err != nil {
		return err
	}
	found := false
	for _, tuple := range tuples {
		ae := netlink.NewAttributeEncoder()
		ae.ByteOrder = binary.BigEndian
		ae.Bytes(unix.NLA_F_NESTED|ctaTupleOrig, tuple)
		add(ae)
		switch err := c.do(kind, t.family(), ae); {
		case err == nil:
			found = true
		case !errors.Is(err, unix.ENOENT):
			return err
		}
	}
	if !found {
		return ErrNotFound
	}
	return nil
}

// tuples returns the encoded original tuples that t stands for: its own, or
// those of all exchanges of ICMP between its addresses.
func (c *Conn) tuples(t Tuple) ([][]byte, error) {
	if !t.anyICMP() {
		ae := netlink.NewAttributeEncoder()
		if err := t.encode(ae); err != nil {
			return nil, err
		}
		b, err := ae.Encode()
		return [][]byte{b}, err
	}
	ae := netlink.NewAttributeEncoder()
	ae.Nested(ctaTupleOrig, t.encode)
	ae.Nested(ctaFilter, func(ae *netlink.AttributeEncoder) error {
		ae.Uint32(ctaFilterOrigFlags, filterProto)
		ae.Uint32(ctaFilterReplyFlags, 0)
		return nil
	})
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	list, err := c.c.Execute(netlink.Message{
		Header: netlink.Header{Type: msgGet, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{t.family(), 0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	var out [][]byte
	for _, m := range list {
		if len(m.Data) < nfgenmsgLen {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[nfgenmsgLen:])
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		for ad.Next() {
			if ad.Type() == ctaTupleOrig && t.between(ad.Bytes()) {
				out = append(out, ad.Bytes())
			}
		}
	}
	return out, nil
}

// between reports whether an encoded tuple has t's protocol and addresses.
func (t *Tuple) between(tuple []byte) bool {
	same := 0
	ad, err := netlink.NewAttributeDecoder(tuple)
	if err != nil {
		return false
	}
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					want := t.Src.Addr()
					if ad.Type() == ctaIPv4Dst || ad.Type() == ctaIPv6Dst {
						want = t.Dst.Addr()
					}
					if bytes.Equal(ad.Bytes(), want.AsSlice()) {
						same++
					}
				}
				return nil
			})
		case ctaTupleProto:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() == ctaProtoNum && ad.Uint8() == t.Proto {
						same++
					}
				}
				return nil
			})
		}
	}
	return ad.Err() == nil && same == 3
}

// nfgenmsgLen is the length of the header of every nfnetlink message.
const nfgenmsgLen = 4

func (t *Tuple) anyICMP() bool {
	return t.Proto == unix.IPPROTO_ICMP && t.ICMPID == 0 && t.ICMPType == 0 ||
		t.Proto == unix.IPPROTO_ICMPV6 && t.ICMPID == 0 && t.ICMPType == 0
}
