#!/usr/bin/env bash
# Proves that HEAD builds to the same bytes in two folders of different names and
# depths. ARCH names the architectures (amd64). With FULL=1 it is both, and the second
# build compiles everything anew, with a cache of its own.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export ARCH=${ARCH:-amd64}
[ -z "${FULL:-}" ] || ARCH=amd64,arm64
for dir in a "b/another folder/of the same"; do
  mkdir -p "$work/$dir"
  git clone -q --no-hardlinks . "$work/$dir/netpolicy"
  (cd "$work/$dir/netpolicy" && umask 077 && TZ=Asia/Tokyo scripts/dist.sh)
  [ -z "${FULL:-}" ] || export GOCACHE="$work/cache"
done
one=$work/a/netpolicy/dist
two="$work/b/another folder/of the same/netpolicy/dist"
cat "$one/SHA256SUMS"
(cd "$one" && sha256sum --quiet -c SHA256SUMS)
diff -r "$one" "$two"
echo "the same bytes in both folders"
