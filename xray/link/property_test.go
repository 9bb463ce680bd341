package link

import (
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// same compares profiles with their secrets, which printing hides.
func same(a, b Profile) bool { return reflect.DeepEqual(a, b) }

// cases is how many random profiles a property sees.
func cases() int {
	if os.Getenv("FULL") != "" {
		return 100_000
	}
	return 5_000
}

func pick(t *rapid.T, label string, values ...string) string {
	return rapid.SampledFrom(values).Draw(t, label)
}

// anyText draws texts with everything that URLs, base64 and JSON care for.
func anyText(t *rapid.T, label string) string {
	return rapid.StringOfN(rapid.RuneFrom([]rune("aZ09 -._~!*'():;,=+/\\?#[]@&%$\"<>{}|^`é😀日\t")), 0, 12, -1).Draw(t, label)
}

func someText(t *rapid.T, label string) string { return "x" + anyText(t, label) }

func anyHost(t *rapid.T) string {
	return pick(t, "host", "proxy.example", "192.0.2.7", "2001:db8::7", "localhost", "xn--bcher-kva.example", "h")
}

func anyObject(t *rapid.T, label string) Object {
	if rapid.Bool().Draw(t, label) {
		return ""
	}
	return Object(`{"a":` + QuoteJSON(anyText(t, label)) + `,"xmux":{"n":[1,"2-3",true]}}`)
}

func anyTransport(t *rapid.T) Transport {
	port := rapid.Uint16Range(0, 2000)
	switch rapid.IntRange(0, 8).Draw(t, "transport") {
	case 0:
		return nil
	case 1:
		return Raw{Header: pick(t, "header", "", "none")}
	case 2:
		return Raw{Header: "http", Hosts: splitList(anyText(t, "hosts")), Paths: splitList(anyText(t, "paths"))}
	case 3:
		return WebSocket{Host: anyText(t, "ws host"), Path: anyText(t, "ws path")}
	case 4:
		return HTTPUpgrade{Host: anyText(t, "hu host"), Path: anyText(t, "hu path")}
	case 5:
		return XHTTP{Host: anyText(t, "x host"), Path: anyText(t, "x path"), Mode: pick(t, "mode", "", "auto", "packet-up", "stream-up", "stream-one"), Extra: anyObject(t, "extra")}
	case 6:
		return GRPC{ServiceName: anyText(t, "service"), Authority: anyText(t, "authority"), Mode: pick(t, "grpc mode", "", "gun", "multi")}
	case 7:
		return KCP{Header: pick(t, "kcp", "", "none", "srtp", "dns"), Seed: Secret(anyText(t, "seed")), MTU: port.Draw(t, "mtu"), TTI: port.Draw(t, "tti")}
	default:
		return Removed{Network: pick(t, "old", "http", "h2", "quic", "domainsocket"), Host: anyText(t, "old host"), Path: anyText(t, "old path")}
	}
}

func anyTLS(t *rapid.T) TLS {
	s := TLS{
		ServerName: pick(t, "sni", "", "sni.example"), Fingerprint: pick(t, "fp", "", "chrome", "odd"), Pins: splitList(anyText(t, "pins")),
		Names: splitList(anyText(t, "names")), ECH: anyText(t, "ech"), AllowInsecure: rapid.SampledFrom([]Toggle{Unset, Off, On}).Draw(t, "insecure"),
	}
	if rapid.Bool().Draw(t, "alpn") {
		s.ALPN = []string{"h2", "http/1.1"}
	}
	return s
}

func anySecurity(t *rapid.T) Security {
	switch rapid.IntRange(0, 3).Draw(t, "security") {
	case 0:
		return nil
	case 1:
		return Plain{}
	case 2:
		return anyTLS(t)
	default:
		return Reality{
			ServerName: pick(t, "sni", "", "sni.example"), Fingerprint: pick(t, "fp", "", "firefox"), PublicKey: pick(t, "pbk", "", "AAAA_-x"),
			ShortID: Secret(pick(t, "sid", "", "ab12", "odd")), SpiderX: anyText(t, "spx"), Verify: pick(t, "pqv", "", "AAAA"),
		}
	}
}

// anyProfile draws a profile as Parse would give one.
func anyProfile(t *rapid.T) Profile {
	p := Profile{
		Name: strings.TrimSpace(anyText(t, "name")), Host: anyHost(t), Port: rapid.Uint16Range(1, 65535).Draw(t, "port"),
		Transport: anyTransport(t), Security: anySecurity(t), FinalMask: anyObject(t, "fm"),
	}
	secret := func(label string) Secret { return Secret(someText(t, label)) }
	switch rapid.IntRange(0, 8).Draw(t, "protocol") {
	case 0:
		p.Proxy = VLESS{ID: secret("id"), Encryption: pick(t, "enc", "", "none", "mlkem768x25519plus.native.0rtt.AA"), Flow: pick(t, "flow", "", "xtls-rprx-vision")}
	case 1:
		p.Proxy = VMess{ID: secret("id"), Cipher: pick(t, "cipher", "", "auto", "zero"), AlterID: rapid.Uint16().Draw(t, "aid")}
		vmessForm(t, &p)
	case 2:
		p.Proxy = Trojan{Password: secret("password")}
		if p.Security == nil {
			p.Security = TLS{}
		}
	case 3:
		p.Proxy = Trojan{Password: secret("password"), Encryption: Secret(anyText(t, "go encryption")), Plugin: Secret(anyText(t, "go plugin"))}
		p.Source.Scheme, p.Security = "trojan-go", anyTLS(t)
	case 4:
		shadowsocksForm(t, &p)
	case 5:
		p.Proxy = Socks{User: anyText(t, "user"), Password: Secret(anyText(t, "password"))}
		p.Source.Scheme = pick(t, "scheme", "", "socks5")
		if s := p.Proxy.(Socks); rapid.Bool().Draw(t, "base64") && !strings.Contains(s.User, ":") && s != (Socks{}) {
			p.Source.Form = UserBase64
		}
	case 6:
		p.Proxy = HTTP{User: anyText(t, "user"), Password: Secret(anyText(t, "password"))}
		if rapid.Bool().Draw(t, "https") {
			p.Source.Scheme, p.Security = "https", anyTLS(t)
		}
	case 7:
		h := Hysteria2{
			Auth: Secret(anyText(t, "auth")), HopPorts: pick(t, "hop", "", "20000-50000"), HopInterval: pick(t, "interval", "", "10", "15-30"),
			Obfs: pick(t, "obfs", "", "salamander", "other"), ObfsPassword: Secret(anyText(t, "obfs password")), Up: anyText(t, "up"), Down: anyText(t, "down"),
		}
		if rapid.Bool().Draw(t, "list") {
			h.PortList, p.Port = "443,5000-6000", 443
		}
		p.Source.Scheme = pick(t, "scheme", "", "hy2")
		p.Proxy, p.Transport, p.Security = h, nil, anyTLS(t)
	default:
		p.Proxy = WireGuard{
			PrivateKey: secret("key"), PublicKey: anyText(t, "public"), PresharedKey: Secret(anyText(t, "psk")), MTU: rapid.Uint16().Draw(t, "mtu"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("2001:db8::2/128")}, Reserved: []byte{0, 7, 255},
		}
		p.Source.Scheme = pick(t, "scheme", "", "wg")
		p.Transport, p.Security = nil, nil
	}
	odd := "x&=#"
	if p.Source.Form == Quantumult {
		odd = "x&#" // its lines can't say = in a key, nor quotes
	}
	for _, key := range []string{"x-odd key", "udp", odd} {
		if rapid.Bool().Draw(t, key) {
			value := anyText(t, "value of "+key)
			if p.Source.Form == Quantumult {
				value = strings.ReplaceAll(value, `"`, "")
			}
			p.Unknown = append(p.Unknown, Param{Key: key, Value: Secret(value)})
		}
	}
	if p.Source.Form == VMessJSON {
		slices.SortFunc(p.Unknown, func(x, y Param) int { return strings.Compare(x.Key, y.Key) })
	}
	return p
}

// vmessForm draws one of vmess's forms, and what that form can't leave out.
func vmessForm(t *rapid.T, p *Profile) {
	p.Source.Form = rapid.SampledFrom([]Form{URL, VMessJSON, Shadowrocket, Quantumult, Kitsunebi, V2flyStd}).Draw(t, "form")
	v := p.Proxy.(VMess)
	switch p.Source.Form {
	case VMessJSON:
		v.ID = "x" + Secret(strings.TrimSpace(v.ID.Reveal()))
		if p.Transport == nil {
			p.Transport = Raw{}
		}
		if p.Security == nil {
			p.Security = Plain{}
		}
	case Shadowrocket, Quantumult:
		if v.Cipher == "auto" {
			v.Cipher = ""
		}
		if p.Source.Form == Quantumult {
			v.ID = Secret(strings.NewReplacer(`"`, "").Replace(v.ID.Reveal()))
			p.Name = pick(t, "plain name", "", "A Name = here")
			p.Transport = rapid.SampledFrom([]Transport{nil, Raw{}, WebSocket{Host: "h.example", Path: "/a,b=c"}, GRPC{ServiceName: "s"}}).Draw(t, "plain transport")
			p.Security = rapid.SampledFrom([]Security{nil, Plain{}, TLS{ServerName: "s.example", AllowInsecure: On}}).Draw(t, "plain security")
			p.FinalMask = ""
		}
	case Kitsunebi:
		p.Source.Scheme = "vmess1"
	case V2flyStd:
		p.Transport = rapid.SampledFrom([]Transport{Raw{}, WebSocket{Host: "h", Path: "/p"}, KCP{Header: "srtp"}, GRPC{ServiceName: "s"}}).Draw(t, "std transport")
	}
	p.Proxy = v
}

func shadowsocksForm(t *rapid.T, p *Profile) {
	s := Shadowsocks{Method: pick(t, "method", "aes-256-gcm", "2022-blake3-aes-128-gcm", "rc4-md5"), Password: Secret(anyText(t, "password"))}
	if rapid.Bool().Draw(t, "plugin") {
		s.Plugin = Plugin{Name: someText(t, "plugin name"), Options: []PluginOption{
			{Key: someText(t, "option"), Value: Secret(anyText(t, "option value"))}, {Key: someText(t, "flag"), Flag: true},
		}}
	}
	p.Proxy = s
	p.Source.Form = rapid.SampledFrom([]Form{URL, UserBase64, LegacySS}).Draw(t, "form")
	if is2022(s.Method) && p.Source.Form == UserBase64 {
		p.Source.Form = URL
	}
}

// TestFormatParse: Parse(Format(p)) is p.
func TestFormatParse(t *testing.T) {
	n := cases()
	check := func(t *rapid.T) {
		p := anyProfile(t)
		out := p.Format()
		back, findings := Parse(out)
		if Refused(findings) || !same(p, back) {
			t.Fatalf("wrote %s\nread  %#v\nnot   %#v\n%v", out, revealed(back), revealed(p), findings)
		}
	}
	runs := 0
	for runs < n {
		rapid.Check(t, func(t *rapid.T) { runs++; check(t) })
	}
}

// revealed is the profile for messages of tests.
func revealed(p Profile) any {
	f := p.Fields()
	out := []string{p.Source.Form.String(), f.Scheme, f.User.Reveal(), f.Pass.Reveal(), f.Host, f.Port, f.Name}
	for _, x := range f.Params {
		out = append(out, x.Key+"="+x.Value.Reveal())
	}
	return out
}
