#!/usr/bin/env bash
# Drives every page of the web interface, and the generator's own page, in Debian's
# Chromium against a real netpolicyd in the lab. It needs root, for the lab, and npm.
# SHOTS=DIR writes the screenshots of the docs, SHOTS_ALL=DIR one of all that is
# measured. What is given are files of web/e2e instead of all, which take their time:
# every page in every language, and a real Xray.
set -eu
cd "$(dirname "$0")/.."
# Without a font for Chinese its texts are boxes of another width.
if ! command -v chromium >/dev/null || [ -z "$(fc-list :lang=zh)" ]; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "ui: Chromium or a font for Chinese is missing" >&2; exit 1; }
  echo "ui: installing chromium and fonts-droid-fallback"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium fonts-droid-fallback >/dev/null
fi
[ web/node_modules/.package-lock.json -nt web/package-lock.json ] || (cd web && npm ci --no-audit --no-fund)
make -s build
[ $# -gt 0 ] || set -- e2e/page.test.mjs e2e/ui.test.mjs e2e/crowd.test.mjs e2e/offline.test.mjs e2e/xray.test.mjs e2e/axe.test.mjs
case " $* " in *" e2e/page.test.mjs "*) scripts/page.sh ;; esac
case " $* " in *" e2e/xray.test.mjs "*)
  XRAY=$(go test -count=1 -v -run '^TestBinary$' ./internal/xraytest | sed -n 's/.* xray: //p')
  export XRAY
  [ -n "$XRAY" ] || { echo "ui: there is no Xray, and none can be built" >&2; exit 1; }
  ;;
esac
# One after the other: each has a browser, and the machine may have two cores.
cd web
exec node --test --test-concurrency=1 "$@"
