package config

import (
	"net/url"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/xray/link"
)

// TestEnds: links that Xray's own test takes, and that end it, or fill the memory, as
// soon as somebody connects (each was tried with 26.3.27), for all who use it.
func TestEnds(t *testing.T) {
	const xhttp, kcp = "vless://u@h.example:1?security=tls&sni=s.example&type=xhttp&", "vless://u@h.example:1?type=kcp&fm="
	for name, l := range map[string]string{
		"post":          xhttp + "extra=" + url.QueryEscape(`{"scMaxEachPostBytes":"-1"}`),
		"posts":         xhttp + "extra=" + url.QueryEscape(`{"scMaxEachPostBytes":"-5-10"}`),
		"padding":       xhttp + "extra=" + url.QueryEscape(`{"xPaddingBytes":"1-2147483647"}`),
		"host":          xhttp + "host=a%20b",
		"name":          strings.Replace(xhttp, "s.example", "a%20b", 1),
		"query":         xhttp + "path=%2F%3Fa%0Ab",
		"noise":         kcp + url.QueryEscape(`{"udp":[{"type":"noise","settings":{"noise":[{"rand":"2000000000"}]}}]}`),
		"custom header": kcp + url.QueryEscape(`{"udp":[{"type":"header-custom","settings":{"client":[{"rand":2000000000}]}}]}`),
	} {
		p, findings := link.Parse(l)
		if link.Refused(findings) {
			t.Fatal(name, findings)
		}
		for _, v := range []Version{V26_3, V26_7} {
			if !Refused(Check(v, p)) {
				t.Errorf("%s: taken for %s", name, v)
			}
		}
	}
	for _, l := range []string{
		"hy2://a@h.example:1?mport=5-10",
		"hy2://a@h.example:1?fm=" + url.QueryEscape(`{"quicParams":{"udpHop":{"ports":"5-10"}}}`),
	} {
		p, _ := link.Parse(l)
		out, findings := outbound(V26_3, p)
		if Refused(findings) || !strings.Contains(string(encode(out)), `"interval": "30"`) {
			t.Errorf("%s has no interval: %s, %v", l, encode(out), findings)
		}
	}
	hop := `{"outbounds":[{"protocol":"freedom","streamSettings":{"finalmask":{"quicParams":{"udpHop":{"ports":"1-2"}}}}}]}`
	if !Refused(Validate(V26_3, []byte(hop))) {
		t.Error("a whole configuration without an interval is taken")
	}
	p, _ := link.Parse(xhttp + "host=[2001:db8::1]:8443&path=%2Fa%20b%3Fed%3D1%26x%3D%25&extra=" + url.QueryEscape(`{"xPaddingBytes":"100-1000","scMaxEachPostBytes":1000000}`))
	if f := Check(V26_3, p); Refused(f) {
		t.Error("good, and refused:", f)
	}
}
