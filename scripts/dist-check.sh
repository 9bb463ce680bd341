#!/usr/bin/env bash
# Proves that HEAD builds to the same bytes in two folders of different names and
# depths. ARCH names the architectures (amd64). With FULL=1 they are both, and the second
# build compiles everything anew, with a cache of its own.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
full=${FULL:-}
export ARCH=${ARCH:-amd64${full:+,arm64}}
from=. # the second is a clone of the first: HEAD may move meanwhile
for dir in a "b/another folder/of the same"; do
  mkdir -p "$work/$dir"
  git clone -q --no-hardlinks "$from" "$work/$dir/netpolicy"
  (
    cd "$work/$dir/netpolicy"
    [ "$dir" = a ] || { umask 077; export TZ=Asia/Tokyo; }
    scripts/dist.sh
  )
  from=$work/$dir/netpolicy
  [ -z "$full" ] || export GOCACHE="$work/cache"
done
one=$work/a/netpolicy/dist
two="$work/b/another folder/of the same/netpolicy/dist"
cat "$one/SHA256SUMS"
(cd "$one" && sha256sum --quiet -c SHA256SUMS)
diff -r "$one" "$two"
echo "the same bytes in both folders"
