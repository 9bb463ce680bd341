// Command bench measures what a routing decision costs: netpolicy beside a linear
// search, and, with -peers, beside Xray, sing-box, OPA and cel-go, all on the same
// rules and connections. Run it from the project's root:
//
//	go run ./bench -quick            a minute: ours and the linear search, up to 10,000 rules
//	go run ./bench -peers bin/peers  all of it, as `make bench` does
//
// It writes results.md, results.json, and raw.txt for benchstat into -out.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "-system" {
		measure.Serve(ours)
		return
	}
	quick := flag.Bool("quick", false, "only netpolicy and the linear search, up to 10,000 rules")
	peers := flag.String("peers", "", "the program of bench/peers; empty: no peers")
	out := flag.String("out", "bench", "folder for the results")
	to := flag.String("profile", "", "write a CPU profile of decisions into this file, and measure nothing")
	flag.Parse()
	if *to != "" {
		if err := profile(*to); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{own: os.Args[0], peers: *peers, out: *out, sizes: []int{10, 100, 1000, 10_000, 100_000, 1_000_000}, big: 100_000, passes: 9}
	if *quick {
		b.sizes, b.big, b.passes = []int{10, 1000, 10_000}, 1000, 9
	}
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	own, peers string // programs
	out        string
	sizes      []int // of the mix
	big        int   // rules of hostile sets, and of the other figures
	passes     int

	reference *child // a linear search of 1,000 rules

	rows    []row
	raw     []string
	figures []figure
	skipped []string // what could not be measured, and why
}

func (b *bench) run() error {
	var err error
	if b.reference, err = b.start(contestant{linearName, workload.NRules}, 1000); err != nil {
		return err
	}
	defer b.reference.stop()
	var loaded int
	if err := b.reference.ask(&loaded, "load", warmConns); err != nil {
		return err
	}
	for _, n := range b.sizes {
		list := []contestant{{ourName, workload.NRules}, {ourSetName, workload.Set}, {linearName, workload.NRules}}
		for _, p := range peers {
			if b.peers != "" && n <= p.most {
				list = append(list, p.contestant)
			}
		}
		if err := b.compare(n, list); err != nil {
			return err
		}
	}
	for _, h := range slices.Concat(workload.Hostile, workload.Beyond) {
		if err := b.compare(b.big, []contestant{{ourName, h.Name}, {linearName, h.Name}}); err != nil {
			return err
		}
	}
	for _, shape := range []string{workload.ClassBench, workload.DomainLists} {
		if err := workload.Missing(shape); err != nil {
			b.skipped = append(b.skipped, shape+": "+err.Error())
			continue
		}
		if err := b.compare(0, []contestant{{ourName, shape}, {linearName, shape}}); err != nil {
			return err
		}
	}
	if err := b.others(); err != nil {
		return err
	}
	return b.write()
}

// A contestant is a system with the shape of its policy.
type contestant struct{ system, shape string }

// peers are the other projects' systems, with the most rules: beyond, a pass or
// the building of one that scans takes minutes.
var peers = []struct {
	contestant
	most int
}{
	{contestant{"xray", workload.NRules}, 10_000},
	{contestant{"xray", workload.Set}, 1_000_000},
	{contestant{"sing-box", workload.NRules}, 100_000},
	{contestant{"sing-box-srs", workload.Set}, 1_000_000},
	{contestant{"opa-scan", workload.NRules}, 10_000},
	{contestant{"opa-index", workload.NRules}, 100_000},
	{contestant{"cel", workload.NRules}, 10_000},
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
