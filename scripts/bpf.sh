#!/usr/bin/env bash
# Makes the BPF objects of inspector/ebpf anew. With --check it proves that the
# committed ones are what the sources give, and puts them back when they are not.
# Another version of clang gives other bytes: then --check says so, and passes.
set -eu
cd "$(dirname "$0")/.."
want=14.0.6 # Debian 12's
dir=inspector/ebpf

missing=""
command -v clang >/dev/null || missing="$missing clang"
command -v llvm-strip >/dev/null || missing="$missing llvm"
[ -e /usr/include/bpf/bpf_helpers.h ] || missing="$missing libbpf-dev"
[ -e /usr/include/linux/bpf.h ] || missing="$missing linux-libc-dev"
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "bpf: installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing >/dev/null
  missing=""
fi
version=$(clang --version 2>/dev/null | sed -n 's/.*clang version \([0-9.]*\).*/\1/p' | head -n 1)

if [ "${1-}" != --check ]; then
  [ -z "$missing" ] || { echo "bpf: missing:$missing" >&2; exit 1; }
  [ "$version" = "$want" ] || echo "bpf: clang is $version, and --check wants $want: record it in scripts/bpf.sh" >&2
  exec go generate ./$dir
fi
if [ -n "$missing" ] || [ "$version" != "$want" ]; then
  echo "bpf: not checked: it takes clang $want with llvm, libbpf-dev and linux-libc-dev; here is clang ${version:-none}"
  exit 0
fi
old=$(mktemp -d)
trap 'cp "$old"/* $dir/; rm -rf "$old"' EXIT
cp $dir/observe_*_bpfel.* "$old"
go generate ./$dir
for f in "$old"/*; do
  cmp "$f" "$dir/$(basename "$f")" || { echo "bpf: $dir is not what its sources give: run scripts/bpf.sh" >&2; exit 1; }
done
echo "bpf: the objects are what their sources give"
