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

// TestLoad has a daemon decide fifty thousand connections a second with a folder for
// the records, a tail that reads and one that does not. Nothing waits for any of them: what they do not
// take is dropped and counted, every record is in the segments or counted, and memory stays bounded. However busy the
// machine is, a fortieth of it is done.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.sock")
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) {
		o.Socket, o.Telemetry = socket, Telemetry{DecisionDir: filepath.Join(dir, "records"), DecisionMax: 1 << 30}
		o.Log = slog.New(slog.DiscardHandler) // zoom's rule logs: the log is no part of this
	})
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
	offered := paced(t.Context(), loadRate, 4*time.Second, func(n int) { r.offer(opened(n)) })
	r.sync()
	runtime.GC()
	runtime.ReadMemStats(&after)

	events, lost := r.metrics.Drops("events"), r.metrics.DecisionDrops(telemetry.DropQueue, telemetry.DropDisk)
	decided := r.snap.Load().decided
	if decided+events != uint64(offered) {
		t.Errorf("%d offered: %d decided and %d dropped", offered, decided, events)
	}
	if decided < uint64(offered)/40 {
		t.Errorf("%d offered: only %d decided", offered, decided)
	}
	kept := r.records.Read(0, 1)
	if n := r.records.Last(0) + lost; n != decided {
		t.Errorf("%d decided: %d written down and %d dropped", decided, r.records.Last(0), lost)
	}
	if written := r.records.Last(0); written < decided/40 {
		t.Errorf("%d decided: only %d written down", decided, written)
	}
	if decided > telemetry.RingSize && kept.Missed != r.records.Last(0)-telemetry.RingSize {
		t.Errorf("the ring holds more than it should: %d before its first", kept.Missed)
	}
	// Followed flows take the most, up to maxFlows, about 1 KiB each.
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	if most := int64(maxFlows)*2<<10 + 64<<20; grown > most {
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
	t.Logf("%d connections in 4 s: %d decided, %d events dropped; records: %d dropped, %d lines in segments, %d bytes read by a tail; heap grown by %d MiB",
		offered, decided, events, lost, strings.Count(text, "\n"), read, grown>>20)
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
