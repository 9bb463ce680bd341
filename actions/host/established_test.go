package host

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/state"
)

const (
	establishedFlows  = 32
	establishedEach   = 500 // datagrams of a flow in a round
	establishedRounds = 9
)

// gateway is one that passes on what established flows send.
type gateway struct {
	name  string
	l     *lab
	pipes []pipe
	rates []float64 // datagrams for each second of processor time
}

// pipe is a flow from socket to socket.
type pipe struct{ from, to int }

// TestEstablished measures what the datagrams of established flows cost from
// socket to socket: without a policy (but with connection tracking), with
// netpolicy's ip rules and routes alone (what any routing by marks costs), and
// with its table, too. The gateways take turns; every datagram has to arrive, and
// by the uplink that the engine says.
func TestEstablished(t *testing.T) {
	nstest.Need(t)
	p := flowPolicy(workload.Mix(1000))
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Normal)
	apply := func(edit func(*actions.Table)) {
		e := enforcer(t, t.TempDir())
		h, err := e.ReadHost()
		must(t, err)
		plan, diags := actions.PlanFor(prog, h, w, nil)
		if plan == nil {
			t.Fatal(diags)
		}
		edit(&plan.Table)
		must(t, e.Apply(context.Background(), plan))
	}
	const track = "table inet track {\n chain pre {\n type filter hook prerouting priority mangle;\n ct state invalid drop\n }\n}\n"
	var all []*gateway
	add := func(name string, prepare func(l *lab), decide func(f *flow.Flow) string) {
		g := &gateway{name: name, l: newLab(t)}
		prepare(g.l)
		g.connect(t, decide)
		all = append(all, g)
	}
	unmarked := func(*flow.Flow) string { return "wan0" }
	decided := func(f *flow.Flow) string { d := prog.Decide(f, w); return outcome(p, f, &d).dev }
	add("no policy", func(l *lab) { l.namespaces[0].Run(t, track, "nft", "-f", "-") }, unmarked)
	add("its ip rules alone", func(l *lab) {
		apply(func(table *actions.Table) {
			for i := range table.Chains {
				if c := &table.Chains[i]; c.Hook != "" {
					c.Rules = nil
				}
			}
		})
		l.namespaces[0].Run(t, track, "nft", "-f", "-")
	}, unmarked)
	add("netpolicy", func(*lab) { apply(func(*actions.Table) {}) }, decided)
	for range establishedRounds {
		for _, g := range all {
			g.rates = append(g.rates, g.send(t))
		}
	}
	for _, g := range all {
		var shares []float64
		for i, r := range g.rates {
			shares = append(shares, r/all[0].rates[i])
		}
		t.Logf("established: %s: %.0f ns a datagram, %.2f of no policy", g.name, 1e9/middle(g.rates), middle(shares))
	}
}

// connect opens the flows, and has each answered once.
func (g *gateway) connect(t *testing.T, decide func(*flow.Flow) string) {
	for i, far := range g.l.namespaces[2:] { // each is every address
		far.Run(t, "", "ip", "route", "add", "local", "default", "dev", "lo", "table", "main")
		far.Run(t, "", "ip", "route", "add", "10.0.0.0/24", "via", fmt.Sprintf("192.0.2.%d", 64*i+1))
	}
	g.l.namespaces[1].Run(t, "", "ip", "route", "add", "default", "via", "10.0.0.1")
	src := netip.MustParseAddr("10.0.0.2")
	for i := 0; len(g.pipes) < establishedFlows; i++ {
		f := flow.Flow{
			Proto: flow.Some(flow.UDP), Src: flow.Some(src), SrcPort: flow.Some(uint16(20_000 + i)),
			Dst: flow.Some(netip.AddrFrom4([4]byte{byte(20 + i%100), byte(7 * i), 3, 4})), DstPort: flow.Some(uint16(443)),
			SNI: flow.Absent[string](), HTTPHost: flow.Absent[string](),
			IfaceIn: flow.Some("lan0"), Mark: flow.Some(uint32(0)), DSCP: flow.Some(uint8(0)),
			Process: flow.Absent[string](), ProcessPath: flow.Absent[string](), Cgroup: flow.Absent[string](), User: flow.Absent[string](),
		}
		dev := decide(&f)
		if dev == "" {
			continue
		}
		dst, _ := f.Dst.Get()
		port, _ := f.SrcPort.Get()
		here, there := &unix.SockaddrInet4{Port: int(port), Addr: src.As4()}, &unix.SockaddrInet4{Port: 443, Addr: dst.As4()}
		far := g.l.namespaces[2+int(dev[3]-'0')]
		x := pipe{from: udpSocket(t, g.l.namespaces[1], here, there), to: udpSocket(t, far, there, here)}
		for _, way := range [][2]int{{x.from, x.to}, {x.to, x.from}} {
			if _, err := unix.Write(way[0], make([]byte, 64)); err != nil {
				t.Fatal(err)
			}
			if n, err := unix.Read(way[1], make([]byte, 100)); n != 64 || err != nil {
				t.Fatalf("%s: nothing arrives by %s: %v", g.name, dev, err)
			}
		}
		g.pipes = append(g.pipes, x)
	}
}

// udpSocket opens a connected socket, with room for a round, whose reads wait a second.
func udpSocket(t *testing.T, ns *nstest.NS, local, remote *unix.SockaddrInet4) (fd int) {
	t.Helper()
	ns.Do(t, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
		}
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, inbox)
		}
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
		}
		if err == nil {
			err = unix.Bind(fd, local)
		}
		if err == nil {
			err = unix.Connect(fd, remote)
		}
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// send sends a round, sees that all of it arrives, and returns the rate.
func (g *gateway) send(t *testing.T) float64 {
	const batch = 50
	payload := make([]byte, 64)
	iov := unix.Iovec{Base: &payload[0]}
	iov.SetLen(len(payload))
	msgs := make([]mmsghdr, batch)
	for i := range msgs {
		msgs[i].hdr.Iov = &iov
		msgs[i].hdr.SetIovlen(1)
	}
	took := func() time.Duration {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer g.l.oneCPU()()
		begin := threadTime(t)
		for range establishedEach / batch {
			for _, x := range g.pipes {
				if n, _, errno := syscall.Syscall6(unix.SYS_SENDMMSG, uintptr(x.from), uintptr(unsafe.Pointer(&msgs[0])), batch, 0, 0, 0); n != batch {
					t.Fatalf("%d sent: %v", n, errno)
				}
			}
		}
		return threadTime(t) - begin
	}()
	buf := make([]byte, 100)
	for _, x := range g.pipes {
		for i := range establishedEach {
			if _, err := unix.Read(x.to, buf); err != nil {
				t.Fatalf("%s: %d of %d datagrams arrive: %v", g.name, i, establishedEach, err)
			}
		}
	}
	return float64(establishedEach*len(g.pipes)) / took.Seconds()
}
