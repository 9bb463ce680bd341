package lab

import (
	"context"
	"strings"
	"testing"
)

// What other programs leave in a gateway's kernel, in their own forms. None of it
// touches the lab's traffic, and all of it must stay as it is.
const (
	// dockerNFT is a table as container engines make it, and one whose name is like ours.
	dockerNFT = `table ip docker-bridges {
	map filter-forward-in-jumps {
		type ifname : verdict
		elements = { "docker0" : jump filter-forward-in__docker0 }
	}
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		iifname vmap @filter-forward-in-jumps
	}
	chain filter-forward-in__docker0 {
		ct state established,related counter accept
		iifname "docker0" counter accept
		counter drop
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.200.0.0/24 oifname != "docker0" counter masquerade
	}
}
table inet netpolicy2 {
	set alive { type nf_proto; elements = { ipv4 } }
	chain decide { meta mark 0x10000000 return; }
}
`
	// dockerChains are the same engines' chains, and mwan3's mark chains.
	dockerChains = `*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -j DOCKER
-A DOCKER -d LAN200.2 ! -i docker0 -o docker0 -p tcp -m tcp --dport 443 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*mangle
:mwan3_hook - [0:0]
:mwan3_rules - [0:0]
-A PREROUTING -j mwan3_hook
-A mwan3_hook -m mark --mark 0x0/0x3f00 -j mwan3_rules
-A mwan3_rules -d FAR -j MARK --set-xmark 0x100/0x3f00
COMMIT
`
	// otherRules are tailscale's ip rules, table and mark, and mwan3's range of
	// rules and its tables.
	otherRules = `
set -e
for f in -4 -6; do
  ip $f rule add pref 5210 fwmark 0x80000/0xff0000 lookup 52
  ip $f rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
  ip $f rule add pref 5250 fwmark 0x80000/0xff0000 unreachable
  ip $f rule add pref 5270 lookup 52
  ip $f rule add pref 1001 iif wan1 lookup 1
  ip $f rule add pref 1002 iif wan2 lookup 2
  ip $f rule add pref 2001 fwmark 0x100/0x3f00 lookup 1
  ip $f rule add pref 2002 fwmark 0x200/0x3f00 lookup 2
  ip $f rule add pref 2061 fwmark 0x3d00/0x3f00 blackhole
  ip $f rule add pref 2062 fwmark 0x3e00/0x3f00 unreachable
done
ip route add 10.128.0.0/16 dev lan table 52
ip -6 route add 2001:db8:5252::/48 dev lan table 52
for n in 1 2; do
  ip route add 10.77.0.0/24 dev lan table $n
  ip -6 route add 2001:db8:77::/64 dev lan table $n
done
ip route add default via 192.0.2.1 dev wan1 table 1
ip route add default via 192.0.2.129 dev wan2 table 2
ip -6 route add default via 2001:db8:1::1 dev wan1 table 1
ip -6 route add default via 2001:db8:2::1 dev wan2 table 2
ip route add unreachable 10.129.0.0/16 table 19999
`
)

// foreign puts into the gateway what Docker, tailscale and mwan3 have there.
func foreign(t *testing.T, l *Lab) {
	t.Helper()
	chains := func(far, lan string) string {
		return strings.NewReplacer("FAR", far, "LAN200.2", lan).Replace(dockerChains)
	}
	for _, c := range []struct {
		input string
		args  []string
	}{
		{dockerNFT, []string{"nft", "-f", "-"}},
		{chains("203.0.113.250/32", "10.200.0.2/32"), []string{"iptables-legacy-restore", "-w", "--noflush"}},
		{chains("2001:db8:cafe::250/128", "2001:db8:200::2/128"), []string{"ip6tables-legacy-restore", "-w", "--noflush"}},
		{otherRules, []string{"sh"}},
	} {
		if _, err := l.gw.run(context.Background(), c.input, c.args...); err != nil {
			t.Fatal(err)
		}
	}
}
