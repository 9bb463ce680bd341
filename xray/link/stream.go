package link

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// networks are the transports by the names that links give them.
var networks = map[string]string{
	"tcp": "tcp", "raw": "tcp", "ws": "ws", "websocket": "ws", "grpc": "grpc", "gun": "grpc", "httpupgrade": "httpupgrade",
	"xhttp": "xhttp", "splithttp": "xhttp", "kcp": "kcp", "mkcp": "kcp",
	"http": "http", "h2": "h2", "h3": "h3", "quic": "quic", "domainsocket": "domainsocket",
	"h2+ws": "h2+ws",
}

// knobs are the keys of xhttpSettings that clients write flat into the query, by
// their spelling in a link.
var knobs = map[string]string{
	"x_padding_bytes": "xPaddingBytes", "xPaddingBytes": "xPaddingBytes",
	"scMaxEachPostBytes": "scMaxEachPostBytes", "scMinPostsIntervalMs": "scMinPostsIntervalMs",
	"scMaxBufferedPosts": "scMaxBufferedPosts", "scStreamUpServerSecs": "scStreamUpServerSecs",
	"noGRPCHeader": "noGRPCHeader", "noSSEHeader": "noSSEHeader", "uplinkChunkSize": "uplinkChunkSize",
}

// streamAliases renames what other clients write for the standard's keys.
func (b *builder) streamAliases() {
	yes := map[string]string{"1": "tls", "true": "tls", "tls": "tls", "0": "none", "false": "none"}
	b.translate("tls", "security", yes)
	b.translate("obfs", "type", map[string]string{"websocket": "ws", "none": "tcp"})
	b.translate("ws", "type", map[string]string{"1": "ws", "true": "ws", "": "ws"})
	if networks[b.f.Get("type")] == "ws" {
		b.alias("wspath", "path")
		v := b.f.Get("obfsParam")
		if list, ok := members(v); ok && len(list) == 1 && strings.EqualFold(list[0].key, "host") && !strings.HasPrefix(list[0].value, "{") {
			b.translate("obfsParam", "host", map[string]string{v: list[0].value}) // headers as JSON
		} else if !strings.HasPrefix(v, "{") {
			b.alias("obfsParam", "host")
		}
	}
	for _, from := range []string{"insecure", "allow_insecure", "skip-cert-verify"} {
		b.alias(from, "allowInsecure")
	}
	b.alias("peer", "sni")
	b.alias("serverName", "sni")
}

// stream takes transport and security. With implied TLS the scheme has said that
// the security is TLS; otherwise fallback is what no security key means.
func (b *builder) stream(implied bool, fallback Security) (Transport, Security, bool) {
	t, ok := b.transport()
	if !ok {
		return nil, nil, false
	}
	s, ok := b.security(implied, fallback)
	return t, s, ok
}

func (b *builder) transport() (Transport, bool) {
	v, at := b.take("type")
	if v == "" {
		return nil, true
	}
	network, ok := networks[v]
	if !ok {
		b.report(diag.Error, "type", at, "there is no such transport",
			"the transports are tcp, ws, grpc, httpupgrade, xhttp and kcp")
		return nil, false
	}
	switch network {
	case "tcp":
		return b.raw(), true
	case "ws":
		path, ok := b.earlyData()
		return WebSocket{Host: b.str("host"), Path: path}, ok
	case "httpupgrade":
		path, ok := b.earlyData()
		return HTTPUpgrade{Host: b.str("host"), Path: path}, ok
	case "xhttp":
		return b.xhttp()
	case "grpc":
		if i := b.find("mode"); i >= 0 && b.f.Params[i].Value == "guna" {
			b.f.Params[i].Value = "gun"
			b.report(diag.Warning, "mode", b.f.Params[i].At, "the mode guna is gone; read as gun", "")
		}
		return GRPC{ServiceName: b.str("serviceName"), Authority: b.str("authority"), Mode: b.oneOf("mode", "gun", "multi")}, true
	case "kcp":
		return b.kcp(), true
	default:
		b.report(diag.Warning, "type", at, "Xray no longer has the transport "+diag.Quote(v)+"; the profile can't be run", removedHelp(network))
		return Removed{Network: network, Host: b.str("host"), Path: b.str("path")}, true
	}
}

func removedHelp(network string) string {
	switch network {
	case "http", "h2", "h3":
		return "the server has to change to xhttp, whose mode stream-one is nearest"
	case "quic":
		return "the server has to change, to xhttp over h3 for instance"
	default:
		return "the server has to change its transport"
	}
}

func (b *builder) raw() Raw {
	r := Raw{Header: b.oneOf("headerType", "none", "http")}
	if r.Header == "http" {
		r.Hosts, r.Paths = splitList(b.str("host")), splitList(b.str("path"))
	}
	return r
}

// earlyData takes the path of a WebSocket, with the key ed put into its query.
func (b *builder) earlyData() (path string, ok bool) {
	path = b.str("path")
	if i := b.find("eh"); i >= 0 && b.f.Params[i].Value != "Sec-WebSocket-Protocol" {
		b.report(diag.Warning, "eh", b.f.Params[i].At, "Xray sends early data in Sec-WebSocket-Protocol only; the key is kept", "")
	}
	i := b.find("ed")
	if i < 0 || b.f.Params[i].Value == "" {
		return path, true
	}
	n, err := strconv.ParseUint(b.f.Params[i].Value.Reveal(), 10, 31)
	if err != nil {
		b.report(diag.Error, "ed", b.f.Params[i].At, "the size of early data is no number of bytes", "")
		return "", false
	}
	base, query, found := strings.Cut(path, "?")
	if found {
		for part := range strings.SplitSeq(query, "&") {
			if strings.HasPrefix(part, "ed=") {
				b.report(diag.Warning, "ed", b.f.Params[i].At, "the path says how much early data there is; this key is kept, not used", "")
				return path, true
			}
		}
	}
	b.take("ed")
	if base == "" {
		path = "/" + path
	}
	sep := "?"
	if found {
		sep = "&"
	}
	return path + sep + "ed=" + strconv.FormatUint(n, 10), true
}

func (b *builder) xhttp() (Transport, bool) {
	x := XHTTP{Host: b.str("host"), Path: b.str("path"), Mode: b.oneOf("mode", "auto", "packet-up", "stream-up", "stream-one")}
	var ok bool
	if x.Extra, ok = b.object("extra"); !ok {
		return nil, false
	}
	if x.Extra == "" && b.f.Has("extra") && b.f.Get("extra") != "" {
		return x, true // unreadable, so nothing can be added to it
	}
	for i, p := range b.f.Params {
		name, isKnob := knobs[p.Key]
		if !isKnob || b.taken[i] || p.Value == "" {
			continue
		}
		if hasMember(x.Extra, name) {
			b.report(diag.Warning, p.Key, p.At, "extra says the same; this key is kept, not used", "")
			continue
		}
		merged := addMember(x.Extra, name, p.Param)
		if len(merged) > maxObject {
			continue
		}
		b.taken[i] = true
		x.Extra = merged
		b.report(diag.Hint, p.Key, p.At, "moved into extra as "+name, "")
	}
	return x, true
}

func (b *builder) kcp() KCP {
	k := KCP{
		Header: b.oneOf("headerType", "none", "srtp", "utp", "wechat-video", "dtls", "wireguard", "dns"),
		MTU:    b.number("mtu"), TTI: b.number("tti"),
	}
	k.Seed = Secret(b.str("seed"))
	if k.Seed != "" {
		b.at(diag.Warning, "seed", "Xray has replaced the seed by a mask in finalmask", "")
	}
	if k.Header != "" && k.Header != "none" {
		b.at(diag.Warning, "headerType", "Xray has replaced the headers of mKCP by masks in finalmask", "")
	}
	return k
}

// number takes a number up to 65535; what is none is kept as unknown.
func (b *builder) number(key string) uint16 {
	v, _ := b.take(key)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		b.keep(key, "not a number from 1 to 65535, so the default holds", "")
		return 0
	}
	return uint16(n)
}

func (b *builder) security(implied bool, fallback Security) (Security, bool) {
	if implied {
		if i := b.find("security"); i >= 0 && !slices.Contains([]string{"", "tls"}, b.f.Params[i].Value.Reveal()) {
			b.report(diag.Error, "security", b.f.Params[i].At, "the scheme is always over TLS", "write security=tls or leave the key out")
			return nil, false
		}
		return b.tls(), true
	}
	v, at := b.take("security")
	switch v {
	case "":
		if _, ok := fallback.(TLS); ok {
			return b.tls(), true
		}
		if i := b.find("pbk"); i >= 0 {
			b.report(diag.Warning, "pbk", b.f.Params[i].At, "a key of REALITY without security=reality; it is kept, not used", "add security=reality if that is meant")
		}
		return fallback, true
	case "none":
		if i := b.find("pbk"); i >= 0 {
			b.report(diag.Warning, "pbk", b.f.Params[i].At, "a key of REALITY beside security=none; it is kept, not used", "write security=reality if that is meant")
		}
		return Plain{}, true
	case "tls":
		return b.tls(), true
	case "reality":
		return b.reality(at), true
	case "xtls":
		b.report(diag.Error, "security", at, "Xray has removed the old XTLS", "the server has to change to the flow xtls-rprx-vision over TLS or REALITY")
	default:
		b.report(diag.Error, "security", at, "there is no such security", "it is none, tls or reality")
	}
	return nil, false
}

func (b *builder) tls() TLS {
	t := TLS{
		ServerName: b.str("sni"), Fingerprint: b.fingerprint(), Pins: splitList(b.str("pcs")),
		Names: splitList(b.str("vcn")), ECH: b.str("ech"), AllowInsecure: b.toggle("allowInsecure"),
	}
	for part := range strings.SplitSeq(b.str("alpn"), ",") {
		if part = strings.TrimSpace(part); part != "" {
			t.ALPN = append(t.ALPN, part)
		}
	}
	for _, pin := range t.Pins {
		if raw, err := hex.DecodeString(strings.ReplaceAll(pin, ":", "")); err != nil || len(raw) != 32 {
			b.at(diag.Warning, "pcs", "a pin is not a SHA-256 in hexadecimal digits; the core refuses it",
				"openssl x509 -noout -fingerprint -sha256 prints it for a certificate")
			break
		}
	}
	if t.AllowInsecure == On {
		if t.Pins != nil || t.Names != nil {
			b.at(diag.Warning, "allowInsecure", "Xray no longer takes this key; what is pinned makes it needless", "")
		} else {
			b.at(diag.Warning, "allowInsecure", "Xray no longer takes any certificate; the profile can't be run without a pin",
				"pin the server's certificate with pcs: `xray tls ping HOST` or openssl x509 -noout -fingerprint -sha256 prints it")
		}
	}
	return t
}

func (b *builder) reality(at int) Reality {
	r := Reality{ServerName: b.str("sni"), Fingerprint: b.fingerprint(), SpiderX: b.str("spx"), Verify: b.str("pqv")}
	key := b.str("pbk")
	r.PublicKey = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(key, "="))
	switch {
	case r.PublicKey == "":
		b.report(diag.Warning, "pbk", at, "REALITY without the server's key can't be run", "")
	case r.PublicKey != key:
		b.at(diag.Hint, "pbk", "rewritten to URL-safe base64 without padding, which the core wants", "")
	}
	if r.PublicKey != "" && KeyLen(r.PublicKey) != 32 {
		b.at(diag.Warning, "pbk", "not a key of 32 bytes; the core refuses it", "")
	}
	sid := b.str("sid")
	r.ShortID = Secret(sid)
	if _, err := hex.DecodeString(sid); err != nil || len(sid) > 16 {
		b.at(diag.Warning, "sid", "not an even number of up to 16 hexadecimal digits; the core refuses it", "")
	}
	if r.SpiderX != "" && !strings.HasPrefix(r.SpiderX, "/") {
		b.at(diag.Warning, "spx", "does not begin with /; the core refuses it", "")
	}
	if r.Verify != "" && KeyLen(r.Verify) != 1952 {
		b.at(diag.Warning, "pqv", "not a key of 1952 bytes; the core refuses it", "")
	}
	return r
}

func (b *builder) fingerprint() string {
	v := b.str("fp")
	if !ValidFingerprint(v) {
		b.at(diag.Warning, "fp", "the core does not know this fingerprint and refuses it", "chrome is the usual one")
	}
	return v
}

// toggle takes a yes or no.
func (b *builder) toggle(key string) Toggle {
	v, _ := b.take(key)
	switch strings.ToLower(v) {
	case "":
		return Unset
	case "1", "true":
		return On
	case "0", "false":
		return Off
	default:
		b.keep(key, "neither 1 nor 0, so the default holds", "")
		return Unset
	}
}

// at reports on a key that was taken.
func (b *builder) at(s diag.Severity, key, message, help string) {
	i := slices.IndexFunc(b.f.Params, func(p Field) bool { return p.Key == key })
	at := 0
	if i >= 0 {
		at = b.f.Params[i].At
	}
	b.report(s, key, at, message, help)
}

// splitList splits at commas; "" is nil.
func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
