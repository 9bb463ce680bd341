package scripts

import (
	"bytes"
	"flag"
	"os/exec"
	"testing"

	"netpolicy.dev/netpolicy/internal/golden"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestFailed(t *testing.T) {
	golden.Files(t, "testdata/*.txtar", ".in", *update, func(t testing.TB, _ string, src []byte) string {
		cmd := exec.Command("awk", "-f", "failed.awk")
		cmd.Stdin = bytes.NewReader(src)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	})
}
