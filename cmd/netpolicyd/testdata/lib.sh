# What the scripts share; each sets $daemon to the process id of its daemon.

# await runs a command until it succeeds, and gives up when the daemon, or before there is
# one the other end, has ended, or after very many tries.
await() {
	local n
	for ((n = 0; n < 5000; n++)); do
		if "$@"; then return; fi
		kill -0 ${daemon:-$peer} || break
		sleep 0.05
	done
	echo "never: $*" >&2
	exit 1
}
# says succeeds when what the API answers has a text that matches.
says() { api "$1" | grep -q "$2"; }
# neighbour makes a namespace for the other end, as $peer, that the script's end ends.
neighbour() {
	unshare -n sleep 1h & peer=$!
	trap 'kill $peer; kill -9 $daemon 2>/dev/null || true' EXIT
	until [ "$(readlink /proc/$peer/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do kill -0 $peer; sleep 0.01; done
	# A SYN without an answer is given up by the kernel after some seconds: who dials
	# needs no clock of its own.
	echo 1 >/proc/sys/net/ipv4/tcp_syn_retries
}
# dialled says what comes of a connection to a port of 203.0.113.9. It is forbidden where
# connect(2) itself fails for what is certain to be blocked.
dialled() {
	if bash -c "exec 3<>/dev/tcp/203.0.113.9/$1" 2>err.txt; then echo open
	elif grep -q refused err.txt; then echo refused
	elif grep -q 'not permitted' err.txt; then echo forbidden
	else echo silent; fi
}
# host is what others may look at, without what the kernel itself changes as time goes by.
host() { nft list ruleset; ip rule; ip -6 rule; ip route show table all proto 117; ip -6 route show table all proto 117; }
