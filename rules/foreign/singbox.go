package foreign

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// singbox reads a configuration of sing-box.
type singbox struct {
	*builder
	route *value
	outs  map[string]*boxOut
	order []string
	lists map[string]*boxList
}

// boxOut is an outbound; groups are resolved when first named.
type boxOut struct {
	v     *value
	to    target
	dns   bool // the old outbound that answers DNS
	state uint8
}

func importSingbox(b *builder, src []byte) error {
	root, err := readJSON(b, src)
	if err != nil {
		return err
	}
	if root.kind != '{' {
		return b.fail(root.line, "not a configuration of sing-box: the file is not an object")
	}
	s := &singbox{builder: b, route: root.get("route"), outs: map[string]*boxOut{}, lists: map[string]*boxList{}}
	s.top(root)
	for _, step := range []func() error{func() error { return s.outbounds(root) }, s.ruleSets, s.rules} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// boxTop are the keys beside outbounds and route.
var boxTop = map[string]string{
	"log": "a setting of the program, not a rule", "dns": "netpolicy is no resolver; it learns names from the DNS answers it sees",
	"ntp": "a setting of the program, not a rule", "inbounds": "netpolicy has no inbounds: it decides what the kernel forwards",
	"experimental": "settings of another program", "certificate": "a setting of the dialer", "services": "netpolicy offers no services",
}

// boxRoute are the keys of route that are no rules.
var boxRoute = map[string]string{
	"auto_detect_interface": "lines to the outside are uplinks: declare one and use it as the default route",
	"default_interface":     "lines to the outside are uplinks: declare one and use it as the default route",
	"default_mark":          "netpolicy's marks are in `daemon { mark_mask }`",
	"geoip":                 "the sets are read from geoip.dat", "geosite": "the sets are read from geosite.dat",
	"find_process": "netpolicy looks for the program when a rule asks for it",
}

func (s *singbox) top(root *value) {
	for i, key := range root.keys {
		switch why := boxTop[key]; {
		case key == "outbounds" || key == "endpoints" || key == "route" || key == "$schema":
		case why != "":
			s.say(root.at[i], key, Dropped, "", why)
		default:
			s.say(root.at[i], key, Dropped, "", "a setting of the program, not a rule")
		}
	}
	if s.route == nil || s.route.kind != '{' {
		return
	}
	for i, key := range s.route.keys {
		switch why := boxRoute[key]; {
		case key == "rules" || key == "rule_set" || key == "final":
		case why != "":
			s.say(s.route.at[i], "route."+key, Dropped, "", why)
		default:
			s.say(s.route.at[i], "route."+key, Dropped, "", "a setting of the dialer, not a rule")
		}
	}
}

// outbounds declares routes and groups.
func (s *singbox) outbounds(root *value) error {
	all := slices.Concat(root.get("outbounds").list(), root.get("endpoints").list())
	for _, v := range all {
		tag := v.str("tag")
		switch {
		case tag == "":
			s.say(v.line, "an outbound without a tag", Dropped, "", "nothing can refer to it")
			continue
		case s.outs[tag] != nil:
			s.say(v.line, "outbound "+tag, Dropped, "", "the tag is taken already")
			continue
		}
		s.outs[tag] = &boxOut{v: v}
		s.order = append(s.order, tag)
	}
	for _, tag := range s.order {
		if err := s.resolve(tag); err != nil {
			return err
		}
	}
	return nil
}

func (s *singbox) resolve(tag string) error {
	o := s.outs[tag]
	if o.state == 2 {
		return nil
	}
	o.state = 1
	defer func() { o.state = 2 }()
	kind, line := o.v.str("type"), o.v.line
	what := "outbound " + tag + " (" + kind + ")"
	note := fmt.Sprintf("line %d: %s", line, what)
	if err := s.count(line, 1); err != nil {
		return err
	}
	way := func(via string, v Verdict, why string) {
		d := s.declare("route", tag, "via "+via, note, nil, &Line{Line: line, Text: what, Verdict: v, Why: why})
		o.to = target{route: d.name}
	}
	switch dev := o.v.str("bind_interface"); kind {
	case "selector", "urltest":
		return s.group(o, tag, kind, what, note)
	case "direct":
		switch mark := o.v.str("routing_mark"); {
		case isDevice(dev):
			way("dev "+dev, Carried, "")
		case isMark(mark):
			way("mark "+mark, Carried, "")
		default:
			way("main", Carried, "")
		}
	case "block":
		o.to = target{block: "reject"}
		s.say(line, what, Carried, "block reject", "")
	case "dns":
		o.dns = true
		s.say(line, what, Dropped, "", "netpolicy is no resolver: DNS goes on with the next rules")
	case "wireguard":
		if dev := o.v.str("name") + o.v.str("interface_name"); o.v.str("system") == "true" && isDevice(dev) {
			way("dev "+dev, Approximated, "the tunnel itself has to be set up elsewhere; its keys are not copied")
			return nil
		}
		way("xray "+quote(tag), Approximated, "give the relay an outbound of this name, or use `via dev` with a tunnel of the kernel; keys are not copied")
	default:
		way("xray "+quote(tag), Approximated, "give the relay an outbound of this name; the server and its secrets are not copied")
	}
	return nil
}

// group declares a selector or urltest, its members first.
func (s *singbox) group(o *boxOut, tag, kind, what, note string) error {
	line := o.v.line
	var notes []string
	tags := unique(o.v.get("outbounds").strs())
	if err := s.count(line, len(tags)); err != nil {
		return err
	}
	if kind == "selector" {
		first := o.v.str("default")
		if first == "" && len(tags) > 0 {
			first = tags[0]
		}
		notes = append(notes, strconv.Quote(clean(first))+", the default, is taken: a policy has no choice by hand")
		note += ", of " + strings.Join(tags, ", ")
		tags = []string{first}
	} else {
		notes = append(notes, "measured by the probes of the members' uplinks, not by fetching the url; a change also needs 20 % and keeps min_hold")
	}
	if len(tags) > maxMembers {
		notes = append(notes, fmt.Sprintf("only the first %d of %d members", maxMembers, len(tags)))
		tags = tags[:maxMembers]
	}
	var ways []target
	for _, m := range tags {
		if other := s.outs[m]; other != nil && other.state == 1 {
			notes = append(notes, "the member "+m+" leads back to the group and is left out")
			continue
		} else if other != nil {
			if err := s.resolve(m); err != nil {
				return err
			}
		}
		t, why := s.target(m)
		if why != "" {
			notes = append(notes, why)
		}
		if t.route != "" || t.block != "" {
			ways = append(ways, t)
		}
	}
	why := strings.Join(notes, "; ")
	if kind == "selector" && len(ways) == 1 && ways[0].block != "" {
		o.to = ways[0]
		s.say(line, what, Approximated, o.to.String(), why)
		return nil
	}
	if len(ways) == 0 {
		d := s.declare("route", tag, "via xray "+quote(tag), note, nil, nil)
		o.to = target{route: d.name}
		s.say(line, what, Approximated, "route "+d.name, why+"; no member is known here: the relay has to know an outbound of this name")
		return nil
	}
	var refs []string
	for _, t := range ways {
		if t.block != "" {
			t = s.builtin("block", "blackhole")
		}
		refs = append(refs, t.route)
	}
	refs = unique(refs)
	text := "= fallback(" + refs[0] + ")"
	if kind == "urltest" {
		text = "= lowest_latency(" + strings.Join(refs, ", ") + ") tolerance " + boxTolerance(o.v.str("tolerance"))
	}
	if o.v.str("interrupt_exist_connections") == "true" {
		text += " interrupt true"
	}
	d := s.declare("group", tag, text, note, refs, &Line{Line: line, Text: what, Verdict: Approximated, Why: why})
	o.to = target{route: d.name}
	return nil
}

// boxTolerance is 50 ms where none is given.
func boxTolerance(text string) string {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		n = 50
	}
	return strconv.Itoa(min(n, 60_000)) + "ms"
}

// target resolves a tag.
func (s *singbox) target(tag string) (t target, why string) {
	if o := s.outs[tag]; o != nil {
		if o.dns {
			return target{pass: true}, ""
		}
		return o.to, ""
	}
	d := s.declare("route", tag, "via xray "+quote(tag), "no outbound has the tag "+tag, nil, nil)
	s.outs[tag] = &boxOut{to: target{route: d.name}, state: 2}
	return target{route: d.name}, "no outbound has the tag " + strconv.Quote(clean(tag)) + ": a route of this name is declared"
}

// boxList is a rule-set.
type boxList struct {
	domain, cidr *set
	inline       *cond
	problem      string
	why          string
}

func (s *singbox) ruleSets() error {
	for _, v := range s.route.get("rule_set").list() {
		if err := s.count(v.line, 1); err != nil {
			return err
		}
		tag := v.str("tag")
		if tag == "" || s.lists[tag] != nil {
			s.say(v.line, "rule_set "+tag, Dropped, "", "it needs a tag of its own")
			continue
		}
		s.lists[tag] = s.ruleSet(v, tag)
	}
	return nil
}

func (s *singbox) ruleSet(v *value, tag string) *boxList {
	l := &boxList{}
	kind := v.str("type")
	if kind == "" {
		kind = "inline"
	}
	what := fmt.Sprintf("rule_set %s (%s)", tag, kind)
	var source string
	switch {
	case kind == "inline":
		s.inlineSet(l, v, what)
		return l
	case kind == "remote" && isURL(v.str("url")):
		source = "url " + quote(v.str("url")) + " format srs" + boxRefresh(v.str("update_interval"))
	case kind == "local" && v.str("path") != "":
		source = "file " + quote(v.str("path")) + " format srs"
	default:
		l.problem = "the rule-set has no list: type remote with a url, or local with a path, is needed"
		s.say(v.line, what, Dropped, "", l.problem)
		return l
	}
	note := fmt.Sprintf("line %d: %s", v.line, what)
	add := func(want, kind, source string) *set {
		set := s.addSet(want, kind, source, note, nil)
		set.line = &Line{Line: v.line, Text: what, Verdict: Approximated, To: "set " + set.name, Why: l.why}
		return set
	}
	switch name := strings.ToLower(tag); {
	case strings.HasPrefix(name, "geosite"):
		l.why = "by its name a list of domains: of the file only names are taken"
		l.domain = add(tag, "domain", source)
	case strings.HasPrefix(name, "geoip"):
		l.why = "by its name a list of addresses: of the file only prefixes are taken"
		l.cidr = add(tag, "cidr", source)
	default:
		l.why = "of the file names and prefixes are taken, not ports, programs or logic"
		l.domain = add(tag, "domain", source+" on_error empty")
		l.cidr = s.addSet(tag+"_ip", "cidr", source+" on_error empty", note, nil)
	}
	return l
}

// boxRefresh reads a duration such as "1d" or "24h0m0s"; it is a day if not given.
func boxRefresh(text string) string {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 {
			return refresh(min(n, 30) * 86400)
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return refresh(int(min(d, 30*24*time.Hour) / time.Second))
	}
	return refresh(86400)
}

// inlineSet reads the rules of a set of type inline.
func (s *singbox) inlineSet(l *boxList, v *value, what string) {
	var kids []cond
	lost := 0
	for _, r := range v.get("rules").list() {
		c := s.condition(r, 0)
		if c.problem != "" || c.cond.op == opAny {
			lost++
			continue
		}
		kids = append(kids, c.cond)
		if c.why != "" {
			l.why = c.why
		}
	}
	if len(kids) == 0 {
		l.problem = "nothing in it can be used"
		s.say(v.line, what, Dropped, "", l.problem)
		return
	}
	if lost > 0 {
		l.why = fmt.Sprintf("%d of its rules can't be said and are left out", lost)
	}
	all := or(kids...)
	l.inline = &all
	verdict := Carried
	if l.why != "" {
		verdict = Approximated
	}
	s.say(v.line, what, verdict, "the rules that name it", l.why)
}
