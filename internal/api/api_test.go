package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/leaktest"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// fake is a Reader and an Admin that remembers what it was asked.
type fake struct {
	result  ReloadResult
	forced  ForceRequest
	changed error
	listed  FlowsRequest
	// confined is what the last policy was said to be.
	confined bool
	policy   policyfile.Bundle // the one in force; the zero Bundle is an empty one
	plan     PlanAnswer
}

func (f *fake) Change(_ context.Context, _ string, q ChangeRequest) (ChangeResult, error) {
	if q.Policy == nil {
		return ChangeResult{}, f.changed
	}
	f.confined = q.Confined
	return ChangeResult{Result: Applied, N: len(q.Policy.Main)}, nil
}

func (f *fake) Flows(_ context.Context, q FlowsRequest) (Flows, error) {
	f.listed = q
	return Flows{Total: 1, Flows: []Flow{}}, nil
}

func (f *fake) History(_ context.Context, ref string, _ bool) ([]EntryText, error) {
	if ref == "2" {
		return nil, f.changed
	}
	return []EntryText{{Entry: Entry{N: 1, Diff: f.plan.Diff}, Policy: f.policy}}, nil
}

func (f *fake) Present(context.Context) (EntryText, error) {
	if f.policy.Name != "" {
		return EntryText{Policy: f.policy}, nil
	}
	return EntryText{Policy: policyfile.Bundle{Name: "/etc/p.npl", Main: []byte("policy 1\n")}}, nil
}

func (f *fake) Kill(_ context.Context, id uint64) error {
	if id != 7 {
		return fmt.Errorf("no connection %d: %w", id, ErrNotFound)
	}
	return nil
}

func (f *fake) Compare(_ context.Context, q PlanRequest) (PlanAnswer, error) {
	f.confined = q.Confined
	out := f.plan
	if out.Diagnostics == nil {
		out.Diagnostics = []Diagnostic{}
	}
	return out, nil
}

func (f *fake) Status() Status {
	s := Status{Mode: "enforce", Sources: []Source{}, Drops: map[string]uint64{}, State: "NORMAL", Uplinks: []Uplink{{Name: "wan1", State: "NORMAL"}}}
	if f.plan.Diff != "" {
		s.Error = &ReloadError{Code: "NP501", Message: f.plan.Diff, Diagnostics: []Diagnostic{}}
	}
	return s
}
func (f *fake) Plan() string { return "table inet netpolicy\n" + f.plan.Diff }
func (f *fake) Explain(q ExplainRequest) (json.RawMessage, error) {
	if string(q.Flow) == "null" {
		return nil, fmt.Errorf("no flow: %w", ErrBadRequest)
	}
	return json.RawMessage(`{"rule":"zoom"}`), nil
}
func (f *fake) Reload(context.Context) (ReloadResult, error) { return f.result, nil }
func (f *fake) Force(_ context.Context, q ForceRequest) error {
	f.forced = q
	if q.Uplink == "nope" {
		return fmt.Errorf("uplink %q is not declared: %w", q.Uplink, ErrBadRequest)
	}
	return nil
}

func (f *fake) Clear(_ context.Context, uplink string) error {
	f.forced = ForceRequest{Uplink: uplink}
	return nil
}

// serve runs a server on a socket of the test's own and returns its client.
func serve(t *testing.T, f *fake, ring *telemetry.Ring) *Client {
	t.Helper()
	return serveWith(t, f, ring, func(*Server) {})
}

func serveWith(t *testing.T, f *fake, ring *telemetry.Ring, set func(*Server)) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := Listen(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, %v", info, err)
	}
	s := &Server{Reader: f, Admin: f, Changes: f, Lister: f, Subscriptions: f, Records: ring, Metrics: func(w io.Writer) { io.WriteString(w, "up 1\n") }}
	set(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket was left behind: %v", err)
		}
	})
	return NewClient(path)
}

func TestAnswers(t *testing.T) {
	f := &fake{result: ReloadResult{Result: Applied, Diagnostics: []Diagnostic{}}}
	c, ctx := serve(t, f, telemetry.NewRing(4)), t.Context()

	if s, err := c.Status(ctx); err != nil || s.State != "NORMAL" {
		t.Errorf("Status: %+v, %v", s, err)
	}
	if u, err := c.Uplinks(ctx); err != nil || len(u) != 1 || u[0].Name != "wan1" {
		t.Errorf("Uplinks: %+v, %v", u, err)
	}
	if p, err := c.Plan(ctx); err != nil || p != "table inet netpolicy\n" {
		t.Errorf("Plan: %q, %v", p, err)
	}
	if m, err := c.Metrics(ctx); err != nil || m != "up 1\n" {
		t.Errorf("Metrics: %q, %v", m, err)
	}
	if e, err := c.Explain(ctx, ExplainRequest{Flow: json.RawMessage(`"tcp"`)}); err != nil || string(e) != `{"rule":"zoom"}` {
		t.Errorf("Explain: %s, %v", e, err)
	}
	if _, err := c.Explain(ctx, ExplainRequest{Flow: nil}); err == nil {
		t.Error("Explain without a flow succeeded")
	}
	if r, err := c.Reload(ctx); err != nil || r.Result != Applied {
		t.Errorf("Reload: %+v, %v", r, err)
	}
	f.result = ReloadResult{Result: Rejected, Diagnostics: []Diagnostic{{Code: "NP110", Line: 3, Column: 7}}}
	if r, err := c.Reload(ctx); err != nil || r.Result != Rejected || r.Diagnostics[0].Line != 3 {
		t.Errorf("rejected Reload: %+v, %v", r, err)
	}
	want := ForceRequest{State: "FAILOVER", Uplink: "wan1", For: "10m", Reason: "test"}
	if _, err := c.Force(ctx, want); err != nil || f.forced != want {
		t.Errorf("Force: %+v, %v", f.forced, err)
	}
	if _, err := c.Force(ctx, ForceRequest{State: "NORMAL", Uplink: "nope"}); err == nil || err.Error() != `uplink "nope" is not declared` {
		t.Errorf("Force of an unknown uplink: %v", err)
	}
	if _, err := c.Clear(ctx, "wan 2&"); err != nil || f.forced.Uplink != "wan 2&" {
		t.Errorf("Clear: %+v, %v", f.forced, err)
	}
}

func TestTail(t *testing.T) {
	ring := telemetry.NewRing(4)
	c := serve(t, &fake{}, ring)
	for i := range 6 {
		ring.Append(fmt.Appendf(nil, `{"n":%d}`, i))
	}
	var got []string
	keep := func(line []byte) error { got = append(got, string(line)); return nil }
	if err := c.Decisions(t.Context(), 2, false, keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`{"n":4}`, `{"n":5}`}, got); diff != "" {
		t.Error(diff)
	}

	got = nil
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Decisions(ctx, 1, true, func(line []byte) error {
		keep(line)
		if len(got) == 3 {
			cancel()
			return ctx.Err()
		}
		ring.Append([]byte(`{"n":"next"}`))
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{`{"n":5}`, `{"n":"next"}`, `{"n":"next"}`}, got); diff != "" {
		t.Error(diff)
	}
}

// TestStopEndsTails: a daemon that stops does not wait for those who follow, and they hear of it.
func TestStopEndsTails(t *testing.T) {
	ring := telemetry.NewRing(4)
	ring.Append([]byte(`{}`))
	l, err := Listen(filepath.Join(t.TempDir(), "s"), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- (&Server{Reader: &fake{}, Admin: &fake{}, Records: ring}).Run(ctx, l) }()
	var gone *UnreachableError
	if err := NewClient(l.(*socket).path).Decisions(t.Context(), 1, true, func([]byte) error { stop(); return nil }); !errors.As(err, &gone) {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "none")).Status(t.Context())
	var gone *UnreachableError
	if !errors.As(err, &gone) {
		t.Errorf("got %v", err)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(stale, 0); err == nil {
		t.Error("a socket that answers was replaced")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := Listen(stale, 0)
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	again.Close()

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, 0); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}

// TestLargeRequests: a policy may be large, everything else not, and nothing without bounds.
func TestLargeRequests(t *testing.T) {
	f := &fake{}
	c := serve(t, f, telemetry.NewRing(4))
	large := ForceRequest{State: string(make([]byte, maxBody))}
	if _, err := c.Force(t.Context(), large); err == nil || err.Error() != fmt.Sprintf("the request is larger than %d bytes", maxBody) {
		t.Error(err)
	}
	b := policyfile.Bundle{Name: "p.npl", Main: make([]byte, 1<<20)}
	if r, err := c.Change(t.Context(), ChangeRequest{Do: DoApply, Policy: &b}); err != nil || r.N != 1<<20 {
		t.Errorf("%+v, %v", r, err)
	}
	b.Main = make([]byte, maxPolicy)
	if _, err := c.Change(t.Context(), ChangeRequest{Do: DoApply, Policy: &b}); err == nil {
		t.Error("a request without bounds was read")
	}
	for _, marked := range []error{ErrConflict, ErrNotFound, ErrBadRequest} {
		f.changed = fmt.Errorf("no: %w", marked)
		if _, err := c.Change(t.Context(), ChangeRequest{Do: DoConfirm, N: 1}); err == nil || err.Error() != "no" {
			t.Errorf("%v: %v", marked, err)
		}
	}
}

// TestListenGroup checks that a group gets the socket, and that its own group
// needs no right to give files away.
func TestListenGroup(t *testing.T) {
	for _, group := range []int{os.Getegid(), 12345} {
		if group != os.Getegid() && os.Geteuid() != 0 {
			continue // only root may give files to strangers
		}
		path := filepath.Join(t.TempDir(), "s.sock")
		l, err := Listen(path, group)
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o660)
		if group == 0 {
			want = 0o600
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("group %d: %v, %v", group, info, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestFlowsRequest checks that a request comes to the daemon as it was made, and
// that one that asks too much is refused.
func TestFlowsRequest(t *testing.T) {
	f := &fake{}
	c := serve(t, f, telemetry.NewRing(4))
	for _, q := range []struct{ asked, want FlowsRequest }{
		{FlowsRequest{}, FlowsRequest{Sort: ByBytes, Limit: defaultFlows}},
		{FlowsRequest{Sort: ByRTT, Limit: 7, Offset: 3, Match: "a&b c"}, FlowsRequest{Sort: ByRTT, Limit: 7, Offset: 3, Match: "a&b c"}},
	} {
		got, err := c.Flows(t.Context(), q.asked)
		if err != nil || got.Total != 1 {
			t.Errorf("%+v, %v", got, err)
		}
		if diff := cmp.Diff(q.want, f.listed); diff != "" {
			t.Error(diff)
		}
	}
	for _, q := range []struct {
		asked FlowsRequest
		want  string
	}{
		{FlowsRequest{Sort: "name"}, `sort="name": want bytes, rate, rtt, age`},
		{FlowsRequest{Limit: -1}, `limit="-1": want a number from 0 to 1000`},
		{FlowsRequest{Limit: MaxFlows + 1}, `limit="1001": want a number from 0 to 1000`},
		{FlowsRequest{Match: strings.Repeat("é", 257)}, fmt.Sprintf("match=%q: want at most 256 characters", strings.Repeat("é", 40))},
	} {
		if _, err := c.Flows(t.Context(), q.asked); err == nil || err.Error() != q.want {
			t.Errorf("%+v: %v, want %s", q.asked, err, q.want)
		}
	}
}

// lister makes lists as a test lets it.
type lister struct {
	mu     sync.Mutex
	made   int
	fail   error
	asked  chan struct{} // gets one for each list that is begun
	answer chan struct{} // each list waits for one
}

func (l *lister) Flows(ctx context.Context, q FlowsRequest) (Flows, error) {
	l.asked <- struct{}{}
	select {
	case <-l.answer:
	case <-ctx.Done():
		return Flows{}, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	return Flows{Total: l.made, Flows: []Flow{}}, l.fail
}

func (l *lister) Kill(context.Context, uint64) error { return nil }

// TestListsAreShared: those who ask for the same while a list is made, or soon after, get that one; who asks after a
// connection was ended gets another; and nobody is sent away for the sake of others.
func TestListsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{asked: make(chan struct{}, 100), answer: make(chan struct{}, 100)}
		s := &Server{Lister: l}
		r := new(router)
		s.flows(r)
		h := r.handler()
		ask := func(ctx context.Context, method, path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			ctx = withCaller(ctx, caller{role: RoleAdmin})
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, "/api/v1/"+path, nil))
			return w
		}
		var got []string
		var mu sync.Mutex
		var group sync.WaitGroup
		list := func(ctx context.Context, query string) {
			group.Go(func() {
				w := ask(ctx, "GET", "connections?"+query)
				var f Flows
				_ = json.Unmarshal(w.Body.Bytes(), &f)
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprintf("%s: %d, list %d", query, w.Code, f.Total))
			})
			synctest.Wait()
		}
		holds := func(what string, want ...string) {
			t.Helper()
			group.Wait()
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
			got = nil
		}
		leaves, leave := context.WithCancel(t.Context())
		list(leaves, "sort=rate")
		list(t.Context(), "sort=rate")
		list(t.Context(), "sort=rate")
		leave()
		synctest.Wait()
		l.answer <- struct{}{}
		holds("while it is made, and who began it leaves", "sort=rate: 200, list 1", "sort=rate: 200, list 1", "sort=rate: 503, list 0")
		list(t.Context(), "sort=rate")
		holds("soon after", "sort=rate: 200, list 1")
		time.Sleep(sharedFor)
		synctest.Wait()
		l.answer <- struct{}{}
		list(t.Context(), "sort=rate")
		holds("later", "sort=rate: 200, list 2")
		if w := ask(t.Context(), "DELETE", "connections/1"); w.Code != http.StatusNoContent {
			t.Errorf("kill: %d", w.Code)
		}
		l.answer <- struct{}{}
		list(t.Context(), "sort=rate")
		holds("after a connection was ended", "sort=rate: 200, list 3")

		// More than are made at once wait.
		for i := range maxLists + 2 {
			list(t.Context(), fmt.Sprintf("offset=%d", i+1))
		}
		if n := len(l.asked) - 4; n != maxLists {
			t.Errorf("%d lists are made at once", n)
		}
		for range maxLists + 2 {
			l.answer <- struct{}{}
		}
		group.Wait()
		for _, one := range got {
			if !strings.Contains(one, ": 200,") {
				t.Error(one)
			}
		}
	})
}
