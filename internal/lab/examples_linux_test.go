package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/xraytest"
)

// TestExamples runs every example's own script for real, as CI and users do.
func TestExamples(t *testing.T) {
	bin := binaries(t)
	for _, dir := range exampleDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			cmd := exec.Command("sh", filepath.Join(dir, "run.sh"))
			cmd.Env = append(os.Environ(), "NETPOLICY="+filepath.Join(bin, "netpolicy"))
			if strings.HasPrefix(filepath.Base(dir), "xray-") {
				cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(xraytest.Binary(t))+":"+os.Getenv("PATH"))
			}
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Error(err)
			}
		})
	}
}
