package tunnels

import (
	"fmt"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
)

// MaxMembers bounds the profiles of one route that are taken: Xray holds each in memory
// and measures it.
const MaxMembers = 200

// Check says which routes via xray can't be carried out, each at its place in the
// policy: NP504. files are those among the sources that have names to suggest.
func Check(p *rules.Policy, source Source, files *Files, v config.Version) (list []diag.Diagnostic) {
	for i := range p.Routes {
		r := &p.Routes[i]
		name, ok := r.Xray()
		if !ok || !p.Daemon.Relay.Used() {
			continue
		}
		c, found := source.Find(name)
		if !found {
			d := diag.New("NP504", r.Span, "no file of xray_links and no subscription has a proxy called %s", diag.Quote(name))
			if d.Help = diag.DidYouMean(name, files.Names()); d.Help == "" {
				d.Help = strings.Join(files.Problems(), "; ")
			}
			if d.Help == "" && len(p.Daemon.Xray.Links) == 0 {
				d.Help = "daemon.xray_links names the files"
			}
			list = append(list, d)
			continue
		}
		if len(c.Profiles) == 0 {
			list = append(list, diag.New("NP504", r.Span, "%s has no proxy yet", c.From))
		} else if runnable, why := sift(v, c.Profiles); len(runnable) == 0 {
			list = append(list, diag.New("NP504", r.Span, "%s can't be run: %s", diag.Quote(name), strings.Join(why, "; ")))
		}
	}
	return list
}

// sift returns the indexes of the profiles that can be run, and why others can't,
// without secrets.
func sift(v config.Version, profiles []link.Profile) (runnable []int, why []string) {
	for i, p := range profiles[:min(len(profiles), MaxMembers)] {
		reason := ""
		for _, f := range config.Check(v, p) {
			if f.Severity == diag.Error && reason == "" {
				reason = strings.TrimPrefix(f.String(), "error: ")
			}
		}
		if reason == "" {
			runnable = append(runnable, i)
		} else if len(why) < maxProblems {
			why = append(why, reason)
		}
	}
	return runnable, why
}

// Describe says for people what the routes via xray of a policy would run, one line each,
// without secrets.
func Describe(p *rules.Policy, source Source, v config.Version) (list []string) {
	for i := range p.Routes {
		r := &p.Routes[i]
		name, ok := r.Xray()
		if !ok {
			continue
		}
		line := fmt.Sprintf("route %s via xray %q", r.Name, name)
		if r.Uplink >= 0 {
			line += " on " + p.Uplinks[r.Uplink].Name
		}
		c, found := source.Find(name)
		switch runnable, why := sift(v, c.Profiles); {
		case !p.Daemon.Relay.Used():
			line += ": rejected, there is no relay"
		case !found:
			line += ": rejected, there is no proxy of this name"
		case len(c.Profiles) == 0:
			line += ": rejected, " + c.From + " has no proxy yet"
		case len(runnable) == 0:
			line += ": rejected, " + strings.Join(why, "; ")
		default:
			var proxies []string
			for _, i := range runnable {
				proxies = append(proxies, address(c.Profiles[i]))
			}
			line += ": " + strings.Join(proxies, ", ") + " of " + c.From
		}
		list = append(list, line)
	}
	return list
}

// address is where a profile's server is.
func address(p link.Profile) string {
	host := p.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s %s:%d", p.Protocol(), host, p.Port)
}
