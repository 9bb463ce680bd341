#!/usr/bin/env bash
# The acceptance lines of enforcement, one by one, from a clean checkout of HEAD.
# FULL=1 runs the long lines in full; otherwise each says which part it ran.
# Prints `ok N ...` or `FAIL N ...` with the figure seen, and fails if any failed.
# shellcheck source=accept/lib.sh
. "$(dirname "$0")/lib.sh"
make setup >"$out" 2>&1 || { report 1 0 "make setup"; exit 1; }
[ -n "$full" ] && export FULL
seed=$([ -n "$full" ] && date +%s || echo 1)
# tests PATTERN [FLAG...] runs the tests of that name wherever they are; none is a failure.
tests() {
  local pattern=$1 s=0 dirs
  shift
  dirs=$(git grep -lE "^func Test($pattern)\(" -- '*_test.go' | xargs -r -n 1 dirname | sort -u)
  [ -n "$dirs" ] || { echo "no test is called Test$pattern" >>"$out"; return 1; }
  for d in $dirs; do gotest "./$d" "^Test($pattern)\$" -timeout 0 "$@" || s=1; done
  return $s
}
# has TEXT fails when what ran does not say so.
has() { grep -qE "$1" "$out" || { echo "nobody says: $1" >>"$out"; return 1; }; }

# 1. Engine, fake, nftables and iptables do the same with the same packets.
: >"$out"
gotest ./actions/host '^TestEquivalence' -timeout 0 -seed "$seed"; s=$?
gotest ./actions '^Test(TableDecidesAsEngine|DiffApply)$' -timeout 0 || s=1
least=$([ -n "$full" ] && echo 200000 || echo 5000)
for b in nftables iptables; do
  n=$(figure "equivalence: $b[^:]*: [0-9]+ packets" | grep -oE '[0-9]+ packets' | cut -d' ' -f1)
  [ "${n:-0}" -ge "$least" ] || { echo "$b: ${n:-no} packets, want $least" >>"$out"; s=1; }
  fig="${fig:-}${fig:+; }$b ${n:-no} packets"
done
report $s 1 "as the engine and the fake decide: $fig, none otherwise; seed $seed ($(part '5,000 each'))"

# 2. Failover.
: >"$out"
gotest ./internal/lab '^TestFailoverTimes$' -timeout 0 -seed "$seed"; s=$?
has 'failover: on the line that lives: .* each byte as sent' || s=1
told=$(figure 'from the sample to the kernel: [0-9.]+ ms' | grep -oE '[0-9.]+ ms')
fig=$(grep -oE 'failover: .*' "$out" | cut -c11- | tr '\n' ';' | sed 's/;$//; s/;/; /g')
report $s 2 "$fig ($(part '6 runs'))"

# 3. kill -9, out of memory, power cut, full disk; others' objects beside ours.
: >"$out"
gotest ./internal/lab '^Test(Crash|PowerCut|OOM|FullDisk)$' -timeout 0 -seed "$seed"; s=$?
gotest ./actions/host '^Test(KilledAnywhere|TakeBack|FullDisk|OnCrash|ForeignTableIsRefused)$' || s=1
kills=$(grep -oE 'crash: on_crash [a-z]+: [0-9]+ kills' "$out" | awk '{n += $4} END {print n + 0}')
least=$([ -n "$full" ] && echo 200 || echo 20)
[ "$kills" -ge "$least" ] || { echo "$kills kills, want $least" >>"$out"; s=1; }
for mode in last open closed; do has "crash: on_crash $mode: " || s=1; done
report $s 3 "$kills kills at random points of start, run, stop and cleanup (seed $seed), on_crash as documented after each, no residue, Docker's, tailscale's and mwan3's objects as they were; $(figure 'out of memory: [0-9]+ kills'); $(figure 'power cut: [0-9]+ moments'); $(figure 'full disk: [^,]*,[^,]*')"

# 4. Throttling: within 5 % of the profile, as the test itself asks.
: >"$out"
tests 'Throttle|ThrottleLimits'; s=$?
# Limits of nft are what is left where nothing can be shaped: no figure of the line.
worst=$(grep -v limited "$out" | grep -oE 'over [0-9.]+ s: [+-][0-9.]+ %' | awk '{v = $4 < 0 ? -$4 : $4; if (v > w) w = v; n++} END {printf "%d rates, %.2f %% off at the most", n, w}')
report $s 4 "$worst ($(part 'shorter'))"

# 5. New flows a second beside no policy, and an element in under 5 ms.
: >"$out"
sets=$([ -n "$full" ] && echo mix:100,mix:1000,mix:10000,mix:100000,acl:1000,acl:10000 || echo mix:100,mix:1000)
tests Flows -flows "$sets"; s=$?
tests 'LoadTenThousand|UpdateTimes' || s=1
rate() { # set, the least of no policy
  local r; r=$(figure "flows: $1, netpolicy: .* second, [0-9.]+ of no policy;" | grep -oE '[0-9.]+ of no policy' | cut -d' ' -f1)
  echo "$1 ${r:-nothing} of no policy"
  awk -v r="${r:-0}" -v least="$2" 'BEGIN {exit !(r >= least)}' || { echo "$1: ${r:-nothing} of no policy, want $2" >>"$out"; return 1; }
}
if [ -n "$full" ]; then fig="$(rate mix:10000 0.45), $(rate mix:100000 0.3)"; else fig=$(rate mix:1000 0.45); fi
rate "${sets%%,*}" 0.45 >/dev/null || s=1
if [ -n "$full" ]; then rate mix:10000 0.45 >/dev/null && rate mix:100000 0.3 >/dev/null || s=1; fi
tests Established || s=1
est() { figure "established: $1: .*" | grep -oE '[0-9.]+ of no policy$' | cut -d' ' -f1; }
own=$(est netpolicy) rules=$(est 'its ip rules alone')
# The table's own share: a gateway with several uplinks has ip rules in any case.
table=$(awk -v a="${own:-0}" -v b="${rules:-1}" 'BEGIN {printf "%.2f", a / b}')
awk -v r="$table" 'BEGIN {exit !(r >= 0.9)}' || { echo "established packets: ${own:-nothing} of no policy, $table of ip rules alone, want 0.9" >>"$out"; s=1; }
awk -v ms="${told%% *}" 'BEGIN {exit !(ms != "" && ms < 5)}' || { echo "from the sample to the kernel: ${told:-nothing}, want under 5 ms" >>"$out"; s=1; }
report $s 5 "$fig; established packets $table of ip rules alone, $own of no policy; a failover ${told:-never} from the sample to the kernel; 10,000 rules $(figure 'load: [0-9.a-zµ]+') ($(part 'up to 1,000 rules'))"

# 6. A policy that cuts its author off comes back by itself.
: >"$out"
tests 'CutOffReturns[A-Za-z]*|ProbesDecide'; s=$?
report $s 6 "$(grep -oE '[a-z][^:]*: (the client gets )?through again [0-9.]+ s' "$out" | tr '\n' ';' | sed 's/;$//; s/;/; /g')"

exit $bad
