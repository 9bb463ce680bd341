package link

import (
	"encoding/base64"
	"strings"
	"testing"
)

// seeds are one link of each form; the corpora of the fuzz targets begin with them.
var seeds = []string{
	"vless://12345678-abcd-abcd-abcd-123456789abc@proxy.example:443?encryption=none&type=ws&path=%2Fws%3Fed%3D2048&host=h.example&security=tls&sni=s.example&alpn=h2%2Chttp/1.1&allowInsecure=1#A+Name",
	"vless://u@[2001:db8::1]:443?security=reality&pbk=AAAA+/==&sid=ab&type=xhttp&extra=%7B%22a%22%3A1%7D&x_padding_bytes=1-2&fm=%7B%7D",
	"vmess://u@h:1?type=kcp&headerType=srtp&seed=s&alterId=4&encryption=zero",
	"vmess://" + base64.StdEncoding.EncodeToString([]byte(`{"v":"2","ps":"n","add":"h.example","port":443,"id":"u","aid":"0","net":"grpc","path":"svc","type":"multi","tls":"tls","x":[1]}`)) + "#other",
	"vmess://" + base64.StdEncoding.EncodeToString([]byte(`auto:u@h.example:443`)) + "?remarks=n&obfs=websocket&obfsParam=w&path=/p&tls=1&peer=s",
	"vmess://" + base64.StdEncoding.EncodeToString([]byte(`N = vmess, h.example, 443, auto, "u", over-tls=true, tls-host=s, certificate=0, obfs=ws, obfs-path="/p,q", obfs-header="Host: w"`)),
	"vmess1://u@h:443/p/q?network=ws&tls=true&ws.host=w#n",
	"vmess://ws+tls:u-1-0@h:443/?path=%2Fp&host=w#n",
	"trojan://p%40ss@h?ws=1&wspath=/p&udp&peer=s&flow=x#n",
	"trojan-go://p@h/?type=ws&encryption=ss%3Baes-256-gcm%3Apw&plugin=x",
	"ss://YWVzLTEyOC1nY206dGVzdA@192.0.2.1:8888/?plugin=v2ray-plugin;mode%3Dwebsocket;tls&type=ws#Foo%20Bar",
	"ss://YmYtY2ZiOnRlc3RAMTkyLjE2OC4xMDAuMTo4ODg4#Foo%20@Bar",
	"ss://2022-blake3-aes-256-gcm:YctP%2BA%3D%3D:aaaa@h:1",
	"socks://dXNlcjpwYXNz@h:1", "socks5://u:p@h:1?tls=true&sni=s", "https://u:p@h#n", "http://h:8080",
	"hy2://u:p@h:443,5000-6000/?obfs=Salamander&obfs-password=x&mport=1-2&pinSHA256=ab&insecure=1&hop-interval=5",
	"wg://k@h?publickey=p&privatekey=o&address=10.0.0.2,[2001:db8::2]/128&reserved=1,2,3&mtu=1280",
}

// checkRoundTrip: what is read can be written and reads as the same again.
func checkRoundTrip(t *testing.T, s string) {
	p, findings := Parse(s)
	if Refused(findings) {
		if !same(p, Profile{}) {
			t.Fatal("a profile beside an error")
		}
		return
	}
	for _, f := range findings {
		if f.Offset < 0 || f.Offset > len(s) {
			t.Fatalf("offset %d outside of the text: %s", f.Offset, f)
		}
	}
	out := p.Format()
	again, more := Parse(out)
	if Refused(more) || !same(p, again) {
		t.Fatalf("%q\nwritten as %q\nread as %q\nnot as  %q\n%v", s, out, revealed(again), revealed(p), more)
	}
	if other, more := Parse(p.Link()); Refused(more) || other.Host != p.Host || other.Port != p.Port {
		t.Fatalf("%q\nas a link %q: %v", s, p.Link(), more)
	}
	if _, more := Parse(p.Redacted().Link()); Refused(more) {
		t.Fatalf("%q redacted: %q: %v", s, p.Redacted().Link(), more)
	}
}

func FuzzLink(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(checkRoundTrip)
}

func FuzzVMessJSON(f *testing.F) {
	for _, s := range seeds {
		if body, found := strings.CutPrefix(s, "vmess://"); found {
			if plain, ok := DecodeBase64(strings.Split(body, "#")[0]); ok {
				f.Add(plain)
			}
		}
	}
	f.Fuzz(func(t *testing.T, plain string) {
		checkRoundTrip(t, "vmess://"+base64.StdEncoding.EncodeToString([]byte(plain)))
	})
}

func FuzzPlugin(f *testing.F) {
	f.Add(`v2ray-plugin;mode=websocket;tls;path=/a\;b\=c=d;x\`)
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := ParsePlugin(s)
		if !ok {
			return
		}
		again, ok := ParsePlugin(p.Format())
		if !ok || p.Format() != again.Format() || len(p.Options) != len(again.Options) {
			t.Fatalf("%q is %q, then %q", s, p.Format(), again.Format())
		}
	})
}
