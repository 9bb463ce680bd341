package resolver

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// control makes a socket take the route before it is connected.
func (r Route) control(_, _ string, raw syscall.RawConn) error {
	var err error
	e := raw.Control(func(fd uintptr) {
		if r.Mark != 0 {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(r.Mark)); err != nil {
				err = fmt.Errorf("mark the socket: %w", err)
				return
			}
		}
		if r.Device != "" {
			if err = unix.BindToDevice(int(fd), r.Device); err != nil {
				err = fmt.Errorf("bind the socket to %s: %w", r.Device, err)
			}
		}
	})
	return errors.Join(e, err)
}
