package analysis_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/yaml"
	"netpolicy.dev/netpolicy/state"
)

// BenchmarkDead looks for the dead rules of policies as engine's benchmarks use them,
// and of such as filter packets: nearly all of their rules overlap.
func BenchmarkDead(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("%dk/names", n/1000), func(b *testing.B) {
			p, _ := yaml.Load("generated.yaml", policygen.YAML(1, n))
			if p == nil {
				b.Fatal("refused")
			}
			benchmarkDead(b, p)
		})
	}
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("%dk/tuples", n/1000), func(b *testing.B) { benchmarkDead(b, tuples(n)) })
	}
}

func benchmarkDead(b *testing.B, p *rules.Policy) {
	b.ReportAllocs()
	var r analysis.DeadRules
	for b.Loop() {
		r = analysis.Dead(p, analysis.Thorough)
	}
	dead, unclear := 0, 0
	for _, d := range r.Dead {
		if d {
			dead++
		}
	}
	for _, d := range r.Diags {
		if d.Code == "NP322" {
			unclear++
		}
	}
	b.ReportMetric(float64(dead), "dead")
	b.ReportMetric(float64(unclear), "unclear")
	if dead == 0 || len(r.Diags) < dead {
		b.Errorf("%d rules are dead, and %d findings", dead, len(r.Diags))
	}
}

// tuples is a policy of rules on addresses, ports and protocol: short and long prefixes
// of few networks, so that they overlap, and ranges of ports.
func tuples(n int) *rules.Policy {
	r := rand.New(rand.NewPCG(1, 2))
	prefix := func() []netip.Prefix {
		bits := []int{8, 16, 16, 20, 24, 24, 28, 32, 32}[r.IntN(9)]
		a := netip.AddrFrom4([4]byte{byte(10 + r.IntN(4)), byte(r.IntN(4) * 64), byte(r.IntN(256)), byte(r.IntN(256))})
		return []netip.Prefix{netip.PrefixFrom(a, bits).Masked()}
	}
	ports := func() []rules.PortRange {
		lo := uint16(r.IntN(60_000))
		return []rules.PortRange{{Lo: lo, Hi: lo + uint16([]int{0, 0, 10, 1000, 5000}[r.IntN(5)])}}
	}
	p := &rules.Policy{Routes: []rules.Route{{Name: "direct"}}, Rules: make([]rules.Rule, n)}
	for i := range p.Rules {
		parts := []rules.Pred{
			{Field: rules.FieldSrcIP, Prefixes: prefix()},
			{Field: rules.FieldDstIP, Prefixes: prefix()},
			{Field: rules.FieldProto, Numbers: []uint32{[]uint32{6, 17}[r.IntN(2)]}},
		}
		for _, f := range []rules.Field{rules.FieldPort, rules.FieldSrcPort} {
			if r.IntN(2) == 0 {
				parts = append(parts, rules.Pred{Field: f, Ports: ports()})
			}
		}
		e := rules.Expr{Op: rules.OpAnd}
		for _, pred := range parts {
			e.Kids = append(e.Kids, rules.Expr{Op: rules.OpPred, Pred: pred})
		}
		p.Rules[i] = rules.Rule{
			Name: fmt.Sprintf("r%d", i), NameSpan: diag.Span{Start: i, End: i + 1}, Priority: r.IntN(100), Active: state.AllStates, Match: e,
			Do: rules.Outcome{Kind: rules.ActRoute},
		}
	}
	return p
}
