#!/usr/bin/env bash
# Runs every test, then the race detector on what is concurrent, and fails if a
# test fails or leaves a namespace, table, rule, route or process behind. At the
# end it lists the skipped tests with their reasons.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp)
before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$log" "$before" "$after"' EXIT
scripts/residue.sh >"$before"

status=0
run() {
  echo "== go test $*"
  go test -count=1 -timeout 25m -v "$@" >"$log" 2>&1 || status=1
  grep -E $'^(ok  |FAIL)\t' "$log"
  if grep -qE '^(FAIL|--- FAIL|panic:)' "$log"; then
    echo "== what failed"
    awk -f scripts/failed.awk "$log"
  fi
  cat "$log" >>"$log.all"
}
: >"$log.all"
trap 'rm -f "$log" "$log.all" "$before" "$after"' EXIT

run ./...
run -race -short ./internal/daemon/... ./internal/api/... ./internal/telemetry/... ./inspector/... ./probe/... ./engine ./state

# The BPF objects are what their sources give.
if ! scripts/bpf.sh --check >"$log" 2>&1; then
  status=1
fi
tail -n 20 "$log"

# The VS Code extension, and the scopes that the grammar gives the examples.
echo "== editors/vscode"
if command -v npm >/dev/null; then
  if ! (cd editors/vscode && npm ci --no-audit --no-fund && npm run build && npm test) >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "FAIL: editors/vscode"
    status=1
  else
    grep -cE 'run successfully' "$log" | sed 's/$/ grammar examples hold/'
  fi
else
  echo "skipped: npm is not installed"
fi

# The web interface: its files are what its sources give, and its pages work. The
# generator's own page is left to accept/interface.sh.
echo "== web"
if ! scripts/web.sh --check >"$log" 2>&1; then
  tail -n 60 "$log"
  echo "FAIL: web"
  status=1
elif ! command -v npm >/dev/null || [ "$(id -u)" != 0 ]; then
  echo "skipped: the pages need npm, and root for the lab"
elif ! scripts/ui.sh e2e/ui.test.mjs e2e/crowd.test.mjs >"$log" 2>&1; then
  grep -A 30 '^not ok' "$log" | tail -n 80
  tail -n 20 "$log"
  echo "FAIL: web"
  status=1
else
  grep -E '^ok ' "$log"
fi

passed=$(grep -cE '^\s*--- PASS' "$log.all")
failed=$(grep -cE '^\s*--- FAIL' "$log.all")
skipped=$(grep -cE '^\s*--- SKIP' "$log.all")
if [ "$skipped" -gt 0 ]; then
  echo "== skipped, and why"
  grep -B3 -E '^\s*--- SKIP' "$log.all" | grep -vE '^(--|=== )' || true
fi

# Whatever is new was left behind; whatever is gone was not ours to remove, but for
# the namespaces and processes of another run that has ended meanwhile. What is about to
# end has time for it.
residue() {
  scripts/residue.sh >"$after"
  diff "$before" "$after" | grep -E '^[<>]' | grep -vE '^< (np[0-9a-f]+-|netpolicy)'
}
for _ in $(seq 30); do
  left=$(residue) || break
  sleep 1
done
if [ -n "$left" ]; then
  echo "$left"
  echo "FAIL: the tests left something behind, or removed it (above: < before, > after)"
  status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
