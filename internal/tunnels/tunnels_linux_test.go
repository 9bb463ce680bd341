package tunnels

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/porttest"
	"netpolicy.dev/netpolicy/internal/xraytest"
	"netpolicy.dev/netpolicy/state"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/process"
)

const secret = "Secr3t-password"

// server is a real Xray that takes shadowsocks and sends all of it to a web server of
// its own, which tells its name.
type server struct {
	name string
	link string
	xray *process.Supervisor
	rest chan struct{} // closed: what waits comes
}

func newServer(t *testing.T, name string) *server {
	port, control := porttest.Free(t), porttest.Free(t)
	s := &server{name: name, link: fmt.Sprintf("ss://aes-256-gcm:%s@%s", secret, port), rest: make(chan struct{})}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, name)
		if r.URL.Path == "/wait" { // the rest comes when it is asked for, or the client leaves
			w.(http.Flusher).Flush()
			select {
			case <-s.rest:
			case <-r.Context().Done():
			}
			fmt.Fprintln(w, "the rest")
		}
	}))
	t.Cleanup(web.Close)
	s.xray = process.New(process.Options{Binary: xraytest.Binary(t), Dir: t.TempDir()})
	run(t, s.xray.Run)
	err := s.xray.Apply(t.Context(), process.Config{API: control, Data: fmt.Appendf(nil, `{
		"api": {"tag": "api", "listen": %q, "services": ["StatsService"]}, "stats": {},
		"inbounds": [{"listen": %q, "port": %d, "protocol": "shadowsocks", "settings": {"method": "aes-256-gcm", "password": %q}}],
		"outbounds": [{"protocol": "freedom", "settings": {"redirect": %q}}]}`, control, port.Addr(), port.Port(), secret, web.Listener.Addr())})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs something until the test ends.
func run(t *testing.T, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// book is a Source that the test changes.
type book struct {
	mu      sync.Mutex
	entries map[string]Choice
	changed func()
}

func (b *book) Find(name string) (Choice, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.entries[name]
	return c, ok
}

func (b *book) Watch(ctx context.Context, changed func()) {
	b.mu.Lock()
	b.changed = changed
	b.mu.Unlock()
	<-ctx.Done()
}

func (b *book) set(name string, chosen int, links ...string) {
	c := Choice{Chosen: chosen, From: "the test"}
	for _, l := range links {
		p, _ := link.Parse(l)
		c.Profiles = append(c.Profiles, p)
	}
	b.mu.Lock()
	b.entries[name] = c
	changed := b.changed
	b.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// through asks for a page through a route, and returns who answered; "" is nobody.
func through(t *Tunnels, route string) string {
	at, ok := t.Server(route)
	if !ok {
		return ""
	}
	resp, err := client(at).Get("http://192.0.2.1/")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(body))
}

func client(s Server) *http.Client {
	return clientBy("socks5", s.At, url.UserPassword(s.User, s.Password))
}

func clientBy(scheme string, at netip.AddrPort, user *url.Userinfo) *http.Client {
	proxy := &url.URL{Scheme: scheme, Host: at.String(), User: user}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil }, DisableKeepAlives: true,
	}}
}

// wait waits until something holds.
func wait(t *testing.T, x *Tunnels, what string, ok func() bool) {
	t.Helper()
	for range 1500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("never: %s\n%+v\n%s", what, x.Status(), strings.Join(x.Log(), "\n"))
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestRoutes: two routes and one over two proxies; a proxy dies, the choice of the user
// changes, links change: all without another start, and what is open goes on.
func TestRoutes(t *testing.T) {
	t.Parallel()
	one, two := newServer(t, "one"), newServer(t, "two")
	b := &book{entries: map[string]Choice{}}
	b.set("One", -1, one.link+"#One")
	b.set("Two", -1, two.link+"#Two")
	b.set("Pair", 0, one.link+"#First", two.link+"#Second")
	var mu sync.Mutex
	var health Health
	o := Options{
		Binary: xraytest.Binary(t), Dir: t.TempDir(), Source: b, Log: quiet(), Probe: "http://192.0.2.1/", Every: time.Second,
		Changed: func(h Health) { mu.Lock(); health = h; mu.Unlock() },
	}
	x := New(o)
	run(t, x.Run)
	x.Want([]Route{{Name: "a", Profile: "One"}, {Name: "b", Profile: "Two"}, {Name: "both ways", Profile: "Pair"}, {Name: "c", Profile: "Nobody"}})
	alive := func(route string, want state.Truth) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return health.Alive[route] == want }
	}
	wait(t, x, "a lives", alive("a", state.True))
	wait(t, x, "b lives", alive("b", state.True))
	wait(t, x, "c is known to be dead", alive("c", state.False))
	pid := running(t, x)
	if a, b, both := through(x, "a"), through(x, "b"), through(x, "both ways"); a != "one" || b != "two" || both != "one" {
		t.Errorf("a is %q, b %q, both %q", a, b, both)
	}
	if _, ok := x.Server("c"); ok {
		t.Error("a route without a proxy has a server")
	}

	// Who does not know the password is not served, be it by SOCKS or HTTP.
	a, _ := x.Server("a")
	for scheme, user := range map[string]*url.Userinfo{"socks5": nil, "http": nil, "socks5h": url.UserPassword(a.User, "guess")} {
		resp, err := clientBy(scheme, a.At, user).Get("http://192.0.2.1/")
		if err != nil {
			continue
		}
		if body, _ := io.ReadAll(resp.Body); strings.Contains(string(body), "one") {
			t.Errorf("%s as %v is served", scheme, user)
		}
		resp.Body.Close()
	}

	// The user's choice changes: new connections take the other proxy, those that
	// are open stay.
	at, _ := x.Server("both ways")
	resp, err := client(at).Get("http://192.0.2.1/wait")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	open := bufio.NewReader(resp.Body)
	if line, err := open.ReadString('\n'); err != nil || line != "one\n" {
		t.Fatalf("%q, %v", line, err)
	}
	var took []time.Duration
	for i := range 10 {
		want := []string{"two", "one"}[i%2]
		b.mu.Lock()
		c := b.entries["Pair"]
		c.Chosen = 1 - i%2
		b.entries["Pair"] = c
		b.mu.Unlock()
		began := time.Now()
		b.changed()
		wait(t, x, "the other proxy", func() bool { return through(x, "both ways") == want })
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("after the user's choice the first connection on the other proxy was done after %v (median), %v at the most", took[len(took)/2], took[len(took)-1])
	close(one.rest)
	if rest, err := io.ReadAll(open); err != nil || string(rest) != "the rest\n" {
		t.Errorf("what was open ended: %q, %v", rest, err)
	}

	// Another proxy in the place of one, without another start.
	b.set("One", -1, two.link+"#One")
	wait(t, x, "a over the other server", func() bool { return through(x, "a") == "two" })
	b.set("One", -1, one.link+"#One")
	wait(t, x, "a over its server", func() bool { return through(x, "a") == "one" })

	// A proxy that is lost keeps what it was, and says so.
	b.mu.Lock()
	delete(b.entries, "One")
	b.mu.Unlock()
	b.changed()
	wait(t, x, "the loss is told", func() bool {
		return strings.Contains(fmt.Sprint(x.Status().Problems), `route a: there is no proxy called "One"`)
	})
	if through(x, "a") != "one" {
		t.Error("the last good proxy is gone")
	}

	// A server dies: its route is dead, and the one over both moves.
	if err := one.xray.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, x, "a is dead", alive("a", state.False))
	wait(t, x, "the pair moves", func() bool { return through(x, "both ways") == "two" })
	if st := x.Status(); st.PID != pid || st.Restarts != 0 {
		t.Errorf("xray was started again: %+v", st)
	}
	if text := fmt.Sprintf("%+v", x.Status()) + strings.Join(x.Log(), ""); strings.Contains(text, secret) || strings.Contains(text, a.Password) {
		t.Error("a secret is told")
	}

	// Xray is killed: what it was told is told again.
	kill(t, pid)
	wait(t, x, "another xray", func() bool { st := x.Status(); return st.State == "running" && st.PID != pid })
	wait(t, x, "the pair again", func() bool { return through(x, "both ways") == "two" })

	// Stopped by the user: nothing is carried, and that is known.
	if err := x.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, x, "b is dead", alive("b", state.False))
	if through(x, "b") != "" {
		t.Error("a stopped tunnel carries")
	}
	if at, ok := x.Server("b"); ok {
		t.Error("a stopped tunnel has a server, on a port that others can take: ", at)
	}
	if err := x.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, x, "b again", func() bool { return through(x, "b") == "two" })
}

// TestNextStart: a next start asks for the same configuration, with the same ports, and
// so adopts; and it finds other ports when somebody else has one.
func TestNextStart(t *testing.T) {
	t.Parallel()
	one := newServer(t, "one")
	path := filepath.Join(t.TempDir(), "links.txt")
	if err := os.WriteFile(path, []byte(one.link+"#One\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := OpenFiles(filepath.Dir(path), []string{"links.txt", "none.txt"}, nil)
	if p := files.Problems(); len(p) != 2 || !strings.Contains(p[0], "line 2") || !strings.Contains(p[1], "none.txt: no such file") {
		t.Error(p)
	}
	o := Options{Binary: xraytest.Binary(t), Dir: t.TempDir(), Source: files, Log: quiet(), Leave: func() bool { return true }}
	first := New(o)
	stop := run(t, first.Run)
	first.Want([]Route{{Name: "a", Profile: "One"}})
	wait(t, first, "it carries", func() bool { return through(first, "a") == "one" })
	pid, at := running(t, first), must(first.Server("a"))
	stop()
	if resp, err := client(at).Get("http://192.0.2.1/"); err != nil {
		t.Error("it does not serve meanwhile: ", err)
	} else {
		resp.Body.Close()
	}
	o.Leave = nil
	next := New(o)
	stop = run(t, next.Run)
	next.Want([]Route{{Name: "a", Profile: "One"}})
	wait(t, next, "it carries", func() bool { return through(next, "a") == "one" })
	running(t, next)
	if st := next.Status(); st.PID != pid || !st.Adopted || must(next.Server("a")) != at {
		t.Errorf("%+v, it was %d", st, pid)
	}
	// It is killed, and its port is somebody else's before it comes back.
	kill(t, pid)
	var taken net.Listener
	for taken == nil {
		taken, _ = net.Listen("tcp", at.At.String())
	}
	defer taken.Close()
	wait(t, next, "another port", func() bool { return must(next.Server("a")).At != at.At && through(next, "a") == "one" })
	stop()
	if st := next.Status(); st.PID != 0 {
		t.Errorf("%+v", st)
	}
}

// TestRefusedByXray: a proxy that only Xray itself finds fault with costs no other, at the
// start and later, and one whose name stood for another before keeps that.
func TestRefusedByXray(t *testing.T) {
	t.Parallel()
	one := newServer(t, "one")
	// The password is there to take tags out of what Xray prints.
	const bad = "trojan://outbound@192.0.2.1:443?sni=s.example&type=raw&fm=%7B%22tcp%22%3A%5B%7B%22type%22%3A%22fragment%22%7D%5D%7D"
	b := &book{entries: map[string]Choice{}}
	b.set("Many", -1, bad+"#out-Home", one.link+"#Good", strings.Replace(bad, "443", "444", 1)+"#More")
	b.set("One", -1, one.link+"#One")
	x := New(Options{Binary: xraytest.Binary(t), Dir: t.TempDir(), Source: b, Log: quiet()})
	run(t, x.Run)
	x.Want([]Route{{Name: "a", Profile: "Many"}, {Name: "b", Profile: "One"}})
	wait(t, x, "what is good carries", func() bool { return through(x, "a") == "one" && through(x, "b") == "one" })
	if p := strings.Join(x.Status().Problems, "\n"); strings.Count(p, "Xray refuses it: ") != 2 || !strings.Contains(p, "route a: trojan 192.0.2.1:443: ") {
		t.Error(p)
	}
	pid := running(t, x)
	b.set("One", -1, bad+"#One")
	wait(t, x, "the refusal is told", func() bool { return strings.Contains(fmt.Sprint(x.Status().Problems), "route b: ") })
	wait(t, x, "nothing is left to do", func() bool { return len(x.Status().Problems) == 3 })
	if through(x, "b") != "one" || x.Status().PID != pid {
		t.Errorf("the last good proxy is gone: %+v", x.Status())
	}
}

// TestAmendAgain: an outbound that is there already, since it was not taken out, is used;
// and what Xray was not told is told again, also where nothing is measured.
func TestAmendAgain(t *testing.T) {
	t.Parallel()
	one, two := newServer(t, "one"), newServer(t, "two")
	b := &book{entries: map[string]Choice{}}
	b.set("One", -1, one.link+"#One")
	x := New(Options{Binary: xraytest.Binary(t), Dir: t.TempDir(), Source: b, Log: quiet()})
	run(t, x.Run)
	x.Want([]Route{{Name: "a", Profile: "One"}})
	carries := func(want string) func() bool { return func() bool { return through(x, "a") == want } }
	wait(t, x, "it carries", func() bool { return carries("one")() && snapshot(x).Data != nil })
	first := snapshot(x)
	b.set("One", -1, two.link+"#One")
	wait(t, x, "it carries over the other", func() bool { return carries("two")() && !bytes.Equal(snapshot(x).Data, first.Data) })
	second := snapshot(x)
	added, gone, live := compare(second.Data, first.Data)
	if added == nil || len(gone) != 1 || !live {
		t.Fatal(string(added), gone, live)
	}
	wait(t, x, "the first is taken out", func() bool {
		tags, err := x.client.Outbounds(t.Context())
		return err == nil && len(tags) == 2
	})
	if err := x.xray.Amend(t.Context(), second, added); err != nil {
		t.Fatal(err)
	}
	b.set("One", -1, one.link+"#One")
	wait(t, x, "it carries over the first", carries("one"))

	if err := x.client.Override(t.Context(), "grp-a", ""); err != nil {
		t.Fatal(err)
	}
	x.mu.Lock()
	x.groups[0].told = ""
	x.mu.Unlock()
	wait(t, x, "xray is told again", func() bool {
		tag, err := x.client.Overridden(t.Context(), "grp-a")
		return err == nil && tag != ""
	})
}

// TestSlowStart: while an Xray does not get ready its routes are dead, not unknown.
func TestSlowStart(t *testing.T) {
	t.Parallel()
	one := newServer(t, "one")
	dir := t.TempDir()
	slow, ready := filepath.Join(dir, "xray"), filepath.Join(dir, "ready")
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in 'run -config stdin:') while ! test -e %s; do sleep 0.1; done;; esac\nexec %s \"$@\"\n", ready, xraytest.Binary(t))
	if err := os.WriteFile(slow+".sh", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	// A file that we wrote ourselves could be open for writing still in what another test starts.
	if out, err := exec.Command("cp", slow+".sh", slow).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := &book{entries: map[string]Choice{}}
	b.set("One", -1, one.link+"#One")
	var mu sync.Mutex
	var told []state.Truth
	x := New(Options{
		Binary: slow, Dir: t.TempDir(), Source: b, Log: quiet(),
		Changed: func(h Health) { mu.Lock(); told = append(told, h.Alive["a"]); mu.Unlock() },
	})
	run(t, x.Run)
	x.Want([]Route{{Name: "a", Profile: "One"}})
	wait(t, x, "starting", func() bool { return x.Status().Reason == "it is starting" })
	mu.Lock()
	if !slices.Equal(told, []state.Truth{state.False}) {
		t.Errorf("while it starts a is told to be %v", told)
	}
	mu.Unlock()
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wait(t, x, "it carries", func() bool { return through(x, "a") == "one" })
	wait(t, x, "a is not dead", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(told, []state.Truth{state.False, state.Unset})
	})
}

// snapshot returns what was applied last.
func snapshot(x *Tunnels) process.Config {
	x.mu.Lock()
	defer x.mu.Unlock()
	return process.Config{Data: x.applied}
}

// kill kills one process; 0 would be our own group.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 0 {
		t.Fatal("no process to kill")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// running waits until Xray runs and returns its pid.
func running(t *testing.T, x *Tunnels) int {
	t.Helper()
	wait(t, x, "running", func() bool { return x.Status().State == "running" })
	return x.Status().PID
}

func must(s Server, _ bool) Server { return s }
