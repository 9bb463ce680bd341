package generator

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/internal/linkrand"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// only returns the one view of a text.
func only(t testing.TB, r ParseRequest) View {
	t.Helper()
	out, err := Parse(r)
	if err != nil || len(out.Profiles) != 1 {
		t.Fatalf("%s: %v, %d profiles", r.Text, err, len(out.Profiles))
	}
	return out.Profiles[0]
}

func value(s string) *string { return &s }

// TestOrigins: each field says where it comes from.
func TestOrigins(t *testing.T) {
	view := only(t, ParseRequest{Text: "trojan://secret@proxy.example:443?obfs=websocket&path=%2Fw&peer=s.example&x-odd=1#Home", Secrets: true})
	type row struct {
		Key, Value string
		Origin     Origin
		Was        string
		Known      bool
	}
	var got []row
	for _, f := range view.Fields {
		got = append(got, row{f.Key, f.Value, f.Origin, f.Was, f.Known})
	}
	want := []row{
		{"#scheme", "trojan", FromLink, "", true},
		{"#name", "Home", FromLink, "", true},
		{"#host", "proxy.example", FromLink, "", true},
		{"#port", "443", FromLink, "", true},
		{"#user", "secret", FromLink, "", true},
		{"type", "ws", Migrated, "obfs", true},
		{"path", "/w", FromLink, "", true},
		{"security", "tls", Default, "", true},
		{"sni", "s.example", Migrated, "peer", true},
		{"x-odd", "1", FromLink, "", false},
		{"fp", "chrome", Default, "", true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestMasked: without secrets none is anywhere in the reply.
func TestMasked(t *testing.T) {
	const text = "vless://s3cret-id@proxy.example:443?security=reality&pbk=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8&sid=abcd12&seed=s3cret-seed&type=kcp&x-odd=s3cret-odd&fm=%7B%22a%22%3A%22s3cret-fm%22%7D"
	out := string(Call("parse", []byte(`{"text":"`+text+`"}`)))
	if strings.Contains(out, "s3cret") || strings.Contains(out, "abcd12") {
		t.Error(out)
	}
	if out = string(Call("parse", []byte(`{"secrets":true,"text":"`+text+`"}`))); strings.Count(out, "s3cret-id") < 2 {
		t.Error(out)
	}
}

// TestFixes: what is wrong has a fix that mends it, and what only the server decides
// has none.
func TestFixes(t *testing.T) {
	const id = "11111111-2222-4333-8444-555555555555@192.0.2.1:443?"
	for _, c := range []struct{ link, key, fix string }{
		{"vless://" + id + "security=tls&allowInsecure=1", "allowInsecure", "allowInsecure removed"},
		{"hysteria2://p@192.0.2.1:443?insecure=1", "allowInsecure", "insecure removed"},
		{"vless://" + id + "security=tls&fp=netscape", "fp", "fp=chrome"},
		{"vmess://" + id + "security=tls&alterId=4", "alterId", "alterId removed"},
		{"trojan://p@192.0.2.1:443?flow=xtls-rprx-direct", "flow", "flow removed"},
		{"vless://" + id + "security=tls&type=ws&flow=xtls-rprx-vision", "type", ""},
		{"vmess://" + id + "security=tls&encryption=zero", "encryption", "encryption=auto"},
		{"vless://" + id + "security=tls&encryption=odd", "encryption", "encryption=none"},
		{"vless://" + id + "security=tls&type=xhttp&mode=odd", "mode", "mode removed"},
		{"vless://" + id + "security=tls&type=kcp&tti=1", "tti", "tti removed"},
		{"vless://" + id + "security=tls&sni=https%3A%2F%2Fs.example%2F", "sni", "sni=s.example"},
		{"vless://" + id + "security=reality&pbk=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8&spx=x", "spx", "spx=/x"},
		{"vless://" + id + "pbk=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "pbk", "security=reality"},
		{"socks4://192.0.2.1:1080", "", "#scheme=socks5"},
		{"vless://" + id + "type=quic", "type", ""},
		{"ss://rc4-md5:x@192.0.2.1:443", "#user", ""},
	} {
		view := only(t, ParseRequest{Text: c.link, Secrets: true})
		var got, seen string
		for _, f := range view.Findings {
			seen += f.Key + ": " + f.Message + "\n"
			if f.Key != c.key || f.Fix == nil {
				continue
			}
			got = f.Fix.Key + " removed"
			if f.Fix.Value != nil {
				got = f.Fix.Key + "=" + *f.Fix.Value
			}
			after, err := Edit(EditRequest{State: *view.State, Changes: []Change{*f.Fix}})
			if err != nil || !after.OK || slices.ContainsFunc(after.Findings, func(x Finding) bool { return x.Message == f.Message && x.Key == f.Key }) {
				t.Errorf("%s: %s does not mend %q: %v", c.link, got, f.Message, after.Findings)
			}
		}
		if got != c.fix {
			t.Errorf("%s: fix %q, want %q\n%s", c.link, got, c.fix, seen)
		}
		if !strings.Contains("\n"+seen, "\n"+c.key+": ") {
			t.Errorf("%s: nothing is said of %s:\n%s", c.link, c.key, seen)
		}
	}
}

// TestLossless: a random profile is its state, a change and its reverse are nothing,
// and the link of the state reads as the same state.
func TestLossless(t *testing.T) {
	n := 2_000
	if os.Getenv("FULL") != "" {
		n = 100_000
	}
	runs := 0
	check := func(t *rapid.T) {
		runs++
		p := linkrand.Profile(t)
		state := stateOf(p)
		back, findings, err := state.profile()
		if err != nil || link.Refused(findings) || !reflect.DeepEqual(p, back) {
			t.Fatalf("state %v\nread as %q\nnot     %q\n%v %v", state, linkrand.Show(back), linkrand.Show(p), findings, err)
		}
		if view := show(config.V26_7, p, nil, nil, false); !view.OK || len(view.Fields) < len(state.Params) {
			t.Fatalf("%q is shown as %v", linkrand.Show(p), view.Fields)
		}
		// Set and taken back, with a key that nothing else has.
		added, err := state.with([]Change{{Key: "x-added", Value: value("a &=#")}, {Key: keyName, Value: value("another")}})
		if err != nil {
			t.Fatal(err)
		}
		edited, findings, _ := added.profile()
		if link.Refused(findings) || stateOf(edited).Name != "another" || len(edited.Unknown) != len(p.Unknown)+1 {
			t.Fatalf("%v\nbecame %q\n%v", added, linkrand.Show(edited), findings)
		}
		undone, err := stateOf(edited).with([]Change{{Key: "x-added"}, {Key: keyName, Value: &state.Name}})
		if err != nil || !reflect.DeepEqual(state, undone) {
			t.Fatalf("%v\nnot %v %v", undone, state, err)
		}
		// Another transport and security, and back: what had no meaning meanwhile was kept.
		for _, c := range []Change{
			{Key: "type", Value: value(rapid.SampledFrom([]string{"tcp", "ws", "grpc", "httpupgrade", "xhttp", "kcp"}).Draw(t, "type"))},
			{Key: "security", Value: value(rapid.SampledFrom([]string{"none", "tls", "reality"}).Draw(t, "security"))},
		} {
			before := Change{Key: c.Key}
			if i := slices.IndexFunc(state.Params, func(p Param) bool { return p.Key == c.Key }); i >= 0 {
				before.Value = &state.Params[i].Value
			}
			there, _ := state.with([]Change{c})
			other, findings, _ := there.profile()
			if link.Refused(findings) { // a scheme that is always over TLS
				continue
			}
			back, _ := stateOf(other).with([]Change{before})
			again, findings, _ := back.profile()
			if link.Refused(findings) || !reflect.DeepEqual(stateOf(again), state) {
				t.Fatalf("%s=%s and back:\n%v\nnot\n%v\n%v", c.Key, *c.Value, stateOf(again), state, findings)
			}
		}
		read, more := link.Parse(p.Format())
		if link.Refused(more) || !reflect.DeepEqual(stateOf(read), state) {
			t.Fatalf("%v\nnot %v", stateOf(read), state)
		}
	}
	for runs < n {
		rapid.Check(t, check)
	}
	t.Logf("generator: %d random profiles edited, written and read again", runs)
}

// TestForm: every input of every form is a key that the protocol knows, and what
// links can say has an input.
func TestForm(t *testing.T) {
	const key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	values := map[string]string{
		keyUser: "11111111-2222-4333-8444-555555555555", keyHost: "192.0.2.1", keyPort: "443", "address": "10.0.0.2/32", "allowedips": "10.0.0.0/8",
		"reserved": "1,2,3", "mport": "1000-2000", "hop-interval": "10", "extra": "{}", "fm": "{}", "pbk": key, "publickey": key, "path": "/", "plugin": "name",
		"mtu": "1300", "tti": "20", "keepalive": "25",
	}
	forms := 0
	for _, protocol := range Protocols {
		for _, transport := range []string{"tcp", "ws", "httpupgrade", "xhttp", "grpc", "kcp"} {
			for _, security := range []string{"none", "tls", "reality"} {
				form, err := Fields(protocol, transport, security)
				if err != nil {
					t.Fatal(err)
				}
				forms++
				state := State{Form: "url", Scheme: protocol}
				for _, in := range form {
					v := values[in.Key]
					switch {
					case in.Key == "type":
						v = transport
					case in.Key == "security":
						v = security
					case in.Key == "headerType" && transport == "tcp":
						v = "http"
					case len(in.Choices) > 0:
						v = in.Choices[len(in.Choices)-1]
					case v == "":
						v = "x"
					}
					if state, err = state.with([]Change{{Key: in.Key, Value: &v}}); err != nil {
						t.Fatal(err)
					}
				}
				p, findings, err := state.profile()
				if err != nil || link.Refused(findings) || len(p.Unknown) > 0 {
					t.Errorf("%s, %s, %s: %v %v\n%v", protocol, transport, security, err, findings, p.Unknown)
					continue
				}
				// Each input is in the state again, by the same key.
				after := stateOf(p)
				for _, in := range form {
					if after.head(in.Key) == nil && !slices.ContainsFunc(after.Params, func(p Param) bool { return p.Key == in.Key }) {
						t.Errorf("%s, %s, %s: %s is not in the state", protocol, transport, security, in.Key)
					}
				}
			}
		}
	}
	t.Logf("%d forms", forms)
	for _, bad := range [][3]string{{"odd", "tcp", "tls"}, {"vless", "odd", "tls"}, {"vless", "tcp", "odd"}} {
		if _, err := Fields(bad[0], bad[1], bad[2]); err == nil {
			t.Error(bad)
		}
	}
}

// TestFormats: what is written in each format is read again.
func TestFormats(t *testing.T) {
	text := "ss://YWVzLTI1Ni1nY206c2VjcmV0@192.0.2.1:443#A\nvless://11111111-2222-4333-8444-555555555555@192.0.2.2:443?security=tls&type=xhttp&extra=%7B%22xPaddingBytes%22%3A%2210%22%7D#B\n"
	in, err := Parse(ParseRequest{Text: text, Secrets: true})
	if err != nil {
		t.Fatal(err)
	}
	states := []State{*in.Profiles[0].State, *in.Profiles[1].State}
	for to, want := range map[string]struct {
		format   string
		profiles int
		losses   int
	}{
		"source": {"link", 2, 0}, "link": {"link", 2, 0}, "base64": {"base64", 2, 0}, "clash": {"clash", 2, 1}, "singbox": {"singbox", 1, 1},
		"sip008": {"sip008", 1, 1}, "xray": {"xray", 2, 0},
	} {
		out, err := Format(FormatRequest{States: states, To: to})
		if err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		s, err := sub.Parse([]byte(out.Text))
		if err != nil || s.Format.String() != want.format || len(s.Profiles()) != want.profiles || len(out.Losses) != want.losses {
			t.Errorf("%s: %v, %s, %d profiles, losses %v", to, err, s.Format, len(s.Profiles()), out.Losses)
		}
	}
	if out, err := Build(BuildRequest{States: states, Core: "26.7", Listen: "127.0.0.1:1080"}); err != nil || !strings.Contains(out.Config, `"port": 1080`) {
		t.Error(err, out.Findings)
	}
}

// TestTextLosses: what a text has and its own format would not have again is told.
func TestTextLosses(t *testing.T) {
	const good, bad = "trojan://pw@a.example:443#A", "trojan://pw@a.example:70000"
	proxy := `{"protocol":"trojan","settings":{"servers":[{"address":"a.example","port":443,"password":"s3cret"}]},` +
		`"streamSettings":{"network":"ws","security":"tls","wsSettings":{"path":"/x","headers":{"Host":"h","X-A":"s3cret"}},"tlsSettings":{"minVersion":"1.3"},"sockopt":{"mark":255}},"mux":{"enabled":true}}`
	for _, c := range []struct {
		text string
		want []Loss
	}{
		{good, []Loss{}},
		{good + "\n" + good, []Loss{}},
		{"# mine\n" + good + "\n" + bad, []Loss{{Format: "link", Keys: []string{"comments"}, Why: "only profiles are written"}, {Format: "link", Keys: []string{}, Left: true, Why: "line 3 can't be read"}}},
		{base64.StdEncoding.EncodeToString([]byte(good + "\nodd\n")), []Loss{{Format: "base64", Keys: []string{}, Left: true, Why: "line 2 can't be read"}}},
		{
			"port: 7890 # s3cret\n# s3cret\nproxies:\n- {name: a, type: trojan, server: a.example, port: 443, password: pw, udp: true}\n- {name: b, type: tuic, server: b.example}\nproxy-groups: []\nrules: []\n",
			[]Loss{{Format: "clash", Keys: []string{"port", "proxy-groups", "rules", "comments"}, Why: "only profiles are written"}, {Format: "clash", Keys: []string{}, Left: true, Why: "line 5 can't be read"}},
		},
		{
			`{"log":{},"inbounds":[{}],"routing":{},"outbounds":[` + proxy + `,{"protocol":"freedom"},{"protocol":"freedom"}]}`,
			[]Loss{
				{Format: "xray", Keys: []string{"log", "inbounds", "routing", "outbound freedom"}, Why: "only profiles are written"},
				{Format: "xray", Keys: []string{"streamSettings.wsSettings.headers.X-A", "streamSettings.tlsSettings.minVersion", "streamSettings.sockopt.mark", "mux.enabled"}},
			},
		},
		{
			`{"route":{},"outbounds":[{"type":"direct"},{"type":"trojan","server":"a.example","server_port":443,"password":"x","domain_strategy":"ipv4_only","tls":{"enabled":true}}]}`,
			[]Loss{{Format: "singbox", Keys: []string{"route", "outbound direct"}, Why: "only profiles are written"}},
		},
		{`{"version":1,"servers":[{"server":"a.example","server_port":443,"method":"aes-256-gcm","password":"x"}],"bytes_used":1}`, []Loss{{Format: "sip008", Keys: []string{"bytes_used"}, Why: "only profiles are written"}}},
	} {
		out, err := Parse(ParseRequest{Text: c.text, Secrets: true})
		if err != nil {
			t.Error(err)
			continue
		}
		if d := cmp.Diff(c.want, out.Losses); d != "" {
			t.Errorf("%s\n%s", c.text, d)
		}
		// What is not told is there again when its profiles are written.
		var states []State
		for _, p := range out.Profiles {
			if p.OK {
				states = append(states, *p.State)
			}
		}
		again, err := Format(FormatRequest{States: states, To: out.Format})
		if err != nil {
			t.Error(err)
			continue
		}
		for _, key := range []string{"udp", "domain_strategy"} {
			if strings.Contains(c.text, key) && !strings.Contains(again.Text, key) {
				t.Errorf("%s is gone: %s", key, again.Text)
			}
		}
		for _, l := range c.want {
			if l.Format == "xray" && l.Why == "" && cmp.Diff([]Loss{l}, again.Losses) != "" {
				t.Errorf("written with the losses %v", again.Losses)
			}
		}
	}
}

// TestTrojanWithoutTLS: a configuration for Xray that names no security has none, and
// is written as that again.
func TestTrojanWithoutTLS(t *testing.T) {
	for _, stream := range []string{"", `,"streamSettings":{}`, `,"streamSettings":{"security":""}`, `,"streamSettings":{"security":"none"}`} {
		view := only(t, ParseRequest{Text: `{"outbounds":[{"protocol":"trojan","settings":{"address":"192.0.2.1","port":443,"password":"pw"}` + stream + `}]}`, Secrets: true})
		out, err := Format(FormatRequest{States: []State{*view.State}, To: "xray"})
		if err != nil || view.Security != "none" || !strings.Contains(view.Link, "security=none") || strings.Contains(out.Text, "tls") {
			t.Errorf("%q: %v, security %s, %s\n%s", stream, err, view.Security, view.Link, out.Text)
		}
	}
}

// TestBegin: a profile of every protocol begins sound, with secrets of its own.
func TestBegin(t *testing.T) {
	for _, protocol := range Protocols {
		texts := map[string]bool{}
		for i := range byte(3) {
			out, err := Begin(BeginRequest{Protocol: protocol, Random: bytes.Repeat([]byte{i, 255 - i}, 40)})
			if err != nil {
				t.Fatal(err)
			}
			texts[out.Text] = true
			view := only(t, ParseRequest{Text: out.Text, Secrets: true})
			if !view.OK || view.Protocol != protocol || slices.ContainsFunc(view.Findings, func(f Finding) bool { return f.Severity == "error" }) {
				t.Errorf("%s: %s, %v", out.Text, view.Protocol, view.Findings)
			}
		}
		if len(texts) != 3 {
			t.Errorf("%s begins with the same secrets", protocol)
		}
	}
	if out, err := Begin(BeginRequest{Protocol: "vless", Random: bytes.Repeat([]byte{255}, 80)}); err != nil || !strings.Contains(out.Text, "ffffffff-ffff-4fff-bfff-ffffffffffff@") {
		t.Error(out, err)
	}
}

// TestPin: the pin is the hash of the whole certificate, and of nothing else.
func TestPin(t *testing.T) {
	der := []byte{0x30, 0x82, 0, 3, 1, 2, 3}
	text := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	want := fmt.Sprintf("%x", sha256.Sum256(der))
	for _, s := range []string{text("CERTIFICATE", der), "depth=0\n" + text("PRIVATE KEY", der) + text("CERTIFICATE", der[:6]) + text("CERTIFICATE", der)} {
		if out, err := Pin(PinRequest{Text: s}); err != nil || out.Pin != want {
			t.Errorf("%s: %v %v", s, out, err)
		}
	}
	for _, s := range []string{"nothing", text("CERTIFICATE", der[:6]), text("PRIVATE KEY", der)} {
		if out, err := Pin(PinRequest{Text: s}); err == nil {
			t.Errorf("%s: %v", s, out)
		}
	}
}

// TestCall: what can't be answered is an error in JSON, and repeats no secret.
func TestCall(t *testing.T) {
	for _, c := range []struct{ name, request, want string }{
		{"odd", `{}`, "the functions are"},
		{"parse", `{`, "not the JSON"},
		{"parse", `{"txt":"s3cret"}`, "not the JSON"},
		{"parse", `{"text":"s3cret"}`, "none of a list of links"},
		{"parse", `{"text":"ss://x@h:1","core":"25.1"}`, "the versions are"},
		{"edit", `{"state":{"form":"odd"}}`, "the form that it was read with"},
		{"edit", `{"state":{"form":"url"},"changes":[{"key":""}]}`, "has no key"},
		{"format", `{"states":[],"to":"odd"}`, "the formats are"},
		{"format", `{"states":[{"form":"url","scheme":"odd"}],"to":"link"}`, "can't be read"},
		{"build", `{"states":[],"listen":"odd"}`, "not an address"},
		{"fields", `{"protocol":"odd"}`, "is one of"},
		{"begin", `{"protocol":"vless","random":"AAAA"}`, "80 bytes"},
		{"begin", `{"protocol":"odd","random":"` + base64.StdEncoding.EncodeToString(make([]byte, 80)) + `"}`, "is one of"},
	} {
		var reply struct{ Error string }
		out := Call(c.name, []byte(c.request))
		if err := json.Unmarshal(out, &reply); err != nil || !strings.Contains(reply.Error, c.want) || strings.Contains(reply.Error, "s3cret") {
			t.Errorf("%s %s: %s", c.name, c.request, out)
		}
	}
	// An edit that can't be read keeps the caller's profile and says why.
	view := only(t, ParseRequest{Text: "trojan://p@192.0.2.1:443", Secrets: true})
	bad, err := Edit(EditRequest{State: *view.State, Changes: []Change{{Key: keyPort, Value: value("x")}}})
	if err != nil || bad.OK || len(bad.Findings) == 0 || bad.Findings[0].Key != keyPort {
		t.Error(err, bad)
	}
}

// FuzzCall: whatever is asked, the answer is JSON, and never our own failure.
func FuzzCall(f *testing.F) {
	f.Add("parse", `{"text":"trojan://p@h:1?type=ws#n","secrets":true,"core":"26.7"}`)
	f.Add("parse", `{"text":"{\"outbounds\":[]} ","secrets":true,"written":{"to":"singbox","states":[null,{"form":"url","scheme":"trojan","host":"h","port":"1","user":"u","params":[{"key":"type","value":"kcp"}]}]}}`)
	f.Add("edit", `{"state":{"form":"vmess-json","scheme":"vmess","host":"h","port":"1","user":"u","params":[{"key":"type","value":"kcp"}]},"changes":[{"key":"fp","value":null}]}`)
	f.Add("format", `{"states":[{"form":"url","scheme":"ss","host":"h","port":"1","user":"none","password":"x"}],"to":"clash"}`)
	f.Add("build", `{"states":[{"form":"url","scheme":"trojan","host":"h","port":"1","user":"x","params":[{"key":"extra","value":"{}"}]}],"listen":"127.0.0.1:1"}`)
	f.Add("begin", `{"protocol":"vless","random":"`+base64.StdEncoding.EncodeToString(make([]byte, 80))+`"}`)
	f.Add("pin", `{"text":"-----BEGIN CERTIFICATE-----\nMIIAAwECAw==\n-----END CERTIFICATE-----\n"}`)
	f.Add("fields", `{"protocol":"vless","transport":"ws","security":"tls"}`)
	f.Fuzz(func(t *testing.T, name, request string) {
		out := Call(name, []byte(request))
		if !json.Valid(out) || strings.Contains(string(out), "the generator has failed") {
			t.Errorf("%s %s: %s", name, request, out)
		}
	})
}
