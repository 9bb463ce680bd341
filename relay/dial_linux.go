package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/sockmark"
	"netpolicy.dev/netpolicy/internal/socks"
)

const (
	// attemptDelay is how long an address has for itself before the next one is
	// tried beside it (RFC 8305, section 5).
	attemptDelay = 250 * time.Millisecond
	// maxAddrs bounds the addresses of a name that are tried; each takes a socket.
	maxAddrs = 8
)

// stayAlive has the kernel find peers that are gone: after two minutes to four, and
// rarely enough not to keep a phone's radio awake. That it can't is no reason not
// to serve.
func stayAlive(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 20)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 6)
}

var (
	errNoName = errors.New("the name has no address")
	errSelf   = errors.New("that is the relay itself")
	errLocal  = errors.New("this host can't make the socket")
)

// dialer dials for one client by one way.
type dialer struct {
	r      *Relay
	client netip.Addr
	way    *Way
}

// connect opens a TCP connection to t, or to the server before it. addrs are those
// of t's name, if they have been resolved already.
func (d *dialer) connect(ctx context.Context, t target, addrs []netip.Addr, o *Outcome) (*net.TCPConn, error) {
	if d.way.Server.IsValid() {
		return d.through(ctx, d.told(t, addrs), o)
	}
	if t.Name == "" {
		addrs = []netip.Addr{t.Addr}
	} else if addrs == nil {
		var err error
		if addrs, err = d.resolve(ctx, t.Name); err != nil {
			return nil, err
		}
	}
	o.Dst = netip.AddrPortFrom(addrs[0], t.Port)
	c, err := d.race(ctx, addrs, t.Port, o)
	if err != nil {
		return nil, err
	}
	if to, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		o.Dst = unmap(to.AddrPort())
	}
	return c, nil
}

// told is what a server is asked for, in order: the name; or the addresses that the
// decision was about, where it hung on them.
func (d *dialer) told(t target, addrs []netip.Addr) []target {
	if t.Name == "" || len(addrs) == 0 || d.way.SendName {
		return []target{t}
	}
	list := make([]target, len(addrs))
	for i, a := range addrs {
		list[i] = target{Addr: a, Port: t.Port}
	}
	return list
}

// through asks the way's server for each of list until it has one.
func (d *dialer) through(ctx context.Context, list []target, o *Outcome) (c *net.TCPConn, err error) {
	for _, t := range list {
		o.Dst = t.AddrPort()
		c, _, err = d.server(ctx, socks.Connect, t, o)
		var said socks.ServerError
		if !errors.As(err, &said) { // the server has not looked for it: nor would it for the next
			break
		}
	}
	return c, err
}

func (d *dialer) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	list, err := d.r.resolver.Resolve(ctx, d.client, name, d.way)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoName, err)
	}
	list = inOrder(list)
	if len(list) == 0 {
		return nil, errNoName
	}
	return list, nil
}

// inOrder puts addresses into the order in which they are tried: families in
// turn, beginning with that of the first (RFC 8305, section 4).
func inOrder(list []netip.Addr) []netip.Addr {
	var kinds [2][]netip.Addr
	for _, a := range list {
		a = a.Unmap().WithZone("")
		if !a.IsValid() {
			continue
		}
		which := 0
		if first := kinds[0]; len(first) > 0 && first[0].Is4() != a.Is4() {
			which = 1
		}
		if !slices.Contains(kinds[which], a) {
			kinds[which] = append(kinds[which], a)
		}
	}
	var out []netip.Addr
	for i := 0; len(out) < maxAddrs && (i < len(kinds[0]) || i < len(kinds[1])); i++ {
		for _, k := range kinds {
			if i < len(k) {
				out = append(out, k[i])
			}
		}
	}
	return out[:min(len(out), maxAddrs)]
}

// race is happy eyeballs: addresses are tried one after the other, each beside
// those before it once they have taken attemptDelay; the first to answer wins.
func (d *dialer) race(ctx context.Context, addrs []netip.Addr, port uint16, o *Outcome) (*net.TCPConn, error) {
	if len(addrs) == 1 {
		return d.one(ctx, netip.AddrPortFrom(addrs[0], port), o)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   *net.TCPConn
		o   Outcome
		err error
	}
	results := make(chan result, len(addrs)) // every attempt can end without a reader
	next, running := 0, 0
	begin := func() {
		to := netip.AddrPortFrom(addrs[next], port)
		next++
		running++
		go func() {
			var r result
			r.c, r.err = d.one(ctx, to, &r.o)
			results <- r
		}()
	}
	begin()
	delay := time.NewTimer(attemptDelay)
	defer delay.Stop()
	var first error
	var won *result
	for running > 0 {
		select {
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				if first == nil {
					first = r.err
				}
				if won == nil && next < len(addrs) {
					begin()
					delay.Reset(attemptDelay)
				}
			case won != nil:
				_ = r.c.Close() // the second to answer
			default:
				won = &r
				cancel() // the others end at once, and are waited for
			}
		case <-delay.C:
			if won == nil && next < len(addrs) {
				begin()
				delay.Reset(attemptDelay)
			}
		}
	}
	if won == nil {
		return nil, first
	}
	o.RTT, o.Retransmits = won.o.RTT, won.o.Retransmits
	return won.c, nil
}

// one connects to one address.
func (d *dialer) one(ctx context.Context, to netip.AddrPort, o *Outcome) (*net.TCPConn, error) {
	if d.r.isSelf(to) {
		return nil, errSelf
	}
	nd := net.Dialer{KeepAlive: -1, Control: d.control}
	nd.SetMultipathTCP(false)
	if src := d.source(to.Addr()); src.IsValid() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
	}
	c, err := nd.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errLocal // not reached: "tcp" makes these
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			var e End
			tcpInfo(int(fd), &e)
			o.RTT, o.Retransmits = e.RTT, int(e.Retransmits)
		})
	}
	return tcp, nil
}

// source is the address to send from to a.
func (d *dialer) source(a netip.Addr) netip.Addr {
	if a.Is4() {
		return d.way.Src4
	}
	return d.way.Src6
}

// control prepares a socket before it is bound. A socket that can't have its
// mark is not used: its packets would come back to us.
func (d *dialer) control(_, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		stayAlive(int(fd))
		err = d.prepare(int(fd))
	})
	return errors.Join(ctlErr, err)
}

func (d *dialer) prepare(fd int) error {
	mark := d.way.Mark
	if mark == 0 {
		mark = d.r.cfg.Mark
	}
	if err := sockmark.Set(fd, mark); err != nil {
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	if err := sockmark.Bind(fd, d.way.Dev); err != nil {
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	if d.way.Src4.IsValid() || d.way.Src6.IsValid() {
		// The kernel finds the port once it knows the destination, so that one port
		// serves for many. It can't before Linux 4.2.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	return nil
}

// server connects to the way's SOCKS server and asks for t.
func (d *dialer) server(ctx context.Context, command byte, t target, o *Outcome) (*net.TCPConn, netip.AddrPort, error) {
	c, err := d.one(ctx, d.way.Server, o)
	o.RTT = 0 // that of the server, which may be this host
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	bound, err := socks.Handshake(ctx, c, d.way.User, d.way.Password, command, t)
	if err != nil {
		_ = c.Close()
		return nil, netip.AddrPort{}, fmt.Errorf("%w: %w", errServer, err)
	}
	return c, bound.AddrPort(), nil
}

var errServer = errors.New("ask the SOCKS server")

// failureOf says what an error means for the line.
func failureOf(err error) Failure {
	var said socks.ServerError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return Canceled
	case errors.Is(err, errNoName):
		return NoName
	case errors.As(err, &said), errors.Is(err, socks.ErrProtocol):
		return ByServer
	case errors.Is(err, errLocal), errors.Is(err, errSelf), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EMFILE),
		errors.Is(err, unix.ENFILE), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOBUFS):
		return Local
	case isTimeout(err): // ETIMEDOUT is one, too
		return TimedOut
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return Refused
	case errors.Is(err, errServer):
		return ByServer
	default: // EHOSTUNREACH, ENETUNREACH, ENETDOWN, ENODEV, EHOSTDOWN ...
		return Unreachable
	}
}

// systemResolver asks as every program on this host does.
type systemResolver struct{}

func (systemResolver) Resolve(ctx context.Context, _ netip.Addr, name string, way *Way) ([]netip.Addr, error) {
	if way.Server.IsValid() {
		return nil, errors.New("the system's resolver can't be asked through a SOCKS server")
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
