package nflog

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const rules = `
table inet t {
	chain input {
		type filter hook input priority 0
		udp dport 9 ct mark set 0x5000000 log prefix "np:block_games " group 77 drop
		tcp dport 9 log prefix "np:tcp" group 77 drop
	}
}`

func TestLogged(t *testing.T) {
	nstest.Need(t)
	here, peer := nstest.Here(t), nstest.New(t)
	nstest.Link(t, here, "lan", peer, "eth0", "192.0.2.1/24 2001:db8::1/64", "192.0.2.2/24 2001:db8::2/64")
	here.Run(t, rules, "nft", "-f", "-")
	s := New(Options{Group: 77})
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan inspector.Event, 1000)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(e inspector.Event) { events <- e }); close(events) }()
	for _, c := range []struct{ network, addr, prefix string }{
		{"udp", "192.0.2.1:9", "np:block_games "},
		{"udp", "[2001:db8::1]:9", "np:block_games "},
		{"tcp", "192.0.2.1:9", "np:tcp"},
	} {
		var conn net.Conn
		var err error
		if c.network == "udp" {
			peer.Do(t, func() { conn, err = net.Dial(c.network, c.addr) })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
		}
		// The reader may not be there yet: send until it tells of one.
		want := netip.MustParseAddrPort(c.addr)
		for found := false; !found; {
			if conn != nil {
				_, _ = conn.Write([]byte("hello"))
			} else {
				peer.Do(t, func() { _, _ = net.DialTimeout(c.network, c.addr, 50*time.Millisecond) })
			}
			select {
			case e, ok := <-events:
				if !ok {
					t.Fatal(<-done)
				}
				f := e.Flow
				if f.Dst != flow.Some(want.Addr()) || e.Prefix != c.prefix {
					continue
				}
				found = true
				if e.Kind != inspector.Logged || e.Source != "nflog" || e.At.IsZero() || f.DstPort != flow.Some[uint16](9) || f.IfaceIn != flow.Some("lan") ||
					f.Proto.Unknown() || f.SrcPort.Unknown() || f.Mark != flow.Some[uint32](0) {
					t.Errorf("%+v", e)
				}
				// A kernel without NETFILTER_NETLINK_GLUE_CT does not tell the mark.
				if c.network == "udp" && e.Mark != 0x5000000 && e.Mark != 0 {
					t.Errorf("conntrack mark %#x", e.Mark)
				}
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	second := New(Options{Group: 77})
	if err := second.Run(ctx, func(inspector.Event) {}); err == nil {
		t.Error("a second reader of the group must be refused")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s.Counters.Bad.Load() != 0 {
		t.Errorf("%d not understood", s.Counters.Bad.Load())
	}
}

func TestParseIsSafe(t *testing.T) {
	for n := range 64 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 37)
		}
		if _, _, err := parse(b); err == nil {
			t.Errorf("%d bytes of noise were understood", n)
		}
	}
}
