// Package nfqueue asks a program about packets before the kernel lets them on:
// NFQUEUE, over raw nfnetlink_queue (Linux). It owns one queue, reads what of
// each packet is known, and sends the verdicts of all that waited in one message.
//
//	q, err := nfqueue.Open(nfqueue.Options{Queue: 11700})
//	err = q.Run(ctx, func(p *nfqueue.Packet, v *nfqueue.Verdict) {
//		var f flow.Flow
//		if p.Describe(&f) && blocked(&f) {
//			v.Drop = true
//		}
//	})
//
// A packet may also be held (Verdict.Hold) and answered later, with another packet
// (Verdict.Before) or by the clock (Options.Tick); how many are held is for the
// caller to bound.
//
// What is bounded: the packets that wait (QueueLength, and the socket's buffer),
// the bytes of each (Options.Copy), the verdicts of one message (batch). What
// does not fit goes on without a verdict, or is dropped, as Options.FailOpen
// says, and is counted in Counters.Missed.
package nfqueue

import (
	"net/netip"
	"sync/atomic"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/packet"
)

const (
	// Headers is how much of a first packet is copied by default: IP and
	// transport headers, with options and extension headers.
	Headers = 256
	// QueueLength bounds the packets of a queue that wait for a verdict. The
	// buffer holds fewer, so that its overflow, which is counted, comes first.
	QueueLength = 16384
	// TickEvery is how exact the time of held packets is.
	TickEvery = 10 * time.Millisecond
	// readBuffer holds some eight thousand announcements of about 1 KiB each, with
	// their overhead: the new flows of a twentieth of a second.
	readBuffer = 8 << 20
)

// Options say which packets to take, and how.
type Options struct {
	Queue uint16
	Copy  uint32 // bytes of each packet; 0 means Headers
	// FailOpen lets packets go on when the queue is full, as if their verdict had
	// been given without a word; otherwise they are dropped.
	FailOpen bool
	// NetNS is a file descriptor of the network namespace; 0 means the caller's.
	NetNS int
	// ReadBuffer is the socket's buffer in bytes; 0 means 8 MiB.
	ReadBuffer int
	// Tick, if set, is called after packets were judged, and as long as it says more
	// at least every TickEvery: it returns verdicts of packets that were held.
	Tick func() (list []Answer, more bool)
	// Counters, if set, count for several queues together.
	Counters *Counters
}

// Counters say what a queue did. They may be read at any time.
type Counters struct {
	Packets atomic.Uint64 // verdicts given
	Missed  atomic.Uint64 // packets that nobody here saw, because the buffer was full
	Full    atomic.Uint64 // times that the kernel said so (ENOBUFS)
	Bad     atomic.Uint64 // announcements not understood
	Gone    atomic.Uint64 // verdicts that came too late: the packet's device was gone
}

// Packet is what the kernel tells of one packet. It is valid until the function
// that got it returns.
type Packet struct {
	ID     uint32
	Hook   uint8  // NF_INET_*: 0 prerouting, 3 output
	In     uint32 // interface index, 0 for the host's own packets
	Mark   uint32
	UID    uint32 // of the socket, where HasUID is true
	HasUID bool
	MAC    flow.MAC // of who sent it, where HasMAC is true
	HasMAC bool
	// Payload begins with the IP header, and is cut to what was asked for.
	Payload []byte
}

// Verdict is the answer. The zero Verdict lets the packet go on unchanged.
type Verdict struct {
	Drop bool
	// Priority, if not 0, is the packet's new priority (meta priority, SO_PRIORITY).
	// Kernel 5.18; before, it stays as it was.
	Priority uint32
	// Hold gives no verdict now: the packet waits for its Answer. Those whose queue
	// is closed meanwhile are dropped.
	Hold bool
	// Before are answers for packets that were held, given before this verdict.
	Before []Answer
}

// Answer is the verdict of a packet that was held.
type Answer struct {
	ID   uint32
	Drop bool
	// Priority as in Verdict.
	Priority uint32
}

// Describe fills in what the packet's headers tell: protocol, addresses, ports,
// DSCP. It reports whether they could be read, and otherwise leaves *f alone. The
// other facts (interface, mark, user) need names or masks that the caller has.
func (p *Packet) Describe(f *flow.Flow) bool {
	d, ok := packet.DecodeIP(p.Payload, packet.Options{})
	if !ok {
		return false
	}
	src, dst := d.Src, d.Dst
	if !d.HasPorts && d.Proto.HasPorts() && !d.Fragment && len(d.Payload) >= 4 { // SCTP and the like
		src = netip.AddrPortFrom(src.Addr(), uint16(d.Payload[0])<<8|uint16(d.Payload[1]))
		dst = netip.AddrPortFrom(dst.Addr(), uint16(d.Payload[2])<<8|uint16(d.Payload[3]))
		d.HasPorts = true
	}
	f.Proto, f.DSCP = flow.Some(d.Proto), flow.Some(d.DSCP)
	f.Src, f.Dst = flow.Some(src.Addr()), flow.Some(dst.Addr())
	f.SrcPort, f.DstPort = flow.Absent[uint16](), flow.Absent[uint16]()
	if d.HasPorts {
		f.SrcPort, f.DstPort = flow.Some(src.Port()), flow.Some(dst.Port())
	}
	return true
}
