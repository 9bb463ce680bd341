package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"netpolicy.dev/netpolicy/internal/leaktest"
)

// built is where both binaries are, built once when a test first needs them. The
// environment variable NETPOLICY_BIN names a directory that has them already.
type built struct {
	once sync.Once
	dir  string
	err  error
}

var bins built

func (b *built) build() {
	if b.dir, b.err = os.MkdirTemp("", "np-lab-test-"); b.err != nil {
		return
	}
	cmd := exec.Command("go", "build", "-o", b.dir+"/", "netpolicy.dev/netpolicy/cmd/netpolicy", "netpolicy.dev/netpolicy/cmd/netpolicyd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.err = fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
}

// binaries returns the directory of both binaries.
func binaries(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip(ErrUnsupported)
	}
	if dir := os.Getenv("NETPOLICY_BIN"); dir != "" {
		return dir
	}
	bins.once.Do(bins.build)
	if bins.err != nil {
		t.Fatal(bins.err)
	}
	return bins.dir
}

func TestMain(m *testing.M) {
	code := leaktest.Run(m)
	if bins.dir != "" {
		os.RemoveAll(bins.dir)
	}
	os.Exit(code)
}

var labSpace = regexp.MustCompile(`^(np[0-9a-f]{6})-(client|gw|isp1|isp2|inet)$`)

// orphans lists namespaces of labs that have no directory any more, and
// directories whose owner is the process pid.
func orphans(t *testing.T, pid string) []string {
	t.Helper()
	var list []string
	names, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, n := range names {
		m := labSpace.FindStringSubmatch(n.Name())
		if m == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(runRoot, m[1])); errors.Is(err, os.ErrNotExist) {
			list = append(list, n.Name())
		}
	}
	owners, err := filepath.Glob(filepath.Join(runRoot, "*", lockName))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range owners {
		if text, err := os.ReadFile(o); err == nil && strings.TrimSpace(string(text)) == pid {
			list = append(list, o)
		}
	}
	return list
}
