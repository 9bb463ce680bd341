package relay

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/childtest"
	"netpolicy.dev/netpolicy/internal/socks"
)

// endsVar tells the test binary that it is a helper: "SERVER COUNT".
const endsVar = "RELAY_TEST_ENDS"

// helpEnds is both ends of TestIdleConns, in a process of its own because of the
// descriptor limit. It makes connections through the relay to itself, says so, and
// tries each when it is told to.
func helpEnds(server netip.AddrPort, count int) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var far, near []net.Conn
	for range count {
		c, err := socksTo(server, socks.TargetOf(l.Addr().(*net.TCPAddr).AddrPort()))
		if err != nil {
			return err
		}
		other, err := l.Accept()
		if err != nil {
			return err
		}
		near, far = append(near, c), append(far, other)
	}
	fmt.Println("there")
	in := bufio.NewReader(os.Stdin)
	_, _ = in.ReadString('\n')
	for i := range near {
		var b [1]byte
		_, _ = near[i].Write([]byte{7})
		if _, err := io.ReadFull(far[i], b[:]); err != nil || b[0] != 7 {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	fmt.Println("tried")
	_, _ = in.ReadString('\n')
	return nil
}

// TestIdleConns holds many connections on which nothing moves, and looks at what
// one costs.
func TestIdleConns(t *testing.T) {
	count := 800
	if full {
		count = 8000
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || int(limit.Cur) < 2*count+1500 {
		t.Skipf("needs %d descriptors", 2*count+1500)
	}
	r, server := mixed(t, direct, nil)
	before := memory()
	ends := childtest.Start(t, fmt.Sprintf("%s=%s %d", endsVar, server, count))
	ends.Expect("there")
	eventually(t, "all are there", func() bool { return r.Stats().Conns == count })
	eventually(t, "all handshakes are over", func() bool { return len(r.gate) == 0 })
	after := memory()
	t.Logf("%d idle connections: %.0f bytes of heap and stacks each, %d goroutines more, %d descriptors in all",
		count, float64(after.bytes-before.bytes)/float64(count), after.goroutines-before.goroutines, descriptors(t))
	if per := (after.bytes - before.bytes) / int64(count); per > 1500 {
		t.Errorf("%d bytes for an idle connection", per)
	}
	if after.goroutines > before.goroutines+2 {
		t.Errorf("%d goroutines more", after.goroutines-before.goroutines)
	}
	made := make(chan int)
	for _, l := range r.loops {
		l.post(func(l *loop) { made <- l.pipes.made })
		if n := <-made; n > sparePipes {
			t.Errorf("%d pipes are held", n)
		}
	}
	ends.Say("")
	ends.Expect("tried")
}

type used struct {
	bytes      int64
	goroutines int
}

// memory is what is in use after the garbage is gone.
func memory() used {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used{int64(m.HeapInuse + m.StackInuse), runtime.NumGoroutine()}
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestSoak has connections come, talk and go, in every way, and looks for what is
// left: ten minutes with FULL=1, else a few seconds.
func TestSoak(t *testing.T) {
	long := 2 * time.Second
	if full {
		long = 10 * time.Minute
	}
	if d, err := time.ParseDuration(os.Getenv("RELAY_SOAK")); err == nil {
		long = d
	}
	at := serveTCP(t, "127.0.0.1:0", echo)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	atUDP := echoUDP(t, pc)
	dead := closedPort(t)
	r, server := mixed(t, func(a *Ask, v *Verdict) {
		direct(a, v)
		v.Sniff = a.Flow.HTTPHost.Unknown() && !a.Sniffed
		if host, _ := a.Flow.HTTPHost.Get(); host == "no.example" {
			v.Do = Reject
		}
	}, func(c *Config) { c.Limits.UDPIdle, c.Limits.Sniff = 500*time.Millisecond, 20*time.Millisecond })
	settle := func() (used, int) {
		eventually(t, "the table is empty", func() bool { return r.Stats().Conns == 0 })
		eventually(t, "all handshakes are over", func() bool { return len(r.gate) == 0 })
		time.Sleep(100 * time.Millisecond) // the other ends
		return memory(), descriptors(t)
	}
	churn(t, server, at, atUDP, dead, time.Second/2) // pools are filled
	before, fdsBefore := settle()
	n := churn(t, server, at, atUDP, dead, long)
	after, fdsAfter := settle()
	t.Logf("%d connections in %v; heap and stacks %d -> %d KiB, goroutines %d -> %d, descriptors %d -> %d",
		n, long, before.bytes>>10, after.bytes>>10, before.goroutines, after.goroutines, fdsBefore, fdsAfter)
	// Pools keep some pipes; the runtime keeps some memory.
	if fdsAfter > fdsBefore+4*sparePipes {
		t.Errorf("%d descriptors are left over", fdsAfter-fdsBefore)
	}
	if after.goroutines > before.goroutines+2 {
		t.Errorf("%d goroutines are left over", after.goroutines-before.goroutines)
	}
	if after.bytes > before.bytes+8<<20 {
		t.Errorf("%d KiB are left over", (after.bytes-before.bytes)>>10)
	}
}

// churn makes connections of many kinds for a time, and returns how many.
func churn(t *testing.T, server, at, atUDP, dead netip.AddrPort, long time.Duration) int {
	var all sync.WaitGroup
	var mu sync.Mutex
	total := 0
	payload, much := strings.Repeat("payload ", 5000), make([]byte, 32<<20)
	kinds := []func(){
		func() { talk(server, at, payload, false) },
		func() { talk(server, at, "GET / HTTP/1.1\r\nHost: yes.example\r\n\r\n", true) },
		func() { talk(server, at, "GET / HTTP/1.1\r\nHost: no.example\r\n\r\n", false) },
		func() { // says nothing
			if c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(server)); err == nil {
				_ = c.Close()
			}
		},
		func() { talk(server, dead, "x", true) },
		func() { // a sender that does not read
			if c, err := socksTo(server, socks.TargetOf(at)); err == nil {
				_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
				_, _ = c.Write(much)
				refuse(c)
			}
		},
		func() {
			control, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(server))
			if err != nil {
				return
			}
			defer control.Close()
			if bound, err := socks.Ask(control, "", "", socks.Associate, target{Addr: netip.IPv4Unspecified()}); err == nil {
				if c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(bound.AddrPort())); err == nil {
					_, _ = c.Write(append(socks.AppendHead(nil, socks.TargetOf(atUDP)), "x"...))
					_ = c.SetReadDeadline(time.Now().Add(time.Second))
					_, _ = c.Read(make([]byte, 100))
					_ = c.Close()
				}
			}
		},
	}
	until := time.Now().Add(long)
	for i := range 2 * len(kinds) {
		all.Go(func() {
			n := 0
			for time.Now().Before(until) {
				kinds[i%len(kinds)]()
				n++
				if i%len(kinds) == 3 {
					time.Sleep(time.Millisecond) // without it this one kind takes all
				}
			}
			mu.Lock()
			total += n
			mu.Unlock()
		})
	}
	all.Wait()
	return total
}

// talk sends text and reads it back, and closes with a reset where hard.
func talk(server, at netip.AddrPort, text string, hard bool) {
	c, err := socksTo(server, socks.TargetOf(at))
	if err != nil {
		return
	}
	if _, err = io.WriteString(c, text); err == nil {
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
	if hard {
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}
