#!/bin/sh
# Takes back what install.sh did. The policy, the state and the user stay, unless
# --purge is given.
set -eu
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
purge=
case ${1:-} in
'') ;;
--purge) purge=yes ;;
*)
	echo "usage: uninstall.sh [--purge]" >&2
	exit 2
	;;
esac
if [ -z "$DESTDIR" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "uninstall.sh: run as root, or with DESTDIR" >&2
		exit 1
	fi
	if [ -d /run/systemd/system ] && [ -e /etc/systemd/system/netpolicyd.service ]; then
		systemctl disable --now netpolicyd.service
	elif command -v rc-service >/dev/null 2>&1 && [ -e /etc/init.d/netpolicyd ]; then
		rc-service netpolicyd stop || true
		rc-update del netpolicyd || true
	fi
	# Also what a crashed or killed daemon left in the kernel.
	if [ -d /var/lib/netpolicy ] && [ -x "$PREFIX/sbin/netpolicyd" ]; then
		"$PREFIX/sbin/netpolicyd" cleanup
	fi
fi
rm -f "$DESTDIR$PREFIX/bin/netpolicy" "$DESTDIR$PREFIX/sbin/netpolicyd" \
	"$DESTDIR$PREFIX/share/man/man1/netpolicy.1" "$DESTDIR$PREFIX/share/man/man8/netpolicyd.8" \
	"$DESTDIR/etc/systemd/system/netpolicyd.service" "$DESTDIR/etc/tmpfiles.d/netpolicy.conf" "$DESTDIR/etc/init.d/netpolicyd"
rm -rf "$DESTDIR$PREFIX/share/doc/netpolicy" "$DESTDIR$PREFIX/share/netpolicy"
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ -n "$purge" ]; then
	rm -rf "$DESTDIR/etc/netpolicy" "$DESTDIR/var/lib/netpolicy" "$DESTDIR/var/log/netpolicyd.log"
	if [ -z "$DESTDIR" ]; then
		userdel netpolicy 2>/dev/null || deluser netpolicy 2>/dev/null || true
		groupdel netpolicy 2>/dev/null || delgroup netpolicy 2>/dev/null || true
	fi
fi
echo "removed"
