// Package linkrand draws random profiles for property tests: every protocol,
// transport and security, every form of link, and texts with all that URLs, base64
// and JSON care for.
package linkrand

import (
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/xray/link"
)

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

func anyObject(t *rapid.T, label string) link.Object {
	if rapid.Bool().Draw(t, label) {
		return ""
	}
	return link.Object(`{"a":` + link.QuoteJSON(anyText(t, label)) + `,"xmux":{"n":[1,"2-3",true]}}`)
}

func anyTransport(t *rapid.T) link.Transport {
	port := rapid.Uint16Range(0, 2000)
	switch rapid.IntRange(0, 8).Draw(t, "transport") {
	case 0:
		return nil
	case 1:
		return link.Raw{Header: pick(t, "header", "", "none")}
	case 2:
		return link.Raw{Header: "http", Hosts: split(anyText(t, "hosts")), Paths: split(anyText(t, "paths"))}
	case 3:
		return link.WebSocket{Host: anyText(t, "ws host"), Path: anyText(t, "ws path")}
	case 4:
		return link.HTTPUpgrade{Host: anyText(t, "hu host"), Path: anyText(t, "hu path")}
	case 5:
		return link.XHTTP{Host: anyText(t, "x host"), Path: anyText(t, "x path"), Mode: pick(t, "mode", "", "auto", "packet-up", "stream-up", "stream-one"), Extra: anyObject(t, "extra")}
	case 6:
		return link.GRPC{ServiceName: anyText(t, "service"), Authority: anyText(t, "authority"), Mode: pick(t, "grpc mode", "", "gun", "multi")}
	case 7:
		return link.KCP{Header: pick(t, "kcp", "", "none", "srtp", "dns"), Seed: link.Secret(anyText(t, "seed")), MTU: port.Draw(t, "mtu"), TTI: port.Draw(t, "tti")}
	default:
		return link.Removed{Network: pick(t, "old", "http", "h2", "quic", "domainsocket"), Host: anyText(t, "old host"), Path: anyText(t, "old path")}
	}
}

func anyTLS(t *rapid.T) link.TLS {
	s := link.TLS{
		ServerName: pick(t, "sni", "", "sni.example"), Fingerprint: pick(t, "fp", "", "chrome", "odd"), Pins: split(anyText(t, "pins")),
		Names: split(anyText(t, "names")), ECH: anyText(t, "ech"), AllowInsecure: rapid.SampledFrom([]link.Toggle{link.Unset, link.Off, link.On}).Draw(t, "insecure"),
	}
	if rapid.Bool().Draw(t, "alpn") {
		s.ALPN = []string{"h2", "http/1.1"}
	}
	return s
}

func anySecurity(t *rapid.T) link.Security {
	switch rapid.IntRange(0, 3).Draw(t, "security") {
	case 0:
		return nil
	case 1:
		return link.Plain{}
	case 2:
		return anyTLS(t)
	default:
		return link.Reality{
			ServerName: pick(t, "sni", "", "sni.example"), Fingerprint: pick(t, "fp", "", "firefox"), PublicKey: pick(t, "pbk", "", "AAAA_-x"),
			ShortID: link.Secret(pick(t, "sid", "", "ab12", "odd")), SpiderX: anyText(t, "spx"), Verify: pick(t, "pqv", "", "AAAA"),
		}
	}
}

// Profile draws a profile as Parse would give one.
func Profile(t *rapid.T) link.Profile {
	p := link.Profile{
		Name: strings.TrimSpace(anyText(t, "name")), Host: anyHost(t), Port: rapid.Uint16Range(1, 65535).Draw(t, "port"),
		Transport: anyTransport(t), Security: anySecurity(t), FinalMask: anyObject(t, "fm"),
	}
	secret := func(label string) link.Secret { return link.Secret(someText(t, label)) }
	switch rapid.IntRange(0, 8).Draw(t, "protocol") {
	case 0:
		p.Proxy = link.VLESS{ID: secret("id"), Encryption: pick(t, "enc", "", "none", "mlkem768x25519plus.native.0rtt.AA"), Flow: pick(t, "flow", "", "xtls-rprx-vision")}
	case 1:
		p.Proxy = link.VMess{ID: secret("id"), Cipher: pick(t, "cipher", "", "auto", "zero"), AlterID: rapid.Uint16().Draw(t, "aid")}
		vmessForm(t, &p)
	case 2:
		p.Proxy = link.Trojan{Password: secret("password")}
		if p.Security == nil {
			p.Security = link.TLS{}
		}
	case 3:
		p.Proxy = link.Trojan{Password: secret("password"), Encryption: link.Secret(anyText(t, "go encryption")), Plugin: link.Secret(anyText(t, "go plugin"))}
		p.Source.Scheme, p.Security = "trojan-go", anyTLS(t)
	case 4:
		shadowsocksForm(t, &p)
	case 5:
		p.Proxy = link.Socks{User: anyText(t, "user"), Password: link.Secret(anyText(t, "password"))}
		p.Source.Scheme = pick(t, "scheme", "", "socks5")
		if s := p.Proxy.(link.Socks); rapid.Bool().Draw(t, "base64") && !strings.Contains(s.User, ":") && s != (link.Socks{}) {
			p.Source.Form = link.UserBase64
		}
	case 6:
		p.Proxy = link.HTTP{User: anyText(t, "user"), Password: link.Secret(anyText(t, "password"))}
		if rapid.Bool().Draw(t, "https") {
			p.Source.Scheme, p.Security = "https", anyTLS(t)
		}
	case 7:
		h := link.Hysteria2{
			Auth: link.Secret(anyText(t, "auth")), HopPorts: pick(t, "hop", "", "20000-50000"), HopInterval: pick(t, "interval", "", "10", "15-30"),
			Obfs: pick(t, "obfs", "", "salamander", "other"), ObfsPassword: link.Secret(anyText(t, "obfs password")), Up: anyText(t, "up"), Down: anyText(t, "down"),
		}
		if rapid.Bool().Draw(t, "list") {
			h.PortList, p.Port = "443,5000-6000", 443
		}
		p.Source.Scheme = pick(t, "scheme", "", "hy2")
		p.Proxy, p.Transport, p.Security = h, nil, anyTLS(t)
	default:
		p.Proxy = link.WireGuard{
			PrivateKey: secret("key"), PublicKey: anyText(t, "public"), PresharedKey: link.Secret(anyText(t, "psk")), MTU: rapid.Uint16().Draw(t, "mtu"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("2001:db8::2/128")}, Reserved: []byte{0, 7, 255},
		}
		p.Source.Scheme = pick(t, "scheme", "", "wg")
		p.Transport, p.Security = nil, nil
	}
	odd := "x&=#"
	if p.Source.Form == link.Quantumult {
		odd = "x&#" // its lines can't say = in a key, nor quotes
	}
	for _, key := range []string{"x-odd key", "udp", odd} {
		if rapid.Bool().Draw(t, key) {
			value := anyText(t, "value of "+key)
			if p.Source.Form == link.Quantumult {
				value = strings.ReplaceAll(value, `"`, "")
			}
			p.Unknown = append(p.Unknown, link.Param{Key: key, Value: link.Secret(value)})
		}
	}
	if p.Source.Form == link.VMessJSON {
		slices.SortFunc(p.Unknown, func(x, y link.Param) int { return strings.Compare(x.Key, y.Key) })
	}
	return p
}

// vmessForm draws one of vmess's forms, and what that form can't leave out.
func vmessForm(t *rapid.T, p *link.Profile) {
	p.Source.Form = rapid.SampledFrom([]link.Form{link.URL, link.VMessJSON, link.Shadowrocket, link.Quantumult, link.Kitsunebi, link.V2flyStd}).Draw(t, "form")
	v := p.Proxy.(link.VMess)
	switch p.Source.Form {
	case link.VMessJSON:
		v.ID = "x" + link.Secret(strings.TrimSpace(v.ID.Reveal()))
		if p.Transport == nil {
			p.Transport = link.Raw{}
		}
		if p.Security == nil {
			p.Security = link.Plain{}
		}
	case link.Shadowrocket, link.Quantumult:
		if v.Cipher == "auto" {
			v.Cipher = ""
		}
		if p.Source.Form == link.Quantumult {
			v.ID = link.Secret(strings.NewReplacer(`"`, "").Replace(v.ID.Reveal()))
			p.Name = pick(t, "plain name", "", "A Name = here")
			p.Transport = rapid.SampledFrom([]link.Transport{nil, link.Raw{}, link.WebSocket{Host: "h.example", Path: "/a,b=c"}, link.GRPC{ServiceName: "s"}}).Draw(t, "plain transport")
			p.Security = rapid.SampledFrom([]link.Security{nil, link.Plain{}, link.TLS{ServerName: "s.example", AllowInsecure: link.On}}).Draw(t, "plain security")
			p.FinalMask = ""
		}
	case link.Kitsunebi:
		p.Source.Scheme = "vmess1"
	case link.V2flyStd:
		p.Transport = rapid.SampledFrom([]link.Transport{link.Raw{}, link.WebSocket{Host: "h", Path: "/p"}, link.KCP{Header: "srtp"}, link.GRPC{ServiceName: "s"}}).Draw(t, "std transport")
	}
	p.Proxy = v
}

func shadowsocksForm(t *rapid.T, p *link.Profile) {
	s := link.Shadowsocks{Method: pick(t, "method", "aes-256-gcm", "2022-blake3-aes-128-gcm", "rc4-md5"), Password: link.Secret(anyText(t, "password"))}
	if rapid.Bool().Draw(t, "plugin") {
		s.Plugin = link.Plugin{Name: someText(t, "plugin name"), Options: []link.PluginOption{
			{Key: someText(t, "option"), Value: link.Secret(anyText(t, "option value"))}, {Key: someText(t, "flag"), Flag: true},
		}}
	}
	p.Proxy = s
	p.Source.Form = rapid.SampledFrom([]link.Form{link.URL, link.UserBase64, link.LegacySS}).Draw(t, "form")
	if strings.HasPrefix(s.Method, "2022-") && p.Source.Form == link.UserBase64 {
		p.Source.Form = link.URL
	}
}

// split splits at commas; "" is nil.
func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// Show is the profile for messages of tests, with its secrets.
func Show(p link.Profile) []string {
	f := p.Fields()
	out := []string{p.Source.Form.String(), f.Scheme, f.User.Reveal(), f.Pass.Reveal(), f.Host, f.Port, f.Name}
	for _, x := range f.Params {
		out = append(out, x.Key+"="+x.Value.Reveal())
	}
	return out
}
