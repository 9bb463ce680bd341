package replay

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

func read(t testing.TB, b []byte, opt Options) ([]inspector.Event, error) {
	t.Helper()
	var events []inspector.Event
	err := New(bytes.NewReader(b), opt).Run(t.Context(), func(e inspector.Event) { events = append(events, e) })
	return events, err
}

// names returns the names told, by flow.
func names(events []inspector.Event) map[string]string {
	out := map[string]string{}
	for _, e := range events {
		if n, ok := e.Flow.SNI.Get(); ok && e.Kind == inspector.Name {
			f := flow.Flow{Proto: e.Flow.Proto, Src: e.Flow.Src, SrcPort: e.Flow.SrcPort, Dst: e.Flow.Dst, DstPort: e.Flow.DstPort}
			out[string(f.AppendJSON(nil))] = n
		}
	}
	return out
}

// TestCutAnywhere cuts real captures at every place rapid thinks of: nothing
// panics, and no name is told that the whole capture does not tell.
func TestCutAnywhere(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(captures, "*.pcap*"))
	if err != nil || len(files) == 0 {
		t.Skip("no captures in", captures)
	}
	type capture struct {
		bytes []byte
		names map[string]string
	}
	var all []capture
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		events, err := read(t, b, Options{})
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if len(b) < 50_000 {
			all = append(all, capture{b, names(events)})
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := rapid.SampledFrom(all).Draw(rt, "capture")
		n := rapid.IntRange(0, len(c.bytes)).Draw(rt, "length")
		events, err := read(t, c.bytes[:n], Options{CaptureOnly: true})
		if err != nil && !errors.Is(err, ErrCut) && !errors.Is(err, ErrUnknown) {
			rt.Fatal(err)
		}
		for f, name := range names(events) {
			if c.names[f] != name {
				rt.Fatalf("%s: name %q, in the whole capture %q", f, name, c.names[f])
			}
		}
	})
}

// TestNoise changes bytes of real captures: nothing panics or fills the memory.
func TestNoise(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(captures, "tls_2_reasms_b.pcapng"))
	if err != nil {
		t.Skip("no captures in", captures)
	}
	rapid.Check(t, func(rt *rapid.T) {
		noisy := slices.Clone(b)
		for range 8 {
			noisy[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] = rapid.Byte().Draw(rt, "byte")
		}
		_, _ = read(t, noisy, Options{})
	})
}

func TestLines(t *testing.T) {
	const in = `{"id":"1","proto":"tcp","src":"10.0.0.5:5000","dst":"192.0.2.4:443","sni":"us01.zoom.us"}

{"kind":"answer","at":"2026-01-02T12:00:00Z","answer":{"name":"a.example","addrs":["192.0.2.1"],"ttl":60}}
{"kind":"answer","answer":{"name":"a.example","addrs":[],"ttl":60,"alpn":"h3,h2"},"ech":true}
{"kind":"name","flow":{"proto":"udp","sni":"a.example"},"ech":true,"hello":{"tls":"1.3","quic":"1","ja4":"q13d0313h3_55b375c5d22e_f902b76752af"}}
{"kind":"close","at":"2026-01-02T12:00:01Z","flow":{"proto":"udp","src":"10.0.0.5:5000","dst":"192.0.2.4:53"},"stats":{"rtt_us":1500,"bytes_up":7},"ct_mark":5}
`
	events, err := read(t, []byte(in), Options{})
	if err != nil || len(events) != 5 {
		t.Fatal(events, err)
	}
	var out []string
	for _, e := range events {
		if e.Source != "replay" {
			t.Errorf("source %q", e.Source)
		}
		e.Source = ""
		b, err := e.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(b))
	}
	want := strings.Split(strings.TrimSpace(in), "\n")
	want[0] = `{"kind":"open","flow":` + want[0] + `}`
	if diff := cmp.Diff(slices.DeleteFunc(want, func(s string) bool { return s == "" }), out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		in   string
		opt  Options
		want string
	}{
		{"hello", Options{}, "neither pcap, pcapng nor NDJSON"},
		{"{}", Options{CaptureOnly: true}, "neither pcap, pcapng nor NDJSON"},
		{"", Options{CaptureOnly: true}, "neither pcap, pcapng nor NDJSON"},
		{"{\"proto\":\"tcp\"}\n{\"kind\":\"dance\"}", Options{}, "line 2: read event: unknown kind \"dance\""},
		{"{\"kind\":\"answer\"}", Options{}, "line 1: read event: an answer without its answer"},
		{"{\"kind\":\"open\",\"flow\":{\"proto\":7.5}}", Options{}, "line 1: read the event's flow"},
		{"\xd4\xc3\xb2\xa1\x02", Options{}, "read pcap header: the recording ends in the middle"},
		{strings.Repeat("{", 200_000), Options{}, "read line 1: bufio.Scanner: token too long"},
	} {
		if _, err := read(t, []byte(c.in), c.opt); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %q", c.in, err, c.want)
		}
	}
	if events, err := read(t, nil, Options{}); err != nil || len(events) != 0 {
		t.Errorf("nothing: %v %v", events, err)
	}
}
