package analysis_test

import (
	"fmt"
	"testing"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules/yaml"
)

// BenchmarkDead looks for the dead rules of the policies that engine's benchmarks use.
func BenchmarkDead(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		p, _ := yaml.Load("generated.yaml", policygen.YAML(1, n))
		if p == nil {
			b.Fatal("refused")
		}
		b.Run(fmt.Sprintf("%dk", n/1000), func(b *testing.B) {
			b.ReportAllocs()
			var r analysis.DeadRules
			for b.Loop() {
				r = analysis.Dead(p, analysis.Thorough)
			}
			dead := 0
			for _, d := range r.Dead {
				if d {
					dead++
				}
			}
			b.ReportMetric(float64(dead), "dead")
			if dead == 0 || len(r.Diags) < dead {
				b.Errorf("%d rules are dead, and %d findings", dead, len(r.Diags))
			}
		})
	}
}
