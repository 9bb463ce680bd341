package sub

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/xray/link"
)

const id = "11111111-2222-4333-8444-555555555555"

// files are one of each format, all with a good profile to a.example, one that is
// wrong, and a good one to b.example.
var files = map[Format]string{
	Links: "# a list\n\ntrojan://secret@a.example:443#A\nthis is junk\nvless://" + id + "@b.example:70000\nvless://" + id + "@b.example:443?type=ws#B\n",
	SIP008: `{"version": 1, "servers": [
  {"id": "x", "remarks": "A", "server": "a.example", "server_port": 8388, "password": "secret", "method": "aes-256-gcm"},
  {"remarks": "bad", "server": "", "server_port": 1, "password": "secret", "method": "aes-256-gcm"},
  {"remarks": "B", "server": "b.example", "server_port": 8388, "password": "secret", "method": "aes-256-gcm", "plugin": "v2ray-plugin", "plugin_opts": "tls;host=h"}
], "bytes_used": 1}`,
	Clash: `port: 7890
proxies:
  - &base {name: A, type: vmess, server: a.example, port: 443, uuid: ` + id + `, alterId: 0, cipher: auto, tls: true, network: ws, udp: true,
     ws-opts: {path: /p, headers: {Host: h.example}, max-early-data: 2048}}
  - {name: bad, type: tuic, server: c.example, port: 443}
  - <<: *base
    name: B
    server: b.example
proxy-groups: []
`,
	SingBox: `{"outbounds": [{"type": "direct"},
  {"type": "vless", "tag": "A", "server": "a.example", "server_port": 443, "uuid": "` + id + `", "flow": "xtls-rprx-vision",
   "tls": {"enabled": true, "server_name": "s.example", "utls": {"enabled": true, "fingerprint": "chrome"}, "reality": {"enabled": true, "public_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "short_id": "ab"}}},
  {"type": "shadowsocks", "tag": "bad", "server": "c.example", "server_port": 0, "method": "aes-256-gcm", "password": "secret"},
  {"type": "hysteria2", "tag": "B", "server": "b.example", "server_ports": ["5000:6000"], "password": "secret", "obfs": {"type": "salamander", "password": "secret"}}]}`,
	XrayJSON: `{"remarks": "x", "outbounds": [
  {"protocol": "vless", "tag": "A", "settings": {"vnext": [{"address": "a.example", "port": 443, "users": [{"id": "` + id + `", "encryption": "none", "flow": "xtls-rprx-vision", "email": "x"}]}]},
   "streamSettings": {"network": "xhttp", "security": "reality", "realitySettings": {"serverName": "s.example", "publicKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "shortId": ""},
     "xhttpSettings": {"path": "/p", "extra": {"xmux": {"n": 1}}}, "finalmask": {"udp": []}}},
  {"protocol": "trojan", "tag": "bad", "settings": {"address": "c.example", "port": 443}},
  {"protocol": "freedom"},
  {"protocol": "hysteria", "tag": "B", "settings": {"version": 2, "address": "b.example", "port": 443}, "streamSettings": {"network": "hysteria", "hysteriaSettings": {"version": 2, "auth": "secret"}, "security": "tls", "tlsSettings": {"serverName": "s.example", "alpn": ["h3"]}}}]}`,
	WGQuick: "[Interface]\nPrivateKey = secret\nAddress = 10.0.0.2/32\nAddress = 2001:db8::2/128 # both\n\n[Peer]\nPublicKey = p\nEndpoint = a.example:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n\n[Peer]\nPublicKey = p\nEndpoint = c.example:0\n\n[Peer]\nPublicKey = p\nEndpoint = b.example:51820\n",
}

// TestParse: of each format the good profiles are read, and what is wrong is told
// with its line and without a secret.
func TestParse(t *testing.T) {
	for format, text := range files {
		for _, encoded := range []bool{false, true} {
			want := format
			data := []byte(text)
			if encoded {
				data, want = []byte(base64.URLEncoding.EncodeToString(data)), Base64
			}
			s, err := Parse(data)
			if err != nil || s.Format != want {
				t.Errorf("%s: read as %s: %v", want, s.Format, err)
				continue
			}
			good := s.Profiles()
			if len(good) != 2 || good[0].Host != "a.example" || good[1].Host != "b.example" {
				t.Errorf("%s: read %v", format, good)
			}
			refused := 0
			for _, e := range s.Entries {
				for _, f := range e.Findings {
					if f.Line == 0 || strings.Contains(f.String(), "secret") || strings.Contains(f.String(), id) {
						t.Errorf("%s: finding %q", format, f)
					}
				}
				if link.Refused(e.Findings) {
					refused++
				}
			}
			if refused == 0 {
				t.Errorf("%s: nothing is refused", format)
			}
		}
	}
}

// TestFields: the values arrive where links have them.
func TestFields(t *testing.T) {
	for _, c := range []struct {
		format Format
		entry  int
		want   string
	}{
		{Clash, 0, "vmess://" + id + "@a.example:443?encryption=auto&type=ws&host=h.example&path=%2Fp%3Fed%3D2048&security=tls"},
		{SingBox, 0, "vless://" + id + "@a.example:443?flow=xtls-rprx-vision&security=reality&sni=s.example&fp=chrome&pbk=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&sid=ab#A"},
		{SingBox, 1, "hysteria2://secret@b.example:5000?obfs=salamander&obfs-password=secret&mport=5000-6000#B"},
		{XrayJSON, 0, "vless://" + id + "@a.example:443?encryption=none&flow=xtls-rprx-vision&type=xhttp&path=%2Fp&extra=%7B%22xmux%22%3A%20%7B%22n%22%3A%201%7D%7D&security=reality&sni=s.example&pbk=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&fm=%7B%22udp%22%3A%20%5B%5D%7D#A"},
		{XrayJSON, 1, "hysteria2://secret@b.example:443?sni=s.example&alpn=h3#B"},
		{SIP008, 1, "ss://YWVzLTI1Ni1nY206c2VjcmV0@b.example:8388?plugin=v2ray-plugin%3Btls%3Bhost%3Dh#B"},
		{WGQuick, 0, "wireguard://secret@a.example:51820?publickey=p&address=10.0.0.2%2F32%2C2001%3Adb8%3A%3A2%2F128&allowedips=0.0.0.0%2F0%2C%3A%3A%2F0"},
	} {
		s, err := Parse([]byte(files[c.format]))
		if err != nil {
			t.Fatal(err)
		}
		got := s.Profiles()[c.entry]
		if c.format == XrayJSON && c.entry == 0 && (len(got.Unknown) != 1 || got.Unknown[0].Key != "settings.email") {
			t.Errorf("unknown keys: %v", got.Unknown)
		}
		if _, ok := got.Proxy.(link.VMess); ok {
			got.Source, got.Name, got.Unknown = link.Source{}, "", nil
			if got.Format() != c.want {
				t.Errorf("%s\n got %s\nwant %s", c.format, got.Format(), c.want)
			}
		} else if got.Link() != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.format, got.Link(), c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "none of"},
		{"a page", "<html><body>secret</body></html>", "none of"},
		{"base64 twice", base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte("trojan://a@b:1")))), "none of"},
		{"broken JSON", "{\n\"outbounds\": [{secret", "line 2: not JSON"},
		{"deep JSON", strings.Repeat("[", 100), "nests"},
		{"broken YAML", "proxies: [{secret: {", "not YAML"},
		{"other JSON", `{"a": 1}`, "none of"},
		{"an alias of YAML to itself", "proxies: &a [*a]", ""},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestBounds(t *testing.T) {
	if _, err := Parse([]byte(strings.Repeat("trojan://a@b:1\n", maxEntries+2))); err != errEntries {
		t.Errorf("too many links: %v", err)
	}
	if _, err := Parse(make([]byte, MaxBytes+1)); err != errSize {
		t.Errorf("too large: %v", err)
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	if _, err := Parse([]byte(bomb + "proxies: *j\n")); err == nil {
		t.Error("a bomb of aliases was read")
	}
}

// shapes are links that other formats have to say, with the formats that leave
// them out, and keys that are lost there.
var shapes = []struct {
	link string
	left []Format
	lost map[Format]string
}{
	{"ss://YWVzLTI1Ni1nY206c2VjcmV0@h.example:8388#A", nil, nil},
	{"ss://2022-blake3-aes-128-gcm:a%3Ab@h.example:8388?plugin=obfs-local%3Bobfs%3Dhttp%3Bobfs-host%3Dx#A", nil, nil},
	{"ss://YWVzLTI1Ni1nY206c2VjcmV0@h.example:8388?plugin=v2ray-plugin%3Bmode%3Dwebsocket%3Btls%3Bhost%3Dx%3Bpath%3D%2Fp%3Bmux%3D0#A", nil, nil},
	{"ss://YWVzLTI1Ni1nY206c2VjcmV0@h.example:8388?plugin=odd%3Bx%3D1#A", []Format{Clash, SingBox}, nil},
	{"ss://YWVzLTI1Ni1nY206c2VjcmV0@h.example:8388?type=ws&security=tls#A", []Format{SIP008, Clash, SingBox}, nil},
	{"vless://" + id + "@h.example:443?encryption=none&flow=xtls-rprx-vision&type=tcp&security=reality&sni=s&fp=chrome&pbk=AAAA&sid=ab&spx=%2Fx#A", []Format{SIP008}, map[Format]string{Clash: "spx", SingBox: "spx"}},
	{"vless://" + id + "@h.example:443?type=ws&host=w&path=%2Fp%3Fa%3D1%26ed%3D2048&security=tls&sni=s&alpn=h2%2Chttp%2F1.1&fp=chrome&allowInsecure=1&pcs=ab#A", []Format{SIP008}, map[Format]string{SingBox: "pcs"}},
	{"vless://" + id + "@h.example:443?type=httpupgrade&host=w&path=%2Fp&security=none#A", []Format{SIP008}, nil},
	{"vless://" + id + "@h.example:443?type=grpc&serviceName=s&mode=multi&authority=a&security=tls#A", []Format{SIP008}, map[Format]string{Clash: "authority,mode", SingBox: "authority,mode"}},
	{"vless://" + id + "@h.example:443?type=xhttp&host=w&path=%2Fp&mode=stream-one&security=tls&extra=%7B%22a%22%3A1%7D#A", []Format{SIP008, SingBox}, map[Format]string{Clash: "extra"}},
	{"vless://" + id + "@h.example:443?type=kcp&seed=s#A", []Format{SIP008, Clash, SingBox}, nil},
	{"vless://" + id + "@h.example:443?fm=%7B%22udp%22%3A%5B%5D%7D#A", []Format{SIP008, Clash, SingBox}, nil},
	{"vless://" + id + "@h.example:443?encryption=mlkem768x25519plus.native.0rtt.AA#A", []Format{SIP008, SingBox}, nil},
	{"vmess://" + id + "@[2001:db8::1]:443?encryption=zero&alterId=2&type=tcp&headerType=http&host=w&path=%2Fa%2C%2Fb#A", []Format{SIP008, SingBox}, nil},
	{"trojan://pa%20ss@h.example:443?type=ws&path=%2Fp&security=tls&sni=s&x-odd=1#A", []Format{SIP008}, map[Format]string{Clash: "x-odd", SingBox: "x-odd"}},
	{"trojan://pass@h.example:443?security=none#A", []Format{SIP008, Clash}, nil},
	{"trojan-go://pass@h.example:443?type=ws&encryption=ss%3Bx#A", []Format{SIP008, Clash, SingBox}, nil},
	{"socks5://u:p@h.example:1080#A", []Format{SIP008}, nil},
	{"socks4://u@h.example:1080#A", []Format{SIP008, Clash, SingBox}, nil},
	{"https://u:p@h.example:443?sni=s#A", []Format{SIP008}, nil},
	{"hysteria2://au%3Ath@h.example:443?obfs=salamander&obfs-password=x&mport=5000-6000&up=100%20mbps&insecure=1&sni=s&pinSHA256=ab#A", []Format{SIP008}, map[Format]string{SingBox: "pinSHA256"}},
	{"wireguard://k@h.example:51820?publickey=p&presharedkey=q&address=10.0.0.2%2F32%2C2001%3Adb8%3A%3A2%2F128&reserved=1%2C2%2C3&mtu=1280&keepalive=25#A", []Format{SIP008}, nil},
}

// TestWrite: what a format writes it reads as the same, but for what it reports.
func TestWrite(t *testing.T) {
	for _, shape := range shapes {
		p, findings := link.Parse(shape.link)
		if link.Refused(findings) {
			t.Fatal(findings)
		}
		for _, format := range []Format{Links, Base64, SIP008, Clash, SingBox} {
			left := slices.Contains(shape.left, format) || format == SIP008 && p.Fields().Scheme != "ss"
			out, losses := Write(format, []link.Profile{p})
			var lost []string
			if len(losses) > 0 {
				lost = slices.Clone(losses[0].Keys)
				if losses[0].Left != left {
					t.Errorf("%s %s: %v", format, shape.link, losses)
				}
			}
			if left {
				if len(losses) == 0 {
					t.Errorf("%s %s: written as %s", format, shape.link, out)
				}
				continue
			}
			slices.Sort(lost)
			if got := strings.ReplaceAll(strings.Join(lost, ","), "pcs", "pinSHA256"); got != strings.ReplaceAll(shape.lost[format], "pcs", "pinSHA256") {
				t.Errorf("%s %s: lost %s", format, shape.link, got)
			}
			s, err := Parse(out)
			if err != nil || len(s.Entries) != 1 || link.Refused(s.Entries[0].Findings) {
				t.Errorf("%s %s: %s\n%v %v", format, shape.link, out, err, s.Entries)
				continue
			}
			compare(t, format, p, s.Entries[0].Profile, append(lost, "insecure", map[bool]string{true: "pinSHA256"}[slices.Contains(lost, "pcs")]), string(out))
		}
	}
}

// compare checks that every field is there that was not reported as lost.
func compare(t *testing.T, format Format, p, q link.Profile, lost []string, out string) {
	a, b := p.Fields(), q.Fields()
	if a.User != b.User || a.Pass != b.Pass || a.Host != b.Host || p.Port != q.Port || p.Name != q.Name {
		t.Errorf("%s: other head: %s", format, out)
	}
	for _, f := range a.Params {
		if slices.Contains(lost, f.Key) || f.Value == "none" || f.Key == "type" && f.Value == "tcp" {
			continue
		}
		got, want := b.Get(f.Key), f.Value.Reveal()
		if f.Key == "path" {
			got, _ = early(got)
			want, _ = early(want)
		}
		if got != want {
			t.Errorf("%s: %s is %q, not %q\n%s", format, f.Key, got, want, out)
		}
	}
}

// TestUnique: names that formats need are there, once.
func TestUnique(t *testing.T) {
	p, _ := link.Parse("socks://h.example:1080")
	out, _ := Write(Clash, []link.Profile{p, p})
	s, err := Parse(out)
	if err != nil || s.Entries[0].Profile.Name != "h.example:1080" || s.Entries[1].Profile.Name != "h.example:1080 2" {
		t.Errorf("%s\n%v", out, err)
	}
}
