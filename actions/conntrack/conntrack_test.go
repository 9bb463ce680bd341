package conntrack_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/actions/conntrack"
	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestICMPWithoutItsID: a flow of ICMP is known by its addresses, the kernel's
// entries by the echo's id too.
func TestICMPWithoutItsID(t *testing.T) {
	nstest.Need(t)
	ns, far := nstest.New(t), nstest.New(t)
	nstest.Link(t, ns, "wan0", far, "lan0", "192.0.2.1/24 2001:db8::1/64", "192.0.2.2/24 192.0.2.3/24 2001:db8::2/64")
	ns.Run(t, "add table inet t; add chain inet t c { type filter hook output priority 0; }\n"+
		"add rule inet t c ct state new accept", "nft", "-f", "-")
	for _, dst := range []string{"192.0.2.2", "192.0.2.2", "192.0.2.3", "2001:db8::2"} {
		ns.Run(t, "", "ping", "-c", "1", dst)
	}
	entries := func() string { return ns.Run(t, "", "cat", "/proc/self/net/nf_conntrack") }
	if strings.Count(entries(), "dst=192.0.2.2 ") < 2 {
		t.Skip("the kernel does not show its connections here")
	}
	ns.Do(t, func() {
		c, err := conntrack.New()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		end := func(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), 0) }
		two := conntrack.Tuple{Proto: 1, Src: end("192.0.2.1"), Dst: end("192.0.2.2")}
		six := conntrack.Tuple{Proto: 58, Src: end("2001:db8::1"), Dst: end("2001:db8::2")}
		for _, tuple := range []conntrack.Tuple{two, six} {
			if err := c.SetMark(tuple, 5, 0xf); err != nil {
				t.Error(err)
			}
			if err := c.Forget(tuple); err != nil {
				t.Error(err)
			}
			if err := c.Forget(tuple); !errors.Is(err, conntrack.ErrNotFound) {
				t.Errorf("forgotten twice: %v", err)
			}
		}
	})
	got := entries()
	if strings.Contains(got, "dst=192.0.2.2 ") || !strings.Contains(got, "dst=192.0.2.3 ") {
		t.Errorf("want 192.0.2.3 alone to be left:\n%s", got)
	}
}
