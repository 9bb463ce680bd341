// Package seccomp lets a process do away with the syscalls that it does not need.
// netpolicyd holds CAP_NET_ADMIN and reads what strangers send; whoever takes it
// over shall not find mount, ptrace, module loading or new namespaces at hand.
//
//	if err := seccomp.Install(seccomp.On); err != nil { ... }
//
// The filter is an allow-list. A call that it refuses fails with EPERM, is written
// to the kernel's log (audit type 1326), and ends nothing: what comes of it is an
// error message. Calls newer than Linux 5.0 fail with ENOSYS instead, because
// libraries then take the older one. All threads get the filter at once, every
// program that is started inherits it, and nothing takes it away again. It also
// sets no_new_privs.
package seccomp

import (
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/net/bpf"
)

// Mode says what becomes of calls that are not on the list. The zero Mode is Off.
type Mode uint8

// The modes.
const (
	// Off installs nothing.
	Off Mode = iota
	// Log lets them pass and has the kernel log them: to find what is missing.
	Log
	// On refuses them.
	On
)

// ParseMode reads off, log or on.
func ParseMode(s string) (Mode, error) {
	for m := Off; m <= On; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return Off, fmt.Errorf("%q: want on, log or off", s)
}

// String returns off, log or on.
func (m Mode) String() string {
	switch m {
	case Log:
		return "log"
	case On:
		return "on"
	default:
		return "off"
	}
}

// arch is what differs between architectures.
type arch struct {
	audit uint32 // AUDIT_ARCH_* of linux/audit.h
	x32   bool   // has a second ABI under the same audit number
	nr    func(call) int
}

var arches = map[string]arch{
	"amd64": {0xc000003e, true, func(c call) int { return c.amd64 }},
	"arm64": {0xc00000b7, false, func(c call) int { return c.arm64 }},
}

// Supported reports whether there is a filter for this architecture.
func Supported() bool {
	_, ok := arches[runtime.GOARCH]
	return ok
}

// Of struct seccomp_data in linux/seccomp.h. The arguments have 64 bits; both
// architectures are little-endian, so the low half of the first is here.
const (
	offNumber = 0
	offArch   = 4
	offArg0   = 16
)

// Return values of linux/seccomp.h, and errors of asm-generic/errno-base.h.
const (
	retAllow = 0x7fff0000
	retLog   = 0x7ffc0000
	retErrno = 0x00050000
	eperm    = 1
	enosys   = 38
)

const (
	// x32Bit marks the numbers of the x32 ABI (asm/unistd.h).
	x32Bit = 0x40000000
	// firstNew is pidfd_send_signal, the first call of Linux 5.1; from there on the
	// numbers are the same on all architectures.
	firstNew = 424
	// newSpaces are the CLONE_NEW* of linux/sched.h that clone can be asked for.
	newSpaces = 0x7e020000
)

// families are the sockets that may be made: AF_UNIX, AF_INET, AF_INET6,
// AF_NETLINK and AF_PACKET of linux/socket.h. So there is no AF_ALG, no AF_VSOCK, no AF_BLUETOOTH.
var families = []uint32{1, 2, 10, 16, 17}

// span is a run of call numbers.
type span struct{ lo, hi uint32 }

// spans returns the numbers of the allowed calls and more, as few runs as they make.
func spans(a arch, more []Group) []span {
	var numbers []int
	for _, c := range slices.Concat(allowed, slices.Concat(more...)) {
		if n := a.nr(c); n != none {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var out []span
	for _, n := range numbers {
		if last := len(out) - 1; last >= 0 && out[last].hi+1 >= uint32(n) {
			out[last].hi = uint32(n)
		} else {
			out = append(out, span{uint32(n), uint32(n)})
		}
	}
	return out
}

// Program returns the filter of an architecture (a GOARCH) as a classic BPF
// program over struct seccomp_data. Beside the list it allows clone without new
// namespaces, and sockets of a few families. clone3 has its flags in memory, which a
// filter can't read: it fails with ENOSYS, and libraries then use clone.
func Program(goarch string, mode Mode, more ...Group) ([]bpf.Instruction, error) {
	a, ok := arches[goarch]
	if !ok {
		return nil, fmt.Errorf("no seccomp filter for %s", goarch)
	}
	refuse, absent := bpf.RetConstant{Val: retErrno | eperm}, bpf.RetConstant{Val: retErrno | enosys}
	if mode == Log {
		refuse, absent = bpf.RetConstant{Val: retLog}, bpf.RetConstant{Val: retLog}
	}
	allow := bpf.RetConstant{Val: retAllow}
	equal := func(n uint32, skipFalse uint8) bpf.JumpIf {
		return bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: skipFalse}
	}
	least := func(n uint32, skipFalse uint8) bpf.JumpIf {
		return bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: n, SkipFalse: skipFalse}
	}
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.audit, SkipTrue: 1},
		refuse, // a program of another ABI, such as i386
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}
	if a.x32 {
		p = append(p, least(x32Bit, 1), refuse)
	}
	for _, c := range []call{socket, socketpair} {
		p = append(p, equal(uint32(a.nr(c)), uint8(2+2*len(families))), bpf.LoadAbsolute{Off: offArg0, Size: 4})
		for _, f := range families {
			p = append(p, equal(f, 1), allow)
		}
		p = append(p, refuse)
	}
	p = append(p,
		equal(uint32(a.nr(clone)), 4),
		bpf.LoadAbsolute{Off: offArg0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: newSpaces, SkipFalse: 1},
		refuse, allow,
		equal(uint32(a.nr(clone3)), 1), absent,
	)
	for _, s := range spans(a, more) {
		if s.lo == s.hi {
			p = append(p, equal(s.lo, 1), allow)
			continue
		}
		p = append(p, least(s.lo, 2), bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: s.hi, SkipTrue: 1}, allow)
	}
	return append(p, least(firstNew, 1), absent, refuse), nil
}
