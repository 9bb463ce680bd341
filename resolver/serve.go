package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// udpReaders is how many goroutines read one socket and answer what needs no
	// waiting.
	udpReaders = 2
	// maxQuery is the longest question read: a name, and a few options.
	maxQuery = 4096
	// idleClient is how long a client's connection may be silent (RFC 7766, 6.2.3
	// wants seconds).
	idleClient = 10 * time.Second
	// maxPipelinedClient bounds what one connection has under way; then we read on
	// when an answer went out.
	maxPipelinedClient = 32
	// retryAccept is the pause after a failed accept, which means that files ran out.
	retryAccept = 50 * time.Millisecond
	// socketBuffer is what the kernel holds of questions not read yet: a few
	// thousand.
	socketBuffer = 1 << 20
)

// sock is one address with its two sockets.
type sock struct {
	addr netip.AddrPort
	udp  *net.UDPConn
	tcp  net.Listener
	// anyAddr: it listens on every address, and answers from the one asked.
	anyAddr bool
}

func (s *sock) close() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
}

// listen binds all addresses, or none.
func (r *Resolver) listen(ctx context.Context) ([]*sock, error) {
	var socks []*sock
	for _, a := range r.cfg.Listen {
		s, err := bind(ctx, a)
		if err != nil {
			for _, s := range socks {
				s.close()
			}
			return nil, fmt.Errorf("serve dns on %v: %w", a, err)
		}
		socks = append(socks, s)
	}
	return socks, nil
}

// bindTries is how many ports are tried where any will do: one that is free for UDP may
// be taken for TCP.
const bindTries = 100

// bind opens UDP and TCP on one address. Port 0 is any, the same for both.
func bind(ctx context.Context, a netip.AddrPort) (s *sock, err error) {
	for range bindTries {
		if s, err = bindBoth(ctx, a); err == nil || a.Port() != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return s, err
}

func bindBoth(ctx context.Context, a netip.AddrPort) (*sock, error) {
	network := map[bool]string{true: "4", false: "6"}[a.Addr().Is4()]
	lc := net.ListenConfig{}
	pc, err := lc.ListenPacket(ctx, "udp"+network, a.String())
	if err != nil {
		return nil, err
	}
	s := &sock{udp: pc.(*net.UDPConn), anyAddr: a.Addr().IsUnspecified()}
	_ = s.udp.SetReadBuffer(socketBuffer) // as much as the system allows
	s.addr = addrPort(pc.LocalAddr())
	if s.anyAddr {
		err = wantDestination(s.udp, a.Addr().Is4())
	}
	if err == nil {
		s.tcp, err = lc.Listen(ctx, "tcp"+network, s.addr.String())
	}
	if err != nil {
		_ = pc.Close()
		return nil, err
	}
	return s, nil
}

// serveUDP reads questions from s until it is closed.
func (r *Resolver) serveUDP(ctx context.Context, s *sock) error {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	buf, out := make([]byte, maxQuery), make([]byte, 0, maxPayload)
	control := make([]byte, controlLen)
	for {
		n, nc, _, from, err := s.udp.ReadMsgUDPAddrPort(buf, control)
		if err != nil {
			if ctx.Err() != nil || isClosed(err) {
				return nil
			}
			if isTransient(err) {
				continue
			}
			return fmt.Errorf("read dns questions: %w", err)
		}
		client := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if client.Port() == 0 {
			continue // nobody can be answered there
		}
		q, choice, reply, more := r.first(out[:0], buf[:n], client, 0)
		var source []byte
		if s.anyAddr {
			source = answerFrom(control[:nc])
		}
		if !more {
			if reply != nil {
				_, _, _ = s.udp.WriteMsgUDPAddrPort(reply, source, from)
			}
			continue
		}
		if !r.clients.Enter(client.Addr()) {
			r.counters.Dropped.Add(1)
			continue
		}
		q.wire = append([]byte(nil), q.wire...)
		source = append([]byte(nil), source...)
		waiting.Go(func() {
			defer r.clients.Leave(client.Addr())
			if reply := r.respond(ctx, nil, &q, choice, 0); reply != nil {
				_, _, _ = s.udp.WriteMsgUDPAddrPort(reply, source, from)
			}
		})
	}
}

// isTransient reports errors that a UDP socket returns once, such as the ICMP
// answer to an earlier reply.
func isTransient(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout() && transientErrno(err)
}

// serveTCP accepts connections until l is closed.
func (r *Resolver) serveTCP(ctx context.Context, l net.Listener) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || isClosed(err) {
				return nil
			}
			select {
			case <-time.After(retryAccept):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		client := addrPort(c.RemoteAddr())
		if !r.conns.Enter(client.Addr()) {
			r.counters.Dropped.Add(1)
			_ = c.Close()
			continue
		}
		serving.Go(func() {
			defer r.conns.Leave(client.Addr())
			r.serveConn(ctx, c, client)
		})
	}
}

// serveConn answers the questions of one connection, in the order in which
// answers come (RFC 7766, 6.2.1.1).
func (r *Resolver) serveConn(ctx context.Context, c net.Conn, client netip.AddrPort) {
	var waiting sync.WaitGroup
	defer func() {
		waiting.Wait()
		_ = c.Close()
	}()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	var writing sync.Mutex
	slots := make(chan struct{}, maxPipelinedClient)
	write := func(reply []byte) {
		if len(reply) <= lengthSize {
			return
		}
		binary.BigEndian.PutUint16(reply, uint16(len(reply)-lengthSize))
		writing.Lock()
		defer writing.Unlock()
		_ = c.SetWriteDeadline(time.Now().Add(writeWithin))
		if _, err := c.Write(reply); err != nil {
			_ = c.Close()
		}
	}
	for {
		_ = c.SetReadDeadline(time.Now().Add(idleClient))
		msg, err := readFrame(c, maxQuery)
		if err != nil {
			return
		}
		q, choice, reply, more := r.first(make([]byte, lengthSize, maxPayload), msg, client, maxTCP)
		if !more {
			if reply == nil {
				return // not DNS
			}
			write(reply)
			continue
		}
		if !r.clients.Enter(client.Addr()) {
			r.counters.Dropped.Add(1)
			return
		}
		slots <- struct{}{}
		waiting.Go(func() {
			defer func() { <-slots }()
			defer r.clients.Leave(client.Addr())
			write(r.respond(ctx, make([]byte, lengthSize, maxPayload), &q, choice, maxTCP))
		})
	}
}
