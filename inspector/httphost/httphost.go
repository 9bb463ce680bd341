// Package httphost reads the host that an HTTP/1 request is for off the
// beginning of a TCP stream (RFC 9112, 3), and knows the preface of HTTP/2
// without TLS (RFC 9113, 3.4), in whose compressed headers no host is looked for.
//
//	host, state := httphost.Read(stream)
//	if state == httphost.Request && host != "" { use(host) }
//
// It is pure, and looks at each byte of the stream at most twice.
package httphost

import (
	"bytes"
	"strings"
)

// State is how far a stream's beginning could be read.
type State uint8

const (
	// Other: it is not HTTP.
	Other State = iota
	// More bytes are needed.
	More
	// Request: an HTTP/1 request, as far as its Host or the end of its header.
	Request
	// H2C: the preface of HTTP/2 over TCP with prior knowledge.
	H2C
)

// methods of HTTP/1 (RFC 9110, 9.1; PATCH, RFC 5789; the rest is WebDAV, RFC 4918, and UPnP).
var methods = [...]string{
	"GET ", "POST ", "HEAD ", "PUT ", "OPTIONS ", "CONNECT ", "DELETE ", "PATCH ", "TRACE ",
	"PROPFIND ", "PROPPATCH ", "MKCOL ", "COPY ", "MOVE ", "LOCK ", "UNLOCK ", "REPORT ", "SUBSCRIBE ", "NOTIFY ", "M-SEARCH ",
}

// preface is what an HTTP/2 client sends first.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Read returns the Host of an HTTP/1 request as sent, without the port; for
// CONNECT, and for a request with an absolute target, that of the target (RFC
// 9112, 3.2.2). It is "" when there is none, and for H2C.
func Read(stream []byte) (host string, state State) {
	if n := min(len(preface), len(stream)); n > 0 && string(stream[:n]) == preface[:n] {
		if n < len(preface) {
			return "", More
		}
		return "", H2C
	}
	method := ""
	for _, m := range methods {
		if n := min(len(m), len(stream)); string(stream[:n]) == m[:n] {
			method = m
			break
		}
	}
	switch {
	case method == "":
		return "", Other
	case len(stream) < len(method):
		return "", More
	}
	line, rest, ok := bytes.Cut(stream, []byte("\n"))
	if !ok {
		return "", More
	}
	version := bytes.LastIndex(line, []byte(" HTTP/1."))
	if version < len(method) {
		return "", Other
	}
	if host = target(method, string(line[len(method):version])); host != "" {
		return host, Request
	}
	for {
		line, rest, ok = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch name, value, header := bytes.Cut(line, []byte(":")); {
		case !ok:
			return "", More
		case len(line) == 0:
			return "", Request
		case header && strings.EqualFold(string(name), "host"):
			return withoutPort(strings.TrimSpace(string(value))), Request
		}
	}
}

// target returns the host in a request's target, "" for a mere path.
func target(method, t string) string {
	if method == "CONNECT " {
		return withoutPort(t)
	}
	const scheme = "http://"
	if len(t) < len(scheme) || !strings.EqualFold(t[:len(scheme)], scheme) {
		return ""
	}
	t = t[len(scheme):]
	if i := strings.IndexAny(t, "/?#"); i >= 0 {
		t = t[:i]
	}
	return withoutPort(t[strings.LastIndexByte(t, '@')+1:])
}

// withoutPort cuts the port off "name:port".
func withoutPort(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		return s[:i]
	}
	return s
}
