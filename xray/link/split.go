package link

import (
	"encoding/base64"
	"net/netip"
	"net/url"
	"strings"
)

// text is a link without what copying has added, and the way back to the offsets
// of what was given.
type text struct {
	s     string
	edits []edit // in order
}

// edit says that from byte at of the cleaned text on, the original is shift
// bytes further.
type edit struct{ at, shift int }

// origin returns the offset in what was given.
func (t text) origin(at int) int {
	shift := 0
	for _, e := range t.edits {
		if e.at > at {
			break
		}
		shift = e.shift
	}
	return at + shift
}

// invisible are characters that copying adds and nobody sees.
var invisible = []string{"\ufeff", "\u200b", "\u200c", "\u200d", "\u2060"}

// clean takes away white space at the ends, what is invisible, and HTML's way to
// write &. In the name only the ends are touched: emoji are joined by U+200D.
func clean(s string) text {
	var t text
	var b strings.Builder
	end := len(strings.TrimRight(s, " \t\r\n\ufeff\u200b\u2060"))
	inName := false
	for i := 0; i < end; {
		skip := 0
		rest := s[i:end]
		if !inName {
			for _, mark := range invisible {
				if strings.HasPrefix(rest, mark) {
					skip = len(mark)
				}
			}
		}
		if b.Len() == 0 && strings.IndexByte(" \t\r\n", rest[0]) >= 0 {
			skip = 1
		}
		if skip > 0 {
			i += skip
			t.edits = append(t.edits, edit{at: b.Len(), shift: i - b.Len()})
			continue
		}
		b.WriteByte(rest[0])
		i++
		switch {
		case rest[0] == '#':
			inName = true
		case !inName && strings.HasPrefix(rest, "&amp;"):
			i += len("amp;")
			t.edits = append(t.edits, edit{at: b.Len(), shift: i - b.Len()})
		}
	}
	t.s = b.String()
	return t
}

// parts are the pieces of a URL, still encoded, with offsets into the text.
type parts struct {
	scheme, user, host, port, path string
	query                          string
	name                           string
	hasUser                        bool
	bodyAt, userAt, hostAt, portAt int
	queryAt                        int
	body                           string // between :// and ?
}

// split cuts a link at the first :// # and ?, and the last @.
func split(s string) (p parts, ok bool) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return p, false
	}
	p.scheme = strings.ToLower(scheme)
	p.bodyAt = len(scheme) + len("://")
	rest, p.name, _ = strings.Cut(rest, "#")
	p.body, p.query, _ = strings.Cut(rest, "?")
	p.queryAt = p.bodyAt + len(p.body) + 1
	authority := p.body
	p.userAt, p.hostAt = p.bodyAt, p.bodyAt
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		p.user, p.hasUser = authority[:at], true
		authority = authority[at+1:]
		p.hostAt += at + 1
	}
	if slash := strings.IndexByte(authority, '/'); slash >= 0 {
		authority, p.path = authority[:slash], authority[slash:]
	}
	p.host, p.port = splitHost(authority)
	p.portAt = p.hostAt + len(authority) - len(p.port)
	return p, true
}

// splitHost cuts host:port; brackets around the host are taken away.
func splitHost(s string) (host, port string) {
	if strings.HasPrefix(s, "[") {
		if end := strings.IndexByte(s, ']'); end > 0 {
			after := s[end+1:]
			if after == "" || after[0] == ':' {
				if _, err := netip.ParseAddr(s[1:end]); err == nil {
					return s[1:end], strings.TrimPrefix(after, ":")
				}
			}
		}
		return s, ""
	}
	host, port, _ = strings.Cut(s, ":")
	if strings.Contains(port, ":") { // IPv6 without brackets: nobody knows where it ends
		return s + ":", ""
	}
	return host, port
}

// params splits a query at & and the first =, and decodes each part once.
func params(query string, at int, origin func(int) int) []Field {
	var list []Field
	for query != "" && len(list) <= maxParams {
		part, rest, _ := strings.Cut(query, "&")
		key, value, found := strings.Cut(part, "=")
		valueAt := at + len(key)
		if found {
			valueAt++
		}
		key = unescape(key)
		if key == "alpn" {
			value = strings.ReplaceAll(value, "+", " ")
		}
		if key != "" {
			list = append(list, Field{Param: Param{Key: key, Value: Secret(unescape(value))}, At: origin(valueAt)})
		}
		at += len(part) + 1
		query = rest
	}
	return list
}

// unescape decodes %XX. What is no such group stays as it is.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+2 < len(s) && s[i] == '%' {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unescapeName decodes a fragment, in which many clients write + for a space.
func unescapeName(s string) string { return unescape(strings.ReplaceAll(s, "+", " ")) }

// escape is JavaScript's encodeURIComponent.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// query writes fields behind one another.
func query(fields []Field) string {
	var b strings.Builder
	for i, p := range fields {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(escape(p.Key))
		if p.Value != "" {
			b.WriteByte('=')
			b.WriteString(escape(p.Value.Reveal()))
		}
	}
	return b.String()
}

func encode64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
