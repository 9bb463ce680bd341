package link

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// reader takes a link apart.
type reader struct {
	t        text
	parts    parts
	findings []Finding
}

// fail reports why there is nothing to build.
func (r *reader) fail(key string, at int, message, help string) (Fields, Form, bool) {
	r.findings = append(r.findings, Finding{Severity: diag.Error, Key: key, Offset: r.t.origin(at), Message: message, Help: help})
	return Fields{}, URL, false
}

// hint reports what was done to read the link.
func (r *reader) hint(key string, at int, message string) {
	r.findings = append(r.findings, Finding{Severity: diag.Hint, Key: key, Offset: r.t.origin(at), Message: message})
}

func (r *reader) read() (Fields, Form, bool) {
	p := r.parts
	switch p.scheme {
	case "vmess":
		return r.vmess()
	case "vmess1":
		return r.kitsunebi()
	case "vless":
		if !p.hasUser {
			return r.shadowrocket()
		}
	case "ss":
		return r.shadowsocks()
	case "socks", "socks5", "socks5h", "socks4", "socks4a":
		return r.plainProxy()
	case "http", "https":
		if len(p.path) > 1 || (!p.hasUser && p.port == "") {
			return r.fail("", 0, "this looks like the address of a page or a subscription, not a proxy",
				"a proxy's link has user:password@ or a port, and no path; fetch a subscription and give its file")
		}
		return r.plainProxy()
	}
	if len(p.path) > 1 {
		r.hint("path", p.portAt+len(p.port), "what follows the port is not used; a path stands in the key path")
	}
	return r.url(), URL, true
}

// url makes fields of a URL whose user part is one text.
func (r *reader) url() Fields {
	p := r.parts
	return Fields{
		Scheme: p.scheme, User: Secret(unescape(p.user)), Host: unescape(p.host), Port: unescape(p.port), Name: unescapeName(p.name),
		Params: params(p.query, p.queryAt, r.t.origin),
		UserAt: r.t.origin(p.userAt), HostAt: r.t.origin(p.hostAt), PortAt: r.t.origin(p.portAt),
	}
}

// plainProxy reads user:password or base64 of it.
func (r *reader) plainProxy() (Fields, Form, bool) {
	f, form := r.url(), URL
	user, pass, found := strings.Cut(r.parts.user, ":")
	f.User, f.Pass = Secret(unescape(user)), Secret(unescape(pass))
	if !found && strings.HasPrefix(f.Scheme, "socks") {
		if plain, ok := DecodeBase64(r.parts.user); ok && strings.Contains(plain, ":") {
			user, pass, _ := strings.Cut(plain, ":")
			f.User, f.Pass = Secret(user), Secret(pass)
			if plain != ":" {
				form = UserBase64
			}
		}
	}
	return f, form, true
}

// shadowsocks reads SIP002, plain or base64, SIP022 and the older form.
func (r *reader) shadowsocks() (Fields, Form, bool) {
	if !r.parts.hasUser {
		return r.legacySS()
	}
	f, raw := r.url(), r.parts.user
	if user, pass, found := strings.Cut(raw, ":"); found {
		f.User, f.Pass = Secret(unescape(user)), Secret(unescape(pass))
		return f, URL, true
	}
	if plain, ok := DecodeBase64(raw); ok && strings.Contains(plain, ":") {
		method, pass, _ := strings.Cut(plain, ":")
		f.User, f.Pass = Secret(method), Secret(pass)
		if is2022(method) {
			r.hint("user", r.parts.userAt, "SIP022 wants method and keys as plain text, not in base64; written so")
			return f, URL, true
		}
		return f, UserBase64, true
	}
	if method, pass, found := strings.Cut(unescape(raw), ":"); found {
		f.User, f.Pass = Secret(method), Secret(pass)
		return f, URL, true
	}
	return r.fail("user", r.parts.userAt, "the user part is not method:password, neither plain nor in base64", "")
}

func (r *reader) legacySS() (Fields, Form, bool) {
	plain, ok := DecodeBase64(r.parts.body)
	if !ok {
		plain, ok = DecodeBase64(strings.TrimSuffix(r.parts.body, "/"))
	}
	at := strings.LastIndexByte(plain, '@')
	if !ok || at < 0 {
		return r.fail("user", r.parts.bodyAt, "neither method:password@host:port nor base64 of it", "")
	}
	method, pass, found := strings.Cut(plain[:at], ":")
	if !found {
		return r.fail("user", r.parts.bodyAt, "in the base64 there is no method:password", "")
	}
	f := r.url()
	f.User, f.Pass = Secret(method), Secret(pass)
	f.Host, f.Port = splitHost(plain[at+1:])
	here := r.t.origin(r.parts.bodyAt)
	f.UserAt, f.HostAt, f.PortAt = here, here, here
	return f, LegacySS, true
}

// formatURL writes a URL; form UserBase64 has the user part in base64.
func formatURL(f Fields, form Form) string {
	var b strings.Builder
	b.WriteString(f.Scheme)
	b.WriteString("://")
	switch name := protocols[f.Scheme].name; {
	case form == UserBase64 && (f.User != "" || f.Pass != ""):
		b.WriteString(encode64(f.User.Reveal() + ":" + f.Pass.Reveal()))
		b.WriteByte('@')
	case name == "ss" || (name == "socks" || name == "http" || name == "https") && (f.User != "" || f.Pass != ""):
		b.WriteString(escape(f.User.Reveal()) + ":" + escape(f.Pass.Reveal()))
		b.WriteByte('@')
	case f.User != "":
		b.WriteString(escape(f.User.Reveal()))
		b.WriteByte('@')
	}
	b.WriteString(HostPort(f.Host, f.Port))
	writeTail(&b, f)
	return b.String()
}

// writeTail writes the keys and the name.
func writeTail(b *strings.Builder, f Fields) {
	if len(f.Params) > 0 {
		b.WriteByte('?')
		b.WriteString(query(f.Params))
	}
	if f.Name != "" {
		b.WriteByte('#')
		b.WriteString(escape(f.Name))
	}
}

func formatLegacySS(f Fields) string {
	var b strings.Builder
	b.WriteString("ss://" + encode64(f.User.Reveal()+":"+f.Pass.Reveal()+"@"+HostPort(f.Host, f.Port)))
	writeTail(&b, f)
	return b.String()
}

// dropRepeated keeps the first of fields with the same key. Forms that rename keys
// need it before; for all others Build does it.
func (r *reader) dropRepeated(f *Fields) {
	seen := make(map[string]bool, len(f.Params))
	f.Params = slices.DeleteFunc(f.Params, func(p Field) bool {
		if seen[p.Key] {
			r.findings = append(r.findings, Finding{Severity: diag.Warning, Key: p.Key, Offset: p.At, Message: repeated})
			return true
		}
		seen[p.Key] = true
		return false
	})
}

// pop removes a field and returns its value.
func (f *Fields) pop(key string) string {
	i := slices.IndexFunc(f.Params, func(p Field) bool { return p.Key == key })
	if i < 0 {
		return ""
	}
	v := f.Params[i].Value.Reveal()
	f.Params = slices.Delete(f.Params, i, i+1)
	return v
}

// rename gives a field another key and value, unless that key is there.
func (f *Fields) rename(from, to string, values map[string]string) {
	i := slices.IndexFunc(f.Params, func(p Field) bool { return p.Key == from })
	if i < 0 || f.Get(to) != "" {
		return
	}
	if f.Has(to) { // empty
		f.pop(to)
		f.rename(from, to, values)
		return
	}
	if values == nil {
		f.Params[i].Key = to
	} else if v, ok := values[f.Params[i].Value.Reveal()]; ok {
		f.Params[i].Key, f.Params[i].Value = to, Secret(v)
	}
}

// first puts fields before the others.
func (f *Fields) first(fields ...Field) { f.Params = append(fields, f.Params...) }

func field(key, value string, at int) Field {
	return Field{Param: Param{Key: key, Value: Secret(value)}, At: at}
}
