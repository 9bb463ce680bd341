package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/xtls/xray-core/app/router"
	"github.com/xtls/xray-core/common"
	"github.com/xtls/xray-core/common/log"
	xnet "github.com/xtls/xray-core/common/net"
	"github.com/xtls/xray-core/common/session"
	routing "github.com/xtls/xray-core/features/routing/session"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// xray asks Xray's router as its dispatcher does for a connection whose name was
// sniffed for routing only: the target is the address, the route target the name.
type xray struct {
	router router.Router
	conns  []xrayConn
	in     session.Inbound
	out    session.Outbound
	ctx    xrayContext
}

type xrayConn struct {
	source, target, name xnet.Destination
	sourceIPs, targetIPs []xnet.IP
}

// xrayContext is Xray's own context, but has the addresses as the router wants
// them. Xray's makes them anew for each rule that asks: two allocations, and a
// fifth to a third of the time, which is not the router's.
type xrayContext struct {
	routing.Context
	conn *xrayConn
}

func (c *xrayContext) GetSourceIPs() []xnet.IP { return c.conn.sourceIPs }
func (c *xrayContext) GetTargetIPs() []xnet.IP { return c.conn.targetIPs }

// silent drops log lines, as Xray does with those below the level that is set.
// Without a handler all of them go to the standard output.
type silent struct{}

func (silent) Handle(log.Message) {}

func newXray(list []workload.Rule) (measure.System, error) {
	log.RegisterHandler(silent{})
	config := &router.Config{}
	if isSet(list) {
		config.Rule = xraySet(list)
	} else {
		for i := range list {
			config.Rule = append(config.Rule, xrayRule(&list[i]))
		}
	}
	s := &xray{}
	if err := s.router.Init(context.Background(), config, nil, nil, nil); err != nil {
		return nil, err
	}
	s.ctx.Context = routing.Context{Inbound: &s.in, Outbound: &s.out}
	return s, nil
}

func (s *xray) Load(conns []workload.Conn) {
	s.conns = make([]xrayConn, len(conns))
	for i := range conns {
		c := &conns[i]
		x := xrayConn{
			source: xrayDestination(c, c.Src, c.SrcPort), target: xrayDestination(c, c.Dst, c.DstPort),
			sourceIPs: []xnet.IP{c.Src.AsSlice()}, targetIPs: []xnet.IP{c.Dst.AsSlice()},
		}
		if c.Name != "" {
			x.name = x.target
			x.name.Address = xnet.DomainAddress(c.Name)
		}
		s.conns[i] = x
	}
}

func (s *xray) Run(from, to int) int {
	sum := 0
	for i := from; i < to; i++ {
		sum += s.Decide(i)
	}
	return sum
}

func (s *xray) Decide(i int) int {
	c := &s.conns[i]
	s.in.Source, s.out.Target, s.out.RouteTarget, s.ctx.conn = c.source, c.target, c.name, c
	route, err := s.router.PickRoute(&s.ctx)
	if errors.Is(err, common.ErrNoClue) {
		return workload.NoMatch
	} else if err != nil {
		panic(err)
	}
	return untag(route.GetOutboundTag())
}

// xraySet is two rules, because the fields of one rule must all match.
func xraySet(list []workload.Rule) []*router.RoutingRule {
	names, nets := xrayTo(0), xrayTo(0)
	var cidrs []*router.CIDR
	for i := range list {
		if list[i].Name != "" {
			names.Domain = append(names.Domain, xrayDomain(&list[i]))
		} else {
			cidrs = append(cidrs, xrayCIDR(list[i].Dst))
		}
	}
	var out []*router.RoutingRule
	if names.Domain != nil {
		out = append(out, names)
	}
	if cidrs != nil {
		nets.Geoip = []*router.GeoIP{{Cidr: cidrs}}
		out = append(out, nets)
	}
	return out
}

func xrayTo(outcome int) *router.RoutingRule {
	return &router.RoutingRule{TargetTag: &router.RoutingRule_Tag{Tag: tag(outcome)}}
}

func xrayRule(r *workload.Rule) *router.RoutingRule {
	out := xrayTo(r.Outcome)
	if r.Name != "" {
		out.Domain = []*router.Domain{xrayDomain(r)}
	}
	if r.Dst.IsValid() {
		out.Geoip = []*router.GeoIP{{Cidr: []*router.CIDR{xrayCIDR(r.Dst)}}}
	}
	if r.Src.IsValid() {
		out.SourceGeoip = []*router.GeoIP{{Cidr: []*router.CIDR{xrayCIDR(r.Src)}}}
	}
	out.PortList, out.SourcePortList = xrayPorts(r.Ports), xrayPorts(r.SrcPorts)
	if r.Proto != 0 {
		out.Networks = []xnet.Network{xrayNetwork(r.Proto)}
	}
	return out
}

func xrayDomain(r *workload.Rule) *router.Domain {
	kind := router.Domain_Plain
	switch r.Kind {
	case rules.Exact:
		kind = router.Domain_Full
	case rules.Suffix:
		kind = router.Domain_Domain
	}
	return &router.Domain{Type: kind, Value: r.Name}
}

func xrayCIDR(p netip.Prefix) *router.CIDR {
	return &router.CIDR{Ip: p.Addr().AsSlice(), Prefix: uint32(p.Bits())}
}

func xrayPorts(list []rules.PortRange) *xnet.PortList {
	if list == nil {
		return nil
	}
	out := &xnet.PortList{}
	for _, r := range list {
		out.Range = append(out.Range, &xnet.PortRange{From: uint32(r.Lo), To: uint32(r.Hi)})
	}
	return out
}

func xrayNetwork(p flow.Proto) xnet.Network {
	if p == flow.UDP {
		return xnet.Network_UDP
	}
	return xnet.Network_TCP
}

func xrayDestination(c *workload.Conn, a netip.Addr, port uint16) xnet.Destination {
	return xnet.Destination{Network: xrayNetwork(c.Proto), Address: xnet.IPAddress(a.AsSlice()), Port: xnet.Port(port)}
}
