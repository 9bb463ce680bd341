#!/usr/bin/env bash
# The acceptance lines of the API, the telemetry and the web interface, one by one, from a
# clean checkout of HEAD. FULL=1 runs the long lines in full; otherwise each says which
# part it ran. Prints `ok N ...` or `FAIL N ...` with the figure seen, and fails if any
# failed.
# shellcheck source=accept/lib.sh
. "$(dirname "$0")/lib.sh"
make setup >"$out" 2>&1 || { report 1 0 "make setup"; exit 1; }
has() { grep -qE "$1" "$out" || { echo "nobody says: $1" >>"$out"; return 1; }; }

# 1. Every page, driven against a real netpolicyd; the screenshots are those of the docs.
: >"$out"
mkdir -p "$work/shots"
SHOTS="$work/shots" scripts/ui.sh >>"$out" 2>&1; s=$?
has '^# fail 0' || s=1
has '^# skipped 0' || s=1
looks=$(figure '[0-9]+ combinations')
for shot in docs/ui/*.png; do
  [ -s "$work/shots/$(basename "$shot")" ] || { echo "no screenshot $shot was made" >>"$out"; s=1; }
done
report $s 1 "$(grep -c '^ok ' "$out") parts in Chromium against netpolicyd in the lab: a slowed line, why, a rule from a connection, a bad edit's place, a change that returned; 60 links through the generator and back, also in WebAssembly; a real Xray by its page; a daemon that stands still; axe-core finds nothing, nothing is cut, covered or untranslated in ${looks:-no combinations} of all pages, dialogs and menus with five languages, light, dark and phone; no violation of the content security policy"

# 2. Sizes, frames, and what clients cost the daemon.
: >"$out"
gotest ./web '^Test(Sizes|NoOutside)$'; s=$?
sizes=$(figure 'first screen [0-9]+ bytes in [0-9]+ files, all [0-9]+ bytes')
(cd web && node e2e/frames.mjs "$([ -n "$full" ] && echo 60 || echo 6)") >>"$out" 2>&1 || s=1
frames=$(figure 'frames: .*')
gotest ./internal/daemon '^TestClients$' || s=1
go test -run '^$' -bench "^BenchmarkClients\$$([ -n "$full" ] || echo '/^64$/^100_')" -benchtime 1x -timeout 0 ./internal/daemon >>"$out" 2>&1 || s=1
# cost lists what was measured for each number of clients.
cost() { grep -oE '^BenchmarkClients/.*' "$out" | sed -E 's/^BenchmarkClients.([0-9]+).([0-9]+)_[^\t ]*[[:space:]]+1/\1 clients at \2:/' | tr -s '\t ' ' ' | paste -sd';'; }
[ -n "$(cost)" ] && ! cost | grep -qE ' [1-9][0-9.]* refused' || s=1
report $s 2 "${sizes:-no sizes}, packed; 10,000 connections at 100 changes a second: $frames ($(part '6 s of 60')); what they cost the daemon, of one core: $(cost)"

# 3. Security of the API; markup in names, programs and links is part of line 1.
: >"$out"
gotest ./internal/api '^Test(DeniedByDefault|Roles|OtherSites|Rebinding|BruteForce|Limits|HostileTexts|Pages|PublicBind|TLS|TokenFiles|Bearer|Requests|Bounds|RequestTypes|StageOfOthers|BrowsersOnTheSocket|StreamsEnd|Masked|SecretsOfTexts|Confined|StrangersHoldNoPlaces|Crowd|PartedWith|SlowBody|ReadersHoldNoPlaces|LargeTextToReadOnly)$'; s=$?
gotest ./cmd/netpolicyd '^TestHandedListener$' || s=1
gotest ./internal/daemon '^Test(ParallelCommits|ChangesOfOneBase|TooLate|ConfinedChange|UnsafeWeb|WebWaitsForItsPort)$' || s=1
report $s 3 "CSRF, DNS rebinding, no token, read-only token, content type, body size, path traversal, hostile names, frames, guesses, public bind, silent and slow strangers, secrets, renewed tokens, parallel changes: $(grep -c -- '--- PASS' "$out") tests"

# 4. Fifty thousand decisions a second.
: >"$out"
gotest ./internal/telemetry '^Test(NobodyWaits|Sampling|SegmentsRotateAndGo|BrokenDisk|FullDisk|RingBytes|Mask)$'; s=$?
gotest ./internal/daemon '^TestLoad$' || s=1
load=$(figure '[0-9]+ connections in 4 s: .*')
go test -run '^$' -bench '^BenchmarkDecide$' -count 5 ./internal/daemon >>"$out" 2>&1 || s=1
# median NAME is the middle of the medians of its runs.
median() { grep -E "^BenchmarkDecide/$1" "$out" | grep -oE '[0-9.]+ p50-ns' | cut -d' ' -f1 | sort -n | sed -n 3p; }
alone=$(median alone) with=$(median with)
# A tenth is what such a benchmark moves by itself.
awk -v a="${alone:-0}" -v b="${with:-1e9}" 'BEGIN { exit !(a > 0 && b <= 1.1 * a) }' || { echo "Decide: ${alone:-none} ns alone, ${with:-none} ns under load" >>"$out"; s=1; }
report $s 4 "$load; Decide: $alone ns alone, $with ns with 50,000 records a second beside it"

# 5. Golden answers, and the contract.
: >"$out"
gotest ./internal/api '^TestContractHasEveryRoute$'; s=$?
gotest ./internal/daemon '^Test(API|MetricNames|Prometheus)$' || s=1
gotest ./cmd/netpolicy '^TestJSON$' || s=1
gotest ./internal/lab '^TestKill$' -timeout 0 || s=1
report $s 5 "$(grep -c 'operationId' internal/api/openapi.yaml) operations held against the contract; $(grep -c '^-- ' internal/daemon/testdata/api.txtar) golden answers, $(grep -c '^-- ' cmd/netpolicy/testdata/json.txtar) of commands; a real Prometheus read the metrics"

exit $bad
