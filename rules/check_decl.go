package rules

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/state"
)

// The keys of each declaration.
var (
	healthInts  = []string{"degrade_after", "failover_after", "dead_after", "clear_after", "revive_after", "stable_after", "relapse_after"}
	healthKeys  = append([]string{"hold_degraded", "hold_failover", "threshold"}, healthInts...)
	uplinkKeys  = append([]string{"dev", "gateway", "probe", "metered", "weight", "required"}, healthKeys...)
	probeKeys   = []string{"kind", "targets", "every"}
	thresholds  = []string{"rtt", "loss", "errors"}
	throttleKey = []string{"down", "up", "burst", "per"}
	daemonKeys  = []string{
		"on_crash", "backend", "mark_mask", "ct_mask", "table_base", "rule_priority", "state_dir", "api", "masquerade",
		"enforce", "hello", "relay", "tproxy", "tproxy_port",
		"dns_listen", "dns_upstreams", "dns_blocked", "dns_stale", "dns_strip_ech",
		"api_listen", "api_tls", "api_hosts", "insecure_lan", "decision_log", "decision_log_sample", "decision_mask", "alerts",
	}
)

// canonicalKey returns the key of known that text spells, with "-" taken for "_"; "" for none.
func canonicalKey(text string, known []string) string {
	if slices.Contains(known, text) {
		return text
	}
	if u := strings.ReplaceAll(text, "-", "_"); slices.Contains(known, u) {
		return u
	}
	return ""
}

// items reports unknown and repeated keys.
func (c *checker) items(items []Item, where string, known []string) {
	for i := range items {
		key := items[i].Key
		canonical := canonicalKey(key.Text, known)
		if canonical == "" {
			if where == aGroup && items[i].List {
				c.report("NP102", key.Span, "no strategy is called %s", diag.Quote(key.Text)).Help = "the strategies are " + orList(strategies)
				continue
			}
			d := c.report("NP102", key.Span, "%s has no key %s", where, diag.Quote(key.Text))
			if d.Help = diag.DidYouMean(key.Text, known); d.Help == "" {
				d.Help = "it has " + orList(known)
			}
			continue
		}
		if canonical != key.Text {
			c.report("NP403", key.Span, "%s is spelled %s", diag.Quote(key.Text), diag.Quote(canonical))
			items[i].Key.Text = canonical
		}
		for j := range i {
			if items[j].Key.Text == canonical && items[j].Key.Span != key.Span {
				c.report("NP105", key.Span, "%s is given already", diag.Quote(canonical)).Note(items[j].Key.Span, "first given here")
				break
			}
		}
	}
}

func find(items []Item, key string) *Item {
	for i := range items {
		if items[i].Key.Text == key {
			return &items[i]
		}
	}
	return nil
}

// single returns the one word of an item; more or fewer is reported.
func (c *checker) single(item *Item) (Word, bool) {
	if item.Bad {
		return Word{}, false
	}
	if len(item.Args) == 1 && !item.Block {
		return item.Args[0], true
	}
	c.report("NP004", item.Span, "expected one value for %s", item.Key.Text)
	return Word{}, false
}

// plain reports an item that should be words and is a block.
func (c *checker) plain(item *Item) []Word {
	if item.Block {
		c.report("NP004", item.Span, "expected a value for %s, found a block of keys", item.Key.Text)
	}
	return splitAll(item.Args)
}

func (c *checker) readHealth() {
	c.health = state.DefaultUplink("")
	for _, d := range c.ast.Health {
		if d.Name.Given() {
			c.resolve(d.Name, c.uplinks, c.usedUplinks, "uplink")
			continue
		}
		c.items(d.Items, "health", append([]string{"primary"}, healthKeys...))
		for i := range d.Items {
			if d.Items[i].Key.Text == "primary" {
				if w, ok := c.single(&d.Items[i]); ok {
					c.primaryAt = w
				}
				continue
			}
			c.healthItem(&d.Items[i], &c.health)
		}
	}
}

// healthItem reads one setting of health into h; other keys are left alone.
func (c *checker) healthItem(item *Item, h *state.UplinkConfig) {
	key := item.Key.Text
	ints := [...]*int{
		&h.DegradeAfter, &h.FailoverAfter, &h.DeadAfter, &h.ClearAfter, &h.ReviveAfter, &h.StableAfter, &h.RelapseAfter,
	}
	if i := slices.Index(healthInts, key); i >= 0 {
		if w, ok := c.single(item); ok {
			if n, ok := c.integer(w, key, 1, 1000); ok {
				*ints[i] = int(n)
			}
		}
		return
	}
	switch key {
	case "hold_degraded", "hold_failover":
		if w, ok := c.single(item); ok {
			d := c.duration(w, key, 0, 24*time.Hour)
			if key == "hold_degraded" {
				h.HoldDegraded = d
			} else {
				h.HoldFailover = d
			}
		}
	case "threshold":
		c.thresholdItem(item, h)
	}
}

// thresholdItem reads `{rtt: 120ms / 90ms}` or the words `rtt 120ms / 90ms`.
func (c *checker) thresholdItem(item *Item, h *state.UplinkConfig) {
	pairs := item.Items
	if !item.Block {
		words := splitAll(item.Args)
		if item.Bad {
			return
		}
		if len(words) == 0 {
			c.report("NP107", item.Key.Span, "threshold needs %s", orList(thresholds))
			return
		}
		pairs = []Item{{Key: words[0], Args: words[1:], Span: item.Span}}
	}
	c.items(pairs, "threshold", thresholds)
	for i := range pairs {
		switch pairs[i].Key.Text {
		case "rtt":
			c.threshold(&pairs[i], &h.RTT, c.micros, maxThresholdRTT)
		case "loss":
			c.threshold(&pairs[i], &h.Loss, c.ppm, million)
		case "errors":
			c.threshold(&pairs[i], &h.Errors, c.ppm, million)
		}
	}
}

const (
	million         = 1_000_000
	maxThresholdRTT = 60 * million // a minute: no line that slow is useful
)

// threshold reads "enter / exit"; exit must be below enter.
func (c *checker) threshold(item *Item, to *state.Threshold, read func(Word, string) (int64, bool), most int64) {
	if item.Bad {
		return
	}
	var parts []Word
	slashes := 0
	for _, w := range c.plain(item) {
		for start := 0; start <= len(w.Text); {
			end := strings.IndexByte(w.Text[start:], '/')
			if end < 0 {
				end = len(w.Text)
			} else {
				end += start
				slashes++
			}
			if end > start {
				parts = append(parts, w.Part(start, end))
			}
			start = end + 1
		}
	}
	if len(parts) != 2 || slashes > 1 {
		c.report("NP004", item.Span, "expected enter / exit for %s, such as 120ms / 90ms or 5%% / 2%%", item.Key.Text)
		return
	}
	enter, ok := read(parts[0], item.Key.Text)
	exit, ok2 := read(parts[1], item.Key.Text)
	if !ok || !ok2 {
		return
	}
	if enter > most {
		c.report("NP103", parts[0].Span, "the threshold %s is out of range", diag.Quote(parts[0].Text))
		return
	}
	if exit >= enter {
		c.report("NP208", parts[1].Span, "the exit threshold %s is not below the enter threshold %s",
			diag.Quote(parts[1].Text), diag.Quote(parts[0].Text)).Help = "a gap between the two keeps the state from flapping"
		return
	}
	*to = state.Threshold{Enter: enter, Exit: exit}
}

func (c *checker) readUplinks() {
	for i, d := range c.ast.Uplinks {
		u := &c.p.Uplinks[i]
		*u = Uplink{Name: d.Name.Text, Span: d.Name.Span, Weight: 1, Health: c.health}
		u.Health.Name = u.Name
		c.items(d.Items, "an uplink", uplinkKeys)
		if find(d.Items, "dev") == nil && !d.Bad {
			c.report("NP107", d.Name.Span, "the uplink %s has no device", diag.Quote(d.Name.Text)).Help = c.form("add `dev eth1`", "add `dev: eth1`")
		}
		for _, h := range c.ast.Health {
			if h.Name.Given() && h.Name.Text == u.Name {
				c.items(h.Items, "health", healthKeys)
				for j := range h.Items {
					c.healthItem(&h.Items[j], &u.Health)
				}
			}
		}
		for j := range d.Items {
			c.uplinkItem(u, &d.Items[j])
		}
	}
}

func (c *checker) uplinkItem(u *Uplink, item *Item) {
	switch item.Key.Text {
	case "gateway":
		if !item.Bad {
			u.Gateway = c.gateway(c.plain(item), item.Key)
		}
		return
	case "probe":
		c.probe(u, item)
		return
	case "dev", "metered", "weight", "required":
	default:
		c.healthItem(item, &u.Health)
		return
	}
	w, ok := c.single(item)
	if !ok {
		return
	}
	switch item.Key.Text {
	case "dev":
		u.Dev = c.device(w)
	case "metered":
		u.Metered = c.boolean(w, "metered")
	case "required":
		u.Health.Required = c.boolean(w, "required")
	case "weight":
		n, _ := c.integer(w, "weight", 1, 1000)
		u.Weight = int(n)
	}
}

// probe reads `{kind: icmp, targets: [...], every: 1s}` or the words `icmp T, T every D`.
func (c *checker) probe(u *Uplink, item *Item) {
	if item.Bad {
		return
	}
	items := item.Items
	if !item.Block {
		items = probeWords(splitAll(item.Args), item.Span)
	}
	c.items(items, "a probe", probeKeys)
	u.Probe.Every = time.Second
	kind := find(items, "kind")
	if kind == nil {
		c.report("NP107", item.Key.Span, "the probe has no kind").Help = "icmp or tcp"
		return
	}
	if w, ok := c.single(kind); ok {
		switch c.oneOf(w, "the kind of a probe", "icmp", "tcp", "http", "dns") {
		case "icmp":
			u.Probe.Kind = ProbeICMP
		case "tcp":
			u.Probe.Kind = ProbeTCP
		case "http", "dns":
			c.report("NP502", w.Span, "%s probes can't be carried out yet", w.Text).
				Help = "the uplink's health stays unknown; use icmp or tcp"
		}
	}
	if every := find(items, "every"); every != nil {
		if w, ok := c.single(every); ok {
			u.Probe.Every = c.duration(w, "every", 100*time.Millisecond, time.Hour)
		}
	}
	u.Health.Every = u.Probe.Every
	targets := find(items, "targets")
	if targets == nil {
		c.report("NP107", item.Key.Span, "the probe has no targets").Help = c.form("for example `probe icmp 1.1.1.1, 9.9.9.9 every 1s`", "for example `targets: [1.1.1.1, 9.9.9.9]`")
		return
	}
	words := c.plain(targets)
	if len(words) == 0 && !targets.Bad {
		c.report("NP107", targets.Key.Span, "the probe has no targets")
	}
	if len(words) > maxMembers {
		c.report("NP905", words[maxMembers].Span, "a probe has at most %d targets", maxMembers)
		return
	}
	for _, w := range words {
		c.target(&u.Probe, w)
	}
}

// probeWords reads a short string as the block it stands for.
func probeWords(words []Word, span diag.Span) []Item {
	var items []Item
	for i, w := range words {
		switch {
		case i == 0:
			items = append(items, Item{Key: Word{Text: "kind", Span: w.Span}, Args: []Word{w}, Span: w.Span})
		case w.Text == "every":
			return append(items, Item{Key: w, Args: words[i+1:], Span: span})
		case i == 1:
			items = append(items, Item{Key: Word{Text: "targets", Span: w.Span}, Args: []Word{w}, Span: w.Span})
		default:
			items[1].Args = append(items[1].Args, w)
		}
	}
	return items
}

func (c *checker) target(p *Probe, w Word) {
	if p.Kind == ProbeTCP {
		a, err := netip.ParseAddrPort(w.Text)
		if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
			c.report("NP202", w.Span, "a tcp probe needs an address and a port, found %s", diag.Quote(w.Text)).
				Help = "for example 1.1.1.1:443 or [2606:4700:4700::1111]:443"
			return
		}
		p.Targets = append(p.Targets, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		return
	}
	if p.Kind != ProbeICMP {
		return
	}
	if a, ok := c.addr(w, "the target of an icmp probe"); ok {
		p.Targets = append(p.Targets, netip.AddrPortFrom(a, 0))
	}
}

func (c *checker) readThrottles() {
	for i, d := range c.ast.Throttles {
		t := &c.p.Throttles[i]
		*t = Throttle{Name: d.Name.Text, Span: d.Name.Span, Per: "all"}
		c.items(d.Items, "a throttle", throttleKey)
		for j := range d.Items {
			item := &d.Items[j]
			w, ok := c.single(item)
			if !ok {
				continue
			}
			switch item.Key.Text {
			case "down":
				t.Down = c.amount(w, "a rate", "2mbit", rateUnits)
			case "up":
				t.Up = c.amount(w, "a rate", "512kbit", rateUnits)
			case "burst":
				t.Burst = c.amount(w, "a size", "64KiB", sizeUnits)
			case "per":
				t.Per = c.oneOf(w, "per", "host", "conn", "all")
			}
		}
		if find(d.Items, "down") == nil && find(d.Items, "up") == nil && !d.Bad {
			c.report("NP107", d.Name.Span, "the throttle %s limits nothing", diag.Quote(d.Name.Text)).Help = c.form("add `down 2mbit` or `up 512kbit`", "add `down: 2mbit` or `up: 512kbit`")
		}
	}
}

// amount reads a quantity of at least one.
func (c *checker) amount(w Word, what, example string, units []unit) int64 {
	n, ok := c.quantity(w, what, example, units, 0)
	if ok && n == 0 {
		c.report("NP103", w.Span, "%s must not be zero", what)
	}
	return n
}
