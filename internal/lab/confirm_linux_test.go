package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

// confirming is a lab with a daemon on a policy by which the client gets through,
// and a file beside it with one that cuts the client off.
type confirming struct {
	*Lab
	t            *testing.T
	policy, cuts string
	good         []byte
	hash         string // of the good one
}

const cutOff = "198.51.100.41:7"

func newConfirming(t *testing.T) *confirming {
	l, policy := daemonLab(t)
	c := &confirming{Lab: l, t: t, policy: policy, cuts: filepath.Join(l.Dir, "new", "cuts.yaml"), good: testPolicy("", "")}
	bad := bytes.Replace(c.good, []byte("default: {route: ha}"), []byte("default: {block: true}"), 1)
	if err := os.Mkdir(filepath.Dir(c.cuts), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{c.policy: c.good, c.cuts: bad} {
		if err := WriteFile(path, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.StartDaemon(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	c.hash = c.status().Policy.Hash
	c.reaches(true)
	return c
}

func (c *confirming) status() api.Status {
	c.t.Helper()
	s, err := c.API().Status(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// reaches checks whether the client gets through.
func (c *confirming) reaches(want bool) {
	c.t.Helper()
	limit := 5 * time.Second
	if !want {
		limit = time.Second
	}
	if err := reach(c.t.Context(), c.Lab, cutOff, limit); (err == nil) != want {
		c.t.Fatalf("the client gets through: %v, want %v", err, want)
	}
}

// netpolicy runs the command in the gateway, and returns what it printed.
func (c *confirming) netpolicy(args ...string) (string, error) {
	args = append([]string{filepath.Join(binaries(c.t), "netpolicy")}, args...)
	return c.Gateway(c.t.Context(), append(args, "--socket", c.SocketPath())...)
}

// apply applies the policy that cuts the client off, and checks that it does.
func (c *confirming) apply(confirm string) {
	c.t.Helper()
	out, err := c.netpolicy("apply", c.cuts, "--confirm", confirm)
	if err != nil || !strings.Contains(out, "applied, not kept yet") || !strings.Contains(out, confirm+" left") {
		c.t.Fatalf("apply: %v\n%s", err, out)
	}
	c.reaches(false)
}

// returned waits until the client gets through again, and checks that the old policy was
// found in the kernel and its file was never touched.
func (c *confirming) returned(why string) {
	c.t.Helper()
	eventually(c.t, "the client gets through again", func() bool { return reach(c.t.Context(), c.Lab, cutOff, time.Second) == nil })
	// The kernel has it a moment before it was read back.
	eventually(c.t, "the change is settled", func() bool { return c.status().Confirm == nil })
	s := c.status()
	if r := s.Reverted; s.Policy.Hash != c.hash || s.Confirm != nil || r == nil || !r.Verified || !strings.Contains(r.Why, why) {
		c.t.Fatalf("%s decides, %+v waits, reverted: %+v", s.Policy.Hash, s.Confirm, s.Reverted)
	}
	if text, err := os.ReadFile(c.policy); err != nil || !bytes.Equal(text, c.good) {
		c.t.Errorf("the policy's file was changed: %v", err)
	}
	if log, err := os.ReadFile(c.LogPath()); err != nil || !strings.Contains(string(log), `"msg":"policy reverted","verified":true`) {
		c.t.Errorf("the log does not tell of it: %v", err)
	}
	out, err := c.netpolicy("status")
	if err != nil || !strings.Contains(out, "reverted, verified: policy") {
		c.t.Errorf("status: %v\n%s", err, out)
	}
}

// TestCutOffReturns is criterion 6: a policy that cuts the client off is taken back by
// itself when nobody confirms it.
func TestCutOffReturns(t *testing.T) {
	c := newConfirming(t)
	begin := time.Now()
	c.apply("10s")
	if out, err := c.netpolicy("status"); err != nil || !strings.Contains(out, "waits for `netpolicy confirm`") {
		t.Errorf("status: %v\n%s", err, out)
	}
	c.returned("nobody confirmed it in time")
	t.Logf("applied with 10 s to confirm: the client gets through again %.1f s after the command began", time.Since(begin).Seconds())
}

// TestCutOffReturnsAfterAKill: the daemon is killed while the change waits. In one case it is
// started again before the time is up, in the other after it.
func TestCutOffReturnsAfterAKill(t *testing.T) {
	c := newConfirming(t)
	for _, test := range []struct {
		name, confirm, why string
		down               time.Duration // until it is started again
	}{
		{"back before the deadline", "12s", "nobody confirmed it in time", 0},
		{"back after the deadline", "8s", "did not run when time was up", 9 * time.Second},
	} {
		begin := time.Now()
		c.apply(test.confirm)
		if err := c.KillDaemon(); err != nil {
			t.Fatal(err)
		}
		c.reaches(false) // the kernel keeps what it has
		time.Sleep(time.Until(begin.Add(test.down)))
		if err := c.SpawnDaemon(c.policy); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the daemon answers", func() bool { _, err := c.API().Status(t.Context()); return err == nil })
		if test.down == 0 {
			if s := c.status(); s.Confirm == nil || s.Policy.Hash == c.hash {
				t.Errorf("%s: the change does not wait any more: %+v", test.name, s.Policy)
			}
		}
		c.returned(test.why)
		t.Logf("%s: through again %.1f s after the command began", test.name, time.Since(begin).Seconds())
	}
	out, err := c.netpolicy("history")
	if err != nil || strings.Count(out, "apply cuts.yaml by root (uid 0)") != 2 || strings.Count(out, "reverted (") != 2 {
		t.Errorf("history: %v\n%s", err, out)
	}
}

// TestProbesDecide: over real lines, a policy that is fine is kept, and one that leads
// the probes of a line astray is not.
func TestProbesDecide(t *testing.T) {
	c := newConfirming(t)
	eventually(t, "both lines are measured", func() bool {
		s := c.status()
		return !s.Uplinks[0].Unknown && !s.Uplinks[1].Unknown
	})
	out, err := c.netpolicy("apply", c.cuts, "--confirm", "probe", "--within", "1m")
	if err != nil || !strings.Contains(out, "confirmed: ") || !strings.Contains(out, "\nuplink wan1: ") || !strings.Contains(out, "uplink wan2: was up, ") {
		t.Errorf("a policy whose probes are answered: %v\n%s", err, out)
	}
	if text, err := os.ReadFile(c.policy); err != nil || bytes.Equal(text, c.good) {
		t.Errorf("it was not kept: %v", err)
	}
	if out, err := c.netpolicy("rollback", "previous"); err != nil || !strings.Contains(out, "applied: "+c.hash) {
		t.Errorf("rollback: %v\n%s", err, out)
	}
	c.reaches(true)
	// The gateway of wan1 is none in the new policy: nothing answers over it.
	lost := bytes.Replace(c.good, []byte("gateway: [192.0.2.1, "), []byte("gateway: [192.0.2.77, "), 1)
	if err := WriteFile(c.cuts, lost); err != nil {
		t.Fatal(err)
	}
	out, err = c.netpolicy("apply", c.cuts, "--confirm", "probe", "--within", "4s")
	if err == nil {
		t.Errorf("a policy whose probes are lost was kept:\n%s", out)
	}
	s := c.status()
	if s.Reverted == nil || !s.Reverted.Verified || !strings.Contains(s.Reverted.Why, "uplink wan1") || s.Policy.Hash != c.hash {
		t.Errorf("%+v", s.Reverted)
	}
	c.reaches(true)
}

// TestPlanIsWhatADryRunPrints compares both, but for the connections, which change.
func TestPlanIsWhatADryRunPrints(t *testing.T) {
	c := newConfirming(t)
	eventually(t, "both lines are measured", func() bool {
		s := c.status()
		return !s.Uplinks[0].Unknown && !s.Uplinks[1].Unknown && s.State == "NORMAL"
	})
	for _, file := range []string{c.cuts, c.policy} {
		plan, err := c.netpolicy("plan", file)
		if err != nil {
			t.Fatal(err, plan)
		}
		dry, err := c.Gateway(t.Context(), filepath.Join(binaries(t), "netpolicyd"), "--config", file, "--state-dir", filepath.Join(c.Dir, "state"), "--dry-run")
		if err != nil {
			t.Fatal(err, dry)
		}
		const end = "\n# the connections now alive: "
		a, _, ok := strings.Cut(plan, end)
		b, _, _ := strings.Cut(dry, end)
		if !ok || a != b {
			t.Errorf("%s: plan:\n%s\n\ndry run:\n%s", file, a, b)
		}
	}
	if out, err := c.netpolicy("plan", c.cuts); err != nil || !strings.Contains(out, "nft replace table inet netpolicy") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := c.netpolicy("plan", "-o", "json"); err != nil || !strings.Contains(out, `"longest_chain"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestThrottledPolicyReturns: what is read back before a revert counts as done may have
// rules that libraries can't read; those of throttles for each host are such.
func TestThrottledPolicyReturns(t *testing.T) {
	l, _ := daemonLab(t)
	text, err := os.ReadFile("../../examples/demo/policy.npl")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("per host")) {
		t.Fatal("the demo's policy has no throttle for each host any more")
	}
	policy := filepath.Join(l.Dir, "policy.npl")
	if err := WriteFile(policy, text); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	other := append(bytes.Clone(text), "\nrule other { match port 9999; do block }\n"...)
	res, err := l.API().Change(t.Context(), api.ChangeRequest{
		Do: api.DoApply, Confirm: "1s", Policy: &policyfile.Bundle{Name: "policy.npl", Main: other},
	})
	if err != nil || res.Result != api.Pending {
		t.Fatalf("%+v, %v", res, err)
	}
	eventually(t, "the policy before returns", func() bool {
		s, err := l.API().Status(t.Context())
		return err == nil && s.Confirm == nil && s.Reverted != nil && s.Reverted.Verified
	})
}
