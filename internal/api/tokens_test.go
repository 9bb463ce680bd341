package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTokenFiles: tokens survive a restart, in files that nobody else reads; one that is none is refused.
func TestTokenFiles(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	for role, name := range tokenFiles {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if first.Get(role) != second.Get(role) || len(first.Get(role)) != 43 {
			t.Errorf("%s: %q and %q", role, first.Get(role), second.Get(role))
		}
	}
	if first.Get(RoleAdmin) == first.Get(RoleRead) {
		t.Error("both roles have one token")
	}
	if err := os.WriteFile(filepath.Join(dir, tokenFiles[RoleAdmin]), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokens(dir); err == nil {
		t.Error("a short token was taken")
	}
	if err := os.Remove(filepath.Join(dir, tokenFiles[RoleAdmin])); err != nil {
		t.Fatal(err)
	}
	third, err := OpenTokens(dir)
	if err != nil || third.Get(RoleAdmin) == first.Get(RoleAdmin) {
		t.Errorf("no other token was made: %v", err)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o602} {
		if err := os.Chmod(filepath.Join(dir, tokenFiles[RoleAdmin]), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenTokens(dir); err == nil || !strings.Contains(err.Error(), "others than its owner") || strings.Contains(err.Error(), third.Get(RoleAdmin)) {
			t.Errorf("a token with mode %v: %v", mode, err)
		}
	}
	if _, err := first.Renew("root"); !errors.Is(err, ErrBadRequest) {
		t.Errorf("a role that is none: %v", err)
	}
}

// TestTokenBeforeTCP: who asks for a token before TCP is served, or where it can't be yet, gets the one that will open it.
func TestTokenBeforeTCP(t *testing.T) {
	s := &Server{Tokens: NewTokens(filepath.Join(t.TempDir(), "state"))}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/api/v1/token", strings.NewReader(`{"role":"read"}`))
	r.Header.Set("Content-Type", "application/json")
	s.Handler().ServeHTTP(w, r)
	var got Token
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || len(got.Token) != 43 {
		t.Errorf("%d, %s", w.Code, w.Body)
	}
	if err := s.Tokens.Load(); err != nil || s.Tokens.Get(RoleRead) != got.Token {
		t.Errorf("it is %q afterwards: %v", s.Tokens.Get(RoleRead), err)
	}
}

// TestBearer: schemes have no case (RFC 9110, 11.1), and a wrong token is told how a right one is shown.
func TestBearer(t *testing.T) {
	k := newSite(t, TCP{}, nil)
	token := k.tokens.Get(RoleRead)
	for given, want := range map[string]int{
		"Bearer " + token: http.StatusOK, "bearer " + token: http.StatusOK, "BEARER  " + token: http.StatusOK,
		"Bearer": http.StatusUnauthorized, "Bearer" + token: http.StatusUnauthorized, "Basic " + token: http.StatusUnauthorized, token: http.StatusUnauthorized,
		"bearer x": http.StatusUnauthorized,
	} {
		resp, body := k.ask("GET", "/api/v1/status", "", func(r *http.Request) { r.Header.Set("Authorization", given) })
		if resp.StatusCode != want {
			t.Errorf("%q: %d %s, want %d", given, resp.StatusCode, body, want)
		}
		if how := resp.Header.Get("WWW-Authenticate"); want == http.StatusUnauthorized && how != `Bearer realm="netpolicyd"` {
			t.Errorf("%q: WWW-Authenticate is %q", given, how)
		}
	}
}
