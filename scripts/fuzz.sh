#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 2m), one after the other. A
# finding is written to the package's testdata/fuzz and fails the run.
set -eu
cd "$(dirname "$0")/.."
time=${FUZZTIME:-2m}
grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
  grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | awk '{print $2}' | while read -r target; do
    echo "== $(dirname "$file") $target $time"
    go test "$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" </dev/null | tail -n 3
  done
done
