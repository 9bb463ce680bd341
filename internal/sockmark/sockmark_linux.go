// Package sockmark gives sockets the mark (SO_MARK) by which the table and the
// routing rules know whose they are, before their first packet leaves.
package sockmark

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Set gives a socket its mark; 0 is none. It needs CAP_NET_ADMIN, or CAP_NET_RAW
// since Linux 5.17.
func Set(fd int, mark uint32) error {
	if mark == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("mark a socket with %#x: %w", mark, err)
	}
	return nil
}

// Bind binds a socket to a device; "" is none.
func Bind(fd int, device string) error {
	if device == "" {
		return nil
	}
	if err := unix.BindToDevice(fd, device); err != nil {
		return fmt.Errorf("bind a socket to device %q: %w", device, err)
	}
	return nil
}

// Control is a net.Dialer's or net.ListenConfig's: sockets have the mark and the
// device before they are used, or are not used.
func Control(mark uint32, device string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			if err = Set(int(fd), mark); err == nil {
				err = Bind(int(fd), device)
			}
		})
		return errors.Join(ctl, err)
	}
}
