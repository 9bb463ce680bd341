#!/usr/bin/env bash
# Installs a package into a copy of this machine that nobody else sees and that ends
# with the script (an overlay), runs what it installed as its unit would, crashes it,
# removes it and purges it. Run it in namespaces of its own:
#
#   unshare -mn bash packaging/deb/try.sh netpolicy_1.2.3_amd64.deb
#
# Exit code 77 means that it can't be tried here.
set -eu
deb=$(realpath "$1")
skip() { echo "$*"; exit 77; }
for c in dpkg adduser deluser nft setpriv chroot; do
  command -v "$c" >/dev/null || skip "$c is not installed"
done
! getent passwd netpolicy >/dev/null || skip "netpolicy is installed on this machine"

top=$(mktemp -d)
trap 'umount -l "$top"; rmdir "$top"' EXIT
mount -t tmpfs none "$top"
mkdir "$top/upper" "$top/work" "$top/image"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/image" || skip "no overlay file system"
mount -t proc proc "$top/image/proc"
mount --bind /dev "$top/image/dev"
mount -t tmpfs none "$top/image/run"
mount -t tmpfs none "$top/image/tmp"
cp "$deb" "$top/image/tmp/netpolicy.deb"
ip link set lo up

chroot "$top/image" bash -eu <<'INSIDE'
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
: >/tmp/before
nft list ruleset >/tmp/rules
dpkg -i /tmp/netpolicy.deb
dpkg --verify netpolicy # nothing has changed but what postinst may
id netpolicy
stat -c '%a %U:%G %n' /etc/netpolicy /etc/netpolicy/policy.npl /usr/sbin/netpolicyd
netpolicy lint /etc/netpolicy/policy.npl
test -s /usr/share/netpolicy/prometheus/netpolicy.rules.yml
test -s /usr/share/netpolicy/grafana/netpolicy.json
test "$(netpolicyd version)" = "netpolicyd v$(dpkg-query -W -f '${Version}' netpolicy)"
MANPAGER=cat man netpolicyd 2>/dev/null | head -n 5 || true

# What the unit's StateDirectory and RuntimeDirectory make, and how it starts.
install -d -m 700 -o netpolicy -g netpolicy /var/lib/netpolicy
install -d -m 755 -o netpolicy -g netpolicy /run/netpolicy
caps=-all,+net_admin,+net_raw,+bpf,+perfmon
setpriv --reuid netpolicy --regid netpolicy --clear-groups --no-new-privs \
  --bounding-set "$caps" --inh-caps "$caps" --ambient-caps "$caps" \
  netpolicyd --config /etc/netpolicy/policy.npl 2>/tmp/log &
daemon=$!
until netpolicy status >/tmp/status 2>&1; do
  kill -0 $daemon || { cat /tmp/log; exit 1; }
  sleep 0.1
done
head -n 2 /tmp/status
stat -c '%a %U:%G %n' /run/netpolicy/netpolicyd.sock
test "$(nft list tables)" = "table inet netpolicy"
kill -9 $daemon
wait $daemon || true

# Installed again, as an upgrade would: a policy that was changed stays.
echo '# ours' >>/etc/netpolicy/policy.npl
dpkg -i /tmp/netpolicy.deb
tail -n 1 /etc/netpolicy/policy.npl
stat -c '%a %U:%G %n' /etc/netpolicy/policy.npl
test "$(nft list tables)" = "table inet netpolicy" # the rules are on their own until the next start

dpkg --remove netpolicy
nft list ruleset | diff /tmp/rules - # removing cleaned up after the crash
test -e /etc/netpolicy/policy.npl
dpkg --purge netpolicy
! getent passwd netpolicy
! getent group netpolicy
# Where a package puts things: elsewhere others are at work, also with our name.
left() { find /etc /usr /var /run /opt /lib -xdev -newer /tmp/before -path '*netpolicy*' "$@"; }
left \( -type f -o -type d -empty \) | sed 's/^/left: /'
! left | grep -q .
INSIDE
echo "installed, run, removed and purged"
