package xraytest

import (
	"os/exec"
	"strings"
	"testing"
)

// TestBinary builds the program where it is not built yet, and logs its path, which is
// what scripts/ui.sh takes.
func TestBinary(t *testing.T) {
	path := Binary(t)
	out, err := exec.Command(path, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "Xray 26.3.27 ") {
		t.Errorf("%v: %s", err, out)
	}
	t.Log("xray: " + path)
}
