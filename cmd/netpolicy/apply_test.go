package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// changer answers the commands that change policies.
type changer struct {
	asked  api.ChangeRequest
	who    string
	result api.ChangeResult
	err    error
	plan   api.PlanAnswer
	// present is why the policy in force can't be told.
	present error
}

func (c *changer) Change(_ context.Context, who string, q api.ChangeRequest) (api.ChangeResult, error) {
	c.asked, c.who = q, who
	return c.result, c.err
}

func (c *changer) Present(context.Context) (api.EntryText, error) {
	return api.EntryText{}, c.present
}

func (c *changer) Compare(context.Context, api.PlanRequest) (api.PlanAnswer, error) {
	return c.plan, nil
}

func (c *changer) History(_ context.Context, ref string, diff bool) ([]api.EntryText, error) {
	e := api.EntryText{
		Entry:  api.Entry{N: 8, Hash: "3f0c22a91b7e", Time: night, Who: "root (uid 0)", Trigger: "apply new.npl", Outcome: api.Confirmed, Before: 7, Rules: 14, Added: 3, Removed: 1, Live: true},
		Policy: policyfile.Bundle{Main: []byte("policy 1\n"), Files: map[string][]byte{"a.npl": []byte("# a\n")}},
	}
	switch {
	case ref == "9":
		return nil, fmt.Errorf("the history has no policy %q: %w", ref, api.ErrNotFound)
	case diff:
		e.Diff = "@@ -1 +1 @@\n-a\n+b\n"
	}
	return []api.EntryText{e, {Entry: api.Entry{N: 7, Outcome: api.Damaged, Note: "its first line is cut off"}}}[:min(2, 2-len(ref))], nil
}

func TestChangeText(t *testing.T) {
	policy := api.Policy{File: "/etc/netpolicy/policy.npl", Hash: "3f0c22a91b7e", Rules: 14}
	for _, c := range []struct {
		result api.ChangeResult
		want   string
	}{
		{
			api.ChangeResult{Result: api.Applied, Policy: policy, N: 8, Warnings: []string{"the connection by which you came is blocked"}},
			"warning: the connection by which you came is blocked\napplied: 3f0c22a91b7e (/etc/netpolicy/policy.npl, 14 rules), policy 8 of the history\n",
		},
		{
			api.ChangeResult{Result: api.Pending, Policy: policy, N: 8, Confirm: &api.Confirm{N: 8, Before: 7, Old: "8664947ab4b8", Left: 89.97, Deadline: night.Add(90 * time.Second)}},
			"applied, not kept yet: 3f0c22a91b7e (14 rules), policy 8 of the history\n1m30s left (until 03:01:30) for `netpolicy confirm 8`; else policy 7 (8664947ab4b8) returns\n",
		},
		{
			api.ChangeResult{
				Result: api.Reverted, Policy: policy, N: 8, Probes: []string{"assertions: 2 hold"},
				Reverted: &api.Revert{To: 7, Hash: "8664947ab4b8", Why: "uplink wan1 did not answer", Verified: true},
			},
			"assertions: 2 hold\nreverted, verified: policy 7 (8664947ab4b8) decides again; uplink wan1 did not answer\n",
		},
		{
			api.ChangeResult{Result: api.Rejected, Policy: policy, Error: "1 error in the policy", Diagnostics: sampleStatus().Error.Diagnostics},
			"policy.yaml:16:21: error NP110: no route is called `hx`\n  help: did you mean `ha`?\nrejected: 1 error in the policy\nthe old policy goes on: 3f0c22a91b7e\n",
		},
	} {
		var b bytes.Buffer
		writeChange(&b, &c.result, night)
		if diff := cmp.Diff(c.want, b.String()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestControlFlow(t *testing.T) {
	for env, want := range map[string]string{
		"": "", "192.0.2.7 50000 198.51.100.1": "", "fe80::7%eth0 50000 fe80::1%eth0 22": "", "x 1 y 2": "",
		"192.0.2.7 50000 198.51.100.1 22":               "tcp 192.0.2.7:50000 > 198.51.100.1:22",
		"::ffff:192.0.2.7 50000 ::ffff:198.51.100.1 22": "tcp 192.0.2.7:50000 > 198.51.100.1:22",
		"2001:db8::7 50000 2001:db8::1 22":              "tcp [2001:db8::7]:50000 > [2001:db8::1]:22",
	} {
		if got := controlFlow(env); got != want {
			t.Errorf("%q: %q", env, got)
		}
	}
}

func TestStatusOfAChange(t *testing.T) {
	s := sampleStatus()
	s.Confirm = &api.Confirm{N: 8, Hash: "3f0c22a91b7e", Before: 7, Old: "8664947ab4b8", Mode: "time", Who: "root (uid 0)", Left: 61.2}
	s.Reverted = &api.Revert{To: 7, Hash: "8664947ab4b8", Time: night.Add(-time.Minute), Why: "nobody confirmed it in time", Verified: true}
	var b bytes.Buffer
	writeStatus(&b, &s)
	for _, want := range []string{
		"confirm  policy 8 (3f0c22a91b7e) by root (uid 0) waits for `netpolicy confirm`: 1m1s left, then policy 7 (8664947ab4b8) returns\n",
		"revert   at 02:59:00 (1m0s ago): reverted, verified: policy 7 (8664947ab4b8) decides again; nobody confirmed it in time\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestChangeCommands runs the commands against a socket.
func TestChangeCommands(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	file := filepath.Join(dir, "new.npl")
	if err := os.WriteFile(file, []byte("policy 1\nimport \"a.npl\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.npl"), []byte("policy 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := api.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, reader := &changer{}, &backend{waits: &api.Confirm{N: 8}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- (&api.Server{Reader: reader, Admin: &backend{}, Changes: b, Records: telemetry.NewRing(4), Metrics: func(io.Writer) {}}).Run(ctx, l)
	}()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	t.Setenv("SSH_CONNECTION", "2001:db8::7 50000 2001:db8::1 22")
	applied := api.ChangeResult{Result: api.Applied, N: 8, Diagnostics: []api.Diagnostic{}}
	for _, c := range []struct {
		args   string
		result api.ChangeResult
		err    error
		code   int
		want   string // in the output
	}{
		{"apply " + file, applied, nil, 0, "policy 8 of the history"},
		{"apply " + file + " -o json", applied, nil, 0, `"n": 8`},
		{"apply " + file + " --confirm 90s", api.ChangeResult{Result: api.Pending, Confirm: &api.Confirm{}}, nil, 0, "not kept yet"},
		{"apply " + file + " --confirm probe --within 5s", api.ChangeResult{Result: api.Reverted, Reverted: &api.Revert{}}, nil, 1, "reverted, not verified"},
		{"apply " + file, api.ChangeResult{Result: api.Rejected, Error: "no"}, nil, 1, "rejected: no"},
		{"apply " + file + " --confirm soon", applied, nil, 2, "want a time"},
		{"apply " + file + " --within 5s", applied, nil, 2, "--within needs --confirm probe"},
		{"apply " + file + ".none", applied, nil, 1, "no such file"},
		{"apply", applied, nil, 2, "accepts 1 arg"},
		{"confirm", applied, nil, 0, "applied"},
		{"confirm", applied, fmt.Errorf("no policy waits: %w", api.ErrConflict), 1, "error: no policy waits\n"},
		{"rollback", api.ChangeResult{Result: api.Reverted, Reverted: &api.Revert{Verified: true}}, nil, 0, "reverted, verified"},
		{"rollback 3 --confirm 2m", applied, nil, 0, "applied"},
		{"confirm x", applied, nil, 2, "want the number of the policy that waits"},
		{"history", applied, nil, 0, "*  8  3f0c22a91b7e  2026-02-03 03:00:00  apply new.npl by root (uid 0), 14 rules, +3 -1, confirmed\n   7  damaged: its first"},
		{"history --diff", applied, nil, 0, "      -a\n      +b\n"},
		{"history -o json", applied, nil, 0, `"diff": "@@ -1 +1 @@`},
		{"history show 8", applied, nil, 0, "policy 1\n"},
		{"history show 8 --file a.npl", applied, nil, 0, "# a\n"},
		{"history show 8 --file b.npl", applied, nil, 1, `no file "b.npl"`},
		{"history show 9", applied, nil, 1, `error: the history has no policy "9"`},
		{"plan " + file, applied, nil, 0, "# the plan\n"},
		{"plan -o xml", applied, nil, 2, "the outputs are text and json"},
	} {
		b.result, b.err, b.plan = c.result, c.err, api.PlanAnswer{Output: "# the plan\n", Diagnostics: []api.Diagnostic{}}
		code, out := command(append(strings.Fields(c.args), "--socket", socket)...)
		if code != c.code || !strings.Contains(strings.Replace(out, "waiting for probes; Ctrl-C takes the policy back\n", "", 1), c.want) {
			t.Errorf("%s: exit %d, want %d and %q in\n%s", c.args, code, c.code, c.want, out)
		}
	}
	if b.who == "" || b.who == "unknown" {
		t.Skipf("no peer credentials here: %q", b.who)
	}
	if !strings.Contains(b.who, "(uid ") {
		t.Errorf("asked by %q", b.who)
	}
	if _, out := command("apply", file, "--socket", socket); b.asked.Control != "tcp [2001:db8::7]:50000 > [2001:db8::1]:22" || string(b.asked.Policy.Files["a.npl"]) != "policy 1\n" {
		t.Errorf("%+v\n%s", b.asked, out)
	}
	for args, want := range map[string]api.ChangeRequest{
		"confirm": {Do: api.DoConfirm, N: 8}, "confirm 7": {Do: api.DoConfirm, N: 7}, "rollback": {Do: api.DoRollback, N: 8, Control: b.asked.Control},
		"rollback previous": {Do: api.DoRollback, To: api.ToPrevious, Control: b.asked.Control}, "rollback 3": {Do: api.DoRollback, To: "3", Control: b.asked.Control},
	} {
		if _, out := command(append(strings.Fields(args), "--socket", socket)...); b.asked != want {
			t.Errorf("%s asked for %+v\n%s", args, b.asked, out)
		}
	}
	// What is replaced is what was in force when the command began.
	b.asked = api.ChangeRequest{}
	if _, out := command("apply", file, "--socket", socket); !strings.HasPrefix(b.asked.IfMatch, `"`) || !b.asked.Replaces(&policyfile.Bundle{}) || b.asked.Replaces(&policyfile.Bundle{Main: []byte("other")}) {
		t.Errorf("asked to replace %q\n%s", b.asked.IfMatch, out)
	}
	b.err = api.ErrPrecondition
	if code, out := command("apply", file, "--socket", socket); code != 1 || !strings.Contains(out, "somebody else has changed the policy meanwhile") {
		t.Errorf("exit %d\n%s", code, out)
	}
	// Where the daemon can't tell what is in force, whatever is is replaced.
	b.present, b.err = fmt.Errorf("its text is not kept: %w", api.ErrConflict), nil
	if code, out := command("apply", file, "--socket", socket); code != 0 || b.asked.IfMatch != "" {
		t.Errorf("exit %d, asked to replace %q\n%s", code, b.asked.IfMatch, out)
	}
	// Nothing waits any more: nothing is gone back to instead.
	reader.waits, b.asked = nil, api.ChangeRequest{}
	for _, args := range []string{"rollback", "confirm"} {
		if code, out := command(args, "--socket", socket); code != 1 || !strings.Contains(out, "no policy waits for its confirmation") || b.asked.Do != "" {
			t.Errorf("%s: exit %d, asked for %+v\n%s", args, code, b.asked, out)
		}
	}
	b.plan = api.PlanAnswer{Error: "1 error in the policy", Diagnostics: sampleStatus().Error.Diagnostics}
	if code, out := command("plan", file, "--socket", socket); code != 1 || !strings.Contains(out, "policy.yaml:16:21: error NP110") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestChangeWithoutADaemon(t *testing.T) {
	for _, args := range []string{"apply p.npl", "confirm", "rollback", "history", "history show 1", "plan"} {
		if strings.HasPrefix(args, "apply") {
			path := filepath.Join(t.TempDir(), "p.npl")
			if err := os.WriteFile(path, []byte("policy 1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			args = "apply " + path
		}
		code, out := command(append(strings.Fields(args), "--socket", filepath.Join(t.TempDir(), "none"))...)
		if code != int(cli.Unreachable) || !strings.Contains(out, "hint: is netpolicyd running?") || strings.HasPrefix(args, "plan") != strings.Contains(out, "--dry-run") {
			t.Errorf("%s: exit %d\n%s", args, code, out)
		}
	}
}
