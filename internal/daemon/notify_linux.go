package daemon

import "golang.org/x/sys/unix"

// monotonicMicros is CLOCK_MONOTONIC, which systemd compares with its own.
func monotonicMicros() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0 // every Linux has the clock
	}
	return t.Nano() / 1000
}
