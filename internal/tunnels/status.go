package tunnels

import (
	"slices"

	"netpolicy.dev/netpolicy/internal/api"
)

// Status returns what there is to know now, without secrets.
func (t *Tunnels) Status() api.Xray {
	st := t.xray.Status()
	t.mu.Lock()
	defer t.mu.Unlock()
	out := api.Xray{
		State: st.State.String(), Since: st.Since, Version: t.version, PID: st.PID, Adopted: st.Adopted, StoppedByUser: st.ByUser,
		Restarts: st.Restarts, Reason: st.Reason, Next: st.Next, Memory: st.Memory, CPUms: st.CPU.Milliseconds(),
		Problems: slices.Clone(t.problems), Routes: []api.XrayRoute{},
	}
	if t.problem != "" {
		out.Problems = append(out.Problems, t.problem)
	}
	for _, r := range t.wanted {
		i := slices.IndexFunc(t.groups, func(g group) bool { return g.Name == r.Name })
		one := api.XrayRoute{Route: r.Name, Proxy: r.Profile, Proxies: []api.XrayProxy{}}
		if i >= 0 {
			g := &t.groups[i]
			one.Listen = g.server.At.String()
			for _, m := range g.members {
				p := api.XrayProxy{Name: m.name, Address: m.address, Used: m.tag == g.current, Chosen: m.tag == g.chosen, Alive: "unknown"}
				switch {
				case m.seen && m.alive:
					p.Alive, p.DelayMS = "true", m.delay.Milliseconds()
				case m.seen:
					p.Alive = "false"
				}
				one.Proxies = append(one.Proxies, p)
			}
		}
		out.Routes = append(out.Routes, one)
	}
	return out
}
