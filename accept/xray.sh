#!/usr/bin/env bash
# The acceptance lines of Xray, one by one, from a clean checkout of HEAD. FULL=1 runs
# the long lines in full; otherwise each says which part it ran. Prints `ok N ...` or
# `FAIL N ...` with the figure seen, and fails if any failed.
# shellcheck source=accept/lib.sh
. "$(dirname "$0")/lib.sh"
make setup >"$out" 2>&1 || { report 1 0 "make setup"; exit 1; }
[ -n "$full" ] && export FULL

# 1. Other projects' links.
: >"$out"
gotest ./xray/link '^Test(Corpus|Findings|Link|Secrets)$'; s=$?
rows=$(figure 'corpus: [0-9]+ rows, .*')
gotest ./xray/config '^TestCorpus$' -timeout 0 || s=1
report $s 1 "${rows:-no rows}; no key of a valid link is lost; $(figure '[0-9]+ of [0-9]+ profiles can be run')"

# 2. Properties and fuzzing. The targets also bound what reading takes of memory.
: >"$out"
gotest ./xray/link '^Test(FormatParse|Bounds)$' -timeout 0; s=$?
profiles=$(figure '[0-9]+ random profiles')
gotest ./xray/link/sub . -timeout 0 || s=1
n=0
for target in link:FuzzLink link:FuzzVMessJSON link:FuzzPlugin link/sub:FuzzLinks link/sub:FuzzBase64 link/sub:FuzzSIP008 \
  link/sub:FuzzClash link/sub:FuzzSingBox link/sub:FuzzXrayJSON link/sub:FuzzWGQuick; do
  grep -q "^func ${target#*:}(" "xray/${target%%:*}"/*_test.go || { echo "no fuzz target $target" >>"$out"; s=1; }
  n=$((n + 1))
done
FUZZTIME=$([ -n "$full" ] && echo 5m || echo 10s) scripts/fuzz.sh xray/link xray/link/sub >>"$out" 2>&1 || s=1
report $s 2 "${profiles:-no profiles} written and read again; $n fuzz targets without a finding, memory in proportion to the text ($(part '5,000 profiles; 10 s each'))"

# 3. The matrix of protocol, transport and security.
: >"$out"
gotest ./xray/config '^Test(Core|Matrix|ValidateSilent|SilentCore|ValidateLoud|LoudCore|Golden)$' -timeout 0; s=$?
count() { grep -oF "| $1 " docs/xray-matrix.md | wc -l; }
how="Xray took what we build, in one run for each protocol"
[ -n "$full" ] && how="Xray was asked about each combination"
report $s 3 "docs/xray-matrix.md: $(count yes) combinations are built, $(count -) refused as Xray does, $(count '**only we**') that its test takes and that can't work; $how"

# 4. Bytes through a real client and a real server.
: >"$out"
gotest ./xray/config '^Test(Bytes|Explain|ExplainNot)$' -timeout 0; s=$?
bytes=$(figure '[0-9]+ of [0-9]+ combinations, 1 MiB each, hashes equal')
[ "${bytes%% *}" -ge 24 ] 2>/dev/null || { echo "combinations: ${bytes:-none}, want 24" >>"$out"; s=1; }
gotest ./cmd/netpolicy '^TestXrayTest$' -timeout 0 || s=1
report $s 4 "${bytes:-no bytes}; wrong pin, wrong short id and unpinned self-signed are told, by xray test too"

# 5. The process.
: >"$out"
gotest ./xray/process '^Test(Restarts|Journal|Lifecycle|PortInUse|BackOff|Adopt|ReplaceLeft|Leave|Amend|ManyRestarts|Output)$' -timeout 0; s=$?
many=$(figure '[0-9]+ restarts')
gotest ./internal/tunnels '^Test' -timeout 0 || s=1
moved=$(figure 'done after [0-9.]+[µm]?s \(median\)')
case $moved in
*' '*µs*) ;;
*ms*) awk -v ms="$(echo "$moved" | grep -oE '[0-9.]+ms' | tr -d ms)" 'BEGIN { exit !(ms < 100) }' || { echo "a balancer moves in $moved, want 100 ms" >>"$out"; s=1; } ;;
*) echo "a balancer moves in ${moved:-no time}, want 100 ms" >>"$out"; s=1 ;;
esac
gotest ./xray/subscription '^Test' -timeout 0 || s=1
gotest ./internal/daemon '^Test(Subscription|Tunnel)' -timeout 0 || s=1
gotest ./internal/lab '^TestXray$' -timeout 0 || s=1
report $s 5 "crash, kill -9, port in use, bad configuration, no room for the log, ${many:-no restarts} in a row, adopted after a kill: nothing is left and the last good one serves; new connections on the other proxy ${moved:-?}, none dropped ($(part '20 restarts'))"

exit $bad
