package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/xray/link"
)

var update = flag.Bool("update", false, "write golden files and docs/xray-matrix.md anew")

const matrixDoc = "../../docs/xray-matrix.md"

const (
	testID  = "11111111-2222-4333-8444-555555555555"
	testKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" // 32 bytes, in URL-safe base64
	testPin = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

type named[T any] struct {
	name  string
	value T
}

var matrixProxies = []named[link.Proxy]{
	{"vless", link.VLESS{ID: testID}},
	{"vless, vision", link.VLESS{ID: testID, Flow: "xtls-rprx-vision"}},
	{"vless, encryption", link.VLESS{ID: testID, Encryption: "mlkem768x25519plus.native.0rtt." + testKey}},
	{"vless, encryption and vision", link.VLESS{ID: testID, Flow: "xtls-rprx-vision", Encryption: "mlkem768x25519plus.native.0rtt." + testKey}},
	{"vmess", link.VMess{ID: testID}},
	{"trojan", link.Trojan{Password: "secret"}},
	{"shadowsocks", link.Shadowsocks{Method: "aes-256-gcm", Password: "secret"}},
	{"shadowsocks 2022", link.Shadowsocks{Method: "2022-blake3-aes-128-gcm", Password: "AAECAwQFBgcICQoLDA0ODw=="}},
	{"socks", link.Socks{User: "user", Password: "secret"}},
	{"http", link.HTTP{User: "user", Password: "secret"}},
	{"hysteria2", link.Hysteria2{Auth: "secret"}},
	{"hysteria2, salamander", link.Hysteria2{
		Auth: "secret", Obfs: "salamander", ObfsPassword: "secret", HopPorts: "20000-30000", HopInterval: "5", Up: "20", Down: "100 mbps",
	}},
	{"wireguard", link.WireGuard{
		PrivateKey: testKey, PublicKey: testKey, PresharedKey: testKey, Reserved: []byte{1, 2, 3}, MTU: 1280, KeepAlive: 25,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("2001:db8::2/128")},
	}},
}

var matrixTransports = []named[link.Transport]{
	{"raw", link.Raw{}},
	{"raw, http header", link.Raw{Header: "http", Hosts: []string{"h.example"}, Paths: []string{"/"}}},
	{"ws", link.WebSocket{Host: "h.example", Path: "/p?ed=2048"}},
	{"httpupgrade", link.HTTPUpgrade{Host: "h.example", Path: "/p"}},
	{"xhttp", link.XHTTP{Host: "h.example", Path: "/p", Mode: "packet-up", Extra: `{"xPaddingBytes":"100-200"}`}},
	{"grpc", link.GRPC{ServiceName: "s", Mode: "multi"}},
	{"kcp", link.KCP{MTU: 1350, TTI: 20}},
	{"kcp, header and seed", link.KCP{Header: "wechat-video", Seed: "secret"}},
	{"http", link.Removed{Network: "h2", Host: "h.example", Path: "/"}},
	{"quic", link.Removed{Network: "quic"}},
}

var matrixSecurities = []named[link.Security]{
	{"none", link.Plain{}},
	{"tls", link.TLS{ServerName: "s.example", ALPN: []string{"h2", "http/1.1"}, Fingerprint: "firefox"}},
	{"tls, pin", link.TLS{ServerName: "s.example", Pins: []string{testPin}, AllowInsecure: link.On}},
	{"tls, insecure", link.TLS{ServerName: "s.example", AllowInsecure: link.On}},
	{"reality", link.Reality{ServerName: "s.example", PublicKey: testKey, ShortID: "0123abcd"}},
}

// combination is one cell of the matrix.
type combination struct {
	name    string // "ws, tls"
	profile link.Profile
}

// combinations are the transports and securities of one protocol.
func combinations(p link.Proxy) (all []combination) {
	base := link.Profile{Host: "192.0.2.1", Port: 443, Proxy: p}
	switch p.(type) {
	case link.WireGuard:
		return []combination{{"none", base}}
	case link.Hysteria2:
		for _, s := range matrixSecurities {
			q := base
			q.Security = s.value
			all = append(all, combination{s.name, q})
		}
		return all
	}
	for _, tr := range matrixTransports {
		for _, s := range matrixSecurities {
			q := base
			q.Transport, q.Security = tr.value, s.value
			all = append(all, combination{tr.name + ", " + s.name, q})
		}
	}
	return all
}

// one is the configuration of one outbound, refused by us or not.
func one(out object) []byte {
	out["tag"] = "out"
	return encode(object{"outbounds": []any{out}})
}

// TestCore: of what we accept, Xray takes all, in one run for each protocol; with
// FULL=1 each combination alone, and what Xray refuses is refused by us too.
func TestCore(t *testing.T) {
	for _, core := range cores(t) {
		for _, proxy := range matrixProxies {
			t.Run(core.v.String()+" "+proxy.name, func(t *testing.T) {
				t.Parallel()
				var profiles []link.Profile
				for _, c := range combinations(proxy.value) {
					if !Refused(Check(core.v, c.profile)) {
						profiles = append(profiles, c.profile)
					}
				}
				data, findings := Build(core.v, profiles, Options{Mark: 1})
				if Refused(findings) {
					t.Fatal(findings)
				}
				if out, ok := xraytest.Test(t.Context(), core.binary, data); !ok {
					t.Errorf("%d accepted profiles: %s", len(profiles), out)
				}
			})
		}
	}
}

// TestMatrix: docs/xray-matrix.md says what can be run. Ours alone is compared
// always, Xray's verdict with FULL=1.
func TestMatrix(t *testing.T) {
	full := os.Getenv("FULL") != "" || *update
	var binary string
	if full {
		binary = xraytest.Binary(t)
		if newer := xraytest.Newer(); newer != "" {
			compareMatrix(t, core{V26_3, binary}, core{V26_7, newer})
		}
	}
	say := func(c combination) string {
		if full {
			return verdict(t, core{V26_3, binary}, c)
		}
		return map[bool]string{false: "yes", true: "no"}[Refused(Check(V26_3, c.profile))]
	}
	got := matrix(say)
	if *update {
		if err := os.WriteFile(matrixDoc, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	doc, err := os.ReadFile(matrixDoc)
	if err != nil {
		t.Fatal(err)
	}
	want := string(doc)
	if !full {
		want = strings.NewReplacer("| - ", "| no ", "| **only we** ", "| no ").Replace(want)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error("docs/xray-matrix.md differs (FULL=1 -update writes it):\n", d)
	}
}

// verdict is what we and the real core say of one combination.
func verdict(t *testing.T, x core, c combination) string {
	out, findings := translate(x.v, c.profile)
	refused := Refused(findings)
	text, taken := xraytest.Test(t.Context(), x.binary, one(out))
	switch {
	case !refused && !taken:
		t.Errorf("%s: we accept it, and Xray %s says %s", c.name, x.v, text)
		return "wrong"
	case !refused:
		return "yes"
	case taken:
		return "**only we**"
	default:
		return "-"
	}
}

// compareMatrix says where another version's verdicts differ. What we accept may not.
func compareMatrix(t *testing.T, a, b core) {
	same := 0
	for _, proxy := range matrixProxies {
		for _, c := range combinations(proxy.value) {
			x, y := verdict(t, a, c), verdict(t, b, c)
			if x == y {
				same++
				continue
			}
			t.Logf("%s, %s: %s has %s, %s has %s", proxy.name, c.name, a.v, x, b.v, y)
			if x == "yes" || y == "yes" {
				t.Errorf("%s, %s: we build it for one version only", proxy.name, c.name)
			}
		}
	}
	t.Logf("matrix: %d combinations have the same verdict on %s and %s", same, a.v, b.v)
}

const matrixHead = `# What Xray 26.3.27 can run, and what is refused

Printed by ` + "`FULL=1 go test ./xray/config -run TestMatrix -update`" + `, which asks the real Xray (` + "`run -test`" + `) about each combination.

- yes: we build it and Xray takes it. A warning may come with it, for instance that nothing is encrypted.
- \-: we refuse it, and so does Xray.
- **only we**: we refuse it. Xray's test takes it, and says what is wrong when it connects or not at all.

"tls, insecure" is TLS that takes any certificate. With a pin beside it, the pin holds and it is built.
`

// matrix prints the table of one verdict on each combination.
func matrix(verdict func(combination) string) string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(matrixHead, `\-:`, "`-`:"))
	for _, proxy := range matrixProxies {
		fmt.Fprintf(&b, "\n## %s\n\n", proxy.name)
		cells := combinations(proxy.value)
		row := len(matrixSecurities)
		if len(cells) < row {
			fmt.Fprintf(&b, "Has neither transport nor security: %s\n", strings.TrimSuffix(strings.TrimPrefix("| "+verdict(cells[0])+" |", "| "), " |"))
			continue
		}
		b.WriteString("| |")
		for _, s := range matrixSecurities {
			fmt.Fprintf(&b, " %s |", s.name)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", row) + "\n")
		for line := range slices.Chunk(cells, row) {
			name, _ := strings.CutSuffix(line[0].name, matrixSecurities[0].name)
			name = strings.TrimSuffix(name, ", ")
			if name == "" {
				name = "hysteria"
			}
			fmt.Fprintf(&b, "| %s |", name)
			for _, c := range line {
				fmt.Fprintf(&b, " %s |", verdict(c))
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// corpus is what other projects' tests and documents say of links.
const corpus = "../../../shared/data/xray-links.jsonl"

// TestCorpus: the core takes each outbound that we make of other projects' links.
func TestCorpus(t *testing.T) {
	data, err := os.ReadFile(corpus)
	if err != nil {
		t.Skip("the links of other projects are not beside the repository: ", err)
	}
	for _, core := range cores(t) {
		corpusOn(t, core, data)
	}
}

func corpusOn(t *testing.T, x core, data []byte) {
	var profiles []link.Profile
	read := 0
	for line := range strings.Lines(string(data)) {
		var row struct{ URL string }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		p, findings := link.Parse(row.URL)
		if link.Refused(findings) {
			continue
		}
		read++
		if !Refused(Check(x.v, p)) {
			profiles = append(profiles, p)
		}
	}
	t.Logf("%s: %d of %d profiles can be run", x.v, len(profiles), read)
	if len(profiles) < 90 {
		t.Error("too few")
	}
	built, _ := Build(x.v, profiles, Options{})
	if out, ok := xraytest.Test(t.Context(), x.binary, built); ok {
		return
	} else if len(out) > 2000 {
		t.Log(out[len(out)-2000:])
	}
	for _, p := range profiles {
		out, _ := outbound(x.v, p)
		if text, ok := xraytest.Test(t.Context(), x.binary, one(out)); !ok {
			t.Errorf("%s\n%s", p.Format(), text)
		}
	}
}
