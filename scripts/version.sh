#!/usr/bin/env bash
# Prints the version of the checked-out commit, as Debian spells versions: the tag
# v1.2.3 is 1.2.3, a commit after it 1.2.3+git20261129.0123456789ab.
set -eu
cd "$(dirname "$0")/.."
if tag=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null); then
  version=${tag#v}
else
  tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || echo v0.0.0)
  version=${tag#v}+git$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d).$(git rev-parse --short=12 HEAD)
fi
[ -z "$(git status --porcelain --untracked-files=no)" ] || version=$version.changed
echo "$version"
