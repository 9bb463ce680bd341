package yaml

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"netpolicy.dev/netpolicy/rules"
)

func TestWeb(t *testing.T) {
	p, diags := Load("p.yaml", []byte(`
version: 1
daemon:
  api_listen: 10.0.0.1:8443
  api_tls: [/etc/c.pem, /etc/k.pem]
  api_hosts: [router.lan]
  insecure_lan: false
  decision_log: true
  decision_log_sample: 10
  decision_mask: [name, src, name]
  alerts: ["https://hooks.example/x", "ntfy+https://ntfy.sh/t"]
`))
	if p == nil {
		t.Fatal(diags)
	}
	want := rules.Daemon{
		Web:     rules.Web{Listen: netip.MustParseAddrPort("10.0.0.1:8443"), Cert: "/etc/c.pem", Key: "/etc/k.pem", Hosts: []string{"router.lan"}},
		Records: rules.Records{Log: true, Sample: 10, Mask: []string{"name", "src"}},
		Alerts:  []string{"https://hooks.example/x", "ntfy+https://ntfy.sh/t"},
	}
	got := rules.Daemon{Web: p.Daemon.Web, Records: p.Daemon.Records, Alerts: p.Daemon.Alerts}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
}

func TestWebErrors(t *testing.T) {
	for _, c := range []struct{ daemon, want string }{
		{"api_listen: 0.0.0.0:8443", "NP107 others can reach 0.0.0.0:8443: api_tls is needed"},
		{"api_listen: 127.0.0.1", "NP202 api_listen needs an address and a port"},
		{"api_tls: [/c.pem, /k.pem]", "NP107 api_tls is given, and api_listen is not"},
		{"{api_listen: 127.0.0.1:1, api_tls: [/c.pem]}", "NP004 api_tls needs two files"},
		{"{api_listen: 127.0.0.1:1, api_tls: [c.pem, /k.pem]}", "NP004 expected an absolute path"},
		{"{api_listen: 127.0.0.1:1, api_hosts: [http://x]}", "NP004 expected the name of this host"},
		{"decision_log_sample: 10", "NP107 decision_log_sample is given, and decision_log is not"},
		{"{decision_log: true, decision_log_sample: 0}", "NP103"},
		{"decision_mask: [port]", "NP004"},
		{"alerts: [ftp://x.example]", "NP004 expected the URL of a webhook"},
		{`alerts: ["https://user:pass@x.example"]`, "NP004 expected the URL of a webhook"},
		{"alerts: [" + strings.Repeat("https://x.example/a, ", 9) + "]", "NP905 there are at most 8 alerts"},
	} {
		text := c.daemon
		if !strings.HasPrefix(text, "{") {
			text = "{" + text + "}"
		}
		p, diags := Load("p.yaml", []byte("version: 1\ndaemon: "+text+"\n"))
		var list []string
		for _, d := range diags {
			list = append(list, string(d.Code)+" "+d.Message)
		}
		if p != nil || !strings.HasPrefix(strings.Join(list, "\n"), c.want) {
			t.Errorf("%s: %q, want %q", c.daemon, list, c.want)
		}
	}
}
