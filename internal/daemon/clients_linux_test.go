package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/childtest"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// observed is a daemon that follows connections, which change, and serves the API over TCP.
type observed struct {
	*rig
	url, token  string
	begun, over int
}

// startObserved returns one that follows so many connections, and whose rings are full.
func startObserved(t testing.TB, connections int) *observed {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &observed{url: "http://" + l.Addr().String()}
	o.rig = start(t, zoomPolicy, func(opts *Options, _ *Parts) {
		opts.Socket, opts.StateDir, opts.Web.Listener = filepath.Join(dir, "s.sock"), filepath.Join(dir, "state"), l
		opts.Log = slog.New(slog.DiscardHandler)
	})
	token, err := api.NewClient(filepath.Join(dir, "s.sock")).Token(t.Context(), api.TokenRequest{Role: api.RoleAdmin}) // the role read has less than 64 streams
	if err != nil {
		t.Fatal(err)
	}
	o.token = token.Token
	for o.begun < connections {
		o.begin()
	}
	for n := range 2 * telemetry.RingSize {
		o.change(n)
	}
	o.sync()
	return o
}

// begin has one connection more, change in turn one more and the oldest less.
func (o *observed) begin() {
	o.events <- opened(o.begun)
	o.begun++
}

func (o *observed) change(n int) {
	if n%2 == 0 {
		o.begin()
		return
	}
	e := opened(o.over)
	e.Kind = inspector.Close
	o.events <- e
	o.over++
}

// told is how many events there have been for clients of the page Connections.
func (o *observed) told() int64 { return int64(o.records.Last(0) + o.feeds.Ended.Last(0)) }

// clients is a crowd that runs.
type clients struct {
	*childtest.Process
	t testing.TB
}

// visit starts a crowd, and waits until each has what it first asks for.
func (o *observed) visit(t testing.TB, count int, asleep bool) clients {
	t.Helper()
	text, err := json.Marshal(crowd{URL: o.url, Token: o.token, Count: count, Asleep: asleep})
	if err != nil {
		t.Fatal(err)
	}
	p := childtest.Start(t, asClients+"="+string(text))
	p.Expect("ready")
	return clients{p, t}
}

// counts asks the crowd what it has got.
func (p clients) counts() (c counts) {
	p.t.Helper()
	p.Say("")
	if line := p.Line(); json.Unmarshal([]byte(line), &c) != nil {
		p.t.Fatalf("the clients say %q", line)
	}
	return c
}

// costs are what this process has taken.
type costs struct {
	live, resident          int64 // bytes of heap and stacks in use, and of memory
	cpu                     time.Duration
	goroutines, descriptors int
}

func costsNow(t testing.TB) (c costs) {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	c.cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	c.goroutines = runtime.NumGoroutine()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	c.descriptors = len(open)
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	c.resident = pages * int64(os.Getpagesize())
	runtime.GC() // what pools hold goes with the second
	debug.FreeOSMemory()
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(sample)
	c.live = int64(sample[0].Value.Uint64() + sample[1].Value.Uint64())
	return c
}

// TestClients has clients of the web interface come, be slow, and go. Those that read get every event, beside
// others that don't; and what they took comes back.
func TestClients(t *testing.T) {
	o := startObserved(t, 2000)
	o.visit(t, 1, false).End() // what is made once is there
	before := costsNow(t)
	const awake, asleep = 4, 8
	slow := o.visit(t, asleep, true)
	quick := o.visit(t, awake, false)
	first, told := quick.counts(), o.told()
	const changes = 12_000 // a slow one's buffers take few of them, and the rings not all
	for n := range changes {
		o.change(n)
		if n%100 == 99 {
			o.sync()
			// Nobody who reads is more than a ring behind.
			for quick.counts().Events-first.Events < awake*(o.told()-told)-1000 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	o.sync()
	for quick.counts().Events-first.Events < awake*(o.told()-told) {
		time.Sleep(10 * time.Millisecond)
	}
	got := quick.counts()
	if n := got.Events - first.Events; n != awake*(o.told()-told) || got.Lost > 0 || got.Refused > 0 {
		t.Errorf("%d clients got %d events of %d each; %d were lost, %d lists refused", awake, n, o.told()-told, got.Lost, got.Refused)
	}
	if n := slow.counts().Events; n != 0 {
		t.Errorf("those that sleep have read %d events", n)
	}
	during := costsNow(t)
	slow.End()
	quick.End()
	after := left(t, before)
	// A slow one holds what it is about to be sent, and that is all.
	each := (during.live - after.live) / (awake + asleep)
	if each > 128<<10 {
		t.Errorf("a client takes %d bytes", each)
	}
	t.Logf("%d clients that read and %d that don't: %d bytes each, %d goroutines and %d descriptors in all, which come back",
		awake, asleep, each, during.goroutines-after.goroutines, during.descriptors-after.descriptors)
}

// left waits until clients have left nothing open, and returns the costs then.
func left(t testing.TB, before costs) costs {
	t.Helper()
	for {
		c := costsNow(t)
		if c.goroutines <= before.goroutines && c.descriptors <= before.descriptors {
			return c
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// BenchmarkClients measures what clients of the page Connections cost a daemon that follows 10,000 connections, of
// which so many change each second: an iteration is ten seconds without the clients and ten with them.
// docs/ui.md has figures.
func BenchmarkClients(b *testing.B) {
	const span = 10 * time.Second
	for _, c := range []struct{ rate, count int }{{0, 64}, {100, 1}, {100, 8}, {100, 64}, {2000, 1}, {2000, 8}, {2000, 64}} {
		b.Run(fmt.Sprintf("%d/%d changes a second", c.count, c.rate), func(b *testing.B) {
			o := startObserved(b, 10_000)
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan struct{})
			go func() { defer close(done); paced(ctx, c.rate, time.Hour, o.change) }()
			defer func() { cancel(); <-done }()
			o.visit(b, 1, false).End() // what is made once is there
			for b.Loop() {
				var without, with [2]costs
				without[0] = costsNow(b)
				time.Sleep(span)
				without[1] = costsNow(b)
				p := o.visit(b, c.count, false)
				from := p.counts()
				with[0] = costsNow(b)
				time.Sleep(span)
				with[1] = costsNow(b)
				to := p.counts()
				p.End()
				after := left(b, without[1])
				cpu := func(c [2]costs) float64 { return 100 * (c[1].cpu - c[0].cpu).Seconds() / span.Seconds() }
				each := func(total float64, unit string) { b.ReportMetric(total/float64(c.count), unit+"/client") }
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(cpu(without), "%cpu-without")
				b.ReportMetric(float64(with[1].resident-without[1].resident)/(1<<20), "MiB-resident")
				b.ReportMetric(float64(to.Lost-from.Lost), "lost")
				b.ReportMetric(float64(to.Refused-from.Refused), "refused")
				each(cpu(with)-cpu(without), "%cpu")
				each(float64(with[1].live-after.live)/(1<<10), "KiB")
				each(float64(to.Bytes-from.Bytes)/span.Seconds()/1000, "kB/s")
				each(float64(to.Events-from.Events)/span.Seconds(), "events/s")
				each(float64(to.Lists-from.Lists)/span.Seconds(), "lists/s")
			}
		})
	}
}
