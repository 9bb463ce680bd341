package doctor

import (
	"fmt"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/actions"
)

// Connection tracking is nearly full from these percents on.
const (
	fullWarning = 80
	fullError   = 95
)

// strict is rp_filter's value for RFC 3704 strict mode.
const strict = 1

// SysctlNames are what Look reads; DEV stands for each device.
var SysctlNames = []string{
	"net/ipv4/ip_forward",
	"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/DEV/rp_filter",
	"net/ipv4/conf/all/src_valid_mark", "net/ipv4/conf/DEV/src_valid_mark",
	"net/ipv6/conf/all/forwarding", "net/ipv6/conf/DEV/forwarding", "net/ipv6/conf/DEV/accept_ra",
	"net/netfilter/nf_conntrack_acct", "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max",
}

func (r *report) sysctls(f *Facts) {
	r.reversePath(f)
	r.forwarding(f)
	r.advertisements(f)
	r.conntrack(f)
}

// of returns a setting of a device: the greater of its own and that of all.
func (f *Facts) of(family, dev, name string) int {
	all, _ := f.sysctl("net/" + family + "/conf/all/" + name)
	own, _ := f.sysctl("net/" + family + "/conf/" + dev + "/" + name)
	return max(all, own)
}

// reversePath looks for devices on which strict filtering drops what is right: all
// uplinks but the one that the main table's best default route leads over.
func (r *report) reversePath(f *Facts) {
	devs := slices.DeleteFunc(r.uplinkDevs(f), func(dev string) bool { return f.link(dev) == nil })
	best := ""
	for _, d := range f.Host.Defaults {
		if d.Family == actions.IPv4 {
			best = d.Dev
			break
		}
	}
	var bad []string
	for _, dev := range devs {
		if dev != best && f.of("ipv4", dev, "rp_filter") == strict {
			bad = append(bad, dev)
		}
	}
	switch {
	case len(bad) > 0 && r.want.File != "":
		r.add("rp-filter-strict", Error, nil, "reverse path filtering is strict on %s", strings.Join(bad, ", "))
	case len(bad) > 0:
		r.add("rp-filter-strict", Warning, nil, "reverse path filtering is strict on %s", strings.Join(bad, ", "))
	case len(devs) > 0:
		r.add("rp-filter-strict", OK, nil, "not in the way on %s", strings.Join(devs, ", "))
	}
	var marked []string
	for _, l := range f.Host.Links {
		if l.Name != "lo" && f.of("ipv4", l.Name, "rp_filter") == strict && f.of("ipv4", l.Name, "src_valid_mark") != 0 {
			marked = append(marked, l.Name)
		}
	}
	if len(marked) > 0 {
		r.add("src-valid-mark-on", Warning, nil, "src_valid_mark is 1 and reverse path filtering strict on %s", strings.Join(marked, ", "))
	}
}

func (r *report) forwarding(f *Facts) {
	s := Info
	if r.want.Forwards {
		s = Warning
	}
	why := ""
	if r.want.Forwards {
		why = ", and rules ask for where a forwarded packet comes from"
	}
	switch n, ok := f.sysctl("net/ipv4/ip_forward"); {
	case ok && n == 0:
		r.add("forwarding-off", s, nil, "net.ipv4.ip_forward is 0%s", why)
	case ok:
		r.add("forwarding-off", OK, nil, "net.ipv4.ip_forward is 1")
	}
	six := false
	for _, l := range f.Host.Links {
		six = six || global6(&l)
	}
	switch n, ok := f.sysctl("net/ipv6/conf/all/forwarding"); {
	case ok && n == 0 && six:
		r.add("forwarding6-off", s, nil, "net.ipv6.conf.all.forwarding is 0%s", why)
	case ok && n != 0:
		r.add("forwarding6-off", OK, nil, "net.ipv6.conf.all.forwarding is 1")
	}
}

// global6 reports whether the device has an IPv6 address that leads anywhere.
func global6(l *actions.Link) bool {
	for _, p := range l.Addrs {
		if a := p.Addr(); a.Is6() && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			return true
		}
	}
	return false
}

func (r *report) advertisements(f *Facts) {
	var list []string
	for _, dev := range r.uplinkDevs(f) {
		ra, ok := f.sysctl("net/ipv6/conf/" + dev + "/accept_ra")
		if ok && ra == 1 && f.Learned[dev] && f.of("ipv6", dev, "forwarding") != 0 {
			list = append(list, dev)
		}
	}
	if len(list) > 0 {
		r.add("accept-ra-forwarding", Warning, nil, "%s: the default route is learned, accept_ra is 1 and forwarding is on", strings.Join(list, ", "))
	}
}

func (r *report) conntrack(f *Facts) {
	count, ok := f.sysctl("net/netfilter/nf_conntrack_count")
	limit, ok2 := f.sysctl("net/netfilter/nf_conntrack_max")
	if ok && ok2 && limit > 0 {
		percent := int(int64(count) * 100 / int64(limit))
		s := OK
		switch {
		case percent >= fullError:
			s = Error
		case percent >= fullWarning:
			s = Warning
		}
		r.add("conntrack-full", s, nil, "%s", fmt.Sprintf("%d of %d connections (%d %%)", count, limit, percent))
	}
	switch n, ok := f.sysctl("net/netfilter/nf_conntrack_acct"); {
	case ok && n == 0:
		s, why := Info, ""
		if r.want.Bytes {
			s, why = Warning, ", and the policy counts bytes"
		}
		r.add("conntrack-acct-off", s, nil, "net.netfilter.nf_conntrack_acct is 0%s", why)
	case ok:
		r.add("conntrack-acct-off", OK, nil, "net.netfilter.nf_conntrack_acct is 1")
	}
}
