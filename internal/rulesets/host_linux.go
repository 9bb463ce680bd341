package rulesets

import (
	"errors"
	"os"
	"syscall"
)

// readFlags open a file without waiting, should it be a pipe.
const readFlags = os.O_RDONLY | syscall.O_NONBLOCK

// lockFile takes the lock of a cache folder, or fails at once: it is held only
// while files are written. The lock goes with the process.
func lockFile(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another process is writing there")
	}
	return err
}
