package generator

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/internal/linkrand"
)

const rich = "vless://11111111-2222-4333-8444-555555555555@192.0.2.1:443?type=xhttp&path=%2Fx&mode=auto&extra=%7B%22xPaddingBytes%22%3A%22100-1000%22%7D" +
	"&security=reality&sni=s.example&fp=chrome&pbk=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8&sid=6ba85179e30d4fc2&spx=%2F&foo=bar#My%20%F0%9F%87%A9%F0%9F%87%AA"

// statesOf reads links.
func statesOf(t testing.TB, links ...string) (states []*State) {
	t.Helper()
	in, err := Parse(ParseRequest{Text: strings.Join(links, "\n"), Secrets: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range in.Profiles {
		states = append(states, p.State) // nil is a line that can't be read
	}
	return states
}

// edited writes profiles, edits the text and reads it. It returns the links that come
// out, - for one that can't be read.
func edited(t testing.TB, to string, states []*State, edit func(string) string) (links []string, out ParseReply) {
	t.Helper()
	w := Written{To: to, States: states}
	text, _, err := w.said(0)
	if err != nil {
		t.Fatal(err)
	}
	out, err = Parse(ParseRequest{Text: edit(text), Secrets: true, Written: &w})
	if err != nil {
		t.Fatalf("%s: %v\n%s", to, err, edit(text))
	}
	for _, p := range out.Profiles {
		state := p.State
		if p.Kept {
			state = states[*p.From]
		}
		if state == nil {
			links = append(links, "-")
			continue
		}
		profile, _, err := state.profile()
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, profile.Format())
	}
	return links, out
}

func replace(old, new string) func(string) string {
	return func(s string) string {
		if !strings.Contains(s, old) {
			panic(fmt.Sprintf("%q is not in %s", old, s))
		}
		return strings.Replace(s, old, new, 1)
	}
}

// TestWritten: an edit of a text changes what was edited, in the profile that the text
// was written from; what the format can't say stays.
func TestWritten(t *testing.T) {
	const ss, odd, wg = "ss://YWVzLTI1Ni1nY206cHc@192.0.2.2:8388#S", "nonsense://", "wireguard://QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE%3D@192.0.2.3:51820?publickey=QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI%3D&address=10.0.0.2%2F32#W"
	plain := "trojan://pw@192.0.2.4:443?security=tls&foo=bar#T"
	with := func(link, old, new string) string { return replace(old, new)(link) }
	space := func(s string) string { return s + " " }
	line := func(gone string) func(string) string { // takes a line away
		return func(s string) string {
			lines := strings.Split(s, "\n")
			return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, gone) }), "\n")
		}
	}
	for name, c := range map[string]struct {
		to   string
		of   []string
		edit func(string) string
		want []string
		lost []string
	}{
		"a space in what says nothing": {"singbox", []string{rich}, space, []string{rich}, []string{"singbox: type, mode, extra, spx, foo; left"}},
		"a space in what says some":    {"clash", []string{rich}, space, []string{rich}, []string{"clash: extra, spx, foo"}},
		"a space in a configuration":   {"xray", []string{rich}, space, []string{rich}, []string{"xray: foo"}},
		"another protocol's format":    {"sip008", []string{rich, ss}, replace("8388", "8389"), []string{rich, with(ss, "8388", "8389")}, nil},
		"a port, a key, a name": {"clash", []string{rich, plain}, func(s string) string {
			return replace("T\"", "U\"")(replace("s.example", "other.example")(replace(": 443", ": 8443")(s)))
		}, []string{with(with(rich, ":443", ":8443"), "s.example", "other.example"), with(plain, "#T", "#U")}, nil},
		"a tag that is kept is no name": {"xray", []string{rich}, replace("s.example", "other.example"), []string{with(rich, "s.example", "other.example")}, nil},
		"a tag that is changed is":      {"xray", []string{rich}, replace(`"tag": "out-My."`, `"tag": "Mine"`), []string{strings.Split(rich, "#")[0] + "#Mine"}, nil},
		"a key that is removed":         {"clash", []string{rich}, replace(`, "mode": "auto"`, ""), []string{with(rich, "&mode=auto", "")}, nil},
		"an entry that is removed":      {"clash", []string{rich, ss, plain}, line("8388"), []string{rich, plain}, nil},
		"all entries that were there":   {"sip008", []string{rich, ss}, line("8388"), []string{rich}, nil},
		"an entry that is new": {"clash", []string{rich, plain}, func(s string) string {
			return s + `  - {"name": "S", "type": "ss", "server": "192.0.2.2", "port": 8388, "cipher": "aes-256-gcm", "password": "pw"}`
		}, []string{rich, plain, ss}, nil},
		"entries in another order": {"clash", []string{rich, ss, plain}, func(s string) string {
			l := strings.Split(s, "\n")
			return strings.Join([]string{l[0], l[3], l[2], l[1]}, "\n")
		}, []string{plain, ss, rich}, nil},
		"two of one name":                   {"clash", []string{plain, with(plain, "192.0.2.4", "192.0.2.5")}, replace(`"T 2"`, `"U"`), []string{plain, with(with(plain, "192.0.2.4", "192.0.2.5"), "#T", "#U")}, nil},
		"an endpoint, which stands last":    {"singbox", []string{wg, plain}, replace("443", "444"), []string{with(plain, "443", "444"), wg}, nil},
		"a line that can't be read is kept": {"clash", []string{odd, plain}, replace("443", "444"), []string{"-", with(plain, "443", "444")}, nil},
		"links are what they say":           {"link", []string{rich, plain}, replace("&foo=bar#My", "#My"), []string{with(rich, "&foo=bar", ""), plain}, nil},
		"another protocol": {"clash", []string{plain}, func(string) string {
			return `proxies: [{name: T, type: ss, server: 192.0.2.4, port: 443, cipher: aes-256-gcm, password: pw}]`
		}, []string{"ss://YWVzLTI1Ni1nY206cHc@192.0.2.4:443#T"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, out := edited(t, c.to, statesOf(t, c.of...), c.edit)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			if out.Lost == nil || len(out.Losses) > 0 {
				t.Errorf("%v, losses %v", out.Lost, out.Losses)
			}
			var lost []string
			for _, l := range out.Lost {
				lost = append(lost, l.Format+": "+strings.Join(l.Keys, ", ")+map[bool]string{true: "; left"}[l.Left])
			}
			if c.lost != nil && !slices.Equal(lost, c.lost) {
				t.Errorf("lost %q", lost)
			}
		})
	}
}

// TestWrittenLosses: what was typed into a text and is nothing of a profile is told, and
// what the format has of itself is not.
func TestWrittenLosses(t *testing.T) {
	for _, c := range []struct {
		to   string
		edit func(string) string
		want []Loss
	}{
		{"xray", replace(`"loglevel": "warning"`, `"loglevel": "debug"`), []Loss{{Format: "xray", Keys: []string{"log"}, Why: "only profiles are written"}}},
		{"xray", replace(`"network":`, `"sockopt": {"mark": 1}, "network":`), []Loss{{Format: "xray", Keys: []string{"streamSettings.sockopt.mark"}}}},
		{"clash", replace(`"type":`, `"udp": true, "type":`), []Loss{{Format: "clash", Keys: []string{"udp"}}}},
		{"clash", func(s string) string { return s + "rules: []" }, []Loss{{Format: "clash", Keys: []string{"rules"}, Why: "only profiles are written"}}},
	} {
		_, out := edited(t, c.to, statesOf(t, rich), c.edit)
		if d := cmp.Diff(c.want, out.Losses); d != "" {
			t.Errorf("%s: %s", c.to, d)
		}
	}
}

// TestWrittenOther: a text that has nothing of what was written is another one.
func TestWrittenOther(t *testing.T) {
	for _, other := range []string{"ss://YWVzLTI1Ni1nY206cHc@192.0.2.2:8388#S", `proxies: [{name: S, type: ss, server: 192.0.2.2, port: 8388, cipher: aes-256-gcm, password: pw}]`} {
		got, out := edited(t, "clash", statesOf(t, rich), func(string) string { return other })
		if !slices.Equal(got, []string{"ss://YWVzLTI1Ni1nY206cHc@192.0.2.2:8388#S"}) || out.Lost != nil {
			t.Errorf("%s: %q, %v", other, got, out.Lost)
		}
	}
	w := Written{To: "odd"}
	if _, _, err := w.said(0); err == nil {
		t.Error("there is no format odd")
	}
}

// TestWrittenSame: whatever the profiles and the format, a text that is as it was
// written changes none of them.
func TestWrittenSame(t *testing.T) {
	n := 1_000
	if os.Getenv("FULL") != "" {
		n = 20_000
	}
	runs := 0
	check := func(t *rapid.T) {
		runs++
		w := Written{To: rapid.SampledFrom([]string{"link", "base64", "clash", "singbox", "sip008", "xray"}).Draw(t, "to")}
		for range rapid.IntRange(1, 4).Draw(t, "n") {
			s := stateOf(linkrand.Profile(t))
			w.States = append(w.States, &s)
		}
		text, said, err := w.said(0)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(said, func(s *State) bool { return s != nil }) {
			return
		}
		out, err := Parse(ParseRequest{Text: text, Secrets: true, Written: &w})
		if err != nil || len(out.Profiles) != len(w.States) || len(out.Losses) > 0 {
			t.Fatalf("%s: %v, %d profiles of %d, %v\n%s", w.To, err, len(out.Profiles), len(w.States), out.Losses, text)
		}
		for _, p := range out.Profiles {
			if !p.Kept {
				t.Fatalf("%s: %v has changed\n%s", w.To, p.State, text)
			}
		}
	}
	for runs < n {
		rapid.Check(t, check)
	}
}
