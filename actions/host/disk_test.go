package host

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// smallDisk is a folder on a file system of 64 KiB, which only the test's thread
// and what it starts can see.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")
	}
	if err != nil {
		t.Skip("needs a mount namespace of its own: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestFullDisk: without room for the ledger nothing is changed, what is in force
// goes on and can fail over, and everything can be removed.
func TestFullDisk(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	dir := smallDisk(t)
	before := snapshot(t)
	a, b := lines(rules.Last), other()
	normal, failed := engine.OfflineWorld(a, state.Normal), engine.OfflineWorld(a, state.Failover)
	e := enforcer(t, dir)
	refused := func(p *rules.Policy, want string) {
		t.Helper()
		err := e.Apply(ctx, planFor(t, e, p, normal))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "write ledger") || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("on a full disk: %v", err)
		}
		if got := snapshot(t); got != want {
			t.Errorf("on a full disk something was changed:\n%s\nwas:\n%s", got, want)
		}
	}
	free := nstest.Fill(t, dir)
	refused(a, before)
	free()
	plan := planFor(t, e, a, normal)
	must(t, e.Apply(ctx, plan))
	free = nstest.Fill(t, dir)
	refused(b, snapshot(t))
	l.expect("the old plan is in force", 443, "wan1")
	must(t, e.Update(ctx, plan.WorldUpdates(normal, failed)))
	l.expect("failover", 443, "wan2")
	must(t, e.Close())
	must(t, Cleanup(ctx, dir))
	if after := snapshot(t); after != before {
		t.Errorf("cleanup on a full disk left:\n%s\nwas:\n%s", after, before)
	}
	free()

	// It fills up while a plan is applied: before each step but the first once,
	// which is to write the ledger.
	full := 0
	for at := 2; ; at++ {
		e = enforcer(t, dir)
		must(t, e.Apply(ctx, planFor(t, e, b, nil)))
		left, free := at, func() {}
		e.before = func(string) error {
			if left--; left == 0 {
				free = nstest.Fill(t, dir)
			}
			return nil
		}
		p := planFor(t, e, a, normal)
		must(t, e.Apply(ctx, p))
		e.before = nil
		if left > 0 {
			free()
			must(t, errors.Join(e.Close(), Cleanup(ctx, dir)))
			break
		}
		full++
		l.expect("applied", 22, "wan1")
		must(t, e.Close())
		if at%2 == 0 { // a start that finds it so
			free()
			free = func() {}
			e = enforcer(t, dir)
			again := planFor(t, e, a, normal)
			if !sameIDs(p, again) {
				t.Errorf("filled at step %d: marks have another meaning after a restart: %v, were %v", at, again.IDs, p.IDs)
			}
			must(t, e.Apply(ctx, again))
			l.expect("restarted", 22, "wan1")
			must(t, e.Close())
		}
		must(t, Cleanup(ctx, dir))
		free()
		if after := snapshot(t); after != before {
			t.Fatalf("filled at step %d: left behind\n%s\nwas\n%s", at, after, before)
		}
	}
	if full < 3 {
		t.Errorf("the disk was full %d times", full)
	}
	t.Logf("full disk: refused without a change, failed over, cleaned up; filled %d times while a plan was applied", full)
}

func sameIDs(a, b *actions.Plan) bool {
	for name, n := range a.IDs.Routes {
		if b.IDs.Routes[name] != n {
			return false
		}
	}
	return len(a.IDs.Routes) == len(b.IDs.Routes)
}
