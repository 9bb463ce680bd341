package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/golden"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

func sampleRules() api.Rules {
	return api.Rules{
		Policy: api.Policy{File: "/etc/netpolicy/policy.yaml", Hash: "8664947ab4b8", Since: night.Add(-2 * time.Hour), Rules: 4},
		Rules: []api.Rule{
			{Name: "zoom", File: "policy.yaml", Line: 14, Priority: 100, Specificity: "(1,3,0,0)", Action: "route ha", States: []string{"NORMAL"}, Decisions: 9120, Last: night.Add(-3 * time.Second)},
			{
				Name: "telnet", File: "rules/lan.yaml", Line: 3, Priority: 90, Specificity: "(1,0,0,0)", Action: "block", States: []string{"NORMAL"}, Dead: true,
				Findings: []api.Diagnostic{{Code: "NP302", Severity: "warning", File: "rules/lan.yaml", Line: 3, Column: 12, Message: "it can never decide: `zoom` is looked at before", Help: "remove it"}},
			},
			{Name: "wide", File: "policy.yaml", Line: 16, Priority: 80, Specificity: "(0,0,0,0)", Action: "route direct", States: []string{"NORMAL"}, Decisions: 17, Last: night.Add(-30 * time.Hour)},
			{Name: "asleep", File: "policy.yaml", Line: 17, Priority: 70, Specificity: "(1,0,0,0)", Action: "block", States: []string{}, Disabled: true},
		},
		Default: api.DefaultRule{Action: "route direct", Decisions: 18, Last: night.Add(-time.Minute)},
	}
}

func sampleRange() api.Range {
	values := func(list ...float64) (out []*float64) {
		for _, v := range list {
			if v >= 0 {
				out = append(out, &v)
			} else {
				out = append(out, nil)
			}
		}
		return out
	}
	return api.Range{From: night.Add(-4 * time.Minute), Step: 60, Series: []api.Series{
		{Name: "rtt_ms", Uplink: "wan1", Values: values(28, -1, 104, 30)},
		{Name: "loss", Uplink: "wan1", Values: values(0, 0, 0.1, 0)},
		{Name: "error_rate", Uplink: "wan1", Values: values(0, 0, 0, 0)},
		{Name: "rx_rate", Uplink: "wan1", Values: values(-1, 2_500_000, 1_000_000, 0)},
		{Name: "tx_rate", Uplink: "wan1", Values: values(-1, 1000, 3000, 2000)},
		{Name: "state", Uplink: "", Values: values(0, 0, 0, 0)},
		{Name: "state", Uplink: "wan1", Values: values(0, 0, 1, 3)},
		{Name: "state", Uplink: "wan2", Values: values(0, 0, 0, 0)},
		{Name: "flows", Uplink: "", Values: values(400, 410, 420, 430)},
		{Name: "decisions_rate", Uplink: "", Values: values(0.5, 1, 1.5, 2)},
	}}
}

// feedsOf are rings with what a daemon has told.
func feedsOf() api.Feeds {
	f := api.Feeds{Ended: telemetry.NewRing(8), Transitions: telemetry.NewRing(8), Changes: telemetry.NewRing(8), Logs: telemetry.NewRing(8)}
	for ring, lines := range map[*telemetry.Ring][]string{
		f.Transitions: {
			`{"time":"` + at(5) + `","uplink":"wan1","from":"NORMAL","to":"DEGRADED","why":"rtt 104 ms, enter 100 ms"}`,
			`{"time":"` + at(2) + `","uplink":"","from":"NORMAL","to":"FAILOVER","why":"wan1 is dead"}`,
		},
		f.Changes: {
			`{"time":"` + at(7) + `","result":"applied","hash":"8664947ab4b8","n":7,"who":"start"}`,
			`{"time":"` + at(3) + `","result":"rejected","hash":"8664947ab4b8","n":7,"who":"the file","detail":"1 error in the ` + `\u001bpolicy"}`,
		},
		f.Ended: {`{"id":"17","time":"` + at(4) + `","bytes_up":120,"bytes_down":4200,"duration_ms":3200,"rtt_ms":12.5,"reason":"closed"}`},
		f.Logs: {
			`{"time":"` + at(6) + `","level":"INFO","msg":"policy applied","hash":"8664947ab4b8","rules":12}`,
			`{"time":"` + at(4) + `","level":"WARN","msg":"source not in use","source":"afpacket","error":"operation not permitted","tries":[1,2]}`,
			`{"time":"` + at(1) + `","level":"ERROR","msg":"apply","error":""}`,
		},
	} {
		for _, line := range lines {
			ring.Append([]byte(line))
		}
	}
	return f
}

// at is a moment so many minutes before night.
func at(minutes int) string {
	return night.Add(-time.Duration(minutes) * time.Minute).Format(time.RFC3339)
}

func (b *backend) Rules() (api.Rules, error)        { return sampleRules(), nil }
func (b *backend) Range(api.RangeRequest) api.Range { return sampleRange() }
func (b *backend) Healthy() (alive, ready error)    { return nil, nil }

// TestLookText holds what commands say of what the daemon has seen against a golden file.
func TestLookText(t *testing.T) {
	socket, _ := withDaemon(t, nil, feedsOf())
	var got txtar.Archive
	for _, line := range []string{
		"events", "events -n 1", "events --topics transitions,changes,ended", "logs", "logs --level warn", "logs --level warn -n 1", "uplinks --since 4m",
	} {
		code, out := command(append(strings.Fields(line), "--socket", socket)...)
		if code != 0 {
			t.Errorf("%s: exit %d", line, code)
		}
		got.Files = append(got.Files, txtar.File{Name: "netpolicy " + line, Data: []byte(out)})
	}
	var b bytes.Buffer
	r := sampleRules()
	writeRules(&b, &r, true, night) // the command says how long ago from now on
	got.Files = append(got.Files, txtar.File{Name: "netpolicy rules", Data: b.Bytes()})
	golden.Archive(t, "testdata/look.txtar", *update, &got)
}

// TestFollow: what comes later is shown, and no more than is wanted, each once.
func TestFollow(t *testing.T) {
	feeds := feedsOf()
	socket, _ := withDaemon(t, nil, feeds)
	for _, c := range []struct {
		args, first string
		ring        *telemetry.Ring
		more        []string
		want        string
	}{
		{"logs -f --level warn -n 1", "ERROR apply", feeds.Logs, []string{`{"time":"` + at(0) + `","level":"INFO","msg":"unwanted"}`, `{"time":"` + at(0) + `","level":"WARN","msg":"late"}`}, "WARN  late"},
		{"events -f -n 1 --topics transitions", "host         NORMAL > FAILOVER", feeds.Transitions, []string{`{"time":"` + at(0) + `","uplink":"wan1","from":"FAILOVER","to":"RECOVERY","why":""}`}, "wan1         FAILOVER > RECOVERY"},
		{"events -f -n 1 -o json --topics changes", `"result":"rejected"`, feeds.Changes, []string{`{"time":"` + at(0) + `","result":"applied","hash":"8664947ab4b8","who":"api"}`}, `{"topic":"changes","event":{"time":"`},
	} {
		ctx, stop := context.WithCancel(t.Context())
		r, w := io.Pipe()
		root := newRoot()
		root.SetOut(w)
		root.SetErr(w)
		done := make(chan int, 1)
		go func() {
			code := cli.Run(ctx, root, append(strings.Fields(c.args), "--socket", socket))
			_ = w.CloseWithError(errors.New("it has ended"))
			done <- code
		}()
		lines := bufio.NewReader(r)
		expect := func(want string) {
			t.Helper()
			if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, want) {
				t.Errorf("%s: %q, %v; want %q", c.args, line, err, want)
			}
		}
		expect(c.first)
		for _, line := range c.more {
			c.ring.Append([]byte(line))
		}
		expect(c.want)
		stop()
		go func() { _, _ = io.Copy(io.Discard, r) }()
		if code := <-done; code != 0 {
			t.Errorf("%s: exit %d", c.args, code)
		}
	}
}
