// Package childtest has a part of a test run in a process of its own: the test's program once more,
// which TestMain lets be that part when a variable of the environment says so. The two talk by lines:
//
//	p := childtest.Start(t, "SOME_TEST_AS=server")
//	p.Expect("ready")
package childtest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"

	"netpolicy.dev/netpolicy/internal/child"
)

// Process is one that runs. It belongs to the test's goroutine.
type Process struct {
	t    testing.TB
	in   io.WriteCloser
	out  *bufio.Reader
	rest io.Reader // what out reads
	done chan struct{}
}

// Start runs the test's program with more in its environment, "KEY=value". It ends with the test at the latest,
// for which it has to end with its input. What it says on standard error is the test's.
func Start(t testing.TB, env ...string) *Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w := io.Pipe()
	cmd.Stdout = w
	p := &Process{t, in, bufio.NewReader(out), out, make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = w.CloseWithError(child.Run(cmd))
	}()
	t.Cleanup(p.End)
	return p
}

// Say writes a line. That nobody reads it shows in what the process says next.
func (p *Process) Say(line string) { _, _ = io.WriteString(p.in, line+"\n") }

// Line waits for a line, and fails the test when the process ends without one.
func (p *Process) Line() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the child process says %q, %v", line, err)
	}
	return line[:len(line)-1]
}

// Expect waits for a line, which has to be this one.
func (p *Process) Expect(want string) {
	p.t.Helper()
	if line := p.Line(); line != want {
		p.t.Fatalf("the child process says %q; want %q", line, want)
	}
}

// End closes the process's input and waits for its end. It may be called again.
func (p *Process) End() {
	_ = p.in.Close()
	go func() { _, _ = io.Copy(io.Discard, p.rest) }()
	<-p.done
}
