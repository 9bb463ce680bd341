package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/sockmark"
)

// control binds a socket to the uplink before it is used.
func (p *prober) control(network, address string, raw syscall.RawConn) error {
	return sockmark.Control(p.uplink.Mark, p.uplink.Dev)(network, address, raw)
}

// connect measures from SYN to SYN-ACK, by opening a connection. It is closed
// with a reset, so that nothing stays in TIME_WAIT here or there.
func (p *prober) connect(ctx context.Context, target netip.AddrPort) (time.Duration, error) {
	d := net.Dialer{Control: p.control, KeepAlive: -1}
	began := p.now()
	c, err := d.DialContext(ctx, "tcp", target.String())
	rtt := p.now() - began
	if err != nil {
		return 0, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
	return rtt, nil
}

// family is what differs between the two ICMPs.
type family struct {
	network, any string
	proto        int
	request      icmp.Type
	reply        icmp.Type
}

var (
	family4 = family{"ip4:icmp", "0.0.0.0", unix.IPPROTO_ICMP, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	family6 = family{"ip6:ipv6-icmp", "::", unix.IPPROTO_ICMPV6, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
)

const (
	// tokenSize bytes of chance tell our answers from everyone else's.
	tokenSize = 16
	// maxReply is more than an answer of ours has.
	maxReply = 512
)

// echo measures one echo request. Every probe has a socket, an identifier and
// a token of its own; only the answer with all of them, from the target, counts.
func (p *prober) echo(ctx context.Context, target netip.Addr) (time.Duration, error) {
	f := family4
	if target.Is6() {
		f = family6
	}
	lc := net.ListenConfig{Control: func(n, a string, raw syscall.RawConn) error {
		if err := p.control(n, a, raw); err != nil {
			return err
		}
		return onlyReplies(raw, f)
	}}
	c, err := lc.ListenPacket(ctx, f.network, f.any)
	if err != nil {
		return 0, fmt.Errorf("open ICMP socket: %w", err)
	}
	defer func() { _ = c.Close() }()
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, errors.New("an echo needs a deadline")
	}
	if err := c.SetDeadline(deadline); err != nil {
		return 0, fmt.Errorf("set deadline of ICMP socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var chance [4 + tokenSize]byte
	if _, err := rand.Read(chance[:]); err != nil {
		return 0, fmt.Errorf("draw a token: %w", err)
	}
	want := icmp.Echo{
		ID: int(binary.BigEndian.Uint16(chance[:])), Seq: int(binary.BigEndian.Uint16(chance[2:])), Data: chance[4:],
	}
	request, err := (&icmp.Message{Type: f.request, Body: &want}).Marshal(nil) // the kernel adds ICMPv6's checksum
	if err != nil {
		return 0, fmt.Errorf("build echo request: %w", err)
	}
	began := p.now()
	if _, err := c.WriteTo(request, &net.IPAddr{IP: target.AsSlice(), Zone: target.Zone()}); err != nil {
		return 0, fmt.Errorf("send echo request: %w", err)
	}
	buf := make([]byte, maxReply)
	for {
		n, from, err := c.ReadFrom(buf)
		at := p.now()
		if err != nil {
			return 0, fmt.Errorf("wait for echo reply: %w", err)
		}
		if answers(buf[:n], from, f, target, want) {
			return at - began, nil
		}
	}
}

// answers reports whether a packet is the reply to the request.
func answers(b []byte, from net.Addr, f family, target netip.Addr, want icmp.Echo) bool {
	ip, ok := from.(*net.IPAddr)
	if !ok {
		return false
	}
	if a, ok := netip.AddrFromSlice(ip.IP); !ok || a.Unmap() != target.Unmap().WithZone("") {
		return false
	}
	m, err := icmp.ParseMessage(f.proto, b)
	if err != nil || m.Type != f.reply {
		return false
	}
	got, ok := m.Body.(*icmp.Echo)
	return ok && got.ID == want.ID && got.Seq == want.Seq && bytes.Equal(got.Data, want.Data)
}

// onlyReplies keeps every other ICMP message from the socket: a host gets many.
func onlyReplies(raw syscall.RawConn, f family) error {
	var err error
	e := raw.Control(func(fd uintptr) {
		if f.proto == unix.IPPROTO_ICMPV6 {
			// A set bit blocks a type (RFC 3542, 3.2).
			var filter unix.ICMPv6Filter
			for i := range filter.Data {
				filter.Data[i] = ^uint32(0)
			}
			const reply = 129
			filter.Data[reply/32] &^= 1 << (reply % 32)
			err = unix.SetsockoptICMPv6Filter(int(fd), unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)
			return
		}
		// ICMP_FILTER of linux/icmp.h; echo reply is type 0.
		const level, option = unix.SOL_RAW, 1
		mask := ^uint32(1)
		err = unix.SetsockoptInt(int(fd), level, option, int(int32(mask)))
	})
	if e != nil {
		return e
	}
	if err != nil {
		return fmt.Errorf("filter ICMP socket: %w", err)
	}
	return nil
}
