package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

func newHistory(t *testing.T, dir string) (*history, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	h, err := openHistory(dir, slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return h, log
}

func TestHistory(t *testing.T) {
	dir := t.TempDir()
	h, _ := newHistory(t, dir)
	for n := 1; n <= 25; n++ {
		b := policyfile.Bundle{
			Name: "p.npl", Main: fmt.Appendf(nil, "policy 1\n# %d\n\x00binary", n), Files: map[string][]byte{"lists/a.txt": fmt.Appendf(nil, "a%d\nb\n", n)},
		}
		got, err := h.add(api.Entry{Hash: fmt.Sprintf("%04xabcd", n), Before: n - 1, Who: "file"}, b)
		if err != nil || got != n {
			t.Fatal(got, err)
		}
	}
	if err := h.mark(25, api.Reverted, "no answer"); err != nil {
		t.Fatal(err)
	}
	h, _ = newHistory(t, dir) // as after a restart
	list := h.entries(24, true)
	if len(list) != maxHistory || list[0].N != 25 || list[19].N != 6 {
		t.Fatalf("%d entries", len(list))
	}
	if e := list[0]; e.Outcome != api.Reverted || e.Note != "no answer" || e.Added != 1 || e.Removed != 1 || !strings.Contains(e.Diff, "-a24\n+a25\n") ||
		!strings.Contains(e.Diff, "# policy: another binary file") {
		t.Errorf("%+v", e)
	}
	if !list[1].Live || list[0].Live || h.last() != 24 {
		t.Errorf("not 24 is live: %d", h.last())
	}
	if e := list[19]; !strings.Contains(e.Diff, "not kept") {
		t.Errorf("diff to what is gone: %q", e.Diff)
	}
	e, err := h.text(7, 0)
	if err != nil || string(e.Policy.Files["lists/a.txt"]) != "a7\nb\n" || !bytes.HasSuffix(e.Policy.Main, []byte("\x00binary")) {
		t.Errorf("%+v, %v", e, err)
	}
	for ref, want := range map[string]int{"24": 24, "0018": 24, "0018abcdef0123": 24, "3": 0, "ffff": 0, "001": 0, "": 0, "-1": 0} {
		if n, err := h.find(ref); n != want || (want == 0) != errors.Is(err, api.ErrNotFound) {
			t.Errorf("find %q: %d, %v", ref, n, err)
		}
	}
}

func TestDamagedHistory(t *testing.T) {
	dir := t.TempDir()
	h, _ := newHistory(t, dir)
	for n := 1; n <= 5; n++ {
		if _, err := h.add(api.Entry{Hash: "aaaabbbb", Before: n - 1}, policyfile.Bundle{Main: fmt.Appendf(nil, "text %d", n)}); err != nil {
			t.Fatal(err)
		}
	}
	damage := func(n int, do func([]byte) []byte) {
		b, err := os.ReadFile(h.file(n))
		if err == nil {
			err = os.WriteFile(h.file(n), do(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	damage(2, func([]byte) []byte { return nil })
	damage(3, func(b []byte) []byte { return b[:20] })
	damage(4, func(b []byte) []byte { return b[:len(b)-1] })
	damage(5, func(b []byte) []byte { b[len(b)-1] = '9'; return b })
	h, log := newHistory(t, dir)
	var outcomes []string
	for _, e := range h.entries(0, true) {
		outcomes = append(outcomes, fmt.Sprint(e.N, e.Outcome))
	}
	if diff := cmp.Diff([]string{"5", "4", "3damaged", "2damaged", "1"}, outcomes); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(log.String(), "damaged") {
		t.Error("nothing was said")
	}
	for n, want := range map[int]string{2: "read policy 2", 3: "cut off", 4: "cut off", 5: "not what was written"} {
		if _, _, err := h.read(n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", n, err)
		}
	}
	if n, err := h.add(api.Entry{Before: 3}, policyfile.Bundle{}); n != 6 || err != nil {
		t.Error(n, err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	h, _ := newHistory(t, t.TempDir())
	h.room = 64 << 10
	for n := 1; n <= 6; n++ {
		b := policyfile.Bundle{Main: bytes.Repeat([]byte{byte(n)}, int(h.room)/4)}
		if _, err := h.add(api.Entry{Before: 1}, b); err != nil {
			t.Fatal(err)
		}
	}
	var numbers []int
	for _, e := range h.entries(0, false) {
		numbers = append(numbers, e.N)
	}
	if diff := cmp.Diff([]int{6, 5, 1}, numbers); diff != "" {
		t.Error(diff)
	}
}
