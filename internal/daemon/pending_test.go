package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// TestRestartWhileAChangeWaits: the time goes on, on the clock since boot.
func TestRestartWhileAChangeWaits(t *testing.T) {
	c := startChanging(t)
	first := c.Status().Policy.Hash
	c.apply(t, blockPolicy, "30s")
	c.restart(t)
	s := c.Status()
	if s.Confirm == nil || s.Confirm.Left > 30 || s.Policy.Hash == first || c.file(t) != zoomPolicy {
		t.Fatalf("%+v", s.Confirm)
	}
	r, err := c.Change(t.Context(), "root (uid 0)", c.settle(api.DoRollback))
	if err != nil || r.Policy.Hash != first {
		t.Errorf("%+v, %v", r, err)
	}
	c.settled(t)
	c.expect(t, "apply new.yaml reverted", "start *")

	c.apply(t, blockPolicy, "2s")
	c.restart(t)
	c.settled(t)
	if s := c.Status(); s.Policy.Hash != first || s.Reverted == nil || !s.Reverted.Verified {
		t.Errorf("%+v", s.Reverted)
	}
}

// TestStartAfterTheDeadline, and after a reboot, and after a start that can't go on.
func TestStartAfterTheDeadline(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(c *changing)
		why  string
	}{
		{"late", func(c *changing) { c.late = 2 * time.Minute }, "did not run when time was up"},
		{"reboot", func(c *changing) { c.boot = "another" }, "the machine was restarted"},
		{"history is gone", func(c *changing) { os.Remove(filepath.Join(c.dir, historyDir, "000002.policy")) }, "could not be made again"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := startChanging(t)
			first := c.Status().Policy.Hash
			c.apply(t, blockPolicy, "1m")
			// The daemon is gone before the time is up.
			if err := c.stop(); err != nil {
				t.Fatal(err)
			}
			test.do(c)
			c.restart(t)
			s := c.Status()
			if s.Confirm != nil || s.Policy.Hash != first || s.Reverted == nil || !strings.Contains(s.Reverted.Why, test.why) || !s.Reverted.Verified {
				t.Errorf("%+v, %+v", s.Confirm, s.Reverted)
			}
			c.settled(t)
		})
	}
}

// TestCrashWithinAConfirmation: the start goes on with it.
func TestCrashWithinAConfirmation(t *testing.T) {
	c := startChanging(t)
	c.apply(t, blockPolicy, "1m")
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	p, err := c.store.loadPending()
	if err != nil {
		t.Fatal(err)
	}
	p.Phase = phaseConfirmed
	if err := c.store.savePending(p); err != nil {
		t.Fatal(err)
	}
	if done, err := FinishChange(c.dir, c.path); !done || err != nil || c.file(t) != blockPolicy {
		t.Errorf("%v, %v", done, err)
	}
	c.write(zoomPolicy)
	c.restart(t)
	if c.file(t) != blockPolicy || c.Status().Policy.Hash != p.Hash {
		t.Error("the confirmed policy is not live")
	}
	c.settled(t)
	c.expect(t, "apply new.yaml confirmed *", "start")
}

func TestDamagedPending(t *testing.T) {
	c := startChanging(t)
	first := c.Status().Policy.Hash
	c.apply(t, blockPolicy, "1m")
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.dir, pendingFile)
	for _, text := range []string{"", "{", `{"version":9}`, `{"version":1,"phase":"x","n":2}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.restart(t)
		if s := c.Status(); s.Policy.Hash != first || s.Confirm != nil {
			t.Errorf("%q: %+v", text, s.Confirm)
		}
		if !strings.Contains(c.log.String(), "pending.json.damaged") {
			t.Errorf("%q: nothing was said", text)
		}
	}
}
