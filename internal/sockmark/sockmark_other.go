//go:build !linux

// Package sockmark gives sockets their mark; only Linux has marks.
package sockmark

import (
	"errors"
	"syscall"
)

// Control refuses what this system has no way to do: a packet must not leave by
// another way than it should.
func Control(mark uint32, device string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, _ syscall.RawConn) error {
		if mark != 0 || device != "" {
			return errors.New("marks and devices of sockets need Linux")
		}
		return nil
	}
}
