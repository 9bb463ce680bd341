package yaml

import (
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// What users of other tools write first, and of NPL: the edit distance would
// mislead them. The keys of the maps are in the spelling of plainKey and lower
// case; a value with a blank is the whole help, others name the key.
var (
	topWords = map[string]string{
		"import": "imports", "set": "sets", "condition": "conditions", "assert": "assertions", "asserts": "assertions",
		"tests": "assertions", "never": "write `invariants: [{never: ..., expect: ...}]`",
		"always": "write `invariants: [{always: ..., expect: ...}]`", "unreachable": "write `invariants: [{unreachable: none}]`",
		"policy": "write `version: 1`", "lists": "sets", "rule_providers": "sets", "rule_sets": "sets", "rule_set": "sets", "geoip": "sets",
		"proxies": "routes", "outbounds": "routes", "outbound": "routes", "endpoints": "routes", "proxy_groups": "groups",
		"proxy_providers": "routes", "interfaces": "uplinks", "members": "groups", "policies": "groups", "links": "uplinks",
		"final": "write `default: {route: ...}`", "limits": "throttles or quotas",
	}
	ruleWords = map[string]string{
		"outbound": "write `action: {route: ...}`", "proxy": "write `action: {route: ...}`", "use_policy": "write `action: {route: ...}`",
		"via": "write `action: {route: ...}`", "target": "write `action: {route: ...}`", "policy": "write `action: {route: ...}`",
		"do": "action", "then": "action", "actions": "action", "if": "match", "conditions": "match", "condition": "when",
		"schedule": "write `when: {schedule: ...}`", "quota": "write `when: {quota: ...}`", "comment": "description",
		"enabled": "write `disabled: true` to switch the rule off", "enable": "write `disabled: true` to switch the rule off",
		"disabled_in": "disable", "weight": "priority", "order": "priority", "id": "name", "title": "name",
		"type": "write the fields under match: `match: {domain: .example.com}`",
	}
	matchWords = map[string]string{
		"dst_port": "port", "dest_port": "port", "dport": "port", "destination_port": "port", "ports": "port", "port_range": "port",
		"sport": "src_port", "source_port": "src_port", "ip": "dst_ip", "ip_cidr": "dst_ip", "ip_cidr6": "dst_ip", "dest_ip": "dst_ip",
		"destination": "dst_ip", "daddr": "dst_ip", "dst": "dst_ip", "cidr": "dst_ip", "source": "src_ip", "saddr": "src_ip", "src": "src_ip",
		"source_ip": "src_ip", "source_ip_cidr": "src_ip", "src_ip_cidr": "src_ip", "host": "sni or domain", "hostname": "sni or domain",
		"domains": "domain", "interface": "iface_in", "inbound": "iface_in", "in_interface": "iface_in", "out_interface": "iface_out",
		"uid": "user", "user_id": "user", "network": "protocol", "process_name": "process", "mac": "src_mac", "source_mac": "src_mac",
		"source_mac_address": "src_mac", "geoip": "country, or a set with `format: geoip`", "and": "all", "or": "any_of",
		"domain_suffix":  "write `domain: .example.com`: with the dot it is the name and everything under it",
		"domain_keyword": patternHelp("keyword"), "domain_regex": patternHelp("regex"), "geosite": geositeHelp("NAME"),
		"rule_set": "name the set under a field: `domain: {in: NAME}`", "ruleset": "name the set under a field: `domain: {in: NAME}`",
		"set": "name the set under a field: `domain: {in: NAME}`", "outbound": "write `action: {route: ...}` beside match",
		"uplink": "write `uplink.NAME.rtt`", "route": "write `route.NAME.rtt`, or `action: {route: ...}` beside match",
		"time": "declare a schedule, and write `when: {schedule: NAME}`", "weekday": "declare a schedule, and write `when: {schedule: NAME}`",
		"loss": "write `uplink.NAME.loss`", "jitter": "write `uplink.NAME.jitter`",
	}
	actionKeyWords = map[string]string{
		"outbound": "route", "proxy": "route", "via": "route", "use_policy": "route", "policy": "route", "target": "route",
		"reject": "write `block: reject`", "drop": "write `block: drop`", "deny": "write `block: drop`",
		"limit": "throttle", "rate_limit": "throttle", "shape": "throttle", "set_mark": "mark", "fwmark": "mark",
		"allow":  "name a route `via main`: `routes: {direct: {via: main}}` and `route: direct`",
		"accept": "name a route `via main`: `routes: {direct: {via: main}}` and `route: direct`",
		"pass":   "name a route `via main`: `routes: {direct: {via: main}}` and `route: direct`",
	}
	memberWords = map[string]string{
		"not": "not_in", "except": "not_in", "exclude": "not_in", "notin": "not_in", "set": "in", "any_of": "in", "one_of": "in",
		"matches": "like", "glob": "like", "gt": `write ">5"`, "lt": `write "<5"`, "ge": `write ">=5"`, "le": `write "<=5"`,
		"above": `write ">5"`, "below": `write "<5"`, "eq": "write the value itself", "is": "write the value itself",
	}
)

// foreignKey is the help for a key of another tool, or "".
func foreignKey(words map[string]string, key string) string {
	help, ok := words[strings.ToLower(plainKey(key))]
	switch {
	case !ok:
		return ""
	case strings.Contains(help, "`") || strings.HasPrefix(help, "write "):
		return help
	default:
		return "write `" + help + "`"
	}
}

func patternHelp(kind string) string {
	return "declare a set, `sets: {NAME: {type: domain, values: ['" + kind + " \"...\"']}}`, and write `domain: {in: NAME}`"
}

func geositeHelp(name string) string {
	return "declare a set, `sets: {" + name + ": {type: domain, file: geosite.dat, select: " + name +
		", format: geosite}}`, and write `domain: {in: " + name + "}`"
}

// foreignValue reports values in the notation of other tools, such as
// geosite:netflix, and whether it was one.
func (l *loader) foreignValue(w rules.Word, inSet bool) bool {
	kind, rest, ok := strings.Cut(w.Text, ":")
	if !ok {
		return false
	}
	help := ""
	switch kind {
	case "geosite":
		name := "NAME"
		if rules.IsName(rest) {
			name = rest
		}
		if help = geositeHelp(name); inSet {
			help = "instead of values write `file: geosite.dat, select: " + name + ", format: geosite`"
		}
	case "geoip":
		if help = "write `country: " + strings.ToUpper(rest) + "`, or declare a set with `format: geoip`"; inSet {
			help = "instead of values write `file: geoip.dat, select: " + rest + ", format: geoip`"
		}
	case "domain", "domain-suffix":
		help = "write `." + rest + "`"
	case "full":
		help = "write `" + rest + "`"
	case "keyword", "regexp", "regex":
		kind = strings.TrimSuffix(kind, "p")
		if help = patternHelp(kind); inSet {
			help = "write `'" + kind + " \"" + rest + "\"'`"
		}
	case "rule-set", "rule_set", "set", "ext":
		help = "declare a set, and write `domain: {in: NAME}`"
	default:
		return false
	}
	l.report("NP004", w.Span, "expected a value, found %s in the notation of another tool", diag.Quote(w.Text)).Help = help
	return true
}

// foreignAction is the help for a short string of one word that other tools have, or "".
func foreignAction(text string) string {
	switch strings.ToLower(text) {
	case "reject":
		return "write `block reject`"
	case "reject-drop", "drop", "deny", "blocked", "blackhole":
		return "write `block drop`"
	case "direct", "allow", "accept", "pass", "bypass":
		return "declare a route, `routes: {direct: {via: main}}`, and write `route direct`"
	default:
		return ""
	}
}
