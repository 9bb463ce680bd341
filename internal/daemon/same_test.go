package daemon

import (
	"net/netip"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// TestSameDaemon: what a daemon section says counts, and not where it stands.
func TestSameDaemon(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:1080")
	for name, change := range map[string]func(*rules.Daemon){
		"relay":      func(d *rules.Daemon) { d.Relay.Listen = []netip.AddrPort{at} },
		"tproxy":     func(d *rules.Daemon) { d.Relay.TCP = []rules.PortRange{{Lo: 443, Hi: 443}} },
		"dns":        func(d *rules.Daemon) { d.DNS.Stale = time.Hour },
		"hello":      func(d *rules.Daemon) { d.Hello = rules.Hold },
		"xray_links": func(d *rules.Daemon) { d.Xray.Links = []string{"x"} },
		"masquerade": func(d *rules.Daemon) { d.Masquerade = []int{0} },
	} {
		var a, b rules.Daemon
		if change(&b); sameDaemon(&a, &b) {
			t.Error(name, "is no change")
		}
	}
	a := rules.Daemon{DNS: rules.DNS{Upstreams: []rules.DNSUpstream{{Name: "a"}}}}
	b := rules.Daemon{DNS: rules.DNS{Upstreams: []rules.DNSUpstream{{Name: "a", Span: diag.Span{Start: 7}}}}}
	if !sameDaemon(&a, &b) {
		t.Error("a place is a change")
	}
}
