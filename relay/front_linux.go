package relay

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/sockmark"
	"netpolicy.dev/netpolicy/internal/socks"
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
	clients  map[netip.Addr]*list.List       // of their sessions, the one unused for longest first
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

// tproxyFront is the front of a TProxy inbound's UDP socket.
func tproxyFront(fd int) *front {
	return &front{
		kind: TProxy, fd: fd, control: -1,
		sessions: map[sessionKey]*session{}, clients: map[netip.Addr]*list.List{}, replies: map[netip.AddrPort]*replySocket{},
	}
}

// open takes over a front.
func (l *loop) open(f *front) {
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
	f := &front{kind: SOCKS, fd: fd, control: control, e: e, client: e.src.Addr(), sessions: map[sessionKey]*session{}, clients: map[netip.Addr]*list.List{}}
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
				if last != nil { // it may be what ends for the new one
					last.flush(l)
					last = nil
				}
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
	if mine := f.clients[key.src.Addr()]; mine != nil && mine.Len() >= r.limits.Sessions {
		f.displace(l, mine)
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
	f.keep(s)
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

// keep enters a session.
func (f *front) keep(s *session) {
	f.sessions[s.key] = s
	client := s.key.src.Addr()
	mine := f.clients[client]
	if mine == nil {
		mine = list.New()
		f.clients[client] = mine
	}
	s.place = mine.PushBack(s)
}

// drop takes it out again.
func (f *front) drop(s *session) {
	delete(f.sessions, s.key)
	client := s.key.src.Addr()
	if mine := f.clients[client]; mine.Remove(s.place) != nil && mine.Len() == 0 {
		delete(f.clients, client)
	}
}

// displace ends the session of a client that has been unused for longest: its own
// next one takes the place, or another client's.
func (f *front) displace(l *loop, mine *list.List) {
	l.r.counts.displaced.Add(1)
	mine.Front().Value.(*session).end(l, Displaced)
}

// busiest are the sessions of the client that has most. There must be some.
func (f *front) busiest() (most *list.List) {
	for _, mine := range f.clients {
		if most == nil || mine.Len() > most.Len() {
			most = mine
		}
	}
	return most
}

var errReplies = errors.New("too many destinations at once")

// replySocket returns a socket that sends in the name of the session's destination. It
// takes nothing: TPROXY looks at connected sockets only before it gives datagrams to the
// inbound.
func (f *front) replySocket(l *loop, of *session) (*replySocket, error) {
	dst := of.key.dst.AddrPort()
	if s := f.replies[dst]; s != nil {
		s.users++
		return s, nil
	}
	// Sessions of others may keep a socket that one of them has let go.
	for tries := 0; len(f.replies) >= l.r.maxReplies; tries++ {
		most := f.busiest()
		if most.Front() == of.place || tries == maxDisplaced {
			return nil, errReplies
		}
		f.displace(l, most)
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

func (f *front) sweep(l *loop) {
	for _, s := range f.sessions {
		if l.now-s.moved >= s.idle {
			s.end(l, Idled)
		}
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
