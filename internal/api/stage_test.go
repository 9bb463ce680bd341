package api

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/telemetry"
)

// TestStageOfOthers: what somebody else has staged meanwhile is dropped only by who says so, and each change
// of what is staged is told.
func TestStageOfOthers(t *testing.T) {
	changes := telemetry.NewRing(8)
	k := newSite(t, TCP{}, func(s *Server) { s.Feeds.Changes = changes })
	admin := k.bearer(RoleAdmin)
	stage := func(text string) string {
		resp, body := k.ask("POST", "/api/v1/config/stage", `{"text":"`+text+`"}`, admin)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("stage: %d %s", resp.StatusCode, body)
		}
		return resp.Header.Get("ETag")
	}
	want := func(status int, method, path, body, match string) {
		t.Helper()
		resp, text := k.ask(method, "/api/v1/config/"+path, body, func(r *http.Request) {
			admin(r)
			if match != "" {
				r.Header.Set("If-Match", match)
			}
		})
		if resp.StatusCode != status {
			t.Errorf("%s %s: %d %s, want %d", method, path, resp.StatusCode, text, status)
		}
	}
	first := stage("policy 1")
	second := stage("policy 1 # another")
	want(http.StatusPreconditionFailed, "DELETE", "stage", "", first)
	want(http.StatusOK, "GET", "stage", "", "")
	want(http.StatusNoContent, "DELETE", "stage", "", second)
	want(http.StatusNotFound, "GET", "stage", "", "")
	want(http.StatusPreconditionFailed, "DELETE", "stage", "", second)
	want(http.StatusNoContent, "DELETE", "stage", "", "") // whatever it is, or nothing
	want(http.StatusOK, "POST", "commit", "{}", stage("policy 1 # a third"))
	want(http.StatusNotFound, "GET", "stage", "", "")
	var got []string
	for _, line := range changes.Read(changes.Last(8), 8).Lines {
		var e PolicyEvent
		if err := json.Unmarshal(line, &e); err != nil || e.Who == "" || e.Time.IsZero() {
			t.Errorf("%v: %s", err, line)
		}
		got = append(got, e.Result)
	}
	if diff := cmp.Diff([]string{Staged, Staged, Unstaged, Staged, Unstaged}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
