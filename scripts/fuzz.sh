#!/usr/bin/env bash
# Runs the fuzz targets of the packages named as arguments, or of all, for
# FUZZTIME (default 2m) each, one after the other. A finding is written to the
# package's testdata/fuzz and fails the run.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
while IFS=: read -r file target; do
  dir=$(dirname "$file")
  case " ${*:-$dir} " in *" $dir "*) ;; *) continue ;; esac
  echo "== $dir ${target#func } ${FUZZTIME:-2m}"
  if said=$(go test "./$dir" -run '^$' -fuzz "^${target#func }\$" -fuzztime "${FUZZTIME:-2m}" -fuzzminimizetime 10x 2>&1); then
    tail -n 2 <<<"$said"
  else
    tail -n 60 <<<"$said"
    status=1
  fi
done < <(git grep -oE --no-color '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go')
exit $status
