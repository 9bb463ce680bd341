// Package packaging has no code but these tests of what packages carry.
package packaging

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// maxExposure is the worst score that the unit may get, of 10: docs/packaging.md says
// what is left and why.
const maxExposure = 1.9

const unit = "systemd/netpolicyd.service"

func TestSecurity(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", unit).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := regexp.MustCompile(`Overall exposure level for netpolicyd.service: ([0-9.]+) `).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no score in\n%s", out)
	}
	score, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("exposure %.1f of 10", score)
	if score > maxExposure {
		t.Errorf("exposure %.1f, want at most %.1f:\n%s", score, maxExposure, out)
	}
}

// TestUnit holds what the unit promises: a crash never cleans up, and no capability
// is more than four.
func TestUnit(t *testing.T) {
	data, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	set := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			set[key] = append(set[key], value)
		}
	}
	const four = "CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON"
	for key, want := range map[string]string{
		"AmbientCapabilities": four, "CapabilityBoundingSet": four, "User": "netpolicy", "NoNewPrivileges": "yes",
		"RestartKillSignal": "SIGUSR2", "KillSignal": "SIGTERM", "Type": "notify", "Restart": "on-failure", "WatchdogSec": "30",
		"ExecStopPost": "", "ExecStop": "",
	} {
		if got := strings.Join(set[key], "\n"); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
}

func TestScripts(t *testing.T) {
	for _, script := range []string{"deb/postinst", "deb/prerm", "deb/postrm", "tarball/install.sh", "tarball/uninstall.sh", "openrc/netpolicyd"} {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}
