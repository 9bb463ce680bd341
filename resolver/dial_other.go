//go:build !linux

package resolver

import (
	"errors"
	"syscall"
)

// control refuses what this system has no way to do: a question must not leave by
// another way than it should.
func (r Route) control(_, _ string, _ syscall.RawConn) error {
	if r.Mark != 0 || r.Device != "" {
		return errors.New("marks and devices of sockets need Linux")
	}
	return nil
}
