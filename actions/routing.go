package actions

import (
	"net/netip"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// way is a device with its gateways, or a foreign table.
type way struct {
	mark     uint32
	table    uint32
	foreign  bool // the table is the user's own
	dev      string
	gateways [2]netip.Addr // as declared
	learn    bool          // a gateway that is absent is the main table's
}

// routing plans the tables, and the ip rules that lead marked packets to them.
func (b *builder) routing() {
	p := b.plan
	done := map[string]bool{}
	for _, i := range leaves(b.policy) {
		r := &b.policy.Routes[i]
		key := wayOut(b.policy, r)
		if key == "" || done[key] {
			continue
		}
		done[key] = true
		n := p.IDs.Marks[key]
		w := way{mark: place(n, p.MarkMask), table: b.cfg.TableBase + n - 1}
		switch r.Kind {
		case rules.RouteUplink, rules.RouteOther:
			u := &b.policy.Uplinks[r.Uplink]
			w.dev, w.gateways, w.learn = u.Dev, u.Gateway, true
		case rules.RouteDev:
			w.dev, w.gateways = r.Dev, r.Gateway
		default:
			w.table, w.foreign = r.Table, true
		}
		for _, f := range []Family{IPv4, IPv6} {
			p.IPRules = append(p.IPRules, IPRule{
				Family: f, Priority: b.cfg.RulePriority + int(n) - 1,
				Mark: w.mark, Mask: p.MarkMask, Table: w.table,
			})
			if !w.foreign {
				p.IPRoutes = append(p.IPRoutes, b.tableRoutes(&w, f, r)...)
			}
		}
	}
}

// tableRoutes returns one family of a way's table: what is directly connected,
// the default over the device, and at the worst metric unreachable, so that a
// dead line does not leak into the main table.
func (b *builder) tableRoutes(w *way, f Family, r *rules.Route) []IPRoute {
	var list []IPRoute
	for _, c := range b.host.Connected {
		if c.Prefix.Addr().Is4() == (f == IPv4) && (c.Dev == w.dev || !b.isUplink(c.Dev)) && b.host.up(c.Dev) {
			list = append(list, IPRoute{Family: f, Table: w.table, Dst: c.Prefix.Masked(), Dev: c.Dev})
		}
	}
	any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	gateway := w.gateways[0]
	if f == IPv6 {
		any, gateway = netip.PrefixFrom(netip.IPv6Unspecified(), 0), w.gateways[1]
	}
	usable := gateway.IsValid()
	declared := usable
	switch learned, ok := b.host.gateway(w.dev, f); {
	case usable:
	case w.learn && ok:
		gateway, usable = learned, true
	case !w.learn && !w.gateways[0].IsValid() && !w.gateways[1].IsValid():
		usable = true // `via dev D`: straight out of the device
	}
	up := b.host.up(w.dev)
	if usable && up {
		list = append(list, IPRoute{Family: f, Table: w.table, Dst: any, Dev: w.dev, Gateway: gateway, OnLink: gateway.IsValid()})
	}
	if !up && f == IPv4 {
		b.lacks(diag.Hint, r.Span, "", "route %s: device %q is down or not there: its flows are unreachable until it comes up", r.Name, w.dev)
	} else if up && !usable && !declared && f == IPv4 && !w.gateways[1].IsValid() {
		b.lacks(diag.Hint, r.Span, "give `gateway`", "route %s: no IPv4 gateway on %q: IPv4 is unreachable over it", r.Name, w.dev)
	}
	return append(list, IPRoute{Family: f, Table: w.table, Dst: any, Unreachable: true, Metric: UnreachableMetric})
}

// isUplink reports whether dev is the device of an uplink.
func (b *builder) isUplink(dev string) bool {
	for i := range b.policy.Uplinks {
		if b.policy.Uplinks[i].Dev == dev {
			return true
		}
	}
	return false
}
