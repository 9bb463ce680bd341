package foreign

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// boxCond is what a rule of sing-box asks for.
type boxCond struct {
	cond    cond
	why     string // what differs
	problem string // it can't be said
}

// rules reads route.rules and route.final.
func (s *singbox) rules() error {
	ended := 0
	for _, v := range s.route.get("rules").list() {
		if err := s.count(v.line, 1); err != nil {
			return err
		}
		what := boxText(v)
		if ended > 0 {
			s.say(v.line, what, Dropped, "", "never reached: the rule of line "+strconv.Itoa(ended)+" matches all")
			continue
		}
		all, err := s.rule(v, what)
		if err != nil {
			return err
		}
		if all {
			ended = v.line
		}
	}
	final := s.route.get("final")
	name := s.route.str("final")
	switch {
	case ended > 0 && final != nil:
		s.say(final.line, "final: "+name, Dropped, "", "never reached: the rule of line "+strconv.Itoa(ended)+" matches all")
	case ended > 0:
	case name == "" && len(s.order) == 0:
		s.setDefault(s.builtin("direct", "main"), "no final and no outbound: direct")
	default:
		line, note := 0, "no final: the first outbound"
		if name == "" {
			name = s.order[0]
		} else {
			line, note = final.line, fmt.Sprintf("line %d: final: %s", final.line, name)
		}
		t, why := s.target(name)
		v := Carried
		if why != "" {
			v = Approximated
		}
		if t.pass {
			t, v, why = s.builtin("direct", "main"), Approximated, "the outbound answers DNS only: the rest goes direct"
		}
		s.setDefault(t, note)
		if line > 0 {
			s.say(line, "final: "+name, v, "default", why)
		}
	}
	return nil
}

// boxText shows a rule on one line.
func boxText(v *value) string {
	var b strings.Builder
	boxWrite(&b, v)
	return b.String()
}

func boxWrite(b *strings.Builder, v *value) {
	if b.Len() > 4*maxShown {
		return
	}
	switch v.kind {
	case '{', '[':
		b.WriteByte(v.kind)
		for i, kid := range v.vals {
			if i > 0 {
				b.WriteString(", ")
			}
			if v.kind == '{' {
				b.WriteString(v.keys[i] + ": ")
			}
			if boxWrite(b, kid); b.Len() > 4*maxShown {
				return
			}
		}
		b.WriteByte(v.kind + 2) // { and }, [ and ] are two apart
	default:
		b.WriteString(v.text)
	}
}

// boxStay are the actions after which sing-box goes on with the next rule.
var boxStay = map[string]string{
	"sniff":         "netpolicy always looks for the name in TLS and HTTP",
	"resolve":       "has no meaning here: the destination's address is always known",
	"route-options": "an option of the dialer",
	"hijack-dns":    "netpolicy is no resolver: DNS goes on with the next rules",
}

// rule reads one rule; all is true when it matches everything.
func (s *singbox) rule(v *value, what string) (all bool, err error) {
	drop := func(why string) (bool, error) {
		s.say(v.line, what, Dropped, "", why)
		return false, nil
	}
	if v.kind != '{' {
		return drop("a rule is an object")
	}
	var t target
	var whys []string
	want := v.str("outbound")
	switch action := v.str("action"); action {
	case "", "route":
		if want == "" {
			return drop("the rule has no outbound")
		}
		var why string
		if t, why = s.target(want); why != "" {
			whys = append(whys, why)
		}
		if t.pass {
			return drop(boxStay["hijack-dns"])
		}
	case "reject":
		want, t.block = "reject", "reject"
		switch method := v.str("method"); method {
		case "", "default":
		case "drop":
			t.block = "drop"
		default:
			whys = append(whys, "the method "+method+" is not known: it is a plain reject")
		}
	case "bypass":
		want = "bypass"
		t = s.builtin("direct", "main")
		whys = append(whys, "goes where the main routing table leads")
	default:
		if why := boxStay[action]; why != "" {
			return drop(why)
		}
		return drop("the action is not known")
	}
	c := s.condition(v, 0)
	if c.problem != "" {
		return drop(c.problem)
	}
	if c.why != "" {
		whys = append(whys, c.why)
	}
	verdict := Carried
	if len(whys) > 0 {
		verdict = Approximated
	}
	why := strings.Join(whys, "; ")
	if c.cond.op == opAny {
		s.setDefault(t, fmt.Sprintf("line %d: %s", v.line, what))
		s.say(v.line, what, verdict, "default", why)
		return true, nil
	}
	s.addRule(want, c.cond, t, origin{v.line, what}, verdict, why)
	return false, nil
}

// boxAction are keys of a rule that are no conditions.
var boxAction = []string{
	"type", "mode", "rules", "invert", "action", "outbound", "method", "no_drop", "timeout", "sniffer", "server", "strategy",
	"override_address", "override_port", "network_strategy", "fallback_network_type", "fallback_delay", "udp_disable_domain_unmapping",
	"udp_connect", "udp_timeout", "tls_fragment", "tls_fragment_fallback_delay", "tls_record_fragment", "disable_cache", "rewrite_ttl", "client_subnet",
	"rule_set_ip_cidr_match_source", "rule_set_ipcidr_match_source",
}

// boxNot are the conditions that can't be said, and why.
var boxNot = map[string]string{
	"inbound": "netpolicy has no inbounds", "auth_user": "netpolicy has no inbounds",
	"client": "netpolicy does not tell clients apart", "clash_mode": "follows a switch of the Clash API, which a policy has not",
	"process_path_regex": "programs are matched by names and *, not by expressions",
	"package_name":       "Android's packages are not known", "user_id": "netpolicy knows users by name: write `user NAME`",
	"network_type": "the kind of network is not known", "network_is_expensive": "the kind of network is not known",
	"network_is_constrained": "the kind of network is not known", "wifi_ssid": "the Wi-Fi's name is not known", "wifi_bssid": "the Wi-Fi's name is not known",
}

// condition reads a rule's conditions. The destination's names and addresses are
// alternatives of each other, as are port and port_range, source addresses, and
// source ports; all of these groups, and every other field, have to hold.
func (s *singbox) condition(v *value, depth int) boxCond {
	if depth > maxDepth {
		return boxCond{problem: "logic is nested too deeply"}
	}
	var r boxCond
	if v.str("type") == "logical" {
		r = s.logical(v, depth)
	} else {
		r = s.fields(v)
	}
	if r.problem == "" && v.str("invert") == "true" {
		var ok bool
		if r.cond, ok = not(r.cond); !ok {
			r.problem = "the condition is never true"
		}
	}
	return r
}

func (s *singbox) logical(v *value, depth int) boxCond {
	var r boxCond
	var kids []cond
	for _, kid := range v.get("rules").list() {
		if err := s.count(kid.line, 1); err != nil {
			return boxCond{problem: "too many conditions"}
		}
		k := s.condition(kid, depth+1)
		if k.problem != "" {
			return k
		}
		if k.why != "" {
			r.why = k.why
		}
		kids = append(kids, k.cond)
	}
	switch mode := v.str("mode"); {
	case len(kids) == 0:
		r.problem = "the logical rule has no rules"
	case mode == "and":
		r.cond = and(kids...)
	case mode == "or":
		r.cond = or(kids...)
	default:
		r.problem = "a logical rule has the mode and, or or"
	}
	return r
}

// boxGroups collects a rule's alternatives by group.
type boxGroups struct {
	groups [4][]cond // destination, destination port, source, source port
	rest   []cond
	why    string
}

const (
	boxDst = iota
	boxPort
	boxSrc
	boxSrcPort
)

// boxFields say in which group a field stands; those not named are on their own.
var boxFields = map[string]int{
	"domain": boxDst, "domain_suffix": boxDst, "domain_keyword": boxDst, "domain_regex": boxDst, "geosite": boxDst, "geoip": boxDst,
	"ip_cidr": boxDst, "ip_is_private": boxDst, "rule_set": boxDst, "port": boxPort, "port_range": boxPort,
	"source_ip_cidr": boxSrc, "source_ip_is_private": boxSrc, "source_geoip": boxSrc, "source_port": boxSrcPort, "source_port_range": boxSrcPort,
}

func (s *singbox) fields(v *value) boxCond {
	if v.kind != '{' {
		return boxCond{problem: "a rule is an object"}
	}
	var g boxGroups
	for i, key := range v.keys {
		val := v.vals[i]
		if slices.Contains(boxAction, key) || val.kind == 0 && (val.text == "false" || val.text == "null") || val.kind == '[' && len(val.vals) == 0 {
			continue
		}
		kids, why, problem := s.field(v, key, val)
		if problem != "" {
			return boxCond{problem: key + ": " + problem}
		}
		if why != "" {
			g.why = why
		}
		odd := func(e *value) bool { return e.kind != '"' && e.kind != 0 }
		if len(kids) == 0 || slices.ContainsFunc(val.list(), odd) {
			return boxCond{problem: key + ": no value that can be used"}
		}
		if group, ok := boxFields[key]; ok {
			g.groups[group] = append(g.groups[group], kids...)
		} else {
			g.rest = append(g.rest, or(kids...))
		}
	}
	var all []cond
	for _, group := range g.groups {
		if len(group) > 0 {
			all = append(all, or(group...))
		}
	}
	return boxCond{cond: and(append(all, g.rest...)...), why: g.why}
}

// field reads the alternatives of one field.
func (s *singbox) field(v *value, key string, val *value) (kids []cond, why, problem string) {
	each := func(read func(string) (cond, string)) {
		for _, text := range val.strs() {
			if err := s.count(val.line, 1); err != nil {
				problem = "too many values"
				return
			}
			c, p := read(text)
			if p != "" {
				problem = strconv.Quote(clean(text)) + ": " + p
				return
			}
			kids = append(kids, c)
		}
	}
	one := func(c cond) { kids = append(kids, c) }
	switch key {
	case "domain":
		each(func(t string) (cond, string) { return nameCond(exactName, t) })
	case "domain_suffix":
		each(func(t string) (cond, string) {
			if rest, ok := strings.CutPrefix(t, "."); ok {
				return nameCond(underName, rest)
			}
			return nameCond(suffixName, t)
		})
	case "domain_keyword":
		each(keywordCond)
	case "domain_regex":
		each(regexCond)
	case "ip_cidr", "source_ip_cidr":
		field := map[string]string{"ip_cidr": "dst.ip", "source_ip_cidr": "src.ip"}[key]
		each(func(t string) (cond, string) {
			c, note, p := prefixCond(field, t)
			if note != "" {
				why = note
			}
			return c, p
		})
	case "ip_is_private":
		one(inSet("dst.ip", s.privateSet()))
	case "source_ip_is_private":
		one(inSet("src.ip", s.privateSet()))
	case "geoip", "source_geoip":
		field := map[string]string{"geoip": "dst.ip", "source_geoip": "src.ip"}[key]
		each(func(t string) (cond, string) {
			if t = strings.ToLower(t); t == "private" {
				return inSet(field, s.privateSet()), ""
			}
			why = geoipWhy
			return inSet(field, s.geo("geoip", t, "").name), ""
		})
	case "geosite":
		why = geositeWhy
		each(func(t string) (cond, string) {
			return inSet("domain", s.geo("geosite", strings.ToLower(t), "").name), ""
		})
	case "rule_set":
		source := v.str("rule_set_ip_cidr_match_source") == "true" || v.str("rule_set_ipcidr_match_source") == "true"
		each(func(t string) (cond, string) {
			c, w, p := s.listCond(t, source)
			if w != "" {
				why = w
			}
			return c, p
		})
	case "port", "source_port", "port_range", "source_port_range":
		field := "port"
		if strings.HasPrefix(key, "source_") {
			field = "src.port"
		}
		each(func(t string) (cond, string) {
			return portsCond(field, []string{t}, ":")
		})
	case "process_name":
		each(func(t string) (cond, string) { return globCond("process", t) })
	case "process_path":
		each(func(t string) (cond, string) { return globCond("process.path", t) })
	case "user":
		each(func(t string) (cond, string) { return globCond("user", t) })
	case "network":
		each(func(t string) (cond, string) { return protoCond(t) })
	case "ip_version":
		each(ipVersion)
	case "protocol":
		each(func(t string) (cond, string) {
			c, w, p := sniffed(t)
			why = w
			return c, p
		})
	default:
		if problem = boxNot[key]; problem == "" {
			problem = "the condition is not known here"
		}
	}
	return kids, why, problem
}

func ipVersion(t string) (cond, string) {
	switch t {
	case "4":
		return pred("dst.ip", "0.0.0.0/0"), ""
	case "6":
		return pred("dst.ip", "::/0"), ""
	}
	return cond{}, "the versions are 4 and 6"
}

// sniffed turns a protocol that sing-box recognises by content into what can be
// told at the first packet.
func sniffed(t string) (k cond, why, problem string) {
	const byPort = "by its usual port, not by content"
	tcp, udp := pred("proto", "tcp"), pred("proto", "udp")
	switch t {
	case "bittorrent":
		return pred("app", "bittorrent"), "", ""
	case "tls":
		return and(tcp, pred("port", "443")), byPort, ""
	case "http":
		return and(tcp, pred("port", "80")), byPort, ""
	case "quic":
		return and(udp, pred("port", "443")), byPort, ""
	case "dns":
		return pred("port", "53"), byPort, ""
	case "ntp":
		return and(udp, pred("port", "123")), byPort, ""
	case "stun":
		return and(udp, pred("port", "3478")), byPort, ""
	case "ssh":
		return and(tcp, pred("port", "22")), byPort, ""
	case "rdp":
		return pred("port", "3389"), byPort, ""
	}
	return cond{}, "", "the protocol is not known here"
}

// listCond names the sets of a rule-set.
func (s *singbox) listCond(tag string, source bool) (c cond, why, problem string) {
	l := s.lists[tag]
	switch {
	case l == nil:
		return cond{}, "", "there is no such rule-set"
	case l.problem != "":
		return cond{}, "", "the rule-set can't be used: " + l.problem
	case l.inline != nil && source:
		return cond{}, "", "an inline rule-set can't be turned to the source"
	case l.inline != nil:
		return *l.inline, l.why, ""
	}
	ip := "dst.ip"
	if source {
		ip = "src.ip"
	}
	var kids []cond
	if l.domain != nil {
		kids = append(kids, inSet("domain", l.domain.name))
	}
	if l.cidr != nil {
		kids = append(kids, inSet(ip, l.cidr.name))
	}
	return or(kids...), l.why, ""
}
