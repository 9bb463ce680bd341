package relay

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPipes bounds the pipes of a loop. One is borrowed while bytes are on their
	// way from socket to socket, and kept only while the receiver takes no more;
	// when none is left, bytes are copied, which needs none. With eight loops they
	// are 2 * 8 * 128 = 2,048 descriptors.
	maxPipes = 128
	// pipeSize is what one splice can move. It is what Linux allows everyone
	// (fs.pipe-max-size); what the kernel refuses stays at 64 KiB.
	pipeSize = 1 << 20
	// sparePipes is how many unused pipes a loop keeps.
	sparePipes = 8
	// copySize is what is copied at once where there is no pipe.
	copySize = 64 << 10
	// rounds is how many times a direction moves bytes before others have a turn.
	rounds = 8
)

// pipe carries bytes from socket to socket inside the kernel.
type pipe struct{ r, w int32 }

// pipes is a loop's stock of pipes.
type pipes struct {
	max, made int
	free      []pipe
}

// borrow returns an empty pipe; ok is false when there is none.
func (p *pipes) borrow() (_ pipe, ok bool) {
	if n := len(p.free); n > 0 {
		q := p.free[n-1]
		p.free = p.free[:n-1]
		return q, true
	}
	if p.made >= p.max {
		return pipe{}, false
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, false // no descriptors: bytes are copied
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	p.made++
	return pipe{int32(fds[0]), int32(fds[1])}, true
}

// giveBack takes a pipe that is empty.
func (p *pipes) giveBack(q pipe) {
	if len(p.free) < sparePipes {
		p.free = append(p.free, q)
		return
	}
	p.discard(q)
}

// discard closes a pipe, which may hold bytes.
func (p *pipes) discard(q pipe) {
	_ = unix.Close(int(q.r))
	_ = unix.Close(int(q.w))
	p.made--
}

func (p *pipes) close() {
	for _, q := range p.free {
		p.discard(q)
	}
	p.free = nil
}

// half is one direction of a pair.
type half struct {
	from, to int32
	pipe     pipe
	queued   int32 // bytes in pipe, which is ours while there are some

	readable, writable bool // as far as is known
	eof                bool // the sender has finished
	end                bool // nothing moves any more

	// left is how many bytes may still be taken, -1 for any number; at 0 the
	// direction has ended, and nothing is told to the receiver.
	left   int64
	bucket *bucket
	until  int64 // when the bucket will have something; 0 when it is not waited for
}

// fault says whose fault it is that a direction can't go on.
type fault uint8

const (
	noFault fault = iota
	bySender
	byReceiver
)

// pair is two TCP sockets, the client's and the far end's, and what moves between
// them. An idle one is this struct, two descriptors and two places in a map.
type pair struct {
	e      *entry
	halves [2]half // up: from the client; down: to it
	moved  int64   // when bytes last moved
	queued bool    // to be called again at once
	closed bool
}

// newPair owns two connected sockets from then on.
func newPair(e *entry, client, server int, left int64, up, down *bucket) *pair {
	c, s := int32(client), int32(server)
	return &pair{e: e, halves: [2]half{{from: c, to: s, left: left, bucket: up}, {from: s, to: c, left: -1, bucket: down}}}
}

// adopt starts moving.
func (l *loop) adopt(p *pair) {
	if p.closed { // killed
		return
	}
	p.moved = l.now
	err := l.watch(int(p.halves[0].from), p)
	if err == nil {
		err = l.watch(int(p.halves[1].from), p)
	}
	if err != nil {
		p.end(l, Stopped)
	}
}

func (p *pair) event(l *loop, fd int, events uint32) {
	for i := range p.halves {
		h := &p.halves[i]
		if fd == int(h.from) && events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			h.readable = true
		}
		if fd == int(h.to) && events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			h.writable = true
		}
	}
	if !p.queued {
		p.move(l)
	}
	if p.closed || events&unix.EPOLLERR == 0 {
		return
	}
	// A reset shows in what is read. Where nothing is read any more it must be seen
	// here, and where the far end takes nothing. (What the far end said before its
	// reset is kept for a slow client.)
	if i := p.side(fd); p.halves[i].end || i == 0 && p.halves[i].queued > 0 {
		p.end(l, [...]Why{ClientReset, ServerReset}[i])
	}
}

// side is the half that reads from fd.
func (p *pair) side(fd int) int {
	if fd == int(p.halves[0].from) {
		return 0
	}
	return 1
}

func (p *pair) again(l *loop) {
	if p.closed {
		return
	}
	p.queued = false
	for i := range p.halves {
		if h := &p.halves[i]; h.until <= l.now {
			h.until = 0
		}
	}
	p.move(l)
}

// move moves what can be moved, up to a number of rounds.
func (p *pair) move(l *loop) {
	for i := range p.halves {
		h := &p.halves[i]
		more, fault := h.move(l, p)
		if fault != noFault {
			why := ServerReset
			if (i == 0) == (fault == bySender) {
				why = ClientReset
			}
			p.end(l, why)
			return
		}
		if more && !p.queued {
			p.queued = true
			l.ready(p)
		}
	}
	if p.halves[0].end && p.halves[1].end {
		p.end(l, Finished)
	}
}

// move moves the bytes of one direction; more is true when others should have a
// turn first.
func (h *half) move(l *loop, p *pair) (more bool, _ fault) {
	for range rounds {
		if h.queued > 0 {
			if !h.writable {
				return false, noFault
			}
			if err := h.drain(l, p); err != nil {
				return false, byReceiver
			}
			continue
		}
		if h.eof || h.left == 0 {
			if h.eof && !h.end {
				// It may be gone already: then its reset is told by an event.
				_ = unix.Shutdown(int(h.to), unix.SHUT_WR)
			}
			h.end = true
		}
		if h.end || !h.readable || h.until > 0 {
			return false, noFault
		}
		want, ok := h.allowance(l, p)
		if !ok {
			return false, noFault
		}
		n, fault := h.take(l, want)
		if h.bucket != nil {
			h.bucket.back(int64(want - n))
		}
		if fault != noFault {
			return false, fault
		}
		if n == 0 && !h.eof {
			return false, noFault
		}
		if h.left > 0 {
			h.left -= int64(n)
		}
		if h.queued == 0 {
			p.count(l, h, n)
		}
	}
	return true, noFault
}

// allowance says how much may be taken; ok is false when the bucket has nothing
// now: the pair is called again.
func (h *half) allowance(l *loop, p *pair) (want int, ok bool) {
	want = pipeSize
	if h.left > 0 {
		want = int(min(int64(want), h.left))
	}
	if h.bucket == nil {
		return want, true
	}
	n, wait := h.bucket.take(int64(want), l.now)
	if n > 0 {
		return int(n), true
	}
	h.until = l.now + int64(wait)
	l.after(wait, p)
	return 0, false
}

// take takes bytes from the sender: into a pipe, or to the receiver by a copy.
func (h *half) take(l *loop, want int) (int, fault) {
	q, ok := l.pipes.borrow()
	if !ok {
		return h.copy(l, want)
	}
	n, err := splice(int(h.from), int(q.w), want)
	if n <= 0 {
		l.pipes.giveBack(q)
		return 0, h.nothing(err)
	}
	h.pipe, h.queued = q, int32(n)
	return n, noFault
}

// nothing notes what a read without bytes means.
func (h *half) nothing(err error) fault {
	switch {
	case errors.Is(err, unix.EAGAIN):
		h.readable = false
	case err != nil:
		return bySender
	default:
		h.eof = true
	}
	return noFault
}

// drain gives the receiver what is in the pipe.
func (h *half) drain(l *loop, p *pair) error {
	n, err := splice(int(h.pipe.r), int(h.to), int(h.queued))
	switch {
	case errors.Is(err, unix.EAGAIN):
		h.writable = false
		return nil
	case err != nil:
		return err
	}
	h.queued -= int32(n)
	p.count(l, h, n)
	if h.queued == 0 {
		l.pipes.giveBack(h.pipe)
	}
	return nil
}

// copy moves bytes without a pipe. What the receiver does not take stays in the
// sender's socket, so that nothing has to be kept.
func (h *half) copy(l *loop, want int) (int, fault) {
	if !h.writable {
		return 0, noFault
	}
	buf := l.copies()
	n, _, err := unix.Recvfrom(int(h.from), buf[:min(want, copySize)], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if n <= 0 {
		return 0, h.nothing(err)
	}
	n, err = unix.Write(int(h.to), buf[:n])
	switch {
	case errors.Is(err, unix.EAGAIN):
		h.writable = false
		return 0, noFault
	case err != nil:
		return 0, byReceiver
	}
	for rest := n; rest > 0; {
		k, _, err := unix.Recvfrom(int(h.from), buf[:rest], unix.MSG_DONTWAIT)
		if k <= 0 || err != nil {
			return n, bySender
		}
		rest -= k
	}
	return n, noFault
}

func (p *pair) count(l *loop, h *half, n int) {
	p.moved = l.now
	if h == &p.halves[0] {
		p.e.up.Add(uint64(n))
	} else {
		p.e.down.Add(uint64(n))
	}
}

// splice moves up to n bytes and never waits.
func splice(from, to, n int) (int, error) {
	for {
		k, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return int(k), err
		}
	}
}

func (p *pair) sweep(l *loop) {
	if p.closed {
		return
	}
	limit := l.r.limits.Idle
	if p.halves[0].end || p.halves[1].end {
		limit = l.r.limits.HalfClosed
	}
	if time.Duration(l.now-p.moved) >= limit {
		p.end(l, Idled)
	}
}

// end closes both sockets: with a reset, unless all went well, so that neither
// side takes a broken transfer for a whole one.
func (p *pair) end(l *loop, why Why) {
	if p.closed {
		return
	}
	p.closed = true
	client, server := int(p.halves[0].from), int(p.halves[1].from)
	end := End{Why: why, EarlyReset: why == ServerReset && p.e.down.Load() == 0}
	tcpInfo(server, &end)
	for i := range p.halves {
		if h := &p.halves[i]; h.queued > 0 {
			l.pipes.discard(h.pipe)
		}
	}
	switch {
	case why != Finished:
		resetOnClose(client)
		resetOnClose(server)
	case p.halves[0].left == 0:
		l.discard(client)
	}
	l.forget(client)
	l.forget(server)
	l.r.closed(p.e, &end)
}

// discard reads away what a client has sent and nobody wants: else closing the
// socket would reset the connection, and with it what the client has not read yet.
func (l *loop) discard(fd int) {
	for range rounds {
		if n, _, err := unix.Recvfrom(fd, l.copies(), unix.MSG_DONTWAIT); n <= 0 || err != nil {
			return
		}
	}
}

// copies is the loop's buffer.
func (l *loop) copies() []byte {
	if l.scratch == nil {
		l.scratch = make([]byte, copySize)
	}
	return l.scratch
}

// resetOnClose makes close send a reset (SO_LINGER with a time of 0).
func resetOnClose(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// tcpInfo asks the kernel how a connection went.
func tcpInfo(fd int, e *End) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return
	}
	e.RTT = time.Duration(info.Rtt) * time.Microsecond
	e.MinRTT = time.Duration(info.Min_rtt) * time.Microsecond
	e.Retransmits = info.Total_retrans
}
