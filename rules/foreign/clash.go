package foreign

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// clash reads a configuration of Clash or mihomo.
type clash struct {
	*builder
	root    *yaml.Node
	proxies map[string]*target // by name; made when first named
	groups  map[string]*clashGroup
	order   []string // the names of proxies, for include-all
	lists   map[string]*clashList
	subs    map[string]*yaml.Node
	subTold map[string]bool   // sub-rules whose rules have their lines in the report
	geoURLs map[string]string // geosite, geoip: where they are fetched
}

func importClash(b *builder, src []byte) error {
	root, err := yamlRoot(b, src)
	if err != nil {
		return err
	}
	c := &clash{
		builder: b, root: root, proxies: map[string]*target{}, groups: map[string]*clashGroup{},
		lists: map[string]*clashList{}, subs: map[string]*yaml.Node{}, subTold: map[string]bool{}, geoURLs: map[string]string{},
	}
	for _, step := range []func() error{c.readTop, c.readProxies, c.readGroups, c.readLists, c.readRules} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// yamlRoot parses one document into its mapping.
func yamlRoot(b *builder, src []byte) (*yaml.Node, error) {
	limit := loaderlimits.DepthFunc(func(depth int, _ *loaderlimits.DepthContext) error {
		if depth > maxDepth {
			return errors.New("nested too deeply")
		}
		return nil
	})
	loader, err := yaml.NewLoader(strings.NewReader(string(src)), yaml.WithV4Defaults(), yaml.WithPlugin(loaderlimits.New(limit)))
	if err != nil {
		return nil, b.fail(0, "%s", err)
	}
	var doc yaml.Node
	if err := loader.Load(&doc); err != nil {
		var at *yaml.LoadError
		switch {
		case errors.Is(err, io.EOF):
			return nil, b.fail(0, "the file is empty")
		case errors.As(err, &at):
			return nil, b.fail(at.Mark.Line, "not YAML: %s", at.Message)
		}
		return nil, b.fail(0, "not YAML: %s", err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, b.fail(1, "not a configuration of Clash: the file is not a mapping of keys")
	}
	return doc.Content[0], nil
}

// follow resolves aliases.
func follow(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

// get returns the value of a key of a mapping, through aliases and merge keys.
func get(n *yaml.Node, key string) *yaml.Node { return getDeep(n, key, maxDepth) }

func getDeep(n *yaml.Node, key string, depth int) *yaml.Node {
	if n = follow(n); n == nil || n.Kind != yaml.MappingNode || depth == 0 {
		return nil
	}
	var merged *yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch k := n.Content[i]; {
		case k.Value == key:
			return follow(n.Content[i+1])
		case k.Value == "<<" && merged == nil:
			from := follow(n.Content[i+1])
			if from != nil && from.Kind == yaml.SequenceNode {
				for _, kid := range from.Content[:min(len(from.Content), maxDepth)] {
					if merged == nil {
						merged = getDeep(kid, key, depth/4)
					}
				}
				continue
			}
			merged = getDeep(from, key, depth-1)
		}
	}
	return merged
}

func text(n *yaml.Node, key string) string {
	if v := get(n, key); v != nil && v.Kind == yaml.ScalarNode {
		return strings.TrimSpace(v.Value)
	}
	return ""
}

// list returns the elements of a list; one value counts as a list of it.
func list(n *yaml.Node) []*yaml.Node {
	switch n = follow(n); {
	case n == nil, n.Kind == yaml.ScalarNode && (n.Value == "" || n.Tag == "!!null"):
		return nil
	case n.Kind == yaml.SequenceNode:
		return n.Content
	default:
		return []*yaml.Node{n}
	}
}

// texts returns the texts of a list.
func texts(n *yaml.Node) []string {
	var all []string
	for _, kid := range list(n) {
		if kid = follow(kid); kid != nil && kid.Kind == yaml.ScalarNode {
			all = append(all, strings.TrimSpace(kid.Value))
		}
	}
	return all
}

// clashTop are the keys that have no meaning for routing, and why.
var clashTop = map[string]string{
	"dns":    "netpolicy is no resolver; it learns names from the DNS answers it sees",
	"hosts":  "netpolicy is no resolver",
	"tun":    "netpolicy decides in the kernel, without a tunnel device",
	"script": "rules by script can't be said in a policy", "listeners": "netpolicy has no inbounds", "tunnels": "netpolicy has no inbounds",
	"proxy-providers":     "proxies that are fetched stay with the program that dials them",
	"sniffer":             "netpolicy always looks for the name in TLS and HTTP",
	"experimental":        "settings of another program",
	"find-process-mode":   "netpolicy looks for the program when a rule asks for it",
	"routing-mark":        "netpolicy's marks are in `daemon { mark_mask }`",
	"interface-name":      "lines to the outside are uplinks: declare one and use it as the default route",
	"profile":             "netpolicy keeps the choices of groups by itself",
	"authentication":      "netpolicy has no inbounds",
	"ipv6":                "netpolicy decides both families alike",
	"tcp-concurrent":      "a setting of the dialer",
	"unified-delay":       "netpolicy measures with probes of its own",
	"global-ua":           "a setting of the dialer",
	"geodata-mode":        "netpolicy reads geosite.dat and geoip.dat",
	"geodata-loader":      "netpolicy reads geosite.dat and geoip.dat",
	"geo-auto-update":     "a list's `refresh` says how often it is fetched",
	"geo-update-interval": "a list's `refresh` says how often it is fetched",
}

// readTop reports the keys that are not read by the other steps.
func (c *clash) readTop() error {
	known := []string{"proxies", "proxy-groups", "rule-providers", "rules", "sub-rules", "geox-url"}
	seen := map[string]bool{}
	for i := 0; i+1 < len(c.root.Content); i += 2 {
		key, val := c.root.Content[i], follow(c.root.Content[i+1])
		if err := c.count(key.Line, 1); err != nil {
			return err
		}
		if seen[key.Value] {
			return c.fail(key.Line, "the key %s is there twice", strconv.Quote(clean(key.Value)))
		}
		seen[key.Value] = true
		switch {
		case slices.Contains(known, key.Value) || key.Value == "<<":
			if key.Value == "geox-url" {
				for _, kind := range []string{"geosite", "geoip"} {
					c.geoURLs[kind] = text(val, kind)
				}
				c.say(key.Line, "geox-url", Carried, "", "the sets of GEOSITE and GEOIP are fetched from there")
			}
		case key.Value == "mode" && val != nil && !strings.EqualFold(val.Value, "rule"):
			c.say(key.Line, "mode: "+val.Value, Dropped, "", "only the mode rule is known: the policy has the rules, which this mode does not look at")
		case key.Value == "mode":
			c.say(key.Line, "mode: rule", Carried, "", "")
		case clashTop[key.Value] != "":
			c.say(key.Line, key.Value, Dropped, "", clashTop[key.Value])
		case strings.HasPrefix(key.Value, "x-") || val != nil && val.Anchor != "":
			c.say(key.Line, key.Value, Dropped, "", "a template; what refers to it is read with it")
		default:
			c.say(key.Line, key.Value, Dropped, "", "a setting of the program, not a rule")
		}
	}
	for _, kv := range keys(get(c.root, "sub-rules")) {
		c.subs[kv[0].Value] = kv[1]
	}
	return nil
}

// readProxies declares a route for each proxy.
func (c *clash) readProxies() error {
	for _, n := range list(get(c.root, "proxies")) {
		line := n.Line
		if err := c.count(line, 1); err != nil {
			return err
		}
		name, kind := text(n, "name"), text(n, "type")
		if name == "" {
			c.say(line, "a proxy without a name", Dropped, "", "nothing can refer to it")
			continue
		}
		if c.proxies[name] != nil {
			c.say(line, "proxy "+name, Dropped, "", "a proxy of this name is there already")
			continue
		}
		what := "proxy " + name + " (" + kind + ")"
		via, why, v := "xray "+quote(name), "give the relay an outbound of this name; the server and its secrets are not copied", Approximated
		switch dev, mark := text(n, "interface-name"), text(n, "routing-mark"); {
		case kind == "direct" && isDevice(dev):
			via, why, v = "dev "+dev, "", Carried
		case kind == "direct" && isMark(mark):
			via, why, v = "mark "+mark, "", Carried
		case kind == "direct":
			via, why, v = "main", "", Carried
		case kind == "reject":
			c.proxies[name] = &target{block: "reject"}
			c.order = append(c.order, name)
			c.say(line, what, Carried, "block reject", "")
			continue
		}
		d := c.declare("route", name, "via "+via, fmt.Sprintf("line %d: %s", line, what), nil, &Line{Line: line, Text: what, Verdict: v, Why: why})
		c.proxies[name] = &target{route: d.name}
		c.order = append(c.order, name)
	}
	return nil
}

// isDevice reports a name that Linux takes for a device and NPL for a word.
func isDevice(s string) bool {
	return s != "" && len(s) <= 15 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@") == "" && s[0] != '@' && s != "." && s != ".."
}

// isMark reports a number from 1 to 2^32-1, decimal or 0x.
func isMark(s string) bool {
	digits, base := s, 10
	if rest, ok := strings.CutPrefix(s, "0x"); ok {
		digits, base = rest, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	return err == nil && n > 0 && (base == 16 || digits[0] != '0')
}

// clashGroup is a proxy group; it is resolved when first named, or at the end.
type clashGroup struct {
	node  *yaml.Node
	name  string
	to    target
	state uint8 // 0: untouched, 1: being resolved, 2: done
}

func (c *clash) readGroups() error {
	var names []string
	for _, n := range list(get(c.root, "proxy-groups")) {
		if err := c.count(n.Line, 1); err != nil {
			return err
		}
		name := text(n, "name")
		switch {
		case name == "":
			c.say(n.Line, "a group without a name", Dropped, "", "nothing can refer to it")
			continue
		case c.groups[name] != nil || c.proxies[name] != nil:
			c.say(n.Line, "group "+name, Dropped, "", "the name is taken already")
			continue
		}
		c.groups[name] = &clashGroup{node: n, name: name}
		names = append(names, name)
	}
	for _, name := range names {
		if g := c.groups[name]; g.state == 0 {
			if err := c.resolve(g); err != nil {
				return err
			}
		}
	}
	return nil
}

// memberNames are all that a group can choose of.
func (c *clash) memberNames(g *clashGroup) ([]string, []string) {
	var notes []string
	members := texts(get(g.node, "proxies"))
	if text(g.node, "include-all") == "true" || text(g.node, "include-all-proxies") == "true" {
		more := slices.Clone(c.order)
		for _, key := range []string{"filter", "exclude-filter"} {
			f := text(g.node, key)
			if f == "" {
				continue
			}
			re, err := regexp.Compile(strings.ReplaceAll(f, "`", "|"))
			if err != nil {
				notes = append(notes, key+" is no expression of RE2 and is ignored")
				continue
			}
			more = slices.DeleteFunc(more, func(n string) bool { return re.MatchString(n) != (key == "filter") })
		}
		members = append(members, more...)
	}
	members = unique(members)
	use := texts(get(g.node, "use"))
	if len(use) > 0 || text(g.node, "include-all") == "true" || text(g.node, "include-all-providers") == "true" {
		notes = append(notes, "what providers bring is known at run time only and is not among the members")
	}
	if len(members) > maxMembers {
		notes = append(notes, fmt.Sprintf("only the first %d of %d members", maxMembers, len(members)))
		members = members[:maxMembers]
	}
	return members, notes
}

// resolve declares a group, its members first.
func (c *clash) resolve(g *clashGroup) error {
	g.state = 1
	defer func() { g.state = 2 }()
	line, kind := g.node.Line, text(g.node, "type")
	members, notes := c.memberNames(g)
	if err := c.count(line, len(members)); err != nil {
		return err
	}
	what := "group " + g.name + " (" + kind + ")"
	var ways []target
	for _, m := range members {
		if other := c.groups[m]; other != nil && other.state != 2 {
			if other.state == 1 {
				notes = append(notes, "the member "+m+" leads back to the group and is left out")
				continue
			}
			if err := c.resolve(other); err != nil {
				return err
			}
		}
		t, why := c.target(m)
		if t.pass {
			notes = append(notes, "the member PASS is left out")
			continue
		}
		if why != "" {
			notes = append(notes, why)
		}
		ways = append(ways, t)
	}
	why := func(main string) string { return strings.Join(append([]string{main}, notes...), "; ") }
	note := fmt.Sprintf("line %d: %s", line, what)
	if kind == "relay" || len(ways) == 0 {
		reason := "no member is known here: the relay has to know an outbound of this name"
		if kind == "relay" {
			reason = "a chain of proxies is not a choice: give the relay an outbound of this name that has the chain"
		}
		d := c.declare("route", g.name, "via xray "+quote(g.name), note, nil, nil)
		g.to = target{route: d.name}
		c.say(line, what, map[bool]Verdict{true: Dropped, false: Approximated}[kind == "relay"], "route "+d.name, why(reason))
		return nil
	}
	if kind == "select" || kind == "" {
		first := "the first member " + strconv.Quote(clean(members[0])) + " is taken: a policy has no choice by hand"
		if ways[0].block != "" {
			g.to = ways[0]
			c.say(line, what, Approximated, g.to.String(), why(first))
			return nil
		}
		note += ", of " + strings.Join(members, ", ")
		c.declareGroup(g, "fallback", ways[:1], "", note, Line{Line: line, Text: what, Verdict: Approximated, Why: why(first)})
		return nil
	}
	strategy, options, main := clashStrategy(g.node, kind)
	if strategy == "" {
		strategy, main = "fallback", "the type is not known; the first usable member is taken"
	}
	c.declareGroup(g, strategy, ways, options, note, Line{Line: line, Text: what, Verdict: Approximated, Why: why(main)})
	return nil
}

// clashStrategy returns what a type of group is here, and what differs.
func clashStrategy(n *yaml.Node, kind string) (strategy, options, why string) {
	switch kind {
	case "url-test":
		ms, err := strconv.Atoi(text(n, "tolerance"))
		if err != nil || ms < 0 {
			ms = 0
		}
		return "lowest_latency", " tolerance " + strconv.Itoa(min(ms, 60_000)) + "ms",
			"measured by the probes of the members' uplinks, not by fetching the url; a change also needs 20 % and keeps min_hold"
	case "fallback":
		return "fallback", "", "usable is what the probes of the members' uplinks say, not the url"
	case "load-balance":
		switch text(n, "strategy") {
		case "round-robin":
			return "weighted", "", "by the flow's hash, not in turn; usable is what the probes say"
		case "sticky-sessions":
			return "weighted", " sticky 10m", "by the flow's hash; sticky for 10 minutes; usable is what the probes say"
		default:
			return "hash", "", "the hash is over addresses and ports, not over the destination's name; usable is what the probes say"
		}
	}
	return "", "", ""
}

// declareGroup declares a group; a member that blocks becomes a route to nowhere.
func (c *clash) declareGroup(g *clashGroup, strategy string, ways []target, options, note string, l Line) {
	var refs []string
	for _, t := range ways {
		if t.block != "" {
			t = c.builtin("reject", "blackhole")
		}
		refs = append(refs, t.route)
	}
	refs = unique(refs)
	d := c.declare("group", g.name, "= "+strategy+"("+strings.Join(refs, ", ")+")"+options, note, refs, &l)
	g.to = target{route: d.name}
}

// builtin returns a route that the configuration need not declare.
func (b *builder) builtin(name, via string) target {
	key := "via " + via
	for _, d := range b.decls {
		if d.word == "route" && d.text == key && (d.name == name || d.line == nil && d.note == "") {
			return target{route: d.name}
		}
	}
	return target{route: b.declare("route", name, key, "", nil, nil).name}
}

// target resolves the name of a proxy, a group or one of those that are built
// in; why is "" unless the name is not known.
func (c *clash) target(name string) (t target, why string) {
	if g := c.groups[name]; g != nil {
		return g.to, ""
	}
	if p := c.proxies[name]; p != nil {
		return *p, ""
	}
	switch strings.ToUpper(name) {
	case "DIRECT", "COMPATIBLE":
		return c.builtin("direct", "main"), ""
	case "REJECT", "REJECT-TINYGIF":
		return target{block: "reject"}, ""
	case "REJECT-DROP":
		return target{block: "drop"}, ""
	case "PASS":
		return target{pass: true}, ""
	}
	d := c.declare("route", name, "via xray "+quote(name), "no proxy or group has the name "+name, nil, nil)
	c.proxies[name] = &target{route: d.name}
	return target{route: d.name}, "no proxy or group is called " + strconv.Quote(clean(name)) + ": a route of this name is declared"
}

// clashList is a rule provider.
type clashList struct {
	domain, cidr *set   // nil: has none
	inline       []cond // behavior inline
	problem      string // why it can't be used
	why          string
}

// keys returns the keys and values of a mapping, merge keys left out.
func keys(n *yaml.Node) (all [][2]*yaml.Node) {
	if n = follow(n); n != nil && n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value != "<<" {
				all = append(all, [2]*yaml.Node{n.Content[i], n.Content[i+1]})
			}
		}
	}
	return all
}

func (c *clash) readLists() error {
	for _, kv := range keys(get(c.root, "rule-providers")) {
		if err := c.count(kv[0].Line, 1); err != nil {
			return err
		}
		name, n := kv[0].Value, kv[1]
		if c.lists[name] != nil {
			c.say(kv[0].Line, "rule-provider "+name, Dropped, "", "the name is taken already")
			continue
		}
		l, err := c.readList(name, n, kv[0].Line)
		if err != nil {
			return err
		}
		c.lists[name] = l
	}
	return nil
}

func (c *clash) readList(name string, n *yaml.Node, line int) (*clashList, error) {
	l := &clashList{}
	kind, behavior, format := text(n, "type"), text(n, "behavior"), text(n, "format")
	what := fmt.Sprintf("rule-provider %s (%s, %s)", name, kind, behavior)
	drop := func(why string) (*clashList, error) {
		l.problem = why
		c.say(line, what, Dropped, "", why)
		return l, nil
	}
	switch {
	case kind == "inline":
		return l, c.inlineList(l, n, line, what, behavior)
	case format == "mrs" || strings.HasSuffix(text(n, "path")+text(n, "url"), ".mrs"):
		return drop("the format mrs is read by mihomo alone: use the list's yaml or text")
	case kind == "http" && isURL(text(n, "url")):
		l.why = "url"
	case kind == "file" && text(n, "path") != "":
		l.why = "file"
	default:
		return drop("the provider has no list: type http with a url, or file with a path, is needed")
	}
	source := "file " + quote(text(n, "path")) + " format clash"
	if l.why == "url" {
		source = "url " + quote(text(n, "url")) + " format clash"
		if s, err := strconv.Atoi(text(n, "interval")); err == nil && s > 0 {
			source += refresh(s)
		}
	}
	l.why = ""
	note := fmt.Sprintf("line %d: %s", line, what)
	add := func(want, kind, source string, v Verdict, why string) *set {
		s := c.addSet(want, kind, source, note, nil)
		s.line = &Line{Line: line, Text: what, Verdict: v, To: "set " + s.name, Why: why}
		return s
	}
	switch behavior {
	case "domain":
		l.domain = add(name, "domain", source, Carried, "")
	case "ipcidr":
		l.cidr = add(name, "cidr", source, Carried, "")
	case "classical":
		l.why = "of a classical list only names and prefixes are taken, not ports, programs or logic"
		l.domain = add(name, "domain", source, Approximated, l.why)
		l.cidr = c.addSet(name+"_ip", "cidr", source+" on_error empty", note, nil)
	default:
		return drop("the behavior is not known: domain, ipcidr or classical")
	}
	return l, nil
}

// isURL reports an address that a list can be fetched from.
func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

// inlineList reads the payload of a provider of type inline.
func (c *clash) inlineList(l *clashList, n *yaml.Node, line int, what, behavior string) error {
	lost := 0
	for _, item := range texts(get(n, "payload")) {
		if err := c.count(line, 1); err != nil {
			return err
		}
		var k cond
		var problem string
		switch behavior {
		case "domain":
			k, problem = labelCond(item)
		case "ipcidr":
			k, _, problem = prefixCond("dst.ip", item)
		default:
			kind, payload, _, params := splitRule(item, false)
			r := c.condition(kind, payload, params, 0)
			k, problem = r.cond, r.problem
		}
		if problem != "" {
			lost++
			continue
		}
		l.inline = append(l.inline, k)
	}
	switch {
	case len(l.inline) == 0:
		l.problem = "nothing in its payload can be used"
		c.say(line, what, Dropped, "", l.problem)
	case lost > 0:
		l.why = fmt.Sprintf("%d of its elements can't be said and are left out", lost)
		c.say(line, what, Approximated, "the rules that name it", l.why)
	default:
		c.say(line, what, Carried, "the rules that name it", "")
	}
	return nil
}
