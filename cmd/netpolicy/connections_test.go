package main

import (
	"encoding/json"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/api"
)

// TestConnectionEndedByHand: where a connection went does not matter any more once it was ended.
func TestConnectionEndedByHand(t *testing.T) {
	f := api.Flow{
		ID: "7", Flow: json.RawMessage(`{"proto":"tcp","src":"10.0.0.5:5000","dst":"203.0.113.1:443"}`),
		Decision: json.RawMessage(`{"action":"route","target":"fast","route":"fast","rule":"zoom"}`), RTTms: -1, Age: -1,
	}
	for killed, want := range map[bool]string{false: " fast ", true: " killed "} {
		f.Killed = killed
		var b strings.Builder
		if err := writeConnections(&b, &api.Flows{Flows: []api.Flow{f}, Matched: 1}); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%v:\n%s%v", killed, b.String(), err)
		}
	}
}
