#!/usr/bin/env bash
# The acceptance lines of the spine, one by one, from a clean checkout of HEAD.
# FULL=1 runs the long lines in full; otherwise each says which part it ran.
# Prints `ok N ...` or `FAIL N ...` with the figure seen, and fails if any failed.
# shellcheck source=accept/lib.sh
. "$(dirname "$0")/lib.sh"

make setup build >"$out" 2>&1 || { report 1 0 "make setup build"; exit 1; }

# 1. The lab shows it with real packets, and fails if an uplink's counters differ from the decision.
: >"$out"
if [ -n "$full" ]; then make run >"$out" 2>&1; else bin/netpolicy lab run examples/zoom-priority >"$out" 2>&1; fi
report $? 1 "make run ($(part 'zoom-priority only')): $(figure '[0-9]+ connections, each.*')"

# 2. The tests pass, twice in a row, and leave nothing behind.
: >"$out"
scripts/residue.sh >"$work/before"
if [ -n "$full" ]; then
  s=0; for i in 1 2; do SECONDS=0; make test >"$out" 2>&1 || s=1; took="${took:-}${took:+, }${SECONDS} s"; done
else
  SECONDS=0; go test ./flow ./diag ./rules/... ./engine ./state ./sim ./internal/archtest >"$out" 2>&1; s=$?; took="$SECONDS s"
fi
scripts/residue.sh >"$work/after"
diff "$work/before" "$work/after" >>"$out" || s=1
report $s 2 "make test ($(part 'pure packages, once')): $took, $(figure '[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped') nothing left behind"

# 3. 100,000 decisions equal the oracle's; names match as they should; explain tells why.
: >"$out"
gotest ./cmd/netpolicy '^TestDecideEqualsOracle100k$'; s=$?
fig=$(figure '[0-9]+ random flows.*')
p=examples/zoom-priority/policy.yaml
bin/netpolicy explain --config $p --flow 'tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=us01.zoom.us' >>"$out" 2>&1 || s=1
zoom=$(bin/netpolicy explain --config $p -o json --flow 'tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=us01.zoom.us')
evil=$(bin/netpolicy explain --config $p -o json --flow 'tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=evilzoom.us')
echo "$zoom" >>"$out"; echo "$evil" >>"$out"
case "$zoom" in '{"rule":"zoom_priority"'*'"why":"'*'"runner_up":'*'"near":'*) ;; *) s=1 ;; esac
case "$evil" in '{"rule":null,"action":"route","target":"direct"'*) ;; *) s=1 ;; esac
report $s 3 "$fig; evilzoom.us does not match; explain names rule, why, runner-up"

# 4. Reload: broken files keep the old policy (NP501 with place), good ones are live within a second, transfers live on.
: >"$out"
gotest ./internal/lab '^TestReload50$'
report $? 4 "$(figure 'reload: .*')"

# 5. kill -9 at random moments, then cleanup leaves everything byte-identical.
: >"$out"
gotest ./internal/lab '^TestKill9'
report $? 5 "$(figure 'kill -9: .*')"

# 6. 10,000 rules are read, checked, compiled and planned in under 2 s, decide correctly once in the kernel (load
# time reported), and the fuzzers find nothing.
: >"$out"
mkdir gen && cat >gen/main.go <<'GO'
package main

import (
	"os"

	"netpolicy.dev/netpolicy/internal/policygen"
)

func main() { os.Stdout.Write(policygen.YAML(1, 10_000)) }
GO
go run ./gen >"$work/big.yaml" && rm -r gen
ms=$(for _ in 1 2 3; do
  t=$(date +%s%3N)
  unshare -n bin/netpolicyd --config "$work/big.yaml" --dry-run >"$work/plan" 2>>"$out" || echo 999999
  echo $(($(date +%s%3N) - t))
done | sort -n | sed -n 2p)
[ "$ms" -lt 2000 ] && [ "$(grep -c 'meta priority >' "$work/plan")" -ge 1000 ]; s=$?
gotest ./actions/host '^TestLoadTenThousand$' || s=1
fig="10,000 rules from YAML to the printed plan in $ms ms (median of 3), kernel $(figure 'load: [0-9.a-zµ]+')"
FUZZTIME=$([ -n "$full" ] && echo 2m || echo 12s) scripts/fuzz.sh rules/yaml inspector/tlshello inspector/dns >>"$out" 2>&1 || s=1
report $s 6 "$fig; fuzzed YAML, ClientHello, DNS ($(part '12 s each'))"

# 7. Names in real captures, against the list that came with them.
: >"$out"
gotest ./inspector/replay '^TestAccuracy$'
report $? 7 "$(figure 'TLS names: [0-9]+/[0-9]+ right'); the rest is listed in docs/inspector-accuracy.md"

exit $bad
