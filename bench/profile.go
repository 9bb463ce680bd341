package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"runtime/pprof"
	"time"

	"netpolicy.dev/netpolicy/bench/workload"
)

// profile writes a CPU profile of decisions, by which the compiler lays out the
// hot path of the programs that decide (see `make profile`): of the mix in all sizes
// that fit in a cache, of hostile sets, and of names that are not known yet.
func profile(file string) error {
	const each, rules = 2 * time.Second, 10_000
	type part struct {
		shape string
		n     int
	}
	parts := []part{{workload.NRules, 10}, {workload.NRules, 1000}, {workload.NRules, rules}, {workload.NRules, 100_000}}
	for _, h := range workload.Hostile {
		parts = append(parts, part{h.Name, rules})
	}
	var all []*decider
	for _, p := range parts {
		list, err := workload.Make(p.shape, p.n)
		if err != nil {
			return err
		}
		sys, err := ours[ourName].Parse(list)()
		if err != nil {
			return err
		}
		d := sys.(*decider)
		d.Load(workload.ConnsFor(p.shape, list, warmConns))
		all = append(all, d)
	}
	var raw bytes.Buffer
	if err := pprof.StartCPUProfile(&raw); err != nil {
		return err
	}
	for i, d := range all {
		took := each
		if parts[i].shape == workload.NRules { // what is common is worth more than what is hostile
			took = 2 * each
		}
		d.decide(took)
	}
	all[1].Forget(false)
	all[1].decide(each / 2)
	all[1].Forget(true)
	all[1].decide(each / 2)
	pprof.StopCPUProfile()
	text, err := nameless(&raw)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// nameless takes the program's own path out of a profile, which is of no use to
// the compiler and different on every machine. What is there instead is as long.
func nameless(raw io.Reader) ([]byte, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := gzip.NewReader(raw)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	out := gzip.NewWriter(&packed)
	_, err = out.Write(bytes.ReplaceAll(text, []byte(path), bytes.Repeat([]byte("-"), len(path))))
	err = errors.Join(err, out.Close())
	return packed.Bytes(), err
}

// decide makes decisions for a time.
func (d *decider) decide(took time.Duration) {
	for start := time.Now(); time.Since(start) < took; {
		d.Run(0, len(d.conns))
	}
}
