package rules

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
)

// The words of `via`.
var viaKinds = []string{"main", "blackhole", "uplink", "dev", "table", "mark", "group", "xray", "socks"}

func (c *checker) readRoutes() {
	for i, d := range c.ast.Routes {
		c.items(d.Items, "a route", []string{"via", "gateway", "on"})
		var words []Word
		for _, key := range []string{"via", "gateway", "on"} {
			item := find(d.Items, key)
			if item == nil {
				continue
			}
			if key != "via" {
				words = append(words, Word{Text: key, Span: item.Key.Span})
			}
			for _, a := range item.Args {
				words = append(words, a.Split()...)
			}
		}
		via := find(d.Items, "via")
		if d.Bad || via != nil && via.Bad {
			continue
		}
		if len(words) == 0 || via == nil {
			c.report("NP107", d.Name.Span, "the route %s does not say where it leads", diag.Quote(d.Name.Text)).
				Help = "add `via`: " + orList(viaKinds)
			continue
		}
		c.via(&c.p.Routes[i], words)
	}
}

// via reads the words after `via`, and what follows them.
func (c *checker) via(r *Route, words []Word) {
	kind, rest := words[0], words[1:]
	arg := func(what string) (Word, bool) {
		if len(rest) == 0 {
			c.report("NP107", kind.Span, "`via %s` needs %s", kind.Text, what)
			return Word{}, false
		}
		w := rest[0]
		rest = rest[1:]
		return w, true
	}
	switch kind.Text {
	case "main":
		r.Kind = RouteMain
	case "blackhole":
		r.Kind = RouteBlackhole
	case "uplink":
		r.Kind = RouteUplink
		if w, ok := arg("the name of an uplink"); ok {
			r.Uplink = c.resolve(w, c.uplinks, c.usedUplinks, "uplink")
		}
	case "group":
		r.Kind = RouteGroup
		if w, ok := arg("the name of a group"); ok {
			r.Group = c.resolve(w, c.groups, c.usedGroups, "group")
		}
	case "dev":
		r.Kind = RouteDev
		if w, ok := arg("a network device"); ok {
			r.Dev = c.device(w)
		}
		if len(rest) > 0 && rest[0].Text == "gateway" {
			r.Gateway = c.gateway(rest[1:], rest[0])
			rest = nil
		}
	case "table":
		r.Kind = RouteTable
		r.Table = c.viaNumber(arg, "a routing table")
	case "mark":
		r.Kind = RouteMark
		r.Mark = c.viaNumber(arg, "a mark")
	case "xray", "socks":
		c.viaOther(r, kind, arg, &rest)
	default:
		c.report("NP004", kind.Span, "expected %s after via, found %s", orList(viaKinds), diag.Quote(kind.Text)).
			Help = diag.DidYouMean(kind.Text, viaKinds)
		return
	}
	if len(rest) > 0 {
		c.report("NP005", rest[0].Span, "expected the end of `via %s`, found %s", kind.Text, diag.Quote(rest[0].Text))
	}
}

func (c *checker) viaNumber(arg func(string) (Word, bool), what string) uint32 {
	w, ok := arg(what)
	if !ok {
		return 0
	}
	n, _ := c.integer(w, what, 1, 1<<32-1)
	return uint32(n)
}

// viaOther reads the kinds that are tunnels: the relay alone has them.
func (c *checker) viaOther(r *Route, kind Word, arg func(string) (Word, bool), rest *[]Word) {
	r.Kind, r.Other = RouteOther, kind.Text
	if w, ok := arg("a name or address"); ok {
		r.Other += " " + w.Text
	}
	if w := *rest; len(w) > 1 && w[0].Text == "on" {
		r.Uplink = c.resolve(w[1], c.uplinks, c.usedUplinks, "uplink")
		*rest = w[2:]
	}
	if kind.Text == "socks" {
		c.report("NP502", kind.Span, "`via socks` is for flows that go through the relay").
			Help = "daemon.tproxy and daemon.relay say which do; others are rejected, so that nothing leaves in the clear"
		return
	}
	c.others = append(c.others, kind)
}

// carried reports routes that only the relay can carry out where there is none.
func (c *checker) carried() {
	if c.p.Daemon.Relay.Used() {
		return
	}
	for _, kind := range c.others {
		c.report("NP502", kind.Span, "`via %s` is carried out by the relay alone, and there is none", kind.Text).
			Help = "give the daemon `relay` or `tproxy`; until then the flows of this route are rejected"
	}
}

// device checks the name of a network device (IFNAMSIZ of linux/if.h: 15 bytes).
func (c *checker) device(w Word) string {
	wrong := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`/:*"\`, r) }
	if w.Text == "" || len(w.Text) > 15 || w.Text == "." || w.Text == ".." || strings.ContainsFunc(w.Text, wrong) {
		d := c.report("NP004", w.Span, "expected the name of a network device, found %s", diag.Quote(w.Text))
		if d.Help = "1 to 15 characters, without / : or blanks"; strings.Contains(w.Text, "*") {
			d.Help = "devices have no wildcards: write a list of names"
		}
		return ""
	}
	return w.Text
}

// gateway reads at most one IPv4 and one IPv6 address.
func (c *checker) gateway(words []Word, key Word) (g [2]netip.Addr) {
	if len(words) == 0 {
		c.report("NP107", key.Span, "gateway needs an IP address")
	}
	for _, w := range words {
		a, ok := c.addr(w, "a gateway")
		if !ok {
			continue
		}
		family := 0
		if a.Is6() {
			family = 1
		}
		if g[family].IsValid() {
			c.report("NP105", w.Span, "a gateway of this family is given already: one IPv4 and one IPv6 can be")
		}
		g[family] = a
	}
	return g
}

var (
	strategies = []string{"fallback", "lowest_latency", "weighted", "hash", "sla"} // in the order of Strategy
	groupKeys  = append([]string{"tolerance", "min_hold", "sticky", "meets", "when_none", "interrupt"}, strategies...)
)

// aGroup is what findings call a group.
const aGroup = "a group"

func (c *checker) readGroups() {
	for i, d := range c.ast.Groups {
		g := &c.p.Groups[i]
		*g = Group{Name: d.Name.Text, Span: d.Name.Span, Tolerance: 30 * time.Millisecond, MinHold: 60 * time.Second, SLA: -1}
		for j := range d.Items { // `sla(a, b) sla NAME`: the option is called meets
			if item := &d.Items[j]; item.Key.Text == "sla" && !item.List && j > 0 {
				item.Key.Text = "meets"
			}
		}
		c.items(d.Items, aGroup, groupKeys)
		var strategy *Item
		for j := range d.Items {
			item := &d.Items[j]
			if key := canonicalKey(item.Key.Text, strategies); key != "" {
				if strategy != nil {
					c.report("NP105", item.Key.Span, "the group has a strategy already").Note(strategy.Key.Span, "first given here")
					continue
				}
				strategy = item
				g.Strategy = Strategy(slices.Index(strategies, key))
				g.Members = c.members(item)
			}
		}
		unknown := func(i Item) bool { return i.List && canonicalKey(i.Key.Text, groupKeys) == "" } // reported
		if strategy == nil && !d.Bad && !slices.ContainsFunc(d.Items, unknown) {
			c.report("NP107", d.Name.Span, "the group %s has no strategy", diag.Quote(d.Name.Text)).
				Help = "add one of " + orList(strategies) + ", with the routes to choose from"
		}
		c.groupOptions(g, d.Items)
		if g.Strategy == SLA && strategy != nil && find(d.Items, "meets") == nil {
			c.report("NP107", strategy.Key.Span, "the group %s does not name the condition that its members must meet", diag.Quote(d.Name.Text)).
				Help = c.form("add `sla NAME`: the name of a condition", "add `meets: NAME`: the name of a condition")
		}
	}
}

func (c *checker) groupOptions(g *Group, items []Item) {
	for i := range items {
		item := &items[i]
		switch item.Key.Text {
		case "tolerance", "min_hold":
			w, ok := c.single(item)
			switch {
			case !ok:
			case g.Strategy != LowestLatency:
				c.report("NP207", item.Key.Span, "%s is for lowest_latency only", item.Key.Text)
			case item.Key.Text == "tolerance":
				g.Tolerance = c.duration(w, "tolerance", 0, time.Minute)
			default:
				g.MinHold = c.duration(w, "min_hold", 0, 24*time.Hour)
			}
		case "sticky":
			w, ok := c.single(item)
			switch {
			case !ok:
			case g.Strategy != Weighted && g.Strategy != HashOf:
				c.report("NP207", item.Key.Span, "sticky is for weighted and hash only")
			default:
				g.Sticky = c.duration(w, "sticky", time.Second, 24*time.Hour)
				c.report("NP502", item.Key.Span, "sticky can't be carried out yet").
					Help = "flows are shared out by their addresses and ports; nothing remembers hosts"
			}
		case "meets":
			w, ok := c.single(item)
			switch {
			case !ok:
			case g.Strategy != SLA:
				c.report("NP207", item.Key.Span, "%s is for the strategy sla only", item.Key.Text)
			default:
				g.SLA = c.resolve(w, c.conditions, c.usedConditions, "condition")
			}
		case "when_none":
			if w, ok := c.single(item); ok {
				g.BlockWhenNone = c.oneOf(w, "when_none", "best", "block") == "block"
			}
		case "interrupt":
			if w, ok := c.single(item); ok {
				g.Interrupt = c.boolean(w, "interrupt")
			}
		}
	}
}

// members reads the routes of a group or of fallback.
func (c *checker) members(item *Item) []int {
	var list []int
	words := splitAll(item.Args)
	if len(words) == 0 && !item.Bad {
		c.report("NP107", item.Key.Span, "%s needs at least one route", item.Key.Text)
	}
	if len(words) > maxMembers {
		c.report("NP905", words[maxMembers].Span, "%s has more than %d routes", item.Key.Text, maxMembers)
		words = words[:maxMembers]
	}
	for _, w := range words {
		if i := c.routeRef(w); i >= 0 {
			list = append(list, i)
		}
	}
	return list
}

func splitAll(args []Word) []Word {
	var words []Word
	for _, a := range args {
		words = append(words, a.Split()...)
	}
	return words
}

// cycles reports groups that lead to themselves, once each cycle, with a note
// at every step.
func (c *checker) cycles() {
	const (
		untouched = iota
		open
		done
	)
	mark := make([]uint8, len(c.p.Groups))
	var path []int
	var walk func(g int)
	walk = func(g int) {
		switch mark[g] {
		case done:
			return
		case open:
			start := len(path) - 1
			for path[start] != g {
				start--
			}
			d := c.report("NP114", c.p.Groups[g].Span, "the group %s leads to itself", diag.Quote(c.p.Groups[g].Name))
			for _, step := range path[start+1:] {
				d.Note(c.p.Groups[step].Span, "through "+diag.Quote(c.p.Groups[step].Name))
			}
			return
		}
		mark[g] = open
		path = append(path, g)
		for _, m := range c.p.Groups[g].Members {
			if r := &c.p.Routes[m]; r.Kind == RouteGroup && r.Group >= 0 {
				walk(r.Group)
			}
		}
		path = path[:len(path)-1]
		mark[g] = done
	}
	for g := range c.p.Groups {
		walk(g)
	}
}
