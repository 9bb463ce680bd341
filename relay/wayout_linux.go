package relay

import (
	"context"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/socks"
)

// wayOut is a way for datagrams.
type wayOut struct {
	fd, control int
	head        []byte
	from        netip.AddrPort // whom the answers come from, as far as is known
}

func (w *wayOut) close() {
	closeFD(w.fd)
	if w.control >= 0 {
		closeFD(w.control)
	}
}

// datagrams opens a socket for datagrams to t.
func (d *dialer) datagrams(ctx context.Context, t target, addrs []netip.Addr, o *Outcome) (wayOut, error) {
	w := wayOut{control: -1}
	to := t.AddrPort()
	switch {
	case d.way.Server.IsValid():
		t = d.told(t, addrs)[0]
		o.Dst = t.AddrPort()
		c, relay, err := d.server(ctx, socks.Associate, target{Addr: netip.IPv4Unspecified()}, o)
		if err != nil {
			return w, err
		}
		w.control, err = dup(c)
		_ = c.Close()
		if err != nil {
			return w, err
		}
		if to = relay; !to.Addr().IsValid() || to.Addr().IsUnspecified() {
			to = netip.AddrPortFrom(d.way.Server.Addr(), relay.Port())
		}
		w.head, w.from = socks.AppendHead(nil, t), t.AddrPort()
	case t.Name != "":
		if addrs == nil {
			var err error
			if addrs, err = d.resolve(ctx, t.Name); err != nil {
				return w, err
			}
		}
		to = netip.AddrPortFrom(addrs[0], t.Port)
		fallthrough
	default:
		o.Dst, w.from = to, to
	}
	fd, err := d.socket(to)
	if err != nil {
		if w.control >= 0 {
			closeFD(w.control)
		}
		return w, err
	}
	w.fd = fd
	return w, nil
}

// socket makes a UDP socket that is connected to one place.
func (d *dialer) socket(to netip.AddrPort) (int, error) {
	if d.r.isSelf(to) {
		return -1, errSelf
	}
	fd, err := socketFor(to.Addr())
	if err != nil {
		return -1, errors.Join(errLocal, err)
	}
	err = d.prepare(fd)
	if src := d.source(to.Addr()); err == nil && src.IsValid() {
		err = bindTo(fd, netip.AddrPortFrom(src, 0))
	}
	if err == nil {
		err = unix.Connect(fd, unixAddr(to))
	}
	if err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}
