package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/xraytest"
)

const vlessUser = `"address":"192.0.2.1","port":443,"id":"` + testID + `","encryption":"none"`

// silent are configurations that `run -test` takes and that are wrong.
var silent = []struct{ name, config, want string }{
	{
		"a key with a slip in it",
		`{"outbounds":[{"protocol":"vless","settings":{` + vlessUser + `},"streamSettings":{"security":"tls","tlsSettings":{"serverNme":"s.example"}}}]}`,
		"error: at outbounds[0].streamSettings.tlsSettings.`serverNme`: Xray does not read this key, and does not say so (did you mean `serverName`?)",
	},
	{
		"a slip at the top", `{"outbound":[],"outbounds":[{"protocol":"freedom"}]}`,
		"error: at `outbound`: Xray does not read this key, and does not say so (did you mean `outbounds`?)",
	},
	{
		"plugin", `{"outbounds":[{"protocol":"shadowsocks","settings":{"address":"192.0.2.1","port":1,"method":"aes-256-gcm","password":"secret","plugin":"v2ray-plugin"}}]}`,
		"error: at outbounds[0].settings.plugin: Xray passes over plugins, so that all goes out without (" + pluginHelp + ")",
	},
	{
		"alterId", `{"outbounds":[{"protocol":"vmess","settings":{"vnext":[{"address":"192.0.2.1","port":1,"users":[{"id":"u","alterId":4}]}]}}]}`,
		"warning: at outbounds[0].settings.vnext[0].users[0].alterId: Xray passes over it: the authentication is removed (the server must take AEAD)",
	},
	{
		"port 0", `{"outbounds":[{"protocol":"socks","settings":{"address":"192.0.2.1","port":0}}]}`,
		"error: at outbounds[0].settings.port: the port is missing or not from 1 to 65535",
	},
	{
		"plain trojan", `{"outbounds":[{"protocol":"trojan","settings":{"address":"192.0.2.1","port":1,"password":"secret"}}]}`,
		"warning: at outbounds[0].streamSettings.security: nothing is encrypted on the way to the server (use TLS or REALITY)",
	},
	{
		"a rule to nowhere", `{"routing":{"rules":[{"port":"1","outboundTag":"x"}]},"outbounds":[{"protocol":"freedom"}]}`,
		"error: at routing.rules[0].outboundTag: there is no outbound with this tag",
	},
	{
		"hysteria without TLS",
		`{"outbounds":[{"protocol":"hysteria","settings":{"version":2,"address":"192.0.2.1","port":1},"streamSettings":{"network":"hysteria","hysteriaSettings":{"version":2}}}]}`,
		"error: at outbounds[0].streamSettings.security: hysteria needs TLS; Xray says so only when it connects (write tls)",
	},
	{
		"vision over a WebSocket",
		`{"outbounds":[{"protocol":"vless","settings":{` + vlessUser + `,"flow":"xtls-rprx-vision"},"streamSettings":{"network":"ws","security":"tls"}}]}`,
		"error: at outbounds[0].streamSettings.network: the flow xtls-rprx-vision goes over raw without a header only; Xray says so only when it connects" +
			" (leave the flow out, or use the encryption of vless, where the server does)",
	},
	{
		"the old pin",
		`{"outbounds":[{"protocol":"vless","settings":{` + vlessUser + `},"streamSettings":{"security":"tls","tlsSettings":{"pinnedPeerCertificateChainSha256":["AAAA"]}}}]}`,
		"error: at outbounds[0].streamSettings.tlsSettings.pinnedPeerCertificateChainSha256: Xray passes over this pin in silence" +
			" (write pinnedPeerCertSha256 with the SHA-256 of the certificate in hexadecimal digits)",
	},
	{"no outbounds", `{}`, "error: at outbounds: there are no outbounds, so that every connection ends"},
	{
		"a loop", `{"inbounds":[{"protocol":"dokodemo-door","listen":"127.0.0.1","port":1,"settings":{"network":"tcp","followRedirect":true},` +
			`"streamSettings":{"sockopt":{"tproxy":"tproxy"}}}],"outbounds":[{"protocol":"freedom"}]}`,
		"error: at outbounds[0].streamSettings.sockopt.mark: without a mark what this outbound sends comes back to inbounds[0]" +
			" (set one that the host's rules lead past Xray)",
	},
	{
		"an open API", `{"api":{"tag":"api","listen":"0.0.0.0:1","services":[]},"outbounds":[{"protocol":"freedom"}]}`,
		"error: at api.listen: the API asks nobody for a password and is reachable from outside (listen on 127.0.0.1)",
	},
	{
		"an open proxy", `{"inbounds":[{"protocol":"mixed","port":1}],"outbounds":[{"protocol":"freedom"}]}`,
		"warning: at inbounds[0].listen: everybody who reaches this address can use the proxy (listen on 127.0.0.1, or ask for a password)",
	},
	{
		"a balancer of nobody", `{"routing":{"balancers":[{"tag":"b","selector":["x"]}],"rules":[{"port":"1","balancerTag":"b"}]},"outbounds":[{"protocol":"freedom","tag":"y"}]}`,
		"error: at routing.balancers[0].selector: no outbound's tag begins like this",
	},
	{
		"a key of the other version",
		`{"outbounds":[{"protocol":"vless","settings":{` + vlessUser + `},"streamSettings":{"method":"ws","security":"tls"}}]}`,
		"error: at outbounds[0].streamSettings.method: Xray 26.3 does not have this key; 26.7 does",
	},
}

func TestValidateSilent(t *testing.T) {
	for _, c := range silent {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, f := range Validate(V26_3, []byte(c.config)) {
				got = append(got, f.String())
			}
			if d := cmp.Diff(c.want, strings.Join(got, "\n")); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestSilentCore: these are what the real core takes indeed. Where it learns to
// see one, this says so.
func TestSilentCore(t *testing.T) {
	binary := xraytest.Binary(t)
	for _, c := range silent {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if out, ok := xraytest.Test(t.Context(), binary, []byte(c.config)); !ok {
				t.Error("Xray finds it itself:", out)
			}
		})
	}
}

// loud are configurations that the core refuses, and why we do.
var loud = []struct{ name, config, path string }{
	{"no JSON", `{`, ""},
	{"unknown protocol", `{"outbounds":[{"protocol":"hysteria2","settings":{}}]}`, "outbounds[0].protocol"},
	{"bad id", `{"outbounds":[{"protocol":"vmess","settings":{"address":"192.0.2.1","port":1,"id":"1234567890123456789012345678901"}}]}`, "outbounds[0].settings.id"},
	{"no encryption", `{"outbounds":[{"protocol":"vless","settings":{"address":"192.0.2.1","port":1,"id":"u"}}]}`, "outbounds[0].settings.encryption"},
	{"flow of trojan", `{"outbounds":[{"protocol":"trojan","settings":{"address":"192.0.2.1","port":1,"password":"x","flow":"xtls-rprx-vision"}}]}`, "outbounds[0].settings.flow"},
	{"stream cipher", `{"outbounds":[{"protocol":"shadowsocks","settings":{"address":"192.0.2.1","port":1,"method":"rc4-md5","password":"x"}}]}`, "outbounds[0].settings.method"},
	{"key of 2022", `{"outbounds":[{"protocol":"shadowsocks","settings":{"address":"192.0.2.1","port":1,"method":"2022-blake3-aes-128-gcm","password":"x"}}]}`, "outbounds[0].settings.password"},
	{"h2", `{"outbounds":[{"protocol":"freedom","streamSettings":{"network":"h2"}}]}`, "outbounds[0].streamSettings.network"},
	{"xtls", `{"outbounds":[{"protocol":"freedom","streamSettings":{"security":"xtls"}}]}`, "outbounds[0].streamSettings.security"},
	{"insecure", `{"outbounds":[{"protocol":"freedom","streamSettings":{"security":"tls","tlsSettings":{"allowInsecure":true}}}]}`, "outbounds[0].streamSettings.tlsSettings.allowInsecure"},
	{
		"insecure further in",
		`{"outbounds":[{"protocol":"freedom","streamSettings":{"network":"xhttp","xhttpSettings":{"extra":{"downloadSettings":{"address":"192.0.2.1","port":1,"network":"xhttp","security":"tls","tlsSettings":{"allowInsecure":true}}}}}}]}`,
		"outbounds[0].streamSettings.xhttpSettings.extra.downloadSettings.tlsSettings.allowInsecure",
	},
	{"padded key", `{"outbounds":[{"protocol":"freedom","streamSettings":{"security":"reality","realitySettings":{"password":"` + testKey + `="}}}]}`, "outbounds[0].streamSettings.realitySettings.password"},
	{"odd short id", `{"outbounds":[{"protocol":"freedom","streamSettings":{"security":"reality","realitySettings":{"password":"` + testKey + `","shortId":"abc"}}}]}`, "outbounds[0].streamSettings.realitySettings.shortId"},
	{"fingerprint", `{"outbounds":[{"protocol":"freedom","streamSettings":{"security":"tls","tlsSettings":{"fingerprint":"netscape"}}}]}`, "outbounds[0].streamSettings.tlsSettings.fingerprint"},
	{"pin in base64", `{"outbounds":[{"protocol":"freedom","streamSettings":{"security":"tls","tlsSettings":{"pinnedPeerCertSha256":"AAAA="}}}]}`, "outbounds[0].streamSettings.tlsSettings.pinnedPeerCertSha256"},
	{"seed", `{"outbounds":[{"protocol":"freedom","streamSettings":{"network":"kcp","kcpSettings":{"seed":"x"}}}]}`, "outbounds[0].streamSettings.kcpSettings.seed"},
	{"mask of 26.7", `{"outbounds":[{"protocol":"freedom","streamSettings":{"network":"kcp","finalmask":{"udp":[{"type":"mkcp-legacy"}]}}}]}`, "outbounds[0].streamSettings.finalmask.udp[0].type"},
	{"host among headers", `{"outbounds":[{"protocol":"freedom","streamSettings":{"network":"xhttp","xhttpSettings":{"headers":{"Host":"x"}}}}]}`, "outbounds[0].streamSettings.xhttpSettings.headers.Host"},
	{"tag twice", `{"outbounds":[{"protocol":"freedom","tag":"a"},{"protocol":"freedom","tag":"a"}]}`, "outbounds[1].tag"},
	{"no range", `{"outbounds":[{"protocol":"freedom","streamSettings":{"network":"xhttp","xhttpSettings":{"extra":{"scMaxEachPostBytes":"1 - 2"}}}}]}`, "outbounds[0].streamSettings.xhttpSettings.extra.scMaxEachPostBytes"},
	{"no number", `{"outbounds":[{"protocol":"freedom","streamSettings":{"network":"xhttp","xhttpSettings":{"xmux":{"hKeepAlivePeriod":"1"}}}}]}`, "outbounds[0].streamSettings.xhttpSettings.xmux.hKeepAlivePeriod"},
	{"no rate", `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"brutalUp":"fast"}}}}]}`, "outbounds[0].streamSettings.finalmask.quicParams.brutalUp"},
	{"a small rate", `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"brutalDown":"0.4 mbps"}}}}]}`, "outbounds[0].streamSettings.finalmask.quicParams.brutalDown"},
	{"a rate of another unit", `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"brutalDown":"5 parsec"}}}}]}`, "outbounds[0].streamSettings.finalmask.quicParams.brutalDown"},
	{"congestion", `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"congestion":"cubic"}}}}]}`, "outbounds[0].streamSettings.finalmask.quicParams.congestion"},
	{"idle", `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"maxIdleTimeout":121}}}}]}`, "outbounds[0].streamSettings.finalmask.quicParams.maxIdleTimeout"},
	{"hop interval as a number", `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"udpHop":{"ports":"1-2","interval":4}}}}}]}`, "outbounds[0].streamSettings.finalmask.quicParams.udpHop.interval"},
	{"a service of nothing", `{"api":{"tag":"api","services":["ObservatoryService"]},"outbounds":[{"protocol":"freedom"}]}`, "api.services[0]"},
	{"hop interval", `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"udpHop":{"ports":"1-2","interval":"4"}}}}}]}`, "outbounds[0].streamSettings.finalmask.quicParams.udpHop.interval"},
}

func TestValidateLoud(t *testing.T) {
	for _, c := range loud {
		t.Run(c.name, func(t *testing.T) {
			findings := Validate(V26_3, []byte(c.config))
			if !Refused(findings) {
				t.Fatal("accepted")
			}
			for _, f := range findings {
				if f.Severity == diag.Error && f.Path != c.path {
					t.Errorf("%s, want %s", f, c.path)
				}
			}
		})
	}
}

// TestLoudCore: what we call an error without "silent" in it the core refuses too.
func TestLoudCore(t *testing.T) {
	binary := xraytest.Binary(t)
	for _, c := range loud {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if out, ok := xraytest.Test(t.Context(), binary, []byte(c.config)); ok {
				t.Error("Xray takes it:", out)
			}
		})
	}
}

func TestRate(t *testing.T) {
	for s, want := range map[string]bool{
		"100 mbps": true, "100mbps": true, "100M": true, "": true, "0": true, "0.6 mbps": true, "524288": true, "1 tbps": true, "99999 gbps": true,
		"524287": false, "0.5 mbps": true, "0.499 mbps": false, "x": false, "1 x": false, "1..2 m": false, "-1 m": false,
	} {
		if isRate(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func FuzzValidate(f *testing.F) {
	for _, c := range silent {
		f.Add([]byte(c.config))
	}
	for _, c := range loud {
		f.Add([]byte(c.config))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []Version{V26_3, V26_7} {
			for _, f := range Validate(v, data) {
				if f.Message == "" {
					t.Error("a finding without a message")
				}
			}
		}
	})
}

// TestSecretsOrder: a secret that another one begins with comes after it, so that
// replacing one by one leaves nothing of either.
func TestSecretsOrder(t *testing.T) {
	got := Secrets([]byte(`{"outbounds": [{"settings": {"id": "secret", "password": "secret-longer", "address": "h.example"}}]}`))
	if diff := cmp.Diff([]string{"secret-longer", "secret"}, got); diff != "" {
		t.Error(diff)
	}
}

// newer are configurations that 26.3 takes and 26.7 does not.
var newer = []struct{ name, config, path string }{
	{"vless in the clear", `{"outbounds":[{"protocol":"vless","settings":{"address":"proxy.example.com","port":443,"id":"u","encryption":"none"}}]}`, "outbounds[0].streamSettings.security"},
	{"trojan in the clear", `{"outbounds":[{"protocol":"trojan","settings":{"address":"2001:db8::1","port":443,"password":"secret"},"streamSettings":{"network":"ws"}}]}`, "outbounds[0].streamSettings.security"},
	{"shadowsocks in the clear", `{"outbounds":[{"protocol":"shadowsocks","settings":{"address":"192.0.2.1","port":443,"method":"none","password":"secret"}}]}`, "outbounds[0].settings.method"},
	{
		"mKCP's header as a mask of its own", `{"outbounds":[{"protocol":"vmess","settings":{"address":"192.0.2.1","port":443,"id":"u"},` +
			`"streamSettings":{"network":"kcp","finalmask":{"udp":[{"type":"header-srtp"}]}}}]}`, "outbounds[0].streamSettings.finalmask.udp[0].type",
	},
}

// TestNewer: each is refused for 26.7 only, by us and by the real cores.
func TestNewer(t *testing.T) {
	for _, c := range newer {
		if findings := Validate(V26_3, []byte(c.config)); Refused(findings) {
			t.Errorf("%s: refused for 26.3: %v", c.name, findings)
		}
		findings := Validate(V26_7, []byte(c.config))
		if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == diag.Error && f.Path == c.path }) {
			t.Errorf("%s: not refused at %s for 26.7: %v", c.name, c.path, findings)
		}
		for _, core := range cores(t) {
			if out, ok := xraytest.Test(t.Context(), core.binary, []byte(c.config)); ok != (core.v == V26_3) {
				t.Errorf("%s: Xray %s takes it: %v\n%s", c.name, core.v, ok, out)
			}
		}
	}
	// What 26.7 takes for private may be in the clear.
	for _, address := range []string{"127.0.0.1", "10.1.2.3", "203.0.113.9", "fd00::1", "::1", "router", "a.lan", "x.home.arpa.", "Proxy.Example"} {
		config := `{"outbounds":[{"protocol":"trojan","settings":{"address":"` + address + `","port":443,"password":"secret"}}]}`
		if findings := Validate(V26_7, []byte(config)); Refused(findings) {
			t.Errorf("%s: %v", address, findings)
		}
		if newer := xraytest.Newer(); newer != "" {
			if out, ok := xraytest.Test(t.Context(), newer, []byte(config)); !ok {
				t.Errorf("%s: %s", address, out)
			}
		}
	}
}
