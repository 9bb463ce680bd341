package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// night is a moment at which somebody looks at a router.
var night = time.Date(2026, 2, 3, 3, 0, 0, 0, time.Local)

func sampleStatus() api.Status {
	at := func(ago time.Duration) time.Time { return night.Add(-ago) }
	return api.Status{
		Version: "v0.1.0", PID: 812, Started: at(2 * time.Hour), Now: night, Mode: "enforce",
		Policy: api.Policy{File: "/etc/netpolicy/policy.yaml", Hash: "8664947ab4b8", Since: at(2 * time.Hour), Rules: 12},
		Error: &api.ReloadError{
			Code: "NP501", Time: at(time.Minute), Message: "1 error in the policy",
			Diagnostics: []api.Diagnostic{{Code: "NP110", Severity: "error", File: "policy.yaml", Line: 16, Column: 21, Message: "no route is called `hx`", Help: "did you mean `ha`?"}},
		},
		State: "DEGRADED", Since: at(5 * time.Minute),
		Uplinks: []api.Uplink{
			{
				Name: "wan1", Dev: "eth1", State: "DEGRADED", Since: at(5 * time.Minute), Up: true, Share: 100,
				Verdict: "grey", VerdictSince: at(2 * time.Minute), Why: "rtt 104 ms, exit 90 ms", RTTms: 103.8, Loss: 0.1,
				HoldUntil: night.Add(time.Minute),
			},
			{
				Name: "wan2", Dev: "wwan0", State: "FAILOVER", Since: at(30 * time.Hour), Up: true, Verdict: "good", RTTms: 31.25,
				Forced: &api.Forced{State: "FAILOVER", Shadow: "NORMAL", Until: night.Add(10 * time.Minute), Reason: "cable works"},
			},
			{Name: "wan3", Dev: "eth3", State: "NORMAL", Unknown: true, Share: 100, RTTms: -1, Loss: -1, Errors: -1},
			{Name: "wan4", Dev: "eth4", State: "RECOVERY", Since: at(3 * time.Second), Up: true, Share: 25, RTTms: 8, Verdict: "good"},
		},
		Sources: []api.Source{{Name: "afpacket", Error: "operation not permitted"}, {Name: "conntrack"}},
		Flows:   412, Names: 873, Decisions: 18234, Drops: map[string]uint64{"events": 7, "answers": 0},
	}
}

func TestStatusText(t *testing.T) {
	s := sampleStatus()
	s.Uplinks[1].Forced.Reason = "cable\x1b[31m\nworks"
	s.Drops["decision log"], s.Drops["decision log (disk)"] = 3, 888
	var b bytes.Buffer
	writeStatus(&b, &s)
	want := `netpolicyd v0.1.0 (pid 812), enforcing, up 2h0m
policy   /etc/netpolicy/policy.yaml, 8664947ab4b8, 12 rules, live since 01:00:00 (2h0m ago)
state    DEGRADED since 02:55:00 (5m0s ago)
uplinks
  wan1  eth1   DEGRADED  since 02:55:00 (5m0s ago), grey since 02:58:00 (rtt 104 ms, exit 90 ms), rtt 103.8 ms, loss 10%, held until 03:01:00
  wan2  wwan0  FAILOVER  since 2026-02-01 21:00:00 (30h0m ago), forced until 03:10:00 (cable�[31m�works), by itself it would be NORMAL, good, rtt 31.25 ms
  wan3  eth3   NORMAL    link down
  wan4  eth4   RECOVERY  since 02:59:57 (3s ago), good, rtt 8 ms, takes 25% of new flows
sources  conntrack; afpacket not in use: operation not permitted
flows    412 followed, 873 addresses with names, 18234 decisions
dropped  3 decision log (queue full)
dropped  888 decision log (the disk did not take it)
dropped  7 events (queue full)
NP501    the reload at 02:59:00 (1m0s ago) was rejected, the old policy goes on: 1 error in the policy
  policy.yaml:16:21: error NP110: no route is called ` + "`hx`" + `
    help: did you mean ` + "`ha`" + `?
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestTailText(t *testing.T) {
	at := night.Format(time.RFC3339)
	for _, c := range []struct{ record, want string }{
		{
			`{"id":"1","rule":"zoom","action":"route","target":"ha","route":"fast","log":true,"default":false,"final":true,"pending":[],"why":"priority 100 before 10 (x)","time":"` + at + `","event":"open","mode":"enforce","flow":{"proto":"tcp","src":"10.0.0.5:5000","dst":"1.2.3.4:443","sni":"us01.zoom.us","rtt_ms":12.345},"name":"us01.zoom.us","name_from":"sni","uplink":"wan1"}`,
			`03:00:00.000 open   tcp 10.0.0.5:5000 > 1.2.3.4:443 us01.zoom.us (sni) rtt 12.35 ms  route fast (asked ha) via wan1  by zoom (priority 100 before 10 (x))`,
		},
		{
			`{"rule":"bad","action":"block","target":"reject","route":null,"final":true,"time":"` + at + `","event":"logged","mode":"observe","text":"no","flow":{"proto":"udp","src":"10.0.0.5:5000","dst":"[2001:db8::1]:53","dns":["a.example","b.example"],"process":"ga\u001bme"},"name":"a.example,b.example","name_from":"dns"}`,
			`03:00:00.000 logged udp 10.0.0.5:5000 > [2001:db8::1]:53 a.example,b.example (dns) [ga�me]  block reject  by bad  "no"  (observed only)`,
		},
		{
			`{"rule":null,"action":"route","target":"direct","route":"direct","default":true,"final":false,"pending":["sni"],"time":"` + at + `","event":"state","mode":"enforce","pinned":true,"pinned_route":"fast","flow":{"proto":"tcp","src":"10.0.0.5:1","dst":"1.2.3.4:2"}}`,
			`03:00:00.000 state  tcp 10.0.0.5:1 > 1.2.3.4:2  route direct  by default  waits for sni  stays on fast`,
		},
		{
			`{"rule":"no_telnet","action":"block","target":"reject","route":null,"final":true,"time":"` + at + `","event":"logged","mode":"enforce","flow":{"proto":"tcp","dst":"1.2.3.4:23","process":"curl"}}`,
			`03:00:00.000 logged tcp ? > 1.2.3.4:23 [curl]  block reject  by no_telnet`,
		},
		{`{"dropped":12}`, `... 12 records missed: this tail is slower than the decisions`},
	} {
		var b bytes.Buffer
		if err := showRecord(&b, []byte(c.record), &recordFilter{}, false); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want+"\n", b.String()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTailFilters(t *testing.T) {
	records := []string{
		`{"rule":"zoom","action":"route","route":"fast","uplink":"wan1","flow":{"sni":"us01.zoom.us","dns":["cdn.example"]}}`,
		`{"rule":"bad","action":"block","route":null,"flow":{"http_host":"bad.example"}}`,
		`{"rule":null,"action":"route","route":"direct","default":true,"flow":{"dns":["a.example","b.example"]}}`,
		`{"rule":"ha","action":"route","route":null,"flow":{}}`,
		`{"rule":"own","action":"none","route":null,"flow":{}}`,
		`{"dropped":3}`,
	}
	for _, c := range []struct {
		q    recordFilter
		want []int // records, besides the last
	}{
		{recordFilter{}, []int{0, 1, 2, 3, 4}},
		{recordFilter{rule: "zoom"}, []int{0}},
		{recordFilter{rule: "default"}, []int{2}},
		{recordFilter{uplink: "wan1"}, []int{0}},
		{recordFilter{blocked: true}, []int{1, 3}},
		{recordFilter{name: ".zoom.us"}, []int{0}},
		{recordFilter{name: "*.example"}, []int{1, 2}},
		{recordFilter{name: "b.example", blocked: true}, nil},
	} {
		if err := c.q.prepare(); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		for _, r := range records {
			if err := showRecord(&b, []byte(r), &c.q, true); err != nil {
				t.Fatal(err)
			}
		}
		want := ""
		for _, i := range append(c.want, len(records)-1) {
			want += records[i] + "\n"
		}
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Errorf("%+v: %s", c.q, diff)
		}
	}
}

// backend answers the commands of these tests.
type backend struct {
	forced api.ForceRequest
	reload api.ReloadResult
	waits  *api.Confirm
	over   atomic.Bool // the connection was ended
}

func (b *backend) Status() api.Status {
	s := sampleStatus()
	s.Confirm = b.waits
	return s
}
func (b *backend) Plan() string { return "# the plan\n" }
func (b *backend) Explain(api.ExplainRequest) (json.RawMessage, error) {
	return json.RawMessage(`{"rule":"zoom","action":"route","route":"fast","why":"priority 100 before 10","final":true,"runner_up":"video"}`), nil
}

func (b *backend) Kill(_ context.Context, id uint64) error {
	if id != 7 {
		return fmt.Errorf("no connection %d is followed: %w", id, api.ErrNotFound)
	}
	return nil
}

func (b *backend) Flows(_ context.Context, q api.FlowsRequest) (api.Flows, error) {
	return api.Flows{Now: night, Total: 7, Matched: 1, Flows: []api.Flow{{
		ID: "7", Flow: json.RawMessage(`{"proto":"tcp","src":"10.0.0.5:5000","dst":"203.0.113.1:443","sni":"us01.zoom.us"}`), Name: "us01.zoom.us", NameFrom: "sni",
		Decision: json.RawMessage(`{"rule":"zoom","action":"route","route":"fast","why":"priority 100"}`), Uplink: "wan1", RTTms: 12.5, DownRate: 2_500_000,
		Killed: b.over.Load(),
	}}}, nil
}
func (b *backend) Reload(context.Context) (api.ReloadResult, error) { return b.reload, nil }
func (b *backend) Force(_ context.Context, q api.ForceRequest) error {
	b.forced = q
	return nil
}

func (b *backend) Clear(_ context.Context, uplink string) error {
	if uplink == "wan9" {
		return fmt.Errorf("uplink %q is not declared: %w", uplink, api.ErrBadRequest)
	}
	return nil
}

// TestDaemonCommands runs the client commands against a socket.
func TestDaemonCommands(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := api.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{reload: api.ReloadResult{Result: api.Rejected, Error: "1 error in the policy", Diagnostics: sampleStatus().Error.Diagnostics}}
	ring := telemetry.NewRing(4)
	ring.Append([]byte(`{"id":"7"}`))
	tokens, err := api.OpenTokens(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- (&api.Server{Reader: b, Admin: b, Lister: b, Viewer: b, Feeds: feedsOf(), Records: ring, Metrics: func(w io.Writer) { io.WriteString(w, "netpolicy_state 1\n") }, Tokens: tokens}).Run(ctx, l)
	}()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []struct {
		args string
		code int
		want string // in the output
	}{
		{"status", 0, "state    DEGRADED"},
		{"status -o json", 0, `"state": "DEGRADED"`},
		{"status -o xml", 2, "the outputs are text and json"},
		{"top -o xml", 2, "the outputs are text and json"},
		{"uplinks", 0, "wan4  eth4   RECOVERY"},
		{"uplinks -o json", 0, `"name": "wan4"`},
		{"tail --follow=false -o json", 0, `{"id":"7"}`},
		{"tail --follow=false -o ndjson", 0, `{"id":"7"}`},
		{"tail --name a..b", 2, `--name "a..b": want a name`},
		{"top", 2, "the screen needs a terminal"},
		{"top --sort name", 2, "want bytes, rate, rtt, age"},
		{"top --once -n 5", 0, "us01.zoom.us "},
		{"top --once --filter zoom", 0, `1 of 7 flows with "zoom" by rate`},
		{"top -o json", 0, `"name": "us01.zoom.us"`},
		{"connections", 0, "7   tcp 10.0.0.5:5000 > 203.0.113.1:443  us01.zoom.us  -        fast   12.5 ms  0   0     0s   zoom\n"},
		{"connections --name .zoom.us --uplink wan1 --rule zoom -o ndjson", 0, `{"id":"7",`},
		{"connections --blocked -o json", 0, `"matched": 0`},
		{"connections --sort name", 2, "want bytes, rate, rtt, age"},
		{"connections -n -1", 2, "want a number of connections"},
		{"connections -o xml", 2, "-o xml: the outputs are text, json and ndjson"},
		{"tail -o xml", 2, "-o xml: the outputs are text, json and ndjson"},
		{"kill 7 -o ndjson", 2, "the outputs are text and json"},
		{"kill 7", 0, "ended 1 of 1 connections"},
		{"kill 7 8", 1, "error: 8: no connection 8 is followed"},
		{"kill --name .zoom.us", 0, "ended 1 of 1 connections"},
		{"kill --filter zoom -o json", 0, `"7"`},
		{"kill --blocked", 0, "ended 0 of 0 connections"},
		{"kill", 2, "want ids of connections, or filters"},
		{"kill 7 --blocked", 2, "and not both"},
		{"kill seven", 2, `"seven" is no id`},
		{"uplinks --since 1h", 0, "host: NORMAL 100%"},
		{"uplinks --since 25h", 2, "--since 25h0m0s: want a time up to 24h0m"},
		{"uplinks --since 0s", 2, "want a time up to"},
		{"rules", 0, "zoom     policy.yaml:14    100"},
		{"rules --dead", 0, "rules/lan.yaml:3:12: warning NP302"},
		{"rules --unused -o json", 0, `"name": "asleep"`},
		{"events", 0, "wan1         NORMAL > DEGRADED: rtt 104 ms"},
		{"events -n 1001", 2, "want a number from 0 to 1000"},
		{"events --topics decisions", 2, `--topics "decisions": want transitions, changes, ended`},
		{"events -o ndjson", 0, `{"topic":"changes","event":{`},
		{"logs --level warn", 0, "WARN  source not in use  source=afpacket"},
		{"logs --level loud", 2, `--level "loud": want debug, info, warn, error`},
		{"logs -o xml", 2, "the outputs are text, json and ndjson"},
		{"plan --current", 0, "# the plan\n"},
		{"plan --current -o json", 2, "--current is a text"},
		{"metrics", 0, "netpolicy_state 1\n"},
		{"__complete kill --socket " + socket + " ", 0, "7\ttcp 10.0.0.5:5000 > 203.0.113.1:443 us01.zoom.us"},
		{"reload", 1, "policy.yaml:16:21: error NP110"},
		{"reload -o json", 1, `"result": "rejected"`},
		{"state force failover --for 10m --reason test --uplink wan1", 0, "wan1"},
		{"state force WORSE --for 10m --reason test", 2, "want NORMAL"},
		{"state force FAILOVER --reason test", 2, `"for" not set`},
		{"state clear", 0, "wan1"},
		{"token", 0, tokens.Get(api.RoleAdmin)},
		{"token --read-only -o json", 0, tokens.Get(api.RoleRead)},
		{"state clear --uplink wan9", 1, `uplink "wan9" is not declared`},
	} {
		args := append(strings.Fields(c.args), "--socket", socket)
		if args[0] == "__complete" {
			args = append(strings.Fields(c.args), "")
		}
		code, out := command(args...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit %d, want %d and %q in\n%s", c.args, code, c.code, c.want, out)
		}
	}
	b.over.Store(true)
	command("kill", "7", "--socket", socket) // after which lists are made anew
	if code, out := command("kill", "--name", ".zoom.us", "--socket", socket); code != 0 || !strings.Contains(out, "ended 0 of 0 connections") {
		t.Errorf("filters choose what was ended before: exit %d, %s", code, out)
	}
	before := tokens.Get(api.RoleRead)
	if _, out := command("token", "--read-only", "--renew", "--socket", socket); strings.Contains(out, before) || !strings.Contains(out, tokens.Get(api.RoleRead)) {
		t.Errorf("the token was not renewed: %s", out)
	}
	if want := (api.ForceRequest{State: "FAILOVER", Uplink: "wan1", For: "10m0s", Reason: "test"}); b.forced != want {
		t.Errorf("forced %+v", b.forced)
	}
}

func TestNoDaemon(t *testing.T) {
	for _, args := range []string{"status", "uplinks", "tail", "top --once", "connections", "rules", "events", "events -f", "logs", "logs -f", "uplinks --since 1h", "kill 7", "kill --blocked", "plan --current", "metrics", "reload", "state clear", "state force NORMAL --for 1m --reason x"} {
		code, out := command(append(strings.Fields(args), "--socket", filepath.Join(t.TempDir(), "none"))...)
		if code != int(cli.Unreachable) || !strings.Contains(out, "hint: is netpolicyd running?") {
			t.Errorf("%s: exit %d\n%s", args, code, out)
		}
	}
}

// command runs the program and returns its exit code and all it said.
func command(args ...string) (code int, out string) {
	var b bytes.Buffer
	root := newRoot()
	root.SetOut(&b)
	root.SetErr(&b)
	return cli.Run(context.Background(), root, args), b.String()
}
