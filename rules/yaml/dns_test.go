package yaml

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestXray reads the settings of routes through Xray, and shows what is wrong with others.
func TestXray(t *testing.T) {
	p, diags := Load("f", []byte(`
routes: {a: {via: xray "My proxy"}}
daemon:
  relay: 127.0.0.1:1080
  xray_links: [links.txt, "/etc/my links.yaml"]
  xray_binary: /opt/xray
  xray_user: nobody
  xray_probe: https://probe.example/x
  xray_probe_every: 2s
default: {route: a}
`))
	if p == nil || len(diags) > 0 {
		t.Fatal(diags)
	}
	x := p.Daemon.Xray
	if fmt.Sprintf("%q", x.Links) != `["links.txt" "/etc/my links.yaml"]` || x.Binary != "/opt/xray" || x.User != "nobody" ||
		x.Probe != "https://probe.example/x" || x.ProbeEvery.Seconds() != 2 {
		t.Errorf("%+v", x)
	}
	if name, ok := p.Routes[0].Xray(); name != "My proxy" || !ok {
		t.Errorf("%q, %v", name, ok)
	}
	for _, c := range []struct{ daemon, want string }{
		{"xray_binary: xray", "NP004"},
		{"xray_links: {a: b}", "NP004"},
		{"xray_links: ''", "NP004"},
		{"xray_user: 'a:b'", "NP004"},
		{"xray_probe: 'ftp://a.example/'", "NP004"},
		{"xray_probe: 'http://u:p@a.example/'", "NP004"},
		{"xray_probe_every: 10ms", "NP103"},
	} {
		_, diags := Load("f", []byte("routes: {a: {via: main}}\ndaemon: {"+c.daemon+"}\ndefault: {route: a}\n"))
		if len(diags) != 1 || string(diags[0].Code) != c.want {
			t.Errorf("%s: %v, want %s", c.daemon, diags, c.want)
		}
	}
}

// TestDNS reads the forwarder's settings, and shows what is wrong with others.
func TestDNS(t *testing.T) {
	p, diags := Load("f", []byte(`
routes: {a: {via: main}}
daemon:
  dns_listen: [10.0.0.1:53, "[2001:db8::1]:53"]
  dns_upstreams:
    - corp tls://ns.corp.example at 192.0.2.53, 192.0.2.54 for .corp.example, build-*.example
    - spare udp://192.0.2.55 for .corp.example build-*.example
    - wide tcp://192.0.2.56 for .example
    - main https://dns.example/dns-query at 2001:db8::53
    - second tls://192.0.2.57#dns.example
  dns_blocked: zero
  dns_stale: 1h
  dns_strip_ech: true
default: {route: a}
`))
	if p == nil || len(diags) > 0 {
		t.Fatal(diags)
	}
	d := p.Daemon.DNS
	if fmt.Sprint(d.Listen) != "[10.0.0.1:53 [2001:db8::1]:53]" || !d.ZeroAddress || d.Stale.Hours() != 1 || !d.StripECH || len(d.Upstreams) != 5 {
		t.Errorf("%+v", d)
	}
	if u := d.Upstreams[0]; u.Name != "corp" || u.URL != "tls://ns.corp.example" || fmt.Sprint(u.At) != "[192.0.2.53 192.0.2.54]" || fmt.Sprint(u.For) != "[.corp.example build-*.example]" {
		t.Errorf("%+v", u)
	}
	for name, want := range map[string][]int{
		"corp.example": {0, 1}, "a.corp.example": {0, 1}, "build-7.example": {0, 1}, "www.example": {2}, "example": {2},
		"example.net": {3, 4}, "": {3, 4}, `a\046corp.example`: {2},
	} {
		if got := d.UpstreamsFor(name); !slices.Equal(got, want) {
			t.Errorf("upstreams for %q: %v, want %v", name, got, want)
		}
	}
	for _, c := range []struct{ daemon, want string }{
		{"dns_listen: 10.0.0.1:53", "NP107"},
		{"dns_upstreams: m udp://192.0.2.1", "NP107"},
		{"dns_stale: 1h", "NP107"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://192.0.2.1 for .example", "NP107"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://192.0.2.1 for", "NP107"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m tls://dns.example", "NP107"},
		{"dns_listen: 10.0.0.1, dns_upstreams: m udp://192.0.2.1", "NP202"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: udp://192.0.2.1", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://dns.example", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m ftp://192.0.2.1", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://192.0.2.1/x", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://192.0.2.1:0", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: 'm udp://192.0.2.1#x'", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://192.0.2.1 via x", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: {m: udp://192.0.2.1}", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: [m udp://192.0.2.1, m udp://192.0.2.2]", "NP106"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: [" + strings.Repeat("m udp://192.0.2.1, ", 17) + "]", "NP905"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m tls://dns.example at dns.example", "NP201"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://192.0.2.1, dns_blocked: maybe", "NP004"},
		{"dns_listen: 10.0.0.1:53, dns_upstreams: m udp://192.0.2.1, dns_stale: 1000h", "NP103"},
	} {
		_, diags := Load("f", []byte("routes: {a: {via: main}}\ndefault: {route: a}\ndaemon: {"+c.daemon+"}\n"))
		if got := codes(diags); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.daemon, got, c.want)
		}
	}
}
