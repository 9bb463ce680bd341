package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/sockmark"
)

const (
	// batchSize is how many datagrams one system call takes or gives: beyond that
	// the call itself is a small part of the cost.
	batchSize = 16
	// maxDatagram is the longest payload of a UDP datagram; a loop has buffers for
	// batchSize of them, of which the kernel makes real what is written to.
	maxDatagram = 64 << 10
	// oobSize is room for one original destination: header and sockaddr_in6.
	oobSize = 64
)

// message is struct mmsghdr.
type message struct {
	head unix.Msghdr
	n    uint32
}

// datagrams are the buffers with which a loop takes and gives datagrams. What is
// taken is given before the next is taken.
type datagrams struct {
	taken [batchSize]message
	iov   [batchSize]unix.Iovec
	names [batchSize]unix.RawSockaddrInet6 // has room for IPv4, too
	oob   [batchSize][oobSize]byte
	bufs  [batchSize][]byte

	given    [batchSize]message
	givenIOV [batchSize][2]unix.Iovec
	gathered int
	bytes    int
}

func newDatagrams() *datagrams {
	d := &datagrams{}
	all := make([]byte, batchSize*maxDatagram)
	for i := range d.taken {
		d.bufs[i] = all[i*maxDatagram:][:maxDatagram:maxDatagram]
		d.iov[i].Base = &d.bufs[i][0]
		d.iov[i].SetLen(maxDatagram)
	}
	return d
}

// buffers are the loop's, made when first needed.
func (l *loop) buffers() *datagrams {
	if l.udp == nil {
		l.udp = newDatagrams()
	}
	return l.udp
}

// take takes what has arrived at fd, at most batchSize datagrams.
func (d *datagrams) take(fd int) (int, error) {
	for i := range d.taken {
		h := &d.taken[i].head
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&d.names[i])), unix.SizeofSockaddrInet6
		h.Iov = &d.iov[i]
		h.SetIovlen(1)
		h.Control = &d.oob[i][0]
		h.SetControllen(oobSize)
		h.Flags = 0
	}
	return mmsg(unix.SYS_RECVMMSG, fd, d.taken[:])
}

// mmsg calls recvmmsg or sendmmsg, and never waits.
func mmsg(trap uintptr, fd int, m []message) (int, error) {
	for {
		n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// payload is the i-th datagram that was taken; ok is false for one that was cut.
func (d *datagrams) payload(i int) (b []byte, ok bool) {
	m := &d.taken[i]
	return d.bufs[i][:m.n], m.head.Flags&unix.MSG_TRUNC == 0
}

// from is who sent it.
func (d *datagrams) from(i int) netip.AddrPort { return addrPortOf(&d.names[i]) }

// to is where it was sent to, as the kernel says of datagrams that TPROXY took.
func (d *datagrams) to(i int) (netip.AddrPort, bool) {
	oob := d.oob[i][:d.taken[i].head.Controllen]
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.AddrPort{}, false
		}
		if h.Level == unix.SOL_IP && h.Type == unix.IP_ORIGDSTADDR || h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_ORIGDSTADDR {
			var name unix.RawSockaddrInet6
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&name)), unix.SizeofSockaddrInet6), data)
			a := addrPortOf(&name)
			return a, a.IsValid()
		}
		oob = rest
	}
	return netip.AddrPort{}, false
}

// addrPortOf reads a sockaddr_in or sockaddr_in6.
func addrPortOf(name *unix.RawSockaddrInet6) netip.AddrPort {
	if name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), ntohs(v4.Port))
	}
	if name.Family != unix.AF_INET6 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), ntohs(name.Port))
}

// ntohs turns a number in network order, as it lies in memory, into ours; and back.
func ntohs(n uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return binary.BigEndian.Uint16(b[:])
}

// sockaddr writes a as the kernel reads it, for a socket of its own family. It
// returns the length.
func sockaddr(name *unix.RawSockaddrInet6, a netip.AddrPort) uint32 {
	*name = unix.RawSockaddrInet6{}
	if a.Addr().Is4() {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		v4.Family, v4.Port, v4.Addr = unix.AF_INET, ntohs(a.Port()), a.Addr().As4()
		return unix.SizeofSockaddrInet4
	}
	name.Family, name.Port, name.Addr = unix.AF_INET6, ntohs(a.Port()), a.Addr().As16()
	return unix.SizeofSockaddrInet6
}

// gather adds a datagram to those that send sends: head, which may be empty, and
// payload. name is where it goes, nil on a connected socket. The memory must stay
// as it is until send. There is room for as many as were taken.
func (d *datagrams) gather(head, payload []byte, name *unix.RawSockaddrInet6, nameLen uint32) {
	i := d.gathered
	iov := &d.givenIOV[i]
	n := 0
	for _, part := range [...][]byte{head, payload} {
		if len(part) > 0 {
			iov[n].Base = &part[0]
			iov[n].SetLen(len(part))
			n++
		}
	}
	h := &d.given[i].head
	*h = unix.Msghdr{Iov: &iov[0], Namelen: nameLen}
	h.SetIovlen(n)
	if name != nil {
		h.Name = (*byte)(unsafe.Pointer(name))
	}
	d.gathered++
	d.bytes += len(payload)
}

// send gives what was gathered to fd, and returns how many datagrams, and bytes
// of payload if it was all, went. What the socket does not take is dropped, as a
// full line would.
func (d *datagrams) send(fd int) (sent, bytes int) {
	m, total := d.given[:d.gathered], d.bytes
	d.gathered, d.bytes = 0, 0
	refused := false
	for len(m) > 0 {
		n, err := mmsg(unix.SYS_SENDMMSG, fd, m)
		switch {
		case err == nil:
			sent, m = sent+n, m[n:]
			refused = false
		case errors.Is(err, unix.ECONNREFUSED) && !refused:
			refused = true // the answer to an earlier one
		case errors.Is(err, unix.EMSGSIZE):
			m = m[1:]
		default:
			m = nil
		}
	}
	return sent, total
}

// listenDatagrams opens the UDP half of a TProxy inbound.
func listenDatagrams(at netip.AddrPort, mark uint32) (int, error) {
	fd, err := socketFor(at.Addr())
	if err != nil {
		return -1, err
	}
	level, option := unix.SOL_IP, unix.IP_RECVORIGDSTADDR
	if at.Addr().Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR
	}
	if err = transparent(fd, at.Addr()); err == nil {
		err = unix.SetsockoptInt(fd, level, option, 1)
	}
	if err == nil {
		err = sockmark.Set(fd, mark)
	}
	if err == nil {
		// The default holds a few hundred datagrams; one loop serves all clients.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		err = bindTo(fd, at)
	}
	if err != nil {
		closeFD(fd)
		return -1, err
	}
	return fd, nil
}

// socketFor makes a UDP socket of the address's family.
func socketFor(a netip.Addr) (int, error) {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a UDP socket: %w", err)
	}
	if family == unix.AF_INET6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	return fd, nil
}

func bindTo(fd int, a netip.AddrPort) error {
	if err := unix.Bind(fd, unixAddr(a)); err != nil {
		return fmt.Errorf("bind to %s: %w", a, err)
	}
	return nil
}

func unixAddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func closeFD(fd int) { _ = unix.Close(fd) }
