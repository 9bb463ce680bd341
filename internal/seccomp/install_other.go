//go:build !linux

package seccomp

import "errors"

// ErrUnsupported means that nothing was installed.
var ErrUnsupported = errors.New("seccomp filters are Linux's alone")

// Install is of Linux alone.
func Install(mode Mode, _ ...Group) error {
	if mode == Off {
		return nil
	}
	return ErrUnsupported
}
