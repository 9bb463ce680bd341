#!/usr/bin/env bash
# Runs the fuzz targets of the packages named as arguments, or of all, for
# FUZZTIME (default 2m) each, one on each processor at a time. A finding is
# written to the package's testdata/fuzz and fails the run.
set -uo pipefail
cd "$(dirname "$0")/.."
said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
# log is where a target's run is written: packages have targets of one name.
log() { echo "$said/${1//\//_}-$2"; }
attempt() {
  go test "./$1" -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-2m}" -fuzzminimizetime 10x -parallel 1 >"$(log "$@")" 2>&1
}
fuzz() { # folder target
  attempt "$@" && return
  # Where the machine is busy the tool can miss its own deadline and call that a
  # failure: without an input that fails it is none, and is run once more.
  grep -q 'context deadline exceeded' "$(log "$@")" && ! grep -q 'Failing input' "$(log "$@")" || return 1
  attempt "$@"
}
one() { # folder target
  local lines=2 status=0
  fuzz "$@" || { status=1; lines=60; }
  { echo "== $1 $2 ${FUZZTIME:-2m}"; tail -n "$lines" "$(log "$@")"; }
  return $status
}
status=0 running=0
while IFS=: read -r file target; do
  dir=$(dirname "$file")
  case " ${*:-$dir} " in *" $dir "*) ;; *) continue ;; esac
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n || status=1
    running=$((running - 1))
  fi
  one "$dir" "${target#func }" &
  running=$((running + 1))
done < <(git grep -oE --no-color '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go')
while [ "$running" -gt 0 ]; do
  wait -n || status=1
  running=$((running - 1))
done
exit $status
