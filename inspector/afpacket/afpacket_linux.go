package afpacket

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/device"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/sniff"
)

const (
	// readBuffer holds some thousand packets of the kind that the filter passes.
	readBuffer = 8 << 20
	// housekeeping is how often drops are read and quiet connections forgotten.
	housekeeping = time.Second
	// busy is how many packets of a settled connection in one round of
	// housekeeping put it into the filter.
	busy = 32
	// maxBusy bounds the settled connections counted in one round.
	maxBusy = 4096
	// maxControl holds the message with a packet's time.
	maxControl = 64
	// maxLag bounds how long a packet is believed to have waited to be read.
	maxLag = 10 * time.Second
	// shedLife is how long a connection stays in the filter; a busy one returns.
	shedLife = time.Minute
)

// Options says how to observe. The zero Options are the defaults.
type Options struct {
	// ReadBuffer is the socket's buffer in bytes; 0 means 8 MiB.
	ReadBuffer int
	// MaxFlows bounds the connections followed at a time; 0 means 8,192.
	MaxFlows int
	// Interface is the one to observe; "" means all.
	Interface string
	// Details is sniff.Options.Details.
	Details bool
}

// Counters says what a source did. They may be read at any time; those of the
// sniffer are as of the last housekeeping.
type Counters struct {
	Packets     atomic.Uint64 // that the filter passed
	Dropped     atomic.Uint64 // by the kernel, for want of buffer
	Names       atomic.Uint64
	Answers     atomic.Uint64
	Unsolicited atomic.Uint64 // answers that nobody asked for
	Evicted     atomic.Uint64 // connections forgotten for want of room
	Overflow    atomic.Uint64 // connections given up for want of buffer
	Lost        atomic.Uint64 // pieces of hellos beyond what is kept of one connection
	Shed        atomic.Uint64 // connections put into the filter
}

// Source is an inspector.Source. Run it once at a time.
type Source struct {
	opt      Options
	Counters Counters
}

// New returns a source for the network namespace that Run is called in.
func New(opt Options) *Source {
	if opt.ReadBuffer <= 0 {
		opt.ReadBuffer = readBuffer
	}
	return &Source{opt: opt}
}

// Name implements inspector.Source.
func (s *Source) Name() string { return "afpacket" }

// Losses implements inspector.Counted.
func (s *Source) Losses() map[string]uint64 {
	return map[string]uint64{
		"kernel":      s.Counters.Dropped.Load(),
		"evicted":     s.Counters.Evicted.Load(),
		"buffer":      s.Counters.Overflow.Load(),
		"pieces":      s.Counters.Lost.Load(),
		"unsolicited": s.Counters.Unsolicited.Load(),
	}
}

// Run implements inspector.Source. It needs CAP_NET_RAW, and CAP_NET_ADMIN for
// the larger buffer.
func (s *Source) Run(ctx context.Context, emit func(inspector.Event)) error {
	index := 0
	if s.opt.Interface != "" {
		ifi, err := net.InterfaceByName(s.opt.Interface)
		if err != nil {
			return fmt.Errorf("find interface %q: %w", s.opt.Interface, err)
		}
		index = ifi.Index
	}
	c, err := s.listen(index)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	links, err := device.Open()
	if err != nil {
		return err
	}
	defer links.Close()
	r := &run{
		source: s, conn: c, links: links,
		sniffer: sniff.New(s.Name(), sniff.Options{MaxFlows: s.opt.MaxFlows, Details: s.opt.Details}, emit),
		counts:  make(map[shed]int),
	}
	defer r.publish()
	return r.loop(ctx)
}

// listen opens the socket with its filter already in place: a packet socket
// gets nothing before it is bound. It is bound to the interface with the index, 0
// for all.
func (s *Source) listen(index int) (*socket.Conn, error) {
	c, err := socket.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0, "afpacket", nil)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	filter, err := program(nil)
	if err == nil {
		err = c.SetBPF(filter)
	}
	if err == nil {
		if e := c.SetsockoptInt(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, s.opt.ReadBuffer); e != nil {
			err = c.SetReadBuffer(s.opt.ReadBuffer)
		}
	}
	// Before Linux 5.1 the time of reading has to do.
	_ = c.SetsockoptInt(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1)
	if err == nil {
		err = c.Bind(&unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("set up packet socket: %w", err)
	}
	return c, nil
}

// htons turns a number into network order, as the kernel reads it from memory.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// run is the state of one Run; one goroutine owns it.
type run struct {
	source  *Source
	conn    *socket.Conn
	links   *device.Names
	sniffer *sniff.Sniffer

	counts map[shed]int // packets of settled connections in this round
	out    []shed       // in the filter, oldest first
	outAt  []time.Time
	stale  bool // the filter is not as out says
}

func (r *run) loop(ctx context.Context) error {
	buf, oob := make([]byte, snap), make([]byte, maxControl)
	next := time.Now().Add(housekeeping)
	stop := context.AfterFunc(ctx, func() { _ = r.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if err := r.conn.SetReadDeadline(next); err != nil {
			return fmt.Errorf("set deadline of packet socket: %w", err)
		}
		if ctx.Err() != nil { // perhaps before that deadline replaced the one in the past
			return nil
		}
		for {
			n, k, _, from, err := r.conn.Recvmsg(context.Background(), buf, oob, 0)
			if err == nil {
				r.packet(buf[:min(n, len(buf))], from, arrived(oob[:k], time.Now()))
				if len(r.counts) < maxBusy {
					continue
				}
			} else if !tolerable(err) {
				return fmt.Errorf("read packet socket: %w", err)
			}
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if now := time.Now(); !now.Before(next) || len(r.counts) >= maxBusy {
			if err := r.keepHouse(now); err != nil {
				return err
			}
			next = now.Add(housekeeping)
		}
	}
}

// arrived returns when the kernel saw a packet, by the message that came with it: it
// may have waited here, behind others. It is on now's clock, which no one sets back.
func arrived(oob []byte, now time.Time) time.Time {
	const size = 16 // of a struct __kernel_timespec
	if len(oob) < unix.CmsgSpace(size) {
		return now
	}
	h, b, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || h.Level != unix.SOL_SOCKET || h.Type != unix.SO_TIMESTAMPNS_NEW || len(b) < size {
		return now
	}
	lag := now.Sub(time.Unix(int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:]))))
	if lag < 0 || lag > maxLag {
		return now
	}
	return now.Add(-lag)
}

// tolerable errors end a read, not the source: the deadline, and an interface
// that went down.
func tolerable(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ENETDOWN)
}

func (r *run) packet(b []byte, from unix.Sockaddr, at time.Time) {
	r.source.Counters.Packets.Add(1)
	p, ok := packet.DecodeIP(b, packet.Options{})
	if !ok {
		return
	}
	iface := ""
	if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
		iface = r.links.Of(ll.Ifindex, at)
	}
	r.sniffer.Packet(p, at, iface)
	if p.Proto != flow.TCP {
		return
	}
	k := shedOf(p)
	if p.Flags&packet.SYN != 0 {
		// The same ends again: what they say is wanted again.
		if i := slices.Index(r.out, k); i >= 0 {
			r.keepIn(i)
			r.refilter()
		}
		return
	}
	if r.sniffer.Settled(p) {
		if r.counts[k]++; r.counts[k] == busy {
			r.leaveOut(k, at)
		}
	}
}

// leaveOut puts a connection into the filter; the oldest makes room.
func (r *run) leaveOut(k shed, now time.Time) {
	if slices.Contains(r.out, k) {
		return
	}
	if len(r.out) >= maxShed {
		r.keepIn(0)
	}
	r.out, r.outAt = append(r.out, k), append(r.outAt, now)
	r.source.Counters.Shed.Add(1)
	r.refilter()
}

func (r *run) keepIn(i int) {
	r.out, r.outAt = slices.Delete(r.out, i, i+1), slices.Delete(r.outAt, i, i+1)
}

// refilter replaces the filter, which the kernel does at once and without
// losing packets. When it can't, the old one goes on; housekeeping tries again.
func (r *run) refilter() {
	filter, err := program(r.out)
	if err == nil {
		err = r.conn.SetBPF(filter)
	}
	r.stale = err != nil
}

// keepHouse reads the kernel's drops, forgets what is old, and publishes.
func (r *run) keepHouse(now time.Time) error {
	stats, err := r.conn.GetsockoptTpacketStats(unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("read drops of packet socket: %w", err)
	}
	r.source.Counters.Dropped.Add(uint64(stats.Drops))
	clear(r.counts)
	old := len(r.out)
	for len(r.out) > 0 && now.Sub(r.outAt[0]) > shedLife {
		r.keepIn(0)
	}
	if r.stale || len(r.out) != old {
		r.refilter()
	}
	r.sniffer.Tick(now)
	r.publish()
	return nil
}

func (r *run) publish() {
	from, to := &r.sniffer.Counters, &r.source.Counters
	to.Names.Store(from.Names)
	to.Answers.Store(from.Answers)
	to.Unsolicited.Store(from.Unsolicited)
	to.Evicted.Store(from.Evicted)
	to.Overflow.Store(from.Overflow)
	to.Lost.Store(from.Lost)
}
