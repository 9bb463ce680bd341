#!/usr/bin/env bash
# Drives every page of the web interface, and the generator's own page, in Debian's
# Chromium against a real netpolicyd in the lab. It needs root, for the lab, and npm.
# SHOTS=DIR writes the screenshots. What is given are files of web/e2e instead of all.
set -eu
cd "$(dirname "$0")/.."
if ! command -v chromium >/dev/null; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "ui: Chromium is missing" >&2; exit 1; }
  echo "ui: installing chromium"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
[ web/node_modules/.package-lock.json -nt web/package-lock.json ] || (cd web && npm ci --no-audit --no-fund)
make -s build
[ $# -gt 0 ] || set -- e2e/page.test.mjs e2e/ui.test.mjs
case " $* " in *" e2e/page.test.mjs "*) scripts/page.sh ;; esac
# One after the other: each has a browser, and the machine may have two cores.
cd web
exec node --test --test-concurrency=1 "$@"
