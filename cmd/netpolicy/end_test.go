package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// askers are commands that ask the daemon, of each kind.
var askers = []string{
	"status", "status -o json", "uplinks", "tail", "tail --follow=false", "rules", "rules -o json", "uplinks --since 1h", "top --once", "top -o json", "connections", "connections -o ndjson", "kill 7",
	"kill --blocked", "plan", "plan --current", "metrics", "reload", "state clear", "token", "history", "history --diff", "history show 8", "rollback previous",
	"confirm 8", "xray sub list", "xray sub show home", "xray sub update home",
}

// unwritable is an output that takes nothing.
type unwritable struct{}

func (unwritable) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// withDaemon serves the API, with a tail of records and feeds, until stop or the test's end.
func withDaemon(t *testing.T, records *telemetry.Ring, feeds api.Feeds) (socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := api.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := api.OpenTokens(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{reload: api.ReloadResult{Result: api.Applied}}
	s := &api.Server{
		Reader: b, Admin: b, Lister: b, Viewer: b, Changes: &changer{plan: api.PlanAnswer{Output: "# the plan\n"}}, Records: records, Feeds: feeds, Tokens: tokens, Subscriptions: subscribed{},
		Metrics: func(w io.Writer) { fmt.Fprintln(w, "netpolicy_state 1") },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket, cancel
}

// subscribed has one subscription.
type subscribed struct{}

func (subscribed) Subscriptions(string) ([]api.Subscription, error) {
	return []api.Subscription{{Name: "home"}}, nil
}

func (subscribed) ChangeSubscription(_ context.Context, q api.SubscriptionRequest) (api.Subscription, error) {
	return api.Subscription{Name: q.Name}, nil
}

// TestUnwritableOutput: no command succeeds whose output nobody can have got.
func TestUnwritableOutput(t *testing.T) {
	socket, _ := withDaemon(t, ringOf(`{"id":"7"}`), api.Feeds{})
	run := func(args ...string) {
		var said bytes.Buffer
		root := newRoot()
		root.SetOut(unwritable{})
		root.SetErr(&said)
		code := cli.Run(t.Context(), root, args)
		if want := "error: write the output: no space left on device\n"; code != 1 || said.String() != want {
			t.Errorf("%s: exit %d, said %q, want %q", strings.Join(args, " "), code, said.String(), want)
		}
	}
	for _, args := range askers {
		run(append(strings.Fields(args), "--socket", socket)...)
	}
	for _, args := range []string{"version", "--help", "explain-code NP101", "completion bash"} {
		run(strings.Fields(args)...)
	}
}

// TestInterrupted: who is interrupted while the daemon does not answer ends with 130, as shells say it.
func TestInterrupted(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s")) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, args := range append(askers, "events", "events -f", "logs -o ndjson", "logs -f") {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetErr(&out)
		if code := cli.Run(ctx, root, append(strings.Fields(args), "--socket", l.Addr().String())); code != int(cli.Interrupted) || out.String() != "error: interrupted\n" {
			t.Errorf("%s: exit %d\n%s", args, code, out.String())
		}
	}
}

// each calls f with all that is written.
type each func([]byte)

func (f each) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

func ringOf(lines ...string) *telemetry.Ring {
	ring := telemetry.NewRing(16)
	for _, line := range lines {
		ring.Append([]byte(line))
	}
	return ring
}

// TestEndOfTail: what goes on until the user ends it is a success then; where the daemon stops it is none, and says so.
func TestEndOfTail(t *testing.T) {
	const line = `{"id":"7","time":"2026-01-01T00:00:00Z","level":"INFO","msg":"x"}`
	for _, args := range []string{"tail -o json", "logs -f -o json", "events -f --topics changes -o json"} {
		for _, byUser := range []bool{true, false} {
			ring := ringOf(line)
			socket, stop := withDaemon(t, ring, api.Feeds{Changes: ring, Logs: ring})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			lines := 0
			var said bytes.Buffer
			root := newRoot()
			root.SetErr(&said)
			root.SetOut(each(func([]byte) {
				if lines++; lines < 3 {
					ring.Append([]byte(line))
					return
				}
				if byUser {
					cancel()
				} else {
					stop()
				}
			}))
			code := cli.Run(ctx, root, append(strings.Fields(args), "--socket", socket))
			want, text := 0, ""
			if !byUser {
				want, text = int(cli.Unreachable), "error: no netpolicyd answers on "+socket+": it stopped, and ended the stream\n"
			}
			if code != want || lines < 3 || !strings.HasPrefix(said.String(), text) || text == "" && said.Len() > 0 {
				t.Errorf("%s, by the user: %v: exit %d after %d lines\n%s", args, byUser, code, lines, said.String())
			}
		}
	}
}
