package rules

import "netpolicy.dev/netpolicy/state"

// StateConfig returns what the health machine needs to know of the policy. The
// slices are the caller's.
func (p *Policy) StateConfig() state.Config {
	cfg := state.Config{Primary: p.Primary}
	for i := range p.Uplinks {
		cfg.Uplinks = append(cfg.Uplinks, p.Uplinks[i].Health)
	}
	for i := range p.Groups {
		g := &p.Groups[i]
		gc := state.GroupConfig{Name: g.Name, Select: g.Strategy == LowestLatency, Tolerance: g.Tolerance, MinHold: g.MinHold}
		for _, m := range g.Members {
			uplink := -1
			if r := &p.Routes[m]; r.Kind == RouteUplink || r.Kind == RouteOther {
				uplink = r.Uplink
			}
			gc.Members = append(gc.Members, uplink)
		}
		cfg.Groups = append(cfg.Groups, gc)
	}
	return cfg
}
