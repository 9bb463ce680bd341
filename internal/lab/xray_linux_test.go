package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/xraytest"
)

// xrayServer starts a server in the lab's internet, and returns its link.
func xrayServer(t *testing.T, l *Lab, addr, name string) (link string, stop func()) {
	t.Helper()
	config := filepath.Join(l.Dir, "server-"+name+".json")
	err := WriteFile(config, fmt.Appendf(nil, `{"log": {"loglevel": "warning"}, "outbounds": [{"protocol": "freedom"}], "inbounds": [{"listen": %q,
		"port": 8388, "protocol": "shadowsocks", "settings": {"method": "aes-256-gcm", "password": "Secr3t-password", "network": "tcp,udp"}}]}`, addr))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(xraytest.Binary(t), "run", "-config", config)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- l.inet.start(cmd)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		}
	}
	t.Cleanup(stop)
	return fmt.Sprintf("ss://aes-256-gcm:Secr3t-password@%s:8388#%s\n", addr, name), stop
}

func tunnelPolicy(binary, first string) []byte {
	return fmt.Appendf(nil, `version: 1
uplinks:
  wan1: {dev: wan1, gateway: [192.0.2.1, "2001:db8:1::1"]}
  wan2: {dev: wan2, gateway: [192.0.2.129, "2001:db8:2::1"]}
routes:
  one: {via: xray %q on wan1}
  two: {via: xray "Two" on wan2}
groups:
  tunnels: {fallback: [one, two], when_none: block}
health: {primary: wan1}
daemon:
  masquerade: [wan1, wan2]
  tproxy: [tcp/443, udp/7]
  xray_binary: %s
  xray_links: [links.txt]
  xray_probe: http://198.51.100.41:8000/
  xray_probe_every: 1s
default: {route: wan1}
rules:
  - {name: web, priority: 10, match: {port: "443,7"}, action: {route: tunnels}}
`, first, binary)
}

// xrayStatus waits until what the daemon's Xray does is as wanted.
func xrayStatus(t *testing.T, l *Lab, what string, ok func(*api.Xray) bool) api.Xray {
	t.Helper()
	for range 600 {
		if x, err := l.API().Xray(t.Context(), ""); err == nil && ok(&x) {
			return x
		}
		time.Sleep(50 * time.Millisecond)
	}
	x, err := l.API().Xray(t.Context(), "")
	log, _ := l.API().XrayLog(t.Context())
	t.Fatalf("never: %s\n%+v, %v\n%s\n%s", what, x, err, strings.Join(log.Lines, "\n"), l.tail())
	return x
}

// alive is whether the proxies of both routes live, as wanted.
func alive(one, two string) func(*api.Xray) bool {
	return func(x *api.Xray) bool {
		return x.State == "running" && len(x.Routes) == 2 && len(x.Routes[0].Proxies) == 1 && x.Routes[0].Proxies[0].Alive == one &&
			len(x.Routes[1].Proxies) == 1 && x.Routes[1].Proxies[0].Alive == two
	}
}

// running reports whether a process is there and no zombie: who took over an orphan
// may not have looked at it yet.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// session makes a TLS session from the client, and ends it.
func session(ctx context.Context, l *Lab) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := l.Client().Dial(ctx, "tcp", tlsAt[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = l.Client().TLS(ctx, conn, "www.other.example")
	return err
}

// inUse reports whether somebody in the gateway listens.
func inUse(t *testing.T, l *Lab, at string) bool {
	t.Helper()
	out, err := l.Gateway(t.Context(), "cat", "/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddrPort(at)
	return strings.Contains(out, fmt.Sprintf("0100007F:%04X 00000000:0000 0A", a.Port()))
}

// closedToOthers checks that another user of the gateway gets nothing out of Xray's API, be
// it on a port that Xray listens on or at its socket, and that root does.
func closedToOthers(t *testing.T, l *Lab, x *api.Xray) {
	t.Helper()
	dir, err := os.MkdirTemp("", "netpolicy-lab") // that others can enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "xray")
	if out, err := exec.Command("cp", xraytest.Binary(t), binary).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, path := range []string{dir, binary} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := "unix://" + filepath.Join(l.Dir, "state", "xray", "api", "socket")
	listening, err := l.Gateway(t.Context(), "ss", "-Hltnp")
	if err != nil {
		t.Fatal(err)
	}
	servers := []string{socket}
	for line := range strings.Lines(listening) {
		if f := strings.Fields(line); len(f) > 5 && strings.Contains(f[5], fmt.Sprintf("pid=%d,", x.PID)) {
			servers = append(servers, f[3])
		}
	}
	if len(servers) != 1+len(x.Routes) {
		t.Errorf("xray listens elsewhere than for routes: %q", servers)
	}
	for _, at := range servers {
		ask := []string{binary, "api", "lso", "--timeout=2", "--server=" + at}
		nobody := append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, ask...)
		if out, err := l.Gateway(t.Context(), nobody...); err == nil || strings.Contains(out, "Secr3t") {
			t.Errorf("nobody asks %s: %s", at, out)
		}
	}
	if out, err := l.Gateway(t.Context(), binary, "api", "lso", "--server="+socket); err != nil || !strings.Contains(out, "outbounds") {
		t.Errorf("root asks: %v, %s", err, out)
	}
}

// TestXray: two tunnels for real, over daemon and Xray being killed, stopped and
// started again, and over policies and links that are wrong.
func TestXray(t *testing.T) {
	l, policy := daemonLab(t)
	binary := xraytest.Binary(t)
	ctx := t.Context()
	one, stopOne := xrayServer(t, l, "203.0.113.1", "One")
	two, _ := xrayServer(t, l, "198.51.100.1", "Two")
	links := filepath.Join(l.Dir, "links.txt")
	write := func(path string, data []byte) {
		t.Helper()
		if err := WriteFile(path, data); err != nil {
			t.Fatal(err)
		}
	}
	write(links, []byte(one+two))
	write(policy, tunnelPolicy(binary, "One"))
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	goes := func(want string) {
		t.Helper()
		// Groups hear of a tunnel a moment after status, and what is on its way then may end.
		end := time.Now().Add(30 * time.Second)
		for {
			left, err := wentBy(t, l, "tcp", tlsAt[0], func(ctx context.Context, conn net.Conn) (net.Conn, error) {
				return l.Client().TLS(ctx, conn, "www.other.example")
			})
			switch {
			case err == nil && left != want:
				t.Errorf("it left by %q, want %s\n%s", left, want, l.tail())
				return
			case err == nil:
				return
			case time.Now().After(end):
				log, _ := l.API().XrayLog(ctx)
				t.Fatalf("nothing goes through: %v\n%s\n%s", err, strings.Join(log.Lines, "\n"), l.tail())
			}
			t.Log("not through yet: ", err)
			time.Sleep(50 * time.Millisecond)
		}
	}
	first := xrayStatus(t, l, "both live", alive("true", "true"))
	goes(Wan1)
	// A link is tried under the daemon's seccomp filter, past the policy.
	tried, err := l.API().TryXray(ctx, api.XrayTrialRequest{Link: strings.TrimSpace(two), URL: "http://198.51.100.41:8000/"})
	if err != nil || !tried.OK || tried.ConnectMS <= 0 {
		t.Errorf("%+v, %v\n%s", tried, err, l.tail())
	}
	closedToOthers(t, l, &first)
	udp := leftBy(t, l, "udp", "203.0.113.10:7", func(_ context.Context, conn net.Conn) (net.Conn, error) {
		// One after the other: what comes in a burst may be lost on its way.
		data := make([]byte, datagram)
		var err error
		for range 2 * payload / datagram {
			if _, err = conn.Write(data); err == nil {
				_, err = conn.Read(data)
			}
			if err != nil {
				return nil, err
			}
		}
		return conn, err
	})
	if udp != Wan1 {
		t.Errorf("datagrams left by %q", udp)
	}

	// A policy that names what no file has is refused, at its place.
	write(policy, tunnelPolicy(binary, "Onne"))
	res, err := l.API().Reload(ctx)
	if err != nil || res.Result != api.Rejected || len(res.Diagnostics) != 1 || res.Diagnostics[0].Code != "NP504" || res.Diagnostics[0].Line != 6 ||
		!strings.Contains(res.Diagnostics[0].Help, "One") {
		t.Errorf("%+v, %v", res, err)
	}
	write(policy, tunnelPolicy(binary, "One"))
	if res, err := l.API().Reload(ctx); err != nil || res.Result == api.Rejected {
		t.Errorf("%+v, %v", res, err)
	}
	// Links that can't be read cost nothing.
	write(links, []byte("nonsense\n"))
	time.Sleep(time.Second) // it is noticed after 150 ms
	goes(Wan1)
	// Other links are taken over while Xray runs.
	write(links, []byte(strings.Replace(two, "#Two", "#One", 1)+two))
	moved := xrayStatus(t, l, "one leads to the other server", func(x *api.Xray) bool {
		return alive("true", "true")(x) && x.Routes[0].Proxies[0].Address == "ss 198.51.100.1:8388"
	})
	goes(Wan1)
	write(links, []byte(one+two))
	first = xrayStatus(t, l, "one leads to its server", func(x *api.Xray) bool {
		return alive("true", "true")(x) && x.Routes[0].Proxies[0].Address == "ss 203.0.113.1:8388"
	})
	if moved.PID != first.PID || first.Restarts != 0 {
		t.Errorf("xray was started again: %+v", first)
	}

	// The daemon is killed: Xray serves, and is adopted.
	socks := first.Routes[0].Listen
	if err := l.KillDaemon(); err != nil {
		t.Fatal(err)
	}
	if !running(first.PID) || !inUse(t, l, socks) {
		t.Error("xray has ended with the daemon")
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	second := xrayStatus(t, l, "both live again", alive("true", "true"))
	if second.PID != first.PID || !second.Adopted || second.Routes[0].Listen != socks {
		t.Errorf("%+v\nbefore %+v", second, first)
	}
	goes(Wan1)

	// A server dies: its route is dead, and the group leaves it.
	stopOne()
	xrayStatus(t, l, "one is dead", alive("false", "true"))
	goes(Wan2)

	// Xray is killed, and comes back.
	if err := syscall.Kill(second.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	third := xrayStatus(t, l, "another xray", func(x *api.Xray) bool { return x.PID != second.PID && alive("false", "true")(x) })
	goes(Wan2)
	if m, err := l.API().Metrics(ctx); err != nil || !strings.Contains(m, "netpolicy_xray_restarts_total 1\n") || !strings.Contains(m, `netpolicy_xray_proxies_alive{route="two"} 1`) {
		t.Errorf("%v: %s", err, m)
	}

	// Stopped by hand: nothing leaves in the clear, also not after a start of the daemon.
	if x, err := l.API().Xray(ctx, "stop"); err != nil || x.State != "stopped" || running(third.PID) {
		t.Errorf("%+v, %v", x, err)
	}
	for range 2 {
		if err := session(ctx, l); err == nil {
			t.Error("it is reached without a tunnel")
		}
		if err := l.StopDaemon(); err != nil {
			t.Fatal(err)
		}
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		xrayStatus(t, l, "stopped still", func(x *api.Xray) bool { return x.StoppedByUser })
	}
	if _, err := l.API().Xray(ctx, "start"); err != nil {
		t.Error(err)
	}
	fourth := xrayStatus(t, l, "two lives", alive("false", "true"))
	goes(Wan2)

	// SIGUSR2 leaves it to a successor, SIGTERM ends it, and so does a clean-up.
	if err := l.end(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if !running(fourth.PID) {
		t.Error("xray has ended although a successor comes")
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	if x := xrayStatus(t, l, "two lives", alive("false", "true")); x.PID != fourth.PID {
		t.Errorf("%+v", x)
	}
	if err := l.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	if running(fourth.PID) || inUse(t, l, fourth.Routes[0].Listen) {
		t.Error("xray goes on without us")
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	last := xrayStatus(t, l, "two lives", alive("false", "true"))
	if err := l.KillDaemon(); err != nil {
		t.Fatal(err)
	}
	if err := l.Cleanup(ctx); err != nil || running(last.PID) {
		t.Errorf("%v, or xray is left", err)
	}
	if left, err := os.ReadDir(filepath.Join(l.Dir, "state", "xray")); err != nil || len(left) > 3 {
		t.Errorf("%v, %v", left, err)
	}
	for _, name := range []string{"netpolicyd.log", "state/xray/xray.log"} {
		if data, err := os.ReadFile(filepath.Join(l.Dir, name)); err != nil || strings.Contains(string(data), "Secr3t") {
			t.Errorf("%s: %v, or it has a secret", name, err)
		}
	}
}
