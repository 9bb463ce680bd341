package sniff

import (
	"bytes"
	"errors"
	"strings"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/tlshello"
)

// state is how far a stream's beginning could be read.
type state uint8

const (
	neither    state = iota // neither TLS nor HTTP
	incomplete              // more bytes are needed
	isTLS
	isHTTP
)

// reading is what the beginning of a client's stream says.
type reading struct {
	state     state
	sni, host flow.Value[string]
}

// read reads the beginning of a stream.
func read(p *tlshello.Parser, stream []byte) reading {
	none := flow.Absent[string]()
	h, err := p.Parse(stream)
	switch {
	case h.ServerName != nil:
		return reading{isTLS, flow.Name(string(h.ServerName)), none}
	case err == nil:
		return reading{isTLS, none, none}
	case errors.Is(err, tlshello.ErrIncomplete):
		return reading{incomplete, none, none}
	}
	host, state := readHost(stream)
	return reading{state, none, host}
}

// methods of HTTP/1 (RFC 9110, 9.1; PATCH, RFC 5789). PRI begins HTTP/2.
var methods = [...]string{"GET ", "POST ", "HEAD ", "PUT ", "OPTIONS ", "CONNECT ", "DELETE ", "PATCH ", "TRACE "}

// readHost reads the Host of an HTTP/1 request; for CONNECT, the target.
func readHost(stream []byte) (flow.Value[string], state) {
	none := flow.Absent[string]()
	method := ""
	for _, m := range methods {
		if n := min(len(m), len(stream)); string(stream[:n]) == m[:n] {
			method = m
			break
		}
	}
	if method == "" {
		return none, neither
	}
	if len(stream) < len(method) {
		return none, incomplete
	}
	line, rest, ok := bytes.Cut(stream, []byte("\n"))
	if !ok {
		return none, incomplete
	}
	version := bytes.LastIndex(line, []byte(" HTTP/1."))
	if version < 0 {
		return none, neither
	}
	if method == "CONNECT " && version >= len(method) {
		return flow.Name(withoutPort(string(line[len(method):version]))), isHTTP
	}
	for {
		line, rest, ok = bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch name, value, header := bytes.Cut(line, []byte(":")); {
		case !ok:
			return none, incomplete
		case len(line) == 0:
			return none, isHTTP
		case header && strings.EqualFold(string(name), "host"):
			if v := strings.TrimSpace(string(value)); v != "" {
				return flow.Name(withoutPort(v)), isHTTP
			}
			return none, isHTTP
		}
	}
}

// withoutPort cuts the port off "name:port".
func withoutPort(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		return s[:i]
	}
	return s
}
