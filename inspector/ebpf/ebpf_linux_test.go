//go:build amd64 || arm64

package ebpf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/internal/seccomp"
)

// log collects events.
type log struct {
	mu   sync.Mutex
	list []inspector.Event
}

func (l *log) emit(e inspector.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

// all returns the events of a kind.
func (l *log) all(kind inspector.Kind, ok func(*inspector.Event) bool) (list []inspector.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.list {
		if e := &l.list[i]; e.Kind == kind && (ok == nil || ok(e)) {
			list = append(list, *e)
		}
	}
	return list
}

func toPort(port uint16) func(*inspector.Event) bool {
	return func(e *inspector.Event) bool { return e.Flow.DstPort == flow.Some(port) }
}

// size is n; with FULL=1 ten times that, and for the race detector a tenth.
func size(n int) int {
	switch {
	case os.Getenv("FULL") != "":
		return 10 * n
	case testing.Short():
		return n / 10
	default:
		return n
	}
}

// pair returns the test's own namespace, joined to another.
func pair(t testing.TB) (here, peer *nstest.NS) {
	nstest.Need(t)
	here, peer = nstest.Here(t), nstest.New(t)
	nstest.Link(t, here, "veth", peer, "eth0", "192.0.2.1/24 2001:db8::1/64", "192.0.2.2/24 2001:db8::2/64")
	t.Cleanup(func() { here.Run(t, "", "ip", "link", "delete", "veth") })
	return here, peer
}

// TestConnections opens connections from several programs at once: none is
// missed, and each has the right process and name.
func TestConnections(t *testing.T) {
	_, peer := pair(t)
	var seen log
	src, _ := start(t, Options{}, seen.emit)
	const programs = 4
	n := size(2000) / programs
	var group sync.WaitGroup
	var mu sync.Mutex
	want := map[string]int{} // ports, process, name, user; ports may be used again
	stay, leave, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stay.Close()
	defer leave.Close()
	for i := range programs {
		addr := fmt.Sprintf("192.0.2.2:%d", 9000+i)
		if i == 1 {
			addr = fmt.Sprintf("[2001:db8::2]:%d", 9000+i)
		}
		peer.Serve(t, addr, func(net.Conn) {})
		group.Go(func() {
			name := fmt.Sprintf("np-program-%d", i)
			pid, out, err := runChild(t, name, fmt.Sprintf("dial %d tcp %s", n, addr), stay)
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			for port := range strings.FieldsSeq(out) {
				want[fmt.Sprintf("%s %d %d %s root", port, 9000+i, pid, name)]++
			}
		})
	}
	// Who has ended has no path any more.
	wait(t, func() bool { return len(seen.all(inspector.Open, nil)) >= n*programs })
	_ = leave.Close()
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	wait(t, func() bool { return src.Counters.Closed.Load() >= uint64(n*programs) })
	paths := 0
	for _, kind := range []inspector.Kind{inspector.Open, inspector.Close} {
		got := map[string]int{}
		for _, e := range seen.all(kind, nil) {
			sport, _ := e.Flow.SrcPort.Get()
			dport, _ := e.Flow.DstPort.Get()
			name, _ := e.Flow.Process.Get()
			user, _ := e.Flow.User.Get()
			got[fmt.Sprintf("%d %d %d %s %s", sport, dport, e.PID, name, user)]++
			if kind == inspector.Open && e.Flow.ProcessPath.Status() == flow.Known {
				paths++
			}
			if group, _ := e.Flow.Cgroup.Get(); !strings.Contains(group, "netpolicy-test-") {
				t.Fatalf("control group %q", group)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%.2000s", kind, diff)
		}
	}
	c := &src.Counters
	t.Logf("%d connections, %d with a path; lost %d", c.Opened.Load(), paths, c.Lost.Load())
	if c.Lost.Load() != 0 {
		t.Errorf("lost %d", c.Lost.Load())
	}
	if paths < n*programs*99/100 { // a program may end before its file is looked at
		t.Errorf("only %d with a path", paths)
	}
}

// TestEnds looks at what a Close tells, and at sockets that accept.
func TestEnds(t *testing.T) {
	here, peer := pair(t)
	var seen log
	start(t, Options{}, seen.emit)
	peer.Serve(t, "192.0.2.2:9000", func(c net.Conn) { _, _ = io.Copy(c, c) })
	dial := func(port string) (net.Conn, error) { return net.Dial("tcp", "192.0.2.2:"+port) }
	c, err := dial("9000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, 3000)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 3000)); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	wait(t, func() bool { return len(seen.all(inspector.Close, toPort(9000))) == 1 })
	e := seen.all(inspector.Close, toPort(9000))[0]
	if s := e.Stats; s.BytesUp < 3000 || s.BytesDown != 3000 || s.RTT <= 0 || s.MinRTT <= 0 || !s.Replied || !s.Reset || s.PacketsUp == 0 {
		t.Errorf("%+v", s)
	}
	if _, err := dial("9001"); err == nil {
		t.Fatal("nobody listens there")
	}
	wait(t, func() bool { return len(seen.all(inspector.Close, toPort(9001))) == 1 })
	if e := seen.all(inspector.Close, toPort(9001))[0]; !e.Stats.Reset || e.Stats.BytesDown != 0 {
		t.Errorf("refused: %+v", e.Stats)
	}
	here.Serve(t, "192.0.2.1:9002", func(net.Conn) {})
	peer.Do(t, func() { c, err = net.Dial("tcp", "192.0.2.1:9002") })
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	wait(t, func() bool { return len(seen.all(inspector.Close, toPort(9002))) == 1 })
	for _, kind := range []inspector.Kind{inspector.Open, inspector.Close} {
		list := seen.all(kind, toPort(9002))
		if len(list) != 1 || list[0].Flow.Src != flow.Some(netip.MustParseAddr("192.0.2.2")) || list[0].Flow.Process != flow.Some("ebpf.test") {
			t.Errorf("accepted: %+v", list)
		}
	}
}

func TestUDP(t *testing.T) {
	_, peer := pair(t)
	var seen log
	start(t, Options{}, seen.emit)
	l := peer.ListenPacket(t, "udp", "192.0.2.2:9000")
	defer func() { _ = l.Close() }()
	pid, out, err := runChild(t, "np-talker", "dial 3 udp 192.0.2.2:9000", nil)
	if err != nil {
		t.Fatal(err, out)
	}
	wait(t, func() bool { return len(seen.all(inspector.Close, toPort(9000))) == 3 })
	for _, e := range seen.all(inspector.Open, toPort(9000)) {
		port, _ := e.Flow.SrcPort.Get()
		if e.PID != uint32(pid) || e.Flow.Process != flow.Some("np-talker") || !strings.Contains(out, strconv.Itoa(int(port))) {
			t.Errorf("%+v", e)
		}
	}
	// One socket that sends to many.
	c, err := net.ListenPacket("udp", "192.0.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxPerSocket {
		if _, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 10_000 + i}); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.Close()
	many := func(e *inspector.Event) bool { p, _ := e.Flow.DstPort.Get(); return p >= 10_000 }
	wait(t, func() bool { return len(seen.all(inspector.Close, many)) == 3*maxPerSocket })
}

// TestFallback has the kernel refuse the bpf call.
func TestFallback(t *testing.T) {
	nstest.Need(t)
	_, out, err := runChild(t, "np-refused", "refused", nil)
	if err == nil || !strings.HasPrefix(out, ErrUnsupported.Error()) {
		t.Errorf("%v: %q", err, out)
	}
	t.Log(strings.TrimSpace(out))
}

// TestConfined loads all of it as the service does: with four capabilities, and
// the service's filter of system calls. It gets what root gets.
func TestConfined(t *testing.T) {
	nstest.Need(t)
	dir := group(t)
	list, err := Detect(Options{Cgroup: dir, Ifaces: []string{"lo"}})
	if err != nil {
		t.Skip(err)
	}
	want := ""
	for _, f := range list {
		want += fmt.Sprintln(f)
	}
	_, out, err := runChild(t, "np-confined", "confined "+dir, nil)
	if strings.Contains(out, seccomp.ErrUnsupported.Error()) {
		t.Skip(out)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("root, confined (-want +got):\n%s", diff)
	}
}

// TestNothingStays kills an observer.
func TestNothingStays(t *testing.T) {
	nstest.Need(t)
	dir := group(t)
	_, stop := start(t, Options{Cgroup: dir}, func(inspector.Event) {})
	const hooks = 9 // of a control group: all but the iterators
	if n := attached(t, dir); n != hooks {
		t.Errorf("%d programs are attached", n)
	}
	stop()
	if n := attached(t, dir); n != 0 {
		t.Errorf("%d programs stay after Run", n)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := command(t, "np-observer", "as ebpf "+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 100)); err != nil {
		t.Error(err)
	}
	if attached(t, dir) == 0 {
		t.Error("the child did not attach anything")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	wait(t, func() bool { return attached(t, dir) == 0 }) // the kernel does it a little later
}

// attached counts the programs of a control group.
func attached(t testing.TB, dir string) (n int) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, at := range []ebpf.AttachType{
		ebpf.AttachCGroupSockOps, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetSockCreate,
		ebpf.AttachCgroupInetSockRelease, ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	} {
		r, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: at})
		if err != nil {
			t.Fatal(err)
		}
		n += len(r.Programs)
	}
	return n
}

// TestOverrun stalls the reader: connections go on, the loss is counted, and
// what is still there is told in the end.
func TestOverrun(t *testing.T) {
	byEach(t, func(t *testing.T, without []string) {
		_, peer := pair(t)
		var seen log
		stall := make(chan struct{})
		src, _ := start(t, Options{Ring: 4096, Every: 20 * time.Millisecond, without: without}, func(e inspector.Event) {
			<-stall
			seen.emit(e)
		})
		peer.Serve(t, "192.0.2.2:9000", func(net.Conn) {})
		var held []net.Conn
		const n = 200
		for i := range 2 * n {
			network, address := "tcp", "192.0.2.2:9000"
			if i%2 == 1 {
				network, address = "udp", "192.0.2.2:9001"
			}
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			if network == "udp" {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			held = append(held, c)
		}
		close(stall)
		wait(t, func() bool { return src.Counters.Lost.Load() > 0 })
		all := func(kind inspector.Kind) bool {
			return len(seen.all(kind, toPort(9000))) == n && len(seen.all(kind, toPort(9001))) == n
		}
		wait(t, func() bool { return all(inspector.Open) })
		lost := src.Counters.Lost.Load()
		for _, c := range held {
			_ = c.Close()
		}
		wait(t, func() bool { return all(inspector.Close) })
		t.Logf("lost %d, and %d ends", lost, src.Counters.Lost.Load()-lost)
	})
}

// TestSweep: what ends while the reader stalls is told to have ended, and what lives on
// is not, whatever it is.
func TestSweep(t *testing.T) {
	byEach(t, func(t *testing.T, without []string) {
		_, peer := pair(t)
		var seen log
		var gate sync.Mutex
		src, _ := start(t, Options{Ring: 4096, Every: 20 * time.Millisecond, without: without}, func(e inspector.Event) {
			gate.Lock()
			defer gate.Unlock()
			seen.emit(e)
		})
		echo(t, peer, "192.0.2.2:9000")
		dial := func(network, address string) net.Conn {
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			return c
		}
		var held []net.Conn
		const each = 5 // that end, and as many that stay
		for range 2 * each {
			held = append(held, dial("tcp", "192.0.2.2:9000"), dial("udp", "192.0.2.2:9001"))
		}
		wait(t, func() bool { return len(seen.all(inspector.Open, nil)) == len(held) })
		gate.Lock()
		for range 200 {
			_ = dial("udp", "192.0.2.2:9002").Close()
		}
		for _, c := range held[:2*each] {
			_ = c.Close()
		}
		gate.Unlock()
		wait(t, func() bool { return src.Counters.Lost.Load() > 0 })
		held = append(held, dial("udp", "192.0.2.2:9003")) // told when that sample is over
		wait(t, func() bool { return len(seen.all(inspector.Open, toPort(9003))) == 1 })
		check := func(ended int) {
			t.Helper()
			for _, port := range []uint16{9000, 9001} {
				count := func(kind inspector.Kind) int { return len(seen.all(kind, toPort(port))) }
				wait(t, func() bool { return count(inspector.Close) >= ended })
				if o, c := count(inspector.Open), count(inspector.Close); o != 2*each || c != ended {
					t.Errorf("port %d: %d began and %d ended, want %d and %d", port, o, c, 2*each, ended)
				}
			}
		}
		check(each)
		for _, c := range held[2*each:] {
			_ = c.Close()
		}
		check(2 * each)
	})
}

// TestRTT holds connections open behind a delay.
func TestRTT(t *testing.T) { byEach(t, testRTT) }

func testRTT(t *testing.T, without []string) {
	here, peer := pair(t)
	const delay = 40 * time.Millisecond
	hold(t, here, delay)
	here.Run(t, "", "iptables-legacy", "-A", "OUTPUT", "-o", "veth", "-j", "NFQUEUE", "--queue-num", "77")
	t.Cleanup(func() { here.Run(t, "", "iptables-legacy", "-F", "OUTPUT") })
	var seen log
	start(t, Options{Every: 50 * time.Millisecond, without: without}, seen.emit)
	echo(t, peer, "192.0.2.2:9000")
	var group sync.WaitGroup
	conns := make([]*net.TCPConn, size(20))
	for i := range conns {
		group.Go(func() {
			c, err := net.Dial("tcp", "192.0.2.2:9000")
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = c.(*net.TCPConn)
			b := []byte{1}
			for range 5 {
				_, _ = c.Write(b)
				_, _ = io.ReadFull(c, b)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	worst := 0.0
	for _, c := range conns {
		want := tcpInfo(t, c) // nothing moves any more
		port := uint16(c.LocalAddr().(*net.TCPAddr).Port)
		var got time.Duration
		off := 1.0
		// The last sample may be yet to come.
		for tries := 0; tries < 3000 && (off > 0.2 || off < -0.2 || got < delay); tries++ {
			if list := seen.all(inspector.Update, func(e *inspector.Event) bool { return e.Flow.SrcPort == flow.Some(port) }); len(list) > 0 {
				got = list[len(list)-1].Stats.RTT
				off = float64(got-want) / float64(want)
			}
			time.Sleep(10 * time.Millisecond)
		}
		worst = max(worst, off, -off)
		if off > 0.2 || off < -0.2 || got < delay {
			t.Errorf("port %d: %v, TCP_INFO says %v", port, got, want)
		}
		_ = c.Close()
	}
	t.Logf("%d connections, off by %.2g at most", len(conns), worst)
}

func tcpInfo(t testing.TB, c *net.TCPConn) time.Duration {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var rtt time.Duration
	if err := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			rtt = time.Duration(info.Rtt) * time.Microsecond
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rtt
}

// echo serves many connections at a time until the test ends.
func echo(t testing.TB, ns *nstest.NS, addr string) {
	t.Helper()
	l := ns.Listen(t, addr)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
}

// TestDetect names what it looks for, and which of several ways serves it.
func TestDetect(t *testing.T) {
	nstest.Need(t)
	dir := group(t)
	list, err := Detect(Options{Cgroup: dir, Ifaces: []string{"lo", "nosuch0"}})
	if err != nil {
		t.Skip(err)
	}
	for _, f := range list {
		if missing := strings.Contains(f.Hook, "nosuch0"); missing != (f.Err != nil) && !mayLack(&f) {
			t.Errorf("%s by %s: %v", f.Fact, f.Hook, f.Err)
		}
	}
	// The first way that can be gone is gone.
	want := Feature{Fact: factFigures, Hook: figuresBy[0].hook + " or " + figuresBy[1].hook, Err: figuresOf(t, list).Err}
	for _, by := range figuresBy {
		list, err := Detect(Options{Cgroup: dir, without: by.without})
		if err != nil {
			t.Fatal(err)
		}
		f := figuresOf(t, list)
		t.Logf("%s: %v", by.hook, f.Err)
		if f.Err == nil {
			if f.Hook != by.hook {
				t.Errorf("%s alone: %s", by.hook, f.Hook)
			}
			if want.Hook == f.Hook || strings.Contains(want.Hook, " or ") {
				want = *f
			}
		}
	}
	if got := figuresOf(t, list); *got != want {
		t.Errorf("%v, want %v", *got, want)
	}
	none, err := Detect(Options{Cgroup: dir, without: []string{hookStorage, hookTCP}})
	if err != nil {
		t.Fatal(err)
	}
	if f := figuresOf(t, none); !errors.Is(f.Err, errWithout) || !strings.Contains(f.Hook, " or ") {
		t.Errorf("%v", *f)
	}
	if _, err := Detect(Options{Cgroup: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("there is no such group")
	}
}
