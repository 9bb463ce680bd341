package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/first"
	"netpolicy.dev/netpolicy/internal/sockmark"
	"netpolicy.dev/netpolicy/internal/socks"
)

const (
	// maxWaiting bounds the datagrams that wait while a session is opened: a
	// browser's QUIC hello takes up to three, and some come again.
	maxWaiting = first.MaxDatagrams
	// maxWaitingBytes bounds their payload.
	maxWaitingBytes = 32 << 10
	// dnsIdle ends sessions to port 53: one question, one answer.
	dnsIdle = 10 * time.Second
	// blockedFor is how long a blocked session's datagrams are dropped without
	// another question.
	blockedFor = 5 * time.Second
	// maxReplySockets bounds the sockets that answer in the name of destinations;
	// sessions with one destination share one.
	maxReplySockets = 4096
)

// front is a UDP socket where clients come in: a TProxy inbound, or a SOCKS
// client's association. It belongs to a loop, and its sessions with it.
type front struct {
	kind     Kind
	fd       int
	control  int    // an association's TCP connection, -1 without
	e        *entry // an association's
	client   netip.Addr
	sessions map[sessionKey]*session
	replies  map[netip.AddrPort]*replySocket // TProxy
	queued   bool
	closed   bool
}

// sessionKey is what tells sessions of a front apart.
type sessionKey struct {
	src netip.AddrPort
	dst target
}

// replySocket sends in the name of a destination.
type replySocket struct {
	fd, users int
}

// session is one client's datagrams to one destination, and back.
type session struct {
	f        *front
	e        *entry
	key      sessionKey
	opening  *opening // until it has a way
	fd       int      // connected to the far end or to the SOCKS server, -1 while there is none
	control  int      // the connection to the SOCKS server, -1 without
	replies  *replySocket
	name     unix.RawSockaddrInet6 // the client's
	nameLen  uint32
	outHead  []byte // before each datagram to a SOCKS server, nil without one
	backHead []byte // before each datagram to a SOCKS client
	up, down *bucket
	moved    int64
	idle     int64
	told     bool // Reporter.Opened was called
	blocked  bool
	queued   bool
	closed   bool
}

// opening is what a session has besides until its way is known.
type opening struct {
	question
	ctx     context.Context
	cancel  context.CancelFunc
	sniff   first.Datagrams
	until   int64 // when sniffing ends, 0 when it does not wait for that
	waiting [][]byte
	bytes   int
}

// openTProxy takes over the UDP socket of an inbound.
func (l *loop) openTProxy(in *inbound) {
	f := &front{kind: TProxy, fd: in.udp, control: -1, sessions: map[sessionKey]*session{}, replies: map[netip.AddrPort]*replySocket{}}
	in.udp = -1
	if err := l.watch(f.fd, f); err != nil {
		f.end(l, Stopped)
	}
}

// associate opens a UDP socket for a SOCKS client and gives it to a loop,
// together with the client's connection and its entry.
func (r *Relay) associate(c *net.TCPConn, e *entry) error {
	local, _ := c.LocalAddr().(*net.TCPAddr)
	at := netip.AddrPortFrom(local.AddrPort().Addr().Unmap().WithZone(""), 0)
	fd, err := socketFor(at.Addr())
	if err != nil {
		_ = socks.WriteReply(c, socks.ReplyFailed, netip.AddrPort{})
		return err
	}
	if err = bindTo(fd, at); err == nil {
		err = sockmark.Set(fd, r.cfg.Mark)
	}
	var bound netip.AddrPort
	if err == nil {
		bound, err = boundTo(fd)
	}
	if err != nil {
		closeFD(fd)
		_ = socks.WriteReply(c, socks.ReplyFailed, netip.AddrPort{})
		return err
	}
	err = socks.WriteReply(c, socks.ReplyOK, bound)
	control := -1
	if err == nil {
		_ = c.SetDeadline(time.Time{})
		control, err = dup(c)
	}
	if err != nil {
		closeFD(fd)
		return err
	}
	_ = c.Close()
	f := &front{kind: SOCKS, fd: fd, control: control, e: e, client: e.src.Addr(), sessions: map[sessionKey]*session{}}
	l := r.pick()
	killed := e.stage(func() { l.post(func(l *loop) { f.end(l, Killed) }) })
	ok := l.post(func(l *loop) {
		if !f.closed && (l.watch(f.fd, f) != nil || l.watch(f.control, f) != nil || killed) {
			f.end(l, Killed)
		}
	})
	if !ok {
		closeFD(fd)
		closeFD(control)
		r.table.remove(e)
	}
	return nil
}

// boundTo is a socket's own address.
func boundTo(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), nil
	default:
		return netip.AddrPort{}, errors.New("not an address of the internet")
	}
}

func (f *front) event(l *loop, fd int, events uint32) {
	if fd == f.control {
		if gone(fd) {
			f.end(l, Finished)
		}
		return
	}
	if events&unix.EPOLLIN != 0 && !f.queued {
		f.serve(l)
	}
}

// gone reads away what a control connection says, and reports whether it has ended.
func gone(fd int) bool {
	var b [64]byte
	for {
		n, err := unix.Read(fd, b[:])
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if n <= 0 && !errors.Is(err, unix.EINTR) {
			return true
		}
	}
}

func (f *front) again(l *loop) {
	f.queued = false
	if !f.closed {
		f.serve(l)
	}
}

// serve takes datagrams from clients and gives them on: those that follow each
// other in one session with one system call.
func (f *front) serve(l *loop) {
	d := l.buffers()
	for range rounds {
		n, err := d.take(f.fd)
		if err != nil {
			return // nothing there, or an ICMP message about an answer
		}
		var last *session
		for i := range n {
			key, payload, ok := f.read(d, i)
			if !ok {
				l.r.counts.dropped.Add(1)
				continue
			}
			s := f.sessions[key]
			if s == nil {
				if s = f.begin(l, key); s == nil {
					continue
				}
			}
			if last != nil && last != s {
				last.flush(l)
			}
			last = s
			s.take(l, payload)
		}
		if last != nil {
			last.flush(l)
		}
		if n < batchSize {
			return
		}
	}
	f.queued = true
	l.ready(f)
}

// read says whose the i-th datagram is, and what is in it.
func (f *front) read(d *datagrams, i int) (key sessionKey, payload []byte, ok bool) {
	payload, ok = d.payload(i)
	key.src = d.from(i)
	if !ok || !key.src.IsValid() {
		return key, nil, false
	}
	if f.kind == TProxy {
		dst, ok := d.to(i)
		key.dst = socks.TargetOf(dst)
		return key, payload, ok
	}
	if key.src.Addr() != f.client {
		return key, nil, false
	}
	dst, payload, err := socks.CutDatagram(payload)
	key.dst = dst
	return key, payload, err == nil
}

// begin makes a session; nil when there is no room.
func (f *front) begin(l *loop, key sessionKey) *session {
	r := l.r
	if f.kind == TProxy && r.isSelf(key.dst.AddrPort()) {
		return nil
	}
	s := &session{f: f, key: key, fd: -1, control: -1, moved: l.now, idle: int64(r.limits.UDPIdle)}
	if key.dst.Port == 53 {
		s.idle = min(s.idle, int64(dnsIdle))
	}
	s.e = r.table.add(f.kind, true, key.src, l.now, func() { l.post(func(l *loop) { s.end(l, Killed) }) })
	if s.e == nil {
		r.counts.full.Add(1)
		return nil
	}
	s.e.aim(key.dst)
	s.nameLen = sockaddr(&s.name, key.src)
	ctx, cancel := context.WithCancel(context.Background()) // canceled by end
	s.opening = &opening{question: question{r: r, e: s.e, target: key.dst}, ctx: ctx, cancel: cancel}
	s.opening.describe(flow.UDP, key.src)
	f.sessions[key] = s
	var v Verdict
	r.cfg.Decider.Decide(&s.opening.ask, &v)
	if v.Sniff {
		s.opening.until = l.now + int64(r.limits.Sniff)
		l.after(r.limits.Sniff, s)
	} else {
		s.dial(l)
	}
	return s
}

// take takes one datagram of the client's. An open session gathers it: flush sends.
func (s *session) take(l *loop, payload []byte) {
	if s.blocked || s.closed {
		return
	}
	s.moved = l.now
	if o := s.opening; o != nil {
		s.wait(l, payload)
		if o.until > 0 && o.sniff.Write(payload) != first.More {
			s.dial(l)
		}
		return
	}
	if s.up != nil && !s.up.takeAll(int64(len(payload)), l.now) {
		l.r.counts.dropped.Add(1)
		return
	}
	l.udp.gather(s.outHead, payload, nil, 0)
}

// wait keeps a datagram until there is a way.
func (s *session) wait(l *loop, payload []byte) {
	o := s.opening
	if len(o.waiting) >= maxWaiting || o.bytes+len(payload) > maxWaitingBytes {
		l.r.counts.dropped.Add(1)
		return
	}
	o.waiting = append(o.waiting, append([]byte(nil), payload...))
	o.bytes += len(payload)
}

// flush sends what take gathered.
func (s *session) flush(l *loop) {
	d := l.udp
	if want := d.gathered; want > 0 {
		sent, bytes := d.send(s.fd)
		s.count(l, &s.e.up, want, sent, bytes)
	}
}

// again ends the time for sniffing, or goes on with answers.
func (s *session) again(l *loop) {
	switch {
	case s.closed:
	case s.queued:
		s.queued = false
		s.answer(l)
	case s.opening != nil && s.opening.until > 0 && s.opening.until <= l.now:
		s.dial(l)
	}
}

// dial finds the way, beside the loop.
func (s *session) dial(l *loop) {
	o := s.opening
	if o.until > 0 {
		o.sniff.Facts().Fill(&o.flow, true)
		o.ask.Sniffed, o.until = true, 0
		if name, ok := sniffed(&o.flow); ok {
			s.e.called(name)
		}
	}
	l.r.serving.Go(func() {
		var w wayOut
		// A verdict that asks for first bytes only now gets none.
		noMore := func(context.Context) error { return nil }
		err := o.dial(o.ctx, noMore, func(ctx context.Context, d *dialer, t target, out *Outcome) (err error) {
			w, err = d.datagrams(ctx, t, o.addrs, out)
			return err
		})
		if !l.post(func(l *loop) { s.open(l, &w, err) }) && err == nil {
			w.close()
		}
	})
}

// open goes on when the way is known, or not to be had.
func (s *session) open(l *loop, w *wayOut, err error) {
	o := s.opening
	if s.closed {
		if err == nil {
			w.close()
		}
		return
	}
	s.opening = nil
	o.cancel()
	if err != nil {
		s.blocked, s.moved, s.idle = true, l.now, int64(blockedFor)
		return
	}
	s.fd, s.control, s.outHead = w.fd, w.control, w.head
	if err := s.ready(l, w); err != nil {
		s.end(l, Stopped)
		return
	}
	s.up, s.down = l.r.shaper.pair(&o.verdict.Throttle, s.key.src.Addr(), l.now)
	s.told = true
	l.r.opened(s.e)
	l.buffers()
	for len(o.waiting) > 0 {
		now := o.waiting[:min(len(o.waiting), batchSize)]
		for _, payload := range now {
			s.take(l, payload)
		}
		s.flush(l)
		o.waiting = o.waiting[len(now):]
	}
}

// ready watches the session's sockets and sees to the way back.
func (s *session) ready(l *loop, w *wayOut) error {
	if s.f.kind == TProxy {
		var err error
		if s.replies, err = s.f.replySocket(l, s.key.dst.AddrPort()); err != nil {
			return err
		}
	} else {
		from := s.key.dst
		if w.from.Addr().IsValid() {
			from = socks.TargetOf(w.from)
		}
		s.backHead = socks.AppendHead(nil, from)
	}
	if err := l.watch(s.fd, s); err != nil {
		return err
	}
	if s.control >= 0 {
		return l.watch(s.control, s)
	}
	return nil
}

var errReplies = errors.New("too many destinations at once")

// replySocket returns a socket that sends in the name of dst. It takes nothing:
// TPROXY looks at connected sockets only before it gives datagrams to the inbound.
func (f *front) replySocket(l *loop, dst netip.AddrPort) (*replySocket, error) {
	if s := f.replies[dst]; s != nil {
		s.users++
		return s, nil
	}
	if len(f.replies) >= maxReplySockets {
		return nil, errReplies
	}
	fd, err := socketFor(dst.Addr())
	if err != nil {
		return nil, err
	}
	if err = transparent(fd, dst.Addr()); err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = sockmark.Set(fd, l.r.cfg.Mark)
	}
	if err == nil {
		err = bindTo(fd, dst)
	}
	if err != nil {
		closeFD(fd)
		return nil, err
	}
	s := &replySocket{fd, 1}
	f.replies[dst] = s
	return s, nil
}

func (s *session) event(l *loop, fd int, events uint32) {
	if fd == s.control {
		if gone(fd) {
			s.end(l, ServerReset)
		}
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLERR) != 0 && !s.queued {
		s.answer(l)
	}
}

// answer takes what the far end sent and gives it to the client.
func (s *session) answer(l *loop) {
	d := l.buffers()
	for range rounds {
		n, err := d.take(s.fd)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // nobody there: the client will find out by itself
		}
		if err != nil {
			return
		}
		s.moved = l.now
		want := 0
		for i := range n {
			payload, ok := d.payload(i)
			if ok && s.outHead != nil {
				var err error
				_, payload, err = socks.CutDatagram(payload)
				ok = err == nil
			}
			if !ok || s.down != nil && !s.down.takeAll(int64(len(payload)), l.now) {
				l.r.counts.dropped.Add(1)
				continue
			}
			d.gather(s.backHead, payload, &s.name, s.nameLen)
			want++
		}
		if want > 0 {
			fd := s.f.fd
			if s.replies != nil {
				fd = s.replies.fd
			}
			sent, bytes := d.send(fd)
			s.count(l, &s.e.down, want, sent, bytes)
		}
		if n < batchSize {
			return
		}
	}
	s.queued = true
	l.ready(s)
}

// count adds to a counter of bytes. Where not all went the bytes are not known
// one by one: their mean is taken.
func (s *session) count(l *loop, counter *atomic.Uint64, want, sent, bytes int) {
	if sent < want {
		l.r.counts.dropped.Add(uint64(want - sent))
		bytes = bytes / want * sent
	}
	counter.Add(uint64(bytes))
}

// sweep is the front's to do: it has all sessions, also those without a socket.
func (s *session) sweep(*loop) {}

func (f *front) sweep(l *loop) {
	for _, s := range f.sessions {
		if l.now-s.moved >= s.idle {
			s.end(l, Idled)
		}
	}
}

// end closes what the session has.
func (s *session) end(l *loop, why Why) {
	if s.closed {
		return
	}
	s.closed = true
	delete(s.f.sessions, s.key)
	if s.opening != nil {
		s.opening.cancel()
	}
	if s.fd >= 0 {
		l.forget(s.fd)
	}
	if s.control >= 0 {
		l.forget(s.control)
	}
	if s.replies != nil {
		if s.replies.users--; s.replies.users == 0 {
			delete(s.f.replies, s.key.dst.AddrPort())
			closeFD(s.replies.fd)
		}
	}
	if s.told {
		l.r.closed(s.e, &End{Why: why})
	} else {
		l.r.table.remove(s.e)
	}
}

// end closes the front with all its sessions.
func (f *front) end(l *loop, why Why) {
	if f.closed {
		return
	}
	f.closed = true
	for _, s := range f.sessions {
		s.end(l, why)
	}
	l.forget(f.fd)
	if f.control >= 0 {
		l.forget(f.control)
	}
	if f.e != nil {
		l.r.table.remove(f.e)
	}
}
