//go:build amd64 || arm64

package ebpf

import (
	"net/netip"
	"time"
	"unsafe"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
)

// tell emits what a record says.
func (r *run) tell(kind inspector.Kind, e *observeEvent) {
	ev := inspector.Event{Kind: kind, At: time.Now(), Source: r.source.Name(), Flow: r.flow(e), PID: e.Owner.Pid}
	if kind != inspector.Open {
		ev.Stats = statsOf(e)
	}
	if e.Stats.Rtt > 0 {
		ev.Flow.RTT = flow.Some(int64(e.Stats.Rtt / rttUnit))
	}
	r.emit(ev)
}

// rttUnit is the part of a microsecond in which the kernel keeps smoothed times.
const rttUnit = 8

// flow is what a record says of the connection.
func (r *run) flow(e *observeEvent) flow.Flow {
	local, remote := address(e.Local, e.V6 != 0), address(e.Remote, e.V6 != 0)
	f := flow.Flow{
		Proto: flow.Some(flow.Proto(e.Proto)),
		Src:   flow.Some(local), SrcPort: flow.Some(e.Lport),
		Dst: flow.Some(remote), DstPort: flow.Some(e.Rport),
	}
	if e.Flags&flagAccepted != 0 {
		f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	}
	if e.Flags&flagOwned != 0 {
		r.programs.describe(&f, &e.Owner)
	}
	return f
}

// address reads an address as the kernel has it: IPv4 in the first word.
func address(words [4]uint32, v6 bool) netip.Addr {
	b := *(*[16]byte)(unsafe.Pointer(&words))
	if !v6 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b).Unmap()
}

// statsOf turns the kernel's figures into those of who opened the connection.
func statsOf(e *observeEvent) inspector.Stats {
	k := &e.Stats
	s := inspector.Stats{
		RTT: time.Duration(k.Rtt/rttUnit) * time.Microsecond, Retrans: uint64(k.Retrans),
		BytesUp: k.Up, BytesDown: k.Down, PacketsUp: uint64(k.SegsOut), PacketsDown: uint64(k.SegsIn),
		Replied: k.SegsIn > 0, Reset: e.Reset != 0,
	}
	if k.MinRtt != ^uint32(0) { // else not measured yet
		s.MinRTT = time.Duration(k.MinRtt) * time.Microsecond
	}
	if e.Flags&flagAccepted != 0 {
		s.BytesUp, s.BytesDown = s.BytesDown, s.BytesUp
		s.PacketsUp, s.PacketsDown = s.PacketsDown, s.PacketsUp
	}
	return s
}

// copied takes one record of the ring of copies: a packet, or a refusal.
func (r *run) copied(b []byte) {
	h, ok := from[observeHeader](b)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.Kind == kindRefused {
		if e, ok := from[observeRefused](b); ok {
			r.refused(&e)
		}
		return
	}
	b = b[unsafe.Sizeof(h):]
	if int(h.Len) > len(b) {
		return
	}
	r.source.Counters.Copies.Add(1)
	p, ok := packet.DecodeIP(b[:h.Len], packet.Options{})
	if !ok {
		return
	}
	now := time.Now()
	iface := r.links.Of(int(h.Ifindex), now) // "" where it is 0: on the way out
	if h.First != 0 {
		// The kernel followed the handshake itself, and copied none of it.
		syn := p
		syn.Flags, syn.Seq, syn.Payload, syn.Length = packet.SYN, p.Seq-1, nil, 0
		r.sniffer.Packet(syn, now, iface)
	}
	r.sniffer.Packet(p, now, iface)
}
