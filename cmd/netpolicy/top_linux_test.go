package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// pseudoTerminal opens one of 80 columns and 24 lines.
func pseudoTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals: ", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return master, terminal
}

// TestTopInATerminal runs the real program in a terminal, asks why, and quits.
func TestTopInATerminal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := api.Listen(socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- (&api.Server{Reader: b, Admin: b, Lister: b, Records: telemetry.NewRing(4), Metrics: func(io.Writer) {}}).Run(ctx, l)
	}()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	master, terminal := pseudoTerminal(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{
		Path: exe, Args: []string{"netpolicy", "top", "--socket", socket}, Stdin: terminal, Stdout: terminal, Stderr: terminal,
		Env:         append(os.Environ(), "TERM=xterm", "NO_COLOR=1"),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = terminal.Close()
	var screen strings.Builder
	until := func(text string) {
		t.Helper()
		buf := make([]byte, 4096)
		for seen := screen.Len(); !strings.Contains(screen.String()[seen:], text); {
			n, err := master.Read(buf)
			screen.Write(buf[:n])
			if err != nil {
				t.Fatalf("waiting for %q: %v\n%q", text, err, screen.String())
			}
		}
	}
	until("us01.zoom.us")
	if _, err := master.WriteString("\r"); err != nil {
		t.Fatal(err)
	}
	until("priority 100 before 10")
	if _, err := master.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(master) // ends with an error when the terminal has no one left
	screen.Write(rest)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after q: %v", err)
	}
	if text := screen.String(); strings.Contains(text, "\x1b[31m") || strings.Contains(text, "\x1b[33m") {
		t.Errorf("colour under NO_COLOR: %q", text)
	}
	if !strings.Contains(screen.String(), "\x1b[?1049l") {
		t.Error("the alternate screen was not left")
	}
}
