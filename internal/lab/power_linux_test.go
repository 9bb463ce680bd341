package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/nstest"
)

// snapshot is a state directory as it was at a moment.
type snapshot map[string][]byte

// take copies the state directory, whose files may come and go meanwhile.
func take(dir string) (snapshot, error) {
	s := snapshot{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // it went meanwhile
		}
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		name, _ := filepath.Rel(dir, path) // it is below dir
		s[name] = b
		return err
	})
	return s, err
}

// restore puts the snapshot in place of the state directory.
func (s snapshot) restore(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, b := range s {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ofAnotherBoot gives the files another boot's id.
func (s snapshot) ofAnotherBoot(t *testing.T) snapshot {
	t.Helper()
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	other := snapshot{}
	for name, b := range s {
		other[name] = bytes.ReplaceAll(b, bytes.TrimSpace(id), []byte("00000000-0000-0000-0000-000000000000"))
	}
	return other
}

// torn leaves behind what a power cut does in the middle of writing files anew.
func (s snapshot) torn(rnd *rand.Rand) snapshot {
	other := snapshot{}
	for name, b := range s {
		other[name] = b
		if strings.HasSuffix(name, ".json") {
			other[name+".new"] = b[:rnd.IntN(len(b)+1)]
		}
		if strings.HasPrefix(name, "journal") {
			other[name] = b[:rnd.IntN(len(b)+1)]
		}
	}
	return other
}

// TestPowerCut restores the state directory as it was at random moments of a run,
// with a kernel that has forgotten everything: the next start enforces, its stop
// and `cleanup` leave no residue, under the same boot's id (as after a crash of
// the namespace), under another one, and with half-written files.
func TestPowerCut(t *testing.T) {
	l, policy := daemonLab(t)
	foreign(t, l)
	rnd := rand.New(rand.NewPCG(*seedFlag, 77))
	c := &crash{Lab: l, t: t, mode: "last", policy: policy, rnd: rnd, before: kernel(t, l)}
	state := filepath.Join(l.Dir, "state")
	ctx := t.Context()
	c.must(WriteFile(policy, crashPolicy("last", 0)))
	c.must(l.SpawnDaemon(policy))
	stop := c.busy(ctx, 1, true)
	var shots []snapshot
	for n := range times(4, 40) {
		if n > 0 { // the first while it starts
			eventually(t, "the table is there", c.inForce)
		}
		sleep(ctx, c.chance(400*time.Millisecond))
		s, err := take(state)
		if errors.Is(err, os.ErrNotExist) {
			s, err = snapshot{}, nil // it was not made yet
		}
		c.must(err)
		shots = append(shots, s)
	}
	stop()
	c.must(l.KillDaemon())
	c.must(l.Fault(ctx, Wan2, Fault{}))
	sameKernel(t, l, c.before, "after the run")

	kinds, others := map[string]int{}, 0
	for i, s := range shots {
		other := s.ofAnotherBoot(t)
		if !maps.EqualFunc(s, other, bytes.Equal) {
			others++
		}
		for _, v := range []struct {
			name string
			s    snapshot
		}{{"same boot", s}, {"another boot", other}, {"torn files", s.torn(rnd)}} {
			when := fmt.Sprintf("power cut %d (seed %d), %s", i, *seedFlag, v.name)
			c.must(v.s.restore(state))
			// The clean-up alone, before any start, must do no harm either.
			if i%2 == 1 {
				sameKernel(t, l, c.before, when+", no start")
				c.must(v.s.restore(state))
			}
			c.must(WriteFile(policy, crashPolicy("last", 1000+i)))
			c.must(l.StartDaemon(ctx, policy))
			for _, addr := range online {
				if err := reach(ctx, l, addr, 5*time.Second); err != nil {
					t.Fatalf("%s: the client does not reach %s: %v", when, addr, err)
				}
			}
			if !refused(l, "198.51.100.41:23") {
				t.Errorf("%s: telnet is not refused", when)
			}
			if i%2 == 0 {
				c.must(l.StopDaemon())
			} else {
				c.must(l.KillDaemon())
			}
			sameKernel(t, l, c.before, when)
			kinds[v.name]++
		}
	}
	if others < len(shots)-1 {
		t.Errorf("in %d of %d snapshots no file names the boot", len(shots)-others, len(shots))
	}
	t.Logf("power cut: %d moments, seed %d; the next start worked and was removed without residue: %v", len(shots), *seedFlag, kinds)
}

// memoryGroups is where the kernel's first version of control groups has its
// memory controller.
const memoryGroups = "/sys/fs/cgroup/memory"

// TestOOM has the kernel's out-of-memory killer end the daemon while it loads a
// larger policy. It is what kill -9 is, at a moment that only the kernel chooses.
func TestOOM(t *testing.T) {
	l, policy := daemonLab(t)
	foreign(t, l)
	group, err := os.MkdirTemp(memoryGroups, "np-test-")
	if err != nil {
		t.Skip("needs a memory control group of its own: ", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	set := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, name), []byte(value), 0o600); err != nil {
			t.Skip("the memory control group can't be used: ", err)
		}
	}
	set("memory.limit_in_bytes", strconv.Itoa(6<<20))
	ctx := t.Context()
	c := &crash{Lab: l, t: t, mode: "last", policy: policy, rnd: rand.New(rand.NewPCG(*seedFlag, 78)), before: kernel(t, l)}
	kills := times(2, 10)
	for n := range kills {
		c.must(WriteFile(policy, crashPolicy("last", n)))
		c.must(l.StartDaemon(ctx, policy))
		c.learn()
		decided := c.begin("198.51.100.40:5001")
		d := l.running()
		// What it has already counts for where it was; only what it takes from now on counts here.
		set("cgroup.procs", strconv.Itoa(d.process.Pid))
		var many strings.Builder
		for i := range 3000 {
			many.WriteString(extraRule(i))
		}
		c.must(WriteFile(policy, append(crashPolicy("last", 5000), many.String()...)))
		select {
		case <-d.exited:
		case <-time.After(time.Minute):
			t.Fatal("the daemon lives with 6 MiB more")
		}
		var exit *exec.ExitError
		if !errors.As(d.err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the daemon ended otherwise: %v\n%s", d.err, l.tail())
		}
		when := fmt.Sprintf("out of memory %d", n)
		eventually(t, "nothing of the killed daemon runs", func() bool { return len(inside(netnsDir+l.gw.name)) == 0 })
		c.check(when, time.Now())
		c.lives(when, "the rule's own route", decided)
		_ = decided.Stop()
		sameKernel(t, l, c.before, when)
		c.named = false
	}
	control, err := os.ReadFile(filepath.Join(group, "memory.oom_control"))
	c.must(err)
	if !strings.Contains(string(control), fmt.Sprintf("oom_kill %d\n", kills)) {
		t.Errorf("the kernel does not say that it killed %d:\n%s", kills, control)
	}
	t.Logf("out of memory: %d kills by the kernel; the last rules in force after each, residue after none", kills)
}

// smallDisk gives the lab's daemon a state directory on a file system of 64 KiB,
// which is mounted in a mount namespace that only the daemon and its clean-up
// share. It returns the directory as others can reach it.
func smallDisk(t *testing.T, l *Lab) string {
	t.Helper()
	state := filepath.Join(l.Dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	holder := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs -o size=64k,mode=700 tmpfs "$0" && echo ready && exec cat`, state)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // its parent, for Pdeathsig; the test's thread until the test ends
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // it ends
		_ = holder.Wait()
		runtime.UnlockOSThread()
	})
	ready := make([]byte, 6)
	if _, err := io.ReadFull(out, ready); err != nil {
		t.Skip("needs a mount namespace of its own: ", err)
	}
	path, err := l.DaemonPath()
	if err != nil {
		t.Fatal(err)
	}
	wrapper := filepath.Join(l.Dir, "netpolicyd")
	script := fmt.Sprintf("#!/bin/sh\nexec nsenter --mount=/proc/%d/ns/mnt %s \"$@\"\n", holder.Process.Pid, path)
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	l.opts.Daemon = wrapper
	return filepath.Join("/proc", strconv.Itoa(holder.Process.Pid), "root", state)
}

// TestFullDisk: with no room for the ledger the daemon does not start, and says
// why; one that runs refuses a new policy and keeps the old one, fails over, and
// is removed.
func TestFullDisk(t *testing.T) {
	l, policy := daemonLab(t)
	foreign(t, l)
	disk := smallDisk(t, l)
	ctx := t.Context()
	c := &crash{Lab: l, t: t, mode: "last", policy: policy, rnd: rand.New(rand.NewPCG(*seedFlag, 79)), before: kernel(t, l)}
	c.must(WriteFile(policy, crashPolicy("last", 0)))

	free := nstest.Fill(t, disk)
	c.must(l.SpawnDaemon(policy))
	<-l.running().exited
	if err := l.running().err; err == nil || !strings.Contains(l.tail(), "no space left on device") {
		t.Errorf("a start on a full disk: %v\n%s", err, l.tail())
	}
	if now := kernel(t, l); now != c.before {
		t.Errorf("a start on a full disk changed the kernel:\n%s\nwas:\n%s", now, c.before)
	}
	free()

	c.must(l.StartDaemon(ctx, policy))
	c.learn()
	free = nstest.Fill(t, disk)
	before, err := l.API().Status(ctx)
	c.must(err)
	c.must(WriteFile(policy, crashPolicy("last", 1)))
	eventually(t, "the new policy is refused", func() bool {
		s, err := l.API().Status(ctx)
		return err == nil && s.Error != nil && strings.Contains(s.Error.Message, "no space left on device")
	})
	s, err := l.API().Status(ctx)
	c.must(err)
	if s.Policy.Hash != before.Policy.Hash || s.Enforcement != "" {
		t.Errorf("status on a full disk: %+v", s)
	}
	c.check("full disk, the old policy", time.Now())
	c.must(l.Fault(ctx, Wan2, Fault{Blackhole: true}))
	eventually(t, "failover on a full disk", func() bool { return reach(ctx, l, online[0], time.Second) == nil })
	c.must(l.Fault(ctx, Wan2, Fault{}))
	c.must(l.KillDaemon())
	sameKernel(t, l, c.before, "a full disk")
	text, err := json.Marshal(s.Error)
	c.must(err)
	t.Logf("full disk: no start, no change; reload refused (%s), the old policy in force, failover done, cleanup byte-identical", text)
	free()
}
