package iproute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// Applier writes to the network namespace it was made in. It is safe for
// concurrent use as far as netlink.Handle is.
type Applier struct{ h *netlink.Handle }

// New opens a netlink socket in the current network namespace.
func New() (*Applier, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	return &Applier{h}, nil
}

// Close closes the socket.
func (a *Applier) Close() { a.h.Close() }

// Apply carries out the steps that concern rules and routes; others are an error. A route
// over a device that is down or gone is unix.ENETDOWN or unix.ENODEV.
func (a *Applier) Apply(ctx context.Context, steps []actions.Step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		switch s.Kind {
		case actions.AddRoute:
			err = a.addRoute(s.Route)
		case actions.DelRoute:
			err = a.delRoute(s.Route)
		case actions.AddRule:
			err = a.h.RuleAdd(rule(s.Rule))
			if errors.Is(err, unix.EEXIST) {
				err = nil
			}
		case actions.DelRule:
			err = a.h.RuleDel(rule(s.Rule))
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
				err = nil
			}
		default:
			err = errors.New("not a step of ip rules and routes")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func (a *Applier) addRoute(r actions.IPRoute) error {
	nr, err := a.route(r)
	if err != nil {
		return err
	}
	return a.h.RouteReplace(nr)
}

// delRoute removes the route; with its device everything on it is gone already.
func (a *Applier) delRoute(r actions.IPRoute) error {
	nr, err := a.route(r)
	if err == nil {
		err = a.h.RouteDel(nr)
	}
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func family(f actions.Family) int {
	if f == actions.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func rule(r actions.IPRule) *netlink.Rule {
	nr := netlink.NewRule()
	mask := r.Mask
	nr.Family, nr.Priority, nr.Mark, nr.Mask = family(r.Family), r.Priority, r.Mark, &mask
	nr.Table, nr.Protocol = int(r.Table), actions.RouteProto
	return nr
}

func (a *Applier) route(r actions.IPRoute) (*netlink.Route, error) {
	nr := &netlink.Route{
		Family: family(r.Family), Table: int(r.Table), Protocol: actions.RouteProto,
		Priority: int(r.Metric), Type: unix.RTN_UNICAST,
		Dst: &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), r.Dst.Addr().BitLen())},
	}
	if r.Unreachable {
		nr.Type = unix.RTN_UNREACHABLE
		return nr, nil
	}
	link, err := a.h.LinkByName(r.Dev)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		err = unix.ENODEV
	}
	if err != nil {
		return nil, fmt.Errorf("device %q: %w", r.Dev, err)
	}
	nr.LinkIndex = link.Attrs().Index
	if r.Local {
		nr.Type, nr.Scope = unix.RTN_LOCAL, netlink.SCOPE_HOST
		return nr, nil
	}
	if r.Gateway.IsValid() {
		nr.Gw = r.Gateway.AsSlice()
	} else {
		nr.Scope = netlink.SCOPE_LINK
	}
	if r.OnLink {
		nr.Flags = int(netlink.FLAG_ONLINK)
	}
	return nr, nil
}

// Rules returns the ip rules that carry our protocol number.
func (a *Applier) Rules() ([]actions.IPRule, error) {
	var list []actions.IPRule
	for _, f := range []actions.Family{actions.IPv4, actions.IPv6} {
		rules, err := a.h.RuleList(family(f))
		if err != nil {
			return nil, fmt.Errorf("list ip rules: %w", err)
		}
		for _, r := range rules {
			if r.Protocol != actions.RouteProto || r.Mask == nil {
				continue
			}
			list = append(list, actions.IPRule{Family: f, Priority: r.Priority, Mark: r.Mark, Mask: *r.Mask, Table: uint32(r.Table)})
		}
	}
	return list, nil
}

// Routes returns what is in the given tables, and how many routes there are not ours.
func (a *Applier) Routes(tables []uint32) (own []actions.IPRoute, foreign int, err error) {
	for _, t := range tables {
		for _, f := range []actions.Family{actions.IPv4, actions.IPv6} {
			routes, err := a.h.RouteListFiltered(family(f), &netlink.Route{Table: int(t)}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return nil, 0, fmt.Errorf("list routes of table %d: %w", t, err)
			}
			for i := range routes {
				if routes[i].Protocol != actions.RouteProto {
					foreign++
					continue
				}
				own = append(own, a.read(&routes[i], f, t))
			}
		}
	}
	return own, foreign, nil
}

// defaultMetric6 is IP6_RT_PRIO_USER: what the kernel makes of metric 0.
const defaultMetric6 = 1024

func (a *Applier) read(nr *netlink.Route, f actions.Family, t uint32) actions.IPRoute {
	r := actions.IPRoute{Family: f, Table: t, Metric: uint32(nr.Priority), Dst: prefix(nr.Dst, f)}
	if f == actions.IPv6 && r.Metric == defaultMetric6 {
		r.Metric = 0
	}
	if nr.Type == unix.RTN_UNREACHABLE {
		r.Unreachable = true
		return r
	}
	if link, err := a.h.LinkByIndex(nr.LinkIndex); err == nil {
		r.Dev = link.Attrs().Name
	}
	if gw, ok := netip.AddrFromSlice(nr.Gw); ok {
		r.Gateway = gw.Unmap()
	}
	r.OnLink = nr.Flags&int(netlink.FLAG_ONLINK) != 0
	r.Local = nr.Type == unix.RTN_LOCAL
	return r
}

// prefix reads a destination; none is the default route.
func prefix(n *net.IPNet, f actions.Family) netip.Prefix {
	if n == nil {
		if f == actions.IPv6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	if f == actions.IPv4 {
		addr = addr.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr, ones)
}

// working is a link that is up and can carry packets, as far as it can tell.
const working = unix.IFF_UP | unix.IFF_RUNNING

// ReadHost returns what plans need to know of the host, but for its users.
func (a *Applier) ReadHost() (actions.Host, error) {
	var h actions.Host
	links, err := a.h.LinkList()
	if err != nil {
		return h, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		at := l.Attrs()
		names[at.Index] = at.Name
		link := actions.Link{Name: at.Name, Index: at.Index, Up: at.RawFlags&working == working}
		addrs, err := a.h.AddrList(l, unix.AF_UNSPEC)
		if err != nil {
			return h, fmt.Errorf("list addresses of %s: %w", at.Name, err)
		}
		for _, ad := range addrs {
			ip, _ := netip.AddrFromSlice(ad.IP)
			ones, _ := ad.Mask.Size()
			link.Addrs = append(link.Addrs, netip.PrefixFrom(ip.Unmap(), ones))
		}
		h.Links = append(h.Links, link)
	}
	for _, f := range []actions.Family{actions.IPv4, actions.IPv6} {
		if err := a.readMain(&h, f, names); err != nil {
			return h, err
		}
	}
	return h, nil
}

// readMain takes defaults and connected prefixes from the main table.
func (a *Applier) readMain(h *actions.Host, f actions.Family, names map[int]string) error {
	routes, err := a.h.RouteListFiltered(family(f), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list main table: %w", err)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for i := range routes {
		r := &routes[i]
		if r.Type != unix.RTN_UNICAST {
			continue
		}
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
		}
		for _, hop := range hops {
			if dev := names[hop.LinkIndex]; dev != "" && dev != "lo" {
				addMain(h, f, prefix(r.Dst, f), dev, hop.Gw)
			}
		}
	}
	return nil
}

func addMain(h *actions.Host, f actions.Family, dst netip.Prefix, dev string, gateway net.IP) {
	gw, hasGateway := netip.AddrFromSlice(gateway)
	switch {
	case dst.Bits() == 0:
		h.Defaults = append(h.Defaults, actions.DefaultRoute{Dev: dev, Family: f, Gateway: gw.Unmap()})
	case !hasGateway && !dst.Addr().IsLinkLocalUnicast() && !dst.Addr().IsMulticast():
		h.Connected = append(h.Connected, actions.Connected{Prefix: dst, Dev: dev})
	}
}
