package httphost

import (
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, stream, host string
		state              State
	}{
		{"host", "GET / HTTP/1.1\r\nAccept: x\r\nHost: a.example\r\n\r\n", "a.example", Request},
		{"port, case, spaces", "POST /x HTTP/1.1\r\nhOsT:\t a.example:8080 \r\n", "a.example", Request},
		{"bare line feeds", "GET / HTTP/1.0\nHost: a.example\n", "a.example", Request},
		{"none", "GET / HTTP/1.0\r\n\r\n", "", Request},
		{"empty", "GET / HTTP/1.0\r\nHost:\r\n", "", Request},
		{"IPv6", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n", "[2001:db8::1]", Request},
		{"connect", "CONNECT a.example:443 HTTP/1.1\r\n", "a.example", Request},
		{"absolute target goes first", "GET http://a.example:80/x?y HTTP/1.1\r\nHost: b.example\r\n\r\n", "a.example", Request},
		{"absolute target with a user", "GET HTTP://u:p@a.example HTTP/1.1\r\n", "a.example", Request},
		{"WebDAV", "PROPFIND / HTTP/1.1\r\nHost: a.example\r\n", "a.example", Request},
		{"nothing", "", "", More},
		{"part of a method", "OPTIO", "", More},
		{"part of a line", "GET / HTTP/1.1", "", More},
		{"part of the header", "GET / HTTP/1.1\r\nHost: a.exam", "", More},
		{"no version", "GET it now\r\n", "", Other},
		{"no target", "GET HTTP/1.1\r\n", "", Other},
		{"another protocol", "EHLO a.example\r\n", "", Other},
		{"HTTP/2", preface + "\x00\x00", "", H2C},
		{"part of HTTP/2", preface[:9], "", More},
		{"nearly HTTP/2", "PRI * HTTP/2.1\r\n", "", Other},
	} {
		t.Run(c.name, func(t *testing.T) {
			if host, state := Read([]byte(c.stream)); host != c.host || state != c.state {
				t.Errorf("%q %v", host, state)
			}
		})
	}
}

// FuzzRead: what a prefix says stays true of the whole.
func FuzzRead(f *testing.F) {
	f.Add("GET / HTTP/1.1\r\nHost: a.example:80\r\n\r\n", 20)
	f.Add("CONNECT a.example:443 HTTP/1.1\r\n", 40)
	f.Add("GET http://u@a.example/ HTTP/1.1\n", 33)
	f.Add(preface, 9)
	f.Fuzz(func(t *testing.T, stream string, n int) {
		n = max(0, min(n, len(stream)))
		host, state := Read([]byte(stream[:n]))
		if !strings.Contains(stream, host) || host != "" && state != Request {
			t.Fatalf("%q %v", host, state)
		}
		if host2, state2 := Read([]byte(stream)); state != More && (host2 != host || state2 != state) {
			t.Fatalf("%q %v became %q %v", host, state, host2, state2)
		}
	})
}
