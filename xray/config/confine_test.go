package config

import (
	"net/url"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/xray/link"
)

const withBack = "vless://11111111-2222-4333-8444-555555555555@203.0.113.9:443?type=xhttp&mode=stream-up&security=tls&sni=s.example&extra="

// TestConfine: a link has no say in sockets and files of this host, and every socket
// that it leads to has our mark.
func TestConfine(t *testing.T) {
	extra := `{"DownloadSettings":{"address":"203.0.113.10","port":443,"network":"xhttp","security":"tls",` +
		`"tlsSettings":{"serverName":"d.example","maſterKeyLog":"/etc/keys","echConfigList":"d.example+udp://192.0.2.1","echSockopt":{"mark":9}},` +
		`"sockopt":{"mark":9,"interface":"wan2","dialerProxy":"out-x."}}}`
	_, profiles := readLinks(t, []byte(withBack+url.QueryEscape(extra)+"\n"+
		"trojan://secret@h.example:443?ech="+url.QueryEscape("h.example+https://192.0.2.1/dns-query")+"\n"+
		"trojan://secret@h.example:443?ech=AAAA\n"))
	data, findings := Build(V26_3, profiles, Options{Mark: 7})
	if data == nil || Refused(findings) {
		t.Fatal(findings)
	}
	if s := string(data); strings.Contains(s, "KeyLog") || strings.Contains(s, "wan2") || strings.Contains(s, "out-x") || strings.Contains(s, `"mark": 9`) {
		t.Error("the link's own are in it:", s)
	}
	// The stream, its way back, and two questions for keys of ECH; the last has none to ask.
	if n := strings.Count(string(data), `"mark": 7`); n != 6 {
		t.Errorf("%d sockets are marked: %s", n, data)
	}
	if len(findings) != 3 || !strings.Contains(findings[0].String(), "a link's to choose") {
		t.Error(findings)
	}
	if out, ok := xraytest.Test(t.Context(), xraytest.Binary(t), data); !ok {
		t.Error(out)
	}
}

// TestBack: what Xray would take, and then end by as soon as somebody connects, or
// read files for, is refused.
func TestBack(t *testing.T) {
	for name, extra := range map[string]string{
		"no address":      `{"downloadSettings":{"port":443,"network":"xhttp"}}`,
		"no port":         `{"downloadSettings":{"address":"203.0.113.10","network":"xhttp"}}`,
		"another":         `{"downloadSettings":{"address":"203.0.113.10","port":443,"network":"ws"}}`,
		"none":            `{"downloadSettings":{"address":"203.0.113.10","port":443}}`,
		"a file":          `{"downloadSettings":{"address":"203.0.113.10","port":443,"network":"xhttp","security":"tls","tlsSettings":{"certificates":[{"CertificateFile":"/dev/zero"}]}}}`,
		"a socket":        `{"downloadSettings":{"address":"203.0.113.10","port":443,"network":"xhttp","finalmask":{"udp":[{"type":"xicmp"}]}}}`,
		"a server to ask": `{"downloadSettings":{"address":"203.0.113.10","port":443,"network":"xhttp","finalmask":{"udp":[{"type":"Realm"}]}}}`,
		"two spellings":   `{"downloadSettings":{"address":"203.0.113.10","port":443,"network":"xhttp"},"DownloadSettings":{}}`,
		"empty address":   `{"downloadSettings":{"address":"","port":443,"network":"xhttp"}}`,
	} {
		p, findings := link.Parse(withBack + url.QueryEscape(extra))
		if link.Refused(findings) {
			t.Fatal(name, findings)
		}
		for _, v := range []Version{V26_3, V26_7} {
			if !Refused(Check(v, p)) {
				t.Errorf("%s: taken for %s", name, v)
			}
		}
	}
}
