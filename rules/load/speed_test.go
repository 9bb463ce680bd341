package load

import (
	"flag"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/print"
)

var speedRules = flag.Int("speed", 2000, "rules of TestSpeed")

// TestSpeed tells how long it takes to read and check, and to format, a large
// policy in either syntax. It checks the results and no times.
func TestSpeed(t *testing.T) {
	src := policygen.YAML(1, *speedRules)
	both := map[string][]byte{"YAML": src}
	ast, diags := Parse("generated.yaml", src)
	if ast == nil || diag.HasErrors(diags) {
		t.Fatal(diags)
	}
	both["NPL"] = print.NPL(ast)
	names := map[string]string{"YAML": "generated.yaml", "NPL": "generated.npl"}
	var hashes [][32]byte
	for _, syntax := range []string{"NPL", "YAML"} {
		start := time.Now()
		r := Policy(names[syntax], both[syntax], Options{})
		took := time.Since(start)
		if r.Policy == nil || len(r.Policy.Rules) != *speedRules {
			t.Fatalf("%s: %v", syntax, r.Diags)
		}
		hashes = append(hashes, r.Policy.Hash)
		t.Logf("%s: %d ms to read and check %d rules of %d bytes", syntax, took.Milliseconds(), *speedRules, len(both[syntax]))
	}
	if hashes[0] != hashes[1] {
		t.Error("the two are different policies")
	}
	write := map[string]func(*rules.AST) []byte{"NPL": print.NPL, "YAML": print.YAML}
	for _, syntax := range []string{"NPL", "YAML"} {
		start := time.Now()
		ast, _ := Parse(names[syntax], both[syntax])
		out := write[syntax](ast)
		again, _ := Parse(names[syntax], out)
		same := again != nil && print.Canonical(ast) == print.Canonical(again)
		took := time.Since(start)
		if !same {
			t.Errorf("%s: formatted it is another policy", syntax)
		}
		t.Logf("fmt %s: %d ms to parse, print, parse again and compare", syntax, took.Milliseconds())
	}
}
