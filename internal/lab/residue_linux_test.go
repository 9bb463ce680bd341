package lab

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestCloseLeavesNothing(t *testing.T) {
	l := newLab(t, Options{})
	if err := l.Fault(t.Context(), Wan2, Fault{Loss: 10_000}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for _, name := range l.Namespaces() {
		if _, err := os.Stat(netnsDir + name); err == nil {
			t.Errorf("namespace %s is left", name)
		}
	}
	if list := orphans(t, strconv.Itoa(os.Getpid())); len(list) > 0 {
		t.Errorf("left behind: %v", list)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	newLab(t, Options{}) // skips where none can be built
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := New(ctx, Options{}); err == nil {
		l.Close()
		t.Fatal("a lab was built under a context that had ended")
	}
	if list := orphans(t, strconv.Itoa(os.Getpid())); len(list) > 1 {
		t.Errorf("left behind, besides the one lab that lives: %v", list)
	}
}

// labUp starts `netpolicy lab up` and waits until it is up.
func labUp(t *testing.T) *exec.Cmd {
	t.Helper()
	bin := binaries(t)
	cmd := exec.Command(filepath.Join(bin, "netpolicy"), "lab", "up", "../../examples/block-and-log/policy.yaml")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if strings.Contains(sc.Text(), "Ctrl-C removes it") {
			return cmd
		}
	}
	t.Fatalf("lab up ended: %v", cmd.Wait())
	return nil
}

func TestSignalLeavesNothing(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := labUp(t)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
		if list := orphans(t, strconv.Itoa(cmd.Process.Pid)); len(list) > 0 {
			t.Errorf("left behind after %v: %v", sig, list)
		}
	}
}

func TestCleanAfterSIGKILL(t *testing.T) {
	cmd := labUp(t)
	pid := strconv.Itoa(cmd.Process.Pid)
	if list, err := Clean(); err != nil || len(list) > 0 && len(orphans(t, pid)) == 0 {
		t.Errorf("Clean removed a lab whose owner lives: %v, %v", list, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	owned := orphans(t, pid)
	if len(owned) != 1 {
		t.Fatalf("the killed lab owns %v", owned)
	}
	id := filepath.Base(filepath.Dir(owned[0]))
	out, err := exec.Command(filepath.Join(binaries(t), "netpolicy"), "lab", "clean").CombinedOutput()
	if err != nil || !strings.Contains(string(out), id) {
		t.Errorf("clean: %v, %s", err, out)
	}
	names, err := filepath.Glob(netnsDir + id + "-*")
	if err != nil || len(names) > 0 || len(orphans(t, pid)) > 0 {
		t.Errorf("left after clean: %v, %v, %v", names, orphans(t, pid), err)
	}
}
