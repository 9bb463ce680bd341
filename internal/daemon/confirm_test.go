package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/policyfile"
)

// blockPolicy cuts everything off.
var blockPolicy = strings.Replace(zoomPolicy, "default: {route: direct}", "default: {block: true}", 1)

// changing is a rig with a state directory, which further daemons can go on with.
type changing struct {
	*rig
	dir  string
	boot string
	late time.Duration // how much later it is for the next daemon
	seen *fakeVerifier
}

// fakeVerifier finds what a test wants found.
type fakeVerifier struct {
	found  error
	looked int
}

func (v *fakeVerifier) Verify(context.Context, *actions.Plan) error { return nil }
func (v *fakeVerifier) ReadBack(context.Context, *actions.Plan) error {
	v.looked++
	if v.looked > 1 {
		return nil
	}
	return v.found
}

func startChanging(t *testing.T) *changing {
	c := &changing{dir: filepath.Join(t.TempDir(), "state"), boot: "boot", seen: &fakeVerifier{}}
	c.rig = start(t, zoomPolicy, c.set)
	return c
}

func (c *changing) set(o *Options, p *Parts) {
	o.StateDir, p.Boot, p.Verifier = c.dir, c.boot, c.seen
	now, late := p.Now, c.late
	p.Now = func() time.Duration { return now() + late }
	if c.rig != nil {
		o.Config = c.path
	}
}

// restart starts another daemon on the same files. The first one ends cleanly, or as
// good as by a kill: what it would write when it stops is put back.
func (c *changing) restart(t *testing.T) {
	t.Helper()
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	path := c.path
	c.rig = start(t, zoomPolicy, c.set)
	c.path = path
}

func (c *changing) apply(t *testing.T, text, confirm string) api.ChangeResult {
	t.Helper()
	r, err := c.Change(t.Context(), "root (uid 0)", request(text, confirm))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func request(text, confirm string) api.ChangeRequest {
	return api.ChangeRequest{Do: api.DoApply, Confirm: confirm, Policy: &policyfile.Bundle{Name: "/tmp/new.yaml", Main: []byte(text)}}
}

// settle names the change that waits; policy 99 where none does.
func (c *changing) settle(do string) api.ChangeRequest {
	if w := c.Status().Confirm; w != nil {
		return api.ChangeRequest{Do: do, N: w.N}
	}
	return api.ChangeRequest{Do: do, N: 99}
}

func (c *changing) file(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// until waits until ok holds, and gives up after many looks.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 20_000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never: ", what)
}

// settled waits until no change waits.
func (c *changing) settled(t *testing.T) {
	t.Helper()
	until(t, "settled", func() bool { return c.Status().Confirm == nil })
	if _, err := os.Stat(filepath.Join(c.dir, pendingFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", pendingFile, err)
	}
}

// outcomes lists the history, the newest first: number, trigger, outcome, and a star at
// the one that decides.
func (c *changing) outcomes(t *testing.T) []string {
	t.Helper()
	list, err := c.History(t.Context(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		s := strings.TrimSpace(e.Trigger + " " + e.Outcome)
		if e.Live {
			s += " *"
		}
		out = append(out, s)
	}
	return out
}

func (c *changing) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, c.outcomes(t)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

func TestApply(t *testing.T) {
	c := startChanging(t)
	first := c.Status().Policy.Hash
	r := c.apply(t, otherPolicy, "")
	if r.Result != api.Applied || r.N != 2 || r.Policy.Hash == first || c.file(t) != otherPolicy {
		t.Errorf("%+v", r)
	}
	// Who watches sees the file that apply wrote: nothing to do.
	if res, err := c.Reload(t.Context()); err != nil || res.Result != api.Unchanged {
		t.Errorf("%+v, %v", res, err)
	}
	// The same meaning in other words is kept too.
	if r := c.apply(t, otherPolicy+"# a remark\n", "1m"); r.Result != api.Unchanged || r.N != 3 || !strings.HasSuffix(c.file(t), "remark\n") {
		t.Errorf("%+v", r)
	}
	r = c.apply(t, brokenPolicy, "")
	if r.Result != api.Rejected || len(r.Diagnostics) != 1 || r.Diagnostics[0].File != "/tmp/new.yaml" || !strings.HasSuffix(c.file(t), "remark\n") {
		t.Errorf("%+v", r)
	}
	back := func(to string) api.ChangeResult {
		t.Helper()
		r, err := c.Change(t.Context(), "root (uid 0)", api.ChangeRequest{Do: api.DoRollback, To: to})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := back("1"); r.Result != api.Applied || r.Policy.Hash != first || c.file(t) != zoomPolicy {
		t.Errorf("%+v", r)
	}
	if r := back(api.ToPrevious); r.Result != api.Applied || r.Policy.Hash == first {
		t.Errorf("%+v", r)
	}
	if r := back(first[:6]); r.Policy.Hash != first {
		t.Errorf("%+v", r)
	}
	c.expect(t, "rollback to 4 *", "rollback to 3", "rollback to 1", "apply new.yaml", "apply new.yaml", "start")
	e, err := c.History(t.Context(), "2", true)
	if err != nil || e[0].Who != "root (uid 0)" || !strings.Contains(e[0].Diff, "+  - {name: game, priority: 81") {
		t.Errorf("%+v, %v", e, err)
	}
	c.restart(t)
	c.expect(t, "rollback to 4 *", "rollback to 3", "rollback to 1", "apply new.yaml", "apply new.yaml", "start")
	if _, err := os.Stat(filepath.Join(c.dir, "candidate-")); err == nil {
		t.Error("a scratch folder is left")
	}
}

func TestConfirm(t *testing.T) {
	c := startChanging(t)
	first := c.Status().Policy.Hash
	r := c.apply(t, blockPolicy, "1m")
	if r.Result != api.Pending || r.Confirm == nil || r.Confirm.Left < 50 || r.Confirm.Old != first || c.file(t) != zoomPolicy {
		t.Fatalf("%+v", r)
	}
	if s := c.Status().Confirm; s == nil || s.N != 2 || s.Before != 1 || s.Hash == first || s.Left < 50 {
		t.Errorf("status: %+v", s)
	}
	c.expect(t, "apply new.yaml pending *", "start")
	if _, err := c.Change(t.Context(), "x", request(otherPolicy, "")); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a second change: %v", err)
	}
	r, err := c.Change(t.Context(), "root (uid 0)", c.settle(api.DoConfirm))
	if err != nil || r.Result != api.Confirmed || r.N != 2 || c.file(t) != blockPolicy {
		t.Errorf("%+v, %v", r, err)
	}
	c.settled(t)
	c.expect(t, "apply new.yaml confirmed *", "start")
	for _, do := range []string{api.DoConfirm, "dance", api.DoApply} {
		if _, err := c.Change(t.Context(), "x", api.ChangeRequest{Do: do}); err == nil {
			t.Errorf("%s without anything to do it to succeeded", do)
		}
	}
	for _, bad := range []string{"soon", "1ms", "100h", "-3s"} {
		if _, err := c.Change(t.Context(), "x", request(zoomPolicy, bad)); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	c.restart(t)
	if s := c.Status(); s.Confirm != nil || s.Policy.Hash == first {
		t.Errorf("after a restart: %+v", s.Policy)
	}
}

// TestNobodyConfirms: the old policy returns with its plan, which is verified, and at
// the second try when it was not there after the first.
func TestNobodyConfirms(t *testing.T) {
	c := startChanging(t)
	c.seen.found = errors.New("gone: a rule")
	first := c.Status().Policy.Hash
	c.apply(t, blockPolicy, "1s")
	until(t, "the failure shows", func() bool {
		s := c.Status()
		return s.Confirm == nil || strings.Contains(s.Confirm.Error, "gone: a rule")
	})
	if _, err := c.Change(t.Context(), "x", c.settle(api.DoConfirm)); err == nil {
		t.Error("a change that is being taken back was confirmed")
	}
	c.settled(t)
	s := c.Status()
	if s.Policy.Hash != first || s.Reverted == nil || !s.Reverted.Verified || s.Reverted.N != 2 || s.Reverted.To != 1 || c.seen.looked != 2 {
		t.Errorf("%+v, %d looks", s.Reverted, c.seen.looked)
	}
	if n := len(c.host.applied); c.host.applied[0].String() != c.host.applied[n-1].String() {
		t.Error("another plan than the old one is in force")
	}
	for _, want := range []string{`"msg":"policy reverted","verified":true`, "nobody confirmed it in time"} {
		if !strings.Contains(c.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	c.expect(t, "apply new.yaml reverted", "start *")
	c.apply(t, otherPolicy, "")
	if c.Status().Reverted != nil {
		t.Error("status still tells of the revert")
	}
	// The next policy replaced the first, not the one that was taken back.
	if e, err := c.History(t.Context(), "3", false); err != nil || e[0].Before != 1 {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestChangesOfOneBase: of many who replace the same policy at once, one does.
func TestChangesOfOneBase(t *testing.T) {
	c := startChanging(t)
	e, err := c.Present(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const callers = 8
	answers := make(chan error, callers)
	for i := range callers {
		q := request(otherPolicy+strings.Repeat("# a remark\n", i), "")
		q.IfMatch = `"other", "` + e.Policy.Digest()[:32] + `"`
		go func() {
			_, err := c.Change(t.Context(), "x", q)
			answers <- err
		}()
	}
	made := 0
	for range callers {
		if err := <-answers; err == nil {
			made++
		} else if !errors.Is(err, api.ErrPrecondition) {
			t.Error(err)
		}
	}
	if list := c.outcomes(t); made != 1 || len(list) != 2 {
		t.Errorf("%d changes were made: %q", made, list)
	}
	stale := api.ChangeRequest{Do: api.DoRollback, To: "1", IfMatch: `"` + e.Policy.Digest()[:32] + `"`}
	if _, err := c.Change(t.Context(), "x", stale); !errors.Is(err, api.ErrPrecondition) {
		t.Errorf("a rollback from another policy: %v", err)
	}
}

// TestTooLate: who confirms or takes back what does not wait any more does it to nothing else.
func TestTooLate(t *testing.T) {
	c := startChanging(t)
	c.apply(t, otherPolicy, "")
	n := c.apply(t, blockPolicy, "1m").N
	back := api.ChangeRequest{Do: api.DoRollback, N: n}
	if r, err := c.Change(t.Context(), "x", back); err != nil || r.Result != api.Reverted {
		t.Fatalf("%+v, %v", r, err)
	}
	want := []string{"apply new.yaml reverted", "apply new.yaml *", "start"}
	c.expect(t, want...)
	for _, q := range []api.ChangeRequest{back, {Do: api.DoConfirm, N: n}} {
		if _, err := c.Change(t.Context(), "x", q); !errors.Is(err, api.ErrConflict) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	for _, q := range []api.ChangeRequest{{Do: api.DoRollback}, {Do: api.DoConfirm}, {Do: api.DoRollback, N: n, To: "1"}} {
		if _, err := c.Change(t.Context(), "x", q); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	c.expect(t, want...)
	// What somebody else has begun meanwhile goes on waiting.
	next := c.apply(t, blockPolicy+"# a remark\n", "1m").N
	for _, do := range []string{api.DoConfirm, api.DoRollback} {
		if _, err := c.Change(t.Context(), "x", api.ChangeRequest{Do: do, N: n}); !errors.Is(err, api.ErrConflict) {
			t.Errorf("%s of another one: %v", do, err)
		}
	}
	if w := c.Status().Confirm; w == nil || w.N != next {
		t.Errorf("what waits is %+v, want %d", w, next)
	}
}

func TestRollbackOfAPendingChange(t *testing.T) {
	c := startChanging(t)
	first := c.Status().Policy.Hash
	c.apply(t, blockPolicy, "1m")
	r, err := c.Change(t.Context(), "root (uid 0)", c.settle(api.DoRollback))
	if err != nil || r.Result != api.Reverted || r.Policy.Hash != first || !r.Reverted.Verified {
		t.Errorf("%+v, %v", r, err)
	}
	c.settled(t)
}

// TestFileChangesWhileAChangeWaits: it is not read until then, and not overwritten.
func TestFileChangesWhileAChangeWaits(t *testing.T) {
	c := startChanging(t)
	r := c.apply(t, blockPolicy, "1m")
	c.write(otherPolicy)
	if res, err := c.Reload(t.Context()); err != nil || res.Result != api.Rejected || !strings.Contains(res.Error, "waits for its confirmation") ||
		res.Policy.Hash != r.Policy.Hash {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := c.Change(t.Context(), "x", c.settle(api.DoConfirm)); !errors.Is(err, api.ErrConflict) || !strings.Contains(err.Error(), "changed by hand") {
		t.Errorf("confirm over a file that was changed: %v", err)
	}
	if _, err := c.Change(t.Context(), "x", c.settle(api.DoRollback)); err != nil {
		t.Error(err)
	}
	c.settled(t)
	// Then the file is read.
	if c.file(t) != otherPolicy || c.Status().Policy.Hash != shortHash(mustLoad(t, otherPolicy).Hash) {
		t.Errorf("live is %+v", c.Status().Policy)
	}
}

func TestConfirmThatCanNotBeWritten(t *testing.T) {
	c := startChanging(t)
	c.apply(t, blockPolicy, "1m")
	folder := filepath.Dir(c.path)
	if err := os.Rename(folder, folder+".gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Change(t.Context(), "x", c.settle(api.DoConfirm)); err == nil {
		t.Error("a policy without a file was confirmed")
	}
	if c.Status().Confirm == nil {
		t.Error("the change does not wait any more")
	}
	if err := os.Rename(folder+".gone", folder); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Change(t.Context(), "x", c.settle(api.DoConfirm)); err != nil || r.Result != api.Confirmed {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestKernelRefusesAChange: nothing of it is left.
func TestKernelRefusesAChange(t *testing.T) {
	c := startChanging(t)
	c.host.mu.Lock()
	c.host.fail = errors.New("no memory")
	c.host.mu.Unlock()
	if r := c.apply(t, blockPolicy, "1m"); r.Result != api.Rejected || !strings.Contains(r.Error, "no memory") {
		t.Errorf("%+v", r)
	}
	c.settled(t)
	c.expect(t, "start *")
}

// TestChangeWithImports: what is sent with a policy lands beside the daemon's, and comes
// back with a rollback.
func TestChangeWithImports(t *testing.T) {
	c := startChanging(t)
	more := strings.Replace(zoomPolicy, "rules:\n", "sets:\n  ads: {type: domain, file: lists/ads.txt, format: list}\nrules:\n  - import: more.yaml\n  - {name: ads, priority: 50, match: {sni: {in: ads}}, action: {block: true}}\n", 1)
	q := request(more, "1m")
	q.Policy.Files = map[string][]byte{
		"more.yaml":     []byte("version: 1\nrules:\n  - {name: more, priority: 10, match: {port: 99}, action: {block: true}}\n"),
		"lists/ads.txt": []byte("ads.example\n"),
	}
	r, err := c.Change(t.Context(), "x", q)
	if err != nil || r.Result != api.Pending || r.Policy.Rules != 6 {
		t.Fatalf("%+v, %v", r, err)
	}
	c.restart(t) // from the history: nothing is beside the file yet
	if s := c.Status(); s.Confirm == nil || s.Policy.Rules != 6 || s.Policy.Hash != r.Policy.Hash {
		t.Fatalf("%+v", s.Policy)
	}
	if r, err := c.Change(t.Context(), "x", c.settle(api.DoConfirm)); err != nil || r.Result != api.Confirmed {
		t.Fatalf("%+v, %v", r, err)
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(c.path), "lists/ads.txt")); err != nil || string(b) != "ads.example\n" {
		t.Errorf("%q, %v", b, err)
	}
	if res, err := c.Reload(t.Context()); err != nil || res.Result != api.Unchanged {
		t.Errorf("from the disk it is another policy: %+v, %v", res, err)
	}
	// A list that changes is another policy, and the history has both.
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.path), "lists/ads.txt"), []byte("other.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if res, err := c.Reload(t.Context()); err != nil || res.Result != api.Applied || res.Policy.Hash == r.Policy.Hash || len(c.outcomes(t)) != 3 {
		t.Errorf("with another list: %+v, %v, %v", res, err, c.outcomes(t))
	}
	if back, err := c.Change(t.Context(), "x", api.ChangeRequest{Do: api.DoRollback, To: api.ToPrevious}); err != nil || back.Policy.Hash != r.Policy.Hash {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestCompare(t *testing.T) {
	c := startChanging(t)
	b := request(otherPolicy, "").Policy
	a, err := c.Compare(t.Context(), api.PlanRequest{Policy: b})
	if err != nil || a.Error != "" {
		t.Fatal(err, a.Error)
	}
	for _, want := range []string{"# the plan for /tmp/new.yaml (", "# what would be done, from the plan for " + c.Status().Policy.Hash, "nft replace table inet netpolicy", "chains with"} {
		if !strings.Contains(a.Output, want) {
			t.Errorf("no %q in\n%s", want, a.Output)
		}
	}
	// The kernel's difference is what the new rule brings, and nothing of what stays.
	blocked := zoomPolicy + "  - {name: smtp, priority: 1, match: {port: 25}, action: {block: true}}\n"
	a, err = c.Compare(t.Context(), api.PlanRequest{Policy: request(blocked, "").Policy})
	if added, removed := countChanges([]byte(a.Kernel)); err != nil || added == 0 || removed > added || !strings.Contains(a.Kernel, "\n+\t\t") || strings.Contains(a.Kernel, "connections") {
		t.Errorf("%v, the kernel's difference is\n%s", err, a.Kernel)
	}
	if a, err := c.Compare(t.Context(), api.PlanRequest{Policy: request(zoomPolicy+"# a remark\n", "").Policy}); err != nil || a.Kernel != "" || a.Added != 1 {
		t.Errorf("a remark changes the kernel: %v, %d lines\n%s", err, a.Added, a.Kernel)
	}
	if a, err := c.Compare(t.Context(), api.PlanRequest{JSON: true}); err != nil || !strings.Contains(a.Output, `"steps": [`) {
		t.Errorf("%s, %v", a.Output, err)
	}
	if a, err := c.Compare(t.Context(), api.PlanRequest{Policy: request(brokenPolicy, "").Policy}); err != nil || a.Error == "" || a.Diagnostics[0].File != "/tmp/new.yaml" {
		t.Errorf("%+v, %v", a, err)
	}
	if len(c.host.applied) != 1 {
		t.Error("something was applied")
	}
}

// TestConfinedChange: a policy that came over the network has no file of this host read by
// naming it, in a plan and in a change.
func TestConfinedChange(t *testing.T) {
	c := startChanging(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("trojan://s3cr3t:$6$hash\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		strings.Replace(zoomPolicy, "rules:\n", "rules:\n  - import: "+secret+"\n", 1),
		strings.Replace(zoomPolicy, "routes:\n", "daemon: {xray_links: ["+secret+"]}\nroutes:\n  x: {via: xray \"One\"}\n", 1),
	} {
		q := request(text, "")
		q.Confined = true
		a, err := c.Compare(t.Context(), api.PlanRequest{Policy: q.Policy, Confined: true})
		if told := fmt.Sprintf("%+v", a); err != nil || a.Error == "" || !strings.Contains(told, "neither below the policy's folder nor in the policy in force") || strings.Contains(told, "s3cr3t") {
			t.Errorf("plan: %s, %v", told, err)
		}
		r, err := c.Change(t.Context(), "x", q)
		if told := fmt.Sprintf("%+v", r); err != nil || r.Result != api.Rejected || strings.Contains(told, "s3cr3t") {
			t.Errorf("change: %s, %v", told, err)
		}
	}
	q := request(strings.Replace(zoomPolicy, "rules:\n", "rules:\n  - import: more.yaml\n", 1), "")
	q.Confined = true
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.path), "more.yaml"), []byte("version: 1\nrules:\n  - {name: more, priority: 10, match: {port: 99}, action: {block: true}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Change(t.Context(), "x", q); err != nil || r.Result != api.Applied || r.Policy.Rules != 5 {
		t.Errorf("%+v, %v", r, err)
	}
}
