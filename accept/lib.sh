# shellcheck shell=bash
# What the acceptance scripts share: a clean checkout of HEAD to work in, and how a
# line is reported. A script sources it first: . "$(dirname "$0")/lib.sh"
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone -q "$root" "$work/netpolicy" || exit 1
[ -d "$root/../shared" ] && ln -s "$(cd "$root/../shared" && pwd)" "$work/shared"
cd "$work/netpolicy" || exit 1
full=${FULL:-}
part() { if [ -n "$full" ]; then echo "in full"; else echo "$1"; fi; }
bad=0
out=$work/out
report() { # status number text
  if [ "$1" = 0 ]; then echo "ok   $2 $3"; else echo "FAIL $2 $3"; bad=1; tail -n 40 "$out" | sed 's/^/     | /'; fi
}
figure() { grep -oE "$1" "$out" | tail -n 1; }
# gotest PACKAGE PATTERN [FLAG...] runs tests and fails when none ran or one was skipped.
gotest() {
  local pkg=$1 pattern=$2 log=$work/log
  shift 2
  go test -count=1 -v -run "$pattern" "$pkg" "$@" >"$log" 2>&1
  local s=$?
  cat "$log" >>"$out"
  [ $s = 0 ] && grep -q -- '--- PASS' "$log" && ! grep -q -- '--- SKIP' "$log"
}
