package rules

import (
	"math/bits"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
)

func (c *checker) readDaemon() {
	var all []Item
	for _, d := range c.ast.Daemon {
		c.items(d.Items, "daemon", daemonKeys)
		for i := range d.Items {
			c.daemonItem(&d.Items[i])
		}
		all = append(all, d.Items...)
	}
	c.dnsComplete(all)
	c.webComplete(all)
}

func (c *checker) daemonItem(item *Item) {
	to := &c.p.Daemon
	if c.webItem(item) {
		return
	}
	switch item.Key.Text {
	case "dns_listen":
		c.dnsListen(item)
		return
	case "dns_upstreams":
		c.dnsUpstreams(item)
		return
	case "masquerade":
		for _, w := range c.plain(item) {
			if i := c.resolve(w, c.uplinks, c.usedUplinks, "uplink"); i >= 0 {
				to.Masquerade = append(to.Masquerade, i)
			}
		}
		return
	case "relay":
		for _, w := range c.plain(item) {
			if a, ok := c.addrPort(w, "relay", "127.0.0.1:1080 or [::1]:1080"); ok {
				to.Relay.Listen = append(to.Relay.Listen, a)
			}
		}
		return
	case "tproxy":
		c.tproxy(c.plain(item))
		return
	case "xray_links":
		c.plain(item)
		for _, w := range item.Args {
			if w.Text == "" || strings.ContainsRune(w.Text, 0) {
				c.report("NP004", w.Span, "expected the path of a file for xray_links, found %s", diag.Quote(w.Text))
				continue
			}
			to.Xray.Links = append(to.Xray.Links, w.Text)
		}
		if len(to.Xray.Links) > maxXrayLinks {
			c.report("NP905", item.Span, "xray_links has more than %d files", maxXrayLinks)
		}
		return
	}
	w, ok := c.single(item)
	if !ok {
		return
	}
	switch key := item.Key.Text; key {
	case "on_crash":
		switch c.oneOf(w, key, "open", "closed", "last") {
		case "open":
			to.OnCrash = Open
		case "closed":
			to.OnCrash = Closed
		}
	case "backend":
		switch c.oneOf(w, key, "auto", "nftables", "iptables") {
		case "nftables":
			to.Backend = NFTables
		case "iptables":
			to.Backend = IPTables
		}
	case "enforce":
		if c.oneOf(w, key, "static", "consult") == "consult" {
			to.Enforce = Consult
		}
	case "hello":
		if c.oneOf(w, key, "watch", "hold") == "hold" {
			to.Hello = Hold
		}
	case "dns_blocked":
		to.DNS.ZeroAddress = c.oneOf(w, key, "nxdomain", "zero") == "zero"
	case "dns_stale":
		to.DNS.Stale = c.duration(w, key, 0, maxStale)
	case "dns_strip_ech":
		to.DNS.StripECH = c.boolean(w, key)
	case "mark_mask":
		to.MarkMask = c.mask(w, key)
	case "ct_mask":
		to.CTMask = c.mask(w, key)
	case "table_base":
		n, _ := c.integer(w, key, 256, 1<<31-1<<16)
		to.TableBase = uint32(n)
	case "rule_priority":
		n, _ := c.integer(w, key, 1, 32000) // below the kernel's main rule at 32766
		to.RulePriority = int(n)
	case "tproxy_port":
		n, _ := c.integer(w, key, 1, 65535)
		to.Relay.Port = uint16(n)
	case "state_dir":
		to.StateDir, to.StateDirAt = c.path(w, key), w.Span
	case "api":
		to.API = c.path(w, key)
	case "xray_binary":
		to.Xray.Binary = c.path(w, key)
	case "xray_user":
		to.Xray.User = c.userName(w)
	case "xray_probe":
		to.Xray.Probe = c.probeURL(w)
	case "xray_probe_every":
		to.Xray.ProbeEvery = c.duration(w, key, time.Second, time.Hour)
	case "api_listen":
		to.Web.Listen, _ = c.addrPort(w, key, "127.0.0.1:8443 or [::1]:8443")
	case "insecure_lan":
		to.Web.InsecureLAN = c.boolean(w, key)
	case "decision_log":
		to.Records.Log = c.boolean(w, key)
	case "decision_log_sample":
		n, _ := c.integer(w, key, 1, maxSample)
		to.Records.Sample = int(n)
	}
}

// addrPort reads an address with a port.
func (c *checker) addrPort(w Word, what, example string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(w.Text)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		c.report("NP202", w.Span, "%s needs an address and a port, found %s", what, diag.Quote(w.Text)).Help = "for example " + example
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), true
}

// tproxy reads which ports of forwarded flows the relay takes: tcp/443, udp/443.
func (c *checker) tproxy(words []Word) {
	to := &c.p.Daemon.Relay
	for _, w := range words {
		proto, _, ok := strings.Cut(w.Text, "/")
		list := &to.TCP
		switch {
		case ok && proto == "udp":
			list = &to.UDP
		case ok && proto == "tcp":
		default:
			c.report("NP103", w.Span, "expected a protocol with a port, found %s", diag.Quote(w.Text)).
				Help = "for example tcp/443, tcp/8000-8100 or udp/443"
			continue
		}
		if r, ok := c.portRange(w.Part(len(proto)+1, len(w.Text))); ok {
			*list = MergePorts(append(*list, r))
		}
	}
}

// mask reads a mask of one run of at least two bits: values are shifted into
// it, and all ones is the bypass.
func (c *checker) mask(w Word, what string) uint32 {
	n, ok := c.integer(w, what, 1, 1<<32-1)
	m := uint32(n)
	if ok && (bits.OnesCount32(m) < 2 || bits.OnesCount32(m) != 32-bits.LeadingZeros32(m)-bits.TrailingZeros32(m)) {
		c.report("NP103", w.Span, "%s must be one run of at least two bits, found %s", what, diag.Quote(w.Text)).
			Help = "for example 0x70000000"
	}
	return m
}

// maxXrayLinks bounds xray_links: each file is watched.
const maxXrayLinks = 64

// userName checks the name of a user of this host.
func (c *checker) userName(w Word) string {
	if w.Text == "" || len(w.Text) > 32 || strings.ContainsAny(w.Text, ":/ \t\n\x00") {
		c.report("NP004", w.Span, "expected the name of a user for xray_user, found %s", diag.Quote(w.Text))
	}
	return w.Text
}

// probeURL checks what is fetched through each proxy.
func (c *checker) probeURL(w Word) string {
	if w.Text == "off" {
		return w.Text
	}
	u, err := url.Parse(w.Text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		c.report("NP004", w.Span, "expected an http or https URL, or off, for xray_probe, found %s", diag.Quote(w.Text)).
			Help = "for example " + DefaultXrayProbe
	}
	return w.Text
}

func (c *checker) path(w Word, what string) string {
	if !strings.HasPrefix(w.Text, "/") || strings.ContainsRune(w.Text, 0) {
		c.report("NP004", w.Span, "expected an absolute path for %s, found %s", what, diag.Quote(w.Text))
	}
	return w.Text
}
