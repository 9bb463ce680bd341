package doctor

// Area is what a finding is about.
type Area string

// The areas, in the order of the report.
const (
	AreaPrivileges Area = "privileges"
	AreaKernel     Area = "kernel"
	AreaConflict   Area = "conflict"
	AreaSysctl     Area = "sysctl"
	AreaManager    Area = "manager"
	AreaPolicy     Area = "policy"
)

// Entry describes a finding. Its id never changes its meaning.
type Entry struct {
	ID   string
	Area Area
	// Worst is the severity at most.
	Worst     Severity
	Means     string
	Netpolicy string
	Help      string
}

// Catalogue returns all findings that there are, in the order of the report.
func Catalogue() []Entry { return catalogue }

func lookup(id string) Entry {
	for _, e := range catalogue {
		if e.ID == id {
			return e
		}
	}
	return Entry{ID: id}
}

const (
	throttleOff = "throttle falls back to an nftables limit where it can, which is less exact; see docs/actions.md."
	upgrade     = "Use a kernel that has it, or install the modules of your kernel (Debian: linux-image-amd64 and not -cloud; OpenWrt: kmod-*)."
	otherMask   = "Give netpolicy other bits (daemon.mark_mask), or the other program."
)

// catalogue is in the order of the report. What a kernel feature Means is what its absence does.
var catalogue = []Entry{
	{
		"privileges", AreaPrivileges, Warning,
		"Without CAP_NET_ADMIN neither rules nor routes can be read in full, or written; without CAP_NET_RAW names and probes are lost.",
		"netpolicyd refuses to start without CAP_NET_ADMIN. It needs no more than CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON.",
		"Run doctor as root, or as the user that netpolicyd runs as, with its capabilities.",
	},
	{
		"not-known", AreaPrivileges, Warning,
		"doctor could not look there, so it says nothing about it: a conflict may hide.",
		"netpolicyd looks again when it starts, and refuses to replace what is not its own.",
		"Run doctor as root, with the command that is missing installed.",
	},

	{
		"kernel-nf-tables", AreaKernel, Error, "Nothing can be enforced.",
		"netpolicyd refuses to start; with --observe it decides and logs.", upgrade,
	},
	{
		"kernel-nft-inet", AreaKernel, Error, "One table for IPv4 and IPv6 is not possible, so nothing can be enforced.",
		"netpolicyd refuses to start.", upgrade,
	},
	{
		"kernel-ct-mark", AreaKernel, Error, "A connection can't remember its route.",
		"netpolicyd refuses to start.", upgrade,
	},
	{
		"kernel-ct-label", AreaKernel, Warning, "A connection can't remember dscp and mark.",
		"Policies with `dscp` or `mark` are refused by the kernel when they are applied.", upgrade,
	},
	{
		"kernel-jhash", AreaKernel, Warning, "Flows can't be shared out by their hash: groups of kind weighted and hash, and RECOVERY.",
		"The kernel refuses the policy when a group is shared out.", upgrade,
	},
	{
		"kernel-fib", AreaKernel, Error, "Broadcasts can't be told apart.",
		"netpolicyd refuses to start.", upgrade,
	},
	{
		"kernel-reject", AreaKernel, Error, "Connections can't be refused, which every policy's table does with those that are ended.",
		"netpolicyd refuses to start.", upgrade,
	},
	{
		"kernel-masquerade", AreaKernel, Warning, "`daemon.masquerade` is not possible.",
		"A policy with masquerade is refused by the kernel; one without is not touched.", upgrade,
	},
	{
		"kernel-nflog", AreaKernel, Warning, "`log` of the kernel's own decisions is not possible.",
		"A policy with `log` is refused by the kernel.", upgrade,
	},
	{
		"kernel-nft-queue", AreaKernel, Info, "nftables can't hand first packets to the daemon.",
		"`enforce: consult` uses the NFQUEUE target of iptables instead; `enforce: static` needs neither.", upgrade,
	},
	{
		"kernel-xt-nfqueue", AreaKernel, Info, "iptables can't hand first packets to the daemon.",
		"`enforce: consult` uses nftables' queue if there is one, else it is refused.", upgrade,
	},
	{
		"kernel-ipset", AreaKernel, Info, "The iptables backend has no sets.",
		"The nftables backend, the default, does not need it.", upgrade,
	},
	{
		"kernel-htb", AreaKernel, Warning, "Throttles can't have classes.",
		throttleOff, upgrade,
	},
	{
		"kernel-tbf", AreaKernel, Info, "A device can't be shaped as a whole.",
		"netpolicy's throttles do not need it.", "Nothing needs to be done.",
	},
	{
		"kernel-ifb", AreaKernel, Info, "What comes in can't be shaped.",
		throttleOff, upgrade,
	},
	{
		"kernel-u32", AreaKernel, Info, "tc can't sort packets by their bytes.",
		"netpolicy's throttles do not need it.", "Nothing needs to be done.",
	},
	{
		"kernel-clsact", AreaKernel, Info, "Filters can't be hung into a device beside those of others.",
		throttleOff, upgrade,
	},
	{
		"kernel-mirred", AreaKernel, Info, "What comes in can't be led through another device to be shaped.",
		throttleOff, upgrade,
	},
	{
		"kernel-tproxy", AreaKernel, Info, "Connections can't be handed to a local relay without changing their addresses.",
		"`daemon.tproxy` does not work; clients that use the relay as a proxy (`daemon.relay`) don't need it.", upgrade,
	},
	{
		"kernel-flowtable", AreaKernel, Info, "Established connections can't take the fast path.",
		"netpolicy does not use it.", "Nothing needs to be done.",
	},
	{
		"kernel-policy-routing", AreaKernel, Error, "Marks can't choose a routing table.",
		"netpolicyd refuses to start.", upgrade,
	},
	{
		"kernel-ipv6", AreaKernel, Info, "This machine has no IPv6.",
		"Rules for IPv6 are planned and never match.", "Nothing needs to be done, unless there should be IPv6.",
	},
	{
		"kernel-conntrack-acct", AreaKernel, Info, "The kernel does not count the bytes of connections.",
		"Quotas and conn.bytes stay at nothing, and the daemon says so.", upgrade,
	},
	{
		"kernel-cgroup2", AreaKernel, Info, "Local connections can't be told by their cgroup.",
		"Rules on `cgroup` never match.", "Mount cgroup2 at /sys/fs/cgroup (systemd does so by default).",
	},
	{
		"kernel-bpf", AreaKernel, Info, "Local connections are found by polling, not at their beginning.",
		"The sources conntrack and sockdiag are used; the first packets of short connections may lack their process.",
		"Grant CAP_BPF and CAP_PERFMON, and use a kernel with CONFIG_BPF_SYSCALL; from 5.14 on round-trip times are read by " +
			"iter/bpf_sk_storage_map, or by iter/tcp and iter/udp. `netpolicy status` says which hooks serve.",
	},
	{
		"kernel-nft-owner", AreaKernel, Info, "Other programs can't be kept from changing netpolicy's table.",
		"What others remove is put back within seconds.", upgrade,
	},
	{
		"kernel-not-known", AreaKernel, Info,
		"Whether the kernel has these features could not be found out.",
		"netpolicyd finds out when it applies a policy: the kernel refuses what it can't do, and nothing is changed.",
		"Run doctor as root, which tries them.",
	},

	{
		"foreign-table", AreaConflict, Error,
		"Another program, or a netpolicyd with another state directory, has a table of the name netpolicy.",
		"netpolicyd refuses to start and leaves it as it is.",
		"Give --state-dir of the one that made it; if nobody needs it: netpolicyd cleanup with that directory, or nft delete table inet netpolicy.",
	},
	{
		"own-table", AreaConflict, OK, "", "", "",
	},
	{
		"leftover", AreaConflict, Warning,
		"They carry netpolicy's protocol number 117, and the ledger does not list them: a netpolicyd with another state directory made them.",
		"They stay as they are: what the ledger does not list is never removed.",
		"Run netpolicyd cleanup with that state directory, or delete them by hand.",
	},
	{
		"mark-mask-used", AreaConflict, Error,
		"Two programs write different things into the same bits of the packet mark: packets take wrong uplinks, or wrong paths of the other program.",
		"netpolicy writes its own bits only, in every packet of a flow that it has decided; it can't know who writes last.",
		otherMask,
	},
	{
		"mark-mask-overwritten", AreaConflict, Warning,
		"The rule sets the whole mark and with it netpolicy's bits. If it comes after netpolicy's chains (priority mangle) and before routing, the flow leaves by the main table.",
		"Every packet is marked anew at priority mangle; what comes later netpolicy can't mend.",
		"Have the other program set its own bits only: iptables --set-xmark VALUE/MASK, nft meta mark set meta mark & ~MASK | VALUE.",
	},
	{
		"mark-mask-compared", AreaConflict, Warning,
		"The rule compares the whole mark. A packet that netpolicy has marked does not match any more.",
		"netpolicy keeps all bits outside its mask, so a comparison under a mask goes on working.",
		"Give the other rule a mask: fwmark VALUE/MASK.",
	},
	{
		"mark-mask-free", AreaConflict, OK, "", "", "",
	},
	{
		"marks-of-others", AreaConflict, Info,
		"Other programs mark packets or connections, in other bits.",
		"Their bits are never written.", "Nothing needs to be done.",
	},
	{
		"ct-mask-used", AreaConflict, Error,
		"Two programs write different things into the same bits of the connection mark: flows lose their route, or are blocked.",
		"netpolicy writes its own bits only, once for each connection, and reads them ever after.",
		"Give netpolicy other bits (daemon.ct_mask), or the other program.",
	},
	{
		"ct-mask-overwritten", AreaConflict, Warning,
		"The rule sets the whole connection mark and with it the route that netpolicy remembers there: the flow's later packets leave by the main table, or by another route.",
		"netpolicy decides a connection by its first packet, and reads the mark ever after.",
		"Have the other program save its own bits only: CONNMARK --save-mark --nfmask MASK --ctmask MASK.",
	},
	{
		"ct-mask-free", AreaConflict, OK, "", "", "",
	},
	{
		"ct-label-used", AreaConflict, Error,
		"Connection labels 64 to 127 hold the dscp and mark of netpolicy's flows; another program uses some of them.",
		"The numbers are fixed. A policy without `dscp` and `mark` uses no labels.",
		"Give the other program labels below 64.",
	},
	{
		"table-block-used", AreaConflict, Error,
		"Routes of others are in the routing tables that netpolicy fills.",
		"netpolicyd refuses to start, and leaves them as they are.",
		"Choose another daemon.table_base.",
	},
	{
		"table-block-free", AreaConflict, OK, "", "", "",
	},
	{
		"rule-priority-used", AreaConflict, Warning,
		"Rules of others stand at the priorities of netpolicy's own: which of two comes first depends on who came last.",
		"netpolicy adds its rules beside them, and removes only its own.",
		"Choose another daemon.rule_priority.",
	},
	{
		"rule-before", AreaConflict, Warning,
		"The rule stands before netpolicy's and leads everything to a table with a default route: flows never get to netpolicy's rules, whatever the policy says.",
		"netpolicy's packets carry its mark; nothing else is done about the other rule.",
		"Give the other rule a later priority (after daemon.rule_priority + 6), or daemon.rule_priority an earlier one.",
	},
	{
		"rule-priority-free", AreaConflict, OK, "", "", "",
	},
	{
		"hook-order", AreaConflict, Info,
		"Chains of others see packets near netpolicy's (priority mangle, -150). What they drop netpolicy does not see; at equal priority the order is that of creation.",
		"netpolicy decides at -150, after connection tracking (-200) and before destination NAT (-100).",
		"Nothing needs to be done unless one of them marks packets in netpolicy's bits.",
	},
	{
		"qdisc-of-others", AreaConflict, Warning,
		"Somebody shapes or polices packets on the uplink already.",
		"A device's own queue stays what it is: throttled packets make a detour over an ifb device. That needs clsact on the device, whose place `ingress` takes.",
		"For throttles, use clsact in the place of `ingress`: its filters go on side by side.",
	},

	{
		"rp-filter-strict", AreaSysctl, Error,
		"The kernel drops what comes in by a line over which the main table would not answer: here the answers to all flows and probes that leave by these uplinks.",
		"netpolicy sets no sysctl. Answers carry no mark, so src_valid_mark=1 does not help.",
		"sysctl -w net.ipv4.conf.DEV.rp_filter=2 (the greater of DEV's and all's counts; all=2 is enough).",
	},
	{
		"src-valid-mark-on", AreaSysctl, Warning,
		"Strict reverse path filtering asks the table of the packet's mark where an answer would go. An uplink's table knows directly connected networks only: what comes from a network behind another router is dropped.",
		"netpolicy marks packets before that check.",
		"sysctl -w net.ipv4.conf.all.src_valid_mark=0 (wg-quick turns it on), or rp_filter=2.",
	},
	{
		"forwarding-off", AreaSysctl, Warning,
		"This machine does not forward IPv4: rules for other machines never see a packet.",
		"netpolicy sets no sysctl. Flows of this machine itself are decided as ever.",
		"For a gateway: sysctl -w net.ipv4.ip_forward=1.",
	},
	{
		"forwarding6-off", AreaSysctl, Warning,
		"This machine does not forward IPv6: rules for other machines never see an IPv6 packet.",
		"netpolicy sets no sysctl.",
		"For a gateway: sysctl -w net.ipv6.conf.all.forwarding=1, and accept_ra=2 on uplinks that learn their route.",
	},
	{
		"accept-ra-forwarding", AreaSysctl, Warning,
		"With forwarding on and accept_ra at 1 the kernel ignores router advertisements: the IPv6 default route runs out.",
		"Without a default route IPv6 is unreachable over this uplink; it does not leak to another.",
		"sysctl -w net.ipv6.conf.DEV.accept_ra=2, or let systemd-networkd or NetworkManager take them.",
	},
	{
		"conntrack-full", AreaSysctl, Error,
		"When the table of connections is full the kernel drops new connections, whatever the policy says.",
		"netpolicy follows at most 65,536 flows and is not the cause.",
		"sysctl -w net.netfilter.nf_conntrack_max to at least twice the count, and look for who opens them.",
	},
	{
		"conntrack-acct-off", AreaSysctl, Warning,
		"The kernel does not count the bytes of connections.",
		"Quotas and conn.bytes stay at nothing, and the daemon says so.",
		"sysctl -w net.netfilter.nf_conntrack_acct=1; it counts connections that begin after it.",
	},

	{
		"manager-docker", AreaManager, Info,
		"Docker has NAT and filter chains, bridges, and turns forwarding on with a policy of DROP in FORWARD.",
		"Containers are sources like any other: their flows are decided before Docker's destination NAT and after connection tracking. Docker's chains are not touched.",
		"Match containers by iface.in (docker0) or by src.ip (172.17.0.0/16).",
	},
	{
		"manager-kubernetes", AreaManager, Info,
		"Kubernetes marks packets with 0x4000 and 0x8000 in nat, and rewrites service addresses there.",
		"Those bits are never written. Flows to service addresses are decided by the service address when they come from pods.",
		"Exempt the pod and service networks from rules that route.",
	},
	{
		"manager-calico", AreaManager, Warning,
		"Calico takes its mark bits from 0xffff0000 by default (IptablesMarkMask), which are netpolicy's too.",
		"netpolicy writes its own bits only.",
		"Give Calico a smaller IptablesMarkMask, such as 0x0fff0000, or netpolicy another mark_mask.",
	},
	{
		"manager-ufw", AreaManager, Info,
		"ufw filters in the filter table, after netpolicy's decision.",
		"What ufw drops stays dropped, whatever route it was given. `ufw reload` does not touch netpolicy's table.",
		"Allow forwarding in ufw (DEFAULT_FORWARD_POLICY) for a gateway.",
	},
	{
		"manager-firewalld", AreaManager, Info,
		"firewalld filters in a table of its own, after netpolicy's decision.",
		"Its table is not touched. A reload of firewalld replaces its own table only; with its iptables backend it flushes iptables, too.",
		"Put uplinks and networks into zones that forward.",
	},
	{
		"manager-tailscale", AreaManager, Info,
		"tailscale marks packets in 0xff0000 and has ip rules at 5210 to 5270 before netpolicy's.",
		"Those bits are never written. What table 52 has a route for goes over tailscale; everything else comes to netpolicy's rules.",
		"An exit node gives table 52 a default route: then the policy routes nothing. Put routes via `dev tailscale0` into the policy instead.",
	},
	{
		"manager-mwan3", AreaManager, Warning,
		"mwan3 does what netpolicy does: it marks flows in 0x3f00 and has ip rules from 1001 on, before netpolicy's. Flows that it marks never come to netpolicy's rules.",
		"Both write different bits, so nothing breaks; but mwan3's rules win.",
		"Stop mwan3 when netpolicy takes over: `netpolicy import --from mwan3` reads its configuration.",
	},
	{
		"manager-dae", AreaManager, Warning,
		"dae takes connections with BPF before nftables sees them, and marks packets with 0x8000000.",
		"That bit is never written. What dae proxies leaves as connections of dae itself, which are decided as such.",
		"Route by the policy, or by dae, and not the same flows by both.",
	},
	{
		"manager-tun-proxy", AreaManager, Warning,
		"mihomo, Clash or sing-box leads traffic into a TUN device by ip rules before netpolicy's.",
		"What they take is not decided where it matters: it leaves as their own connections.",
		"Turn off auto-route (mihomo: tun.auto-route, sing-box: auto_route) and give netpolicy a route `via dev` of the TUN device.",
	},
	{
		"manager-wg-quick", AreaManager, Warning,
		"wg-quick has a rule that leads everything without its own mark into the tunnel, behind netpolicy's rules.",
		"Flows that netpolicy routes over an uplink go past the tunnel; those without a route, or with the route main, go through it.",
		"Set Table = off in the WireGuard configuration and give netpolicy a route `via dev` of that device.",
	},
	{
		"manager-networkmanager", AreaManager, Info,
		"NetworkManager sets addresses and default routes.",
		"Changes are noticed and the plan is made anew. It leaves rules and routes of others alone.",
		"Give every uplink its own metric, so that each keeps a default route.",
	},
	{
		"manager-networkd", AreaManager, Info,
		"systemd-networkd sets addresses and default routes.",
		"Changes are noticed and the plan is made anew.",
		"See networkd-foreign-rules.",
	},
	{
		"networkd-foreign-rules", AreaManager, Warning,
		"By default systemd-networkd removes ip rules and routes that it did not make, each time it starts or configures a device anew: policy routing stops until they are back.",
		"What is removed is put back within seconds; flows that begin in between leave by the main table.",
		"Write ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no under [Network] in /etc/systemd/networkd.conf.d/netpolicy.conf, and restart systemd-networkd.",
	},
	{
		"manager-fail2ban", AreaManager, Info,
		"fail2ban blocks addresses in chains of its own, after netpolicy's decision.",
		"Its chains are not touched, and what it blocks stays blocked.", "Nothing needs to be done.",
	},

	{
		"policy-none", AreaPolicy, Info,
		"No policy was given and no daemon answers: uplinks were not looked at, and the defaults of the daemon section are assumed.",
		"", "netpolicy doctor --config FILE",
	},
	{
		"uplink-missing", AreaPolicy, Error,
		"The device does not exist.",
		"The uplink is down: its flows are unreachable, or go where the group's fallback says, until the device comes.",
		"Mend the name (`ip link` lists them), or bring the device about.",
	},
	{
		"uplink-down", AreaPolicy, Warning,
		"The device is down, or has no carrier.",
		"The uplink is down until the device comes up, which is noticed at once.",
		"ip link set DEV up, and look at the cable.",
	},
	{
		"uplink-no-address", AreaPolicy, Warning,
		"The device has no address that packets could leave with.",
		"Packets of this machine over it get another device's address, or none.",
		"Configure it, or wait for DHCP.",
	},
	{
		"uplink-no-gateway", AreaPolicy, Warning,
		"Neither the policy nor the main table says by which gateway this uplink leaves.",
		"With neither, that family is unreachable over the uplink, which never leaks to another.",
		"Give `gateway` in the policy, or a default route on the device.",
	},
	{
		"uplink-ok", AreaPolicy, OK, "", "", "",
	},
	{
		"no-default-route", AreaPolicy, Warning,
		"The main table has no default route: what the policy does not route, and what this machine sends before the daemon starts, goes nowhere.",
		"Uplinks with a `gateway` in the policy work all the same.",
		"Add a default route.",
	},
	{
		"default-route-elsewhere", AreaPolicy, Info,
		"The main table's default route leads over a device that is no uplink of the policy.",
		"Flows that no rule routes, and the route main, leave by it, and its health is not measured.",
		"Declare it as an uplink, or give `default`.",
	},
	{
		"probe-unroutable", AreaPolicy, Warning,
		"The uplink has no way to this target: the probe fails always, and a line that fails all its probes is taken for dead.",
		"The other targets of the uplink are measured.",
		"Choose a target of a family that the uplink has.",
	},
	{
		"route-device-missing", AreaPolicy, Error,
		"The route's device does not exist.",
		"Its flows are unreachable until the device comes, and never leave in another way.",
		"Mend the name, or bring the device about (a VPN that is not up?).",
	},
	{
		"route-table-empty", AreaPolicy, Warning,
		"The routing table that the policy names has no default route: the rules after it, and the main table, decide.",
		"netpolicy writes nothing into tables of others.",
		"Fill the table, with `unreachable default` at the worst metric if nothing may leak.",
	},
	{
		"route-not-enforced", AreaPolicy, Warning,
		"Routes over xray and socks are carried out by the relay, and the policy has none.",
		"Their flows are rejected, so that nothing leaves in the clear (NP502).",
		"Give the daemon `relay` or `tproxy`, or use `via dev` of a TUN device, or `via mark`.",
	},
	{
		"not-in-use", AreaPolicy, Warning,
		"The daemon that runs does without this source or service, for the reason that is given.",
		"The policy is in force all the same; what failed is tried again, at least once a minute.",
		"Do away with the reason: `netpolicy status` shows when it works.",
	},
}
