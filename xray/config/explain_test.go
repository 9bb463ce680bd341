package config

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

// wrong are profiles of which one thing differs from the server, by the combination
// that they come from, and what has to be said of them.
var wrong = []struct {
	name, of, key, message string
	change                 func(*link.Profile)
}{
	{"wrong pin", "trojan, raw, tls", "pcs", "not the one that is pinned", pinned1(testPin)},
	{"wrong pin over h3", "vless, xhttp over h3", "pcs", "not the one that is pinned", pinned1(testPin)},
	{"self-signed and no pin", "trojan, raw, tls", "pcs", "signed by itself", pinned1("")},
	{"self-signed and no pin over grpc", "trojan, grpc, tls", "pcs", "signed by itself", pinned1("")},
	{"another name", "trojan, raw, tls", "sni", "for another name", func(p *link.Profile) { p.Security = link.TLS{ServerName: "other.example"} }},
	{"no name", "trojan, raw, tls", "sni", "only an address is known", func(p *link.Profile) { p.Security = link.TLS{} }},
	{"another name to verify", "trojan, raw, tls", "vcn", "none of the names", func(p *link.Profile) {
		p.Security = link.TLS{ServerName: certName, Names: []string{"other.example"}}
	}},
	{"wrong short id", "vless, raw, reality, vision", "sid", "short id, key or name are not its own", func(p *link.Profile) {
		r := p.Security.(link.Reality)
		r.ShortID = "abcd"
		p.Security = r
	}},
	{"wrong key of REALITY", "vless, xhttp, reality", "sid", "short id, key or name are not its own", func(p *link.Profile) {
		r := p.Security.(link.Reality)
		r.PublicKey = testKey
		p.Security = r
	}},
	{"wrong id", "vless, ws, tls", "user", "closed the connection", func(p *link.Profile) {
		p.Proxy = link.VLESS{ID: "21111111-2222-4333-8444-555555555555"}
	}},
	{"wrong password of trojan", "trojan, ws, tls", "user", "did not answer the request", func(p *link.Profile) { p.Proxy = link.Trojan{Password: "wrong"} }},
	{"wrong encryption", "vless with encryption, raw", "encryption", "encryption's key", func(p *link.Profile) {
		p.Proxy = link.VLESS{ID: testID, Encryption: "mlkem768x25519plus.native.0rtt." + testKey}
	}},
	{"no encryption", "vless with encryption, raw", "user", "closed the connection", func(p *link.Profile) { p.Proxy = link.VLESS{ID: testID} }},
	{"wrong password of socks", "socks", "user", "user and password", func(p *link.Profile) { p.Proxy = link.Socks{User: "user", Password: "wrong"} }},
	{"no password of socks", "socks", "user", "wants a user", func(p *link.Profile) { p.Proxy = link.Socks{} }},
	{"wrong password of http", "http", "user", "user and password", func(p *link.Profile) { p.Proxy = link.HTTP{User: "user", Password: "wrong"} }},
	{"wrong password of hysteria2", "hysteria2", "user", "the password", func(p *link.Profile) { p.Proxy = link.Hysteria2{Auth: "wrong"} }},
	{"wrong path of ws", "vless, ws, tls", "path", "nothing at this path", func(p *link.Profile) { p.Transport = link.WebSocket{Path: "/other"} }},
	{"wrong path of xhttp", "vless, xhttp stream-one, tls", "path", "nothing at this path", func(p *link.Profile) { p.Transport = link.XHTTP{Path: "/other"} }},
	{"wrong path of httpupgrade", "vmess, httpupgrade", "path", "no upgrade", func(p *link.Profile) { p.Transport = link.HTTPUpgrade{Path: "/other"} }},
	{"wrong service of grpc", "trojan, grpc, tls", "serviceName", "no such service", func(p *link.Profile) { p.Transport = link.GRPC{ServiceName: "other"} }},
	{"no TLS", "vmess, cipher zero, ws, tls", "path", "wants TLS", func(p *link.Profile) { p.Security = link.Plain{} }},
	{"TLS where there is none", "shadowsocks, v2ray-plugin", "security", "does not speak TLS", func(p *link.Profile) {
		p.Proxy, p.Transport = link.Shadowsocks{Method: "aes-256-gcm", Password: "x"}, link.WebSocket{Path: "/w"}
		p.Security = link.TLS{ServerName: certName}
	}},
	{"wrong port", "vmess, raw", "port", "nobody listens", func(p *link.Profile) { p.Port = 1 }},
}

// pinned1 returns what pins another certificate; "" pins none.
func pinned1(pin string) func(*link.Profile) {
	return func(p *link.Profile) {
		s := p.Security.(link.TLS)
		s.Pins = nil
		if pin != "" {
			s.Pins = []string{pin}
		}
		p.Security = s
	}
}

// session returns the lines of a log that belong to the connections that went out
// by an outbound: each line has the number of its connection.
func session(log, tag string) string {
	var ids []string
	var b strings.Builder
	for line := range strings.Lines(log) {
		if strings.Contains(line, "detour ["+tag+"]") {
			if _, rest, ok := strings.Cut(line, "[Info] "); ok {
				id, _, _ := strings.Cut(rest, " ")
				ids = append(ids, id)
			}
		}
		for _, id := range ids {
			if strings.Contains(line, id) {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

// TestExplain: each thing that is wrong fails with the real core, and what it prints
// is said in plain words, without a secret.
func TestExplain(t *testing.T) {
	for _, c := range cores(t) {
		explains(t, c)
	}
}

func explains(t *testing.T, c core) {
	w := newWires(t, c.v, c.v)
	all := w.combinations()
	used := make([]wire, len(wrong))
	for i, x := range wrong {
		for _, have := range all {
			if have.name == x.of {
				used[i] = have
			}
		}
		if used[i].profile.Proxy == nil {
			t.Fatalf("no combination %s", x.of)
		}
		used[i].name, used[i].profile.Name = x.name, x.name
		x.change(&used[i].profile)
	}
	l := newLab(t, c, c, all, w, used)
	var group sync.WaitGroup
	for i, x := range wrong {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, n, err := fetch(ctx, l.ports[i]); err == nil || n > 0 {
				t.Errorf("%s: %d bytes, %v", x.name, n, err)
				return
			}
			// Xray writes its log a moment later.
			for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
				log := session(l.client.log(0), tag(used[i].profile, map[string]bool{}))
				f, ok := Explain(used[i].profile, log)
				if ok && f.Key == x.key && strings.Contains(f.Message, x.message) {
					t.Logf("%s: %s", x.name, f)
					return
				}
				if time.Now().After(deadline) {
					t.Errorf("%s: %v %s\n%s", x.name, ok, f, log)
					return
				}
			}
		})
	}
	group.Wait()
}

// TestExplainNot: what is not known is not explained.
func TestExplainNot(t *testing.T) {
	p, _ := link.Parse("trojan://secret@192.0.2.1:443#x")
	for _, log := range []string{"", "all is well"} {
		if f, ok := Explain(p, log); ok {
			t.Error(f)
		}
	}
	if f, ok := Explain(link.Profile{}, "connection refused"); ok {
		t.Error(f)
	}
	f, ok := Explain(p, "tunneling request to tcp:1 via 2")
	if !ok || f.Severity != diag.Warning || strings.Contains(f.String(), "secret") {
		t.Error(f)
	}
}
