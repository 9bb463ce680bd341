#!/usr/bin/env bash
# The acceptance lines of the language, one by one, from a clean checkout of HEAD.
# FULL=1 runs the long lines in full; otherwise each says which part it ran.
# Prints `ok N ...` or `FAIL N ...` with the figure seen, and fails if any failed.
# shellcheck source=accept/lib.sh
. "$(dirname "$0")/lib.sh"
make build >"$out" 2>&1 || { report 1 0 "make build"; exit 1; }
np=$PWD/bin/netpolicy
# say COMMAND... notes what it prints, and the command if it fails.
say() { "$@" >>"$out" 2>&1 || { echo "failed: $*" >>"$out"; return 1; }; }

# 1. The four examples and their YAML twins.
: >"$out"
s=0
hash() { "$np" hash "$1" 2>>"$out" | cut -d' ' -f1; }
for e in zoom fiber kids corp; do
  a=rules/npl/testdata/examples/$e.npl
  b=rules/yaml/testdata/examples/$e.yaml
  for f in $a $b; do
    say "$np" lint --strict "$f" || s=1
    say "$np" fmt --check "$f" || s=1
    say "$np" test "$f" || s=1
  done
  say "$np" convert --to yaml "$a" -o "$(dirname $a)/$e.there.yaml" || s=1
  say "$np" convert --to npl "$(dirname $a)/$e.there.yaml" -o "$(dirname $a)/$e.back.npl" || s=1
  say "$np" convert --to npl "$b" -o "$(dirname $b)/$e.there.npl" || s=1
  say "$np" convert --to yaml "$(dirname $b)/$e.there.npl" -o "$(dirname $b)/$e.back.yaml" || s=1
  h=$(hash "$a")
  for f in "$b" "$(dirname $a)/$e.there.yaml" "$(dirname $a)/$e.back.npl" "$(dirname $b)/$e.there.npl" "$(dirname $b)/$e.back.yaml"; do
    [ -n "$h" ] && [ "$(hash "$f")" = "$h" ] || { echo "$f: another hash" >>"$out"; s=1; }
  done
done
# An assertion that does not hold must fail, and one about all flows is said not to be proven.
sed 's/-> route direct/-> route backup/' rules/npl/testdata/examples/zoom.npl >"$work/wrong.npl"
"$np" test "$work/wrong.npl" >"$work/said" 2>&1 && s=1
grep -q NP320 "$work/said" || s=1
"$np" lint rules/npl/testdata/examples/corp.npl | grep -q NP322 || s=1
gotest ./analysis . || s=1
report $s 1 "4 examples and 4 twins: lint --strict, fmt --check, test, there and back with one hash; $(grep -oE '[0-9]+ assertions?' "$out" | awk '{n += $1} END {print n}') assertions hold"

# 2. Broken policies.
: >"$out"
gotest ./rules/load 'TestBroken|TestEveryCode|TestIndependent'; s=$?
n=$(cat rules/load/testdata/broken/*.txtar | grep -cE '^-- [^/]+\.(npl|yaml) --$')
[ "$n" -ge 120 ] || s=1
report $s 2 "$n broken policies with code, line, column and underlined text; every code that is reported has a case"

# 3. Properties and fuzzing.
: >"$out"
cases=$([ -n "$full" ] && echo 50000 || echo 5000)
NETPOLICY_PRINT_CASES=$cases gotest ./rules/print . -timeout 0; s=$?
targets=$(git grep -hoE '^func Fuzz[A-Za-z0-9_]+' -- 'rules/npl/*_test.go' 'rules/yaml/*_test.go' 'rules/lists/*_test.go' | wc -l)
FUZZTIME=$([ -n "$full" ] && echo 5m || echo 10s) scripts/fuzz.sh rules/npl rules/yaml rules/lists >>"$out" 2>&1 || s=1
gotest ./rules/npl 'Hostile|Limits|Bounds' || s=1
gotest ./rules/yaml 'Hostile|Limits' || s=1
gotest ./rules/load 'Hostile' || s=1
report $s 3 "$cases generated policies: fmt, comments, convert; $targets fuzz targets without a finding ($(part '5,000; 10 s each'))"

# 4. The language server, driven by recorded sessions; a diagnostic in an editor.
: >"$out"
gotest ./internal/lsp .; s=$?
sessions=$(git ls-files 'internal/lsp/testdata/*.txtar' | wc -l)
file -b docs/editor-diagnostic.png 2>/dev/null | grep -q PNG || s=1
(cd editors/vscode && npm ci --no-audit --no-fund && npm run build && npm test) >>"$out" 2>&1 || s=1
report $s 4 "$sessions recorded sessions; the VS Code extension builds, its grammar's examples hold; docs/editor-diagnostic.png"

# 5. Speed at 100,000 rules.
: >"$out"
n=$([ -n "$full" ] && echo 100000 || echo 10000)
go test ./rules/load -run TestSpeed -v -count=1 -speed "$n" >>"$out" 2>&1; s=$?
want() { # what figure limit(ms for 100,000)
  local ms; ms=$(figure "[0-9]: $1: [0-9]+ ms" | grep -oE '[0-9]+ ms' | cut -d' ' -f1)
  [ -n "$ms" ] && [ "$ms" -le $(($2 * n / 100000)) ] || { echo "$1: ${ms:-nothing} ms, the most is $(($2 * n / 100000))" >>"$out"; s=1; }
}
want 'NPL' 2000; want 'YAML' 5000; want 'fmt NPL' 4000; want 'fmt YAML' 4000
report $s 5 "$n rules: $(grep -oE "[0-9]: (fmt )?(NPL|YAML): [0-9]+ ms" "$out" | cut -c4- | tr '\n' ',' | sed 's/,$//; s/,/, /g') ($(part 'a tenth'))"

exit $bad
