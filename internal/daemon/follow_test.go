package daemon

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/api"
)

// until waits until ok holds, and gives up after many looks. A watch may not be there
// yet when a file is written: again, if it is not nil, writes once more.
func (r *rig) until(what string, ok func() bool, again func()) {
	r.t.Helper()
	for i := range 10_000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
		if i%100 == 99 && again != nil {
			again()
		}
	}
	r.t.Fatalf("%s\n%s", what, r.log)
}

// decides waits until the daemon decides a name by a rule, "" for none.
func (r *rig) decides(name, rule string, again func()) {
	r.t.Helper()
	f := flow.Flow{SNI: flow.Some(name), Proto: flow.Some(flow.TCP)}
	r.until(name+" is not decided by "+rule, func() bool {
		live := r.snap.Load().live
		d := live.prog.Decide(&f, live.world)
		return d.Rule >= 0 && live.policy.Rules[d.Rule].Name == rule || d.Rule < 0 && rule == ""
	}, again)
}

// TestFilesBesideThePolicy changes an import and a list: both are live soon after.
func TestFilesBesideThePolicy(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("games.txt", "chess.example\n")
	write("part.npl", "policy 1\nrule part { match sni part.example; do block }\n")
	write("policy.npl", `policy 1
set games: domain = file "games.txt" format list
import "part.npl"
rule games { match sni in games; do block }
`)
	r := start(t, "rules: []\n", func(o *Options, p *Parts) {
		o.Config, p.WatchFile = filepath.Join(dir, "policy.npl"), watchFile
	})
	// change writes a file, and writes it again while nothing happens.
	change := func(name, text string) func() {
		write(name, text)
		return func() { write(name, text) }
	}
	r.decides("chess.example", "games", nil)
	r.decides("go.example", "", nil)
	r.decides("go.example", "games", change("games.txt", "chess.example\ngo.example\n"))
	r.decides("chess.example", "other", change("part.npl", "policy 1\nrule other { match sni part.example, chess.example; do block reject }\n"))
	// A broken import is refused with its place, and the old policy goes on.
	again := change("part.npl", "policy 1\nrule other { mach any }\n")
	r.until("no NP501", func() bool { return r.Status().Error != nil }, again)
	if d := r.Status().Error.Diagnostics; len(d) == 0 || !strings.HasSuffix(d[0].File, "part.npl") || d[0].Line != 2 {
		t.Errorf("the error is told as %+v", d)
	}
	r.decides("chess.example", "other", nil)
	r.decides("chess.example", "games", change("part.npl", "policy 1\n"))
}

// TestFailedAssertionIsRefused: a policy that is not what it says of itself does not become live.
func TestFailedAssertionIsRefused(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	before := r.Status().Policy.Hash
	r.write("rules:\n  - {name: a, priority: 0, match: {any: true}, action: {block: true}}\nassertions:\n  - {flow: zoom.us tcp/443, expect: block reject}\n")
	res, err := r.Reload(t.Context())
	if err != nil || res.Result != api.Rejected || len(res.Diagnostics) != 1 || res.Diagnostics[0].Code != "NP320" || res.Diagnostics[0].Line != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	if r.Status().Policy.Hash != before {
		t.Error("it is live")
	}
}

// TestListFromTheWeb fetches a list after the start, which does not wait for it.
func TestListFromTheWeb(t *testing.T) {
	var ready atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "chess.example")
	}))
	defer server.Close()
	ready.Store(true)
	state := t.TempDir()
	policy := fmt.Sprintf("sets:\n  games: {type: domain, url: %q, format: list, refresh: 1m}\nrules:\n  - {name: games, priority: 0, match: {sni: {in: games}}, action: {block: true}}\n", server.URL+"/games.txt")
	r := start(t, policy, func(o *Options, _ *Parts) { o.StateDir = state })
	r.decides("chess.example", "games", nil)
	// A new start has the copy, also while the server has nothing to give.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	ready.Store(false)
	start(t, policy, func(o *Options, _ *Parts) { o.StateDir = state }).decides("chess.example", "games", nil)
}
