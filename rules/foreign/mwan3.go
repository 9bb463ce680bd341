package foreign

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// mwan reads /etc/config/mwan3, and /etc/config/network where `uci export`
// has put it into the same file.
type mwan struct {
	*builder
	network  map[string]*section // interfaces of the network configuration
	uplinks  map[string]*mwanLine
	members  map[string]*mwanMember
	policies map[string]*section
	weights  map[string]int // of uplinks, by the first policy that gives one
	groups   map[string]target
	places   map[string][]string // of policies: what was declared for them
	whys     map[string][]string // of policies: what differs
	locals   []string            // private destinations that rules name
}

type mwanLine struct {
	s      *section
	name   string // as a route
	family string
	decl   *decl
	lines  []string // of the uplink's block
}

type mwanMember struct {
	s              *section
	iface          string
	metric, weight int
	used           bool
}

func importMwan3(b *builder, src []byte) error {
	all, err := readUCI(b, src)
	if err != nil {
		return err
	}
	m := &mwan{
		builder: b, network: map[string]*section{}, uplinks: map[string]*mwanLine{}, members: map[string]*mwanMember{},
		policies: map[string]*section{}, weights: map[string]int{}, groups: map[string]target{}, places: map[string][]string{}, whys: map[string][]string{},
	}
	for _, s := range all {
		if s.pkg == "network" && s.kind == "interface" {
			m.network[s.name] = s
		}
	}
	var rules []*section
	found := false
	for _, s := range all {
		if s.pkg != "" && s.pkg != "mwan3" {
			continue
		}
		switch s.kind {
		case "globals":
			m.globals(s)
		case "interface":
			m.iface(s)
		case "member":
			m.member(s)
		case "policy":
			m.policy(s)
		case "rule":
			rules = append(rules, s)
		default:
			m.say(s.line, s.kind+" "+s.name, Dropped, "", "the type of section is not known")
			continue
		}
		found = true
	}
	if !found {
		return b.fail(0, "not a configuration of mwan3: it has no interface, member, policy or rule")
	}
	if err := m.rules(rules); err != nil {
		return err
	}
	m.finish(all)
	return nil
}

// mwanGlobals are the settings of all, and why they have no place here.
var mwanGlobals = map[string]string{
	"mmx_mask": "netpolicy's marks are in `daemon { mark_mask }`", "logging": "decisions are recorded by `log` in rules",
	"loglevel": "decisions are recorded by `log` in rules", "rtmon_interval": "routes are followed as they change",
	"local_source": "traffic of the router itself is decided like all other", "rt_table_lookup": "write a rule for what these tables hold",
	"enabled": "start the daemon, or not",
}

func (m *mwan) globals(s *section) {
	for _, o := range s.options {
		why := mwanGlobals[o.key]
		if why == "" {
			why = "a setting of the program, not a rule"
		}
		m.say(o.lines[0], "globals "+o.key+" "+strings.Join(o.vals, " "), Dropped, "", why)
	}
}

// iface makes an uplink of an interface.
func (m *mwan) iface(s *section) {
	what := "interface " + s.name
	switch {
	case s.name == "":
		m.say(s.line, "an interface without a name", Dropped, "", "nothing can refer to it")
		return
	case m.uplinks[s.name] != nil:
		m.say(s.line, what, Dropped, "", "the name is taken already")
		return
	case s.get("enabled") == "0" || s.get("enabled") == "":
		m.say(s.line, what, Dropped, "", "it is not enabled")
		return
	}
	l := &mwanLine{s: s, family: s.get("family")}
	if l.family != "ipv6" {
		l.family = "ipv4"
	}
	m.uplinks[s.name] = l
	var whys []string
	dev := m.device(s.name)
	if dev == "" {
		whys = append(whys, "the device stands in /etc/config/network: put it for "+s.name)
		if dev = "wan"; isDevice(s.name) {
			dev = s.name
		}
	}
	l.lines = append(l.lines, "dev "+dev)
	if n := m.network[s.name]; n != nil {
		key := map[string]string{"ipv4": "gateway", "ipv6": "ip6gw"}[l.family]
		if a, err := netip.ParseAddr(n.get(key)); err == nil && a.Zone() == "" {
			l.lines = append(l.lines, "gateway "+a.String())
		}
	}
	whys = append(whys, m.probe(l)...)
	v := Carried
	if len(whys) > 0 {
		v = Approximated
	}
	l.decl = m.declare("uplink", s.name, "", fmt.Sprintf("line %d: %s", s.line, what), nil,
		&Line{Line: s.line, Text: what, Verdict: v, Why: strings.Join(whys, "; ")})
	l.name = l.decl.name
	m.ifaceRest(s)
}

// device finds the device of an interface in the network configuration, also
// where it is said to be that of another interface: "@wan". "" if it is not there.
func (m *mwan) device(name string) string {
	for range 2 {
		n := m.network[name]
		if n == nil {
			return ""
		}
		dev := cmp.Or(n.get("device"), n.get("ifname"))
		if other, ok := strings.CutPrefix(dev, "@"); ok {
			name = other
			continue
		}
		if isDevice(dev) {
			return dev
		}
	}
	return ""
}

// probe fills in how the interface is tracked; it returns what differs.
func (m *mwan) probe(l *mwanLine) (whys []string) {
	s := l.s
	var targets []string
	for _, t := range s.all("track_ip") {
		a, err := netip.ParseAddr(t)
		if err != nil || a.Zone() != "" {
			whys = append(whys, "track_ip "+t+" is no address and is left out")
			continue
		}
		targets = append(targets, a.Unmap().String())
	}
	if targets = unique(targets); len(targets) > maxMembers {
		targets = targets[:maxMembers]
	}
	if len(targets) == 0 {
		return whys
	}
	kind := "icmp"
	switch method := s.get("track_method"); method {
	case "", "ping":
	case "httping", "nping-tcp":
		kind = "tcp"
		for i, t := range targets {
			targets[i] = netip.AddrPortFrom(netip.MustParseAddr(t), 80).String()
		}
		whys = append(whys, "track_method "+method+" is a connection to port 80")
	default:
		whys = append(whys, "track_method "+method+" is a ping")
	}
	every := number(s.get("interval"), 10, 1, 3600)
	l.lines = append(l.lines, fmt.Sprintf("probe %s %s every %s", kind, strings.Join(targets, ", "), duration(every)))
	if n := number(s.get("reliability"), 1, 1, 1000); n > 1 {
		whys = append(whys, fmt.Sprintf("reliability %d: a round is dead when no target answers, not when fewer than %d do", n, n))
	}
	if n := number(s.get("count"), 1, 1, 1000); n > 1 {
		whys = append(whys, fmt.Sprintf("count %d: one probe for each target and round", n))
	}
	l.lines = append(l.lines,
		fmt.Sprintf("dead_after %d", number(s.get("down"), 5, 1, 1000)), fmt.Sprintf("revive_after %d", number(s.get("up"), 5, 1, 1000)))
	if s.get("check_quality") == "1" {
		rtt, back := number(s.get("failure_latency"), 1000, 2, 60_000), number(s.get("recovery_latency"), 500, 1, 60_000)
		loss, clear := number(s.get("failure_loss"), 40, 2, 100), number(s.get("recovery_loss"), 10, 1, 100)
		l.lines = append(l.lines,
			fmt.Sprintf("threshold rtt %dms / %dms", rtt, min(back, rtt-1)), fmt.Sprintf("threshold loss %d%% / %d%%", loss, min(clear, loss-1)))
		whys = append(whys, "a bad quality first makes the line DEGRADED, then FAILOVER; loss is over the last 10 rounds")
	}
	return append(whys, "a line that comes back gets its share step by step (RECOVERY), and rounds of bad quality count, too")
}

// number reads a whole number; what is none, or out of range, becomes the nearest.
func number(s string, otherwise, lo, hi int) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		n = otherwise
	}
	return max(lo, min(n, hi))
}

// mwanIface are the options of an interface that have been read with it, and
// mwanIfaceNot those that have no place here.
var (
	mwanIface = []string{
		"enabled", "family", "track_ip", "track_method", "interval", "reliability", "count", "down", "up", "check_quality",
		"failure_latency", "recovery_latency", "failure_loss", "recovery_loss",
	}
	mwanIfaceNot = map[string]string{
		"timeout": "a probe's answer may take as long as the interval", "initial_state": "a line is used as soon as its link is up",
		"failure_interval": "the interval stays the same", "recovery_interval": "the interval stays the same",
		"keep_failure_interval": "the interval stays the same", "flush_conntrack": "only connections over a dead line are forgotten",
		"size": "a probe has a size of its own", "max_ttl": "a probe has a TTL of its own",
		"httping_ssl": "the probe opens a connection only",
	}
)

func (m *mwan) ifaceRest(s *section) {
	for _, o := range s.options {
		if slices.Contains(mwanIface, o.key) {
			continue
		}
		why := mwanIfaceNot[o.key]
		if why == "" {
			why = "the option is not known"
		}
		m.say(o.lines[0], "interface "+s.name+" "+o.key+" "+strings.Join(o.vals, " "), Dropped, "", why)
	}
}

func (m *mwan) member(s *section) {
	if s.name == "" || m.members[s.name] != nil {
		m.say(s.line, "member "+s.name, Dropped, "", "it needs a name of its own")
		return
	}
	m.members[s.name] = &mwanMember{
		s: s, iface: s.get("interface"), metric: number(s.get("metric"), 1, 1, 1000), weight: number(s.get("weight"), 1, 1, 1000),
	}
}

func (m *mwan) policy(s *section) {
	if s.name == "" || m.policies[s.name] != nil {
		m.say(s.line, "policy "+s.name, Dropped, "", "it needs a name of its own")
		return
	}
	m.policies[s.name] = s
}

// families are those that a policy has lines of.
func (m *mwan) families(policy string) (has [2]bool) {
	for _, name := range m.policies[policy].all("use_member") {
		if member := m.members[name]; member != nil && m.uplinks[member.iface] != nil {
			has[map[string]int{"ipv4": 0, "ipv6": 1}[m.uplinks[member.iface].family]] = true
		}
	}
	return has
}

// target is where a policy sends a family: a line, a group, or what
// last_resort says if it has no line of the family.
func (m *mwan) target(policy, family string, sticky int) (target, error) {
	key := fmt.Sprintf("%s\x00%s\x00%d", policy, family, sticky)
	if t, ok := m.groups[key]; ok {
		return t, nil
	}
	s := m.policies[policy]
	if err := m.count(s.line, len(s.all("use_member"))); err != nil {
		return target{}, err
	}
	last := s.get("last_resort")
	tiers, whys := m.tiers(s, family)
	name := policy
	if has := m.families(policy); has[0] && has[1] {
		name += map[string]string{"ipv4": "_v4", "ipv6": "_v6"}[family]
	}
	if sticky > 0 {
		name += "_sticky"
	}
	var t target
	switch {
	case len(tiers) > 0:
		t = m.declareTiers(s, name, last, tiers, sticky)
	case last == "default":
		t = m.builtin("main", "main")
	case last == "blackhole":
		t = target{block: "drop"}
	default:
		t = target{block: "reject"}
	}
	m.groups[key] = t
	if len(tiers) > 0 && last != "default" {
		whys = append(whys, "when no line is usable, the group blocks")
	}
	m.places[policy] = append(m.places[policy], t.String())
	m.whys[policy] = append(m.whys[policy], whys...)
	return t, nil
}

// tiers sorts the lines of a policy's family by metric; equal metrics share.
func (m *mwan) tiers(s *section, family string) (tiers [][]*mwanLine, whys []string) {
	var list []*mwanMember
	for _, name := range s.all("use_member") {
		member := m.members[name]
		switch {
		case member == nil:
			whys = append(whys, "there is no member "+name)
		case m.uplinks[member.iface] == nil:
			whys = append(whys, "the member "+name+" has no interface that is enabled")
			member.used = true
		default:
			member.used = true
			if m.uplinks[member.iface].family == family {
				list = append(list, member)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *mwanMember) int { return cmp.Compare(a.metric, b.metric) })
	shared := func(i int) bool {
		return i > 0 && list[i-1].metric == list[i].metric || i+1 < len(list) && list[i+1].metric == list[i].metric
	}
	for i, member := range list {
		l := m.uplinks[member.iface]
		if slices.ContainsFunc(tiers, func(t []*mwanLine) bool { return slices.Contains(t, l) }) {
			whys = append(whys, "the interface "+member.iface+" is a member twice: the first counts")
			continue
		}
		if shared(i) {
			if w, ok := m.weights[member.iface]; ok && w != member.weight {
				whys = append(whys, fmt.Sprintf("the weight %d of %s differs from %d elsewhere: a line has one weight", member.weight, member.s.name, w))
			} else {
				m.weights[member.iface] = member.weight
			}
		}
		if n := len(tiers); n > 0 && i > 0 && list[i-1].metric == member.metric {
			tiers[n-1] = append(tiers[n-1], l)
		} else {
			tiers = append(tiers, []*mwanLine{l})
		}
	}
	if len(tiers) > maxMembers-1 {
		tiers = tiers[:maxMembers-1]
		whys = append(whys, "too many members: the last are left out")
	}
	return tiers, whys
}

// declareTiers makes groups of a policy's lines.
func (m *mwan) declareTiers(s *section, name, last string, tiers [][]*mwanLine, sticky int) target {
	note := fmt.Sprintf("line %d: policy %s", s.line, s.name)
	option := ""
	if sticky > 0 {
		option = fmt.Sprintf(" sticky %s", duration(sticky))
	}
	none := ""
	if last != "default" {
		none = " when_none block"
	}
	if len(tiers) == 1 && len(tiers[0]) > 1 && last != "default" {
		refs := names(tiers[0])
		d := m.declare("group", name, "= weighted("+strings.Join(refs, ", ")+")"+option+none, note, refs, nil)
		return target{route: d.name}
	}
	var refs []string
	for i, tier := range tiers {
		if len(tier) == 1 {
			refs = append(refs, tier[0].name)
			continue
		}
		lines := names(tier)
		d := m.declare("group", fmt.Sprintf("%s_%d", name, i+1), "= weighted("+strings.Join(lines, ", ")+")"+option, note+", members of one metric", lines, nil)
		refs = append(refs, d.name)
	}
	if last == "default" {
		refs = append(refs, m.builtin("main", "main").route)
	}
	d := m.declare("group", name, "= fallback("+strings.Join(refs, ", ")+")"+none, note, refs, nil)
	return target{route: d.name}
}

func names(lines []*mwanLine) []string {
	var all []string
	for _, l := range lines {
		all = append(all, l.name)
	}
	if len(all) > maxMembers {
		all = all[:maxMembers]
	}
	return all
}

// finish writes the uplinks' blocks and reports what no rule came by.
func (m *mwan) finish(all []*section) {
	for _, s := range all {
		if s.pkg != "" && s.pkg != "mwan3" {
			continue
		}
		switch s.kind {
		case "interface":
			if l := m.uplinks[s.name]; l != nil && l.s == s {
				if w := m.weights[s.name]; w > 1 {
					l.lines = append(l.lines, fmt.Sprintf("weight %d", w))
				}
				l.decl.text = "{\n  " + strings.Join(l.lines, "\n  ") + "\n}"
			}
		case "member":
			if member := m.members[s.name]; member != nil && member.s == s {
				v, to, why := Carried, "the policies that name it", ""
				if !member.used {
					v, to, why = Dropped, "", "no policy that a rule uses names it"
				} else if m.uplinks[member.iface] == nil {
					v, to, why = Dropped, "", "its interface is not enabled"
				}
				m.say(s.line, "member "+s.name, v, to, why)
			}
		case "policy":
			if m.policies[s.name] != s {
				continue
			}
			places, whys := strings.Join(unique(m.places[s.name]), ", "), strings.Join(unique(m.whys[s.name]), "; ")
			switch {
			case places == "":
				m.say(s.line, "policy "+s.name, Dropped, "", "no rule uses it")
			case whys == "":
				m.say(s.line, "policy "+s.name, Carried, places, "")
			default:
				m.say(s.line, "policy "+s.name, Approximated, places, whys)
			}
		}
	}
}
