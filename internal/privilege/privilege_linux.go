// Package privilege tells which capabilities a process has, by name. netpolicyd
// needs two or four of them and not root, and says which one is missing instead of
// "operation not permitted".
package privilege

import (
	"fmt"
	"math/bits"
	"strings"

	"golang.org/x/sys/unix"
)

// Cap is a capability by its number in linux/capability.h.
type Cap uint8

// The capabilities that netpolicyd knows what to do with.
const (
	NetAdmin  Cap = unix.CAP_NET_ADMIN
	NetRaw    Cap = unix.CAP_NET_RAW
	SysPtrace Cap = unix.CAP_SYS_PTRACE
	Perfmon   Cap = unix.CAP_PERFMON
	BPF       Cap = unix.CAP_BPF
)

// String returns the name, such as CAP_NET_ADMIN.
func (c Cap) String() string {
	switch c {
	case NetAdmin:
		return "CAP_NET_ADMIN"
	case NetRaw:
		return "CAP_NET_RAW"
	case SysPtrace:
		return "CAP_SYS_PTRACE"
	case Perfmon:
		return "CAP_PERFMON"
	case BPF:
		return "CAP_BPF"
	default:
		return fmt.Sprintf("capability %d", uint8(c))
	}
}

// Set is a set of capabilities. The zero Set is empty.
type Set uint64

// Of returns the set of the given capabilities.
func Of(list ...Cap) Set {
	var s Set
	for _, c := range list {
		s |= 1 << c
	}
	return s
}

// Effective returns what this process may use now.
func Effective() (Set, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read this process's capabilities: %w", err)
	}
	return Set(data[1].Effective)<<32 | Set(data[0].Effective), nil
}

// Has reports whether c is in the set.
func (s Set) Has(c Cap) bool { return s&(1<<c) != 0 }

// Missing returns those of want that are not in the set.
func (s Set) Missing(want Set) Set { return want &^ s }

// String lists the names: "CAP_NET_ADMIN, CAP_NET_RAW".
func (s Set) String() string {
	var names []string
	for rest := uint64(s); rest != 0; rest &= rest - 1 {
		names = append(names, Cap(bits.TrailingZeros64(rest)).String())
	}
	return strings.Join(names, ", ")
}
