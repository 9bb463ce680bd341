package main

import (
	"fmt"

	"netpolicy.dev/netpolicy/bench/workload"
)

// referenceNS is what the typed linear scan of 1,000 rules took where the targets
// were set; what it takes in this run says how fast this machine is today.
const referenceNS = 3358

// slack is within what a latency or a time of the prototypes counts as met.
const slack = 1.5

// hostileNS is the bound of hostile sets where the targets were set, and on quicker machines.
const hostileNS = 2000

// slower is how many times slower than where the targets were set a machine is, 1 for a quicker one.
func slower(scale float64) float64 { return max(1, scale) }

// target is a figure that must be reached, and one that would be better still.
type target struct {
	what          string
	got           float64
	must, stretch float64 // 0: none
	unit          string
	more          bool // more is better
}

func (t *target) met(bound float64) bool { return t.got <= bound == !t.more || t.got == bound }

// verdict is the target's line in the report.
func (t *target) verdict() string {
	side := "at most"
	if t.more {
		side = "at least"
	}
	said := func(kind string, bound float64) string {
		if bound == 0 {
			return "-"
		}
		word := "met"
		if !t.met(bound) {
			word = "not met"
		}
		return fmt.Sprintf("%s %s %s: %s", kind, side, number(bound), word)
	}
	return fmt.Sprintf("| %s | %s %s | %s | %s |", t.what, number(t.got), t.unit, said("must", t.must), said("stretch", t.stretch))
}

// goals are the targets of the mix.
var goals = []struct {
	n                                       int
	warm, warmStretch, cold, coldStretch    float64 // ns
	bytes, bytesStretch, ms, compileStretch float64
}{
	{10, 75, 60, 0, 0, 0, 0, 0, 0},
	{1000, 100, 85, 0, 0, 140, 120, 5, 3},
	{10_000, 120, 100, 220, 180, 120, 100, 40, 25},
	{100_000, 170, 140, 330, 280, 100, 80, 300, 200},
	{1_000_000, 380, 280, 700, 600, 90, 60, 4000, 2000},
}

// find returns the row of a measurement, nil if it was not made.
func (b *bench) find(system, shape, mode string, n int) *row {
	for i := range b.rows {
		if r := &b.rows[i]; r.System == system && r.Shape == shape && r.Mode == mode && r.N == n {
			return r
		}
	}
	return nil
}

func (b *bench) targets() []target {
	var out []target
	for _, g := range goals {
		warm, cold := b.find(ourName, workload.NRules, "warm", g.n), b.find(ourName, workload.NRules, "cold", g.n)
		if warm == nil {
			continue
		}
		name, scale := count(g.n)+" rules, ", warm.Scale
		out = append(out, target{what: name + "warm", got: warm.NS, must: g.warm * scale * slack, stretch: g.warmStretch * scale, unit: "ns"})
		if cold != nil {
			out = append(out, target{what: name + "cold", got: cold.NS, must: g.cold * cold.Scale * slack, stretch: g.coldStretch * cold.Scale, unit: "ns"})
		}
		if g.bytes != 0 {
			out = append(out, target{what: name + "memory", got: warm.BytesPerRule, must: g.bytes, stretch: g.bytesStretch, unit: "bytes a rule"},
				target{what: name + "compile", got: warm.BuildMS, must: g.ms * scale * slack, stretch: g.compileStretch * scale, unit: "ms"})
		}
	}
	out = append(out, b.peerTargets()...)
	for _, h := range workload.Hostile {
		if r := b.find(ourName, h.Name, "warm", b.big); r != nil {
			out = append(out, target{what: "hostile: " + h.Name + ", " + count(b.big) + " rules", got: r.NS, must: hostileNS * slower(r.Scale), stretch: hostileNS / 2 * slower(r.Scale), unit: "ns"})
		}
	}
	for _, f := range b.figures {
		t := target{what: f.Name, got: f.Value, unit: f.Unit}
		switch f.Name {
		case figCores, figCounted:
			t.must, t.more = 1.8, true
		case figRecompile:
			t.must = 50
		case figYAML:
			t.must = 5000
		case figNPL:
			t.must = 2000
		case figHello:
			t.must = 1000
		default:
			continue
		}
		out = append(out, t)
	}
	return out
}

// peerTargets are how many times faster than the peers a decision is.
func (b *bench) peerTargets() []target {
	var out []target
	for _, p := range []struct {
		system, shape, mode string
		n                   int
		must, stretch       float64
	}{
		{"xray", workload.NRules, "warm", 10_000, 1000, 3000},
		{"sing-box", workload.NRules, "warm", 10_000, 1000, 3000},
		{"xray", workload.Set, "warm", 1000, 1, 0},
		{"sing-box-srs", workload.Set, "warm", 1000, 1, 0},
		{"xray", workload.Set, "warm", 100_000, 1, 0},
		{"sing-box-srs", workload.Set, "warm", 100_000, 1, 0},
		{"xray", workload.Set, "warm", 1_000_000, 0, 1},
		{"xray", workload.Set, "cold", 1_000_000, 0, 1},
	} {
		peer, own := b.find(p.system, p.shape, p.mode, p.n), b.find(ourName, workload.NRules, p.mode, p.n)
		if peer != nil && own != nil {
			out = append(out, target{
				what: fmt.Sprintf("%s, %s of %s, %s: takes longer than our %s by", p.system, p.shape, count(p.n), p.mode, workload.NRules),
				got:  peer.NS / own.NS, must: p.must, stretch: p.stretch, unit: "times", more: true,
			})
		}
	}
	return out
}
