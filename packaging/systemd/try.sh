#!/usr/bin/env bash
# Boots a copy of this machine (an overlay that ends with the script) with a systemd of
# its own in namespaces of its own, installs a package in it, and runs the service:
# start, reload, restart, kill, stop. So the unit's hardening is tried, not only read.
#
#   bash packaging/systemd/try.sh netpolicy_1.2.3_amd64.deb
#
# Exit code 77 means that it can't be tried here.
set -eu
skip() { echo "$*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "not root"
for c in systemctl dpkg adduser nft setpriv nsenter; do
  command -v "$c" >/dev/null || skip "$c is not installed"
done
! getent passwd netpolicy >/dev/null || skip "netpolicy is installed on this machine"
deb=$(realpath "$1")
unified=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
[ -n "$unified" ] || skip "no cgroup2"
group=$unified/netpolicy-try.$$
mkdir "$group" 2>/dev/null || skip "no cgroup can be made"
top=$(mktemp -d)
boot=
finish() {
  if [ -n "$boot" ]; then
    kill -KILL "$boot" 2>/dev/null || true # the first process of its namespace: all others end with it
    wait "$boot" 2>/dev/null || true
  fi
  for _ in $(seq 50); do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.1
  done
  rmdir "$top"
}
trap finish EXIT

# The outer shell of the namespaces: it mounts, and becomes the new systemd.
cat >"$top.sh" <<'INSIDE'
set -eu
top=$1 deb=$2
mount -t tmpfs none "$top"
mkdir "$top/upper" "$top/work" "$top/image"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/image"
cd "$top/image"
mount -t proc proc proc
# Only what belongs to this network namespace can be written.
mount --bind proc/sys/net proc/sys/net
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind /proc/sys/net proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 none dev
for n in null zero full random urandom tty; do
  touch "dev/$n"
  mount --bind "/dev/$n" "dev/$n"
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 none run
mount -t tmpfs none tmp
cp "$deb" netpolicy.deb
: >etc/fstab
echo try >etc/hostname
# Nothing of this machine's is started: only what the service needs.
for u in etc/systemd/system/*.wants; do rm -rf "$u"; done
cat >etc/systemd/system/try.target <<'U'
[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
U
exec setpriv --bounding-set=-sys_module,-sys_boot,-sys_time,-syslog,-sys_rawio \
  chroot . env -i container=try PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=try.target
INSIDE
(
  echo $BASHPID >"$group/cgroup.procs"
  exec unshare -mnpuiC --fork --kill-child bash "$top.sh" "$top" "$deb"
) >"$top.log" 2>&1 &
outer=$!
boot=$outer
inside() { nsenter -t "$first" -m -n -p -u -i -C -r -w -- "$@"; }
first=
for _ in $(seq 600); do
  kill -0 "$outer" 2>/dev/null || { cat "$top.log"; rm -f "$top.sh" "$top.log"; skip "systemd did not start"; }
  first=$(pgrep -P "$outer" | head -n 1 || true)
  [ -n "$first" ] && inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded' && break
  sleep 0.1
done
rm -f "$top.sh" "$top.log"
inside systemctl is-system-running | grep -E 'running|degraded' || skip "systemd did not come up"

inside bash -eu <<'INSIDE'
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
say() { systemctl show -p "$1" --value netpolicyd; }
failed() { journalctl -u netpolicyd --no-pager | tail -n 30; systemctl status --no-pager netpolicyd || true; exit 1; }
until_() { for _ in $(seq 600); do "$@" && return; sleep 0.1; done; failed; }
ip link set lo up
dpkg -i /netpolicy.deb
systemctl start netpolicyd || failed
echo "started: $(say ActiveState), $(say SubState), as $(ps -o user= -p "$(say MainPID)")"
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp_filters):' "/proc/$(say MainPID)/status"
netpolicy status | head -n 2
test "$(nft list tables)" = "table inet netpolicy"
journalctl -u netpolicyd --no-pager -o cat | grep -E '"level":"(WARN|ERROR)"' && failed
# What the hardening must not forbid: sysctls of interfaces, and the lock of legacy iptables.
caps=-all,+net_admin,+net_raw
nsenter -t "$(say MainPID)" -m -r -w setpriv --reuid netpolicy --regid netpolicy --clear-groups --no-new-privs --inh-caps "$caps" --ambient-caps "$caps" \
  bash -euc 'echo 2 >/proc/sys/net/ipv4/conf/lo/rp_filter; ! echo 0 >/proc/sys/kernel/panic; ! touch /etc/x; ! command -v iptables-legacy >/dev/null || iptables-legacy -w 5 -t raw -S >/dev/null' 2>/dev/null || failed
echo '# changed' >>/etc/netpolicy/policy.npl
systemctl reload netpolicyd
until_ test "$(say ActiveState)" = active
echo "reloaded"
# restart: the table is never gone. A watcher would see it deleted.
handle=$(nft -a list table inet netpolicy | grep -o 'handle [0-9]*$' | head -n 1)
(nft monitor >/tmp/monitor & echo $! >/tmp/monitor.pid)
sleep 0.5
systemctl restart netpolicyd || failed
kill "$(cat /tmp/monitor.pid)"
test "$(nft -a list table inet netpolicy | grep -o 'handle [0-9]*$' | head -n 1)" = "$handle"
! grep -q 'delete table inet netpolicy' /tmp/monitor
echo "restarted: the table stayed"
pid=$(say MainPID)
systemctl kill --signal=KILL --kill-whom=main netpolicyd
test "$(nft list tables)" = "table inet netpolicy"
until_ sh -c "test \"\$(systemctl show -p MainPID --value netpolicyd)\" != $pid && test \"\$(systemctl show -p ActiveState --value netpolicyd)\" = active"
test "$(nft -a list table inet netpolicy | grep -o 'handle [0-9]*$' | head -n 1)" = "$handle"
echo "killed: the table stayed, and the next start adopted it"
systemctl stop netpolicyd || failed
test -z "$(nft list tables)"
echo "stopped: nothing is left; result $(say Result)"
systemctl enable --now netpolicyd 2>/dev/null || failed
dpkg --purge netpolicy
test -z "$(nft list tables)"
echo "purged while it ran: nothing is left"
INSIDE
