package foreign

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// clashCond is what a rule of Clash asks for.
type clashCond struct {
	cond    cond
	why     string // what differs; the meaning is nearly the same
	note    string // something to know; the meaning is the same
	problem string // it can't be said
}

// readRules walks the rules in their order; MATCH ends them.
func (c *clash) readRules() error {
	rules := get(c.root, "rules")
	if rules != nil && rules.Kind != yaml.SequenceNode && rules.Tag != "!!null" {
		return c.fail(rules.Line, "`rules` is not a list")
	}
	if err := c.walk(list(rules), anything, 0, true); err != nil {
		return err
	}
	if c.otherwise == nil {
		c.setDefault(c.builtin("direct", "main"), "no MATCH: what no rule names goes direct")
	}
	for _, kv := range keys(get(c.root, "sub-rules")) {
		if !c.subTold[kv[0].Value] {
			c.say(kv[0].Line, "sub-rules "+kv[0].Value, Dropped, "", "no rule uses them")
		}
	}
	return nil
}

func (b *builder) setDefault(t target, note string) { b.otherwise, b.defNote = &t, note }

// walk reads a list of rules; under is the condition of the SUB-RULE around it,
// told whether their lines go into the report.
func (c *clash) walk(rules []*yaml.Node, under cond, depth int, told bool) error {
	ended := 0 // the line of a MATCH
	for _, n := range rules {
		if n = follow(n); n == nil {
			continue
		}
		if err := c.count(n.Line, 1); err != nil {
			return err
		}
		before := len(c.report)
		switch {
		case n.Kind != yaml.ScalarNode:
			c.say(n.Line, "a rule that is not a text", Dropped, "", "rules are texts such as DOMAIN,example.com,DIRECT")
		case ended > 0:
			c.say(n.Line, n.Value, Dropped, "", "never reached: line "+strconv.Itoa(ended)+" matches all")
		default:
			all, err := c.rule(n, under, depth, told)
			if err != nil {
				return err
			}
			if all {
				ended = n.Line
			}
		}
		if !told {
			c.report = c.report[:before]
		}
	}
	return nil
}

// splitRule cuts a rule at its commas. The payload of logic and expressions may
// have commas itself.
func splitRule(s string, target bool) (kind, payload, to string, params []string) {
	items := strings.Split(s, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	kind = strings.ToUpper(items[0])
	rest := items[1:]
	switch {
	case kind == "MATCH" || kind == "FINAL":
		if len(rest) > 0 {
			to, params = rest[0], rest[1:]
		}
	case slices.Contains([]string{"AND", "OR", "NOT", "SUB-RULE", "DOMAIN-REGEX", "PROCESS-NAME-REGEX", "PROCESS-PATH-REGEX"}, kind):
		if n := len(rest); target && n > 0 {
			to, rest = rest[n-1], rest[:n-1]
		}
		payload = strings.Join(rest, ",")
	default:
		if len(rest) > 0 {
			payload, rest = rest[0], rest[1:]
		}
		if target && len(rest) > 0 {
			to, rest = rest[0], rest[1:]
		}
		params = rest
	}
	return kind, payload, to, params
}

// rule reads one rule; all is true when it matches everything that reaches it.
func (c *clash) rule(n *yaml.Node, under cond, depth int, told bool) (all bool, err error) {
	kind, payload, to, params := splitRule(n.Value, true)
	drop := func(why string) (bool, error) {
		c.say(n.Line, n.Value, Dropped, "", why)
		return false, nil
	}
	if to == "" {
		return drop("the rule has no target")
	}
	if kind == "SUB-RULE" {
		return false, c.subRule(n, payload, to, under, depth, told)
	}
	t, unknown := c.target(to)
	if t.pass {
		return drop("PASS goes on with the next rule, as if this one were not there")
	}
	if kind == "MATCH" || kind == "FINAL" {
		if under.op == opAny {
			c.setDefault(t, fmt.Sprintf("line %d: %s", n.Line, n.Value))
			v := Carried
			if unknown != "" {
				v = Approximated
			}
			c.say(n.Line, n.Value, v, "default", unknown)
			return true, nil
		}
		c.addRule(to, under, t, origin{n.Line, n.Value}, Carried, unknown)
		return true, nil
	}
	r := c.condition(kind, payload, params, 0)
	if r.problem != "" {
		return drop(r.problem)
	}
	v, whys := Carried, []string{}
	if r.why != "" || unknown != "" {
		v = Approximated
	}
	for _, w := range []string{r.why, r.note, unknown} {
		if w != "" {
			whys = append(whys, w)
		}
	}
	k := and(under, r.cond)
	if k.op == opAny {
		c.setDefault(t, fmt.Sprintf("line %d: %s", n.Line, n.Value))
		c.say(n.Line, n.Value, v, "default", strings.Join(whys, "; "))
		return true, nil
	}
	c.addRule(to, k, t, origin{n.Line, n.Value}, v, strings.Join(whys, "; "))
	return false, nil
}

// subRule puts the rules of a named list in place, each with the condition of
// the SUB-RULE: what no rule of the list takes goes on behind it.
func (c *clash) subRule(n *yaml.Node, payload, name string, under cond, depth int, told bool) error {
	sub := c.subs[name]
	r := c.logic("AND", "("+payload+")", 0)
	if strings.HasPrefix(payload, "((") {
		r = c.logic("AND", payload, 0)
	}
	switch {
	case sub == nil:
		r.problem = "no sub-rules are called " + strconv.Quote(clean(name))
	case depth >= 8:
		r.problem = "sub-rules are nested too deeply"
	}
	if r.problem != "" {
		c.say(n.Line, n.Value, Dropped, "", r.problem)
		return nil
	}
	why, v := r.note, Carried
	if r.why != "" {
		why, v = r.why, Approximated
	}
	c.say(n.Line, n.Value, v, "the rules of "+name, why)
	first := !c.subTold[name]
	c.subTold[name] = true
	return c.walk(list(sub), and(under, r.cond), depth+1, told && first)
}

// clashNot are the rules that can't be said, and why.
var clashNot = map[string]string{
	"IP-SUFFIX": "a mask on the last bits of an address can't be said", "SRC-IP-SUFFIX": "a mask on the last bits of an address can't be said",
	"SRC-IP-ASN": "asn is that of the destination",
	"IN-PORT":    "netpolicy has no inbounds", "IN-TYPE": "netpolicy has no inbounds", "IN-USER": "netpolicy has no inbounds", "IN-NAME": "netpolicy has no inbounds",
	"PROCESS-NAME-REGEX": "programs are matched by names and *, not by expressions", "PROCESS-PATH-REGEX": "programs are matched by names and *, not by expressions",
	"SCRIPT": "rules by script can't be said in a policy", "URL-REGEX": "netpolicy does not see urls", "USER-AGENT": "netpolicy does not see this header",
}

// condition reads one condition, without its target.
func (c *clash) condition(kind, payload string, params []string, depth int) clashCond {
	var r clashCond
	source := slices.Contains(params, "src")
	ip := "dst.ip"
	if source {
		ip = "src.ip"
	}
	if slices.Contains(params, "no-resolve") {
		r.note = "no-resolve has no meaning here: the destination's address is always known"
	}
	if payload == "" {
		r.problem = "the rule has no value"
		return r
	}
	switch kind {
	case "DOMAIN":
		r.cond, r.problem = nameCond(exactName, payload)
	case "DOMAIN-SUFFIX":
		r.cond, r.problem = nameCond(suffixName, strings.TrimPrefix(payload, "."))
	case "DOMAIN-KEYWORD":
		r.cond, r.problem = keywordCond(payload)
	case "DOMAIN-REGEX":
		r.cond, r.problem = regexCond("(?i)" + payload)
	case "DOMAIN-WILDCARD":
		r.cond, r.problem = wildcardCond(payload)
	case "IP-CIDR", "IP-CIDR6", "SRC-IP-CIDR":
		if kind == "SRC-IP-CIDR" {
			ip = "src.ip"
		}
		var note string
		r.cond, note, r.problem = prefixCond(ip, payload)
		r.note = strings.Trim(r.note+"; "+note, "; ")
	case "GEOIP", "SRC-GEOIP":
		if kind == "SRC-GEOIP" {
			ip = "src.ip"
		}
		r.cond, r.why = c.geoip(ip, payload)
	case "GEOSITE":
		r.cond, r.why = c.geosite(payload)
	case "IP-ASN":
		if n, err := strconv.ParseUint(payload, 10, 32); err != nil {
			r.problem = "not the number of an autonomous system"
		} else if source {
			r.problem = clashNot["SRC-IP-ASN"]
		} else {
			r.cond = pred("asn", strconv.FormatUint(n, 10))
		}
	case "DST-PORT", "SRC-PORT":
		field := map[string]string{"DST-PORT": "port", "SRC-PORT": "src.port"}[kind]
		r.cond, r.problem = portsCond(field, strings.Split(payload, "/"), "-")
	case "PROCESS-NAME", "PROCESS-PATH":
		field := map[string]string{"PROCESS-NAME": "process", "PROCESS-PATH": "process.path"}[kind]
		r.cond, r.problem = globCond(field, payload)
		r.note = "capitals count here"
	case "PROCESS-NAME-WILDCARD", "PROCESS-PATH-WILDCARD":
		field := map[string]string{"PROCESS-NAME-WILDCARD": "process", "PROCESS-PATH-WILDCARD": "process.path"}[kind]
		r.cond, r.why, r.problem = processGlob(field, payload)
	case "NETWORK":
		r.cond, r.problem = protoCond(payload)
	case "DSCP":
		r.cond, r.problem = dscpCond(payload)
	case "UID":
		if r.problem = "netpolicy knows users by name: write `user NAME`"; payload == "0" {
			r.cond, r.problem = pred("user", quote("root")), ""
		}
	case "RULE-SET":
		r.cond, r.why, r.problem = c.ruleSet(payload, ip)
	case "AND", "OR", "NOT":
		return c.logic(kind, payload, depth+1)
	case "SUB-RULE":
		r.problem = "SUB-RULE can't stand in a condition"
	default:
		if r.problem = clashNot[kind]; r.problem == "" {
			r.problem = "the rule type is not known"
		}
	}
	return r
}

// processGlob turns * and ? into *; a run of * is one.
func processGlob(field, s string) (c cond, why, problem string) {
	why = "* does not cross a /, and capitals count here"
	if strings.Contains(s, "?") {
		why += "; ? is taken as *"
	}
	s = strings.ReplaceAll(s, "?", "*")
	for strings.Contains(s, "**") {
		s = strings.ReplaceAll(s, "**", "*")
	}
	if strings.Count(s, "*") > 3 || len(s) > 4096 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return cond{}, "", "a pattern has at most three *"
	}
	return pred(field, quote(s)), why, ""
}

func dscpCond(payload string) (cond, string) {
	var vals []string
	for part := range strings.SplitSeq(payload, "/") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			hi = lo
		}
		from, err := strconv.ParseUint(lo, 10, 8)
		to, err2 := strconv.ParseUint(hi, 10, 8)
		if err != nil || err2 != nil || from > to || to > 63 {
			return cond{}, "dscp is a number from 0 to 63"
		}
		for n := from; n <= to; n++ {
			vals = append(vals, strconv.FormatUint(n, 10))
		}
	}
	return pred("dscp", unique(vals)...), ""
}

// geo returns the set of a part of geosite.dat or geoip.dat.
func (b *builder) geo(kind, name, url string) *set {
	source := "file " + quote(kind+".dat")
	if isURL(url) {
		source = "url " + quote(url)
	}
	t := map[string]string{"geosite": "domain", "geoip": "cidr"}[kind]
	return b.addSet(kind+"_"+name, t, source+" select "+quote(name)+" format "+kind, "", nil)
}

const geoipWhy = "by geoip.dat, which has to lie beside the policy or be fetched, and may differ from the database used so far"

func (c *clash) geoip(field, name string) (cond, string) {
	if name = strings.ToLower(name); name == "lan" || name == "private" {
		return inSet(field, c.privateSet()), ""
	}
	return inSet(field, c.geo("geoip", name, c.geoURLs["geoip"]).name), geoipWhy
}

const geositeWhy = "by geosite.dat, which has to lie beside the policy or be fetched"

func (c *clash) geosite(name string) (cond, string) {
	return inSet("domain", c.geo("geosite", strings.ToLower(name), c.geoURLs["geosite"]).name), geositeWhy
}

func (b *builder) privateSet() string {
	return b.addSet("private", "cidr", "", "addresses that are not of the internet", private).name
}

// ruleSet names the sets of a provider.
func (c *clash) ruleSet(name, ip string) (k cond, why, problem string) {
	l := c.lists[name]
	switch {
	case l == nil:
		return cond{}, "", "no rule-provider is called " + strconv.Quote(clean(name))
	case l.problem != "":
		return cond{}, "", "its rule-provider can't be used: " + l.problem
	case len(l.inline) > 0:
		if ip == "src.ip" {
			return cond{}, "", "an inline list can't be turned to the source"
		}
		return or(l.inline...), l.why, ""
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

// logic reads ((A),(B)) for AND, OR and NOT.
func (c *clash) logic(kind, payload string, depth int) clashCond {
	bad := func(why string) clashCond { return clashCond{problem: why} }
	if depth > maxDepth {
		return bad("logic is nested too deeply")
	}
	parts, ok := logicParts(payload)
	switch {
	case !ok:
		return bad("the logic is not written as ((TYPE,value),(TYPE,value))")
	case kind == "NOT" && len(parts) != 1:
		return bad("NOT takes one condition")
	}
	var r clashCond
	var kids []cond
	for _, p := range parts {
		if err := c.count(0, 1); err != nil {
			return bad("too many conditions")
		}
		kind, payload, _, params := splitRule(p, false)
		k := c.condition(kind, payload, params, depth)
		if k.problem != "" {
			return bad(clean(p) + ": " + k.problem)
		}
		if k.why != "" {
			r.why = k.why
		}
		if k.note != "" {
			r.note = k.note
		}
		kids = append(kids, k.cond)
	}
	switch kind {
	case "AND":
		r.cond = and(kids...)
	case "OR":
		r.cond = or(kids...)
	default:
		if r.cond, ok = not(kids[0]); !ok {
			return bad("the condition is never true")
		}
	}
	return r
}

// logicParts cuts "((A),(B))" into A and B.
func logicParts(s string) ([]string, bool) {
	s = strings.TrimSpace(s)
	if len(s) < 4 || s[0] != '(' || s[len(s)-1] != ')' {
		return nil, false
	}
	s = s[1 : len(s)-1]
	var parts []string
	depth, start := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			if depth++; depth == 1 {
				start = i + 1
			}
		case ')':
			if depth--; depth < 0 {
				return nil, false
			} else if depth == 0 {
				parts = append(parts, s[start:i])
			}
		case ',', ' ':
		default:
			if depth == 0 {
				return nil, false
			}
		}
	}
	return parts, depth == 0 && len(parts) > 0
}
