#!/bin/sh
# Installs netpolicy from the folder that this script is in.
#
#   ./install.sh                 below /usr/local, with user, unit and first policy
#   PREFIX=/usr ./install.sh     elsewhere
#   DESTDIR=/mnt ./install.sh    into an image: makes no user, starts nothing
#
# It starts nothing and replaces no policy. ./uninstall.sh takes it back.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}

put() { # mode file target
	mkdir -p "$(dirname "$DESTDIR$3")"
	rm -f "$DESTDIR$3.new"
	cp "$here/$2" "$DESTDIR$3.new"
	chmod "$1" "$DESTDIR$3.new"
	mv -f "$DESTDIR$3.new" "$DESTDIR$3"
}
placed() { # mode file target: the same, with our folder for /usr
	put "$1" "$2" "$3"
	sed "s|/usr/sbin/netpolicyd|$PREFIX/sbin/netpolicyd|g; s|/usr/share/doc|$PREFIX/share/doc|g" "$here/$2" >"$DESTDIR$3"
}

if [ -z "$DESTDIR" ] && [ "$(id -u)" != 0 ]; then
	echo "install.sh: run as root, or with DESTDIR" >&2
	exit 1
fi

if [ -z "$DESTDIR" ]; then
	if ! getent group netpolicy >/dev/null 2>&1 && ! grep -q '^netpolicy:' /etc/group; then
		groupadd --system netpolicy 2>/dev/null || addgroup -S netpolicy
	fi
	if ! id netpolicy >/dev/null 2>&1; then
		useradd --system --gid netpolicy --no-create-home --home-dir /var/lib/netpolicy --shell /usr/sbin/nologin netpolicy 2>/dev/null ||
			adduser -S -D -H -h /var/lib/netpolicy -s /sbin/nologin -G netpolicy netpolicy
	fi
fi

put 0755 bin/netpolicy "$PREFIX/bin/netpolicy"
put 0755 sbin/netpolicyd "$PREFIX/sbin/netpolicyd"
put 0644 man/netpolicy.1 "$PREFIX/share/man/man1/netpolicy.1"
put 0644 man/netpolicyd.8 "$PREFIX/share/man/man8/netpolicyd.8"
put 0644 prometheus/netpolicy.rules.yml "$PREFIX/share/netpolicy/prometheus/netpolicy.rules.yml"
put 0644 grafana/netpolicy.json "$PREFIX/share/netpolicy/grafana/netpolicy.json"
for f in "$here"/doc/*; do
	put 0644 "doc/${f##*/}" "$PREFIX/share/doc/netpolicy/${f##*/}"
done
if [ -n "$DESTDIR" ] || [ -d /etc/systemd ]; then
	placed 0644 systemd/netpolicyd.service /etc/systemd/system/netpolicyd.service
	put 0644 systemd/netpolicy.tmpfiles /etc/tmpfiles.d/netpolicy.conf
fi
if [ -z "$DESTDIR" ] && command -v openrc-run >/dev/null 2>&1; then
	placed 0755 openrc/netpolicyd /etc/init.d/netpolicyd
fi
policy=/etc/netpolicy/policy.npl
if [ -e "$DESTDIR$policy" ]; then
	echo "kept $DESTDIR$policy"
else
	put 0660 policy.npl "$policy"
	chmod 0770 "$DESTDIR/etc/netpolicy"
	[ -n "$DESTDIR" ] || chgrp netpolicy /etc/netpolicy "$policy"
fi
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
	systemd-tmpfiles --create netpolicy.conf || true
	systemctl daemon-reload
	systemctl try-restart netpolicyd.service
fi
[ -n "$DESTDIR" ] || command -v nft >/dev/null 2>&1 || echo "note: the nft command is missing; netpolicyd needs it (package nftables)"
echo "installed. Next: netpolicy lint $policy, netpolicyd --config $policy --dry-run, then systemctl enable --now netpolicyd"
