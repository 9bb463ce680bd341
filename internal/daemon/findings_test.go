package daemon

import (
	"fmt"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/api"
)

// TestFindingsInTheLog: a hint is no warning, and many leave room for other lines.
func TestFindingsInTheLog(t *testing.T) {
	var text strings.Builder
	text.WriteString("version: 1\nroutes: {direct: {via: main}}\ndefault: {route: direct}\nrules:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  - {name: r%d, priority: %d, match: {process: p%d}, action: {route: direct}}\n", i, i, i)
	}
	r := start(t, zoomPolicy, nil)
	r.write(text.String() + "sets: {nobody: {type: domain, values: [a.example]}}\n")
	before := strings.Count(r.log.String(), "\n")
	res, err := r.Reload(t.Context())
	if err != nil || res.Result != api.Applied || len(res.Diagnostics) <= 100 {
		t.Fatalf("%s, %d findings, %v", res.Result, len(res.Diagnostics), err)
	}
	var findings, hints int
	lines := strings.SplitAfter(r.log.String(), "\n")[before:]
	for i, line := range lines {
		if !strings.Contains(line, `"policy finding"`) {
			continue
		}
		findings++
		hint := strings.Contains(line, `"severity":"hint"`)
		if hint {
			hints++
		}
		if strings.Contains(line, `"level":"INFO"`) != hint || findings == 1 && hint {
			t.Errorf("line %d: %s", i, line)
		}
	}
	if findings != maxFindings || hints == findings {
		t.Errorf("%d findings, %d of them hints", findings, hints)
	}
	if want := fmt.Sprintf(`"more policy findings","count":%d`, len(res.Diagnostics)-maxFindings); !strings.Contains(r.log.String(), want) {
		t.Errorf("the log lacks %s", want)
	}
}
