package link

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// Fields is a profile as flat text, in the spelling of the URL form: what every
// form is read into, and written from. Values are decoded.
type Fields struct {
	Scheme string // vless, vmess, trojan, trojan-go, ss, socks, http, https, hysteria2 or wireguard, or an alias
	// User is the identity: a UUID, the password of trojan and hysteria2, the
	// private key of WireGuard, the method of ss, a user's name. Pass is the
	// password of ss, socks and http.
	User, Pass     Secret
	Host, Port     string // Host without brackets
	Name           string
	Params         []Field
	UserAt, HostAt int // offsets
	PortAt         int
}

// Field is a key with its value and the offset where the value begins.
type Field struct {
	Param
	At int
}

// Get returns the value of the first field with the key, "" if there is none.
func (f Fields) Get(key string) string {
	for _, p := range f.Params {
		if p.Key == key {
			return p.Value.Reveal()
		}
	}
	return ""
}

// Has reports whether there is a field with the key.
func (f Fields) Has(key string) bool {
	return slices.ContainsFunc(f.Params, func(p Field) bool { return p.Key == key })
}

// Add appends a field unless its value is empty.
func (f *Fields) Add(key, value string) {
	if value != "" {
		f.Params = append(f.Params, Field{Param: Param{Key: key, Value: Secret(value)}})
	}
}

// builder makes a profile of fields. What it does not take becomes Unknown.
type builder struct {
	f        Fields
	taken    []bool
	spelled  []string // the keys before aliases were renamed
	findings []Finding
	label    string
}

// report adds a finding on a key, which it names as the link spells it.
func (b *builder) report(s diag.Severity, key string, at int, message, help string) {
	if i := slices.IndexFunc(b.f.Params, func(p Field) bool { return p.Key == key }); i >= 0 {
		key = b.spelled[i]
	}
	b.findings = append(b.findings, Finding{Severity: s, Link: b.label, Key: key, Offset: at, Message: message, Help: help})
}

// find returns the index of the key's field that is not taken yet, or -1.
func (b *builder) find(key string) int {
	for i := range b.f.Params {
		if !b.taken[i] && b.f.Params[i].Key == key {
			return i
		}
	}
	return -1
}

// take returns a key's value and offset and marks it as understood. An empty value
// is as none.
func (b *builder) take(key string) (value string, at int) {
	i := b.find(key)
	if i < 0 {
		return "", 0
	}
	b.taken[i] = true
	if b.f.Params[i].Value == "" {
		b.report(diag.Hint, key, b.f.Params[i].At, "the value is empty, so the default holds", "")
	}
	return b.f.Params[i].Value.Reveal(), b.f.Params[i].At
}

// str is take for those that need no offset.
func (b *builder) str(key string) string {
	v, _ := b.take(key)
	return v
}

// keep gives a key back, which puts it among the unknown ones, and says why.
func (b *builder) keep(key, message, help string) {
	for i := range b.f.Params {
		if b.taken[i] && b.f.Params[i].Key == key {
			b.taken[i] = false
			b.report(diag.Warning, key, b.f.Params[i].At, message, help)
			return
		}
	}
}

// oneOf takes a value out of a list; any other is kept as unknown.
func (b *builder) oneOf(key string, allowed ...string) string {
	v, _ := b.take(key)
	if v == "" || slices.Contains(allowed, v) {
		return v
	}
	b.keep(key, "this value is not known, so the default holds; known are "+strings.Join(allowed, ", "), "")
	return ""
}

// alias renames a key, unless what it stands for is there as well.
func (b *builder) alias(from, to string) {
	if i := b.find(from); i >= 0 && b.free(to) {
		b.f.Params[i].Key = to
	}
}

// free reports whether no field says something of the key. One that is empty is
// taken, so that another can stand for it.
func (b *builder) free(key string) bool {
	i := b.find(key)
	if i >= 0 && b.f.Params[i].Value == "" {
		b.taken[i] = true
		return true
	}
	return i < 0
}

// translate replaces a field by another whose value stands in table.
func (b *builder) translate(from, to string, table map[string]string) {
	i := b.find(from)
	if i < 0 {
		return
	}
	if v, ok := table[b.f.Params[i].Value.Reveal()]; ok && b.free(to) {
		b.f.Params[i].Key, b.f.Params[i].Value, b.f.Params[i].JSON = to, Secret(v), false
	}
}

const repeated = "the key is repeated; its first value holds"

// dropRepeated takes all but the first of fields with the same key.
func (b *builder) dropRepeated() {
	seen := make(map[string]bool, len(b.f.Params))
	for i, p := range b.f.Params {
		if seen[p.Key] {
			b.taken[i] = true
			b.report(diag.Warning, p.Key, p.At, repeated, "")
		}
		seen[p.Key] = true
	}
}

// rest returns what nobody took.
func (b *builder) rest() (unknown []Param) {
	for i, p := range b.f.Params {
		if b.taken[i] {
			continue
		}
		unknown = append(unknown, p.Param)
		switch {
		case slices.ContainsFunc(b.findings, func(f Finding) bool { return f.Key == b.spelled[i] && f.Severity > diag.Hint }):
		case slices.Contains(standard, p.Key):
			b.report(diag.Hint, p.Key, p.At, "the key means nothing with this protocol, transport and security; it is kept", "")
		default:
			b.report(diag.Hint, p.Key, p.At, "the key is not known; it is kept", "")
		}
	}
	return unknown
}

// standard are the keys that mean something in some link.
var standard = []string{
	"encryption", "flow", "type", "security", "host", "path", "headerType", "seed", "mtu", "tti", "serviceName", "mode",
	"authority", "extra", "fm", "sni", "alpn", "fp", "pcs", "vcn", "ech", "pbk", "sid", "spx", "pqv", "allowInsecure",
}
