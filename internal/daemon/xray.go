package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/internal/tunnels"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/process"
)

// xrayName is the Xray of the policy's routes as a source, in status.
const xrayName = "xray"

// defaultProbeEvery is how often each proxy is measured.
const defaultProbeEvery = 10 * time.Second

// xrayDir is where what we know of our Xray is kept, in the state directory.
func xrayDir(stateDir string) string { return filepath.Join(stateDir, "xray") }

// xray runs Xray for the routes of the policy in force, and no other. It is the loop's
// to call.
func (l *loop) xray(ctx context.Context) {
	p := l.core.live.policy
	routes := l.xrayRoutes()
	l.d.xrayRoutes.Store(&routes)
	if len(routes) == 0 || l.d.opts.Observe || l.d.opts.StateDir == "" {
		l.d.setTunnels(nil)
		l.stop(&l.tunnelled)
		l.core.tunnels(tunnels.Health{})
		return
	}
	// Other settings need another supervisor; Xray itself need not end for it.
	l.d.handOver.Store(true)
	l.become(ctx, &l.tunnelled, p.Daemon.Xray, func(ctx context.Context) {
		l.tunnelled.done.Go(func() { l.d.runXray(ctx, p.Daemon.Xray) })
	})
	l.d.handOver.Store(false)
	if t := l.d.tunnels.Load(); t != nil {
		t.Want(routes)
	}
}

// xrayRoutes are the routes via xray, which the relay carries out.
func (l *loop) xrayRoutes() (list []tunnels.Route) {
	p := l.core.live.policy
	if !p.Daemon.Relay.Used() {
		return nil
	}
	for i := range p.Routes {
		r := &p.Routes[i]
		name, ok := r.Xray()
		if !ok {
			continue
		}
		// What Xray sends must not be decided again, or it comes back to Xray.
		mark := l.plan.Bypass()
		if r.Uplink >= 0 {
			if mark, ok = l.plan.UplinkMark(p.Uplinks[r.Uplink].Name); !ok {
				continue // no way over its line: blocked, rather than over another
			}
		}
		list = append(list, tunnels.Route{Name: r.Name, Profile: name, Mark: mark})
	}
	return list
}

// runXray works until ctx ends, and again when that ends before, with a growing pause;
// meanwhile routes via xray are blocked.
func (d *Daemon) runXray(ctx context.Context, x rules.Xray) {
	d.keepRunning(ctx, xrayName, "routes via xray are blocked", func(ctx context.Context) error {
		var routes []tunnels.Route
		if r := d.xrayRoutes.Load(); r != nil {
			routes = *r
		}
		o, err := d.tunnelOptions(x)
		if err != nil {
			d.healthOf(tunnels.Dead(routes))
			return errors.Join(err, d.endXray(ctx))
		}
		o.Changed = func(h tunnels.Health) { d.healthOf(h) }
		t := tunnels.New(o)
		t.Want(routes)
		d.setTunnels(t)
		defer d.setTunnels(nil)
		return t.Run(ctx)
	})
}

// endXray ends what an earlier run has left, where nothing is to run.
func (d *Daemon) endXray(ctx context.Context) error {
	if d.opts.Observe || d.opts.StateDir == "" {
		return nil
	}
	return process.EndLeft(ctx, xrayDir(d.opts.StateDir))
}

// EndXray ends the Xray that a daemon with the state directory has left, and one that
// tries a link. No daemon may run with it.
func EndXray(ctx context.Context, stateDir string) error {
	return errors.Join(process.EndLeft(ctx, xrayDir(stateDir)), process.EndLeft(ctx, trialDir(stateDir)))
}

// healthOf gives the loop the health of routes. It does not wait: the loop may be waiting for
// Xray to end.
func (d *Daemon) healthOf(h tunnels.Health) {
	d.health.Store(&h)
	select {
	case d.healthy <- struct{}{}:
	default:
	}
}

func (d *Daemon) setTunnels(t *tunnels.Tunnels) { d.tunnels.Store(t) }

// tunnelOptions are what the policy's settings come to on this host.
func (d *Daemon) tunnelOptions(x rules.Xray) (tunnels.Options, error) {
	o := tunnels.Options{
		Binary: x.Binary, Dir: xrayDir(d.opts.StateDir), Log: d.log, Source: d.proxies(d.opts.Config, x.Links, true),
		Output: d.parts.XrayOutput, Probe: x.Probe, Every: x.ProbeEvery,
		Leave: func() bool { return d.handOver.Load() || d.opts.Stay != nil && d.opts.Stay() },
	}
	switch o.Probe {
	case "":
		o.Probe = rules.DefaultXrayProbe
	case "off":
		o.Probe = ""
	}
	if o.Every == 0 {
		o.Every = defaultProbeEvery
	}
	var err error
	o.Binary, o.UID, o.GID, err = program(x)
	return o, err
}

// program returns the path of Xray and whom it runs as, 0 for as whom we run.
func program(x rules.Xray) (binary string, uid, gid uint32, err error) {
	binary = x.Binary
	if binary == "" {
		if binary, err = exec.LookPath("xray"); err != nil {
			return "", 0, 0, errors.New("there is no xray in PATH: install it, or name it in daemon.xray_binary")
		}
		if binary, err = filepath.Abs(binary); err != nil {
			return "", 0, 0, err
		}
	}
	if x.User == "" {
		return binary, 0, 0, nil
	}
	u, err := user.Lookup(x.User)
	if err != nil {
		return "", 0, 0, fmt.Errorf("daemon.xray_user: %w", err)
	}
	id, err1 := strconv.ParseUint(u.Uid, 10, 32)
	group, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return "", 0, 0, fmt.Errorf("daemon.xray_user: %w", err)
	}
	if int(id) == os.Geteuid() {
		return binary, 0, 0, nil
	}
	if os.Geteuid() != 0 {
		return "", 0, 0, fmt.Errorf("daemon.xray_user: only root can start xray as %s, and this is user %d", x.User, os.Geteuid())
	}
	return binary, uint32(id), uint32(group), nil
}

// proxies are where the profiles of routes are looked for.
func (d *Daemon) proxies(config string, links []string, watched bool) tunnels.Sources {
	var watch func(context.Context, string, func()) error
	if watched {
		watch = func(ctx context.Context, path string, changed func()) error {
			err := d.parts.WatchFile(ctx, path, changed)
			if err != nil && ctx.Err() == nil {
				d.log.Warn("file with proxies not watched", "file", path, "error", err)
			}
			return err
		}
	}
	list := tunnels.Sources{tunnels.OpenFiles(filepath.Dir(config), links, watch)}
	if d.parts.Proxies != nil {
		list = append(list, d.parts.Proxies)
	}
	return list
}

// checkXray says which routes via xray of a policy can't be carried out.
func (d *Daemon) checkXray(p *rules.Policy) []diag.Diagnostic {
	return CheckXray(d.opts.Config, p, d.parts.Proxies)
}

// checkProxies is checkXray for a change. Where its sender must not read files by naming
// them, inForce has those that may be named, besides those below the policy's folder.
func (d *Daemon) checkProxies(p, inForce *rules.Policy) []diag.Diagnostic {
	var unknown []string
	if inForce != nil {
		unknown = slices.DeleteFunc(slices.Clone(p.Daemon.Xray.Links), func(name string) bool { return slices.Contains(inForce.Daemon.Xray.Links, name) })
	}
	dir := filepath.Dir(d.opts.Config)
	for _, name := range unknown {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := policyfile.Reaches(dir, path); err != nil {
			return []diag.Diagnostic{diag.New("NP504", diag.Span{}, "daemon.xray_links: %s: %s", diag.Quote(name), err)}
		}
	}
	list := d.checkXray(p)
	for i := range list {
		if len(unknown) > 0 {
			list[i].Message, list[i].Help, list[i].Notes = "this route via xray can't be carried out; what the files of daemon.xray_links say is not shown here", "", nil
		}
	}
	return list
}

// CheckXray says which routes via xray of a policy at a path can't be carried out
// (NP504); more are proxies beside those of its files, nil for none.
func CheckXray(path string, p *rules.Policy, more tunnels.Source) []diag.Diagnostic {
	files, source := proxiesOf(path, p, more)
	return tunnels.Check(p, source, files, config.V26_3)
}

// DescribeXray says what would run for them, one line each, without secrets.
func DescribeXray(path string, p *rules.Policy, more tunnels.Source) []string {
	_, source := proxiesOf(path, p, more)
	return tunnels.Describe(p, source, config.V26_3)
}

func proxiesOf(path string, p *rules.Policy, more tunnels.Source) (*tunnels.Files, tunnels.Sources) {
	files := tunnels.OpenFiles(filepath.Dir(path), p.Daemon.Xray.Links, nil)
	source := tunnels.Sources{files}
	if more != nil {
		source = append(source, more)
	}
	return files, source
}

// proxyServer returns the SOCKS server of a route via xray.
func (d *Daemon) proxyServer(route string) (tunnels.Server, bool) {
	t := d.tunnels.Load()
	if t == nil {
		return tunnels.Server{}, false
	}
	return t.Server(route)
}

// tunnels takes over what is known of the routes via xray.
func (c *core) tunnels(h tunnels.Health) {
	w := *c.live.world
	c.tunnelled = h
	c.complete(&w)
	if slices.Equal(w.Alive, c.live.world.Alive) && slices.Equal(w.Selected, c.live.world.Selected) {
		return
	}
	c.live.world = &w
	c.allAgain("tunnel")
}

// complete fills in which routes are dead by their tunnels, and which tunnel groups of
// tunnels choose by latency.
func (c *core) complete(w *state.World) {
	p := c.live.policy
	w.Alive = nil
	if len(c.tunnelled.Alive) == 0 {
		return
	}
	w.Alive = make([]state.Truth, len(p.Routes))
	for i := range p.Routes {
		if _, ok := p.Routes[i].Xray(); ok {
			w.Alive[i] = c.tunnelled.Alive[p.Routes[i].Name]
		}
	}
	w.Selected = slices.Clone(w.Selected)
	for i := range p.Groups {
		if g := &p.Groups[i]; g.Strategy == rules.LowestLatency && i < len(w.Selected) {
			c.fastest(g, &w.Selected[i])
		}
	}
}

// fastest chooses among tunnels the one with the lowest delay. The chosen one stays
// while it lives and no other is faster by more than the group's tolerance.
func (c *core) fastest(g *rules.Group, selected *int) {
	best, kept := -1, -1
	delay := func(i int) time.Duration { return c.tunnelled.Delays[c.live.policy.Routes[g.Members[i]].Name] }
	for i, m := range g.Members {
		r := &c.live.policy.Routes[m]
		if _, ok := r.Xray(); !ok {
			return // the machine chooses among uplinks
		}
		if _, measured := c.tunnelled.Delays[r.Name]; !measured {
			continue
		}
		if r.Name == c.picked[g.Name] {
			kept = i
		}
		if best < 0 || delay(i) < delay(best) {
			best = i
		}
	}
	switch {
	case best < 0:
		return
	case kept >= 0 && delay(kept) <= delay(best)+g.Tolerance:
		best = kept
	}
	c.picked[g.Name] = c.live.policy.Routes[g.Members[best]].Name
	*selected = best
}

// xrayStatus is what runs for the routes via xray; nil is nothing.
func (d *Daemon) xrayStatus() *api.Xray {
	t := d.tunnels.Load()
	if t == nil {
		return nil
	}
	st := t.Status()
	return &st
}

// errNoXray says that the policy has no use for it.
var errNoXray = fmt.Errorf("xray does not run: the policy has no routes via xray, or status says why: %w", api.ErrConflict)

// Xray starts, stops and restarts Xray, and returns what runs then.
func (d *Daemon) Xray(ctx context.Context, q api.XrayRequest) (api.Xray, error) {
	t := d.tunnels.Load()
	if t == nil {
		return api.Xray{}, errNoXray
	}
	var err error
	switch q.Do {
	case "":
	case "start":
		err = t.Start(ctx)
	case "stop":
		err = t.Stop(ctx)
	case "restart":
		err = t.Restart(ctx)
	default:
		return api.Xray{}, fmt.Errorf("do %q: want start, stop or restart: %w", q.Do, api.ErrBadRequest)
	}
	if q.Do != "" {
		d.log.Info("xray by hand", "do", q.Do, "who", api.Who(ctx), "error", err)
	}
	if err != nil {
		return t.Status(), fmt.Errorf("%w: %w", err, api.ErrConflict)
	}
	return t.Status(), nil
}

// XrayLog returns the last lines that Xray has printed, without secrets.
func (d *Daemon) XrayLog() (api.XrayLog, error) {
	t := d.tunnels.Load()
	if t == nil {
		return api.XrayLog{}, errNoXray
	}
	return api.XrayLog{Lines: t.Log()}, nil
}

// xrayGauges writes what Xray does, while there is one.
func (d *Daemon) xrayGauges(w io.Writer) {
	t := d.tunnels.Load()
	if t == nil {
		return
	}
	st := t.Status()
	fmt.Fprintf(w, "netpolicy_xray_up %d\nnetpolicy_xray_restarts_total %d\n", toInt(st.State == process.Running.String()), st.Restarts)
	fmt.Fprintf(w, "netpolicy_xray_memory_bytes %d\nnetpolicy_xray_cpu_seconds_total %g\n", st.Memory, float64(st.CPUms)/1000)
	for _, r := range st.Routes {
		alive := 0
		for _, p := range r.Proxies {
			alive += toInt(p.Alive == "true")
			if p.Used && p.Alive == "true" {
				fmt.Fprintf(w, "netpolicy_xray_delay_seconds{route=%q} %g\n", r.Route, float64(p.DelayMS)/1000)
			}
		}
		fmt.Fprintf(w, "netpolicy_xray_proxies{route=%q} %d\nnetpolicy_xray_proxies_alive{route=%q} %d\n", r.Route, len(r.Proxies), r.Route, alive)
	}
}
