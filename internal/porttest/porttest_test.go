package porttest

import (
	"net"
	"net/netip"
	"testing"
)

func TestFree(t *testing.T) {
	seen := map[netip.AddrPort]bool{}
	for range 100 {
		at := Free(t)
		if seen[at] || !at.Addr().IsLoopback() {
			t.Errorf("%s", at)
		}
		seen[at] = true
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
}
