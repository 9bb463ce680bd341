package link

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
)

// stdUser is the user part of v2fly's own form: transport, maybe +tls, identity,
// alterId.
var stdUser = regexp.MustCompile(`^(tcp|http|ws|kcp|quic|grpc)(\+tls)?:(.+)-([0-9]{1,5})$`)

// vmess tells the forms of vmess:// apart.
func (r *reader) vmess() (Fields, Form, bool) {
	if r.parts.hasUser {
		if m := stdUser.FindStringSubmatch(unescape(r.parts.user)); m != nil {
			return r.std(m)
		}
		return r.url(), URL, true
	}
	plain, ok := DecodeBase64(r.parts.body)
	switch {
	case !ok:
	case strings.HasPrefix(strings.TrimSpace(plain), "{"):
		return r.vmessJSON(plain)
	case strings.Contains(plain, " = vmess,"):
		return r.quantumult(plain)
	case strings.Contains(plain, "@"):
		return r.shadowrocket()
	}
	return r.fail("", r.parts.bodyAt, "none of the forms of vmess links",
		"they are vmess://ID@host:port?…, base64 of JSON (v2rayN), base64 of cipher:id@host:port (Shadowrocket), base64 of a line of Quantumult, and vmess://ws+tls:ID-0@host:port (v2fly)")
}

// jsonKeys are the keys of v2rayN's JSON that are spelled otherwise in a URL.
var jsonKeys = map[string]string{
	"aid": "alterId", "scy": "encryption", "net": "type", "type": "headerType", "tls": "security", "insecure": "allowInsecure",
}

// jsonKey returns the URL's spelling of a key of v2rayN's JSON.
func jsonKey(key, network string) string {
	switch {
	case network == "grpc" && key == "host":
		return "authority"
	case network == "grpc" && key == "path":
		return "serviceName"
	case network == "kcp" && key == "path":
		return "seed"
	case (network == "grpc" || network == "xhttp") && key == "type":
		return "mode"
	}
	if to, ok := jsonKeys[key]; ok {
		return to
	}
	return key
}

// fromURLKey is the other way of jsonKey.
func fromURLKey(key, network string) string {
	for _, json := range []string{"host", "path", "type"} {
		if jsonKey(json, network) == key {
			return json
		}
	}
	for json, url := range jsonKeys {
		if url == key && json != "type" {
			return json
		}
	}
	return key
}

func (r *reader) vmessJSON(plain string) (Fields, Form, bool) {
	list, ok := members(plain)
	if !ok {
		return r.fail("", r.parts.bodyAt, "the base64 holds no JSON object, or one of more than 256 keys or 16 levels", "")
	}
	f := Fields{Scheme: "vmess", Params: params(r.parts.query, r.parts.queryAt, r.t.origin)}
	extra := f.Params
	f.Params = nil
	value := func(key string) string {
		for _, m := range list {
			if m.key == key && m.text != "null" {
				return m.value
			}
		}
		return ""
	}
	network := networks[value("net")]
	for _, m := range list {
		at := r.t.origin(r.parts.bodyAt + min(m.at/3*4, len(r.parts.body)))
		if m.text == "null" {
			m.value, m.text = "", `""`
		}
		switch m.key {
		case "v":
		case "ps":
			f.Name = cmpOr(f.Name, m.value)
		case "add":
			f.Host, f.HostAt = cmpOr(f.Host, strings.Trim(strings.TrimSpace(m.value), "[]")), at
		case "port":
			f.Port, f.PortAt = cmpOr(f.Port, strings.TrimSpace(m.value)), at
		case "id":
			f.User, f.UserAt = cmpOr(f.User, Secret(m.value)), at
		case "tls":
			security := m.value
			switch strings.ToLower(security) {
			case "", "none", "false", "0":
				security = "none"
			case "true", "1":
				security = "tls"
			}
			f.Params = append(f.Params, field("security", security, at))
		case "verify_cert":
			f.Params = append(f.Params, field("allowInsecure", map[string]string{"false": "1"}[m.value], at))
		default:
			key := jsonKey(m.key, network)
			if m.value == "" && (key != m.key || slices.Contains(standard, key)) || m.key == "type" && key == "mode" && m.value == "none" {
				continue
			}
			f.Params = append(f.Params, Field{Param: Param{Key: key, Value: Secret(m.value), JSON: !m.isString()}, At: at})
		}
	}
	here := r.t.origin(r.parts.bodyAt)
	if value("net") == "" { // what is always written is as if it had been
		f.Params = append(f.Params, field("type", "tcp", here))
	}
	if !f.Has("security") {
		f.Params = append(f.Params, field("security", "none", here))
	}
	if v := value("v"); v == "" || v == "1" {
		f.splitVersion1()
	}
	f.Params = append(f.Params, extra...)
	if name := unescapeName(r.parts.name); strings.TrimSpace(name) != "" {
		f.Name = name
	}
	return f, VMessJSON, true
}

// splitVersion1 parts host and path, which the first version of the JSON had in one.
func (f *Fields) splitVersion1() {
	for i, p := range f.Params {
		host, path, found := strings.Cut(p.Value.Reveal(), ";")
		if found && p.Key == "host" && !f.Has("path") {
			f.Params[i].Value = Secret(host)
			f.Params = append(f.Params, field("path", path, p.At))
			return
		}
	}
}

// cmpOr is cmp.Or for two strings: the first that is not empty.
func cmpOr[S ~string](a, b S) S {
	if a != "" {
		return a
	}
	return b
}

// formatVMessJSON writes v2rayN's JSON in base64. Numbers are strings there.
func formatVMessJSON(f Fields) string {
	var b strings.Builder
	written := map[string]bool{}
	write := func(key, text string) {
		if written[key] {
			return
		}
		written[key] = true
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(QuoteJSON(key) + ":" + text)
	}
	network := cmpOr(f.Get("type"), "tcp")
	write("v", `"2"`)
	write("ps", QuoteJSON(f.Name))
	write("add", QuoteJSON(f.Host))
	write("port", QuoteJSON(f.Port))
	write("id", QuoteJSON(f.User.Reveal()))
	if !f.Has("alterId") {
		write("aid", `"0"`)
	}
	write("net", QuoteJSON(network))
	if s := f.Get("security"); s == "none" || s == "" {
		write("tls", `""`)
	}
	for _, p := range f.Params {
		text := QuoteJSON(p.Value.Reveal())
		if p.JSON || ((p.Key == "extra" || p.Key == "fm") && jsonObject(p.Value.Reveal())) {
			text = p.Value.Reveal()
		}
		write(fromURLKey(p.Key, network), text)
	}
	return "vmess://" + base64.StdEncoding.EncodeToString([]byte("{"+b.String()+"}"))
}

// shadowrocket reads base64 of cipher:id@host:port with its own keys behind it.
func (r *reader) shadowrocket() (Fields, Form, bool) {
	plain, ok := DecodeBase64(r.parts.body)
	at := strings.LastIndexByte(plain, '@')
	cipher, id, found := strings.Cut(plain[:max(at, 0)], ":")
	if !ok || at < 0 || !found {
		return r.fail("user", r.parts.bodyAt, "neither ID@host:port nor base64 of cipher:id@host:port", "")
	}
	f := r.url()
	f.User = Secret(id)
	f.Host, f.Port = splitHost(plain[at+1:])
	here := r.t.origin(r.parts.bodyAt)
	f.UserAt, f.HostAt, f.PortAt = here, here, here
	if cipher != "" && cipher != "auto" && (cipher != "none" || f.Scheme == "vmess") {
		f.first(field("encryption", cipher, here))
	}
	r.dropRepeated(&f)
	f.rename("network", "type", nil)
	f.rename("wsHost", "host", nil)
	return f, Shadowrocket, true
}

func formatShadowrocket(f Fields) string {
	cipher := cmpOr(f.pop("encryption"), map[string]string{"vless": "none", "vmess": "auto"}[f.Scheme])
	if f.Get("type") == "ws" && !strings.HasPrefix(f.Get("host"), "{") {
		f.rename("host", "obfsParam", nil)
	}
	f.rename("type", "obfs", map[string]string{"ws": "websocket"})
	f.rename("security", "tls", map[string]string{"tls": "1", "none": "0"})
	f.rename("sni", "peer", nil)
	if f.Name != "" {
		f.first(field("remarks", f.Name, 0))
		f.Name = ""
	}
	var b strings.Builder
	b.WriteString(f.Scheme + "://" + encode64(cipher+":"+f.User.Reveal()+"@"+HostPort(f.Host, f.Port)))
	writeTail(&b, f)
	return b.String()
}

// kitsunebi reads vmess1://, which has the path where URLs have it.
func (r *reader) kitsunebi() (Fields, Form, bool) {
	f := r.url()
	if len(r.parts.path) > 1 {
		f.first(field("path", unescape(r.parts.path), r.t.origin(r.parts.portAt+len(r.parts.port))))
	}
	r.dropRepeated(&f)
	f.rename("network", "type", nil)
	f.rename("ws.host", "host", nil)
	return f, Kitsunebi, true
}

func formatKitsunebi(f Fields) string {
	var path string
	if p := f.Get("path"); slices.Contains([]string{"ws", "httpupgrade", "xhttp"}, f.Get("type")) && len(p) > 1 && p[0] == '/' {
		path = strings.ReplaceAll(escape(f.pop("path")), "%2F", "/")
	}
	f.rename("type", "network", nil)
	f.rename("host", "ws.host", nil)
	f.rename("security", "tls", map[string]string{"tls": "true", "none": "false"})
	var b strings.Builder
	b.WriteString("vmess1://" + escape(f.User.Reveal()) + "@" + HostPort(f.Host, f.Port) + path)
	writeTail(&b, f)
	return b.String()
}

// std reads v2fly's form, of which m are the pieces of the user part.
func (r *reader) std(m []string) (Fields, Form, bool) {
	f := r.url()
	f.User = Secret(m[3])
	r.dropRepeated(&f)
	f.rename("tlsServerName", "sni", nil)
	head := []Field{field("type", m[1], f.UserAt)}
	if m[2] != "" {
		head = append(head, field("security", "tls", f.UserAt))
	}
	if m[4] != "0" {
		head = append(head, field("alterId", m[4], f.UserAt))
	}
	f.first(head...)
	return f, V2flyStd, true
}

func formatStd(f Fields) string {
	head := cmpOr(f.pop("type"), "tcp")
	if f.Get("security") == "tls" {
		f.pop("security")
		head += "+tls"
	}
	user := head + ":" + f.User.Reveal() + "-" + cmpOr(f.pop("alterId"), "0")
	var b strings.Builder
	b.WriteString("vmess://" + strings.NewReplacer("%3A", ":", "%2B", "+").Replace(escape(user)) + "@" + HostPort(f.Host, f.Port))
	writeTail(&b, f)
	return b.String()
}

// quantumult reads "NAME = vmess, HOST, PORT, CIPHER, "ID", key=value, …".
func (r *reader) quantumult(plain string) (Fields, Form, bool) {
	name, rest, _ := strings.Cut(plain, " = vmess,")
	tokens := splitQuoted(rest)
	if len(tokens) < 4 {
		return r.fail("", r.parts.bodyAt, "the line of Quantumult is not host, port, cipher, id and options", "")
	}
	here := r.t.origin(r.parts.bodyAt)
	f := Fields{
		Scheme: "vmess", Name: name, Host: strings.Trim(tokens[0], "[]"), Port: tokens[1], User: Secret(tokens[3]), UserAt: here, HostAt: here, PortAt: here,
		Params: []Field{field("encryption", tokens[2], here)},
	}
	if tokens[2] == "" || tokens[2] == "auto" {
		f.Params = nil
	}
	if len(tokens) > maxParams {
		return r.fail("", r.parts.bodyAt, "the line of Quantumult has too many options", "")
	}
	for _, token := range tokens[4:] {
		key, value, _ := strings.Cut(token, "=")
		if key == "" {
			continue
		}
		f.Params = append(f.Params, field(key, value, here))
	}
	r.dropRepeated(&f)
	f.rename("obfs", "type", map[string]string{"ws": "ws"})
	f.rename("obfs-path", "path", nil)
	if h := f.Get("obfs-header"); strings.HasPrefix(h, "Host: ") && !strings.Contains(h, "[Rr][Nn]") {
		f.rename("obfs-header", "host", map[string]string{h: strings.TrimPrefix(h, "Host: ")})
	}
	f.rename("over-tls", "security", map[string]string{"true": "tls", "false": "none"})
	f.rename("tls-host", "sni", nil)
	f.rename("certificate", "allowInsecure", map[string]string{"1": "0", "0": "1"})
	return f, Quantumult, true
}

func formatQuantumult(f Fields) string {
	cipher := cmpOr(f.pop("encryption"), "auto")
	f.rename("path", "obfs-path", nil)
	if h := f.Get("host"); h != "" && !strings.Contains(h, "[Rr][Nn]") {
		f.rename("host", "obfs-header", map[string]string{h: "Host: " + h})
	}
	f.rename("type", "obfs", map[string]string{"ws": "ws"})
	f.rename("security", "over-tls", map[string]string{"tls": "true", "none": "false"})
	f.rename("sni", "tls-host", nil)
	f.rename("allowInsecure", "certificate", map[string]string{"1": "0", "0": "1"})
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(f.Name, " = vmess,", " =vmess,") + " = vmess, " + bracketed(f.Host) + ", " + f.Port + ", " + quoted(cipher) + ", " + quoted(f.User.Reveal()))
	for _, p := range f.Params {
		b.WriteString(", " + quoted(p.Key+"="+p.Value.Reveal()))
	}
	return "vmess://" + base64.StdEncoding.EncodeToString([]byte(b.String()))
}

// splitQuoted splits at commas outside of double quotes, and takes the quotes and
// the white space around each part away.
func splitQuoted(s string) (list []string) {
	inside, from := false, 0
	for i := 0; i <= len(s) && len(list) <= maxParams; i++ {
		switch {
		case i < len(s) && s[i] == '"':
			inside = !inside
		case i == len(s) || s[i] == ',' && !inside:
			list = append(list, strings.ReplaceAll(strings.TrimSpace(s[from:i]), `"`, ""))
			from = i + 1
		}
	}
	return list
}

// quoted puts quotes around what needs them. There is no way to write a quote.
func quoted(s string) string {
	s = strings.ReplaceAll(s, `"`, "")
	if strings.ContainsAny(s, ",") || strings.TrimSpace(s) != s || s == "" {
		return `"` + s + `"`
	}
	return s
}
