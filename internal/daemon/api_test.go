package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/apitest"
	"netpolicy.dev/netpolicy/internal/golden"
	"netpolicy.dev/netpolicy/state"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txtar")

// talk is a client of the API whose answers are held against the contract, and kept.
type talk struct {
	t        *testing.T
	client   *http.Client
	contract *apitest.Contract
	kept     txtar.Archive
}

func newTalk(t *testing.T, socket string) *talk {
	contract := apitest.Load(t, api.Contract())
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &talk{t, &http.Client{Transport: contract.Watch(t, &http.Transport{DialContext: dial, DisableKeepAlives: true})}, contract, txtar.Archive{}}
}

// ask makes a request and returns what is answered. header are keys and values in turn.
func (k *talk) ask(method, path string, body any, header ...string) (*http.Response, []byte) {
	k.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			k.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(k.t.Context(), method, "http://netpolicyd"+path, in)
	if err != nil {
		k.t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := k.client.Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return resp, out
}

// passing is what is not the same in each run.
var passing = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)"`), `"TIME"`},
	{regexp.MustCompile(`"pid": [0-9]+`), `"pid": 1`},
	{regexp.MustCompile(`(/[^" ]+)?/policy\.yaml`), "/DIR/policy.yaml"},
	{regexp.MustCompile(`"state_dir": "[^"]*"`), `"state_dir": "/DIR"`},
	{regexp.MustCompile(`"(age_seconds|left_seconds)": [0-9.]+`), `"$1": 1`},
	{regexp.MustCompile(`"who": "[^"]*"`), `"who": "WHO"`},
	{regexp.MustCompile(`"note": "by [^"]*"`), `"note": "by WHO"`},
	{regexp.MustCompile(`"duration_ms": [0-9]+`), `"duration_ms": 1`},
}

// keep asks and keeps the answer among those that are compared with the golden file.
func (k *talk) keep(method, path string, body any, header ...string) (*http.Response, []byte) {
	k.t.Helper()
	resp, out := k.ask(method, path, body, header...)
	var text bytes.Buffer
	fmt.Fprintf(&text, "%d %s\n", resp.StatusCode, resp.Header.Get("Content-Type"))
	if strings.HasSuffix(resp.Header.Get("Content-Type"), "json") {
		if err := json.Indent(&text, out, "", "  "); err != nil {
			text.Write(out)
		}
	} else {
		text.Write(out)
	}
	kept := strings.TrimRight(text.String(), "\n") + "\n"
	for _, p := range passing {
		kept = p.form.ReplaceAllString(kept, p.with)
	}
	k.kept.Files = append(k.kept.Files, txtar.File{Name: fmt.Sprintf("%02d %s %s", len(k.kept.Files)+1, method, path), Data: []byte(kept)})
	return resp, out
}

// compare holds the kept answers against a golden file.
func (k *talk) compare(path string) {
	k.t.Helper()
	golden.Archive(k.t, path, *update, &k.kept)
}

// TestAPI asks a daemon everything that the contract promises. The answers are by the
// contract, and as the golden file has them.
func TestAPI(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.sock")
	r := start(t, zoomPolicy, func(o *Options, p *Parts) {
		o.StateDir, o.Socket = filepath.Join(dir, "state"), socket
		p.Counters = func(string) (rx, tx uint64, err error) { return 1000, 10, nil }
	})
	k := newTalk(t, socket)
	for _, text := range []string{
		"tcp 10.0.0.5:5000 > 203.0.113.1:443 sni=us01.zoom.us rtt_ms=12.5",
		"tcp 10.0.0.5:5001 > 203.0.113.2:443 sni=bad.example",
		"tcp 10.0.0.5:5002 > 203.0.113.3:22",
	} {
		e := event(t, inspector.Open, text)
		e.Stats = inspector.Stats{BytesUp: 10, BytesDown: 100}
		r.send(e)
	}
	r.send(inspector.Event{Kind: inspector.Close, Source: "conntrack", Flow: event(t, inspector.Open, "tcp 10.0.0.5:5002 > 203.0.113.3:22").Flow})
	r.round(0, state.Answer{RTT: 10 * time.Millisecond})
	at := time.Now()
	r.read(r.snap.Load(), at)
	r.read(r.snap.Load(), at.Add(fineStep))

	k.looks()
	k.asksTheEditor()
	k.changes(r)
	k.streams()
	k.compare("testdata/api.txtar")
	var unseen []string
	for _, o := range k.contract.Unseen() {
		if o != "POST /api/v1/login" && o != "POST /api/v1/logout" { // internal/api tests these, over TCP
			unseen = append(unseen, o)
		}
	}
	if len(unseen) > 0 {
		t.Errorf("never asked: %s", strings.Join(unseen, ", "))
	}
}

func (k *talk) looks() {
	k.t.Helper()
	k.keep("GET", "/api/v1/healthz", nil)
	k.keep("GET", "/api/v1/readyz", nil)
	k.keep("GET", "/api/v1/session", nil)
	k.keep("GET", "/api/v1/status", nil)
	k.keep("GET", "/api/v1/uplinks", nil)
	k.keep("GET", "/api/v1/connections?sort=age", nil)
	k.keep("GET", "/api/v1/connections?sort=name", nil)
	k.keep("GET", "/api/v1/rules", nil)
	k.keep("GET", "/api/v1/decisions?last=2", nil)
	k.keep("GET", "/api/v1/nothing", nil)
	k.keep("DELETE", "/api/v1/status", nil)
	if resp, body := k.ask("GET", "/metrics", nil); resp.StatusCode != 200 || !bytes.Contains(body, []byte("netpolicy_decisions_total")) {
		k.t.Errorf("metrics: %d %s", resp.StatusCode, body)
	}
	if _, body := k.ask("GET", "/api/v1/metrics/range?series=rtt_ms,rx_rate&minutes=1&uplink=wan1", nil); !bytes.Contains(body, []byte("10,")) {
		k.t.Errorf("no round trip in %s", body)
	}
	k.ask("GET", "/api/v1/metrics/range?minutes=1440", nil)
	if resp, _ := k.ask("GET", "/api/v1/metrics/range?series=ip", nil); resp.StatusCode != 400 {
		k.t.Errorf("a series that is none: %d", resp.StatusCode)
	}
	if resp, body := k.ask("GET", "/api/v1/openapi.yaml", nil); resp.StatusCode != 200 || !bytes.Equal(body, api.Contract()) {
		k.t.Errorf("openapi.yaml: %d", resp.StatusCode)
	}
	if resp, body := k.ask("GET", "/debug/pprof/heap", nil); resp.StatusCode != 200 || len(body) < 100 {
		k.t.Errorf("pprof: %d", resp.StatusCode)
	}
	if resp, body := k.ask("GET", "/debug/pprof/profile?seconds=1", nil); resp.StatusCode != 200 || len(body) < 10 {
		k.t.Errorf("pprof of the processor: %d", resp.StatusCode)
	}
	if resp, _ := k.ask("GET", "/debug/pprof/cmdline", nil); resp.StatusCode != 404 {
		k.t.Errorf("a profile that is none: %d", resp.StatusCode)
	}
	if _, body := k.ask("GET", "/api/v1/plan", nil); !bytes.Contains(body, []byte("table inet netpolicy")) {
		k.t.Errorf("plan: %s", body)
	}
	k.ask("GET", "/api/v1/logs?last=5", nil)
	if _, body := k.ask("GET", "/api/v1/logs?level=ERROR", nil); !bytes.Equal(body, []byte(`{"lines":[],"lost":0}`+"\n")) {
		k.t.Errorf("errors in the log: %s", body)
	}
	k.keep("POST", "/api/v1/token", map[string]any{"role": "read"})
	k.keep("PUT", "/api/v1/state", map[string]any{"state": "FAILOVER", "for": "10m", "reason": "test", "uplink": "wan1"})
	k.ask("DELETE", "/api/v1/state?uplink=wan1", nil)
	k.keep("GET", "/api/v1/state", nil)
	k.keep("DELETE", "/api/v1/connections/1", nil)
	k.keep("DELETE", "/api/v1/connections/99", nil)
	k.ask("DELETE", "/api/v1/connections/x", nil)
	k.proxies()
}

// proxies asks for what there is without routes via xray; internal/lab has some.
func (k *talk) proxies() {
	k.t.Helper()
	k.keep("GET", "/api/v1/xray", nil)
	k.keep("POST", "/api/v1/xray", map[string]any{"do": "start"})
	k.keep("GET", "/api/v1/xray/log", nil)
	k.keep("POST", "/api/v1/xray-test", map[string]any{"link": "trojan://example-password@proxy.example:443", "url": "file:///etc/passwd"})
	k.keep("POST", "/api/v1/xray-test", map[string]any{"link": "trojan://proxy.example"})
	k.keep("GET", "/api/v1/subscriptions", nil)
	k.keep("GET", "/api/v1/subscriptions/none", nil)
	k.keep("POST", "/api/v1/subscriptions", map[string]any{"do": "add", "name": "home", "url": "ftp://proxies.example/x"})
	k.keep("POST", "/api/v1/subscriptions", map[string]any{"do": "remove", "name": "home"})
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "trojan://example-password@proxy.example:443?type=ws&path=%2Fws#Home\nthis is no link\n")
	}))
	defer provider.Close()
	for _, do := range []map[string]any{
		{"do": "add", "name": "home", "url": provider.URL + "/token", "keep": "H", "every": "12h"},
		{"do": "choose", "name": "home", "profile": "Home"},
		{"do": "update", "name": "home"},
	} {
		if resp, body := k.ask("POST", "/api/v1/subscriptions", do); resp.StatusCode != 200 || !bytes.Contains(body, []byte(`"usable":1`)) {
			k.t.Errorf("%v: %d %s", do, resp.StatusCode, body)
		}
	}
	if _, body := k.ask("GET", "/api/v1/subscriptions/home", nil); !bytes.Contains(body, []byte(`"chosen":true`)) || bytes.Contains(body, []byte("example-password")) {
		k.t.Errorf("the subscription: %s", body)
	}
	k.ask("GET", "/api/v1/subscriptions", nil)
	k.ask("POST", "/api/v1/subscriptions", map[string]any{"do": "remove", "name": "home"})
}

func (k *talk) asksTheEditor() {
	k.t.Helper()
	wrong := "policy 1\nimport \"/etc/passwd\"\nrule a { match sni x.example; do blok }\n"
	k.keep("POST", "/api/v1/lint", map[string]any{"text": wrong})
	k.keep("POST", "/api/v1/lint", map[string]any{"text": "# 💡 é\r\nversion: 1\nrules:\n  - {name: a, match: {prot: 22}, action: {block: true}}\n"})
	k.keep("POST", "/api/v1/lint", map[string]any{"text": "policy 1\nrule a { match port 22; do block }\n", "extra": 1})
	k.keep("POST", "/api/v1/format", map[string]any{"text": "policy 1\nrule   a {match port 22;do block} # why\n"})
	k.keep("POST", "/api/v1/convert", map[string]any{"text": "policy 1\nrule a { match port 22; do block } # why\n", "to": "yaml"})
	k.keep("POST", "/api/v1/convert", map[string]any{"text": wrong, "to": "yaml"})
	k.keep("POST", "/api/v1/complete", map[string]any{"text": "policy 1\nrule a { match port 22; do bl", "syntax": "npl", "at": 38})
	k.keep("POST", "/api/v1/hover", map[string]any{"text": "policy 1\nrule a { match port 22; do block }\n", "at": 26})
	k.keep("POST", "/api/v1/test", map[string]any{"text": "policy 1\nrule a { match port 22; do block }\nassert flow { port 22 } => route direct\nroute direct via main\n"})
	k.keep("POST", "/api/v1/explain", map[string]any{"flow": "tcp 10.0.0.5:5000 > 203.0.113.1:443 sni=us01.zoom.us", "state": "FAILOVER"})
	k.keep("POST", "/api/v1/explain", map[string]any{"flow": "tcp 10.0.0.5:5000 > 203.0.113.1:22", "text": "policy 1\nrule a { match port 22; do block }\n"})
	k.keep("POST", "/api/v1/explain", map[string]any{"flow": "tcp 10.0.0.5:5000 > 203.0.113.1:22", "text": wrong})
	k.keep("POST", "/api/v1/explain", map[string]any{"flow": "icecream"})
	k.keep("POST", "/api/v1/replay", map[string]any{"text": "policy 1\nrule a { match port 22; do block }\n"})
	k.keep("POST", "/api/v1/replay", map[string]any{})
	k.keep("POST", "/api/v1/xray/parse", map[string]any{"text": "trojan://secret@proxy.example:443?x-odd=1#Home"})
	k.keep("POST", "/api/v1/xray/fields", map[string]any{"protocol": "socks", "transport": "tcp", "security": "none"})
	k.keep("POST", "/api/v1/xray/run", map[string]any{})
}

func (k *talk) changes(r *rig) {
	k.t.Helper()
	resp, body := k.keep("GET", "/api/v1/config", nil)
	base := resp.Header.Get("ETag")
	var now api.Config
	if err := json.Unmarshal(body, &now); err != nil || now.Text != zoomPolicy {
		k.t.Errorf("%v: the text is %q", err, now.Text)
	}
	if resp, _ := k.ask("GET", "/api/v1/config", nil, "If-None-Match", base); resp.StatusCode != http.StatusNotModified {
		k.t.Errorf("a known policy is sent again: %d", resp.StatusCode)
	}
	resp, _ = k.keep("GET", "/api/v1/config?syntax=npl", nil)
	converted := resp.Header.Get("ETag")
	if resp, _ := k.ask("GET", "/api/v1/config?syntax=npl", nil, "If-None-Match", base); resp.StatusCode != http.StatusOK || converted == base {
		k.t.Errorf("NPL instead of a YAML that is known: %d, %s and %s", resp.StatusCode, converted, base)
	}
	if resp, body := k.ask("POST", "/api/v1/config/stage", map[string]any{"text": zoomPolicy}, "If-Match", converted); resp.StatusCode != http.StatusOK {
		k.t.Errorf("staged from a converted text: %d %s", resp.StatusCode, body)
	}
	k.ask("DELETE", "/api/v1/config/stage", nil)
	k.keep("GET", "/api/v1/config/stage", nil)
	k.keep("POST", "/api/v1/config/commit", map[string]any{}, "If-Match", `"x"`)
	k.keep("POST", "/api/v1/config/commit", map[string]any{})
	k.keep("POST", "/api/v1/config/stage", map[string]any{"text": zoomPolicy}, "If-Match", `"other"`)
	k.keep("POST", "/api/v1/config/stage", map[string]any{"text": zoomPolicy + "  - {name: typo, priority: 1, match: {prot: 1}, action: {block: true}}\n"}, "If-Match", base)
	k.keep("POST", "/api/v1/config/stage", map[string]any{"text": zoomPolicy + "  - {name: smtp, priority: 1, match: {port: 25}, action: {block: true}}\n"}, "If-Match", base)
	resp, body = k.ask("GET", "/api/v1/config/stage", nil)
	var st api.Stage
	if err := json.Unmarshal(body, &st); err != nil || st.ETag != resp.Header.Get("ETag") || st.BaseGone || st.Added != 1 {
		k.t.Errorf("staged: %v, %+v", err, st)
	}
	for _, tag := range []string{base, `"other"`} { // what somebody else has staged stays
		if resp, _ := k.ask("DELETE", "/api/v1/config/stage", nil, "If-Match", tag); resp.StatusCode != http.StatusPreconditionFailed {
			k.t.Errorf("another's stage was thrown away: %d", resp.StatusCode)
		}
	}
	k.keep("POST", "/api/v1/replay", map[string]any{})
	k.keep("POST", "/api/v1/config/commit?confirm=soon", map[string]any{}, "If-Match", st.ETag)
	k.keep("POST", "/api/v1/config/commit?confirm=90s", map[string]any{}, "If-Match", st.ETag)
	k.keep("POST", "/api/v1/config/confirm", map[string]any{"n": 1})
	k.keep("POST", "/api/v1/config/confirm", map[string]any{"n": 2})
	k.keep("POST", "/api/v1/config/confirm", map[string]any{"n": 2})
	k.keep("POST", "/api/v1/config/confirm", map[string]any{})
	k.keep("GET", "/api/v1/config/versions?diff=1", nil)
	k.keep("GET", "/api/v1/config/versions/1", nil)
	k.keep("GET", "/api/v1/config/versions/77", nil)
	k.keep("POST", "/api/v1/config/rollback", map[string]any{})
	k.keep("POST", "/api/v1/config/rollback", map[string]any{"n": 2})
	k.keep("POST", "/api/v1/config/rollback", map[string]any{"to": "previous"}, "If-Match", base)
	k.keep("POST", "/api/v1/config/rollback", map[string]any{"to": "previous"}, "If-Match", st.ETag)
	k.ask("POST", "/api/v1/config/stage", map[string]any{"text": zoomPolicy})
	k.keep("DELETE", "/api/v1/config/stage", nil, "If-Match", st.ETag)
	k.keep("DELETE", "/api/v1/config/stage", nil)
	k.keep("POST", "/api/v1/reload", map[string]any{})
	k.ask("POST", "/api/v1/plan", map[string]any{})
	resp, _ = k.ask("POST", "/api/v1/config/stage", map[string]any{"text": zoomPolicy + "# more\n"})
	for _, want := range []int{http.StatusNoContent, http.StatusPreconditionFailed} { // the second finds nothing to throw away
		if resp, _ := k.ask("DELETE", "/api/v1/config/stage", nil, "If-Match", resp.Header.Get("ETag")); resp.StatusCode != want {
			k.t.Errorf("thrown away: %d, want %d", resp.StatusCode, want)
		}
	}
	r.sync()
	if got := r.snap.Load().live.policy.Hash; shortHash(got) != now.Hash {
		k.t.Errorf("after the rollback %s decides, want %s", shortHash(got), now.Hash)
	}
}

// streams reads the beginning of the streams, whose events are by the contract.
func (k *talk) streams() {
	k.t.Helper()
	kinds := map[string]string{
		"decisions": "Decision", "ended": "Ended", "transitions": "Transition", "changes": "PolicyEvent", "logs": "LogLine", "status": "Status",
	}
	first := k.read("/api/v1/events?last=100&topics=decisions,ended,transitions,changes,logs,status", "", func(got []sent) bool {
		seen := map[string]bool{}
		for _, e := range got {
			seen[e.topic] = true
		}
		return len(seen) == len(kinds)
	})
	for _, e := range first {
		if err := k.contract.Valid(k.t, kinds[e.topic], []byte(e.data)); err != nil {
			k.t.Errorf("event %s: %v\n%s", e.topic, err, e.data)
		}
	}
	// Going on behind an event gives what came after it, and that only.
	var decisions []sent
	for _, e := range first {
		if e.topic == "decisions" {
			decisions = append(decisions, e)
		}
	}
	if len(decisions) < 3 {
		k.t.Fatalf("only %d decisions", len(decisions))
	}
	again := k.read("/api/v1/events?topics=decisions", decisions[0].id, func(got []sent) bool { return len(got) >= len(decisions)-1 })
	if again[0].data != decisions[1].data {
		k.t.Errorf("after %s came %s, want %s", decisions[0].data, again[0].data, decisions[1].data)
	}
	other := k.read("/api/v1/events?topics=changes&last=1", "another-d1", func(got []sent) bool { return len(got) == 2 })
	if other[0].topic != "lost" {
		k.t.Errorf("the id of another run: %+v", other)
	}
	// Of an id of this run that names no place where there is something, nobody knows what was missed.
	run, _, _ := strings.Cut(decisions[0].id, "-")
	for _, id := range []string{run, run + "-", run + "-d", run + "-dX", run + "-dX-t", run + "-d-1", run + "-t1", run + "-d99999999", run + "-d18446744073709551615", run + "-d18446744073709551616"} {
		if got := k.read("/api/v1/events?topics=decisions&last=1", id, func(got []sent) bool { return len(got) == 2 }); got[0].topic != "lost" || got[1].data != decisions[len(decisions)-1].data {
			k.t.Errorf("after %q came %+v", id, got)
		}
	}
	// Feeds that are not followed any more are nobody's loss.
	if got := k.read("/api/v1/events?topics=status", decisions[0].id, func(got []sent) bool { return len(got) == 1 }); got[0].topic != "status" {
		k.t.Errorf("the status alone, after %q: %+v", decisions[0].id, got)
	}
	for _, query := range []string{"topics=nonsense", "follow=yes"} {
		if resp, _ := k.ask("GET", "/api/v1/events?"+query, nil); resp.StatusCode != 400 {
			k.t.Errorf("events?%s: %d", query, resp.StatusCode)
		}
	}
}

// sent is one event of a stream.
type sent struct{ topic, id, data string }

// read reads a stream until enough has come.
func (k *talk) read(path, id string, enough func([]sent) bool) []sent {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", "http://netpolicyd"+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	r.Header.Set("Last-Event-ID", id)
	resp, err := k.client.Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []sent
	var text []byte
	for !enough(list) {
		part := make([]byte, 32<<10)
		n, err := resp.Body.Read(part)
		if err != nil {
			k.t.Fatalf("%s: %v after %d events", path, err, len(list))
		}
		text = append(text, part[:n]...)
		for {
			block, rest, ok := bytes.Cut(text, []byte("\n\n"))
			if !ok {
				break
			}
			text = rest
			var e sent
			for line := range strings.SplitSeq(string(block), "\n") {
				key, value, _ := strings.Cut(line, ": ")
				switch key {
				case "event":
					e.topic = value
				case "id":
					e.id = value
				case "data":
					e.data = value
				}
			}
			if e.topic != "" {
				list = append(list, e)
			}
		}
	}
	return list
}

// TestClientEvents: the Go client gets what is kept, and from there on each event once.
func TestClientEvents(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) { o.Socket = socket })
	c := api.NewClient(socket)
	topics := []string{api.TopicTransitions, api.TopicChanges}
	tell := func(n int) {
		tellFeed(r.feeds.Transitions, api.Transition{Uplink: "wan1", Why: fmt.Sprint(n)})
		tellFeed(r.feeds.Changes, api.PolicyEvent{Detail: fmt.Sprint(n)})
	}
	const many = 100 // more than are read in one go
	for n := range many {
		tell(n)
	}
	list, after, err := c.Events(t.Context(), topics, 70)
	if err != nil || len(list) != 140 || list[0].Topic != api.TopicTransitions || !strings.Contains(string(list[0].Data), `"why":"30"`) ||
		!strings.Contains(string(list[139].Data), `"detail":"99"`) {
		t.Fatalf("%d events, %v: %+v", len(list), err, list)
	}
	if none, again, err := c.Events(t.Context(), topics, 0); err != nil || len(none) != 0 || again != after {
		t.Errorf("%+v, to go on from %q and %q, %v", none, after, again, err)
	}
	tell(many)
	ctx, stop := context.WithCancel(t.Context())
	var got []string
	err = c.FollowEvents(ctx, topics, after, func(e api.Event) error {
		got = append(got, e.Topic)
		if !strings.Contains(string(e.Data), `"100"`) {
			t.Errorf("%s %s", e.Topic, e.Data)
		}
		if len(got) == 2 {
			stop()
		}
		return nil
	})
	if err != nil || !slices.Equal(got, topics) {
		t.Errorf("%v, %v", got, err)
	}
	if _, _, err := c.Events(t.Context(), []string{"nonsense"}, 1); err == nil {
		t.Error("a topic that is none")
	}
	rules, err := c.Rules(t.Context())
	if err != nil || len(rules.Rules) != 4 || !rules.Rules[0].Last.IsZero() {
		t.Errorf("%+v, %v", rules, err)
	}
	if s, err := c.Range(t.Context(), api.RangeRequest{Back: time.Hour, Series: []string{"state"}}); err != nil || s.Step != 60 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestParallelCommits: of many who commit what they made from one policy, one does, whether
// they send it or have staged it.
func TestParallelCommits(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) { o.StateDir, o.Socket = filepath.Join(t.TempDir(), "state"), socket })
	k := newTalk(t, socket)
	resp, _ := k.ask("GET", "/api/v1/config", nil)
	base := resp.Header.Get("ETag")
	resp, _ = k.ask("POST", "/api/v1/config/stage", map[string]any{"text": otherPolicy})
	staged := resp.Header.Get("ETag")
	sent := map[string]any{"policy": request(otherPolicy+"# a remark\n", "").Policy}
	codes := make(chan int)
	const callers = 3 // as many as may be at work
	for i := range callers {
		go func() {
			body, match := map[string]any{}, staged
			if i > 0 {
				body, match = sent, base
			}
			resp, _ := k.ask("POST", "/api/v1/config/commit", body, "If-Match", match)
			codes <- resp.StatusCode
		}()
	}
	got := map[int]int{}
	for range callers {
		got[<-codes]++
	}
	if list, err := r.History(t.Context(), "", false); got[200] != 1 || got[412] != callers-1 || err != nil || len(list) != 2 {
		t.Errorf("answers %v, %d policies in the history, %v", got, len(list), err)
	}
}
