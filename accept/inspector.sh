#!/usr/bin/env bash
# The acceptance lines of the inspector and the relay, one by one, from a clean
# checkout of HEAD. FULL=1 runs the long lines in full; otherwise each says which
# part it ran. Prints `ok N ...` or `FAIL N ...` with the figure seen, and fails if
# any failed.
# shellcheck source=accept/lib.sh
. "$(dirname "$0")/lib.sh"
make setup >"$out" 2>&1 || { report 1 0 "make setup"; exit 1; }
[ -n "$full" ] && export FULL
# has TEXT fails when what ran does not say so.
has() { grep -qE "$1" "$out" || { echo "nobody says: $1" >>"$out"; return 1; }; }

# 1. Names in real captures.
: >"$out"
gotest ./inspector/replay '^Test(Accuracy|Cut)'; s=$?
gotest ./inspector/quic . || s=1
gotest ./inspector/tlshello . || s=1
gotest ./inspector/first . || s=1
tls=$(figure 'TLS names: [0-9/]+ right') quic=$(figure 'QUIC names: [0-9/]+ right') files=$(figure 'QUIC captures: [0-9]+ of [0-9]+ fully right')
[ "$(echo "$files" | cut -d' ' -f3)" -ge 12 ] 2>/dev/null || { echo "QUIC captures fully right: ${files:-none}, want 12" >>"$out"; s=1; }
report $s 1 "${tls:-no TLS rows}, ${quic:-no QUIC rows}, ${files:-no captures}, the rest explained in docs/inspector-accuracy.md; captures cut anywhere give no wrong name"

# 2. The first connection to a name that nobody has seen.
: >"$out"
gotest ./internal/lab '^Test(RelayFirst|RelayQUIC|RelayHellos|ForwarderFirst)$' -timeout 0; s=$?
grep -q 'is not installed' "$out" && s=1
report $s 2 "api.zoom.us takes its line on the first connection: by the relay (TLS of Go, curl, openssl and Chromium, post-quantum, ECH's outer name, QUIC of Go and Chromium), by the forwarder; not without both"

# 3. eBPF.
: >"$out"
quick='Connections|Ends|UDP|Fallback|Confined|NothingStays|Overrun|Sweep|RTT|Detect|Names|AnswersAndInitials|Forwarded|Refused|AnswersPass'
gotest ./inspector/ebpf "^Test($quick${full:+|Overhead})\$" -timeout 0; s=$?
n=$(figure '[0-9]+ connections, [0-9]+ with a path; lost [0-9]+') rtt=$(figure '[0-9]+ connections, off by .*')
has '[0-9]+ connections, [0-9]+ with a path; lost 0' || s=1
gotest ./internal/lab '^TestRefusedAtConnect$' || s=1
report $s 3 "$n; RTT against TCP_INFO: $rtt; $(grep -oE '(ebpf|afpacket|sockdiag|nfqueue|relay) +[0-9]+ connections/s.*' "$out" | tr -s ' ' | tr '\n' ';'); a blocked program gets EPERM ($(part '2,000 connections, 20 for RTT'))"

# 4. The relay beside sing-box and a plain splice.
: >"$out"
gotest ./relay '^Test(IdleConns|Soak|Transfer)$' -timeout 0; s=$?
idle=$(figure '[0-9]+ idle connections: .*') soak=$(figure '[0-9]+ connections in .*')
# shellcheck disable=SC2046 # words
if (cd bench/peers && go build -o relaybench ./relay && ./relaybench $([ -n "$full" ] || echo -rounds 1 -for 1s)) >>"$out" 2>&1; then :; else s=1; fi
table=$(grep -E '^ +(system|netpolicy|sing-box|splice) ' "$out" | tr -s ' ' | tr '\n' ';')
has '^ +sing-box ' || s=1
report $s 4 "$idle; $soak; $table ($(part 'shorter'))"

# 5. Faults.
: >"$out"
gotest ./inspector/ebpf '^Test(Refused|Overrun|Fallback)$'; s=$?
gotest ./internal/lab '^Test(ConsultKill9|Hold)$' -timeout 0 || s=1
gotest ./actions/host '^TestHello' -timeout 0 || s=1
gotest ./resolver '^Test(Hostile|Malformed).*' || s=1
gotest ./relay '^Test(Full|Failures)$' || s=1
report $s 5 "without BPF the daemon goes on with netlink; a full ring is counted; queues without the daemon let packets pass as on_crash says; held hellos of blocked names never pass; DNS: $(figure '[0-9]+ malformed counted of [0-9]+ sent')"

exit $bad
