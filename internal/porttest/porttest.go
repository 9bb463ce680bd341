// Package porttest finds ports for what has to be told its port before it listens.
package porttest

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
)

// Addr is a loopback address that is this process's alone: what others listen on or
// dial from takes no port of it.
func Addr() netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, 64 + byte(pid>>16&63), byte(pid >> 8), byte(pid)})
}

var (
	mu    sync.Mutex
	given = map[netip.AddrPort]bool{}
)

// Free returns an address with a port that nobody has, for TCP and UDP, each time another.
func Free(t testing.TB) netip.AddrPort {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	for {
		tcp, err := net.Listen("tcp", netip.AddrPortFrom(Addr(), 0).String())
		if err != nil {
			t.Fatal(err)
		}
		at := netip.MustParseAddrPort(tcp.Addr().String())
		udp, err := net.ListenPacket("udp", at.String())
		_ = tcp.Close()
		if err != nil {
			continue
		}
		_ = udp.Close()
		if !given[at] {
			given[at] = true
			return at
		}
	}
}
