// Package ebpf observes connections from inside the kernel (Linux 5.14 and
// later), and refuses those of local programs that the policy blocks while they
// connect. It loses no short connection, and knows the program behind each.
//
//	src := ebpf.New(ebpf.Options{Ifaces: []string{"lan0"}})
//	err := src.Run(ctx, emit) // wraps ErrUnsupported where there is no BPF
//	err = src.Enforce(actions.ConnectFor(prog, &host, world))
//
// Each fact has hooks of its own (docs/ebpf.md), which are tried by loading them:
// Features says which facts are served, and why the others are not. Nothing is
// pinned: what was attached ends with the process, however it ends.
//
// Bounds: two rings of 8 MiB, MaxFlows connections known here, 16 KiB and 32 packets
// copied of a connection, 16,384 forwarded connections whose names are awaited. What a
// bound costs is counted in Counters. Connections from before Run are not told:
// sockdiag tells of them.
package ebpf

import (
	"errors"
	"sync/atomic"
	"time"
)

const (
	// every is the default time between samples of round-trip times and bytes.
	every = time.Second
	// maxFlows bounds the connections known by default; one takes about 300 bytes.
	maxFlows = 65536
	// maxPerSocket bounds the flows of one UDP socket that are open at a time.
	maxPerSocket = 64
	// ringSize holds some 55,000 events, or 4,000 ClientHellos with their key shares.
	ringSize = 8 << 20
)

// ErrUnsupported means that this kernel, architecture or process can't use BPF:
// what connections do has to be learned elsewhere.
var ErrUnsupported = errors.New("eBPF is not available")

// Options say how to observe. The zero Options are the defaults, without
// forwarded traffic.
type Options struct {
	// Cgroup is the folder of a version 2 control group: programs in it and below
	// are observed. "" means the topmost.
	Cgroup string
	// Ifaces are where forwarded traffic comes in whose names are wanted.
	Ifaces []string
	// Every is the time between samples; 0 means 1 s.
	Every time.Duration
	// Ring is the size of each of the two rings in bytes, a power of two and whole
	// pages; 0 means 8 MiB.
	Ring int
	// MaxFlows bounds the connections known at a time; 0 means 65,536.
	MaxFlows int
	// Proc is where /proc is; "" means /proc.
	Proc string

	without []string // hooks that are not tried; for tests
}

// Counters say what a source did. They may be read at any time; those that the
// kernel keeps are as of the last sample.
type Counters struct {
	Opened  atomic.Uint64 // connections told
	Closed  atomic.Uint64
	Samples atomic.Uint64 // changes of figures told
	Copies  atomic.Uint64 // packets copied for the sake of names
	Names   atomic.Uint64
	Answers atomic.Uint64
	Full    atomic.Uint64 // connections beyond MaxFlows: told, but without samples

	// Lost are events that the ring had no room for; LostCopies are packets. What
	// was lost of connections is made up for with the next sample, except for those
	// that ended meanwhile.
	Lost       atomic.Uint64
	LostCopies atomic.Uint64
	Refused    atomic.Uint64 // connections refused
}

// Feature is one fact and whether it is served.
type Feature struct {
	Fact string // such as "names of forwarded connections"
	Hook string // such as "tcx/ingress on lan0"; of several ways to serve it the one that is used
	Err  error  // why it is not served; nil: it is
}

func (o *Options) complete() {
	if o.Every <= 0 {
		o.Every = every
	}
	if o.Ring <= 0 {
		o.Ring = ringSize
	}
	if o.MaxFlows <= 0 {
		o.MaxFlows = maxFlows
	}
	if o.Proc == "" {
		o.Proc = "/proc"
	}
}

// Name implements inspector.Source.
func (s *Source) Name() string { return "ebpf" }
