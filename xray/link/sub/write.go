package sub

import (
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/xray/link"
)

// Loss is what a format can't say of one profile.
type Loss struct {
	Index int    // of the profile
	Link  string // names the profile: its name, or host and port
	// Keys are the keys that are not written, in the spelling of links.
	Keys []string
	// Left says that the profile is not written at all, because one of the keys
	// decides how the server is spoken to; Why names what is missing.
	Left bool
	Why  string
}

// String returns the loss on one line.
func (l Loss) String() string {
	if l.Left {
		return l.Link + ": left out: " + l.Why
	}
	return l.Link + ": can't say " + strings.Join(l.Keys, ", ")
}

// decisive are keys without which the server is not understood, or without
// protection.
var decisive = []string{"type", "security", "fm", "plugin", "encryption", "flow", "obfs", "headerType", "reserved", "presharedkey", "publickey"}

// Write writes profiles in a format, Links, Base64, SIP008, Clash or SingBox, and
// says what it could not. Names that are missing or repeated are made up where the
// format needs them.
func Write(format Format, profiles []link.Profile) (out []byte, losses []Loss) {
	var b strings.Builder
	var rows, endpoints []*node
	names := map[string]bool{}
	for i, p := range profiles {
		w := &writer{f: p.Fields(), p: p, o: &node{kind: '{'}}
		label := p.Name
		if label == "" {
			label = link.HostPort(p.Host, strconv.Itoa(int(p.Port)))
		}
		w.name = unique(names, label)
		switch format {
		case SIP008:
			w.sip008()
		case Clash:
			w.clash()
		case SingBox:
			w.singbox()
		default:
			w.links(&b)
		}
		left := w.finish()
		if left || len(w.lost) > 0 {
			losses = append(losses, Loss{Index: i, Link: label, Keys: w.lost, Left: left, Why: w.why})
		}
		switch {
		case left:
			delete(names, w.name)
		case format == SingBox && w.o.get("peers") != nil:
			endpoints = append(endpoints, w.o)
		case format != Links && format != Base64:
			rows = append(rows, w.o)
		}
	}
	switch format {
	case SIP008:
		file(&b, []string{"servers"}, [][]*node{rows}, `"version": 1,`)
	case SingBox:
		file(&b, []string{"outbounds", "endpoints"}, [][]*node{rows, endpoints}, "")
	case Clash: // JSON is YAML: one proxy a line
		b.WriteString("proxies:\n")
		for _, row := range rows {
			b.WriteString("  - " + row.String() + "\n")
		}
		if len(rows) == 0 {
			b.Reset()
			b.WriteString("proxies: []\n")
		}
	case Base64:
		return []byte(encode(b.String())), losses
	}
	return []byte(b.String()), losses
}

// file writes a JSON object of lists, one element a line.
func file(b *strings.Builder, keys []string, lists [][]*node, first string) {
	b.WriteString("{\n")
	if first != "" {
		b.WriteString("  " + first + "\n")
	}
	for i, key := range keys {
		if i > 0 && len(lists[i]) == 0 {
			continue
		}
		if i > 0 {
			b.WriteString(",\n")
		}
		b.WriteString("  " + link.QuoteJSON(key) + ": [")
		for j, row := range lists[i] {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString("\n    " + row.String())
		}
		b.WriteString("\n  ]")
	}
	b.WriteString("\n}\n")
}

// unique returns the name, with a number behind it where it is taken.
func unique(names map[string]bool, name string) string {
	free := name
	for n := 2; names[free]; n++ {
		free = name + " " + strconv.Itoa(n)
	}
	names[free] = true
	return free
}

// writer writes one profile.
type writer struct {
	f    link.Fields
	p    link.Profile
	o    *node
	name string
	lost []string
	why  string // why the profile can't be written
}

// take removes a key and returns its value.
func (w *writer) take(key string) string {
	i := slices.IndexFunc(w.f.Params, func(p link.Field) bool { return p.Key == key })
	if i < 0 {
		return ""
	}
	v := w.f.Params[i].Value.Reveal()
	w.f.Params = slices.Delete(w.f.Params, i, i+1)
	return v
}

// takeIf removes a key that has this value, which says no more than its absence.
func (w *writer) takeIf(key, value string) {
	if w.f.Get(key) == value {
		w.take(key)
	}
}

// put writes a text that is not empty.
func (w *writer) put(path, value string) {
	if value != "" {
		w.o.set(path, text(value))
	}
}

// number writes a number that is one.
func (w *writer) number(path, value string) {
	if n := spell(value, asNumber); n != nil {
		w.o.set(path, n)
	}
}

// pairs writes what the table knows.
func (w *writer) pairs(table []pair) {
	for _, p := range table {
		value := w.f.Get(p.key)
		if value == "" {
			continue
		}
		if n := spell(value, p.kind); n != nil && !(p.key == "pcs" && strings.Contains(value, ",")) {
			w.o.set(p.path, n)
			w.take(p.key)
		}
	}
}

// finish looks at what is left. It reports whether the profile must be left out.
func (w *writer) finish() bool {
	known := map[string]bool{}
	for _, p := range w.p.Unknown {
		known[p.Key] = true
	}
	for _, p := range w.f.Params {
		if p.Key == "headerType" && p.Value == "none" || p.Value == "" && !known[p.Key] {
			continue
		}
		w.lost = append(w.lost, p.Key)
		if w.why == "" && slices.Contains(decisive, p.Key) && !known[p.Key] {
			w.why = "the format can't say " + p.Key
		}
	}
	return w.why != ""
}

// socks4 reports whether the profile is of the old SOCKS, which others don't have.
func (w *writer) socks4() bool {
	if !strings.HasPrefix(w.f.Scheme, "socks4") {
		return false
	}
	w.why = "the format has no SOCKS 4"
	return true
}

// links writes one link a line.
func (w *writer) links(b *strings.Builder) {
	if w.p.Source.Form < link.SIP008 {
		w.f.Params = nil
	} else {
		w.f.Params = w.f.Params[len(w.f.Params)-len(w.p.Unknown):]
	}
	b.WriteString(w.p.Link() + "\n")
}

// plainStream takes the keys that say that there is neither transport nor TLS.
func (w *writer) plainStream() {
	if w.f.Get("type") == "tcp" && w.f.Get("headerType") != "http" {
		w.take("type")
	}
	w.takeIf("security", "none")
}

func (w *writer) sip008() {
	s, ok := w.p.Proxy.(link.Shadowsocks)
	if !ok {
		w.why = "SIP008 knows shadowsocks only"
		return
	}
	w.plainStream()
	w.put("remarks", w.p.Name)
	w.put("server", w.f.Host)
	w.number("server_port", w.f.Port)
	w.o.set("password", text(s.Password.Reveal()))
	w.put("method", s.Method)
	w.take("plugin")
	w.put("plugin", s.Plugin.Name)
	w.put("plugin_opts", s.Plugin.FormatOptions())
}

// early takes the request for early data out of a path.
func early(path string) (rest, size string) {
	base, query, found := strings.Cut(path, "?")
	if !found {
		return path, ""
	}
	var others []string
	for part := range strings.SplitSeq(query, "&") {
		if v, ok := strings.CutPrefix(part, "ed="); ok && size == "" && v != "" && strings.Trim(v, "0123456789") == "" {
			size = v
			continue
		}
		others = append(others, part)
	}
	if size == "" {
		return path, ""
	}
	if len(others) > 0 {
		base += "?" + strings.Join(others, "&")
	}
	return base, size
}

// earlyData gives path and early data fields of their own.
func (w *writer) earlyData() {
	for i, p := range w.f.Params {
		if p.Key != "path" {
			continue
		}
		path, size := early(p.Value.Reveal())
		if size == "" || w.f.Has("ed") {
			return
		}
		w.f.Params[i].Value = link.Secret(path)
		w.f.Add("ed", size)
		w.f.Add("eh", "Sec-WebSocket-Protocol")
		return
	}
}
