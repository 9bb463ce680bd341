package process

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/porttest"
	"netpolicy.dev/netpolicy/xray/api"
)

// asDaemon makes the test binary a daemon that runs what it reads, until it is killed.
const asDaemon = "NETPOLICY_TEST_AS_DAEMON"

type daemonOrder struct {
	Binary, Dir, LogFile string
	Config               Config
}

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) == "" {
		os.Exit(m.Run())
	}
	var order daemonOrder
	if err := json.NewDecoder(os.Stdin).Decode(&order); err != nil {
		panic(err)
	}
	s := New(Options{Binary: order.Binary, Dir: order.Dir, LogFile: order.LogFile})
	go func() {
		if err := s.Apply(context.Background(), order.Config); err != nil {
			panic(err)
		}
		fmt.Println(s.Status().PID)
	}()
	if err := s.Run(context.Background()); err != nil {
		panic(err)
	}
}

// killedDaemon has a daemon run a configuration, kills it and returns the pid of the
// Xray that it leaves.
func killedDaemon(t *testing.T, o Options, c Config) int {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	order, err := json.Marshal(daemonOrder{o.Binary, o.Dir, o.LogFile, c})
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(exe)
	daemon.Env = append(os.Environ(), asDaemon+"=1")
	daemon.Stdin, daemon.Stderr = strings.NewReader(string(order)), os.Stderr
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()  // it was killed
	t.Cleanup(func() { // should the test fail before
		if id, err := identify(pid); err == nil && strings.Contains(id.Exe, "xray") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return pid
}

// running reports whether a process that is not our child runs: who took it over
// may leave a zombie.
func running(pid int) bool {
	_, err := identify(pid)
	return err == nil
}

// serves reports whether somebody listens.
func serves(at netip.AddrPort) bool {
	conn, err := net.Dial("tcp", at.String())
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// TestAdopt: Xray goes on when we are killed; the next start takes it over, and its
// log with it, and can stop it. With another configuration it is replaced.
func TestAdopt(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.LogFile = filepath.Join(o.Dir, "xray.log")
	in := porttest.Free(t)
	c := build(t, in)
	c.Note = []byte(`{"port":1}`)
	pid := killedDaemon(t, o, c)
	if !serves(in) {
		t.Fatal("xray has ended with the daemon")
	}
	if left, ok := FindLeft(o.Dir); !ok || string(left.Note) != string(c.Note) {
		t.Fatalf("%v, %+v", ok, left)
	}
	ready := 0
	o.Ready = func(context.Context, *api.Client) { ready++ }
	s := supervise(t, o)
	if err := s.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Running || st.PID != pid || !st.Adopted || st.Memory == 0 || ready != 1 {
		t.Errorf("%+v, ready %d times; it was %d", st, ready, pid)
	}
	// What it prints is read: here a connection that leads to nobody.
	if conn, err := net.Dial("tcp", in.String()); err != nil {
		t.Error(err)
	} else {
		fmt.Fprintf(conn, "CONNECT %s:1 HTTP/1.1\r\n\r\n", "example.com")
		for i := 0; !strings.Contains(strings.Join(s.Log(), "\n"), "example.com"); i++ {
			if i == 1500 {
				t.Fatalf("not in the log: %q", s.Log())
			}
			time.Sleep(20 * time.Millisecond)
		}
		conn.Close()
	}
	// It is killed, and another one takes its place.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := wait(t, s, "running again", func(st Status) bool { return st.State == Running && st.PID != pid })
	if second.Adopted || second.Restarts != 1 {
		t.Errorf("%+v", second)
	}
	if data, err := os.ReadFile(o.LogFile); err != nil || strings.Contains(string(data), secret) {
		t.Errorf("%v, or the log has a secret", err)
	}
}

// TestReplaceLeft: what runs another configuration is ended, and so is what nobody
// wants any more; another process with its pid is not.
func TestReplaceLeft(t *testing.T) {
	t.Parallel()
	o := options(t)
	in := porttest.Free(t)
	pid := killedDaemon(t, o, build(t, in))
	s := supervise(t, o)
	other := build(t, porttest.Free(t))
	if err := s.Apply(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.PID == pid || st.Adopted || running(pid) {
		t.Errorf("%+v in the place of %d", st, pid)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	o2 := options(t)
	pid = killedDaemon(t, o2, build(t, in))
	if err := EndLeft(t.Context(), o2.Dir); err != nil || running(pid) || serves(in) {
		t.Errorf("%d is left: %v", pid, err)
	}

	// Another process that has the pid is neither adopted nor ended.
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleep.Process.Kill(); _ = sleep.Wait() }()
	id, err := identify(sleep.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	id.Start = "1"
	if err := (record{identity: id, Hash: s.hash(other)}).write(o2.Dir); err != nil {
		t.Fatal(err)
	}
	if _, ok := FindLeft(o2.Dir); ok {
		t.Error("a process that is not ours is found")
	}
	if err := EndLeft(t.Context(), o2.Dir); err != nil || sleep.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("a process that is not ours was ended:", err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestLeave: left to a next start, and stopped by the user over a restart.
func TestLeave(t *testing.T) {
	t.Parallel()
	o := options(t)
	c := build(t, porttest.Free(t))
	first := o
	first.Leave = func() bool { return true }
	s := New(first)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	if err := s.Apply(ctx, c); err != nil {
		t.Fatal(err)
	}
	pid := s.Status().PID
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	next := New(o)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- next.Run(ctx) }()
	if err := next.Apply(ctx, c); err != nil || next.Status().PID != pid {
		t.Fatalf("%v, %+v", err, next.Status())
	}
	if err := next.Stop(ctx); err != nil || syscall.Kill(pid, 0) == nil {
		t.Errorf("%d runs: %v", pid, err)
	}
	cancel()
	<-done
	last := supervise(t, o)
	if err := last.Apply(t.Context(), c); err != nil || last.Status().State != Stopped || !last.Status().ByUser {
		t.Errorf("%v, %+v", err, last.Status())
	}
	if err := last.Start(t.Context()); err != nil || last.Status().State != Running {
		t.Errorf("%v, %+v", err, last.Status())
	}
}

// TestAmend: an outbound comes and another goes while the process stays; balancers
// move to what is there, and to nothing else.
func TestAmend(t *testing.T) {
	t.Parallel()
	o := options(t)
	s := supervise(t, o)
	before := build(t, porttest.Free(t))
	if err := s.Apply(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	pid := s.Status().PID
	client := api.NewUnix(Socket(o.Dir))
	defer client.Close()
	after := before
	after.Data = []byte(strings.ReplaceAll(string(before.Data), "out-Home.", "out-Away."))
	var file struct {
		Outbounds []json.RawMessage `json:"outbounds"`
	}
	if err := json.Unmarshal(after.Data, &file); err != nil {
		t.Fatal(err)
	}
	added, err := json.Marshal(map[string]any{"outbounds": file.Outbounds[1:]})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Amend(t.Context(), after, added); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := client.Override(ctx, "grp-all", "out-Nobody."); err == nil {
		t.Error("a balancer is led to what is not there")
	}
	if err := client.Override(ctx, "grp-all", "out-Away."); err != nil {
		t.Error(err)
	}
	if to, err := client.Overridden(ctx, "grp-all"); err != nil || to != "out-Away." {
		t.Errorf("%q, %v", to, err)
	}
	if err := client.RemoveOutbound(ctx, "out-Home."); err != nil {
		t.Error(err)
	}
	if tags, err := client.Outbounds(ctx); err != nil || len(tags) != 2 || tags[1] != "out-Away." && tags[0] != "out-Away." {
		t.Errorf("%q, %v", tags, err)
	}
	if err := client.Override(ctx, "grp-all", ""); err != nil {
		t.Error(err)
	}
	if err := client.Override(ctx, "nobody", ""); err == nil {
		t.Error("there is no such balancer")
	}
	if s.Status().PID != pid {
		t.Error("xray was started again")
	}
	if err := s.Amend(ctx, after, []byte(`{"outbounds":[{"protocol":"trojan","tag":"x","settings":{"address":"a","port":1,"password":"`+secret+`","flow":"x"}}]}`)); err == nil || strings.Contains(err.Error(), secret) {
		t.Error("a broken outbound is added, or its secret told:", err)
	}
	// What is asked for after it was killed is what was amended.
	next := after
	if err := s.Apply(ctx, next); err != nil || s.Status().PID != pid {
		t.Errorf("%v, %+v", err, s.Status())
	}
}

// TestManyRestarts: no process, no port and no descriptor is left, and the last good
// configuration serves.
func TestManyRestarts(t *testing.T) {
	restarts := 20
	if os.Getenv("FULL") != "" {
		restarts = 200
	}
	o := options(t)
	o.LogFile = filepath.Join(o.Dir, "full")
	if err := os.Symlink("/dev/full", o.LogFile); err != nil { // every write to it fails: no space is left
		t.Fatal(err)
	}
	s := supervise(t, o)
	in := porttest.Free(t)
	c := build(t, in)
	if err := s.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	bad := Config{Data: []byte(`{"outbounds":[{"protocol":"nonsense"}]}`)}
	_ = s.Log() // opens the file
	open := descriptors(t)
	pids := map[int]bool{}
	for i, done := 0, 0; done < restarts; i++ {
		pid := s.Status().PID
		pids[pid] = true
		switch i % 4 {
		case 0:
			if err := s.Apply(t.Context(), bad); err == nil {
				t.Fatal("nonsense runs")
			}
			continue
		case 1:
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			wait(t, s, "running again", func(st Status) bool { return st.PID != pid && st.State != Stopped })
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(i, err)
		}
		done++
	}
	if st := s.Status(); st.State != Running || !serves(in) || len(s.Log()) == 0 {
		t.Errorf("%+v", st)
	}
	for i := 0; descriptors(t) > open; i++ { // connections to the API may take a moment to go
		if i == 1500 {
			t.Fatalf("%d descriptors, and %d before", descriptors(t), open)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := s.Stop(t.Context()); err != nil || serves(in) {
		t.Error("a port is left:", err)
	}
	for pid := range pids {
		if syscall.Kill(pid, 0) == nil { // a zombie is one, too
			t.Errorf("process %d is left", pid)
		}
	}
	t.Logf("%d restarts", restarts)
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestOutput: what was read is given back.
func TestOutput(t *testing.T) {
	out, err := NewOutput()
	if err != nil {
		t.Fatal(err)
	}
	var j journal
	j.follow(out)
	for i := range 100 {
		fmt.Fprintf(out.file, "%05d %s\n", i, strings.Repeat("x", 9<<10))
		if i%10 == 9 {
			j.pull()
		}
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(out.file.Fd()), &st); err != nil || st.Size < 900<<10 || st.Blocks*512 > 2*freeEvery {
		t.Errorf("%d bytes in %d blocks, %v", st.Size, st.Blocks, err)
	}
	if lines := j.tail(); len(lines) != 100 || !strings.HasPrefix(lines[99], "00099 x") {
		t.Errorf("%d lines", len(lines))
	}
	j.follow(nil)
}
