package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/actions"
)

// policy looks at what the policy names.
func (r *report) policy(f *Facts) {
	if r.want.File == "" {
		r.add("policy-none", Info, nil, "no policy: %s", cmp.Or(r.want.Why, "none was given"))
	}
	for _, n := range r.want.NotInUse {
		r.add("not-in-use", Warning, nil, "%s: %s", n.Name, n.Why)
	}
	if !f.knows(WhatLinks) {
		return
	}
	for i := range r.want.Uplinks {
		r.uplink(f, &r.want.Uplinks[i])
	}
	r.defaults(f)
	for _, d := range r.want.Devices {
		if f.link(d.Dev) == nil {
			r.add("route-device-missing", Error, nil, "route %s: there is no device %q", d.Name, d.Dev)
		}
	}
	for _, t := range r.want.TableOf {
		if !f.knows(WhatRoutes) {
			break
		}
		var missing []string
		for _, family := range []actions.Family{actions.IPv4, actions.IPv6} {
			if found := f.table(family, t.Table); found == nil || !found.Default {
				missing = append(missing, familyName(family))
			}
		}
		if len(missing) > 0 {
			r.add("route-table-empty", Warning, nil, "route %s: table %d has no default route of %s", t.Name, t.Table, strings.Join(missing, " and "))
		}
	}
	for _, o := range r.want.Others {
		r.add("route-not-enforced", Warning, nil, "route %s via %s", o.Name, o.Other)
	}
}

func familyName(f actions.Family) string {
	if f == actions.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// uplink looks at one line: device, address, gateway, and whether its probe's
// targets can be reached at all.
func (r *report) uplink(f *Facts, u *Uplink) {
	link := f.link(u.Dev)
	if link == nil {
		r.add("uplink-missing", Error, nil, "uplink %s: there is no device %q", u.Name, u.Dev)
		return
	}
	before := len(r.list)
	if !link.Up {
		r.add("uplink-down", Warning, nil, "uplink %s: %s is down", u.Name, u.Dev)
	}
	addressed := slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() })
	if !addressed {
		r.add("uplink-no-address", Warning, nil, "uplink %s: %s has no address but link-local ones", u.Name, u.Dev)
	}
	var families []string
	var works [2]bool
	for i, family := range []actions.Family{actions.IPv4, actions.IPv6} {
		if works[i] = u.Gateway[i].IsValid() || hasDefault(f, u.Dev, family); works[i] {
			families = append(families, familyName(family))
		}
	}
	if len(families) == 0 {
		r.add("uplink-no-gateway", Warning, nil, "uplink %s: no gateway in the policy, and no default route on %s", u.Name, u.Dev)
	}
	var lost []string
	for _, t := range u.Targets {
		way := works[0]
		if t.Is6() {
			way = works[1]
		}
		connected := slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return p.Contains(t) })
		if !way && !connected {
			lost = append(lost, t.String())
		}
	}
	if len(lost) > 0 {
		r.add("probe-unroutable", Warning, lost, "uplink %s: %s of its probe without a way over %s", u.Name, plural(len(lost), "target"), u.Dev)
	}
	if len(r.list) == before {
		r.add("uplink-ok", OK, nil, "uplink %s: %s is up, with %s", u.Name, u.Dev, strings.Join(families, " and "))
	}
}

func hasDefault(f *Facts, dev string, family actions.Family) bool {
	return slices.ContainsFunc(f.Host.Defaults, func(d actions.DefaultRoute) bool { return d.Dev == dev && d.Family == family })
}

// defaults looks at where the main table leads.
func (r *report) defaults(f *Facts) {
	if len(f.Host.Defaults) == 0 {
		r.add("no-default-route", Warning, nil, "the main table has no default route")
		return
	}
	if len(r.want.Uplinks) == 0 {
		return
	}
	var others []string
	for _, d := range f.Host.Defaults {
		if !slices.Contains(r.uplinkDevs(f), d.Dev) {
			others = append(others, fmt.Sprintf("%s over %s", familyName(d.Family), d.Dev))
		}
	}
	if len(others) > 0 {
		r.add("default-route-elsewhere", Info, unique(others), "default routes over devices that are no uplinks")
	}
}
