package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
	"netpolicy.dev/netpolicy/internal/api"
)

// trips looks for the round trips of connections from the client.
type trips struct {
	t *testing.T
	l *Lab
}

// of returns the round trip that the daemon knows of the connection; negative: none.
func (x trips) of(local net.Addr) time.Duration {
	x.t.Helper()
	list, err := x.l.API().Flows(x.t.Context(), api.FlowsRequest{Match: local.String(), Limit: 10, Sort: api.ByAge})
	if err != nil {
		x.t.Fatal(err)
	}
	for _, f := range list.Flows {
		if at, err := flow.ParseJSON(f.Flow); err == nil {
			if k, ok := tupleOf(&at); ok && k.src == netip.MustParseAddrPort(local.String()) {
				return time.Duration(f.RTTms * float64(time.Millisecond))
			}
		}
	}
	return -1
}

// known waits until the daemon knows it.
func (x trips) known(local net.Addr) (rtt time.Duration) {
	x.t.Helper()
	eventually(x.t, "the round trip of "+local.String(), func() bool {
		rtt = x.of(local)
		return rtt >= 0
	})
	return rtt
}

// records returns what was recorded of the connection, as "event rule pinned rtt".
func (x trips) records(local net.Addr) (list []string) {
	x.t.Helper()
	err := x.l.API().Decisions(x.t.Context(), 1000, false, func(line []byte) error {
		r, err := ParseRecord(line)
		if k, ok := tupleOf(&r.Flow); err == nil && ok && k.src.String() == local.String() {
			_, known := r.Flow.RTT.Get()
			list = append(list, fmt.Sprint(r.Event, " ", r.Rule, " ", r.Pinned, " ", known))
		}
		return err
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return list
}

// shaken is how long the client's own kernel took for the handshake.
func shaken(t *testing.T, conn net.Conn) (rtt time.Duration) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		info, e := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if e != nil {
			t.Error(e)
			return
		}
		rtt = time.Duration(info.Rtt) * time.Microsecond
	})
	if err != nil {
		t.Fatal(err)
	}
	return rtt
}

// TestForwardedRTT: the gateway knows the round trip of connections that it forwards,
// as the client's own kernel measures it, with and without translation of addresses,
// and tells another decision that hangs on it, without moving the connection.
func TestForwardedRTT(t *testing.T) {
	l, policy := daemonLab(t)
	ctx, x := t.Context(), trips{t, l}
	const tolerance, threshold = 5 * time.Millisecond, 60 * time.Millisecond
	far := "  - {name: far, priority: 90, match: {rtt_ms: \">60\"}, action: {route: wan1}}\n"
	for _, text := range []string{string(testPolicy("", far)), strings.Replace(string(testPolicy("", far)), "masquerade: [wan1, wan2]", "", 1)} {
		if err := WriteFile(policy, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		for _, delay := range []time.Duration{30 * time.Millisecond, 80 * time.Millisecond, 30 * time.Millisecond} {
			if err := l.Fault(ctx, Wan2, Fault{Delay: delay}); err != nil {
				t.Fatal(err)
			}
			// Echo: nobody says anything yet. TLS: the name comes right behind.
			for _, addr := range []string{"203.0.113.10:7", "[2001:db8:cafe::10]:7", "203.0.113.20:443", "[2001:db8:cafe::20]:443"} {
				conn, err := l.Client().Dial(ctx, "tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				own, named := shaken(t, conn), strings.HasSuffix(addr, ":443")
				through := conn
				if named {
					if through, err = l.Client().TLS(ctx, conn, "evilzoom.us"); err != nil {
						t.Fatal(err)
					}
				}
				rtt := x.known(conn.LocalAddr())
				t.Logf("%s over %v: %v, the client's kernel says %v", addr, delay, rtt, own)
				if rtt < delay || rtt > own+tolerance || rtt < own-tolerance {
					t.Errorf("%s over %v: %v, the client's kernel says %v", addr, delay, rtt, own)
				}
				var want []string
				slow := rtt > threshold // a busy machine adds to the delay
				switch {
				case named && slow:
					want = []string{"open  false false", "name far true true"}
				case named:
					want = []string{"open  false false", "name  false true"}
				case slow:
					want = []string{"open  false false", "facts far true true"}
				default:
					want = []string{"open  false false"}
				}
				got := x.records(conn.LocalAddr())
				if named && slow { // a busy client says its name after the round trip is known
					got = slices.DeleteFunc(got, func(r string) bool { return r == "facts far true true" })
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s over %v: records %q, want %q", addr, delay, got, want)
				}
				if err := exchange(through, 1024, time.Now().Add(20*time.Second)); err != nil {
					t.Errorf("%s over %v: the connection does not live on: %v", addr, delay, err)
				}
			}
			for _, addr := range []string{"203.0.113.10:443", "[2001:db8:cafe::10]:443"} {
				x.quic(addr, delay)
			}
			for _, addr := range []string{"203.0.113.53:53", "[2001:db8:cafe::53]:53"} {
				x.dns(addr, delay)
			}
		}
		x.lost("203.0.113.10:5001")
		if err := l.Fault(ctx, Wan2, Fault{}); err != nil {
			t.Fatal(err)
		}
		if err := l.StopDaemon(); err != nil {
			t.Fatal(err)
		}
	}
}

// quic sends a hello, which comes back.
func (x trips) quic(addr string, delay time.Duration) {
	t := x.t
	t.Helper()
	hello, err := quictest.Hello(&tls.Config{ServerName: "quic.example", NextProtos: []string{"h3"}})
	if err != nil {
		t.Fatal(err)
	}
	id := []byte("12345678")
	x.datagram(addr, delay, quictest.V1.Initial(id, id, 0, quictest.Crypto(0, hello[:900])), quictest.V1.Initial(id, id, 1, quictest.Crypto(900, hello[900:])))
}

// dns asks the lab's resolver.
func (x trips) dns(addr string, delay time.Duration) {
	x.t.Helper()
	question := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"
	x.datagram(addr, delay, []byte(question))
}

// datagram sends all, and compares the daemon's figure with the time until an answer.
func (x trips) datagram(addr string, delay time.Duration, all ...[]byte) {
	t := x.t
	t.Helper()
	conn, err := x.l.Client().Dial(t.Context(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	begin := time.Now()
	for _, b := range all {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Read(make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	own := time.Since(begin)
	rtt := x.known(conn.LocalAddr())
	t.Logf("%s over %v: %v, the client waited %v", addr, delay, rtt, own)
	if rtt < delay || rtt > own {
		t.Errorf("%s over %v: %v, the client waited %v", addr, delay, rtt, own)
	}
}

// lost connects while the line loses SYNs to the port: which of them was answered in
// the end nobody can tell.
func (x trips) lost(addr string) {
	t, ctx := x.t, x.t.Context()
	t.Helper()
	lose := func(what string) {
		port := netip.MustParseAddrPort(addr).Port()
		if _, err := x.l.line(Wan2).isp.run(ctx, "", "iptables-legacy", "-w", "-t", "raw", what, "PREROUTING", "-p", "tcp", "--dport", fmt.Sprint(port), "-j", "DROP"); err != nil {
			t.Fatal(err)
		}
	}
	lose("-I")
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		conn, err := x.l.Client().Dial(ctx, "tcp", addr)
		done <- dialled{conn, err}
	}()
	eventually(t, "the SYN has passed the gateway", func() bool {
		list, err := x.l.API().Flows(ctx, api.FlowsRequest{Match: addr, Limit: 10, Sort: api.ByAge})
		return err == nil && len(list.Flows) > 0
	})
	lose("-D")
	d := <-done
	if d.err != nil {
		t.Fatal(d.err)
	}
	defer d.conn.Close()
	// What is known of a later one was told after all that is to be told of this one.
	next, err := x.l.Client().Dial(ctx, "tcp", strings.Replace(addr, ":5001", ":8080", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	x.known(next.LocalAddr())
	if rtt := x.of(d.conn.LocalAddr()); rtt >= 0 {
		t.Errorf("a connection with a lost SYN has a round trip of %v", rtt)
	}
}
