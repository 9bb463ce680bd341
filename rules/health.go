package rules

import (
	"time"

	"netpolicy.dev/netpolicy/state"
)

// Health returns what the state machine needs to know of the policy. Its
// uplinks and groups have the policy's order. An uplink without a probe has no
// interval: its health stays unknown.
func (p *Policy) Health() state.Config {
	cfg := state.Config{Primary: p.Primary}
	for _, u := range p.Uplinks {
		h := u.Health
		h.Name, h.Every = u.Name, u.Probe.Every
		switch {
		case u.Probe.Kind == ProbeNone:
			h.Every = 0
		case h.Every <= 0:
			h.Every = time.Second
		}
		cfg.Uplinks = append(cfg.Uplinks, h)
	}
	for _, g := range p.Groups {
		s := state.GroupConfig{Name: g.Name, Select: g.Strategy == LowestLatency, Tolerance: g.Tolerance, MinHold: g.MinHold}
		for _, m := range g.Members {
			s.Members = append(s.Members, p.uplinkOf(m, len(p.Groups)))
		}
		cfg.Groups = append(cfg.Groups, s)
	}
	return cfg
}

// uplinkOf is the uplink that stands for a route: its own, or that of a group's
// first member; -1 for none. depth bounds groups within groups.
func (p *Policy) uplinkOf(route, depth int) int {
	if route < 0 || route >= len(p.Routes) || depth < 0 {
		return -1
	}
	switch r := &p.Routes[route]; r.Kind {
	case RouteUplink, RouteOther:
		return r.Uplink
	case RouteGroup:
		if r.Group >= 0 && r.Group < len(p.Groups) && len(p.Groups[r.Group].Members) > 0 {
			return p.uplinkOf(p.Groups[r.Group].Members[0], depth-1)
		}
	}
	return -1
}
