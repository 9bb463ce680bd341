package doctor

import (
	"slices"
	"strings"
)

// privileges says whether this process could look and enforce.
func (r *report) privileges(f *Facts) {
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{{capNetAdmin, "CAP_NET_ADMIN"}, {capNetRaw, "CAP_NET_RAW"}} {
		if !f.User.has(c.bit) {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		r.add("privileges", Warning, missing, "user %d, without capabilities that netpolicyd needs", f.User.UID)
		return
	}
	with := "CAP_NET_ADMIN and CAP_NET_RAW"
	if f.User.has(capBPF) && f.User.has(capPerfmon) {
		with = "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON"
	}
	r.add("privileges", OK, nil, "user %d, with %s", f.User.UID, with)
}

// unknown reports what could not be looked at.
func (r *report) unknown(f *Facts) {
	for _, n := range f.NotKnown {
		r.add("not-known", Warning, nil, "%s: not known because %s", n.What, n.Why)
	}
}

// kernel reports the features in the order of the catalogue, and those of which
// nobody knows together.
func (r *report) kernel(f *Facts) {
	var reasons []string
	unknown := map[string][]string{} // by reason
	for _, e := range catalogue {
		i := slices.IndexFunc(f.Features, func(ft Feature) bool { return ft.ID == e.ID })
		if e.Area != AreaKernel || i < 0 {
			continue
		}
		ft := &f.Features[i]
		name := featureNames[ft.ID]
		switch ft.Answer {
		case Yes:
			r.add(ft.ID, OK, nil, "%s: there (%s)", name, ft.How)
		case No:
			s := e.Worst
			if !r.wants(ft.ID) {
				s = min(s, Info)
			}
			r.add(ft.ID, s, nil, "%s: not there (%s: %s)", name, ft.How, ft.Why)
		default:
			if unknown[ft.Why] == nil {
				reasons = append(reasons, ft.Why)
			}
			unknown[ft.Why] = append(unknown[ft.Why], name)
		}
	}
	for _, why := range reasons {
		r.add("kernel-not-known", Info, nil, "%s: not known because %s", strings.Join(unknown[why], ", "), why)
	}
}

// wants reports whether the policy uses the feature. Without a policy it may.
func (r *report) wants(id string) bool {
	if r.want.File == "" {
		return true
	}
	switch id {
	case "kernel-htb", "kernel-tbf", "kernel-ifb", "kernel-u32", "kernel-clsact", "kernel-mirred":
		return r.want.Throttles
	case "kernel-ct-label":
		return r.want.Labels
	case "kernel-masquerade":
		return r.want.Masquerade
	default:
		return true
	}
}

// featureNames are what people call the features.
var featureNames = map[string]string{
	"kernel-nf-tables": "nf_tables", "kernel-nft-inet": "nftables tables of family inet", "kernel-ct-mark": "connection marks",
	"kernel-ct-label": "connection labels", "kernel-jhash": "nftables jhash", "kernel-fib": "nftables fib",
	"kernel-reject": "nftables reject", "kernel-masquerade": "nftables masquerade", "kernel-nflog": "nfnetlink_log",
	"kernel-nft-queue": "nftables queue", "kernel-xt-nfqueue": "NFQUEUE of iptables-legacy", "kernel-ipset": "ipset",
	"kernel-htb": "tc htb", "kernel-tbf": "tc tbf", "kernel-ifb": "ifb devices", "kernel-u32": "tc u32", "kernel-clsact": "tc clsact", "kernel-mirred": "tc mirred",
	"kernel-tproxy": "nftables tproxy", "kernel-flowtable": "flowtables", "kernel-policy-routing": "ip rules on marks",
	"kernel-ipv6": "IPv6", "kernel-conntrack-acct": "conntrack accounting", "kernel-cgroup2": "cgroup v2", "kernel-bpf": "BPF programs",
	"kernel-nft-owner": "nftables tables with an owner",
}
