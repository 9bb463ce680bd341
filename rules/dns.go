package rules

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
)

const (
	// maxDNSUpstreams bounds dns_upstreams: more than a person lists.
	maxDNSUpstreams = 16
	// maxStale bounds dns_stale: RFC 8767, 4 advises one to three days.
	maxStale = 7 * 24 * time.Hour
)

// DNS is the forwarder in netpolicyd. The zero value: there is none.
type DNS struct {
	Listen    []netip.AddrPort // over UDP and TCP
	Upstreams []DNSUpstream
	// ZeroAddress: blocked names are answered with 0.0.0.0 and ::, else they do
	// not exist.
	ZeroAddress bool
	Stale       time.Duration // 0: never
	StripECH    bool
}

// DNSUpstream is a resolver that is asked.
type DNSUpstream struct {
	Name string
	Span diag.Span
	URL  string        // udp, tcp, tls or https
	At   []netip.Addr  // of a host that is a name
	For  []NamePattern // empty: every name that no other is for
}

// UpstreamsFor returns the indices of the upstreams for a canonical name, in order.
// The first whose patterns match decides: it, and those that are for the same
// patterns. Without one it is those that are for every name.
func (d *DNS) UpstreamsFor(name string) []int {
	var patterns []NamePattern
	for i := range d.Upstreams {
		if u := &d.Upstreams[i]; slices.ContainsFunc(u.For, func(p NamePattern) bool { return p.Match(name) }) {
			patterns = u.For
			break
		}
	}
	var list []int
	for i := range d.Upstreams {
		if slices.EqualFunc(d.Upstreams[i].For, patterns, samePattern) {
			list = append(list, i)
		}
	}
	return list
}

func samePattern(a, b NamePattern) bool { return a.Kind == b.Kind && a.Name == b.Name }

func (c *checker) dnsListen(item *Item) {
	to := &c.p.Daemon.DNS
	for _, w := range c.plain(item) {
		if a, ok := c.addrPort(w); ok {
			to.Listen = append(to.Listen, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
}

// dnsUpstreams reads strings such as `corp tls://dns.example at 192.0.2.53 for .corp.example`.
func (c *checker) dnsUpstreams(item *Item) {
	to := &c.p.Daemon.DNS
	if item.Block {
		c.plain(item)
		return
	}
	for _, w := range item.Args {
		if len(to.Upstreams) == maxDNSUpstreams {
			c.report("NP905", w.Span, "there are at most %d dns_upstreams", maxDNSUpstreams)
			return
		}
		u, ok := c.dnsUpstream(w)
		if !ok {
			continue
		}
		for _, other := range to.Upstreams {
			if other.Name == u.Name {
				c.report("NP106", u.Span, "%s names two of dns_upstreams", diag.Quote(u.Name)).Note(other.Span, "first named here")
			}
		}
		to.Upstreams = append(to.Upstreams, u)
	}
}

func (c *checker) dnsUpstream(w Word) (DNSUpstream, bool) {
	inner := w
	inner.Quoted = false // its words are read here
	words := inner.Split()
	if len(words) < 2 {
		c.report("NP004", w.Span, "expected a name and a URL, found %s", diag.Quote(w.Text)).
			Help = `for example "main tls://dns.example at 192.0.2.53"`
		return DNSUpstream{}, false
	}
	u := DNSUpstream{Name: words[0].Text, Span: words[0].Span, URL: words[1].Text}
	const none, addresses, names = 0, 1, 2
	in := none
	for _, w := range words[2:] {
		switch {
		case w.Text == "at":
			in = addresses
		case w.Text == "for":
			in = names
		case in == addresses:
			if a, ok := c.addr(w, "an address of the upstream"); ok {
				u.At = append(u.At, a)
			}
		case in == names:
			p, problem := parseNamePattern(w.Text)
			if problem != patternOK {
				c.badPattern(w, problem)
				continue
			}
			u.For = append(u.For, p)
		default:
			c.report("NP004", w.Span, "expected `at` or `for`, found %s", diag.Quote(w.Text))
			return u, false
		}
	}
	if in == names && len(u.For) == 0 {
		c.report("NP107", words[len(words)-1].Span, "no name follows `for`")
		return u, false // else it would be for every name
	}
	return u, c.dnsURL(words[1], len(u.At) > 0)
}

// dnsURL checks the URL of an upstream.
func (c *checker) dnsURL(w Word, addressed bool) bool {
	u, err := url.Parse(w.Text)
	wrong := func(why string) bool {
		c.report("NP004", w.Span, "%s is no URL of a resolver: %s", diag.Quote(w.Text), why).
			Help = "for example udp://192.0.2.53, tcp://192.0.2.53, tls://dns.example or https://dns.example/dns-query"
		return false
	}
	if err != nil {
		return wrong("it can't be read")
	}
	secure := u.Scheme == "tls" || u.Scheme == "https"
	_, notAddress := netip.ParseAddr(u.Hostname())
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return wrong("the port is from 1 to 65535")
		}
	}
	switch {
	case !secure && u.Scheme != "udp" && u.Scheme != "tcp":
		return wrong("the scheme is udp, tcp, tls or https")
	case u.Hostname() == "" || u.User != nil || strings.HasSuffix(u.Host, ":"):
		return wrong("it has no host")
	case u.Scheme != "https" && (u.Path != "" || u.RawQuery != ""):
		return wrong("only https has a path")
	case !secure && u.Fragment != "":
		return wrong("only tls and https have the name of a certificate")
	case !secure && notAddress != nil:
		return wrong("udp and tcp need an address")
	case notAddress != nil && !addressed:
		c.report("NP107", w.Span, "the address of %s is not given", diag.Quote(u.Hostname())).
			Help = "names of resolvers are not looked up: add `at 192.0.2.53`, with its address"
		return false
	}
	return true
}

// dnsComplete reports a forwarder that lacks a part.
func (c *checker) dnsComplete(items []Item) {
	listen, upstreams := find(items, "dns_listen"), find(items, "dns_upstreams")
	switch {
	case listen != nil && upstreams == nil:
		c.report("NP107", listen.Key.Span, "dns_listen is given, and dns_upstreams is not")
	case listen == nil && upstreams != nil:
		c.report("NP107", upstreams.Key.Span, "dns_upstreams is given, and dns_listen is not")
	case upstreams == nil:
		for _, key := range []string{"dns_blocked", "dns_stale", "dns_strip_ech"} {
			if it := find(items, key); it != nil {
				c.report("NP107", it.Key.Span, "%s is given, and dns_listen is not", key)
			}
		}
	case !upstreams.Bad && len(c.p.Daemon.DNS.Upstreams) > 0 &&
		!slices.ContainsFunc(c.p.Daemon.DNS.Upstreams, func(u DNSUpstream) bool { return len(u.For) == 0 }):
		c.report("NP107", upstreams.Key.Span, "no upstream is for all other names").Help = "one must have no `for`"
	}
}
