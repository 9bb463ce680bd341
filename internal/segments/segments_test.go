package segments_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/segments"
)

func names(t *testing.T, f segments.Folder) (got []string) {
	t.Helper()
	list, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range list {
		got = append(got, filepath.Base(one.Path))
	}
	return got
}

// TestFolder: files are in the order in which they were written, whatever the clock said and with whichever names
// they began; the first go, but neither the one that is written nor what is not ours.
func TestFolder(t *testing.T) {
	f := segments.Folder{Dir: t.TempDir(), Prefix: "d-", Suffix: ".gz"}
	for _, name := range []string{
		"d-20310101T000000.000Z-001.gz", "d-20310101T000000.000Z-000.gz", "d-9.gz", "d-0000000010-x.gz", "d-0000000011-x.txt", "e-0000000011-x.gz",
	} {
		if err := os.WriteFile(filepath.Join(f.Dir, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(f.Dir, "d-0000000012-x.gz"), 0o700); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	var last *os.File
	for range 3 {
		file, err := f.Create(at)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		last, at = file, at.AddDate(-10, 0, 0)
	}
	want := []string{
		"d-20310101T000000.000Z-000.gz", "d-20310101T000000.000Z-001.gz", "d-9.gz", "d-0000000010-x.gz",
		"d-0000000011-20310101T000000Z.gz", "d-0000000012-20210101T000000Z.gz", "d-0000000013-20110101T000000Z.gz",
	}
	if diff := cmp.Diff(want, names(t, f)); diff != "" {
		t.Error(diff)
	}
	if total, err := f.Sweep(250, last); err != nil || total != 200 {
		t.Errorf("%d bytes, %v", total, err)
	}
	if diff := cmp.Diff(want[2:], names(t, f)); diff != "" {
		t.Error(diff)
	}
	if total, err := f.Sweep(-1, last); err != nil || total != 0 {
		t.Errorf("%d bytes, %v", total, err)
	}
	if diff := cmp.Diff(want[6:], names(t, f)); diff != "" {
		t.Error(diff)
	}
	if info, err := last.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if left, err := os.ReadDir(f.Dir); err != nil || len(left) != 4 {
		t.Errorf("%v: %v", err, left)
	}
}
