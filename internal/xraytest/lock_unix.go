//go:build unix

package xraytest

import (
	"os"
	"syscall"
)

// lock waits until no other test builds, in this process or another. Closing the
// file lets the next one go on.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
