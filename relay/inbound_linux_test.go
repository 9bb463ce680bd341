package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/socks"
)

func TestSOCKS(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	at6 := serveTCP(t, "[::1]:0", echo)
	refused := closedPort(t)
	_, server := mixed(t, func(a *Ask, v *Verdict) {
		direct(a, v)
		if name, _ := a.Flow.Domain.Get(); name == "blocked.example" {
			v.Do = Reject
		}
	}, func(c *Config) {
		c.Resolver = names{"echo.example": {at.Addr()}, "nothing.example": nil}
	})
	for _, c := range []struct {
		name string
		to   target
		code byte
	}{
		{"IPv4", socks.TargetOf(at), socks.ReplyOK},
		{"IPv6", socks.TargetOf(at6), socks.ReplyOK},
		{"name", target{Name: "echo.example", Port: at.Port()}, socks.ReplyOK},
		{"address as name", target{Name: "127.0.0.1", Port: at.Port()}, socks.ReplyOK},
		{"refused", socks.TargetOf(refused), socks.ReplyRefused},
		{"no such name", target{Name: "nothing.example", Port: 1}, socks.ReplyUnreachable},
		{"blocked", target{Name: "blocked.example", Port: 1}, socks.ReplyNotAllowed},
		{"the relay itself", socks.TargetOf(server), socks.ReplyFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := socksTo(server, c.to)
			if c.code != socks.ReplyOK {
				var said socks.ServerError
				if !errors.As(err, &said) || said.Code != c.code {
					t.Fatalf("got %v, want code %d", err, c.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := say(conn, "hello"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// names is a Resolver.
type names map[string][]netip.Addr

func closedPort(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestPasswords(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	_, server := mixed(t, direct, func(c *Config) { c.Inbounds[0].Users = map[string]string{"ada": "secret"} })
	for _, c := range []struct {
		user, password string
		ok             bool
	}{{"ada", "secret", true}, {"ada", "wrong", false}, {"bob", "", false}, {"", "", false}} {
		conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(server))
		if err != nil {
			t.Fatal(err)
		}
		_, err = socks.Ask(conn, c.user, c.password, socks.Connect, socks.TargetOf(at))
		if (err == nil) != c.ok {
			t.Errorf("SOCKS %s:%s: %v", c.user, c.password, err)
		}
		_ = conn.Close()

		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "yes") }))
		proxy := &url.URL{Scheme: "http", Host: server.String(), User: url.UserPassword(c.user, c.password)}
		client := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
		res, err := client.Get(web.URL)
		if err != nil {
			t.Fatal(err)
		}
		if (res.StatusCode == http.StatusOK) != c.ok || !c.ok && res.StatusCode != http.StatusProxyAuthRequired {
			t.Errorf("HTTP %s:%s: %s", c.user, c.password, res.Status)
		}
		_ = res.Body.Close()
		web.Close()
	}
}

func TestHTTP(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for name := range r.Header {
			if strings.HasPrefix(name, "Proxy-") {
				t.Errorf("the far end sees %s", name)
			}
		}
		_, _ = io.WriteString(w, r.Method+" "+r.URL.String()+" "+string(body))
	}
	web := httptest.NewServer(http.HandlerFunc(answer))
	defer web.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(answer))
	defer secure.Close()
	_, server := mixed(t, func(a *Ask, v *Verdict) {
		direct(a, v)
		if port, _ := a.Flow.DstPort.Get(); port == 9 {
			v.Do = Drop
		}
	}, nil)
	// The client sends a password that nobody asked for: it is not for the far end.
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: server.String(), User: url.UserPassword("ada", "secret")})}
	transport.TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	for _, c := range []struct{ method, url, body, want string }{
		{"GET", web.URL + "/a?b=c", "", "GET /a?b=c "},
		{"POST", web.URL + "/x", "body", "POST /x body"},
		{"PUT", web.URL + "/", strings.Repeat("long ", 50_000), "PUT / " + strings.Repeat("long ", 50_000)},
		{"POST", web.URL + "/", "", "POST / "},
		{"GET", secure.URL + "/s", "", "GET /s "},
	} {
		for _, chunked := range []bool{false, true} {
			var body io.Reader = strings.NewReader(c.body)
			if chunked && c.body != "" {
				body = io.MultiReader(body) // a length that nobody knows
			}
			req, err := http.NewRequest(c.method, c.url, body)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if string(got) != c.want {
				t.Errorf("%s %s: got %.100q, want %.100q", c.method, c.url, got, c.want)
			}
		}
	}
	res, err := client.Get("http://127.0.0.1:9/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("blocked: got %s", res.Status)
	}
}

// A second request on the connection must not reach the far end of the first.
func TestOneRequest(t *testing.T) {
	got := make(chan []byte, 1)
	at := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		var b bytes.Buffer
		buf := make([]byte, 4096)
		for !bytes.Contains(b.Bytes(), []byte("\r\n\r\n")) {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			b.Write(buf[:n])
		}
		got <- bytes.Clone(b.Bytes())
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	_, server := mixed(t, direct, nil)
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(server))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET http://"+at.String()+"/1 HTTP/1.1\r\nHost: "+at.String()+"\r\n\r\nGET http://192.0.2.1/2 HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n")
	answer, _ := io.ReadAll(c)
	if b := <-got; bytes.Contains(b, []byte("/2")) || !bytes.HasPrefix(b, []byte("GET /1 HTTP/1.1\r\n")) {
		t.Errorf("the far end got %q", b)
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 204")) {
		t.Errorf("the client got %q", answer)
	}
}

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("needs curl")
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a server that does not may reset the upload, and so does the relay then
		_, _ = io.WriteString(w, "yes")
	}))
	defer web.Close()
	_, server := mixed(t, direct, nil)
	for _, args := range [][]string{
		{"--socks5", server.String()},
		{"--socks5-hostname", server.String()},
		{"-x", "http://" + server.String()},
		{"-p", "-x", "http://" + server.String()},
		{"-x", "http://" + server.String(), "-H", "Expect: 100-continue", "-d", strings.Repeat("x", 100_000)},
	} {
		out, err := exec.Command(curl, append(args, "-sS", "--noproxy", "", web.URL)...).CombinedOutput()
		if err != nil || string(out) != "yes" {
			t.Errorf("curl %v: %v: %.200s", args, err, out)
		}
	}
}

func (n names) Resolve(_ context.Context, _ netip.Addr, name string, _ *Way) ([]netip.Addr, error) {
	return n[name], nil
}

// TestReopen: inbounds come and go while the others, and all connections, stay.
func TestReopen(t *testing.T) {
	at := serveTCP(t, "127.0.0.1:0", echo)
	free := func() netip.AddrPort { return closedPort(t) }
	one, two, three := free(), free(), free()
	inbound := func(a netip.AddrPort) Inbound { return Inbound{Kind: Mixed, Listen: a} }
	r := start(t, Config{Inbounds: []Inbound{inbound(one), inbound(two)}, Decider: deciderFunc(direct), Mark: markIfRoot()})
	byOne, byTwo := mustSOCKS(t, one, at), mustSOCKS(t, two, at)
	waits, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(two)) // says nothing yet
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	eventually(t, "all are in the table", func() bool { return len(r.Conns()) == 3 })

	closed, err := net.Listen("tcp", "127.0.0.1:0") // somebody else's
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	taken := closed.Addr().(*net.TCPAddr).AddrPort()
	if err := r.Reopen([]Inbound{inbound(one), inbound(three), inbound(taken)}); err == nil || !strings.Contains(err.Error(), taken.String()) {
		t.Errorf("an address that is taken: %v", err)
	}
	if got := r.Addrs(); !slices.Equal(got, []netip.AddrPort{one, three}) {
		t.Errorf("open: %v", got)
	}
	for name, c := range map[string]*net.TCPConn{"of the inbound that stays": byOne, "of the inbound that has gone": byTwo} {
		if err := say(c, "still here"); err != nil {
			t.Errorf("the connection %s: %v", name, err)
		}
	}
	if _, err := socks.Ask(waits, "", "", socks.Connect, socks.TargetOf(at)); err != nil {
		t.Errorf("the one that was not through yet: %v", err)
	}
	if c, err := socksTo(two, socks.TargetOf(at)); err == nil {
		_ = c.Close()
		t.Error("the inbound that has gone takes connections")
	}
	for _, server := range []netip.AddrPort{one, three} {
		if err := say(mustSOCKS(t, server, at), "hello"); err != nil {
			t.Errorf("%s: %v", server, err)
		}
	}
	if c, err := socksTo(one, socks.TargetOf(three)); err == nil { // a new listener is the relay itself, too
		_ = c.Close()
		t.Error("the relay reaches itself")
	}
	// Other users at the same address are another inbound.
	private := inbound(one)
	private.Users = map[string]string{"ada": "secret"}
	if err := r.Reopen([]Inbound{private}); err != nil {
		t.Fatal(err)
	}
	if c, err := socksTo(one, socks.TargetOf(at)); err == nil {
		_ = c.Close()
		t.Error("nobody is asked for a password")
	}
	if err := say(byOne, "and here"); err != nil {
		t.Error(err)
	}
}
