#!/usr/bin/env bash
# Installs what the build, the tests and the lab need and do not find. Only Debian
# as root can install; elsewhere it says what is missing and goes on: the tests
# that need it then skip with the reason.
set -eu

# command:package
needs="nft:nftables ip:iproute2 iptables-legacy:iptables ping:iputils-ping nsenter:util-linux ipset:ipset gcc:gcc ps:procps curl:curl openssl:openssl"
missing=""
for n in $needs; do
  command -v "${n%%:*}" >/dev/null 2>&1 || missing="$missing ${n##*:}"
done
command -v gcc >/dev/null 2>&1 || missing="$missing libc6-dev"
# A browser, for its hellos: some twenty seconds; without it the lab says that it is not there.
# The web interface's pages are looked at in it, also in Chinese.
browser=""
command -v chromium >/dev/null 2>&1 || browser=chromium
[ -n "$(fc-list :lang=zh 2>/dev/null)" ] || browser="$browser fonts-droid-fallback"
# What reads the metrics in a test: the program alone, for the package starts a server.
reader=""
command -v prometheus >/dev/null 2>&1 || reader=prometheus
[ -z "$missing$browser$reader" ] && exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "setup: missing and not installable here:$missing $browser $reader" >&2
  exit 0
fi
echo "setup: installing$missing $browser $reader"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
[ -z "$missing" ] || apt-get install -y -qq --no-install-recommends $missing >/dev/null
# shellcheck disable=SC2086
[ -z "$browser" ] || apt-get install -y -qq --no-install-recommends $browser >/dev/null || echo "setup: no $browser" >&2
[ -z "$reader" ] || (
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  chown _apt "$dir" # apt downloads as a user of its own
  cd "$dir"
  apt-get download -qq "$reader"
  dpkg-deb --fsys-tarfile "$reader"_*.deb | tar -x ./usr/bin/"$reader"
  install -m 755 usr/bin/"$reader" /usr/local/bin/"$reader"
) || echo "setup: no $reader" >&2
