package resolver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"netpolicy.dev/netpolicy/internal/sockmark"
	"netpolicy.dev/netpolicy/internal/socks"
)

// target is an upstream's URL, read.
type target struct {
	scheme string
	addrs  []netip.AddrPort
	url    string // https
	tls    *tls.Config
}

// defaultPorts are the ports of each scheme.
var defaultPorts = map[string]uint16{"udp": 53, "tcp": 53, "tls": 853, "https": 443}

func parseUpstream(u Upstream) (target, error) {
	parsed, err := url.Parse(u.URL)
	if err != nil {
		return target{}, fmt.Errorf("read its URL: %w", err)
	}
	t := target{scheme: parsed.Scheme}
	port, known := defaultPorts[t.scheme]
	host := parsed.Hostname()
	switch {
	case !known:
		return t, fmt.Errorf("the scheme %q is none of udp, tcp, tls, https", t.scheme)
	case host == "" || parsed.User != nil:
		return t, fmt.Errorf("%q is not a scheme and a host", u.URL)
	case t.scheme != "https" && (parsed.Path != "" || parsed.RawQuery != ""):
		return t, fmt.Errorf("a path is for https alone, found %q", u.URL)
	case parsed.Fragment != "" && t.scheme != "tls" && t.scheme != "https":
		return t, fmt.Errorf("a name in the certificate is for tls and https, found %q", u.URL)
	}
	if text := parsed.Port(); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return t, fmt.Errorf("%q is no port", text)
		}
		port = uint16(n)
	}
	addrs := u.Bootstrap
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	} else if t.scheme == "udp" || t.scheme == "tcp" {
		return t, fmt.Errorf("%s needs an address, found %q", t.scheme, host)
	} else if len(addrs) == 0 {
		return t, fmt.Errorf("the host %q is a name, and no address of it is given", host)
	}
	for _, a := range addrs {
		t.addrs = append(t.addrs, netip.AddrPortFrom(a.Unmap(), port))
	}
	if t.scheme == "tls" || t.scheme == "https" {
		name := host
		if parsed.Fragment != "" {
			name = parsed.Fragment
		}
		t.tls = &tls.Config{ServerName: name, RootCAs: u.Roots, MinVersion: tls.VersionTLS12}
		parsed.Fragment = ""
		t.url = parsed.String()
	}
	return t, nil
}

func (t target) open(own *ownAddrs, c *Counters) exchanger {
	d := dialer{addrs: t.addrs, own: own}
	switch t.scheme {
	case "udp":
		return &udpUpstream{dialer: d, counters: c, tcp: newStream(d, nil, c)}
	case "https":
		return newHTTPS(d, t.tls, t.url)
	default:
		return newStream(d, t.tls, c)
	}
}

// dialer opens sockets to the addresses of one upstream.
type dialer struct {
	addrs []netip.AddrPort
	own   *ownAddrs
}

// dial opens a socket that takes the route, to the first address that works.
func (d dialer) dial(ctx context.Context, network string, r Route) (net.Conn, error) {
	err := errors.New("no address of the route's family")
	for n, a := range d.addrs {
		to := a
		if r.Server.IsValid() {
			to = r.Server
		}
		if r.Source.IsValid() && r.Source.Is4() != to.Addr().Is4() {
			continue
		}
		attempt, cancel := ctx, func() {}
		if deadline, ok := ctx.Deadline(); ok && n < len(d.addrs)-1 {
			attempt, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(d.addrs)-n))
		}
		nd := net.Dialer{Control: sockmark.Control(r.Mark, r.Device)}
		if r.Source.IsValid() {
			nd.LocalAddr = localAddr(network, r.Source)
		}
		var c net.Conn
		if c, err = nd.DialContext(attempt, network, to.String()); err == nil && r.Server.IsValid() {
			if _, err = socks.Handshake(attempt, c, "", "", socks.Connect, socks.TargetOf(a)); err != nil {
				_ = c.Close()
				err = fmt.Errorf("ask the SOCKS server %v for %v: %w", r.Server, a, err)
			}
		}
		cancel()
		if err == nil {
			return d.watch(c), nil
		}
	}
	return nil, err
}

func localAddr(network string, a netip.Addr) net.Addr {
	if network == "udp" {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
}

// ownConn is a socket of ours while it is open.
type ownConn struct {
	net.Conn
	own  *ownAddrs
	addr netip.AddrPort
}

func (d dialer) watch(c net.Conn) net.Conn {
	o := ownConn{Conn: c, own: d.own, addr: addrPort(c.LocalAddr())}
	d.own.add(o.addr)
	return o
}

func (o ownConn) Close() error {
	o.own.remove(o.addr)
	return o.Conn.Close()
}

// addrPort reads the address of a UDP or TCP socket.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

const (
	// resendAfter is when a question over UDP is sent again, and doubles.
	resendAfter = 700 * time.Millisecond
	// udpBuffer is what a reply over UDP may have; we say 1232 to the upstream.
	udpBuffer = 4096
	// maxMismatched is how many wrong replies one socket bears: then somebody
	// guesses, and the question goes over TCP.
	maxMismatched = 16
)

// udpUpstream asks over UDP, each question from a port of its own, and over TCP
// what UDP could not hold.
type udpUpstream struct {
	dialer
	counters *Counters
	tcp      *stream
}

func (u *udpUpstream) close() { u.tcp.close() }

func (u *udpUpstream) exchange(ctx context.Context, query []byte, r Route) ([]byte, error) {
	if r.Server.IsValid() {
		return u.tcp.exchange(ctx, query, r)
	}
	reply, err := u.overUDP(ctx, query, r)
	if err == nil && (reply == nil || isTruncated(reply)) {
		return u.tcp.exchange(ctx, query, r)
	}
	return reply, err
}

// overUDP returns nil without an error if the reply must be got over TCP.
func (u *udpUpstream) overUDP(ctx context.Context, query []byte, r Route) ([]byte, error) {
	c, err := u.dial(ctx, "udp", r)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	setID(query)
	var buf [udpBuffer]byte
	wrong := 0
	for wait := resendAfter; ; wait *= 2 {
		if _, err := c.Write(query); err != nil {
			return nil, err
		}
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return nil, err
		}
		for {
			if ctx.Err() != nil { // the deadline above may have come after this one's
				return nil, context.Cause(ctx)
			}
			n, err := c.Read(buf[:])
			if isTimeout(err) {
				break
			}
			if err != nil {
				return nil, err
			}
			if matches(buf[:n], query) {
				return append([]byte(nil), buf[:n]...), nil
			}
			u.counters.Mismatched.Add(1)
			if wrong++; wrong >= maxMismatched {
				return nil, nil
			}
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
