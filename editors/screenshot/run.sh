#!/bin/sh
# Makes docs/editor-diagnostic.png. It needs Node.js 20, a C++ compiler (for the
# editor's native modules), chromium and Go; all else comes from npm.
set -eu
cd "$(dirname "$0")"
npm ci --ignore-scripts
npm rebuild argon2
(
	cd node_modules/code-server/lib/vscode
	npm install --omit=dev --ignore-scripts
	npm rebuild @vscode/spdlog
	ln -sfn node_modules node_modules.asar
)
(cd ../vscode && npm ci && npm run build)
node shot.mjs ../../docs/editor-diagnostic.png
