package lab

import (
	"context"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
)

// TestHousehold: the client's connections are of several kinds, which the policy of the
// demo tells apart, and their bytes are counted; with the context they end.
func TestHousehold(t *testing.T) {
	l, _ := daemonLab(t)
	if err := l.StartDaemon(t.Context(), "../../examples/demo/policy.npl"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Traffic(ctx) }()
	want := map[string]bool{"calls": true, "downloads": true, "no_trackers": true, "no_telnet": true, "bytes": true}
	for deadline := time.Now().Add(60 * time.Second); len(want) > 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		s, err := l.API().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range s.Hits {
			delete(want, h.Rule)
		}
		flows, err := l.API().Flows(t.Context(), api.FlowsRequest{Sort: api.ByBytes, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(flows.Flows) > 0 && flows.Flows[0].BytesUp > 0 && flows.Flows[0].BytesDown > 0 {
			delete(want, "bytes")
		}
	}
	if len(want) > 0 {
		t.Errorf("never seen: %v", want)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
