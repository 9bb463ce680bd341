#!/usr/bin/env bash
# The acceptance lines of the classifier, one by one, from a clean checkout of HEAD.
# FULL=1 runs the long lines in full; otherwise each says which part it ran.
# Prints `ok N ...` or `FAIL N ...` with the figure seen, and fails if any failed.
# shellcheck source=accept/lib.sh
. "$(dirname "$0")/lib.sh"

# check reads bench/results.json: `check hostile N` prints the slowest hostile set
# of N rules or more and fails at 2 us (on a machine slower than the targets', so
# many times that as it is slower: the row's scale) or when a kind is missing; `check rows N...`
# fails when the table has no row of ours with N rules; both when ours allocates.
mkdir check && cat >check/main.go <<'GO'
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
)

type row struct {
	System, Shape, Mode string
	N                   int
	NS, Allocs, Scale   float64
}

func main() {
	data, err := os.ReadFile("bench/results.json")
	if err != nil {
		fail("%v", err)
	}
	var all struct{ Rows []row }
	if err := json.Unmarshal(data, &all); err != nil {
		fail("%v", err)
	}
	ours := slices.DeleteFunc(all.Rows, func(r row) bool { return r.System != "netpolicy" })
	for _, r := range ours {
		if r.Allocs != 0 {
			fail("%+v: allocations", r)
		}
	}
	var counts []int
	for _, a := range os.Args[2:] {
		n, err := strconv.Atoi(a)
		if err != nil {
			fail("%v", err)
		}
		counts = append(counts, n)
	}
	if os.Args[1] == "rows" {
		for _, n := range counts {
			if !slices.ContainsFunc(ours, func(r row) bool { return r.N == n && r.Shape == "n-rules" && r.Mode == "warm" }) {
				fail("no row of %d rules", n)
			}
		}
		fmt.Printf("%d rows of %d systems", len(all.Rows), len(systems(all.Rows)))
		return
	}
	kinds := []string{"one-suffix", "one-prefix", "shared-lists", "shared-grams", "dense-grams", "wide-ports", "wide-ports-src", "5-tuple"}
	shapes := map[string]bool{}
	hostile := slices.DeleteFunc(ours, func(r row) bool { return !slices.Contains(kinds, r.Shape) || r.N < counts[0] })
	for _, r := range hostile {
		shapes[r.Shape] = true
	}
	for _, k := range kinds {
		if !shapes[k] {
			fail("no row of %s with %d rules", k, counts[0])
		}
	}
	bound := func(r row) float64 { return 2000 * max(1, r.Scale) }
	worst := slices.MaxFunc(hostile, func(a, b row) int { return cmp.Compare(a.NS/bound(a), b.NS/bound(b)) })
	fmt.Printf("%d hostile sets, the slowest %s of %d rules with %.0f of %.0f ns", len(shapes), worst.Shape, worst.N, worst.NS, bound(worst))
	if worst.NS >= bound(worst) {
		os.Exit(1)
	}
}

func systems(rows []row) map[string]bool {
	s := map[string]bool{}
	for _, r := range rows {
		s[r.System] = true
	}
	return s
}

func fail(format string, args ...any) {
	fmt.Printf(format, args...)
	os.Exit(1)
}
GO

# 1. Every must of the performance table is met in the run that `make bench` makes now.
: >"$out"
rm -f bench/results.* bench/raw.txt
if [ -n "$full" ]; then make bench >"$out" 2>&1; else go run -pgo=cmd/netpolicyd/default.pgo ./bench -quick >"$out" 2>&1; fi
s=$?
musts=$(grep -cE 'must at (most|least) [0-9.,]+: (not )?met' bench/results.md 2>>"$out") || s=1
missed=$(grep -E 'must at (most|least) [0-9.,]+: not met' bench/results.md) && { s=1; echo "$missed" >>"$out"; }
least=$([ -n "$full" ] && echo 36 || echo 22)
[ "${musts:-0}" -ge "$least" ] || { s=1; echo "only $musts musts judged, want $least" >>"$out"; }
grep -q '^Not measured' bench/results.md && { s=1; grep '^Not measured' bench/results.md >>"$out"; }
stretch=$(grep -cE 'stretch at (most|least) [0-9.,]+: met' bench/results.md)
if [ -n "$full" ]; then
  rows=$(go run ./check rows 10 1000 10000 100000 1000000) || s=1
  for peer in xray sing-box sing-box-srs opa-scan opa-index cel linear; do
    grep -q "\"system\": \"$peer\"" bench/results.json || { echo "no $peer in the table" >>"$out"; s=1; }
  done
else
  rows=$(go run ./check rows 10 1000 10000) || s=1
fi
report $s 1 "make bench ($(part 'quick, without peers')): $rows; $musts musts, $(printf '%s' "$missed" | grep -c .) not met; $stretch stretch targets met"

# 2. Engine and oracle agree: a million random cases every night, 100,000 in CI; 100,000 ClassBench headers.
: >"$out"
cases=$([ -n "$full" ] && echo 1000000 || echo 100000)
make nightly CASES=$cases >"$out" 2>&1; s=$?
grep -q -- '--- SKIP' "$out" && s=1
grep -qE "^ +[a-z_]+\.go:[0-9]+: $cases decisions as the oracle" "$out" || { s=1; echo "not $cases decisions" >>"$out"; }
grep -qE 'ClassBench: [0-9]+ rules, 100000 headers, .*none different' "$out" || { s=1; echo "no ClassBench" >>"$out"; }
fig="$(figure '[0-9]+ decisions as the oracle.s'), $(grep -oE 'passed [0-9]+ tests' "$out" | awk '{n += $2 * 5} END {print n}') drawn by rapid"
fig="$fig, $(figure 'recompile: [0-9]+ edits'), $(figure 'ClassBench: [0-9]+ rules, [0-9]+ headers'), $(figure 'domain lists: .*')"
report $s 2 "$fig ($(part '100,000 as in CI'); seed $(figure 'seed [0-9]+' | grep -oE '[0-9]+'))"

# 3. Deciding allocates nothing, shares nothing; the list formats are fuzzed.
: >"$out"
gotest ./engine 'Allocates?Nothing'; s=$?
gotest ./engine '^TestConcurrent$' -race || s=1
targets=$(git grep -hoE '^func Fuzz[A-Za-z0-9_]+' -- 'rules/lists/*_test.go' | wc -l)
[ "$targets" -gt 0 ] || { echo "no fuzz target in rules/lists" >>"$out"; s=1; }
FUZZTIME=$([ -n "$full" ] && echo 2m || echo 10s) scripts/fuzz.sh rules/lists >>"$out" 2>&1 || s=1
report $s 3 "0 allocations in every mode, no race, $targets fuzz targets of rules/lists without a finding ($(part '10 s each'))"

# 4. Adversarial sets stay under 2 us at 100,000 rules, in the same table.
: >"$out"
n=$([ -n "$full" ] && echo 100000 || echo 1000)
if hostile=$(go run ./check hostile "$n" 2>>"$out"); then s=0; else s=1; fi
grep -qi 'hostile' bench/results.md 2>/dev/null || { echo "results.md has no hostile rows" >>"$out"; s=1; }
report $s 4 "$hostile ($(part "$n rules or more"))"

exit $bad
