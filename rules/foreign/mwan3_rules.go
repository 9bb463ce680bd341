package foreign

import (
	"fmt"
	"net/netip"
	"strings"
)

// mwanRule is a rule that was read.
type mwanRule struct {
	s        *section
	cond     cond
	families [2]bool // IPv4, IPv6
	sticky   int     // seconds, 0: not
	whys     []string
	problem  string
}

var mwanFamilies = [2]string{"ipv4", "ipv6"}

// wholeFamily are the predicates on the family of a flow.
var wholeFamily = [2]cond{pred("dst.ip", "0.0.0.0/0"), pred("dst.ip", "::/0")}

// rules writes the rules; what none of them takes is left to the main table.
func (m *mwan) rules(sections []*section) error {
	var list []*mwanRule
	for _, s := range sections {
		r := m.read(s)
		if r.problem != "" {
			m.say(s.line, "rule "+s.name, Dropped, "", r.problem)
			continue
		}
		list = append(list, r)
	}
	if len(list) > 0 {
		m.local()
	}
	var covered [2]bool // families of which a rule took all
	for _, r := range list {
		if err := m.place(r, &covered); err != nil {
			return err
		}
	}
	if m.otherwise == nil {
		m.setDefault(m.builtin("main", "main"), "what no rule names goes by the main routing table")
	}
	return nil
}

// local writes the rule for what mwan3 never balances: destinations that the
// main table has a route for other than the default one.
func (m *mwan) local() {
	k := inSet("dst.ip", m.privateSet())
	if len(m.locals) > 0 {
		but, _ := not(pred("dst.ip", unique(m.locals)...))
		k = and(k, but)
	}
	t := m.builtin("main", "main")
	m.ruleNames.pick("local", "rule")
	m.say(1, "(networks that the main table has a route for)", Approximated, "rule local",
		"mwan3 never balances these; the policy has the private addresses, add other networks of yours")
	m.builder.rules = append(m.builder.rules, &rule{name: "local", when: k, to: t, from: []origin{{
		1,
		"what the main table knows is not balanced: here the private addresses; add other networks of yours",
	}}})
}

// mwanRuleKeys are the options that read reads.
var mwanRuleKeys = map[string]bool{
	"src_ip": true, "dest_ip": true, "src_port": true, "dest_port": true, "proto": true, "family": true, "sticky": true,
	"timeout": true, "use_policy": true, "logging": true, "src_iface": true, "enabled": true, "ipset": true, "src_mac": true,
}

func (m *mwan) read(s *section) *mwanRule {
	r := &mwanRule{s: s, families: [2]bool{true, true}}
	if s.get("enabled") == "0" {
		r.problem = "it is not enabled"
		return r
	}
	for _, o := range s.options {
		if !mwanRuleKeys[o.key] {
			r.problem = "the option " + o.key + " is not known"
			return r
		}
	}
	switch s.get("family") {
	case "ipv4":
		r.families[1] = false
	case "ipv6":
		r.families[0] = false
	}
	var all []cond
	for _, f := range [][2]string{{"src_ip", "src.ip"}, {"dest_ip", "dst.ip"}} {
		k, given, problem := m.addresses(r, s.get(f[0]), f[1])
		if problem != "" {
			r.problem = f[0] + ": " + problem
			return r
		}
		if given {
			all = append(all, k)
		}
	}
	more, problem := mwanFlow(r)
	if r.problem = problem; problem != "" {
		return r
	}
	r.cond = and(append(all, more...)...)
	policy := s.get("use_policy")
	if policy == "" {
		r.problem = "it has no use_policy"
	} else if m.policies[policy] == nil && policy != "default" && policy != "unreachable" && policy != "blackhole" {
		r.problem = "there is no policy " + policy
	} else if r.families == [2]bool{} {
		r.problem = "its addresses are not of its family: it never matches"
	}
	return r
}

// mwanFlow reads what is not about addresses.
func mwanFlow(r *mwanRule) (all []cond, problem string) {
	s := r.s
	if name := s.get("ipset"); name != "" {
		return nil, "the ipset " + name + " is filled outside of the configuration: declare a set of it and write the rule"
	}
	proto := strings.ToLower(s.get("proto"))
	switch proto {
	case "", "all":
	case "icmp", "icmpv6", "ipv6-icmp":
		all = append(all, pred("proto", "icmp"))
	case "tcp", "udp":
		all = append(all, pred("proto", proto))
	case "tcpudp", "tcp udp":
		all = append(all, pred("proto", "tcp", "udp"))
	default:
		n := number(proto, -1, -1, 256)
		if known := map[string]int{"esp": 50, "ah": 51, "gre": 47, "sctp": 132, "igmp": 2, "udplite": 136}[proto]; known > 0 {
			n = known
		}
		if n < 0 || n > 255 {
			return nil, "the protocol " + proto + " is not known here"
		}
		all = append(all, pred("proto", fmt.Sprint(n)))
	}
	for _, f := range [][2]string{{"src_port", "src.port"}, {"dest_port", "port"}} {
		val := s.get(f[0])
		switch {
		case val == "":
		case proto != "tcp" && proto != "udp":
			r.whys = append(r.whys, f[0]+" without proto tcp or udp has no effect in mwan3: it is left out")
		default:
			parts := strings.FieldsFunc(val, func(c rune) bool { return c == ',' || c == ' ' })
			k, problem := portsCond(f[1], parts, "-")
			if problem != "" {
				k, problem = portsCond(f[1], parts, ":")
			}
			if problem != "" {
				return nil, f[0] + ": " + problem
			}
			all = append(all, k)
		}
	}
	if dev := s.get("src_iface"); dev != "" {
		if !isDevice(dev) {
			return nil, "src_iface is not the name of a device"
		}
		all = append(all, pred("iface.in", dev))
		r.whys = append(r.whys, "src_iface names an interface of /etc/config/network: put its device")
	}
	if s.get("src_mac") != "" {
		return nil, "the option src_mac is not known"
	}
	if s.get("sticky") == "1" {
		r.sticky = number(s.get("timeout"), 600, 1, 86400)
	}
	return all, ""
}

// addresses reads prefixes, and narrows the rule's families to theirs.
func (m *mwan) addresses(r *mwanRule, val, field string) (k cond, given bool, problem string) {
	words := strings.FieldsFunc(val, func(c rune) bool { return c == ',' || c == ' ' })
	if len(words) == 0 {
		return cond{}, false, ""
	}
	var kids []cond
	var has, whole [2]bool
	for _, w := range words {
		c, note, problem := prefixCond(field, w)
		if problem != "" {
			return cond{}, false, problem
		}
		if err := m.count(r.s.line, 1); err != nil {
			return cond{}, false, "too many values"
		}
		if note != "" {
			r.whys = append(r.whys, note)
		}
		v6 := 0
		if strings.Contains(c.vals[0], ":") {
			v6 = 1
		}
		has[v6] = true
		whole[v6] = whole[v6] || strings.HasSuffix(c.vals[0], "/0")
		kids = append(kids, c)
		if field == "dst.ip" && isPrivate(c.vals[0]) {
			m.locals = append(m.locals, c.vals[0])
		}
	}
	for v := range r.families {
		r.families[v] = r.families[v] && has[v]
	}
	if (!has[0] || whole[0]) && (!has[1] || whole[1]) {
		return cond{}, false, "" // the family says it all
	}
	return or(kids...), true, ""
}

// isPrivate reports a prefix that lies in one of private.
func isPrivate(s string) bool {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return false
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	for _, q := range private {
		outer, err := netip.ParsePrefix(q)
		if err == nil && outer.Bits() <= p.Bits() && outer.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// place puts a rule into the policy: once, or once for each family where its
// policy treats them differently.
func (m *mwan) place(r *mwanRule, covered *[2]bool) error {
	s := r.s
	policy := s.get("use_policy")
	var to [2]target
	for v, family := range mwanFamilies {
		if !r.families[v] {
			continue
		}
		var err error
		switch {
		case m.policies[policy] != nil:
			to[v], err = m.target(policy, family, r.sticky)
			if has := m.families(policy); !has[v] && has[1-v] && s.get("family") == "" {
				r.whys = append(r.whys, "the policy has no line of "+family+": such flows get its last_resort, as in mwan3")
			}
		case policy == "default":
			to[v] = m.builtin("main", "main")
		case policy == "blackhole":
			to[v] = target{block: "drop"}
		default:
			to[v] = target{block: "reject"}
		}
		if err != nil {
			return err
		}
	}
	verdict, why := Carried, strings.Join(r.whys, "; ")
	if why != "" {
		verdict = Approximated
	}
	what := "rule " + s.name
	var places []string
	put := func(k cond, t target) {
		if k.op == opAny {
			m.setDefault(t, fmt.Sprintf("line %d: %s", s.line, what))
			m.defLog = s.get("logging") == "1"
			places = append(places, "default")
			return
		}
		n := m.ruleNames.pick(s.name, "rule")
		m.builder.rules = append(m.builder.rules, &rule{name: n, when: k, to: t, log: s.get("logging") == "1", from: []origin{{s.line, what}}})
		places = append(places, "rule "+n)
	}
	open := [2]bool{r.families[0] && !covered[0], r.families[1] && !covered[1]}
	switch {
	case open == [2]bool{}:
		m.say(s.line, what, Dropped, "", "never reached: the rules before it match all of its family")
		return nil
	case open[0] && open[1] && to[0] == to[1]:
		put(r.cond, to[0])
	default:
		for v := range open {
			if !open[v] {
				continue
			}
			k := and(wholeFamily[v], r.cond)
			if r.cond.op == opAny && (covered[1-v] || v == 1 && open[0]) {
				k = anything // all that is left is of this family
			} else if covered[1-v] || r.cond.family(v) {
				k = r.cond
			}
			put(k, to[v])
		}
	}
	if r.cond.op == opAny {
		covered[0], covered[1] = covered[0] || open[0], covered[1] || open[1]
	}
	m.say(s.line, what, verdict, strings.Join(places, ", "), why)
	return nil
}

// family reports a condition that only holds for flows of one family, by its
// own addresses.
func (c cond) family(v int) bool {
	switch {
	case c.op == opAnd:
		for _, k := range c.kids {
			if k.family(v) {
				return true
			}
		}
	case c.op == opPred && (c.field == "dst.ip" || c.field == "src.ip") && c.set == "":
		for _, val := range c.vals {
			if strings.Contains(val, ":") != (v == 1) {
				return false
			}
		}
		return true
	}
	return false
}
