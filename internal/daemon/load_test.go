package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// loadRate is what the daemon is loaded with, in connections a second.
const loadRate = 50_000

// opened is the n-th new connection of a load.
func opened(n int) inspector.Event {
	f := flow.Flow{
		Proto: flow.Some(flow.TCP), Src: flow.Some(netip.AddrFrom4([4]byte{10, byte(n >> 22), byte(n >> 14), byte(n >> 6)})),
		SrcPort: flow.Some(uint16(1024 + n&63)), Dst: flow.Some(netip.AddrFrom4([4]byte{203, 0, 113, byte(n)})), DstPort: flow.Some(uint16(443)),
		SNI: flow.Some(fmt.Sprintf("host%d.zoom.us", n%1000)),
	}
	return inspector.Event{Kind: inspector.Open, Source: "mock", Flow: f}
}

// paced calls each with 0, 1, ... so many times a second, for so long; when it can't keep up it does not wait.
func paced(ctx context.Context, rate int, span time.Duration, each func(n int)) (n int) {
	began := time.Now()
	for {
		passed := time.Since(began)
		if passed >= span || ctx.Err() != nil {
			return n
		}
		for due := int(passed.Seconds() * float64(rate)); n < due; n++ {
			each(n)
		}
		time.Sleep(time.Millisecond)
	}
}

// turns are loads of a daemon that take turns with those of another: what else the machine does, it does beside both.
type turns struct {
	*rig
	offered int
	took    time.Duration
	written uint64 // records, within the turns
}

func (r *turns) take(t *testing.T, span time.Duration) {
	began, written, first := time.Now(), r.records.Last(0), r.offered
	r.offered += paced(t.Context(), loadRate, span, func(n int) { r.offer(opened(first + n)) })
	r.sync()
	r.took, r.written = r.took+time.Since(began), r.written+r.records.Last(0)-written
}

// rates are how many are decided, and written down, each second of the turns.
func (r *turns) rates() (decided, written float64) {
	return float64(r.snap.Load().decided) / r.took.Seconds(), float64(r.written) / r.took.Seconds()
}

// TestLoad has a daemon decide fifty thousand connections a second with a folder for
// the records, a tail that reads and one that does not. Nothing waits for any of them: what they do not
// take is dropped and counted, every record is in the segments or counted, and memory stays bounded. In turn with it
// another daemon, which has none of them, gets as much: this one is at least a quarter as fast.
func TestLoad(t *testing.T) {
	plain := turns{rig: start(t, zoomPolicy, func(o *Options, _ *Parts) { o.Log = slog.New(slog.DiscardHandler) })}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.sock")
	r := turns{rig: start(t, zoomPolicy, func(o *Options, _ *Parts) {
		o.Socket, o.Telemetry = socket, Telemetry{DecisionDir: filepath.Join(dir, "records"), DecisionMax: 1 << 30}
		o.Log = slog.New(slog.DiscardHandler) // zoom's rule logs: the log is no part of this
	})}
	// A reader that has stopped reading.
	asleep, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer asleep.Close()
	fmt.Fprint(asleep, "GET /api/v1/decisions?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	awake, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer awake.Close()
	fmt.Fprint(awake, "GET /api/v1/decisions?follow=1 HTTP/1.0\r\nHost: x\r\n\r\n")
	var read int64
	tail := make(chan struct{})
	go func() { defer close(tail); read, _ = io.Copy(io.Discard, awake) }()

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 8 {
		r.take(t, time.Second/2)
		plain.take(t, time.Second/2)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)

	events, lost := r.metrics.Drops("events"), r.metrics.DecisionDrops(telemetry.DropQueue, telemetry.DropDisk)
	decided := r.snap.Load().decided
	if decided+events != uint64(r.offered) {
		t.Errorf("%d offered: %d decided and %d dropped", r.offered, decided, events)
	}
	decides, writes := r.rates()
	decidesAlone, writesAlone := plain.rates()
	if decides < decidesAlone/4 || writes < writesAlone/4 {
		t.Errorf("%.0f a second are decided and %.0f written down; where nobody reads %.0f and %.0f", decides, writes, decidesAlone, writesAlone)
	}
	kept := r.records.Read(0, 1)
	if n := r.records.Last(0) + lost; n != decided {
		t.Errorf("%d decided: %d written down and %d dropped", decided, r.records.Last(0), lost)
	}
	if decided > telemetry.RingSize && kept.Missed != r.records.Last(0)-telemetry.RingSize {
		t.Errorf("the ring holds more than it should: %d before its first", kept.Missed)
	}
	// Followed flows take the most, up to maxFlows in each daemon, about 1 KiB each.
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if most := 2*(int64(maxFlows)*2<<10) + 64<<20; grown > most {
		t.Errorf("memory has grown by %d MiB, want at most %d", grown>>20, most>>20)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	awake.Close()
	<-tail
	text := readSegments(t, filepath.Join(dir, "records"))
	if n := uint64(strings.Count(text, "\n")); n+lost != decided {
		t.Errorf("%d decided: %d lines in segments and %d dropped", decided, n, lost)
	}
	// A record is a few hundred bytes.
	if read < 1000*100 {
		t.Errorf("the tail that reads got only %d bytes", read)
	}
	t.Logf("%.0f decided and %.0f written down a second; where nobody reads %.0f and %.0f", decides, writes, decidesAlone, writesAlone)
	t.Logf("%d connections in 4 s: %d decided, %d events dropped; records: %d dropped, %d lines in segments, %d bytes read by a tail; heap grown by %d MiB",
		r.offered, decided, events, lost, strings.Count(text, "\n"), read, grown>>20)
}

// BenchmarkDecide measures one decision alone, and while fifty thousand records a second are written down
// beside it: to the ring, to segments, and for a tail. With as many cores as goroutines they are
// the same; docs/telemetry.md has figures.
func BenchmarkDecide(b *testing.B) {
	for _, load := range []bool{false, true} {
		name := "alone"
		if load {
			name = "with 50k records a second"
		}
		b.Run(name, func(b *testing.B) {
			c, _ := newTestCore(b, zoomPolicy)
			e := opened(7)
			var d engine.Decision
			if load {
				defer loaded(b, c)()
			}
			took := make([]time.Duration, 0, 1<<16)
			n := 0
			for b.Loop() {
				if n++; n%64 != 0 || len(took) == cap(took) {
					c.live.prog.DecideInto(&d, &e.Flow, c.live.world)
					continue
				}
				at := time.Now()
				c.live.prog.DecideInto(&d, &e.Flow, c.live.world)
				took = append(took, time.Since(at))
			}
			if d.Rule != 1 {
				b.Fatalf("rule %d decides", d.Rule)
			}
			if len(took) > 0 {
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
				b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
			}
		})
	}
}

// loaded writes records down beside a benchmark until the returned function is called.
func loaded(b *testing.B, c *core) (stop func()) {
	segs := telemetry.NewSegments(b.TempDir(), 64<<20)
	ring := telemetry.NewRing(0)
	var dropped int
	l := telemetry.NewDecisionLog(telemetry.DecisionOptions{Ring: ring, Log: slog.New(slog.DiscardHandler), Dropped: func(_ string, n int) { dropped += n }, Segments: segs})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 3)
	go func() { l.Run(ctx); done <- struct{}{} }()
	go func() { // a tail
		next := uint64(0)
		for ctx.Err() == nil {
			batch := ring.Read(next, 256)
			next = batch.Next
			select {
			case <-batch.More:
			case <-ctx.Done():
			}
		}
		done <- struct{}{}
	}()
	var d engine.Decision
	e := opened(9)
	c.live.prog.DecideInto(&d, &e.Flow, c.live.world)
	r := telemetry.Record{
		Decision: decisionJSON(c.live.prog, "9", &d), Rule: "zoom",
		Context: telemetry.Context{Time: time.Unix(1, 0), Event: "open", Mode: "enforce", Policy: "abc", Flow: json.RawMessage(flowJSON(&e.Flow))},
	}
	go func() {
		n := paced(ctx, loadRate, time.Hour, func(int) { l.Add(r) })
		b.Logf("%d records, %d dropped", n, dropped)
		done <- struct{}{}
	}()
	return func() {
		cancel()
		for range 3 {
			<-done
		}
	}
}
