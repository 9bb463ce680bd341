package main

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/golden"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

var update = flag.Bool("update", false, "rewrite testdata/json.txtar")

// jsonFiles are what the commands of TestJSON read.
var jsonFiles = map[string]string{
	"policy.npl": "policy 1\nuplink wan1 { dev eth1 }\nroute fast via uplink wan1\nrule zoom priority 100 { match sni .zoom.us; do route fast, log }\n" +
		"rule smtp priority 50 { match port 25; do block }\nassert \"us01.zoom.us\" tcp/443 -> route fast\ndefault route fast\n",
	"broken.npl":    "policy 1\nrule zoom { match sni .zoom.us; do route fest }\nroute fast via main\n",
	"flows.ndjson":  `{"id":"1","proto":"tcp","src":"10.0.0.5:5000","dst":"203.0.113.1:443","sni":"us01.zoom.us"}` + "\n",
	"tape.ndjson":   "",
	"scenario.sim":  "policy policy.npl\nexpect 1s state NORMAL\n",
	"list.txt":      "ads.example\n*.tracker.example\n",
	"profile.links": "trojan://secret@198.51.100.7:443?security=tls&sni=a.example#one\n",
}

// inOutput is what is not the same in each run.
var inOutput = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)"`), `"TIME"`},
	{regexp.MustCompile(`/[^" ]*/(policy|broken|scenario|flows|tape|list|profile)\.`), "/DIR/$1."},
	{regexp.MustCompile(`"token": "[^"]*"`), `"token": "TOKEN"`},
}

// TestJSON holds the JSON of every command that has such an output against a golden file: scripts
// of users read it.
func TestJSON(t *testing.T) {
	dir := t.TempDir()
	for name, text := range jsonFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "s")
	l, err := api.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := api.OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	ring := telemetry.NewRing(4)
	ring.Append([]byte(`{"schema":"np.decision/1","id":"7","rule":"zoom"}`))
	b := &backend{reload: api.ReloadResult{Result: api.Rejected, Error: "1 error in the policy", Diagnostics: sampleStatus().Error.Diagnostics}}
	policy := api.Policy{File: "/etc/netpolicy/policy.npl", Hash: "3f0c22a91b7e", Since: night, Rules: 14, Routes: 3}
	c := &changer{
		result: api.ChangeResult{
			Result: api.Pending, Policy: policy, N: 8, Diagnostics: []api.Diagnostic{}, Warnings: []string{"the connection that you came by would be cut"},
			Confirm: &api.Confirm{N: 8, Hash: "3f0c22a91b7e", Before: 7, Old: "8664947ab4b8", Mode: "time", Who: "root (uid 0)", Since: night, Deadline: night, Left: 90},
		},
		plan: api.PlanAnswer{Output: `{"steps":[]}` + "\n", Diagnostics: []api.Diagnostic{}},
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- (&api.Server{Reader: b, Admin: b, Lister: b, Viewer: b, Feeds: feedsOf(), Changes: c, Records: ring, Metrics: func(io.Writer) {}, Tokens: tokens}).Run(ctx, l)
	}()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	t.Setenv("SSH_CONNECTION", "")

	in := func(name string) string { return filepath.Join(dir, name) }
	var got txtar.Archive
	for _, args := range [][]string{
		{"status"},
		{"uplinks"},
		{"top"},
		{"connections"},
		{"kill", "7", "8"},
		{"tail", "--follow=false"},
		{"rules"},
		{"rules", "--dead"},
		{"events"},
		{"logs"},
		{"uplinks", "--since", "4m"},
		{"reload"},
		{"state", "clear"},
		{"token"},
		{"state", "force", "FAILOVER", "--for", "10m", "--reason", "test"},
		{"apply", in("policy.npl"), "--confirm", "90s"},
		{"confirm", "8"},
		{"rollback", "previous"},
		{"history"},
		{"history", "8"},
		{"plan"},
		{"lint", in("policy.npl")},
		{"lint", in("broken.npl")},
		{"test", in("policy.npl"), in("scenario.sim")},
		{"explain", "--config", in("policy.npl"), "--flow", "tcp 10.0.0.5:5000 > 203.0.113.1:443 sni=us01.zoom.us"},
		{"replay", "--config", in("policy.npl"), in("tape.ndjson")},
		{"lists", "show", in("list.txt")},
		{"xray", "parse", in("profile.links")},
	} {
		line := append(append([]string{}, args...), "-o", "json")
		switch args[0] {
		case "lint", "test", "explain", "replay", "lists", "xray":
		default:
			line = append(line, "--socket", socket)
		}
		_, out := command(line...)
		for _, p := range inOutput {
			out = p.form.ReplaceAllString(out, p.with)
		}
		name := strings.ReplaceAll(strings.Join(args, " "), dir+"/", "")
		got.Files = append(got.Files, txtar.File{Name: "netpolicy " + name + " -o json", Data: []byte(strings.TrimRight(out, "\n") + "\n")})
	}
	golden.Archive(t, "testdata/json.txtar", *update, &got)
}
