package process

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/porttest"
	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
)

const secret = "Secr3t-password"

// build returns a configuration with an inbound and an API.
func build(t *testing.T, in netip.AddrPort) Config {
	p, _ := link.Parse("trojan://" + secret + "@192.0.2.1:443#Home")
	data, findings := config.Build(config.V26_3, []link.Profile{p}, config.Options{
		APISocket: API, LogLevel: "debug", Inbounds: []config.Inbound{{Name: "a", Listen: in, Group: "all"}},
	})
	if config.Refused(findings) {
		t.Fatal(findings)
	}
	return Config{Data: data}
}

// supervise runs a Supervisor until the test ends.
func supervise(t *testing.T, o Options) *Supervisor {
	s := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		pid := s.Status().PID
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if pid != 0 && syscall.Kill(pid, 0) == nil {
			t.Error("xray goes on without us")
		}
		if r, err := readRecord(o.Dir); r.PID != 0 || err != nil {
			t.Errorf("the pid stays: %+v, %v", r, err)
		}
		if t.Failed() {
			t.Log(strings.Join(s.Log(), "\n"))
		}
	})
	return s
}

// wait waits for a status.
func wait(t *testing.T, s *Supervisor, what string, ok func(Status) bool) Status {
	t.Helper()
	for range 3000 {
		if st := s.Status(); ok(st) {
			return st
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("never %s: %+v", what, s.Status())
	return Status{}
}

func options(t *testing.T) Options { return Options{Binary: xraytest.Binary(t), Dir: t.TempDir()} }

func TestLifecycle(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.LogFile = filepath.Join(o.Dir, "xray.log")
	s := supervise(t, o)
	ctx := t.Context()
	if err := s.Start(ctx); err == nil {
		t.Error("started without a configuration")
	}
	in := porttest.Free(t)
	good := build(t, in)
	if err := s.Apply(ctx, good); err != nil {
		t.Fatal(err)
	}
	first := s.Status()
	if first.State != Running || first.PID == 0 || first.Memory == 0 {
		t.Fatalf("%+v", first)
	}
	if group, err := syscall.Getpgid(first.PID); err != nil || group != first.PID {
		t.Error("not in a group of its own, so that a terminal's SIGHUP ends it:", group, err)
	}

	// What Xray refuses changes nothing, and its error repeats no secret.
	bad := strings.Replace(string(good.Data), `"password": "`, `"flow": "`+secret+`", "password": "`, 1)
	err := s.Apply(ctx, Config{Data: []byte(bad)})
	if exitCode(err) != exitConfig || strings.Contains(err.Error(), secret) || s.Status().PID != first.PID {
		t.Errorf("%v, %+v", err, s.Status())
	}

	// It is killed, and comes back.
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := wait(t, s, "running again", func(st Status) bool { return st.State == Running && st.PID != first.PID })
	if second.Restarts != 1 {
		t.Errorf("%+v", second)
	}

	// Stopped by the user stays so, through a new configuration too.
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(ctx, good); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Stopped || st.PID != 0 {
		t.Errorf("%+v", st)
	}
	if err := s.Restart(ctx); err == nil {
		t.Error("started while it is stopped")
	}
	l, err := net.Listen("tcp", in.String())
	if err != nil {
		t.Fatal("the port is not free: ", err)
	}
	l.Close()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	third := s.Status()
	if err := s.Restart(ctx); err != nil || s.Status().PID == third.PID || s.Status().State != Running {
		t.Errorf("%v, %+v", err, s.Status())
	}
	data, err := os.ReadFile(o.LogFile)
	if err != nil || len(s.Log()) == 0 || strings.Contains(string(data)+strings.Join(s.Log(), ""), secret) {
		t.Errorf("%v, %d lines", err, len(s.Log()))
	}
}

// TestPortInUse: what can't start gives the configuration before back; without
// one it is tried again until the port is free.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	o := options(t)
	s := supervise(t, o)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := build(t, netip.MustParseAddrPort(taken.Addr().String()))
	err = s.Apply(t.Context(), busy)
	if exitCode(err) != exitBind || !strings.Contains(err.Error(), "address already in use") {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != Waiting || st.Next.IsZero() {
		t.Errorf("%+v", st)
	}
	if err := s.Apply(t.Context(), build(t, porttest.Free(t))); err != nil {
		t.Fatal(err)
	}
	err = s.Apply(t.Context(), busy)
	if err == nil || !strings.Contains(err.Error(), "the configuration before runs again") || s.Status().State != Running {
		t.Errorf("%v, %+v", err, s.Status())
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	o := options(t)
	s := supervise(t, o)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), build(t, netip.MustParseAddrPort(taken.Addr().String()))); err == nil {
		t.Error("started on a port that is taken")
	}
	taken.Close()
	wait(t, s, "running", func(st Status) bool { return st.State == Running && st.Restarts >= 1 })
}

// listOutbounds asks the API of what runs as a user, with Xray's own client.
func listOutbounds(t *testing.T, o Options, uid uint32) error {
	cmd := exec.CommandContext(t.Context(), o.Binary, "api", "lso", "--server=unix://"+Socket(o.Dir))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err == nil && !strings.Contains(string(out), "out-Home.") {
		err = fmt.Errorf("it answers %q", out)
	}
	return err
}

// openToOthers has a program that every user can run, and a directory that all can enter:
// the cache of root's, and those of tests, are closed to them.
func openToOthers(t *testing.T, o *Options) {
	dir, err := os.MkdirTemp("", "xray")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{dir, filepath.Dir(o.Dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "xray")
	// A copy that we wrote ourselves could be open for writing still in what another test starts.
	if out, err := exec.Command("cp", o.Binary, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	o.Binary = path
}

// TestAPIIsOurs: other users of the host can neither read the secrets out of Xray nor change
// what runs, also where they can enter the directory; and a start takes the place of a socket
// that one before has left.
func TestAPIIsOurs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to ask as somebody else")
	}
	o := options(t)
	openToOthers(t, &o)
	s := supervise(t, o)
	if err := s.Apply(t.Context(), build(t, porttest.Free(t))); err != nil {
		t.Fatal(err)
	}
	pid := s.Status().PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, s, "running again", func(st Status) bool { return st.State == Running && st.PID != pid })
	for uid, want := range map[uint32]bool{0: true, 65534: false} {
		if err := listOutbounds(t, o, uid); (err == nil) != want {
			t.Errorf("the API as user %d: %v", uid, err)
		}
	}
	for path, mode := range map[string]os.FileMode{filepath.Dir(Socket(o.Dir)): 0o700, Socket(o.Dir): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	// A path that no socket can have is told before anything is started.
	o.Dir = filepath.Join(o.Dir, strings.Repeat("d", 100))
	if err := os.Mkdir(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	long := supervise(t, o)
	if err := long.Apply(t.Context(), build(t, porttest.Free(t))); err == nil || !strings.Contains(err.Error(), "can have 107") {
		t.Error(err)
	}
}

// TestUser: as another user, with a mark, which needs one of root's rights.
func TestUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to run as somebody else")
	}
	o := options(t)
	openToOthers(t, &o)
	o.UID, o.GID = 65534, 65534
	if err := os.Chmod(o.Dir, 0o700); err != nil { // as state directories are: it can't enter
		t.Fatal(err)
	}
	cgroup := fmt.Sprintf("/sys/fs/cgroup/netpolicy-test-%d", os.Getpid())
	if err := os.Mkdir(cgroup, 0o755); err == nil {
		t.Cleanup(func() {
			if err := os.Remove(cgroup); err != nil {
				t.Error(err)
			}
		})
		if _, err := os.Stat(filepath.Join(cgroup, "cgroup.procs")); err == nil {
			o.Cgroup = cgroup
		}
	}
	s := supervise(t, o)
	c := build(t, porttest.Free(t))
	if err := s.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := s.Amend(t.Context(), c, []byte(`{"outbounds":[{"protocol":"freedom","tag":"more"}]}`)); err != nil {
		t.Error("an outbound can't be added as another user:", err)
	}
	if o.Cgroup == "" {
		t.Log("without a cgroup: none can be made here")
	} else if in, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs")); err != nil || strings.TrimSpace(string(in)) != strconv.Itoa(s.Status().PID) {
		t.Errorf("%q in the cgroup, %v", in, err)
	}
	for uid, want := range map[uint32]bool{0: true, 65533: false} {
		if err := listOutbounds(t, o, uid); (err == nil) != want {
			t.Errorf("the API as user %d: %v", uid, err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "Uid:\t65534\t65534") || !strings.Contains(string(status), "CapEff:\t0000000000001400") {
		t.Error(string(status))
	}
}

// TestTraffic: bytes go through what is built of a link, to a server and back.
func TestTraffic(t *testing.T) {
	t.Parallel()
	o := options(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "through the proxy") }))
	defer web.Close()
	port := porttest.Free(t)
	server := supervise(t, Options{Binary: o.Binary, Dir: t.TempDir()})
	api := porttest.Free(t)
	err := server.Apply(t.Context(), Config{API: api, Data: fmt.Appendf(nil, `{
		"api": {"tag": "api", "listen": %q, "services": ["StatsService"]}, "stats": {},
		"inbounds": [{"listen": %q, "port": %d, "protocol": "shadowsocks", "settings": {"method": "aes-256-gcm", "password": %q}}],
		"outbounds": [{"protocol": "freedom"}]}`, api, port.Addr(), port.Port(), secret)})
	if err != nil {
		t.Fatal(err)
	}
	p, findings := link.Parse(fmt.Sprintf("ss://aes-256-gcm:%s@%s#Home", secret, port))
	in := porttest.Free(t)
	data, more := config.Build(config.V26_3, []link.Profile{p}, config.Options{
		APISocket: API, Inbounds: []config.Inbound{{Name: "a", Listen: in, Group: "all"}},
	})
	if data == nil {
		t.Fatal(findings, more)
	}
	client := supervise(t, o)
	if err := client.Apply(t.Context(), Config{Data: data}); err != nil {
		t.Fatal(err)
	}
	proxy := &url.URL{Scheme: "socks5", Host: in.String()}
	get := http.Client{Transport: &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil }, DisableKeepAlives: true}}
	resp, err := get.Get(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "through the proxy" {
		t.Errorf("%q, %v", body, err)
	}
}
