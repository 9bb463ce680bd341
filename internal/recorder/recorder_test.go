package recorder_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/recorder"
)

func read(t *testing.T, paths ...string) string {
	t.Helper()
	names, err := recorder.Files(paths...)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		r, err := recorder.File(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all.Write(b)
		r.Close()
	}
	return all.String()
}

func TestSegments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	w := recorder.New(recorder.Options{Dir: dir})
	if err := w.Append([]byte("x\n"), false); err == nil {
		t.Error("lines before any segment were taken")
	}
	for _, p := range []struct {
		lines string
		fresh bool
	}{{"a\n", true}, {"b\n", false}, {"c\n", true}, {"d\n", true}} {
		if err := w.Append([]byte(p.lines), p.fresh); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir); got != "a\nb\nc\nd\n" {
		t.Errorf("read back %q", got)
	}
	if names, _ := recorder.Files(dir); len(names) != 3 {
		t.Errorf("segments %q, want 3", names)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v: names are nobody else's business", info.Mode())
	}
}

// TestCrash: what was flushed is read, though the segment was never ended; one of
// which nothing was flushed is empty.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	w := recorder.New(recorder.Options{Dir: dir})
	for _, lines := range []string{"a\n", "b\n"} {
		if err := w.Append([]byte(lines), lines == "a\n"); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, dir); got != "" {
		t.Errorf("before the flush: %q", got)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.Append([]byte("lost\n"), false); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir); got != "a\nb\n" {
		t.Errorf("read back %q", got)
	}
}

// TestBound: the oldest segments go, whatever a clock that was ahead has put into their names.
func TestBound(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "21000101T000000.000Z-000.ndjson.gz"), make([]byte, 190), 0o600); err != nil {
		t.Fatal(err)
	}
	w := recorder.New(recorder.Options{Dir: dir, Max: 200})
	for i := range 20 {
		if err := w.Append([]byte{byte('a' + i), '\n'}, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := read(t, dir)
	if n := strings.Count(got, "\n"); n < 2 || n > 9 || !strings.HasSuffix(got, "s\nt\n") {
		t.Errorf("kept %q", got)
	}
}

func TestMask(t *testing.T) {
	mask := recorder.Mask()
	a, b := mask("www.shop.example"), mask("shop.example")
	if !strings.HasSuffix(a, "."+b) || !strings.HasSuffix(b, ".example") || strings.Contains(a, "shop") || strings.Contains(a, "www") {
		t.Errorf("%q, %q", a, b)
	}
	if recorder.Mask()("shop.example") == b {
		t.Error("another recording has the same hashes")
	}
}
