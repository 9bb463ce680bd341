#!/usr/bin/env bash
# Builds what is released into dist/: tarballs, Debian packages, SBOMs, checksums.
# ARCH names the architectures, OUT another folder.
set -eu
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
exec go run ./packaging/dist -version "${VERSION:-$(scripts/version.sh)}" -arch "${ARCH:-amd64,arm64}" -out "${OUT:-dist}"
