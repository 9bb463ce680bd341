package resolver

import (
	"errors"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlLen is room for the destination of a packet of either family.
const controlLen = 64

// wantDestination asks the kernel for the address that each packet went to.
func wantDestination(c *net.UDPConn, four bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if four {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	return errors.Join(err, failed)
}

// answerFrom turns what the kernel told of a question's destination into what
// makes it send the answer from there, by whatever interface leads to the client.
func answerFrom(control []byte) []byte {
	list, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range list {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			in := (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0]))
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: in.Spec_dst})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			in := (*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0]))
			out := unix.Inet6Pktinfo{Addr: in.Addr}
			if in.Addr[0] == 0xfe && in.Addr[1]&0xc0 == 0x80 {
				out.Ifindex = in.Ifindex // link-local addresses mean nothing without it
			}
			return unix.PktInfo6(&out)
		}
	}
	return nil
}

func transientErrno(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) ||
		errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EINTR)
}
