//go:build amd64 || arm64

package ebpf

import (
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/nstest"
)

// BenchmarkReading reads the figures of idle sockets, as happens each
// second, by each way that the kernel allows. The figure is for docs/ebpf.md.
func BenchmarkReading(b *testing.B) {
	nstest.Need(b)
	const sockets = 10_000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < sockets+100 {
		b.Skipf("only %d files may be open: %v", limit.Cur, err)
	}
	for _, by := range figuresBy {
		b.Run("10k/"+by.hook, func(b *testing.B) {
			opt := Options{Cgroup: group(b), without: by.without}
			opt.complete()
			l, list, err := load(&opt)
			if err != nil {
				b.Skip(err)
			}
			defer l.Close()
			if f := figuresOf(b, list); f.Err != nil {
				b.Skip(f.Err)
			}
			idle(b, sockets/2)
			s := New(opt)
			r := &run{source: s, emit: func(inspector.Event) {}, loaded: l, flows: make(map[uint64]*conn), programs: newPrograms(opt.Proc, l.top)}
			read := func() {
				if err := r.figures(l.iter); err != nil {
					b.Fatal(err)
				}
			}
			read()
			if len(r.flows) != sockets {
				b.Fatalf("%d of %d were listed", len(r.flows), sockets)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			read()
			before := s.Counters.Samples.Load()
			start := processor(b)
			for b.Loop() {
				read()
			}
			b.ReportMetric(float64((processor(b)-start).Microseconds())/float64(b.N), "cpu-us/op")
			if n := s.Counters.Samples.Load() - before; n != 0 {
				b.Errorf("%d changed", n)
			}
		})
	}
}

// idle opens so many connections on the loopback interface, until b ends.
func idle(b *testing.B, conns int) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	for range conns {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = c.(*net.TCPConn).SetLinger(0) // no TIME_WAIT: it would be visited, too
			_ = c.Close()
		})
		far, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = far.Close() })
	}
}

// processor returns the processor time of this thread.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		b.Fatal(err)
	}
	return time.Duration(at.Nano())
}
