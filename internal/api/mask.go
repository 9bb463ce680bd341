package api

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
)

// unmasked are the operations whose answers have nothing of the policy: they are made
// from what the caller has sent, or are numbers.
var unmasked = map[string]bool{
	"/metrics": true, "/api/v1/openapi.yaml": true, "/api/v1/format": true, "/api/v1/convert": true, "/api/v1/xray/{function}": true,
}

// masker masks what is written to the role read. Each Write has whole URLs.
type masker struct{ http.ResponseWriter }

func (m masker) Write(b []byte) (int, error) {
	if _, err := m.ResponseWriter.Write(Masked(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Unwrap is for http.ResponseController.
func (m masker) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// openSchemes are the schemes of whose URLs the host is no secret. Of others, such as links of
// proxies, nothing is shown.
var openSchemes = []string{"http", "https", "udp", "tcp", "tls", "quic", "socks5"}

// Masked returns a text, plain or JSON, in which of each URL only scheme, host and port
// are left: what is behind them may be a secret, in webhooks, and where resolvers and
// lists are the caller's own; and so are user and password.
func Masked(b []byte) []byte {
	var out []byte
	done := 0
	for at := 0; at < len(b); {
		i := bytes.IndexByte(b[at:], ':')
		if i < 0 {
			break
		}
		colon := at + i
		at = colon + 1
		begin := colon
		for begin > done && inScheme(b[begin-1]) {
			begin--
		}
		inner := at + slashes(b[at:])
		if begin == colon || inner == at {
			continue
		}
		end := inner + urlLen(b[inner:], begin > 0 && b[begin-1] == '\'')
		out = append(append(out, b[done:colon]...), "://"...)
		out = append(out, shown(string(b[begin:colon]), b[inner:end])...)
		done, at = end, end
	}
	if done == 0 {
		return b
	}
	return append(out, b[done:]...)
}

func inScheme(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'
}

// slashes returns the length of the two slashes that b begins with, each perhaps with
// backslashes before it, as texts and JSON escape them; 0: there are none.
func slashes(b []byte) (n int) {
	for range 2 {
		for n < len(b) && b[n] == '\\' {
			n++
		}
		if n == len(b) || b[n] != '/' {
			return 0
		}
		n++
	}
	return n
}

// urlLen returns how long the URL is that b goes on with: up to white space or the quote that ends
// it, in a text or in JSON, where a line ends with \n. What closes a list or a sentence is no part of it.
func urlLen(b []byte, quoted bool) int {
	n := 0
	for ; n < len(b) && b[n] > ' ' && b[n] != '"' && b[n] != '`' && (b[n] != '\'' || !quoted); n++ {
		if b[n] == '\\' && n+1 < len(b) {
			if bytes.IndexByte([]byte(`ntr"`), b[n+1]) >= 0 {
				break
			}
			n++
		}
	}
	return len(bytes.TrimRight(b[:min(n, len(b))], ",;.)]}"))
}

// shown is what is left of a URL behind the slashes.
func shown(scheme string, inner []byte) []byte {
	if _, last, ok := strings.Cut(scheme, "+"); ok {
		scheme = last
	}
	host := inner
	if i := bytes.IndexAny(inner, `/?#\`); i >= 0 {
		host = inner[:i]
	}
	bare := len(bytes.Trim(inner[len(host):], `/\`)) == 0
	user := bytes.LastIndexByte(host, '@')
	switch {
	case !slices.Contains(openSchemes, strings.ToLower(scheme)):
		return []byte("***")
	case bare && user < 0:
		return inner
	}
	return append(bytes.Clone(host[user+1:]), "/***"...)
}

// maskFiles masks the texts of files.
func maskFiles(files map[string][]byte) map[string][]byte {
	out := make(map[string][]byte, len(files))
	for name, text := range files {
		out[name] = Masked(text)
	}
	return out
}

// readsOnly reports whether a request is the role read's.
func readsOnly(r *http.Request) bool {
	c, _ := callerOf(r.Context())
	return c.role == RoleRead
}
