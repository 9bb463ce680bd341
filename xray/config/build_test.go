package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/golden"
	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/xray/link"
)

// readLinks reads a file of links; the first line may be "core 26.7".
func readLinks(t testing.TB, src []byte) (v Version, profiles []link.Profile) {
	for line := range strings.Lines(string(src)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "core "); ok {
			if v, ok = ParseVersion(name); !ok {
				t.Fatalf("no version: %s", name)
			}
			continue
		}
		p, findings := link.Parse(line)
		if link.Refused(findings) {
			t.Fatalf("%s: %v", line, findings)
		}
		profiles = append(profiles, p)
	}
	return v, profiles
}

// TestGolden: what links become on each version, and what there is to know.
func TestGolden(t *testing.T) {
	golden.Files(t, "testdata/*.txtar", ".links", *update, func(t testing.TB, _ string, src []byte) string {
		v, profiles := readLinks(t, src)
		var b strings.Builder
		for _, p := range profiles {
			out, findings := outbound(v, p)
			for _, f := range findings {
				fmt.Fprintln(&b, f)
			}
			if out != nil {
				b.Write(encode(out))
			}
		}
		return b.String()
	})
}

func fullOptions() Options {
	return Options{
		Inbounds: []Inbound{
			{Name: "home", Kind: Mixed, Listen: netip.MustParseAddrPort("127.0.0.1:1080"), User: "user", Password: "secret", Group: "fast"},
			{Name: "lan", Kind: TProxy, Listen: netip.MustParseAddrPort("[::1]:12345"), Group: "fast"},
			{Name: "tun", Kind: Tun, Device: "xray0", MTU: 1400, Group: "other"},
			{Name: "gone", Kind: Mixed, Listen: netip.MustParseAddrPort("127.0.0.1:1081"), Group: "broken"},
		},
		Groups: []Group{{Name: "fast", Members: []int{0, 1}}, {Name: "other", Members: []int{1, 2}}, {Name: "broken", Members: []int{2}}},
		API:    netip.MustParseAddrPort("127.0.0.1:10085"), Mark: 0x80000001,
		DNS:         []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5353"), netip.MustParseAddrPort("192.0.2.53:0")},
		Observatory: Observatory{URL: "https://probe.example/generate_204"},
	}
}

const fullLinks = `trojan://secret@proxy.example:443#Home
trojan://secret@proxy.example:444#Home
trojan://secret@proxy.example:445?allowInsecure=1#Broken
`

// TestBuildFull: every part of a configuration; the real core takes it, without
// the device, which its test would make on this host.
func TestBuildFull(t *testing.T) {
	golden.Files(t, "testdata/full/*.txtar", ".links", *update, func(t testing.TB, _ string, src []byte) string {
		v, profiles := readLinks(t, src)
		data, findings := Build(v, profiles, fullOptions())
		var b strings.Builder
		for _, f := range findings {
			fmt.Fprintln(&b, f)
		}
		return b.String() + string(data)
	})
	_, profiles := readLinks(t, []byte(fullLinks))
	o := fullOptions()
	o.Inbounds = append(o.Inbounds[:2:2], o.Inbounds[3])
	data, _ := Build(V26_3, profiles, o)
	if findings := Validate(V26_3, data); len(findings) > 0 {
		t.Error("we find fault with our own:", findings)
	}
	again, _ := Build(V26_3, profiles, o)
	if !bytes.Equal(data, again) {
		t.Error("not the same bytes again")
	}
	o.Observatory, o.DNS, o.API, o.APISocket = Observatory{}, nil, netip.AddrPort{}, "/run/xray.sock"
	less, findings := Build(V26_3, profiles, o)
	if less == nil {
		t.Fatal(findings)
	}
	for _, data := range [][]byte{data, less} {
		if out, ok := xraytest.Test(t.Context(), xraytest.Binary(t), data); !ok {
			t.Error(out)
		}
	}
}

// TestOptions: an option that is wrong builds nothing.
func TestOptions(t *testing.T) {
	local := netip.MustParseAddrPort("127.0.0.1:1")
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{API: netip.MustParseAddrPort("192.0.2.1:1")}, "the API asks nobody"},
		{Options{API: netip.MustParseAddrPort("127.0.0.1:0")}, "the API asks nobody"},
		{Options{APISocket: "api"}, "not an absolute path"},
		{Options{APISocket: "/a,b"}, "not an absolute path"},
		{Options{APISocket: "/" + strings.Repeat("a", 107)}, "not an absolute path"},
		{Options{APISocket: "/a", API: netip.MustParseAddrPort("127.0.0.1:1")}, "an address besides"},
		{Options{LogLevel: "loud"}, "no such level"},
		{Options{Groups: []Group{{Name: "a b"}}}, "the name of a group"},
		{Options{Groups: []Group{{Name: "a"}, {Name: "a"}}}, "the name of a group"},
		{Options{Groups: []Group{{Name: "a", Members: []int{1}}}}, "no profile"},
		{Options{Inbounds: []Inbound{{Name: "", Listen: local, Group: "all"}}}, "the name of an inbound"},
		{Options{Inbounds: []Inbound{{Name: "a", Listen: local, Group: "x"}}}, "a group that is not there"},
		{Options{Inbounds: []Inbound{{Name: "a", Group: "all"}}}, "is missing"},
		{Options{Inbounds: []Inbound{{Name: "a", Listen: netip.MustParseAddrPort("0.0.0.0:1"), Group: "all"}}}, "everybody"},
		{Options{Inbounds: []Inbound{{Name: "a", Kind: TProxy, Listen: local, Group: "all"}}}, "without a mark"},
		{Options{Mark: 1, Inbounds: []Inbound{{Name: "a", Kind: Tun, Device: "sixteencharacter", Group: "all"}}}, "network device"},
		{Options{Inbounds: []Inbound{{Name: "a", Listen: local, Group: "all"}, {Name: "a", Listen: local, Group: "all"}}}, "stands twice"},
	} {
		_, profiles := readLinks(t, []byte("trojan://p@h.example:443"))
		data, findings := Build(V26_3, profiles, c.o)
		if !strings.Contains(fmt.Sprint(findings), c.want) || data != nil {
			t.Errorf("%+v: %v, want %q", c.o, findings, c.want)
		}
	}
}

// TestTags: no tag is the beginning of another, whatever profiles are called.
func TestTags(t *testing.T) {
	used := map[string]bool{}
	var tags []string
	for _, name := range []string{"a", "a", "a-2", "a.2", "", "\U0001F1E9\U0001F1EA", "out-a", "A b  c", strings.Repeat("x", 100), strings.Repeat("x", 101)} {
		tags = append(tags, tag(link.Profile{Name: name}, "", used))
	}
	for i, a := range tags {
		for k, b := range tags {
			if i != k && strings.HasPrefix(b, a) {
				t.Errorf("%q is the beginning of %q", a, b)
			}
		}
	}
	want := []string{"out-a.", "out-a-2.", "out-a-2-2.", "out-a-2-3.", "out-proxy.", "out-proxy-2.", "out-out-a.", "out-A-b-c."}
	if d := cmp.Diff(want, tags[:len(want)]); d != "" {
		t.Error(d)
	}
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]string{
		"26.3": "26.3", "v26.3.27": "26.3", "26.7.28": "26.7", "26.30": "", "26": "", "26.3.x": "", "26.3.1.1": "", "25.3.6": "", "": "",
	} {
		v, ok := ParseVersion(s)
		if ok != (want != "") || ok && v.String() != want {
			t.Errorf("%q: %v, %v", s, v, ok)
		}
	}
}

// FuzzCheck: any link can be built or is refused; what is built passes our own
// validation, and no finding repeats a secret.
func FuzzCheck(f *testing.F) {
	for line := range strings.Lines(fullLinks) {
		f.Add(line)
	}
	for _, s := range []string{
		"vless://u@[2001:db8::1]:443?security=reality&pbk=AAAA+/==&sid=ab&type=xhttp&extra=%7B%22a%22%3A1%7D&fm=%7B%7D",
		"vmess://u@h:1?type=kcp&headerType=srtp&seed=Secr3t&alterId=4&encryption=zero",
		"trojan://Secr3t@h?ws=1&wspath=/ws&allowInsecure=1&flow=x",
		"trojan-go://p@h/?type=ws&encryption=ss%3Baes-256-gcm%3ASecr3t&plugin=x",
		"socks://dXNlcjpwYXNz@h:1", "https://u:Secr3t@h:1#n",
		"wg://Secr3t@h?publickey=p&address=10.0.0.2,[2001:db8::2]/128&reserved=1,2,3&mtu=1280",
		"vless://u@h:1?type=xhttp&fm=%7B%22udp%22%3A1%2C%22quicParams%22%3A%7B%22maxIdleTimeout%22%3A%22s%22%7D%7D",
	} {
		f.Add(s)
	}
	f.Add("hy2://Secr3t@h.example:443,5000-6000/?obfs=salamander&obfs-password=Secr3t&fm=%7B%22udp%22%3A%5B1%5D%7D&up=1")
	f.Add("vless://Secr3t@h.example:1?type=xhttp&extra=%7B%22downloadSettings%22%3A%7B%22tlsSettings%22%3A%7B%22allowInsecure%22%3A1%7D%7D%7D")
	f.Add("ss://2022-blake3-aes-128-gcm:Secr3t@h.example:1?plugin=v2ray-plugin%3Bmux%3D0%3Btls")
	f.Fuzz(func(t *testing.T, s string) {
		p, findings := link.Parse(s)
		if link.Refused(findings) {
			return
		}
		for _, v := range []Version{V26_3, V26_7} {
			out, findings := outbound(v, p)
			for _, f := range findings {
				if f.Profile == "" && p.Proxy != nil || f.Message == "" {
					t.Errorf("%q: %s", s, f)
				}
				if strings.Contains(f.String(), "Secr3t") && !strings.Contains(p.Host+p.Name, "Secr3t") {
					t.Errorf("%q: a secret in %s", s, f)
				}
			}
			if out == nil {
				continue
			}
			for _, f := range Validate(v, one(out)) {
				if f.Severity == diag.Error {
					t.Errorf("%q: built, and then %s", s, f)
				}
			}
		}
	})
}

// TestStamp: an outbound that says something else has another tag, and one with
// another mark too; the same has the same.
func TestStamp(t *testing.T) {
	_, profiles := readLinks(t, []byte("trojan://secret@proxy.example:443#Home\ntrojan://secret@proxy.example:443#Home\ntrojan://other@proxy.example:443#Home\n"))
	o := Options{Mark: 1, Marks: []uint32{0, 0x80000002}, Stamp: []byte("key")}
	data, tags, findings := BuildTagged(V26_3, profiles, o)
	if data == nil || len(findings) > 0 {
		t.Fatal(findings)
	}
	if !strings.Contains(string(data), `"mark": -2147483646`) || !strings.Contains(string(data), `"mark": 1`) {
		t.Error(string(data))
	}
	seen := map[string]bool{}
	for _, tag := range tags {
		if seen[tag] || !strings.HasPrefix(tag, "out-Home-") || len(tag) != len("out-Home-01234567.") {
			t.Error(tags)
		}
		seen[tag] = true
	}
	_, again, _ := BuildTagged(V26_3, profiles[:1], o)
	o.Stamp = []byte("another")
	_, other, _ := BuildTagged(V26_3, profiles[:1], o)
	if again[0] != tags[0] || other[0] == tags[0] {
		t.Error(tags, again, other)
	}
}
