package daemon

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// markSockets gives sockets a mark before they are used.
func markSockets(mark uint32) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var marked error
		err := c.Control(func(fd uintptr) { marked = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		return errors.Join(err, marked)
	}
}
