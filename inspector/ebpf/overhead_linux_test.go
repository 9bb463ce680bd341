//go:build amd64 || arm64

package ebpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/afpacket"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/inspector/sockdiag"
	"netpolicy.dev/netpolicy/internal/socks"
	"netpolicy.dev/netpolicy/relay"
)

// observers are what is compared: "" is nobody. The relay does not look at connections
// but makes them itself: the clients ask it by SOCKS.
var observers = []string{"", "ebpf", "afpacket", "sockdiag", "nfqueue", "relay"}

// observeAs runs an observer, as a child.
func observeAs(name, group string) error {
	ctx, ignore := context.Background(), func(inspector.Event) {}
	switch name {
	case "ebpf":
		s := New(Options{Cgroup: group})
		go func() {
			for s.Features() == nil {
				time.Sleep(time.Millisecond)
			}
			fmt.Println("running")
		}()
		return s.Run(ctx, ignore)
	case "afpacket":
		fmt.Println("running")
		return afpacket.New(afpacket.Options{}).Run(ctx, ignore)
	case "sockdiag":
		fmt.Println("running")
		return sockdiag.New(sockdiag.Options{}).Run(ctx, ignore)
	case "relay":
		r, err := relay.New(relay.Config{
			Inbounds: []relay.Inbound{{Kind: relay.SOCKS, Listen: netip.MustParseAddrPort("127.0.0.1:0")}},
			Decider:  direct{}, Reporter: direct{},
		})
		if err != nil {
			return err
		}
		fmt.Println("running", r.Addrs()[0])
		return r.Run(ctx)
	default:
		q, err := nfqueue.Open(nfqueue.Options{Queue: 78, FailOpen: true})
		if err != nil {
			return err
		}
		fmt.Println("running")
		return q.Run(ctx, func(*nfqueue.Packet, *nfqueue.Verdict) {})
	}
}

// direct sends everything where its client wants it.
type direct struct{}

func (direct) Decide(_ *relay.Ask, v *relay.Verdict) { v.Way.Uplink = -1 }
func (direct) Dialled(*relay.Outcome)                {}
func (direct) Opened(*relay.Conn)                    {}
func (direct) Closed(*relay.Conn, *relay.End)        {}

// TestOverhead compares connections a second, throughput and processor time
// without an observer and with each, in turns, briefly unless FULL=1. Each observer
// has to work; the figures are for docs/ebpf.md.
func TestOverhead(t *testing.T) {
	rounds, each := 1, 100*time.Millisecond
	if os.Getenv("FULL") != "" {
		rounds, each = 5, time.Second
	}
	here, peer := pair(t)
	dir := group(t)
	peer.Serve(t, "192.0.2.2:9000", func(c net.Conn) { _, _ = c.Write([]byte("x")) })
	peer.Serve(t, "192.0.2.2:9001", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	figures := map[string][3][]float64{} // connections a second, MB a second, microseconds a connection
	for range rounds {
		for _, name := range observers {
			if name == "nfqueue" {
				here.Run(t, "", "iptables-legacy", "-A", "OUTPUT", "-o", "veth", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", "78")
			}
			conns, mb, cpu := underObserver(t, name, dir, each)
			if name == "nfqueue" {
				here.Run(t, "", "iptables-legacy", "-F", "OUTPUT")
			}
			f := figures[name]
			f[0], f[1], f[2] = append(f[0], conns), append(f[1], mb), append(f[2], cpu)
			figures[name] = f
		}
	}
	median := func(list []float64) float64 {
		slices.Sort(list)
		return list[len(list)/2]
	}
	base := figures[""]
	for _, name := range observers {
		f := figures[name]
		t.Logf("%-9s %6.0f connections/s (%.3f)  %6.0f MB/s (%.3f)  %5.2f us/connection of its process", name,
			median(f[0]), median(f[0])/median(base[0]), median(f[1]), median(f[1])/median(base[1]), median(f[2]))
	}
}

// underObserver measures for so long each.
func underObserver(t *testing.T, name, dir string, each time.Duration) (conns, mb, cpu float64) {
	t.Helper()
	spent := func() time.Duration { return 0 }
	dial := func(to string) (net.Conn, error) { return net.Dial("tcp", to) }
	if name != "" {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := command(t, "np-"+name, "as "+name+" "+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		b := make([]byte, 200)
		n, _ := out.Read(b)
		line, running := strings.CutPrefix(strings.TrimSpace(string(b[:n])), "running")
		if !running {
			t.Fatalf("%s: %s", name, b[:n])
		}
		if server := strings.TrimSpace(line); server != "" {
			dial = func(to string) (net.Conn, error) { return dialSOCKS(server, to) }
		}
		spent = func() time.Duration { return cpuOf(t, cmd.Process.Pid) }
	}
	n, before, start := 0, spent(), time.Now()
	for time.Since(start) < each {
		c, err := dial("192.0.2.2:9000")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0) // no TIME_WAIT: ports are few
		_ = c.Close()
		n++
	}
	conns = float64(n) / time.Since(start).Seconds()
	cpu = float64((spent() - before).Microseconds()) / float64(n)
	c, err := dial("192.0.2.2:9001")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	chunk := bytes.Repeat([]byte{0}, 128<<10)
	sent, start := 0, time.Now()
	for time.Since(start) < each {
		k, err := c.Write(chunk)
		if err != nil {
			t.Fatal(err)
		}
		sent += k
	}
	return conns, float64(sent) / 1e6 / time.Since(start).Seconds(), cpu
}

// dialSOCKS connects through a SOCKS server.
func dialSOCKS(server, to string) (net.Conn, error) {
	c, err := net.Dial("tcp", server)
	if err != nil {
		return nil, err
	}
	if _, err := socks.Handshake(context.Background(), c, "", "", socks.Connect, socks.TargetOf(netip.MustParseAddrPort(to))); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// cpuOf returns the processor time of a process, by its own clock: clock ticks are
// longer than what a short run takes.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	const cpuClock = 2 // CPUCLOCK_SCHED, of a whole process; see clock_getcpuclockid(3)
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuClock), &at); err != nil {
		t.Fatal(err)
	}
	return time.Duration(at.Nano())
}
