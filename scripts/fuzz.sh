#!/usr/bin/env bash
# Runs the fuzz targets of the packages named as arguments, or of all, for
# FUZZTIME (default 2m) each, one after the other. A finding is written to the
# package's testdata/fuzz and fails the run.
set -uo pipefail
cd "$(dirname "$0")/.."
fuzz() {
  go test "./$1" -run '^$' -fuzz "^$2\$" -fuzztime "${FUZZTIME:-2m}" -fuzzminimizetime 10x 2>&1
}
status=0
while IFS=: read -r file target; do
  dir=$(dirname "$file")
  case " ${*:-$dir} " in *" $dir "*) ;; *) continue ;; esac
  echo "== $dir ${target#func } ${FUZZTIME:-2m}"
  said=$(fuzz "$dir" "${target#func }") || {
    # Where the machine is busy the tool can miss its own deadline and call that a
    # failure: without an input that fails it is none, and is run once more.
    if grep -q 'context deadline exceeded' <<<"$said" && ! grep -q 'Failing input' <<<"$said"; then
      echo "the deadline was missed, once more"
      said=$(fuzz "$dir" "${target#func }") || failed=1
    else
      failed=1
    fi
  }
  if [ -z "${failed:-}" ]; then
    tail -n 2 <<<"$said"
  else
    tail -n 60 <<<"$said"
    status=1
  fi
  failed=
done < <(git grep -oE --no-color '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go')
exit $status
