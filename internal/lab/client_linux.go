package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Client is the machine behind the gateway.
type Client struct{ l *Lab }

// Client returns the lab's client.
func (l *Lab) Client() *Client { return &Client{l} }

// portSource gives each connection its own source port, in order, so that what
// a flow hash chooses is the same in every run.
type portSource struct{ next atomic.Uint32 }

// The source ports run from firstPort and wrap below the kernel's ephemeral range.
const firstPort, portRange = 20001, 12000

func (p *portSource) take() int { return firstPort + int((p.next.Add(1)-1)%portRange) }

// Dial connects from the client to an address ("203.0.113.10:443"; names are
// not resolved) over "tcp" or "udp".
func (c *Client) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, _, err := c.dial(ctx, network, addr)
	return conn, err
}

// dial also returns the local address, which a connection that fails has too.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, netip.AddrPort, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, netip.AddrPort{}, fmt.Errorf("dial: %w", err)
	}
	from := netip.MustParseAddr(clientAddr4)
	if to.Addr().Is6() {
		from = netip.MustParseAddr(clientAddr6)
	}
	local := netip.AddrPortFrom(from, uint16(c.l.ports.take()))
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local), KeepAlive: -1}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(local)
	}
	d.SetMultipathTCP(false)
	var conn net.Conn
	err = c.l.client.do(func() error {
		var err error
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, local, err
}

// TLS makes a TLS session with the given server name over conn. The servers'
// certificates are their own, so nothing is verified.
func (c *Client) TLS(ctx context.Context, conn net.Conn, sni string) (net.Conn, error) {
	t := tls.Client(conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true}) //nolint:gosec // a lab of our own
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// Resolve asks the lab's resolver, through the gateway, for a name's address.
// An address is returned as it is. A question that gets no answer is repeated
// each second until ctx ends.
func (c *Client) Resolve(ctx context.Context, name string, v6 bool) (netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a, nil
	}
	server := Resolver4
	if v6 {
		server = Resolver6
	}
	for {
		a, err := c.resolveAt(ctx, server, name, v6)
		var timeout net.Error
		if err == nil || ctx.Err() != nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			return a, err
		}
	}
}

func (c *Client) resolveAt(ctx context.Context, server, name string, v6 bool) (netip.Addr, error) {
	conn, err := c.Dial(ctx, "udp", netip.AddrPortFrom(netip.MustParseAddr(server), portDNS).String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", name, err)
	}
	defer conn.Close()
	kind := dnsmessage.TypeA
	if v6 {
		kind = dnsmessage.TypeAAAA
	}
	qname, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", name, err)
	}
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: qname, Type: kind, Class: dnsmessage.ClassINET}},
	}
	packet, err := question.Pack()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", name, err)
	}
	deadline := time.Now().Add(time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetDeadline(deadline)
	if _, err := conn.Write(packet); err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", name, err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", name, err)
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(buf[:n]); err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", name, err)
	}
	for _, r := range answer.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A), nil
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("resolve %s: %v", name, answer.RCode)
}

// payload is what a measured connection sends: far more than what probes and
// names send in that time.
const payload = 64 << 10

// datagram is the size of the datagrams of exchangeUDP: it fits every path.
const datagram = 1024

// exchange sends size bytes and waits until they have come back. Over UDP one
// datagram that returns is enough, as datagrams may be lost.
func exchange(conn net.Conn, size int, deadline time.Time) error {
	conn.SetDeadline(deadline)
	if conn.LocalAddr().Network() == "udp" {
		return exchangeUDP(conn, size)
	}
	return echoed(conn, make([]byte, size))
}

// echoed sends data and waits until the same has come back.
func echoed(conn net.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	back := make([]byte, len(data))
	_, err := io.ReadFull(conn, back)
	switch {
	case err != nil:
		conn.SetDeadline(time.Now()) // end the writer too
	case !bytes.Equal(back, data):
		err = errors.New("other bytes came back than were sent")
	}
	return errors.Join(err, <-sent)
}

func exchangeUDP(conn net.Conn, size int) error {
	for range size / datagram {
		if _, err := conn.Write(make([]byte, datagram)); err != nil {
			return err
		}
	}
	_, err := conn.Read(make([]byte, datagram))
	return err
}
