package yaml

import (
	"bytes"
	"flag"
	"testing"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/golden"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden renders what each NAME.yaml of testdata/golden/*.txtar gets, and
// compares it with the NAME.txt behind it.
func TestGolden(t *testing.T) { golden.Files(t, "testdata/golden/*.txtar", ".yaml", *update, render) }

// render loads a policy and returns its diagnostics as text, "ok" for none.
func render(t testing.TB, name string, src []byte) string {
	t.Helper()
	policy, diags := Load(name, src)
	if (policy == nil) != diag.HasErrors(diags) {
		t.Errorf("%s: policy %v beside\n%v", name, policy != nil, diags)
	}
	var b bytes.Buffer
	if err := diag.Text(&b, diags, diag.NewSource(name, src)); err != nil {
		t.Fatal(err)
	}
	if b.Len() == 0 {
		return "ok\n"
	}
	return b.String()
}
