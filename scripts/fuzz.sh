#!/usr/bin/env bash
# Runs fuzz targets for FUZZTIME (default 2m) each, one after the other: those
# named as arguments, or all. A finding is written to the package's testdata/fuzz
# and fails the run.
set -eu
cd "$(dirname "$0")/.."
time=${FUZZTIME:-2m}
wanted=" $* "
status=0
while read -r file target; do
  if [ $# -gt 0 ] && [ "${wanted#* "$target" }" = "$wanted" ]; then continue; fi
  echo "== $(dirname "$file") $target $time"
  go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" | tail -n 3 || status=1
  [ "${PIPESTATUS[0]}" = 0 ] || status=1
done < <(git grep -hoE --no-color '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' >/dev/null 2>&1 &&
  git grep -oE --no-color '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed -E 's/:func / /')
exit $status
