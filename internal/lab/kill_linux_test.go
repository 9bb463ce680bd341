package lab

import (
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// TestKill: a connection that is ended by hand is refused by the kernel; another one of its
// kind goes on, and a new one is made.
func TestKill(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	if err := WriteFile(policy, testPolicy("", "")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	doomed, err := l.StartTransfer(ctx, "198.51.100.40:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer doomed.Stop()
	other, err := l.StartTransfer(ctx, "198.51.100.40:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Stop()
	id := ""
	eventually(t, "the daemon follows the connection", func() bool {
		list, err := l.API().Flows(ctx, api.FlowsRequest{Limit: api.MaxFlows})
		if err != nil {
			return false
		}
		for _, f := range list.Flows {
			if strings.Contains(string(f.Flow), `"src":"`+doomed.Local+`"`) {
				id = f.ID
			}
		}
		return id != ""
	})
	if err := l.API().Kill(ctx, id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is refused", func() bool { _, _, err := doomed.Progress(); return err != nil })
	if err := other.Alive(ctx, chunk); err != nil {
		t.Errorf("another connection to the same server: %v", err)
	}
	if err := reach(ctx, l, "198.51.100.40:5001", 10*time.Second); err != nil {
		t.Errorf("a new connection to the same server: %v", err)
	}
	if err := l.API().Kill(ctx, "99999999"); err == nil || !strings.Contains(err.Error(), "no connection 99999999") {
		t.Errorf("a connection that is none: %v", err)
	}
}
