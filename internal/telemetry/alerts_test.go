package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
)

// inboxOf is a Receiver that keeps what it gets, or is out of reach.
type inboxOf struct {
	mu   sync.Mutex
	got  []string
	fail error
	// titles are kept in place of keys.
	titles bool
}

func (r *inboxOf) String() string { return "test" }

func (r *inboxOf) Send(_ context.Context, m *Alert) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	what := m.Key
	if r.titles {
		what = m.Title
	}
	r.got = append(r.got, m.Status+" "+what+" "+m.Detail)
	return nil
}

func (r *inboxOf) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func (r *inboxOf) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// withAlerts runs a test of alerts in virtual time.
func withAlerts(t *testing.T, test func(a *Alerts, r *inboxOf, counts map[string]int)) {
	synctest.Test(t, func(t *testing.T) {
		r, counts := &inboxOf{}, map[string]int{}
		a, stop := runAlerts(t, r, "", counts)
		test(a, r, counts)
		stop()
	})
}

// runAlerts runs alerts for r, which remember at path, until stop.
func runAlerts(t *testing.T, r Receiver, path string, counts map[string]int) (a *Alerts, stop func()) {
	var mu sync.Mutex
	a = NewAlerts("gw", []Receiver{r}, path, slog.New(slog.DiscardHandler), func(what, receiver string) {
		mu.Lock()
		defer mu.Unlock()
		counts[what+" "+receiver]++
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	synctest.Wait()
	return a, func() { cancel(); <-done }
}

func TestAlertsWaitAndResolve(t *testing.T) {
	withAlerts(t, func(a *Alerts, r *inboxOf, _ map[string]int) {
		after := func(d time.Duration) []string { time.Sleep(d); synctest.Wait(); return r.take() }
		a.Tell(Firing, "uplink/wan1", "wan1 is down", "no answer")
		if got := after(alertWait / 2); got != nil {
			t.Errorf("told before it has lasted: %v", got)
		}
		a.Tell(Resolved, "uplink/wan1", "", "")
		if got := after(time.Minute); got != nil {
			t.Errorf("what was over at once is told: %v", got)
		}
		a.Tell(Resolved, "uplink/wan2", "", "")
		a.Tell(Firing, "uplink/wan1", "wan1 is down", "no answer")
		if diff := cmp.Diff([]string{"firing uplink/wan1 no answer"}, after(alertWait+time.Second)); diff != "" {
			t.Error(diff)
		}
		a.Tell(Resolved, "uplink/wan1", "wan1 is well", "")
		a.Tell(Firing, "uplink/wan1", "wan1 is down", "flaps")
		if got := after(time.Minute); got != nil {
			t.Errorf("a line that flaps is told again: %v", got)
		}
		a.Tell(Resolved, "uplink/wan1", "wan1 is well", "all below exit")
		a.Tell(Event, "policy", "reverted", "nobody confirmed it")
		if diff := cmp.Diff([]string{"event policy nobody confirmed it", "resolved uplink/wan1 all below exit"}, after(time.Minute)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestAlertsOverRestarts: what was told before a restart is not told again while it holds, and has its end when
// it does not; what a receiver has yet to get is told again.
func TestAlertsOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, path := &inboxOf{titles: true}, filepath.Join(t.TempDir(), "told.json")
		run := func(says func(*Alerts), want ...string) {
			t.Helper()
			a, stop := runAlerts(t, r, path, map[string]int{})
			says(a)
			time.Sleep(2 * restartWait)
			synctest.Wait()
			stop()
			got := r.take()
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		firing := func(keys ...string) func(*Alerts) {
			return func(a *Alerts) {
				for _, key := range keys {
					a.Tell(Firing, key, key+" is down", "")
				}
			}
		}
		run(firing("wan1", "wan2", "wan3"), "firing wan1 is down ", "firing wan2 is down ", "firing wan3 is down ")
		run(func(a *Alerts) {
			firing("wan1")(a)
			a.Tell(Firing, "wan2", "wan2 is worse", "")
		}, "firing wan2 is worse ", "resolved wan3 is down: over it was told before a restart, and not seen since")
		run(func(a *Alerts) {
			a.Tell(Resolved, "wan1", "wan1 is well", "as far as is known at the start")
			time.Sleep(restartWait / 2)
			firing("wan1", "wan2")(a)
		}, "firing wan2 is down ")
		run(func(a *Alerts) {
			firing("wan1")(a)
			time.Sleep(restartWait / 2)
			firing("wan2")(a)
			a.Tell(Resolved, "wan1", "wan1 is well", "")
		}, "resolved wan1 is well ")
		r.set(errors.New("out of reach"))
		run(firing("wan2", "wan4"))
		r.set(nil)
		run(firing("wan2", "wan4"), "firing wan4 is down ")
		if err := os.WriteFile(path, []byte(`{"firing":{"wan9":""}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		run(firing("wan4"), "firing wan4 is down ")
		run(firing(), "resolved wan4 is down: over it was told before a restart, and not seen since")
		run(firing())
	})
}

// TestAlertsEscalate: what got worse is told with its new title; what gets worse and better at once is not.
func TestAlertsEscalate(t *testing.T) {
	withAlerts(t, func(a *Alerts, r *inboxOf, _ map[string]int) {
		r.titles = true
		after := func(d time.Duration) []string { time.Sleep(d); synctest.Wait(); return r.take() }
		a.Tell(Firing, "uplink/wan1", "uplink wan1 DEGRADED", "slow")
		if got := after(alertWait / 2); got != nil {
			t.Errorf("told before it has lasted: %v", got)
		}
		a.Tell(Firing, "uplink/wan1", "uplink wan1 FAILOVER", "carrier is gone")
		if diff := cmp.Diff([]string{"firing uplink wan1 FAILOVER carrier is gone"}, after(alertWait/2)); diff != "" {
			t.Error("it became another thing before it was told:", diff)
		}
		a.Tell(Firing, "uplink/wan1", "uplink wan1 DEGRADED", "slow")
		a.Tell(Firing, "uplink/wan1", "uplink wan1 FAILOVER", "no answer")
		if got := after(time.Minute); got != nil {
			t.Errorf("told again: %v", got)
		}
		a.Tell(Firing, "uplink/wan1", "uplink wan1 RECOVERY", "good again")
		if got := after(alertWait / 2); got != nil {
			t.Errorf("told before it has lasted: %v", got)
		}
		if diff := cmp.Diff([]string{"firing uplink wan1 RECOVERY good again"}, after(alertWait)); diff != "" {
			t.Error(diff)
		}
		a.Tell(Resolved, "uplink/wan1", "uplink wan1 NORMAL", "")
		if diff := cmp.Diff([]string{"resolved uplink wan1 NORMAL "}, after(time.Minute)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAlertsOffline(t *testing.T) {
	withAlerts(t, func(a *Alerts, r *inboxOf, counts map[string]int) {
		r.set(errors.New("no route to host"))
		for i := range alertQueue + 7 {
			a.Tell(Event, "e", "t", fmt.Sprint(i))
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if counts["dropped test"] != 7 {
			t.Errorf("%v: want 7 dropped", counts)
		}
		r.set(nil)
		time.Sleep(lastRetry)
		synctest.Wait()
		got := r.take()
		if len(got) != alertRate {
			t.Errorf("%d messages at once, want %d", len(got), alertRate)
		}
		if got[0] != "event e 7" {
			t.Errorf("the first is %q, want the oldest that was kept", got[0])
		}
		time.Sleep(6 * alertSpan)
		synctest.Wait()
		if got := r.take(); len(got) != alertQueue-alertRate {
			t.Errorf("%d messages later, want the other %d", len(got), alertQueue-alertRate)
		}
		r.set(fmt.Errorf("gone: %w", ErrRefused))
		a.Tell(Event, "e", "t", "x")
		time.Sleep(time.Hour)
		synctest.Wait()
		if counts["failed test"] != 1 || counts["sent test"] != alertQueue {
			t.Errorf("%v", counts)
		}
	})
}

func TestReceivers(t *testing.T) {
	secret := []byte("s3cret")
	var noKey error
	var asked *http.Request
	var body []byte
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(status)
	}))
	defer server.Close()
	m := &Alert{Schema: "np.alert/1", Time: time.Unix(1, 0).UTC(), Node: "gw", Status: Firing, Key: "uplink/wan1", Title: "wan1\r\nX-Evil: 1", Detail: "no answer"}
	hook := ReceiverOf(server.URL+"/secret", func() ([]byte, error) { return secret, noKey })
	if err := hook.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	at := asked.Header.Get("Netpolicy-Time")
	if want := "sha256=" + Sign(secret, at, body); at == "" || asked.Header.Get("Netpolicy-Signature") != want {
		t.Errorf("signature %q, want %q", asked.Header.Get("Netpolicy-Signature"), want)
	}
	var got Alert
	if err := json.Unmarshal(body, &got); err != nil || got != *m {
		t.Errorf("%v: %s", err, body)
	}
	if err := ReceiverOf("ntfy+"+server.URL+"/topic", nil).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if asked.URL.Path != "/topic" || string(body) != "no answer" || asked.Header.Get("Title") != "gw: wan1??X-Evil: 1" || asked.Header.Get("X-Evil") != "" {
		t.Errorf("%s: %q, %v", asked.URL, body, asked.Header)
	}
	for code, final := range map[int]bool{400: true, 404: true, 429: false, 500: false, 302: true, 301: true} {
		status = code
		if err := hook.Send(t.Context(), m); err == nil || errors.Is(err, ErrRefused) != final {
			t.Errorf("%d: %v", code, err)
		}
	}
	noKey = errors.New("the disk is full")
	if err := hook.Send(t.Context(), m); !errors.Is(err, noKey) || errors.Is(err, ErrRefused) {
		t.Errorf("without a key: %v", err)
	}
	noKey = nil
	server.Close()
	if err := hook.Send(t.Context(), m); err == nil || errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestExecReceiver(t *testing.T) {
	dir := t.TempDir()
	run := func(script string) error {
		path := filepath.Join(dir, "alert.sh")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
		return ExecReceiver(path).Send(t.Context(), &Alert{Key: "uplink/wan1"})
	}
	if err := run("cat > " + dir + "/got"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "got")); err != nil || !strings.Contains(string(b), `"key":"uplink/wan1"`) {
		t.Errorf("%v: %s", err, b)
	}
	if err := run("echo broken >&2; exit 3"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got %v", err)
	}
	// What it prints is not kept, and what the daemon knows is not told.
	t.Setenv("NOTIFY_SOCKET", "/run/secret")
	if err := run("env; head -c 100000000 /dev/zero | tr '\\0' x; exit 3"); !errors.Is(err, ErrRefused) || len(err.Error()) > 500 || strings.Contains(err.Error(), "NOTIFY_SOCKET") {
		t.Errorf("got %.1000v", err)
	}
}
