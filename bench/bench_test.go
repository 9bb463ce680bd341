package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
)

// TestMain lets the test's own program be the children that measure.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-system" {
		measure.Serve(ours)
		return
	}
	os.Exit(m.Run())
}

// TestBench makes the whole report with few rules: every answer is compared with
// the linear search on the way, and nothing may allocate.
func TestBench(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("..")
	b := &bench{own: own, out: t.TempDir(), sizes: []int{10, 1000}, big: 500, passes: 1}
	if err := b.run(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(b.out, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Rows []row }
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []contestant{{ourName, workload.NRules}, {ourName, workload.Set}, {linearName, workload.NRules}, {ourName, "5-tuple"}} {
		i := slices.IndexFunc(got.Rows, func(r row) bool { return r.System == want.system && r.Shape == want.shape && r.Mode == "warm" })
		if i < 0 {
			t.Errorf("no row of %v", want)
			continue
		}
		if r := got.Rows[i]; r.NS <= 0 || r.Checked == 0 || r.Allocs != 0 || r.BytesPerRule <= 0 {
			t.Errorf("%v: %+v", want, r)
		}
	}
	text, err := os.ReadFile(filepath.Join(b.out, "results.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 1,000 rules, warm |", "| hostile: one-suffix, 500 rules |", "must at most 2,000: "} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
	raw, err := os.ReadFile(filepath.Join(b.out, "raw.txt"))
	if err != nil || !strings.Contains(string(raw), "BenchmarkDecide/system=netpolicy/shape=n-rules/n=1000/mode=warm ") {
		t.Errorf("nothing for benchstat: %v\n%s", err, raw)
	}
}

// TestVerdicts tells what is met from what is not.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		t    target
		want string
	}{
		{target{got: 99, must: 100, stretch: 80}, "must at most 100: met | stretch at most 80.0: not met"},
		{target{got: 101, must: 100}, "must at most 100: not met | -"},
		{target{got: 2, must: 1.8, stretch: 3, more: true}, "must at least 1.80: met | stretch at least 3.00: not met"},
		{target{got: 1.7, must: 1.8, more: true}, "must at least 1.80: not met | -"},
		{target{got: 100, must: 100, stretch: 100}, "must at most 100: met | stretch at most 100: met"},
	} {
		if got := c.t.verdict(); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %s, want %s", c.t, got, c.want)
		}
	}
}

func TestMixIsTheSameEveryTime(t *testing.T) {
	for _, shape := range []string{workload.NRules, workload.Set, workload.Hostile[0].Name} {
		a, err := workload.Make(shape, 200)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := workload.Make(shape, 200)
		x, y := workload.ConnsFor(shape, a, 50), workload.ConnsFor(shape, b, 50)
		if !slices.Equal(x, y) {
			t.Errorf("%s: other connections", shape)
		}
	}
}
