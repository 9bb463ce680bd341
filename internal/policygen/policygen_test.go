package policygen

import (
	"bytes"
	"testing"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules/yaml"
)

func TestYAMLIsClean(t *testing.T) {
	for _, n := range []int{0, 1, 3000} {
		src := YAML(7, n)
		p, diags := yaml.Load("generated.yaml", src)
		if p == nil || len(p.Rules) != n || n > 100 && diag.Count(diags, diag.Warning) > 0 {
			var b bytes.Buffer
			if err := diag.Text(&b, diags, diag.NewSource("generated.yaml", src)); err != nil {
				t.Fatal(err)
			}
			t.Errorf("%d rules:\n%s", n, b.String())
		}
	}
	if !bytes.Equal(YAML(7, 10), YAML(7, 10)) || bytes.Equal(YAML(7, 10), YAML(8, 10)) {
		t.Error("the seed does not decide")
	}
}

// BenchmarkLoad is what a reload of 10,000 rules costs before compiling.
func BenchmarkLoad(b *testing.B) {
	src := YAML(1, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if p, _ := yaml.Load("generated.yaml", src); p == nil {
			b.Fatal("refused")
		}
	}
}
