package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/lsp"
)

// raw sends the beginning of a request and returns the connection.
func (k *site) raw(text string) net.Conn {
	k.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(k.url, "http://"))
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		k.t.Fatal(err)
	}
	return conn
}

// head is the head of a request with a body of some bytes; role "" shows no token.
func (k *site) head(path string, role Role, length int) string {
	text := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, length)
	if role != "" {
		text += "Authorization: Bearer " + k.tokens.Get(role) + "\r\n"
	}
	return text + "\r\n"
}

// answered reads the answer to what raw sent, and waits until the server has parted with us.
func (k *site) answered(conn net.Conn) *http.Response {
	k.t.Helper()
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		k.t.Fatal(err)
	}
	if resp.Close {
		if _, err := r.ReadByte(); err == nil {
			k.t.Error("something follows the answer")
		}
	}
	return resp
}

// TestStrangersHoldNoPlaces: more connections than there may be, whose requests never end,
// keep nobody out; and who has a token is not sent away for them.
func TestStrangersHoldNoPlaces(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) { s.stall = time.Hour })
	stream := k.raw("GET /api/v1/decisions?follow=1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + k.tokens.Get(RoleAdmin) + "\r\n\r\n")
	first, err := http.ReadResponse(bufio.NewReader(stream), nil)
	if err != nil || first.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", first, err)
	}
	for range maxConns + 50 {
		k.raw("POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n")
	}
	if resp, _ := k.ask("GET", "/", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("the page: %d", resp.StatusCode)
	}
	if resp, _ := k.ask("GET", "/api/v1/status", "", k.bearer(RoleRead)); resp.StatusCode != http.StatusOK {
		t.Errorf("the status: %d", resp.StatusCode)
	}
	k.records.Append([]byte(`{"id":"1"}`))
	b := make([]byte, 100)
	if n, err := stream.Read(b); err != nil || !strings.Contains(string(b[:n]), `{"id":"1"}`) {
		t.Errorf("the admin's stream: %q, %v", b[:n], err)
	}
}

// TestCrowd: of one address few connections may be strangers', and who has to leave is the one who has shown least.
func TestCrowd(t *testing.T) {
	c := &crowd{most: 6, strangers: 3}
	come := func(address string, rank int32) *visitor {
		v := &visitor{in: c, from: netip.MustParseAddr(address)}
		v.rank.Store(rank)
		return v
	}
	steps := []struct {
		name, address string
		rank          int32
		leaves        string
		refused       bool
	}{
		{"a", "192.0.2.1", stranger, "", false},
		{"b", "192.0.2.1", stranger, "", false},
		{"r", "192.0.2.9", reader, "", false},
		{"c", "192.0.2.1", stranger, "", false},
		{"d", "192.0.2.1", stranger, "a", false},
		{"admin", "192.0.2.1", admin, "b", false},
		{"e", "192.0.2.2", stranger, "", false},
		{"f", "192.0.2.3", stranger, "", false},
		{"g", "192.0.2.4", stranger, "c", false},
		{"h", "192.0.2.5", admin, "d", false},
		{"i", "192.0.2.6", admin, "e", false},
		{"j", "192.0.2.6", admin, "f", false},
		{"k", "192.0.2.6", admin, "g", false},
		{"l", "192.0.2.6", admin, "r", false},
		{"m", "192.0.2.7", stranger, "", true},
	}
	names := map[*visitor]string{nil: ""}
	for _, s := range steps {
		v := come(s.address, s.rank)
		names[v] = s.name
		leaves, ok := c.admit(v)
		if names[leaves] != s.leaves || ok == s.refused {
			t.Errorf("%s: %q leaves, %v; want %q, %v", s.name, names[leaves], ok, s.leaves, !s.refused)
		}
		if len(c.here) > c.most {
			t.Fatalf("%d are here", len(c.here))
		}
	}
	if a, b := networkOf(netip.MustParseAddr("2001:db8::1")), networkOf(netip.MustParseAddr("2001:db8::ffff")); a != b {
		t.Errorf("%s and %s are one network", a, b)
	}
}

// TestPartedWith: who is refused is not waited for, whatever was to come.
func TestPartedWith(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) { s.stall = time.Second })
	for _, c := range []struct {
		name, head string
		status     int
	}{
		{"no token", k.head("/api/v1/status", "", 100000), http.StatusUnauthorized},
		{"no such thing", k.head("/api/v1/nothing", RoleAdmin, 100000), http.StatusNotFound},
		{"another host", strings.Replace(k.head("/api/v1/status", RoleAdmin, 100000), "localhost", "evil.example", 1), http.StatusNotFound},
		{"for reading alone", k.head("/api/v1/reload", RoleRead, 100000), http.StatusForbidden},
		{"another site", strings.Replace(k.head("/api/v1/reload", RoleAdmin, 100000), "\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n", 1), http.StatusForbidden},
		{"a body that never comes", k.head("/api/v1/lint", RoleRead, 100), http.StatusRequestTimeout},
		{"a login that never comes", k.head("/api/v1/login", "", 100), http.StatusRequestTimeout},
		{"half a body", k.head("/api/v1/config/confirm", RoleAdmin, 100) + `{"n"`, http.StatusRequestTimeout},
		{"a large login", k.head("/api/v1/login", "", maxLogin+1) + strings.Repeat(" ", maxLogin+1), http.StatusRequestEntityTooLarge},
	} {
		if resp := k.answered(k.raw(c.head)); resp.StatusCode != c.status || !resp.Close {
			t.Errorf("%s: %s, close %v, want %d", c.name, resp.Status, resp.Close, c.status)
		}
	}
	// A connection whose requests are whole goes on.
	conn := k.raw(k.head("/api/v1/config/confirm", RoleAdmin, 7) + `{"n":1}`)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.Close {
		t.Errorf("%+v, %v", resp, err)
	}
}

// TestSlowBody: a body may take longer than its beginning, as long as it comes.
func TestSlowBody(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) { s.stall = 2 * time.Second })
	text := `{"policy":{"name":"p.npl","main":"` + strings.Repeat("QUJD", 2000) + `"}}`
	conn := k.raw(k.head("/api/v1/config/commit", RoleAdmin, len(text)))
	for _, part := range chunks(text, 1000) {
		if _, err := io.WriteString(conn, part); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // all of it takes longer than a stall may
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", resp, err)
	}
}

func chunks(text string, size int) (list []string) {
	for ; len(text) > size; text = text[size:] {
		list = append(list, text[:size])
	}
	return append(list, text)
}

// TestReadersHoldNoPlaces: who may only look can't take all turns, nor all streams, and
// questions whose text does not come take none.
func TestReadersHoldNoPlaces(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) { s.stall, s.Desk = time.Hour, desk{} })
	for range 2 * maxAsking {
		k.raw(k.head("/api/v1/xray/parse", RoleRead, 100))
	}
	// Those without a place were told.
	full := func(role Role) bool {
		resp, _ := k.ask("POST", "/api/v1/lint", `{"text":"policy 1\n"}`, k.bearer(role))
		return resp.StatusCode == http.StatusServiceUnavailable
	}
	for n := 0; !full(RoleRead); n++ {
		if n == 10_000 {
			t.Fatal("the places of the role read have no end")
		}
	}
	if full(RoleAdmin) {
		t.Error("the admin has no place")
	}
	for range maxFollowers {
		r, err := http.NewRequestWithContext(t.Context(), "GET", k.url+"/api/v1/decisions?follow=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		k.bearer(RoleRead)(r)
		resp, err := k.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	if resp, _ := k.ask("GET", "/api/v1/decisions", "", k.bearer(RoleRead)); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more stream of the role read: %d", resp.StatusCode)
	}
	if resp, _ := k.ask("GET", "/api/v1/decisions", "", k.bearer(RoleAdmin)); resp.StatusCode != http.StatusOK {
		t.Errorf("a stream of the admin: %d", resp.StatusCode)
	}
	large := fmt.Sprintf(`{"text":%q}`, strings.Repeat("#", maxReadText))
	if resp, _ := k.ask("POST", "/api/v1/format", large, k.bearer(RoleAdmin)); resp.StatusCode == http.StatusRequestEntityTooLarge {
		t.Errorf("a large text of the admin: %d", resp.StatusCode)
	}
}

// TestLargeTextToReadOnly: texts of the role read are small.
func TestLargeTextToReadOnly(t *testing.T) {
	k := newSite(t, TCP{}, func(s *Server) { s.Desk = desk{} })
	large := fmt.Sprintf(`{"text":%q}`, strings.Repeat("#", maxReadText))
	for _, path := range []string{"/api/v1/lint", "/api/v1/explain", "/api/v1/xray/parse", "/api/v1/replay"} {
		if resp, _ := k.ask("POST", path, large, k.bearer(RoleRead)); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

// desk lends nothing.
type desk struct{ Desk }

func (desk) Lent() (string, lsp.Options) { return "p.npl", lsp.Options{} }
