package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLoops bounds the loops; each moves payload on one processor.
	maxLoops = 8
	// maxEvents is how many events are taken at once.
	maxEvents = 128
	// edges is what every socket of a loop is watched for: each change is told
	// once, so that nothing has to be told to the kernel while payload moves.
	edges = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff
)

// handler owns descriptors in a loop. All its methods are called by the loop.
type handler interface {
	// event tells what the kernel says of fd.
	event(l *loop, fd int, events uint32)
	// again is called when the handler asked for it by ready or after.
	again(l *loop)
	// sweep is called now and then: idle handlers end themselves.
	sweep(l *loop)
	// end closes everything.
	end(l *loop, why Why)
}

// loop moves payload: one goroutine that owns pairs of sockets and waits for all
// of them. Other goroutines reach it by post only.
type loop struct {
	r     *Relay
	epoll *os.File // in Go's own poller: a loop that waits holds no thread
	epfd  int
	bell  int // eventfd
	now   int64

	handlers map[int32]handler
	queue    []handler // to be called again at once, each once at most
	spare    []handler // the queue before
	waiting  waiters
	timer    *time.Timer
	pipes    pipes
	scratch  []byte
	udp      *datagrams // made when first used

	mu     sync.Mutex
	posted []func(l *loop) // as many as there are connections, at most a few for each
	closed bool
}

func newLoop(r *Relay) (*loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	l := &loop{r: r, epfd: epfd, bell: bell, handlers: map[int32]handler{}, pipes: pipes{max: maxPipes}}
	err = unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: int32(bell)})
	if err == nil {
		err = unix.SetNonblock(epfd, true) // so that os.File hands it to Go's poller
	}
	if err != nil {
		_ = unix.Close(bell)
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("watch an eventfd: %w", err)
	}
	l.epoll = os.NewFile(uintptr(epfd), "epoll")
	l.timer = time.AfterFunc(time.Hour, l.ring)
	return l, nil
}

// finish ends all handlers; from then on nothing can be posted.
func (l *loop) finish() {
	l.mu.Lock()
	l.closed = true
	left := l.posted
	l.posted = nil
	l.mu.Unlock()
	l.timer.Stop()
	for _, f := range left {
		f(l)
	}
	for _, h := range l.all() {
		h.end(l, Stopped)
	}
}

// close frees what newLoop made; it is called when nothing runs any more.
func (l *loop) close() {
	l.finish()
	l.pipes.close()
	_ = l.epoll.Close()
	_ = unix.Close(l.bell)
}

// post has the loop call f; false when it has ended, then f is never called.
func (l *loop) post(f func(l *loop)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 {
		l.ring()
	}
	return true
}

func (l *loop) ring() {
	// It fails only when the counter is full: then the bell rings already.
	_, _ = unix.Write(l.bell, []byte{1, 0, 0, 0, 0, 0, 0, 1})
}

// sweepEvery is how often idle connections are looked for.
const sweepEvery = 5 * time.Second

// run moves payload until ctx ends, and then ends all handlers.
func (l *loop) run(ctx context.Context) error {
	defer l.finish()
	raw, err := l.epoll.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the epoll: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.epoll.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var events [maxEvents]unix.EpollEvent
	var n int
	var waitErr error
	wait := func(uintptr) bool {
		n, waitErr = unix.EpollWait(l.epfd, events[:], 0)
		return n != 0 || len(l.queue) > 0
	}
	every := min(sweepEvery, l.r.limits.Idle/4, l.r.limits.HalfClosed/4, l.r.limits.UDPIdle/4)
	swept := l.clock()
	l.after(every, nil)
	for ctx.Err() == nil {
		switch err := raw.Read(wait); {
		case err != nil && ctx.Err() != nil, errors.Is(waitErr, unix.EINTR):
			continue
		case err != nil || waitErr != nil:
			return fmt.Errorf("wait for sockets: %w", errors.Join(err, waitErr))
		}
		l.clock()
		for _, e := range events[:n] {
			if int(e.Fd) == l.bell {
				l.answer()
			} else if h := l.handlers[e.Fd]; h != nil {
				h.event(l, int(e.Fd), e.Events)
			}
		}
		l.turn()
		if l.now-swept >= int64(every) {
			swept = l.now
			for _, h := range l.all() {
				h.sweep(l)
			}
			l.after(every, nil)
		}
	}
	return nil
}

// clock reads the relay's clock.
func (l *loop) clock() int64 {
	l.now = l.r.clock()
	return l.now
}

// all returns the handlers, each as often as it has descriptors.
func (l *loop) all() []handler {
	all := make([]handler, 0, len(l.handlers))
	for _, h := range l.handlers {
		all = append(all, h)
	}
	return all
}

// answer does what others posted, and what has waited long enough.
func (l *loop) answer() {
	var b [8]byte
	_, _ = unix.Read(l.bell, b[:])
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range posted {
		f(l)
	}
	l.due()
}

// turn calls those that asked to be called again, once each.
func (l *loop) turn() {
	queue := l.queue
	l.queue = l.spare[:0]
	for _, h := range queue {
		h.again(l)
	}
	clear(queue)
	l.spare = queue
}

// ready has h called again when others have had their turn.
func (l *loop) ready(h handler) { l.queue = append(l.queue, h) }

// watch gives fd to h.
func (l *loop) watch(fd int, h handler) error {
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: edges, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	l.handlers[int32(fd)] = h
	return nil
}

// forget closes a descriptor that watch was called for.
func (l *loop) forget(fd int) {
	delete(l.handlers, int32(fd))
	_ = unix.Close(fd)
}

// waiter is a handler that is to be called again at a time; h may be nil.
type waiter struct {
	at int64
	h  handler
}

// waiters is a heap, the earliest first. A handler is in it once, at most (they
// see to that), so it is as long as the table.
type waiters []waiter

// after has h called again after d.
func (l *loop) after(d time.Duration, h handler) {
	w := append(l.waiting, waiter{l.now + int64(d), h})
	i := len(w) - 1
	for i > 0 && w[i].at < w[(i-1)/2].at {
		w[i], w[(i-1)/2] = w[(i-1)/2], w[i]
		i = (i - 1) / 2
	}
	l.waiting = w
	if i == 0 {
		l.timer.Reset(d)
	}
}

// due calls those whose time has come.
func (l *loop) due() {
	for len(l.waiting) > 0 && l.waiting[0].at <= l.now {
		h := l.waiting[0].h
		l.pop()
		if h != nil {
			h.again(l)
		}
	}
	if len(l.waiting) > 0 {
		l.timer.Reset(time.Duration(max(l.waiting[0].at-l.now, 1)))
	}
}

func (l *loop) pop() {
	w := l.waiting
	last := len(w) - 1
	w[0] = w[last]
	w[last] = waiter{}
	w = w[:last]
	for i := 0; ; {
		least := i
		for _, kid := range [...]int{2*i + 1, 2*i + 2} {
			if kid < len(w) && w[kid].at < w[least].at {
				least = kid
			}
		}
		if least == i {
			break
		}
		w[i], w[least] = w[least], w[i]
		i = least
	}
	l.waiting = w
}

// dup takes the descriptor out of a connection of package net, which is closed:
// Go's poller would be told of each packet as well.
func dup(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dupErr); err != nil {
		return -1, fmt.Errorf("take a descriptor over: %w", err)
	}
	return fd, nil
}
