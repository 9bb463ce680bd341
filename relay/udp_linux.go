package relay

import (
	"container/list"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/inspector/first"
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
	// sessions with one destination share one. Beyond it the client that has most
	// sessions loses the one unused for longest.
	maxReplySockets = 4096
	// maxDisplaced bounds the sessions that end for one more.
	maxDisplaced = 16
)

// session is one client's datagrams to one destination, and back.
type session struct {
	f        *front
	e        *entry
	key      sessionKey
	place    *list.Element // among its client's
	opening  *opening      // until it has a way
	fd       int           // connected to the far end or to the SOCKS server, -1 while there is none
	control  int           // the connection to the SOCKS server, -1 without
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

// touch notes that the session is used.
func (s *session) touch(l *loop) {
	s.moved = l.now
	s.f.clients[s.key.src.Addr()].MoveToBack(s.place)
}

// take takes one datagram of the client's. An open session gathers it: flush sends.
func (s *session) take(l *loop, payload []byte) {
	if s.blocked || s.closed {
		return
	}
	s.touch(l)
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
		if s.replies, err = s.f.replySocket(l, s); err != nil {
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
		s.touch(l)
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

// end closes what the session has.
func (s *session) end(l *loop, why Why) {
	if s.closed {
		return
	}
	s.closed = true
	s.f.drop(s)
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
