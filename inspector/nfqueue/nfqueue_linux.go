package nfqueue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// batch is after how many packets their verdicts are sent, where so many wait:
	// a system call shared by so many costs next to nothing, and the first of them
	// waits for a quarter of a millisecond.
	batch = 64
	// overhead is what an announcement has besides the packet's bytes.
	overhead = 512
)

// Queue is one queue of packets that wait for verdicts.
type Queue struct {
	Counters *Counters

	conn   *netlink.Conn
	opt    Options
	buf    []byte
	out    []byte // verdicts to be sent
	packet Packet
	last   uint32 // the id of the last packet: ids have no gaps, unless packets were missed
	err    error
	ticks  bool // the read has a deadline
}

// Open binds the queue in the network namespace of the calling thread, or in
// Options.NetNS. It needs CAP_NET_ADMIN and the kernel's nfnetlink_queue; a queue
// that another program has is an error. Close it, or let Run do so.
func Open(opt Options) (*Queue, error) {
	if opt.Copy == 0 {
		opt.Copy = Headers
	}
	if opt.ReadBuffer == 0 {
		opt.ReadBuffer = readBuffer
	}
	if opt.Counters == nil {
		opt.Counters = &Counters{}
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: opt.NetNS})
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	q := &Queue{Counters: opt.Counters, conn: conn, opt: opt, buf: make([]byte, int(opt.Copy)+overhead)}
	// The system's limit holds without CAP_NET_ADMIN; what is missed is counted.
	_ = conn.SetReadBuffer(opt.ReadBuffer)
	if err := q.configure(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return q, nil
}

// Close gives the queue up: packets that wait in it are dropped, and new ones go
// on without a verdict where the rule that sends them here has a bypass.
func (q *Queue) Close() error { return q.conn.Close() }

func (q *Queue) configure() error {
	flags, mask := uint32(flagGSO|flagUID), uint32(flagOpen|flagGSO|flagUID)
	if q.opt.FailOpen {
		flags |= flagOpen
	}
	be := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for _, c := range []struct {
		what  string
		attrs []netlink.Attribute
	}{
		{"bind", []netlink.Attribute{{Type: cfgCommand, Data: []byte{commandBind, 0, 0, 0}}}},
		{"bound", []netlink.Attribute{{Type: cfgLength, Data: be(QueueLength)}}},
		{"set flags of", []netlink.Attribute{{Type: cfgFlags, Data: be(flags)}, {Type: cfgMask, Data: be(mask)}}},
	} {
		m, err := q.message(c.attrs)
		if err == nil {
			m.Header.Flags |= netlink.Acknowledge
			_, err = q.conn.Execute(m)
		}
		if err != nil {
			return fmt.Errorf("%s packet queue %d: %w", c.what, q.opt.Queue, err)
		}
	}
	// From here on packets arrive, so there is no waiting for an answer: an error
	// is read among them.
	m, err := q.message([]netlink.Attribute{{Type: cfgParams, Data: append(be(q.opt.Copy), copyPacket)}})
	if err == nil {
		_, err = q.conn.Send(m)
	}
	if err != nil {
		return fmt.Errorf("start packet queue %d: %w", q.opt.Queue, err)
	}
	return nil
}

func (q *Queue) message(attrs []netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	head := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(q.opt.Queue >> 8), byte(q.opt.Queue)}
	return netlink.Message{
		Header: netlink.Header{Type: msgConfig, Flags: netlink.Request},
		Data:   append(head, data...),
	}, err
}

// Run has answer judge each packet until ctx ends, and closes the queue: nil when
// ctx ended it, else what made it impossible to go on. answer is called from one
// goroutine, must not block, and must not keep the packet.
func (q *Queue) Run(ctx context.Context, answer func(*Packet, *Verdict)) error {
	defer func() { _ = q.conn.Close() }()
	raw, err := q.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach packet queue %d: %w", q.opt.Queue, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = q.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	read := func(fd uintptr) bool { return q.read(int(fd), answer) }
	write := func(fd uintptr) bool { return q.write(int(fd)) }
	for ctx.Err() == nil { // looked at after tick, which may have moved the deadline of stop
		q.out = q.out[:0]
		err := raw.Read(read)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		q.tick()
		if err == nil && len(q.out) > 0 {
			err = raw.Write(write)
		}
		if err = errors.Join(err, q.err); err != nil && ctx.Err() == nil {
			return fmt.Errorf("serve packet queue %d: %w", q.opt.Queue, err)
		}
	}
	return nil
}

// read takes what has arrived, up to batch packets, and gathers the verdicts. It
// returns false when there is nothing, and is then called again once there is.
func (q *Queue) read(fd int, answer func(*Packet, *Verdict)) bool {
	for n := 0; n < batch && q.err == nil; n++ {
		size, err := unix.Read(fd, q.buf)
		switch {
		case err == nil:
			q.take(q.buf[:size], answer)
		case errors.Is(err, unix.EAGAIN):
			return n > 0
		case errors.Is(err, unix.ENOBUFS):
			q.Counters.Full.Add(1)
		case !errors.Is(err, unix.EINTR):
			q.err = err
		}
	}
	return true
}

// take reads one datagram: one announcement, or the answer to a verdict.
func (q *Queue) take(b []byte, answer func(*Packet, *Verdict)) {
	if len(b) < headerSize {
		q.Counters.Bad.Add(1)
		return
	}
	length, kind := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
	body := b[headerSize:]
	switch {
	case kind == nlmsgError:
		q.refused(body)
	case kind != msgPacket || length > len(b) || length < headerSize || !parse(b[headerSize:length], &q.packet):
		q.Counters.Bad.Add(1)
	default:
		if q.last != 0 {
			q.Counters.Missed.Add(uint64(q.packet.ID - q.last - 1))
		}
		q.last = q.packet.ID
		q.Counters.Packets.Add(1)
		var v Verdict
		answer(&q.packet, &v)
		q.give(v.Before)
		if !v.Hold {
			q.out = appendVerdict(q.out, q.opt.Queue, Answer{q.packet.ID, v.Drop, v.Priority})
		}
	}
}

// give gathers the verdicts of packets that were held.
func (q *Queue) give(list []Answer) {
	for _, a := range list {
		q.out = appendVerdict(q.out, q.opt.Queue, a)
	}
}

// tick asks for the verdicts whose time has come. While there will be more, waiting
// for packets ends after TickEvery.
func (q *Queue) tick() {
	if q.opt.Tick == nil {
		return
	}
	list, more := q.opt.Tick()
	q.give(list)
	until := time.Time{}
	if more {
		until = time.Now().Add(TickEvery)
	}
	if more || q.ticks {
		_ = q.conn.SetReadDeadline(until)
	}
	q.ticks = more
}

// refused reads struct nlmsgerr: the errno, negative, and the header of what it is about.
func (q *Queue) refused(b []byte) {
	if len(b) < 4+headerSize {
		q.Counters.Bad.Add(1)
		return
	}
	code, about := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4+4:])
	switch {
	case code == 0:
	case about == msgVerdict:
		q.Counters.Gone.Add(1)
	default:
		q.err = syscall.Errno(-code)
	}
}

// write sends the verdicts.
func (q *Queue) write(fd int) bool {
	for {
		_, err := unix.Write(fd, q.out)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			q.err = err
		}
		return true
	}
}
