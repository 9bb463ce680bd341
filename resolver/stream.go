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
	readers sync.WaitGroup
}

func newStream(d dialer, t *tls.Config, c *Counters) *stream {
	return &stream{dialer: d, tls: t, counters: c, pipes: map[Route]*pipe{}}
}

// pipe is one connection.
type pipe struct {
	ready chan struct{} // closed when conn or err is set
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
	errClosed = errors.New("the resolver is closed")
	errBusy   = errors.New("too many questions or routes under way to one upstream")
	errPipe   = errors.New("the connection to the upstream broke")
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
	switch p = s.pipes[r]; {
	case s.closed:
		s.mu.Unlock()
		return nil, false, errClosed
	case p == nil && len(s.pipes) >= maxRoutes:
		s.mu.Unlock()
		return nil, false, errBusy
	case p == nil:
		p = &pipe{ready: make(chan struct{}), pending: map[uint16]*waiter{}}
		s.pipes[r] = p
		s.readers.Add(1)
		s.mu.Unlock()
		s.connect(ctx, p, r)
		return p, true, p.err
	}
	s.mu.Unlock()
	select {
	case <-p.ready:
		return p, false, p.err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// connect opens p, and starts its reader.
func (s *stream) connect(ctx context.Context, p *pipe, r Route) {
	defer close(p.ready)
	conn, err := s.dial(ctx, "tcp", r)
	if err == nil && s.tls != nil {
		t := tls.Client(conn, s.tls)
		if err = t.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			err = fmt.Errorf("tls: %w", err)
		}
		conn = t
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.closed {
		_ = conn.Close()
		err = errClosed
	}
	if err != nil {
		p.err = err
		delete(s.pipes, r)
		s.readers.Done()
		return
	}
	p.conn = conn
	go func() {
		defer s.readers.Done()
		p.read(s.counters)
		s.forget(p, r)
	}()
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
		reply, err := readFrame(p.conn)
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
		select {
		case <-p.ready:
			p.fail()
		default: // connect sees closed
		}
	}
	s.mu.Unlock()
	s.readers.Wait()
}

func id(msg []byte) uint16 { return binary.BigEndian.Uint16(msg) }

// setID gives a query an ID that nobody can guess.
func setID(query []byte) { _, _ = rand.Read(query[:2]) } // which never fails

// readFrame reads one message with its length.
func readFrame(r io.Reader) ([]byte, error) {
	var length [lengthSize]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}
