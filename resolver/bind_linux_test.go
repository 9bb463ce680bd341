package resolver

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// TestAnyPort: of eight ports that the kernel may give, seven are taken for TCP.
func TestAnyPort(t *testing.T) {
	nstest.Need(t)
	const ports, first = "/proc/sys/net/ipv4/ip_local_port_range", 50_000
	before, err := os.ReadFile(ports)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(ports, before, 0o644); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(ports, fmt.Appendf(nil, "%d %d", first, first+7), 0o644); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("127.0.0.53")
	for n := range uint16(7) {
		l, err := net.Listen("tcp", netip.AddrPortFrom(at, first+n).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	s, err := bind(t.Context(), netip.AddrPortFrom(at, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if s.addr.Port() != first+7 || s.tcp.Addr().String() != s.addr.String() {
		t.Errorf("%s and %s", s.addr, s.tcp.Addr())
	}
	if _, err := bind(t.Context(), netip.AddrPortFrom(at, first)); err == nil {
		t.Error("a port that is taken was had")
	}
}
