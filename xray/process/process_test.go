package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRestarts(t *testing.T) {
	var r restarts
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		wait, retry := r.exited(exitBind, 0)
		if wait != want*time.Second || !retry || r.degraded() != (i+1 >= degradedAfter) {
			t.Errorf("%d: %v, %v, %v", i, wait, retry, r.degraded())
		}
	}
	if wait, retry := r.exited(-1, healthyFor); wait != firstWait || !retry || r.degraded() {
		t.Error("a long run does not clear the failures:", wait)
	}
	if _, retry := r.exited(exitConfig, 0); retry {
		t.Error("a configuration that is refused is tried again")
	}
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	j := journal{path: path}
	defer j.close()
	j.hide([]string{"secret-longer", "secret"})
	for i := range keptLines + 5 {
		fmt.Fprintf(&j, "line %d\n", i)
	}
	fmt.Fprint(&j, "a secret and a secret-")
	fmt.Fprint(&j, "longer one\x1b[31m\n"+strings.Repeat("x", 2*longestLine)+"\n")
	lines := j.tail()
	if len(lines) != keptLines || lines[0] != "line 7" || lines[keptLines-2] != "a *** and a *** one [31m" || len(j.last()) != longestLine {
		t.Errorf("%d lines, %q, %q, %d", len(lines), lines[0], lines[keptLines-2], len(j.last()))
	}
	for range 4 * fileSize / longestLine {
		fmt.Fprintln(&j, strings.Repeat("y", longestLine))
	}
	for name, want := range map[string]bool{path: true, path + ".1": true, path + ".2": true, path + ".3": false} {
		info, err := os.Stat(name)
		if (err == nil) != want || err == nil && (info.Size() > fileSize+longestLine+1 || info.Mode().Perm() != 0o600) {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}
