package daemon

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

// TestStateDirStays: a policy with another state directory is rejected however it comes,
// as a start with it would not know what is in the kernel.
func TestStateDirStays(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	with := func(text, dir string) string { return fmt.Sprintf("%sdaemon:\n  state_dir: %s\n", text, dir) }
	r := start(t, with(zoomPolicy, a), func(o *Options, _ *Parts) { o.StateDir = a })
	before := r.Status().Policy.Hash
	other := request(with(otherPolicy, b), "60s")
	rejected := func(how, file, why string, list []api.Diagnostic, err error) {
		t.Helper()
		want := fmt.Sprintf("state_dir would be %s, and the daemon that runs uses %s", b, a)
		if err != nil || why != "1 error in the policy" || len(list) != 1 || list[0].Code != "NP505" || list[0].Message != want ||
			list[0].File != file || list[0].Line != strings.Count(with(otherPolicy, b), "\n") || list[0].Column != 14 || r.Status().Policy.Hash != before {
			t.Errorf("%s: %q %+v, %v", how, why, list, err)
		}
	}
	change, err := r.Change(t.Context(), "root", other)
	rejected("apply", "/tmp/new.yaml", change.Error, change.Diagnostics, err)
	plan, err := r.Compare(t.Context(), api.PlanRequest{Policy: other.Policy})
	rejected("plan", "/tmp/new.yaml", plan.Error, plan.Diagnostics, err)
	r.write(with(otherPolicy, b))
	reload, err := r.Reload(t.Context())
	rejected("reload", r.path, reload.Error, reload.Diagnostics, err)

	r.write(with(otherPolicy, a+"/")) // the same
	if reload, err := r.Reload(t.Context()); err != nil || reload.Result != api.Applied {
		t.Errorf("the same directory: %+v, %v", reload, err)
	}
	without, err := r.Compare(t.Context(), api.PlanRequest{Policy: &policyfile.Bundle{Name: "new.yaml", Main: []byte(zoomPolicy)}})
	if err != nil || len(without.Diagnostics) != 1 || without.Diagnostics[0].Code != "NP505" || !strings.Contains(without.Diagnostics[0].Message, api.DefaultStateDir) {
		t.Errorf("the default: %+v, %v", without, err)
	}
}

// TestStateDirOfTheCommandLine: what a policy says of it has no effect.
func TestStateDirOfTheCommandLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	r := start(t, zoomPolicy, func(o *Options, _ *Parts) { o.StateDir, o.StateDirGiven = dir, true })
	r.write(zoomPolicy + "daemon: {state_dir: /proc/nope}\n")
	res, err := r.Reload(t.Context())
	if err != nil || res.Result != api.Applied || !slices.ContainsFunc(res.Diagnostics, func(g api.Diagnostic) bool {
		return g.Code == "NP505" && g.Severity == "hint" && g.Line == 18 && g.Message == "state_dir has no effect: the daemon was started with --state-dir "+dir
	}) {
		t.Errorf("%+v, %v", res, err)
	}
}
