package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"netpolicy.dev/netpolicy/internal/apitest"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/internal/telemetry"
)

// site is a server over TCP on loopback.
type site struct {
	t        *testing.T
	url      string
	tokens   *Tokens
	records  *telemetry.Ring
	fake     *fake
	client   *http.Client
	contract *apitest.Contract
}

// hostile is a policy's, a server's or a program's text that wants to be a script.
const hostile = `<script>alert(1)</script>"'>&\u2028`

func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.Bytes()
}

var assets = fstest.MapFS{
	"index.html":            {Data: []byte("<title>netpolicy</title>")},
	"assets/app-1a2b.js":    {Data: []byte("plain")},
	"assets/app-1a2b.js.gz": {Data: zipped("plain")},
	"assets/only-3c.css.gz": {Data: zipped("packed")},
	"icon.svg":              {Data: []byte("<svg/>")},
}

func newSite(t *testing.T, o TCP, set func(*Server)) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := OpenTokens(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{result: ReloadResult{Result: Applied, Diagnostics: []Diagnostic{}}}
	s := &Server{Reader: f, Admin: f, Changes: f, Lister: f, Records: telemetry.NewRing(4), Metrics: func(w io.Writer) { io.WriteString(w, "up 1\n") }, Tokens: tokens}
	if set != nil {
		set(s)
	}
	o.Assets = assets
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.RunTCP(ctx, l, o) }()
	contract := apitest.Load(t, contract)
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	k := &site{t, "http://" + l.Addr().String(), tokens, s.Records, f, &http.Client{Transport: contract.Watch(t, transport)}, contract}
	if o.CertFile != "" {
		k.url = "https" + strings.TrimPrefix(k.url, "http")
	}
	k.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return k
}

// ask makes a request. set may change it.
func (k *site) ask(method, path, body string, set func(*http.Request)) (*http.Response, string) {
	k.t.Helper()
	r, err := http.NewRequestWithContext(k.t.Context(), method, k.url+path, strings.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	} else {
		r.Body = nil
	}
	if set != nil {
		set(r)
	}
	resp, err := k.client.Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return resp, string(b)
}

// bearer sets the token of a role.
func (k *site) bearer(role Role) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+k.tokens.Get(role)) }
}

// login returns the cookie of a role.
func (k *site) login(role Role) *http.Cookie {
	k.t.Helper()
	resp, body := k.ask("POST", "/api/v1/login", fmt.Sprintf(`{"token":%q}`, k.tokens.Get(role)), nil)
	if resp.StatusCode != http.StatusOK || len(resp.Cookies()) != 1 {
		k.t.Fatalf("login: %d %s", resp.StatusCode, body)
	}
	return resp.Cookies()[0]
}

// TestDeniedByDefault asks for every route of the contract, and for others, without a token.
func TestDeniedByDefault(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	for _, o := range k.contract.Operations {
		path := strings.NewReplacer("{id}", "7", "{ref}", "1", "{profile}", "heap").Replace(o.Path)
		for who, set := range map[string]func(*http.Request){
			"nobody":                nil,
			"a cookie that is none": func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookieOf(r), Value: "x"}) },
		} {
			resp, body := k.ask(o.Method, path, "", set)
			want := http.StatusUnauthorized
			if o.Role == "open" {
				want = http.StatusNoContent // logout; login has no body here
				if o.Path == "/api/v1/login" {
					want = http.StatusBadRequest
				}
			}
			if resp.StatusCode != want {
				t.Errorf("%s: %s %s: %d %s, want %d", who, o.Method, path, resp.StatusCode, body, want)
			}
			if how := resp.Header.Get("WWW-Authenticate"); (how != "") != (want == http.StatusUnauthorized) {
				t.Errorf("%s: %s %s: WWW-Authenticate of the answer %d is %q", who, o.Method, path, want, how)
			}
		}
	}
	for _, path := range []string{"/api", "/api/", "/api/v2/status", "/debug/vars", "/debug/pprof/", "/api//v1/status", "/api/v1/../v1/status", "/api/v1/./status", "/api/v1/status/"} {
		if resp, body := k.ask("GET", path, "", nil); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

// TestRoles: the token for reading alone changes nothing, and what is the unix socket's is nobody's here.
func TestRoles(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	cookie := k.login(RoleRead)
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Domain != "" {
		t.Errorf("the cookie is %v", cookie)
	}
	ways := map[string]func(*http.Request){
		"token": k.bearer(RoleRead), "cookie": func(r *http.Request) { r.AddCookie(cookie) },
	}
	for how, set := range ways {
		if resp, body := k.ask("GET", "/api/v1/status", "", set); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status: %d %s", how, resp.StatusCode, body)
		}
		if _, body := k.ask("GET", "/api/v1/session", "", set); !strings.Contains(body, `"role":"read","by":"`+how+`"`) {
			t.Errorf("%s: session: %s", how, body)
		}
		for _, o := range k.contract.Operations {
			path := strings.NewReplacer("{id}", "7", "{ref}", "1", "{profile}", "heap").Replace(o.Path)
			refused := func(set func(*http.Request), want int) {
				if resp, body := k.ask(o.Method, path, "{}", set); resp.StatusCode != want {
					t.Errorf("%s: %s %s: %d %s, want %d", how, o.Method, path, resp.StatusCode, body, want)
				}
			}
			switch o.Role {
			case "admin":
				refused(set, http.StatusForbidden)
			case "local":
				refused(set, http.StatusNotFound)
				refused(k.bearer(RoleAdmin), http.StatusNotFound)
			}
		}
	}
	if k.fake.forced != (ForceRequest{}) {
		t.Error("something was changed")
	}
	if resp, body := k.ask("POST", "/api/v1/reload", "{}", k.bearer(RoleAdmin)); resp.StatusCode != http.StatusOK {
		t.Errorf("the admin's token: %d %s", resp.StatusCode, body)
	}
	if resp, _ := k.ask("POST", "/api/v1/logout", "", ways["cookie"]); resp.StatusCode != http.StatusNoContent {
		t.Errorf("logout: %d", resp.StatusCode)
	}
	if resp, _ := k.ask("GET", "/api/v1/status", "", ways["cookie"]); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the logout: %d", resp.StatusCode)
	}
	again := k.login(RoleAdmin)
	if _, err := k.tokens.Renew(RoleAdmin); err != nil {
		t.Fatal(err)
	}
	if resp, _ := k.ask("GET", "/api/v1/status", "", func(r *http.Request) { r.AddCookie(again) }); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a session of a token that was renewed: %d", resp.StatusCode)
	}
}

// TestConfined: whoever comes over TCP can't have files read by naming them; over the unix socket one can.
func TestConfined(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	c := serve(t, k.fake, k.records)
	policy := `{"policy":{"name":"p.npl","main":"cG9saWN5IDEK"}}`
	for _, o := range [][2]string{{"config/stage", `{"text":"policy 1\n"}`}, {"config/commit", policy}, {"plan", policy}} {
		k.fake.confined = false
		if resp, body := k.ask("POST", "/api/v1/"+o[0], o[1], k.bearer(RoleAdmin)); resp.StatusCode != http.StatusOK || !k.fake.confined {
			t.Errorf("%s over TCP: %d %s, confined %v", o[0], resp.StatusCode, body, k.fake.confined)
		}
	}
	b := policyfile.Bundle{Name: "p.npl", Main: []byte("policy 1\n")}
	if _, err := c.Change(t.Context(), ChangeRequest{Do: DoApply, Policy: &b}); err != nil || k.fake.confined {
		t.Errorf("a change over the unix socket: %v, confined %v", err, k.fake.confined)
	}
	k.fake.confined = true
	if _, err := c.Compare(t.Context(), PlanRequest{Policy: &b}); err != nil || k.fake.confined {
		t.Errorf("a plan over the unix socket: %v, confined %v", err, k.fake.confined)
	}
}

// secretPolicy is a policy whose URLs are secrets.
const secretPolicy = "policy 1\n# once https://hooks.example/s3cr3t\ndaemon { alerts \"https://hooks.example/s3cr3t\" }\n"

// TestSecretsOfTexts: the role read sees no secret of the policy, wherever it is quoted.
func TestSecretsOfTexts(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) {
		s.Desk = desk{}
		s.Feeds.Logs, s.Feeds.Changes = telemetry.NewRing(4), telemetry.NewRing(4)
		s.Feeds.Logs.Append([]byte(`{"time":"2026-02-03T03:00:00Z","level":"WARN","msg":"https://hooks.example/s3cr3t?a=1\u0026b=s3cr3t"}`))
	})
	k.fake.policy = policyfile.Bundle{Name: "/etc/p.npl", Main: []byte(secretPolicy), Files: map[string][]byte{"more.npl": []byte(secretPolicy)}}
	k.fake.plan = PlanAnswer{Diagnostics: []Diagnostic{{Code: "NP110", Severity: "warning", Message: "no https://hooks.example/s3cr3t"}}, Diff: "+ https://hooks.example/s3cr3t"}
	if resp, body := k.ask("POST", "/api/v1/config/stage", fmt.Sprintf(`{"text":%q}`, secretPolicy), k.bearer(RoleAdmin)); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	k.fake.changed = fmt.Errorf("no https://hooks.example/s3cr3t: %w", ErrConflict)
	shows := func(body string) bool {
		for _, part := range strings.FieldsFunc(body, func(r rune) bool { return r == '"' }) {
			if b, err := base64.StdEncoding.DecodeString(part); err == nil {
				body += string(b)
			}
		}
		return strings.Contains(body, "s3cr3t")
	}
	for _, path := range []string{
		"/api/v1/config", "/api/v1/config?syntax=yaml", "/api/v1/config/versions/1", "/api/v1/config/versions?diff=1", "/api/v1/config/stage",
		"/api/v1/logs", "/api/v1/plan", "/api/v1/status", "/api/v1/config/versions/2",
	} {
		resp, body := k.ask("GET", path, "", k.bearer(RoleAdmin))
		if !shows(body) {
			t.Errorf("%s: %d, nothing to see for the admin: %s", path, resp.StatusCode, body)
		}
		if resp, body := k.ask("GET", path, "", k.bearer(RoleRead)); shows(body) || !strings.Contains(body, "://") && !strings.Contains(body, "Oi8v") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	// What the caller has sent comes back as it was.
	if _, body := k.ask("POST", "/api/v1/format", fmt.Sprintf(`{"text":%q}`, secretPolicy), k.bearer(RoleRead)); !strings.Contains(body, "s3cr3t") {
		t.Errorf("format: %s", body)
	}
	for _, path := range []string{"/api/v1/events?topics=logs,status&last=4", "/api/v1/decisions?last=1&follow=1"} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", k.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		k.bearer(RoleRead)(r)
		k.records.Append([]byte(`{"name":"https://hooks.example/s3cr3t"}`))
		resp, err := k.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for lines := bufio.NewScanner(resp.Body); !strings.Contains(got, "hooks.example/") && lines.Scan(); {
			got = lines.Text()
		}
		resp.Body.Close()
		if shows(got) || !strings.Contains(got, "hooks.example/***") {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// TestStreamsEnd: a stream goes on no longer than what its caller came by is good.
func TestStreamsEnd(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	for _, path := range []string{"/api/v1/decisions?follow=1", "/api/v1/events?topics=decisions"} {
		follow := func(set func(*http.Request)) *http.Response {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), "GET", k.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			set(r)
			resp, err := k.client.Do(r)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", resp, err)
			}
			t.Cleanup(func() { resp.Body.Close() })
			return resp
		}
		ended := func(name string, resp *http.Response) {
			t.Helper()
			if _, err := io.ReadAll(resp.Body); err != nil { // it does not come back before the end
				t.Errorf("%s: %v", name, err)
			}
		}
		withCookie := func(c *http.Cookie) func(*http.Request) { return func(r *http.Request) { r.AddCookie(c) } }
		one, other := k.login(RoleRead), k.login(RoleRead)
		token, admin := follow(k.bearer(RoleRead)), follow(k.bearer(RoleAdmin))
		cookie, second := follow(withCookie(one)), follow(withCookie(other))
		if resp, _ := k.ask("POST", "/api/v1/logout", "", withCookie(one)); resp.StatusCode != http.StatusNoContent {
			t.Fatalf("logout: %d", resp.StatusCode)
		}
		ended("a session that was logged out", cookie)
		if _, err := k.tokens.Renew(RoleRead); err != nil {
			t.Fatal(err)
		}
		ended("a token that was renewed", token)
		ended("a session of a token that was renewed", second)

		short := k.login(RoleRead)
		k.tokens.mu.Lock()
		for _, s := range k.tokens.sessions {
			s.until = time.Now().Add(50 * time.Millisecond)
		}
		k.tokens.mu.Unlock()
		ended("a session that is over", follow(withCookie(short)))

		// Another's goes on.
		k.records.Append([]byte(`{"id":"9"}`))
		b := make([]byte, 300)
		if n, err := admin.Body.Read(b); err != nil || !strings.Contains(string(b[:n]), `{"id":"9"}`) {
			t.Errorf("the admin's stream: %q, %v", b[:n], err)
		}
	}
	// Who was found out before and begins after is not forgotten.
	ctx, end := k.tokens.during(t.Context(), caller{role: RoleRead, by: byToken, token: "old"})
	defer end()
	if ctx.Err() == nil {
		t.Error("a stream begins with a token that was renewed")
	}
}

// TestCookies: each port has its own, and one that is none hides no other.
func TestCookies(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	cookie := k.login(RoleAdmin)
	if port := k.url[strings.LastIndexByte(k.url, ':')+1:]; cookie.Name != cookieName+"-"+port {
		t.Errorf("the cookie is %s", cookie.Name)
	}
	with := func(list ...string) int {
		resp, _ := k.ask("GET", "/api/v1/status", "", func(r *http.Request) { r.Header.Set("Cookie", strings.Join(list, "; ")) })
		return resp.StatusCode
	}
	right := cookie.Name + "=" + cookie.Value
	for _, list := range [][]string{{right}, {cookie.Name + "=x", right}, {right, cookie.Name + "=x"}, {cookieName + "=x", cookieName + "-1=x", right}} {
		if got := with(list...); got != http.StatusOK {
			t.Errorf("%q: %d", list, got)
		}
	}
	for _, list := range [][]string{{cookieName + "=" + cookie.Value}, {cookieName + "-1=" + cookie.Value}, {cookie.Name + "=x"}} {
		if got := with(list...); got != http.StatusUnauthorized {
			t.Errorf("%q: %d", list, got)
		}
	}
}

// TestOtherSites: what pages of other sites can have a browser do changes nothing.
func TestOtherSites(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	cookie := k.login(RoleAdmin)
	for name, set := range map[string]func(*http.Request){
		"another origin":      func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
		"no origin":           func(r *http.Request) { r.Header.Set("Origin", "null") },
		"another port":        func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:1") },
		"by fetch metadata":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"of a sibling's site": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
	} {
		for _, o := range [][2]string{{"POST", "/api/v1/reload"}, {"PUT", "/api/v1/state"}, {"DELETE", "/api/v1/connections/7"}, {"POST", "/api/v1/login"}, {"POST", "/api/v1/logout"}} {
			resp, body := k.ask(o[0], o[1], "{}", func(r *http.Request) { r.AddCookie(cookie); set(r) })
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %s %s: %d %s", name, o[0], o[1], resp.StatusCode, body)
			}
		}
		resp, _ := k.ask("OPTIONS", "/api/v1/status", "", func(r *http.Request) { set(r); r.Header.Set("Access-Control-Request-Method", "POST") })
		for key := range resp.Header {
			if strings.HasPrefix(key, "Access-Control-") {
				t.Errorf("%s: %s is allowed", name, key)
			}
		}
	}
	// What a form can send without asking first is no JSON.
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/json; charset=utf-16", "text/json", "gzip"} {
		resp, body := k.ask("PUT", "/api/v1/state", `{"state":"FAILOVER","for":"1m","reason":"x"}`, func(r *http.Request) {
			r.AddCookie(cookie)
			r.Header.Set("Content-Type", kind)
			if kind == "gzip" {
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Content-Encoding", "gzip")
			}
		})
		if resp.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("%q: %d %s", kind, resp.StatusCode, body)
		}
	}
	if k.fake.forced != (ForceRequest{}) {
		t.Error("something was changed")
	}
	resp, body := k.ask("PUT", "/api/v1/state", `{"state":"FAILOVER","for":"1m","reason":"x"}`, func(r *http.Request) {
		r.AddCookie(cookie)
		r.Header.Set("Origin", k.url)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	})
	if resp.StatusCode != http.StatusOK || k.fake.forced.Reason != "x" {
		t.Errorf("our own page: %d %s", resp.StatusCode, body)
	}
}

// TestRebinding: a name that others have lead here gets the same answer for everything, and none of ours.
func TestRebinding(t *testing.T) {
	k := newSite(t, TCP{Hosts: []string{"router.lan"}}, nil)
	answers := map[string]bool{}
	for _, host := range []string{"evil.example", "evil.example:80", "localhost.evil.example", "192.0.2.1", "", "127.0.0.1.evil.example", "[::2]:1"} {
		for _, path := range []string{"/", "/api/v1/status", "/api/v1/login", "/assets/app-1a2b.js", "/nothing"} {
			resp, body := k.ask("GET", path, "", func(r *http.Request) { r.Host = host; k.bearer(RoleAdmin)(r) })
			if host == "" { // the client puts the address there
				continue
			}
			resp.Header.Del("Date")
			answers[fmt.Sprint(resp.StatusCode, resp.Header, body)] = true
		}
	}
	if len(answers) != 1 {
		t.Errorf("%d different answers: %v", len(answers), answers)
	}
	for answer := range answers {
		if !strings.HasPrefix(answer, "404 ") || strings.Contains(answer, "Policy") || strings.Contains(answer, "Server") {
			t.Errorf("the answer tells who is here: %s", answer)
		}
	}
	for _, host := range []string{"localhost", "LOCALHOST:8443", "127.0.0.1", "[::1]:9", "router.lan", "Router.LAN:8443"} {
		if resp, body := k.ask("GET", "/api/v1/status", "", func(r *http.Request) { r.Host = host; k.bearer(RoleRead)(r) }); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", host, resp.StatusCode, body)
		}
	}
}

// TestBruteForce: wrong tokens are few, by whatever way, and a right one still opens.
func TestBruteForce(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	codes := map[int]int{}
	for i := range 2 * maxTries {
		var resp *http.Response
		if i%2 == 0 {
			resp, _ = k.ask("POST", "/api/v1/login", `{"token":"wrong"}`, nil)
		} else {
			resp, _ = k.ask("GET", "/api/v1/status", "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer wrong") })
		}
		codes[resp.StatusCode]++
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
			t.Error("nobody says when to try again")
		}
	}
	if codes[http.StatusUnauthorized] != maxTries || codes[http.StatusTooManyRequests] != maxTries {
		t.Errorf("answers: %v", codes)
	}
	k.login(RoleAdmin)
	for i := range 3 * maxSessions {
		k.tokens.begin(RoleRead)
		if n := len(k.tokens.sessions); n > maxSessions {
			t.Fatalf("%d sessions after %d", n, i)
		}
	}
}

// TestLimits: bodies, paths and methods that are not meant.
func TestLimits(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	admin := k.bearer(RoleAdmin)
	large := `{"reason":"` + strings.Repeat("x", maxBody) + `"}`
	if resp, body := k.ask("PUT", "/api/v1/state", large, admin); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d %.100s", resp.StatusCode, body)
	}
	for _, body := range []string{`{"reason":1}`, `{"unknown":1}`, `{} {}`, `[`, `nul`, `{"reason":"` + "\xff"} {
		if resp, _ := k.ask("PUT", "/api/v1/state", body, admin); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %d", body, resp.StatusCode)
		}
	}
	for _, path := range []string{
		"/api/v1/config/versions/..%2f..%2fetc%2fpasswd", "/..%2f..%2fetc/passwd", "/assets/..%2f..%2fetc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd",
		"/api/v1/..;/debug/pprof/heap", "//etc/passwd", "/assets/app-1a2b.js/../../../etc/passwd", "/%00", "/.git/config", "/assets/", "/assets/none.js",
	} {
		resp, body := k.ask("GET", path, "", admin)
		if strings.Contains(body, "root:") || resp.StatusCode >= 500 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
		if place := resp.Header.Get("Location"); strings.HasPrefix(place, "//") || strings.Contains(place, "..") {
			t.Errorf("%s: leads to %s", path, place)
		}
	}
	for _, o := range [][3]string{
		{"TRACE", "/api/v1/status", "GET, HEAD"},
		{"PATCH", "/api/v1/status", "GET, HEAD"},
		{"POST", "/api/v1/status", "GET, HEAD"},
		{"PATCH", "/api/v1/connections/5", "DELETE"},
		{"PUT", "/api/v1/config/stage", "DELETE, GET, HEAD, POST"},
		{"GET", "/api/v1/xray/parse", "POST"},
	} {
		if resp, _ := k.ask(o[0], o[1], "", admin); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != o[2] {
			t.Errorf("%s %s: %d, %q, want %q", o[0], o[1], resp.StatusCode, resp.Header.Get("Allow"), o[2])
		}
	}
	for _, path := range []string{"/api//v1/status", "/api/v1/../v1/status", "/api/v1/status/"} {
		if resp, _ := k.ask("GET", path, "", admin); resp.StatusCode != http.StatusNotFound || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %d, to %q", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	if resp := k.answered(k.raw("OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")); resp.StatusCode/100 != 4 {
		t.Errorf("OPTIONS *: %d", resp.StatusCode)
	}
	if resp, _ := k.ask("POST", "/index.html", "", admin); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST of a page: %d", resp.StatusCode)
	}
	resp, _ := k.ask("GET", "/api/v1/status", "", func(r *http.Request) {
		admin(r)
		r.Header.Set("Connection", "Upgrade, HTTP2-Settings")
		r.Header.Set("Upgrade", "h2c")
		r.Header.Set("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")
	})
	if resp.StatusCode == http.StatusSwitchingProtocols {
		t.Error("the server speaks HTTP/2 in the clear")
	}
}

// TestHostileTexts: what others have written comes back as JSON, and browsers are told to take it for nothing else.
func TestHostileTexts(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) {
		line, err := json.Marshal(map[string]string{"name": hostile})
		if err != nil {
			t.Fatal(err)
		}
		s.Records.Append(line)
	})
	k.fake.changed = fmt.Errorf("%s: %w", hostile, ErrConflict)
	for _, o := range [][3]string{
		{"GET", "/api/v1/decisions?last=1", ""},
		{"GET", "/api/v1/events?topics=" + "%3Cscript%3Ealert(1)", ""},
		{"GET", "/api/v1/connections?sort=%3Cscript%3E", ""},
		{"POST", "/api/v1/config/confirm", "{}"},
		{"GET", "/api/v1/%3Cscript%3E", ""},
		{"PUT", "/api/v1/state", `{"<script>":1}`},
	} {
		resp, body := k.ask(o[0], o[1], o[2], k.bearer(RoleAdmin))
		if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/") || !strings.HasSuffix(kind, "json") {
			t.Errorf("%s: the answer is %q", o[1], kind)
		}
		if strings.Contains(body, "<script") {
			t.Errorf("%s: not escaped: %s", o[1], body)
		}
	}
	for _, path := range []string{"/", "/api/v1/status", "/assets/app-1a2b.js", "/api/v1/login", "/nothing.txt"} {
		resp, _ := k.ask("GET", path, "", nil)
		h := resp.Header
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: no %s in %q", path, want, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
			t.Errorf("%s: %q", path, csp)
		}
		for key, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Server": "",
		} {
			if h.Get(key) != want {
				t.Errorf("%s: %s is %q", path, key, h.Get(key))
			}
		}
	}
}

// TestPages: the web interface's files need no token, are kept by browsers where they may, and come compressed.
func TestPages(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	for _, path := range []string{"/", "/index.html", "/rules", "/connections/7"} {
		// It names the other files, so that a browser must not keep it past an update.
		resp, body := k.ask("GET", path, "", nil)
		if resp.StatusCode != http.StatusOK || body != "<title>netpolicy</title>" || resp.Header.Get("Cache-Control") != "no-cache" || resp.Header.Get("ETag") == "" {
			t.Errorf("%s: %d %s %v", path, resp.StatusCode, body, resp.Header)
		}
	}
	for _, c := range []struct{ path, accept, encoding, body, kind string }{
		{"/assets/app-1a2b.js", "", "", "plain", "text/javascript; charset=utf-8"},
		{"/assets/app-1a2b.js", "br, gzip", "gzip", "plain", "text/javascript; charset=utf-8"},
		{"/assets/app-1a2b.js", "gzip;q=0", "", "plain", "text/javascript; charset=utf-8"},
		{"/assets/only-3c.css", "", "", "packed", "text/css; charset=utf-8"},
		{"/assets/only-3c.css", "gzip", "gzip", "packed", "text/css; charset=utf-8"},
		{"/icon.svg", "gzip", "", "<svg/>", "image/svg+xml"},
	} {
		resp, body := k.ask("GET", c.path, "", func(r *http.Request) { r.Header.Set("Accept-Encoding", c.accept) })
		if c.encoding == "gzip" {
			z, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(z)
			body = string(b)
		}
		if resp.StatusCode != http.StatusOK || body != c.body || resp.Header.Get("Content-Encoding") != c.encoding || resp.Header.Get("Content-Type") != c.kind {
			t.Errorf("%s, %q: %d %q %v", c.path, c.accept, resp.StatusCode, body, resp.Header)
		}
		if forever := strings.Contains(resp.Header.Get("Cache-Control"), "immutable"); forever != strings.HasPrefix(c.path, "/assets/") {
			t.Errorf("%s: %s", c.path, resp.Header.Get("Cache-Control"))
		}
		tag := resp.Header.Get("ETag")
		if resp, _ := k.ask("GET", c.path, "", func(r *http.Request) { r.Header.Set("If-None-Match", "W/"+tag) }); resp.StatusCode != http.StatusNotModified {
			t.Errorf("%s: %s again: %d", c.path, tag, resp.StatusCode)
		}
	}
}

// TestBrowsersOnTheSocket: a forwarded unix socket is no way around all this.
func TestBrowsersOnTheSocket(t *testing.T) {
	h := (&Server{Reader: &fake{}}).Handler()
	for _, header := range []string{"Origin", "Sec-Fetch-Site"} {
		r, err := http.NewRequest("GET", "/api/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(header, "same-origin")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: %d", header, w.Code)
		}
	}
}
