package link

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/diag"
)

// TestFindings: what there is to know names the key and the place of its value.
func TestFindings(t *testing.T) {
	const id = "vless://11111111-2222-4333-8444-555555555555@h.example:443?"
	for _, c := range []struct {
		link     string
		severity diag.Severity
		key      string
		at       string // the text at the offset
		message  string
	}{
		{"", diag.Error, "", "", "not a link"},
		{"  x://y", diag.Error, "", "x://y", "scheme is not known"},
		{"ssr://abc", diag.Error, "", "ssr", "does not speak ssr"},
		{"[vless://u@h:1](mailto:u@h)", diag.Error, "", "](mailto", "Markdown"},
		{"vless://@h:1", diag.Error, "user", "@h", "id is missing"},
		{"vless://u@:1", diag.Error, "host", ":1", "host is missing"},
		{"vless://u@[server]:1", diag.Error, "host", "[server]", "neither a name"},
		{"vless://u@2001:db8::1:443", diag.Error, "host", "2001", "neither a name"},
		{"vless://u@h:0", diag.Error, "port", "0", "1 to 65535"},
		{"vless://u@h", diag.Error, "port", "", "port is missing"},
		{"trojan://p@h#n", diag.Hint, "port", "#n", "read as 443"},
		{"vmess://abcd", diag.Error, "", "abcd", "none of the forms"},
		{"https://h.example/sub", diag.Error, "", "https", "a subscription"},
		{id + "type=odd", diag.Error, "type", "odd", "no such transport"},
		{id + "type=quic", diag.Warning, "type", "quic", "no longer"},
		{id + "security=xtls", diag.Error, "security", "xtls", "old XTLS"},
		{id + "flow=xtls-rprx-direct", diag.Error, "flow", "xtls-rprx-direct", "no such flow"},
		{id + "security=tls&amp;allowInsecure=1", diag.Warning, "allowInsecure", "1", "without a pin"},
		{id + "security=tls&pcs=QUJD", diag.Warning, "pcs", "QUJD", "SHA-256"},
		{id + "security=tls&fp=netscape", diag.Warning, "fp", "netscape", "fingerprint"},
		{id + "security=reality&sid=abc", diag.Warning, "sid", "abc", "hexadecimal"},
		{id + "security=reality&pbk=AAAA", diag.Warning, "pbk", "AAAA", "32 bytes"},
		{id + "security=reality&pqv=AAAA", diag.Warning, "pqv", "AAAA", "1952"},
		{id + "pbk=AAAA", diag.Warning, "pbk", "AAAA", "without security=reality"},
		{id + "type=ws&ed=2048foo", diag.Error, "ed", "2048foo", "no number"},
		{id + "type=kcp&seed=x", diag.Warning, "seed", "x", "finalmask"},
		{id + "type=xhttp&extra=x", diag.Warning, "extra", "x", "not a JSON object"},
		{id + "type=xhttp&extra=" + strings.Repeat("[", 20), diag.Error, "extra", "[[", "16 deep"},
		{id + "type=ws&type=grpc", diag.Warning, "type", "grpc", "repeated"},
		{id + "security=", diag.Hint, "security", "", "empty"},
		{id + "type=tcp&host=x", diag.Hint, "host", "x", "means nothing"},
		{"ss://cmM0LW1kNTpw@h:1", diag.Warning, "user", "cmM0", "does not have this method"},
		{"ss://bm90@h:1", diag.Error, "user", "bm90", "method:password"},
		{"hy2://a@h?insecure=1", diag.Warning, "insecure", "1", "without a pin"},
		{"hy2://a@h?hop-interval=x", diag.Error, "hop-interval", "x", "seconds"},
		{"wg://k@h?publickey=p&reserved=1", diag.Error, "reserved", "1", "three bytes"},
		{"wg://k@h?publickey=p&address=x", diag.Error, "address", "x", "addresses"},
		{"socks4://u:p@h:1", diag.Error, "user", "u:p", "no passwords"},
		{"\u200bvless://u@h:1?a=b\n", diag.Hint, "a", "b", "not known"},
	} {
		p, findings := Parse(c.link)
		i := slices.IndexFunc(findings, func(f Finding) bool { return f.Key == c.key && strings.Contains(f.Message, c.message) })
		if i < 0 {
			t.Errorf("%q: %v", c.link, findings)
			continue
		}
		f := findings[i]
		if f.Severity != c.severity || !strings.HasPrefix(c.link[f.Offset:], c.at) || f.Link == "" {
			t.Errorf("%q: %s, at %q", c.link, f, c.link[f.Offset:])
		}
		if Refused(findings) != same(p, Profile{}) {
			t.Errorf("%q: profile %v beside %v", c.link, p, findings)
		}
	}
}

// TestLink: the canonical form, whatever the link came in.
func TestLink(t *testing.T) {
	for _, c := range []struct{ link, want string }{
		{"vless://u@BÜCHER.example:443?path=%2Fa+b&type=websocket&peer=s&tls=1#a+b%2B", "vless://u@xn--bcher-kva.example:443?type=ws&path=%2Fa%2Bb&security=tls&sni=s#a%20b%2B"},
		{"vless://u@[2001:DB8:0::1]:443/?security=reality&pbk=AA+/=", "vless://u@[2001:db8::1]:443?security=reality&pbk=AA-_"},
		{"ss://YWVzLTI1Ni1nY206cEBoOjgz@h:1", "ss://YWVzLTI1Ni1nY206cEBoOjgz@h:1"},
		{"ss://MjAyMi1ibGFrZTMtYWVzLTEyOC1nY206YTpi@h:1", "ss://2022-blake3-aes-128-gcm:a%3Ab@h:1"},
		{"hy2://a:b@h:443,5000-6000?insecure=1", "hysteria2://a%3Ab@h:443,5000-6000?insecure=1"},
		{"vmess://u@h:1?type=tcp&security=reality&pbk=x", "vmess://u@h:1?type=tcp&security=reality&pbk=x"},
		{"vmess1://u@h:1/p?network=ws", "vmess://eyJ2IjoiMiIsInBzIjoiIiwiYWRkIjoiaCIsInBvcnQiOiIxIiwiaWQiOiJ1IiwiYWlkIjoiMCIsIm5ldCI6IndzIiwidGxzIjoiIiwicGF0aCI6Ii9wIn0="},
		{"http://h:8080?security=tls", "https://h:8080"},
		{"trojan://p@h:1?plugin=v2ray-plugin;mode%3Dwebsocket", "trojan://p@h:1?security=tls&plugin=v2ray-plugin%3Bmode%3Dwebsocket"},
	} {
		p, findings := Parse(c.link)
		if got := p.Link(); Refused(findings) || got != c.want {
			t.Errorf("%s\n got %s\nwant %s\n%v", c.link, got, c.want, findings)
		}
	}
}

// TestSecrets: nothing that prints, logs or marshals a profile or a finding shows a
// secret, whatever is done to the link.
func TestSecrets(t *testing.T) {
	const marker = "SECRETSECRET"
	rapid.Check(t, func(t *rapid.T) {
		s := strings.ReplaceAll(rapid.SampledFrom([]string{
			"vless://§@h.example:443?type=kcp&seed=§&x=§&fm=%7B%22a%22%3A%22§%22%7D",
			"vmess://§@h.example:443?type=xhttp&extra=%7B%22a%22%3A%22§%22%7D",
			"trojan://§@h.example:443?security=reality&sid=§&pbk=k", "trojan-go://§@h.example?plugin=§&encryption=§",
			"ss://aes-256-gcm:§@h.example:1?plugin=p;x%3D§&y=§", "ss://aes-256-gcm:§@h.example:1?type=§",
			"socks://u:§@h.example:1", "socks://u:§@h.example:1?security=§", "https://u:§@h.example", "vless://u@h:1?flow=§",
			"hy2://§@h.example?obfs=salamander&obfs-password=§", "hy2://§@h.example?mport=§", "hy2://§@h.example?hop-interval=§",
			"wg://§@h.example?presharedkey=§&privatekey=§", "wg://§@h.example?address=§", "wg://§@h.example?reserved=§",
			"ss://" + encode64("aes-256-gcm:"+marker+"@h.example:1") + "?x=§",
			"vmess://" + encode64(`{"id":"`+marker+`","add":"h","port":1,"path":"`+marker+`","net":"kcp","x":{"y":"`+marker+`"}}`),
			"vmess://" + encode64("auto:"+marker+"@h.example:1"),
		}).Draw(t, "link"), "§", marker)
		cuts := rapid.IntRange(0, 3).Draw(t, "cuts") // what goes wrong when copying
		for range cuts {
			i := rapid.IntRange(0, len(s)).Draw(t, "at")
			s = s[:i] + rapid.SampledFrom([]string{"", "@", ":", "%", " ", "=", "/", "&"}).Draw(t, "put") + s[min(i+rapid.IntRange(0, 2).Draw(t, "cut"), len(s)):]
		}
		p, findings := Parse(s)
		for _, f := range findings {
			if strings.Contains(f.Link+f.Message+f.Help, marker) {
				t.Fatalf("%s\nfinding %s", s, f)
			}
		}
		if cuts > 0 {
			return // a cut can make a key or a user's name of it
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		shown := fmt.Sprintf("%v %+v %#v %s %v", p, p, p, text, p.Proxy)
		if strings.Contains(shown, marker) {
			t.Fatalf("%s\nshown as %s", s, shown)
		}
	})
}

// TestBounds: what is too large is refused, not read.
func TestBounds(t *testing.T) {
	for _, s := range []string{
		"trojan://p@h:1#" + strings.Repeat("a", maxLink),
		"trojan://p@h:1?" + strings.Repeat("a&", 2*maxParams) + "b",
		"vmess://" + encode64(strings.Repeat(`{"a":`, 100)),
		"ss://aes-256-gcm:p@h:1?plugin=p" + strings.Repeat("%3Ba", 2*maxOptions),
	} {
		if p, findings := Parse(s); !Refused(findings) || !same(p, Profile{}) {
			t.Errorf("%.40q… was read", s)
		}
	}
}
