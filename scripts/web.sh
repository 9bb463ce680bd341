#!/usr/bin/env bash
# Makes web/dist, the web interface that is embedded in netpolicyd, anew. With
# --check it proves that the committed files are what the sources give, byte for
# byte, and runs the unit tests; it changes nothing then.
set -eu
cd "$(dirname "$0")/../web"
if ! command -v npm >/dev/null; then
  [ "${1-}" = --check ] || { echo "web: npm is not installed" >&2; exit 1; }
  echo "web: not checked: npm is not installed"
  exit 0
fi
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund
npm run check
if [ "${1-}" != --check ]; then
  exec npm run bundle
fi
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
npx vite build --logLevel warn --outDir "$made/dist"
diff -r dist "$made/dist" || { echo "web: web/dist is not what its sources give: run scripts/web.sh" >&2; exit 1; }
npm test
echo "web: the files are what their sources give"
