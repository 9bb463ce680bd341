package config

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

// services returns what the API offers: what it takes to add and remove outbounds,
// to steer balancers, and to read figures. Without an observatory Xray does not
// start with its service.
func (o Options) services() []string {
	s := []string{"HandlerService", "RoutingService", "StatsService", "LoggerService"}
	if o.Observatory.URL != "" {
		s = append(s, "ObservatoryService")
	}
	return s
}

// Tags of our own.
const (
	tagBlock  = "block"
	tagDirect = "direct"
	tagDNS    = "dns"
	tagAPI    = "api"
	tagAPIIn  = "api-in"
)

// Build writes the configuration for a version. Profiles that can't be run are left
// out, each with a finding that is an Error; a group without any
// is left out, and its inbounds are blocked. The configuration is nil where an option itself is wrong or nothing is left
// to run. It holds secrets: keep it out of logs, and of files that others read.
func Build(v Version, profiles []link.Profile, o Options) ([]byte, []Finding) {
	data, _, findings := BuildTagged(v, profiles, o)
	return data, findings
}

// BuildTagged is Build, and tells the tag of each profile's outbound; "" is one that
// was left out.
func BuildTagged(v Version, profiles []link.Profile, o Options) (data []byte, tags []string, findings []Finding) {
	f := filer{checker: checker{v: v}, o: o, tags: make([]string, len(profiles))}
	if len(profiles) > maxProfiles || len(o.Inbounds) > maxInbounds || len(o.Groups) > maxGroups || len(o.DNS) > maxServers {
		f.report(diag.Error, "", fmt.Sprintf("more than %d profiles, %d inbounds, %d groups or %d DNS servers", maxProfiles, maxInbounds, maxGroups, maxServers), "")
		return nil, nil, f.findings
	}
	if !f.options() {
		return nil, nil, f.findings
	}
	outbounds := f.outbounds(profiles)
	if len(profiles) > 0 && !slices.ContainsFunc(f.tags, func(t string) bool { return t != "" }) {
		f.report(diag.Error, "outbounds", "no profile can be run", "")
		return nil, nil, f.findings
	}
	balancers, groups := f.balancers()
	inbounds, rules := f.inbounds(groups)
	file := object{
		"log":       object{"loglevel": f.logLevel(), "access": "none"},
		"inbounds":  inbounds,
		"outbounds": outbounds,
		"routing":   object{"domainStrategy": "AsIs", "rules": rules, "balancers": balancers},
		"stats":     object{},
		"policy":    object{"system": object{"statsInboundUplink": true, "statsInboundDownlink": true, "statsOutboundUplink": true, "statsOutboundDownlink": true}},
	}
	switch {
	case o.API.IsValid():
		file["api"] = object{"tag": tagAPI, "listen": o.API.String(), "services": o.services()}
	case o.APISocket != "":
		file["api"] = object{"tag": tagAPI, "services": o.services()}
	}
	if len(o.DNS) > 0 {
		file["dns"] = f.dns()
	}
	if o.Observatory.URL != "" {
		interval := o.Observatory.Interval
		if interval == 0 {
			interval = time.Minute
		}
		file["observatory"] = object{"subjectSelector": []string{"out-"}, "probeURL": o.Observatory.URL, "probeInterval": interval.String(), "enableConcurrency": true}
	}
	data = encode(file)
	// What was built is read again, so that a slip of ours is found here.
	tree, err := decode(data)
	if err != nil {
		panic("config: " + err.Error())
	}
	before := len(f.findings)
	f.keys("", "file", tree)
	f.file(tree.(object))
	if Refused(f.findings[before:]) {
		return nil, nil, f.findings
	}
	return data, f.tags, f.findings
}

// filer puts a configuration together.
type filer struct {
	checker
	o    Options
	tags []string // of each profile; "" is one that can't be run
}

// options reports what is wrong with the options.
func (f *filer) options() bool {
	if a := f.o.API; a.IsValid() && (!a.Addr().IsLoopback() || a.Port() == 0) {
		f.report(diag.Error, "api.listen", "the API asks nobody for a password: it must be on a port of a loopback address", "")
	}
	if p := f.o.APISocket; p != "" && (p[0] != '/' || strings.Contains(p, ",") || len(p) > maxSocket || f.o.API.IsValid()) {
		f.report(diag.Error, "api", "the API's socket is not an absolute path of up to 107 bytes without a comma, or there is an address besides", "")
	}
	if !slices.Contains([]string{"", "debug", "info", "warning", "error", "none"}, f.o.LogLevel) {
		f.report(diag.Error, "log.loglevel", "there is no such level", "it is debug, info, warning, error or none")
	}
	names := map[string]bool{}
	for _, g := range f.o.Groups {
		if !isName(g.Name) || names[g.Name] {
			f.report(diag.Error, "routing.balancers", "the name of a group is empty, stands twice, or has other than letters, digits, - and _", "")
		}
		names[g.Name] = true
		for _, m := range g.Members {
			if m < 0 || m >= len(f.tags) {
				f.report(diag.Error, "routing.balancers", "a group has a member that is no profile", "")
			}
		}
	}
	if f.o.Groups == nil {
		names["all"] = true
	}
	for i, in := range f.o.Inbounds {
		f.inboundOptions(item("", "inbounds", i), in, names)
	}
	return !Refused(f.findings)
}

func (f *filer) inboundOptions(path string, in Inbound, groups map[string]bool) {
	if !isName(in.Name) {
		f.report(diag.Error, at(path, "tag"), "the name of an inbound is empty or has other than letters, digits, - and _", "")
	}
	if !groups[in.Group] {
		f.report(diag.Error, path, "the inbound leads to a group that is not there", "")
	}
	if in.Kind != Tun && (!in.Listen.IsValid() || in.Listen.Port() == 0) {
		f.report(diag.Error, at(path, "listen"), "the address or port to listen on is missing", "")
	}
	if in.Kind == Tun && (in.Device == "" || len(in.Device) > maxDevice || strings.ContainsAny(in.Device, "/ ")) {
		f.report(diag.Error, at(path, "settings.name"), "not the name of a network device", "it has up to 15 characters")
	}
	if in.Kind == Mixed && in.User == "" && !in.Listen.Addr().IsLoopback() {
		f.report(diag.Error, at(path, "listen"), "everybody who reaches this address could use the proxy", "listen on 127.0.0.1, or ask for a password")
	}
	if in.Kind != Mixed && f.o.Mark == 0 {
		f.report(diag.Error, path, "without a mark what Xray sends comes back to it", "set a mark that the host's rules lead past Xray")
	}
}

const (
	// maxDevice is IFNAMSIZ of linux/if.h without its zero byte.
	maxDevice = 15
	// maxSocket is sun_path of linux/un.h without its zero byte.
	maxSocket = 107
)

// isName reports whether a name can be a tag as it is.
func isName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && r != '_' })
}

func isWord(r rune) bool {
	return r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

func (f *filer) logLevel() string {
	if f.o.LogLevel == "" {
		return "warning"
	}
	return f.o.LogLevel
}

// outbounds returns all outbounds. The first is what Xray takes where no rule
// does, so it blocks.
func (f *filer) outbounds(profiles []link.Profile) []any {
	all := []any{object{"tag": tagBlock, "protocol": "blackhole"}}
	if len(f.o.DNS) > 0 {
		direct := object{"tag": tagDirect, "protocol": "freedom"}
		sockopt(direct, f.o.Mark, "")
		all = append(all, direct)
	}
	used := map[string]bool{}
	for i, p := range profiles {
		out, findings := outbound(f.v, p)
		f.findings = append(f.findings, findings...)
		if out == nil {
			continue
		}
		strategy := ""
		if len(f.o.DNS) > 0 {
			strategy = "UseIP"
		}
		mark := f.o.Mark
		if i < len(f.o.Marks) && f.o.Marks[i] != 0 {
			mark = f.o.Marks[i]
		}
		sockopt(out, mark, strategy)
		f.tags[i] = tag(p, f.stamp(out), used)
		out["tag"] = f.tags[i]
		all = append(all, out)
	}
	return all
}

// sockopt marks what an outbound sends, and says who finds the server's address.
func sockopt(out object, mark uint32, strategy string) {
	opt := object{}
	if mark != 0 {
		// Xray reads an int32 and gives the kernel its bits.
		opt["mark"] = int32(mark)
	}
	if strategy != "" {
		opt["domainStrategy"] = strategy
	}
	if len(opt) == 0 {
		return
	}
	s := child(out, "streamSettings")
	if s == nil {
		s = object{}
		out["streamSettings"] = s
	}
	sockopts(s, opt)
}

// maxSlug bounds how much of a profile's name its tag has.
const maxSlug = 32

// stamp returns what a tag says of its outbound; "" is nothing.
func (f *filer) stamp(out object) string {
	if f.o.Stamp == nil {
		return ""
	}
	h := hmac.New(sha256.New, f.o.Stamp)
	h.Write(encode(out))
	return hex.EncodeToString(h.Sum(nil)[:4])
}

// tag returns a tag that no other is the beginning of: selectors of balancers are
// beginnings. It has what can be written of the profile's name, for logs.
func tag(p link.Profile, stamp string, used map[string]bool) string {
	var b strings.Builder
	for _, r := range p.Name {
		if b.Len() == maxSlug {
			break
		}
		switch {
		case isWord(r) && r != '-':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	slug := strings.Trim(b.String(), "-")
	if slug == "" {
		slug = "proxy"
	}
	if stamp != "" {
		slug += "-" + stamp
	}
	for n := 1; ; n++ {
		t := "out-" + slug + "."
		if n > 1 {
			t = fmt.Sprintf("out-%s-%d.", slug, n)
		}
		if !used[t] {
			used[t] = true
			return t
		}
	}
}

// balancers returns one balancer for each group that has a member left, and the
// names of those.
func (f *filer) balancers() (out []any, names map[string]bool) {
	groups := f.o.Groups
	if groups == nil {
		all := Group{Name: "all"}
		for i := range f.tags {
			all.Members = append(all.Members, i)
		}
		groups = []Group{all}
	}
	out, names = []any{}, map[string]bool{}
	for _, g := range groups {
		var selector []string
		for _, m := range g.Members {
			if f.tags[m] != "" {
				selector = append(selector, f.tags[m])
			}
		}
		if len(selector) == 0 {
			if f.o.Groups != nil {
				f.report(diag.Error, "", "no member of the group "+diag.Quote(g.Name)+" can be run; it is left out", "")
			}
			continue
		}
		names[g.Name] = true
		balancer := object{"tag": "grp-" + g.Name, "selector": selector, "strategy": object{"type": "random"}}
		if f.o.Observatory.URL != "" {
			balancer["strategy"], balancer["fallbackTag"] = object{"type": "leastPing"}, selector[0]
		}
		out = append(out, balancer)
	}
	return out, names
}

// inbounds returns the inbounds, and the rules that lead each to its balancer.
func (f *filer) inbounds(groups map[string]bool) (inbounds, rules []any) {
	inbounds, rules = []any{}, []any{}
	if f.o.APISocket != "" {
		inbounds = append(inbounds, apiInbound(f.o.APISocket))
		rules = append(rules, object{"ruleTag": "api", "inboundTag": []string{tagAPIIn}, "outboundTag": tagAPI})
	}
	if len(f.o.DNS) > 0 {
		rules = append(rules, object{"ruleTag": "dns", "inboundTag": []string{tagDNS}, "outboundTag": tagDirect})
	}
	for _, in := range f.o.Inbounds {
		tag := "in-" + in.Name
		// An inbound whose group is left out stays and is blocked: its port answers
		// nobody else, and nothing goes around the proxy.
		to, where := "balancerTag", "grp-"+in.Group
		if !groups[in.Group] {
			to, where = "outboundTag", tagBlock
		}
		inbounds = append(inbounds, inbound(tag, in))
		rules = append(rules, object{"ruleTag": "route-" + in.Name, "inboundTag": []string{tag}, to: where})
	}
	return inbounds, rules
}

// apiInbound leads what comes in by a socket to the API: api.listen takes no mode of the
// file, without which others could use it. Where it leads to is asked for and not used.
func apiInbound(path string) object {
	return object{
		"tag": tagAPIIn, "listen": path + ",0600", "protocol": "tunnel",
		"settings": object{"address": "127.0.0.1", "port": 1, "network": "unix"},
	}
}

func inbound(tag string, in Inbound) object {
	out := object{"tag": tag}
	switch in.Kind {
	case Tun:
		mtu := in.MTU
		if mtu == 0 {
			mtu = 1500
		}
		out["protocol"], out["settings"] = "tun", object{"name": in.Device, "MTU": mtu}
		return out
	case TProxy:
		out["protocol"], out["settings"] = "dokodemo-door", object{"network": "tcp,udp", "followRedirect": true}
		out["streamSettings"] = object{"sockopt": object{"tproxy": "tproxy"}}
	default:
		settings := object{"auth": "noauth", "udp": true}
		if in.User != "" {
			settings["auth"] = "password"
			settings["accounts"] = []object{{"user": in.User, "pass": in.Password.Reveal()}}
		}
		out["protocol"], out["settings"] = "mixed", settings
	}
	out["listen"], out["port"] = in.Listen.Addr().String(), in.Listen.Port()
	return out
}

// dns returns the servers that are asked for the names of proxies.
func (f *filer) dns() object {
	servers := make([]any, len(f.o.DNS))
	for i, s := range f.o.DNS {
		servers[i] = dnsServer(s)
	}
	return object{"tag": tagDNS, "servers": servers}
}

func dnsServer(s netip.AddrPort) object {
	port := s.Port()
	if port == 0 {
		port = 53
	}
	return object{"address": s.Addr().String(), "port": port}
}
