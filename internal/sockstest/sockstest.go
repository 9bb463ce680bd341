// Package sockstest is a SOCKS5 server for tests.
package sockstest

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"netpolicy.dev/netpolicy/internal/socks"
)

// Server takes connections, and remembers for which targets.
type Server struct {
	At    netip.AddrPort
	dial  func(socks.Target) (net.Conn, error)
	conns atomic.Int64
	mu    sync.Mutex
	asked []socks.Target
}

// Dial dials what was asked for.
func Dial(to socks.Target) (net.Conn, error) { return net.Dial("tcp", to.String()) }

// Serve takes the connections of a TCP listener until the test ends, and dials for them. A client whose target
// is not reached is told that it was refused.
func Serve(t testing.TB, l net.Listener, dial func(socks.Target) (net.Conn, error)) *Server {
	s := &Server{At: l.Addr().(*net.TCPAddr).AddrPort(), dial: dial}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			serving.Go(func() { s.serve(t.Context(), c) })
		}
	})
	return s
}

// Listen is Serve on a free port of this host.
func Listen(t testing.TB, dial func(socks.Target) (net.Conn, error)) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return Serve(t, l, dial)
}

// Asked are the targets so far, in their order.
func (s *Server) Asked() []socks.Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// Conns is how many connections of clients are open, or their far ends.
func (s *Server) Conns() int { return int(s.conns.Load()) }

func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer s.conns.Add(-1)
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	_, to, err := socks.Accept(c, c, nil)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, to)
	s.mu.Unlock()
	far, err := s.dial(to)
	if err != nil {
		_ = socks.WriteReply(c, socks.ReplyRefused, netip.AddrPort{})
		return
	}
	defer far.Close()
	if socks.WriteReply(c, socks.ReplyOK, netip.AddrPort{}) != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(c, far); _ = c.Close() })
	_, _ = io.Copy(far, c)
	_ = far.Close()
	back.Wait()
}
