package resolver

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxRoutes bounds the connections to one upstream: there is one for each
	// route, and a policy has at most some dozen.
	maxRoutes = 64
	// maxPipelined bounds the questions under way on one connection.
	maxPipelined = 512
	// idleUpstream is how long a connection without replies stays open.
	idleUpstream = 30 * time.Second
	// writeWithin is how long a peer may take nothing.
	writeWithin = 2 * time.Second
	// lengthSize is what stands before a message over TCP (RFC 1035, 4.2.2).
	lengthSize = 2
)

// stream asks over TCP or TLS: one connection for each route, on which questions
// do not wait for each other's answers (RFC 7766, 6.2.1.1).
type stream struct {
	dialer
	tls      *tls.Config // nil: TCP
	counters *Counters

	mu      sync.Mutex
	pipes   map[Route]*pipe
	closed  bool
	running sync.WaitGroup
}

func newStream(d dialer, t *tls.Config, c *Counters) *stream {
	return &stream{dialer: d, tls: t, counters: c, pipes: map[Route]*pipe{}}
}

// pipe is one connection.
type pipe struct {
	ready chan struct{}      // closed when conn or err is set
	stop  context.CancelFunc // ends its dialing
	conn  net.Conn
	err   error

	write sync.Mutex // for whole messages

	mu       sync.Mutex
	pending  map[uint16]*waiter
	dead     bool
	received uint64 // replies
}

// waiter is a question under way. Its channel is closed when the pipe breaks.
type waiter struct {
	query []byte
	reply chan []byte
}

var (
	errClosed  = errors.New("the resolver is closed")
	errBusy    = errors.New("too many questions or routes under way to one upstream")
	errTooLong = errors.New("the message is too long")
	errPipe    = errors.New("the connection to the upstream broke")
)

// maxPipes is how many connections one question tries: an upstream may close an
// idle one at the wrong moment, and so may the next be, if it is another
// question's.
const maxPipes = 3

func (s *stream) exchange(ctx context.Context, query []byte, r Route) ([]byte, error) {
	for range maxPipes {
		p, fresh, err := s.pipe(ctx, r)
		if err != nil {
			return nil, err
		}
		reply, err := p.ask(ctx, query)
		if !errors.Is(err, errPipe) {
			return reply, err
		}
		s.forget(p, r)
		if fresh {
			break
		}
	}
	return nil, errPipe
}

// forget takes a broken connection out, so that the next question opens another.
func (s *stream) forget(p *pipe, r Route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipes[r] == p {
		delete(s.pipes, r)
	}
}

// pipe returns the connection by a route, and whether this call made it.
func (s *stream) pipe(ctx context.Context, r Route) (p *pipe, fresh bool, err error) {
	s.mu.Lock()
	p = s.pipes[r]
	fresh = p == nil
	switch {
	case s.closed:
		err = errClosed
	case fresh && len(s.pipes) >= maxRoutes:
		err = errBusy
	case fresh:
		// It is dialed for all who will use it, so it does not end with ctx: on a slow
		// line the question after this one has a connection.
		dialing, stop := context.WithTimeout(context.Background(), queryWithin)
		p = &pipe{ready: make(chan struct{}), stop: stop, pending: map[uint16]*waiter{}}
		s.pipes[r] = p
		s.running.Go(func() { s.run(dialing, p, r) })
	}
	s.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	select {
	case <-p.ready:
		return p, fresh, p.err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// run opens p and reads from it until it ends.
func (s *stream) run(ctx context.Context, p *pipe, r Route) {
	defer s.forget(p, r)
	p.conn, p.err = s.connect(ctx, r)
	p.stop()
	close(p.ready)
	if p.err != nil {
		return
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		p.fail()
	}
	p.read(s.counters)
}

func (s *stream) connect(ctx context.Context, r Route) (net.Conn, error) {
	conn, err := s.dial(ctx, "tcp", r)
	if err != nil || s.tls == nil {
		return conn, err
	}
	t := tls.Client(conn, s.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tls: %w", err)
	}
	return t, nil
}

// ask sends one question and waits for its reply.
func (p *pipe) ask(ctx context.Context, query []byte) ([]byte, error) {
	w := &waiter{query: query, reply: make(chan []byte, 1)}
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return nil, errPipe
	}
	if len(p.pending) >= maxPipelined {
		p.mu.Unlock()
		return nil, errBusy
	}
	setID(query)
	for p.pending[id(query)] != nil {
		setID(query)
	}
	p.pending[id(query)] = w
	before := p.received
	p.mu.Unlock()

	msg := binary.BigEndian.AppendUint16(make([]byte, 0, lengthSize+len(query)), uint16(len(query)))
	p.write.Lock()
	_ = p.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	_, err := p.conn.Write(append(msg, query...))
	p.write.Unlock()
	if err != nil {
		p.fail()
		return nil, errPipe
	}
	select {
	case reply, ok := <-w.reply:
		if !ok {
			return nil, errPipe
		}
		return reply, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	delete(p.pending, id(query))
	silent := p.received == before
	p.mu.Unlock()
	if silent && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		p.fail() // nothing came at all: the way there may be gone
	}
	return nil, ctx.Err()
}

// read hands replies to who waits for them, until the connection ends.
func (p *pipe) read(c *Counters) {
	defer p.fail()
	for {
		_ = p.conn.SetReadDeadline(time.Now().Add(idleUpstream))
		reply, err := readFrame(p.conn, maxTCP)
		if err != nil {
			return
		}
		if len(reply) < headerLen {
			c.Mismatched.Add(1)
			continue
		}
		p.mu.Lock()
		p.received++
		w := p.pending[id(reply)]
		if w == nil || !matches(reply, w.query) {
			c.Mismatched.Add(1)
		} else {
			delete(p.pending, id(reply))
			w.reply <- reply
		}
		p.mu.Unlock()
	}
}

// fail ends a connection and tells all who wait.
func (p *pipe) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return
	}
	p.dead = true
	_ = p.conn.Close()
	for id, w := range p.pending {
		close(w.reply)
		delete(p.pending, id)
	}
}

func (s *stream) close() {
	s.mu.Lock()
	s.closed = true
	for _, p := range s.pipes {
		p.stop()
		select {
		case <-p.ready:
			if p.err == nil {
				p.fail()
			}
		default: // run sees closed
		}
	}
	s.mu.Unlock()
	s.running.Wait()
}

func id(msg []byte) uint16 { return binary.BigEndian.Uint16(msg) }

// setID gives a query an ID that nobody can guess.
func setID(query []byte) { _, _ = rand.Read(query[:2]) } // which never fails

// readFrame reads one message with its length, which is at most most.
func readFrame(r io.Reader, most int) ([]byte, error) {
	var length [lengthSize]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > most {
		return nil, errTooLong
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(r, msg)
	return msg, err
}
