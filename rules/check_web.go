package rules

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// Web is the API and the web interface over TCP. The zero value is nothing.
type Web struct {
	Listen    netip.AddrPort
	Cert, Key string   // PEM files; "" is without TLS
	Hosts     []string // names under which browsers may ask, besides localhost and the address
	// InsecureLAN allows an address that others can reach without TLS.
	InsecureLAN bool
}

// Records is what becomes of decision records besides the tail in memory. The zero value is nothing.
type Records struct {
	Log    bool     // they go to the disk
	Sample int      // one of so many decisions of a rule does; 0 and 1: all
	Mask   []string // what is replaced by hashes: of MaskFields
}

// MaskFields are what decision_mask can name.
var MaskFields = []string{"name", "src", "dst", "process", "user"}

// maxSample bounds decision_log_sample, maxAlerts the alerts, maxHosts the api_hosts: more than a person lists.
const (
	maxSample = 1_000_000
	maxAlerts = 8
	maxHosts  = 32
)

// webItem reads the keys of Web, Records and the alerts; false for others.
func (c *checker) webItem(item *Item) bool {
	web, rec := &c.p.Daemon.Web, &c.p.Daemon.Records
	switch item.Key.Text {
	case "api_tls":
		words := c.plain(item)
		if len(words) != 2 {
			c.report("NP004", item.Span, "api_tls needs two files, the certificate and the key").Help = "for example /etc/netpolicy/cert.pem, /etc/netpolicy/key.pem"
			return true
		}
		web.Cert, web.Key = c.path(words[0], "api_tls"), c.path(words[1], "api_tls")
	case "api_hosts":
		for _, w := range c.plain(item) {
			if strings.ContainsAny(w.Text, "/:@* \t") || w.Text == "" || len(web.Hosts) == maxHosts {
				c.report("NP004", w.Span, "expected the name of this host, found %s", diag.Quote(w.Text)).Help = "for example router.lan; at most 32 names, without scheme and port"
				continue
			}
			web.Hosts = append(web.Hosts, w.Text)
		}
	case "decision_mask":
		for _, w := range c.plain(item) {
			if f := c.oneOf(w, "decision_mask", MaskFields...); f != "" && !slices.Contains(rec.Mask, f) {
				rec.Mask = append(rec.Mask, f)
			}
		}
	case "alerts":
		for _, w := range c.plain(item) {
			if c.alert(w) {
				c.p.Daemon.Alerts = append(c.p.Daemon.Alerts, w.Text)
			}
		}
	default:
		return false
	}
	return true
}

// alert reports whether a word is where alerts can go.
func (c *checker) alert(w Word) bool {
	u, err := url.Parse(strings.TrimPrefix(w.Text, "ntfy+"))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil:
		c.report("NP004", w.Span, "expected the URL of a webhook, found %s", diag.Quote(w.Text)).
			Help = `for example "https://hooks.example/netpolicy", or "ntfy+https://ntfy.sh/topic"`
		return false
	case len(c.p.Daemon.Alerts) == maxAlerts:
		c.report("NP905", w.Span, "there are at most %d alerts", maxAlerts)
		return false
	}
	return true
}

// webComplete reports what has no meaning without something else.
func (c *checker) webComplete(items []Item) {
	needs := func(key, other string) {
		if it := find(items, key); it != nil && find(items, other) == nil {
			c.report("NP107", it.Key.Span, "%s is given, and %s is not", key, other)
		}
	}
	for _, key := range []string{"api_tls", "api_hosts", "insecure_lan"} {
		needs(key, "api_listen")
	}
	needs("decision_log_sample", "decision_log")
	web := &c.p.Daemon.Web
	if it := find(items, "api_listen"); it != nil && web.Listen.IsValid() && !web.Listen.Addr().IsLoopback() &&
		find(items, "api_tls") == nil && !web.InsecureLAN {
		c.report("NP107", it.Key.Span, "others can reach %s: api_tls is needed", web.Listen).
			Help = "or `insecure_lan true` where nobody else is on the network"
	}
}
