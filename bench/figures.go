package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/tlshello"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/rules/print"
	"netpolicy.dev/netpolicy/state"
)

// figure is one of the other figures.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// The names of figures that targets are about.
const (
	figCores     = "decisions of two goroutines, against one"
	figCounted   = "the same, with hits counted"
	figRecompile = "recompile with one changed rule"
	figCompile   = "compile anew, for comparison"
	figYAML      = "read and check a YAML policy"
	figNPL       = "read and check an NPL policy"
	figHello     = "parse a ClientHello"
)

func (b *bench) figure(name string, value float64, unit string) {
	b.figures = append(b.figures, figure{name, value, unit})
	progress("%s: %.4g %s", name, value, unit)
}

// others measures what is not a row of the table.
func (b *bench) others() error {
	list := workload.Mix(b.big)
	p := workload.Policy(list)
	prog := engine.Compile(p)
	flows := workload.Flows(workload.Conns(list, warmConns))
	b.figure(figCores, speedup(prog, flows, false), "times")
	b.figure(figCounted, speedup(prog, flows, true), "times")
	b.figure(figRecompile, recompile(p, prog), "ms")
	b.figure(figCompile, medianOf(5, func() { engine.Compile(p) }), "ms")
	text := policygen.YAML(1, b.big)
	if err := b.reading(figYAML, "generated.yaml", text); err != nil {
		return err
	}
	ast, _ := load.Parse("generated.yaml", text)
	if err := b.reading(figNPL, "generated.npl", print.NPL(ast)); err != nil {
		return err
	}
	return b.hello()
}

// reading measures how long a policy takes from text to checked.
func (b *bench) reading(figure, name string, text []byte) error {
	var err error
	b.figure(figure, medianOf(3, func() {
		if r := load.Policy(name, text, load.Options{}); r.Policy == nil {
			err = fmt.Errorf("the generated policy is refused: %v", r.Diags)
		}
	}), "ms")
	return err
}

// medianOf runs do n times and returns the median, in milliseconds.
func medianOf(n int, do func()) float64 {
	times := make([]float64, n)
	for i := range times {
		runtime.GC()
		start := time.Now()
		do()
		times[i] = float64(time.Since(start).Microseconds()) / 1000
	}
	return median(times, func(t float64) float64 { return t })
}

// speedup is how many times the decisions of one goroutine two make in the same
// time, with the collector off: the median of pairs of runs, one right after the
// other, as the machine's own speed comes and goes.
func speedup(prog *engine.Program, flows []flow.Flow, counted bool) float64 {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	w := engine.OfflineWorld(prog.Policy(), state.Normal)
	const each = 1_000_000
	var hits engine.Hits
	tallies := []*engine.Tally{hits.Tally(prog), hits.Tally(prog)}
	run := func(goroutines int) time.Duration {
		var group sync.WaitGroup
		start := time.Now()
		for g, tally := range tallies[:goroutines] {
			group.Go(func() {
				for i := range each {
					d := prog.Decide(&flows[(i+g*len(flows)/2)%len(flows)], w)
					if counted {
						tally.Add(&d)
					}
				}
			})
		}
		group.Wait()
		return time.Since(start)
	}
	run(2) // warms up
	pairs := make([]float64, 15)
	for i := range pairs {
		pairs[i] = 2 * float64(run(1)) / float64(run(2))
	}
	return median(pairs, func(r float64) float64 { return r })
}

// recompile changes one rule after the other; making the changed policy is not measured.
func recompile(p *rules.Policy, prog *engine.Program) float64 {
	times := make([]float64, 11)
	for i := range times {
		next := *p
		next.Rules = slices.Clone(p.Rules)
		at := i * len(next.Rules) / len(times)
		next.Rules[at].Do.Route = (next.Rules[at].Do.Route + 1) % len(next.Routes)
		times[i] = medianOf(1, func() { engine.Recompile(prog, &next) })
	}
	return median(times, func(t float64) float64 { return t })
}

// hello parses a ClientHello of a common size.
func (b *bench) hello() error {
	stream, err := clientHello()
	if err != nil {
		return err
	}
	var p tlshello.Parser
	const times = 200_000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	millis := medianOf(5, func() {
		for range times {
			if h, perr := p.Parse(stream); perr != nil || len(h.ServerName) == 0 {
				err = fmt.Errorf("parse our own ClientHello: %w", perr)
			}
		}
	})
	runtime.ReadMemStats(&after)
	b.figure(figHello, millis*1e6/times, "ns")
	if n := after.Mallocs - before.Mallocs; n > times/100 {
		return fmt.Errorf("parsing a ClientHello allocates: %d in %d", n, 5*times)
	}
	return err
}

// clientHello returns the first record that crypto/tls sends.
func clientHello() ([]byte, error) {
	client, server := net.Pipe()
	var group sync.WaitGroup
	group.Go(func() { // it fails when the other end has read enough
		_ = tls.Client(client, &tls.Config{ServerName: "us01.zoom.us", NextProtos: []string{"h2", "http/1.1"}}).Handshake()
	})
	defer group.Wait()
	defer server.Close()
	head := make([]byte, 5)
	if _, err := io.ReadFull(server, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	_, err := io.ReadFull(server, body)
	return append(head, body...), err
}
