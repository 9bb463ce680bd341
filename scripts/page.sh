#!/usr/bin/env bash
# Builds the Xray generator as a page that needs no server, into web/dist-page: the
# same page as in the web interface, with its core as WebAssembly. Serve the folder
# from anywhere.
set -eu
cd "$(dirname "$0")/.."
[ web/node_modules/.package-lock.json -nt web/package-lock.json ] || (cd web && npm ci --no-audit --no-fund)
(cd web && npx vite build --config vite.page.ts --logLevel warn)
GOOS=js GOARCH=wasm go build -trimpath -ldflags '-s -w' -o web/dist-page/generator.wasm ./cmd/generator-wasm
cp "$(go env GOROOT)/lib/wasm/wasm_exec.js" web/dist-page/
echo "page: web/dist-page, $(du -sh web/dist-page | cut -f1)"
