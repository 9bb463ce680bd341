package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ErrUnsupported means that this kernel has no seccomp filters, or that there is no
// list for this architecture: nothing was installed.
var ErrUnsupported = errors.New("seccomp filters are not supported here")

// Install puts the filter on every thread of this process, for good. It sets
// no_new_privs, so it needs no capability. Minimum kernel: 4.14.
func Install(mode Mode, more ...Group) error {
	if mode == Off {
		return nil
	}
	if !Supported() {
		return fmt.Errorf("%w: no list for %s", ErrUnsupported, runtime.GOARCH)
	}
	program, err := Program(runtime.GOARCH, mode, more...)
	if err != nil {
		return err
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble the seccomp filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// no_new_privs is the thread's; the filter carries it to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_LOG, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(filter)
	switch {
	case errno == unix.ENOSYS, errno == unix.EINVAL:
		return fmt.Errorf("%w: %w", ErrUnsupported, errno)
	case errno != 0:
		return fmt.Errorf("install the seccomp filter: %w", errno)
	case thread != 0:
		return fmt.Errorf("install the seccomp filter: thread %d has another one", thread)
	}
	return nil
}
