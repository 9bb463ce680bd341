package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// Watched are the programs whose running matters, by their name in /proc (cut
// off at 15 bytes there).
var Watched = []string{
	"NetworkManager", "calico-node", "clash", "clash-meta", "dae", "dockerd", "fail2ban-server", "firewalld", "k3s-server",
	"kube-proxy", "kubelet", "mihomo", "mwan3rtmon", "mwan3track", "sing-box", "systemd-network", "tailscaled", "verge-mihomo",
}

// managers reports other programs that change routing or packet filters.
func (r *report) managers(f *Facts) {
	for _, m := range []struct {
		id    string
		signs []string
	}{
		{"manager-docker", f.signs([]string{"dockerd"}, []string{"docker0"}, "DOCKER")},
		{"manager-kubernetes", f.signs([]string{"kubelet", "kube-proxy", "k3s-server"}, nil, "KUBE-")},
		{"manager-calico", f.signs([]string{"calico-node"}, []string{"vxlan.calico"}, "cali-")},
		{"manager-ufw", append(f.signs(nil, nil, "ufw-", "ufw6-"), sign(f.UFW, "enabled at boot")...)},
		{"manager-firewalld", f.signs([]string{"firewalld"}, nil, "firewalld")},
		{"manager-tailscale", append(f.signs([]string{"tailscaled"}, []string{"tailscale0"}, "ts-"), f.rulesOf("tailscale")...)},
		{"manager-mwan3", append(f.signs([]string{"mwan3track", "mwan3rtmon"}, nil, "mwan3_"), f.rulesOf("mwan3")...)},
		{"manager-dae", append(f.signs([]string{"dae"}, []string{"dae0"}), f.rulesOf("dae")...)},
		{"manager-wg-quick", append(f.signs(nil, nil, "wg-quick"), f.rulesOf("wg-quick")...)},
		{"manager-networkmanager", f.signs([]string{"NetworkManager"}, nil)},
		{"manager-networkd", f.signs([]string{"systemd-network"}, nil)},
		{"manager-fail2ban", f.signs([]string{"fail2ban-server"}, nil, "f2b-")},
	} {
		if len(m.signs) > 0 {
			r.add(m.id, lookup(m.id).Worst, nil, "%s", strings.Join(m.signs, ", "))
		}
	}
	tun := append(f.signs([]string{"mihomo", "clash", "clash-meta", "verge-mihomo", "sing-box"}, nil, "sing-box", "mihomo"), f.rulesOf("a TUN proxy")...)
	if len(tun) > 0 {
		s := Info // it runs; as long as it has no rules it takes nothing
		if len(f.rulesOf("a TUN proxy")) > 0 {
			s = Warning
		}
		r.add("manager-tun-proxy", s, nil, "%s", strings.Join(tun, ", "))
	}
	if f.runs("systemd-network") && (f.ForeignRules != "no" || f.ForeignRoutes != "no") {
		r.add("networkd-foreign-rules", Warning, nil, "systemd-networkd runs with ManageForeignRoutingPolicyRules=%s, ManageForeignRoutes=%s",
			orYes(f.ForeignRules), orYes(f.ForeignRoutes))
	}
}

// orYes is the setting, or systemd's default.
func orYes(s string) string {
	if s == "" {
		return "yes (the default)"
	}
	return s
}

func sign(holds bool, text string) []string {
	if !holds {
		return nil
	}
	return []string{text}
}

// signs are what tells of a program: its processes, devices and chains.
func (f *Facts) signs(processes, links []string, chains ...string) []string {
	var list []string
	for _, p := range processes {
		list = append(list, sign(f.runs(p), p+" runs")...)
	}
	for _, l := range links {
		list = append(list, sign(f.link(l) != nil, "device "+l)...)
	}
	if c := f.chained(chains...); c != "" {
		list = append(list, "chain "+c)
	}
	return list
}

// rulesOf tells of the ip rules that look like the program's.
func (f *Facts) rulesOf(owner string) []string {
	var priorities []int
	for i := range f.Rules {
		if r := &f.Rules[i]; f.foreign(r) && ownerOfRule(r) == owner {
			priorities = append(priorities, r.Priority)
		}
	}
	switch {
	case len(priorities) == 0:
		return nil
	case len(priorities) == 1:
		return []string{fmt.Sprintf("ip rule %d", priorities[0])}
	default:
		return []string{fmt.Sprintf("ip rules %d to %d", slices.Min(priorities), slices.Max(priorities))}
	}
}
