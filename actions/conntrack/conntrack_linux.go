package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// Numbers of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	msgNew    = unix.NFNL_SUBSYS_CTNETLINK << 8   // and IPCTNL_MSG_CT_NEW, 0
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig = 1
	ctaMark      = 8
	ctaMarkMask  = 21

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src, ctaIPv4Dst, ctaIPv6Src, ctaIPv6Dst = 1, 2, 3, 4

	ctaProtoNum                              = 1
	ctaProtoSrcPort                          = 2
	ctaProtoDstPort                          = 3
	ctaICMPID, ctaICMPType, ctaICMPCode      = 4, 5, 6
	ctaICMPv6ID, ctaICMPv6Type, ctaICMPv6Cod = 7, 8, 9
)

// Tuple is a connection's original direction, as the first packet went.
type Tuple struct {
	Proto    uint8
	Src, Dst netip.AddrPort // ports 0 for protocols without

	// ICMP and ICMPv6 echo have an id, type and code in place of ports. All zero
	// stands for every exchange between the two addresses: a flow of ours is that.
	ICMPID             uint16
	ICMPType, ICMPCode uint8
}

// ErrNotFound means that the connection is gone.
var ErrNotFound = errors.New("no such connection")

// Conn changes connections of the network namespace it was made in.
type Conn struct{ c *netlink.Conn }

// New opens a netlink socket in the current network namespace.
func New() (*Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open conntrack netlink socket: %w", err)
	}
	return &Conn{c}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return c.c.Close() }

// SetMark sets the masked bits of the connection's mark to value.
func (c *Conn) SetMark(t Tuple, value, mask uint32) error {
	err := c.change(msgNew, t, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(ctaMark, value&mask)
		ae.Uint32(ctaMarkMask, mask)
	})
	if err != nil {
		return fmt.Errorf("set conntrack mark of %d %s > %s to %#x/%#x: %w", t.Proto, t.Src, t.Dst, value, mask, err)
	}
	return nil
}

// Flush forgets all connections whose mark under mask is value: their next
// packets are new flows. value 0 is refused, it would be everybody's.
func (c *Conn) Flush(value, mask uint32) error {
	if value&mask == 0 {
		return errors.New("flush conntrack: refusing the mark 0")
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Uint32(ctaMark, value&mask)
	ae.Uint32(ctaMarkMask, mask)
	if err := c.do(msgDelete, unix.AF_UNSPEC, ae); err != nil {
		return fmt.Errorf("flush conntrack by mark %#x/%#x: %w", value, mask, err)
	}
	return nil
}

// Pin sets the route id of the plan's concrete route; see actions.Plan.CTMark.
func (c *Conn) Pin(p *actions.Plan, t Tuple, route int) error {
	mark, ok := p.CTMark(route)
	if !ok {
		return fmt.Errorf("pin flow: the plan does not have route %d", route)
	}
	return c.SetMark(t, mark, p.CTMask)
}

// Block makes the table drop or reject the connection's further packets.
func (c *Conn) Block(p *actions.Plan, t Tuple, reject bool) error {
	return c.SetMark(t, p.BlockMark(reject), p.CTMask)
}

// nfgenmsg is the header of every nfnetlink message: family, version 0, resource id 0.
func (c *Conn) do(kind netlink.HeaderType, family uint8, ae *netlink.AttributeEncoder) error {
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = c.c.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{family, 0, 0, 0}, attrs...),
	})
	return err
}

func (t *Tuple) family() uint8 {
	if t.Src.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (t *Tuple) encode(ae *netlink.AttributeEncoder) error {
	ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
		src, dst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
		if !t.Src.Addr().Is4() {
			src, dst = ctaIPv6Src, ctaIPv6Dst
		}
		ae.Bytes(src, t.Src.Addr().AsSlice())
		ae.Bytes(dst, t.Dst.Addr().AsSlice())
		return nil
	})
	ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
		ae.ByteOrder = binary.BigEndian
		ae.Uint8(ctaProtoNum, t.Proto)
		switch t.Proto {
		case unix.IPPROTO_ICMP:
			ae.Uint16(ctaICMPID, t.ICMPID)
			ae.Uint8(ctaICMPType, t.ICMPType)
			ae.Uint8(ctaICMPCode, t.ICMPCode)
		case unix.IPPROTO_ICMPV6:
			ae.Uint16(ctaICMPv6ID, t.ICMPID)
			ae.Uint8(ctaICMPv6Type, t.ICMPType)
			ae.Uint8(ctaICMPv6Cod, t.ICMPCode)
		default:
			ae.Uint16(ctaProtoSrcPort, t.Src.Port())
			ae.Uint16(ctaProtoDstPort, t.Dst.Port())
		}
		return nil
	})
	return nil
}
