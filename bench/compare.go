package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
)

// row is one line of the table, as results.json has it.
type row struct {
	System string  `json:"system"`
	N      int     `json:"n"`
	Shape  string  `json:"shape"`
	Mode   string  `json:"mode"` // warm: 16,384 connections in turn, cold: a million, unknown: warm without names yet, hinted: with DNS names alone
	NS     float64 `json:"ns"`   // CPU of the process, for each decision: median of the passes
	WallNS float64 `json:"wall_ns"`
	Allocs float64 `json:"allocs"`
	// BytesPerRule is what building has left on the heap, BuildMS its time.
	BytesPerRule float64 `json:"bytes_per_rule"`
	BuildMS      float64 `json:"build_ms"`
	// PolicyBytes are for the rules as they have been read, beside BytesPerRule; 0 for
	// systems that have no such form. Resident is by how much both enlarge the process.
	PolicyBytes float64 `json:"policy_bytes_per_rule"`
	Resident    float64 `json:"resident_bytes_per_rule"`
	Checked     int     `json:"checked"` // answers that were as a linear search gives them
	// Scale is how much slower than where the targets were set the machine was
	// meanwhile: by a linear search of 1,000 rules, compared round by round.
	Scale float64 `json:"scale"`
	// P99 is what the hardest of a hundred connections takes, by itself and many
	// times in a row; 0: not measured.
	P99 float64 `json:"p99_ns"`
}

const (
	warmConns = 16_384
	coldConns = 1_000_000
	coldFrom  = 10_000 // rules: fewer are always in a cache
	// The least a pass takes, in milliseconds: enough for the clock, and for all
	// connections where one takes a microsecond.
	warmPass = 60
	warmUp   = 30 // before a pass that is to find what it needs in the caches
	coldPass = 500
	coldPart = 3 // of the passes one in so many is enough, as they are longer
)

// checks is how many answers are compared: a linear search over many rules is slow.
func checks(rules int) int {
	switch {
	case rules >= 1_000_000:
		return 50
	case rules >= 100_000:
		return 200
	default:
		return 1000
	}
}

// compare builds all contestants, one after the other, and lets their passes take turns.
func (b *bench) compare(n int, list []contestant) error {
	var all []*child
	defer func() {
		for _, c := range all {
			c.stop()
		}
	}()
	for _, who := range list {
		c, err := b.start(who, n)
		if err != nil {
			return fmt.Errorf("%s, %s of %d: %w", who.system, who.shape, n, err)
		}
		all = append(all, c)
		progress("%-13s %-14s %8d rules  built in %.1f ms, %d bytes a rule", who.system, who.shape, c.built.Rules,
			c.built.Millis, c.built.Bytes/int64(max(1, c.built.Rules)))
	}
	if err := b.measure(all, "warm", warmConns, warmPass, b.passes); err != nil {
		return err
	}
	if err := b.unknown(all); err != nil {
		return err
	}
	if n < coldFrom {
		return nil
	}
	cold := slices.DeleteFunc(slices.Clone(all), func(c *child) bool { return !takesCold[c.who] })
	return b.measure(cold, "cold", coldConns, coldPass, (b.passes+coldPart-1)/coldPart)
}

// unknown measures our decisions of the mix while names are not known yet, but for
// what DNS has told.
func (b *bench) unknown(all []*child) error {
	for _, c := range all {
		if c.who != (contestant{ourName, workload.NRules}) {
			continue
		}
		for hints, mode := range []string{"unknown", "hinted"} {
			var done bool
			if err := c.ask(&done, "forget", hints); err != nil {
				return err
			}
			if err := b.passesOf([]*child{c}, mode, warmPass, b.passes); err != nil {
				return err
			}
		}
	}
	return nil
}

// takesCold are those that get through a million connections.
var takesCold = map[contestant]bool{
	{ourName, workload.NRules}: true, {ourSetName, workload.Set}: true, {"xray", workload.Set}: true,
}

// measure measures one mode, and the reference beside it.
func (b *bench) measure(all []*child, mode string, conns, millis, passes int) error {
	for _, c := range all {
		var loaded int
		if err := c.ask(&loaded, "load", conns); err != nil {
			return err
		}
		var checked measure.Check
		if err := c.ask(&checked, "check", checks(c.built.Rules)); err != nil {
			return err
		}
		if checked.Wrong > 0 {
			return fmt.Errorf("%s, %s: %d of %d answers are wrong, the first: %s", c.who.system, c.who.shape, checked.Wrong, checked.Compared, checked.First)
		}
		c.checked, c.p99 = checked.Compared, 0
		if hostile := c.who.shape != workload.NRules && c.who.shape != workload.Set; hostile && c.who.system == ourName {
			if err := c.ask(&c.p99, "tail", tailTimes); err != nil {
				return err
			}
		}
	}
	return b.passesOf(all, mode, millis, passes)
}

// tailTimes is how often each connection is decided in a row.
const tailTimes = 16

// passesOf lets the contestants take turns with the reference.
func (b *bench) passesOf(all []*child, mode string, millis, passes int) error {
	b.reference.done = nil
	for _, c := range all {
		c.done = nil
	}
	for range passes {
		var p measure.Pass
		if err := b.reference.ask(&p, "pass", warmPass/2); err != nil {
			return err
		}
		b.reference.done = append(b.reference.done, p)
		for _, c := range all {
			var done bool
			if mode != "cold" {
				if err := c.ask(&done, "warm", warmUp); err != nil {
					return err
				}
			}
			var p measure.Pass
			if err := c.ask(&p, "pass", millis); err != nil {
				return err
			}
			c.done = append(c.done, p)
		}
	}
	for _, c := range all {
		b.add(c, mode)
	}
	return nil
}

// add makes the row of one contestant.
func (b *bench) add(c *child, mode string) {
	rules := float64(max(1, c.built.Rules))
	r := row{
		System: c.who.system, N: c.built.Rules, Shape: c.who.shape, Mode: mode, Checked: c.checked,
		NS: median(c.done, cpuNS), Scale: b.scale(c),
		WallNS:       median(c.done, func(p measure.Pass) float64 { return float64(p.Wall) / float64(p.Decisions) }),
		Allocs:       median(c.done, func(p measure.Pass) float64 { return float64(p.Allocs) / float64(p.Decisions) }),
		BytesPerRule: float64(c.built.Bytes) / rules, BuildMS: c.built.Millis,
		P99:         c.p99,
		PolicyBytes: float64(c.built.Parsed) / rules, Resident: float64(c.built.Resident) / rules,
	}
	if mode == "unknown" || mode == "hinted" {
		r.Checked = 0
	}
	if r.System == ourSetName {
		r.System = ourName
	}
	if r.Allocs < 0.001 { // the collector's own, of a whole pass
		r.Allocs = 0
	}
	b.rows = append(b.rows, r)
	for _, p := range c.done {
		b.raw = append(b.raw, fmt.Sprintf("BenchmarkDecide/system=%s/shape=%s/n=%d/mode=%s %d %.2f ns/op %.2f wall-ns/op %.3f allocs/op",
			r.System, r.Shape, r.N, mode, p.Decisions, float64(p.CPU)/float64(p.Decisions), float64(p.Wall)/float64(p.Decisions),
			float64(p.Allocs)/float64(p.Decisions)))
	}
	progress("%-13s %-14s %8d rules  %s %.1f ns, %.3f allocations", r.System, r.Shape, r.N, mode, r.NS, r.Allocs)
}

// scale compares round by round, as what slows the machine comes and goes: a pass
// and the reference of its round are slow together.
func (b *bench) scale(c *child) float64 {
	rounds := make([]float64, len(c.done))
	for i := range rounds {
		rounds[i] = cpuNS(c.done[i]) / cpuNS(b.reference.done[i])
	}
	ratio := median(rounds, func(r float64) float64 { return r })
	return median(c.done, cpuNS) / ratio / referenceNS
}

func cpuNS(p measure.Pass) float64 { return float64(p.CPU) / float64(p.Decisions) }

func median[T any](list []T, of func(T) float64) float64 {
	values := make([]float64, len(list))
	for i := range list {
		values[i] = of(list[i])
	}
	slices.SortFunc(values, cmp.Compare[float64])
	if len(values) == 0 {
		return 0
	}
	return values[len(values)/2]
}

// child is a process that measures one contestant.
type child struct {
	who     contestant
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	built   measure.Built
	checked int
	p99     float64
	done    []measure.Pass
}

func (b *bench) start(who contestant, n int) (*child, error) {
	program := b.peers
	if who.system == ourName || who.system == ourSetName || who.system == linearName {
		program = b.own
	}
	c := &child{who: who, cmd: exec.Command(program, "-system", who.system, "-shape", who.shape, "-n", strconv.Itoa(n))}
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.read(&c.built); err != nil {
		c.stop()
		return nil, err
	}
	if c.built.Error != "" {
		c.stop()
		return nil, errors.New(c.built.Error)
	}
	return c, nil
}

// ask sends a request and reads the answer.
func (c *child) ask(answer any, request string, arg int) error {
	if _, err := fmt.Fprintln(c.in, request, arg); err != nil {
		return err
	}
	return c.read(answer)
}

func (c *child) read(answer any) error {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s gave no answer: %w", c.who.system, err)
	}
	return json.Unmarshal(line, answer)
}

// stop ends the child, which leaves when it is asked nothing more.
func (c *child) stop() {
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		progress("%s: %v", c.who.system, err)
	}
}
