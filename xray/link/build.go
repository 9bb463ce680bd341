package link

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
)

const (
	// maxParams bounds the keys of one link; the richest real ones have thirty.
	maxParams = 256
)

// protocols are the schemes with the port that holds where a link names none, 0
// where it must name one.
var protocols = map[string]struct {
	name string // the first spelling of the scheme
	port uint16
}{
	"vless": {"vless", 0}, "vmess": {"vmess", 0}, "vmess1": {"vmess", 0}, "trojan": {"trojan", 443}, "trojan-go": {"trojan-go", 443},
	"ss": {"ss", 0}, "socks": {"socks", 0}, "socks5": {"socks", 0}, "socks5h": {"socks", 0}, "socks4": {"socks", 0}, "socks4a": {"socks", 0},
	"http": {"http", 80}, "https": {"https", 443}, "hysteria2": {"hysteria2", 443}, "hy2": {"hysteria2", 443},
	"wireguard": {"wireguard", 51820}, "wg": {"wireguard", 51820},
}

// Build makes a profile of fields, as Parse does of a link: all or nothing. It is
// for readers of other forms.
func Build(f Fields, form Form) (Profile, []Finding) {
	f.Params = slices.Clone(f.Params)
	b := &builder{f: f, taken: make([]bool, len(f.Params)), label: f.Scheme + " link"}
	for _, p := range f.Params {
		b.spelled = append(b.spelled, p.Key)
	}
	p, ok := b.profile(form)
	if !ok {
		return Profile{}, b.findings
	}
	return p, b.findings
}

func (b *builder) profile(form Form) (Profile, bool) {
	p := Profile{Source: Source{Form: form}}
	proto, ok := protocols[b.f.Scheme]
	if !ok {
		b.report(diag.Error, "", 0, "the scheme is not known", "")
		return p, false
	}
	if proto.name != b.f.Scheme || proto.name == "trojan-go" || proto.name == "https" {
		p.Source.Scheme = b.f.Scheme
	}
	if len(b.f.Params) > maxParams {
		b.report(diag.Error, "", 0, "more than "+strconv.Itoa(maxParams)+" keys", "")
		return p, false
	}
	if p.Host, ok = b.host(); !ok {
		return p, false
	}
	var list string
	if p.Port, list, ok = b.port(proto.name, proto.port); !ok {
		return p, false
	}
	if b.f.User != "" || proto.name == "socks" || proto.name == "http" || proto.name == "https" {
		// Without a user, what looks like a host can be the beginning of a password.
		b.label = proto.name + " link to " + HostPort(p.Host, strconv.Itoa(int(p.Port)))
	}
	b.dropRepeated()
	p.Name = strings.TrimSpace(strings.ToValidUTF8(b.f.Name, "\ufffd"))
	if remark := b.str("remarks"); p.Name == "" { // the fragment is more than this key
		p.Name = strings.TrimSpace(strings.ToValidUTF8(remark, "\ufffd"))
	}
	if p.FinalMask, ok = b.object("fm"); !ok {
		return p, false
	}
	switch proto.name {
	case "vless":
		ok = b.vless(&p)
	case "vmess":
		ok = b.vmess(&p)
	case "trojan":
		ok = b.trojan(&p)
	case "trojan-go":
		ok = b.trojanGo(&p)
	case "ss":
		ok = b.shadowsocks(&p)
	case "socks", "http", "https":
		ok = b.plainProxy(&p, proto.name)
	case "hysteria2":
		ok = b.hysteria2(&p, list)
	default:
		ok = b.wireguard(&p)
	}
	if !ok {
		return p, false
	}
	p.Unknown = b.rest()
	if form == VMessJSON { // objects have no order
		slices.SortStableFunc(p.Unknown, func(x, y Param) int { return strings.Compare(x.Key, y.Key) })
	}
	return p, true
}

// host checks the host. Messages don't repeat it: in a link that was cut wrong it
// can be a piece of the password.
func (b *builder) host() (string, bool) {
	h := b.f.Host
	if addr, err := netip.ParseAddr(h); err == nil && addr.Zone() == "" {
		return addr.String(), true
	}
	name, err := flow.CanonicalName(h)
	if err != nil {
		help := ""
		if strings.Contains(h, ":") {
			help = "an address of IPv6 stands in brackets"
		}
		b.report(diag.Error, "host", b.f.HostAt, "the host is missing, or neither a name nor an address", help)
		return "", false
	}
	return name, true
}

// port reads the port; only hysteria2 may have a list of them.
func (b *builder) port(protocol string, fallback uint16) (port uint16, list string, ok bool) {
	text := b.f.Port
	if text == "" && fallback != 0 {
		b.report(diag.Hint, "port", b.f.PortAt, "no port is given, read as "+strconv.Itoa(int(fallback)), "")
		return fallback, "", true
	}
	if protocol == "hysteria2" && strings.ContainsAny(text, ",-") {
		if first, ok := portList(text); ok {
			return first, text, true
		}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		b.report(diag.Error, "port", b.f.PortAt, "the port is missing or not a number from 1 to 65535", "")
		return 0, "", false
	}
	return uint16(n), "", true
}

// portList checks a list of ports and ranges, and returns its first port.
func portList(s string) (first uint16, ok bool) {
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, ranged := strings.Cut(part, "-")
		if !ranged {
			hi = lo
		}
		a, errA := strconv.ParseUint(lo, 10, 16)
		z, errZ := strconv.ParseUint(hi, 10, 16)
		if errA != nil || errZ != nil || a == 0 || z < a {
			return 0, false
		}
		if first == 0 {
			first = uint16(a)
		}
	}
	return first, true
}

// id takes the identity of vless and vmess.
func (b *builder) id() (Secret, bool) {
	id := b.f.User
	if id == "" {
		b.report(diag.Error, "user", b.f.UserAt, "the user's id is missing", "")
		return "", false
	}
	if !ValidID(id.Reveal()) {
		b.report(diag.Warning, "user", b.f.UserAt, "the id is neither a UUID nor up to 30 bytes long; the core refuses it", "")
	}
	return id, true
}

func (b *builder) vless(p *Profile) (ok bool) {
	v := VLESS{}
	if v.ID, ok = b.id(); !ok {
		return false
	}
	b.streamAliases()
	b.translate("xtls", "flow", map[string]string{"1": "xtls-rprx-direct", "2": "xtls-rprx-vision"})
	v.Encryption = b.str("encryption")
	if e := v.Encryption; e != "" && e != "none" && !strings.HasPrefix(e, "mlkem768x25519plus.") {
		b.at(diag.Warning, "encryption", "neither none nor mlkem768x25519plus; the core refuses it", "")
	}
	flow, at := b.take("flow")
	switch flow {
	case "", "xtls-rprx-vision", "xtls-rprx-vision-udp443":
		v.Flow = flow
	case "none":
		b.report(diag.Hint, "flow", at, "none is no flow, as is leaving the key out", "")
	default:
		b.report(diag.Error, "flow", at, "Xray has no such flow any more", "the server has to change to xtls-rprx-vision")
		return false
	}
	p.Proxy = v
	p.Transport, p.Security, ok = b.stream(false, nil)
	return ok
}

func (b *builder) vmess(p *Profile) (ok bool) {
	v := VMess{}
	if v.ID, ok = b.id(); !ok {
		return false
	}
	b.streamAliases()
	v.Cipher = b.oneOf("encryption", "auto", "aes-128-gcm", "chacha20-poly1305", "none", "zero")
	if v.Cipher == "none" || v.Cipher == "zero" {
		b.at(diag.Warning, "encryption", "from version 26.7 on Xray reads this cipher as auto", "")
	}
	b.alias("aid", "alterId")
	text, _ := b.take("alterId")
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case text == "":
	case err != nil:
		b.keep("alterId", "not a number, so 0 holds", "")
		n = 0
	case n > 0:
		b.at(diag.Warning, "alterId", "Xray has removed this authentication and connects as with 0", "the server must take AEAD")
	}
	v.AlterID = uint16(n)
	p.Proxy = v
	p.Transport, p.Security, ok = b.stream(false, nil)
	return ok
}

func (b *builder) trojan(p *Profile) (ok bool) {
	if b.f.User == "" {
		b.report(diag.Error, "user", b.f.UserAt, "the password is missing", "")
		return false
	}
	p.Proxy = Trojan{Password: b.f.User}
	if i := b.find("flow"); i >= 0 && b.f.Params[i].Value != "" {
		b.report(diag.Warning, "flow", b.f.Params[i].At, "Xray has removed the flows of trojan; the key is kept, not used", "the server must not ask for one")
	}
	b.streamAliases()
	p.Transport, p.Security, ok = b.stream(false, TLS{})
	return ok
}

func (b *builder) trojanGo(p *Profile) (ok bool) {
	if b.f.User == "" {
		b.report(diag.Error, "user", b.f.UserAt, "the password is missing", "")
		return false
	}
	if i := b.find("type"); i >= 0 && b.f.Params[i].Value == "original" {
		b.f.Params[i].Value = "tcp"
	}
	t := Trojan{Password: b.f.User, Encryption: Secret(b.str("encryption")), Plugin: Secret(b.str("plugin"))}
	if t.Encryption != "" && t.Encryption != "none" {
		b.at(diag.Warning, "encryption", "Xray has no shadowsocks inside of trojan; the profile can't be run", "")
	}
	if t.Plugin != "" {
		b.at(diag.Warning, "plugin", "Xray has no plugins of trojan-go; the profile can't be run", "")
	}
	p.Proxy = t
	p.Transport, p.Security, ok = b.stream(true, nil)
	return ok
}

func (b *builder) shadowsocks(p *Profile) (ok bool) {
	s := Shadowsocks{Method: b.f.User.Reveal(), Password: b.f.Pass}
	if s.Method == "" {
		b.report(diag.Error, "user", b.f.UserAt, "the method is missing", "the user part is method:password, plain or in base64")
		return false
	}
	if strings.ContainsFunc(s.Method, func(r rune) bool { return r <= ' ' || r == ':' || r >= 0x7f }) {
		b.report(diag.Error, "user", b.f.UserAt, "the method is not a name", "the user part is method:password, plain or in base64")
		return false
	}
	if _, ok := ShadowsocksMethod(s.Method); !ok {
		b.report(diag.Warning, "user", b.f.UserAt, "Xray does not have this method of shadowsocks; the profile can't be run",
			"the server has to change to one of AEAD, such as aes-256-gcm")
	}
	if v, at := b.take("plugin"); v != "" {
		if s.Plugin, ok = ParsePlugin(v); !ok {
			b.report(diag.Error, "plugin", at, "the plugin has no name or too many options", "it is name;key=value;flag")
			return false
		}
		b.report(diag.Warning, "plugin", at, "Xray runs no plugins; only what a transport of its own equals can be converted", "")
	}
	for _, key := range []string{"shadow-tls", "gost", "v2ray-plugin"} {
		if i := b.find(key); i >= 0 {
			b.report(diag.Warning, key, b.f.Params[i].At, "Xray runs no plugins; the key is kept", "")
		}
	}
	p.Proxy = s
	b.streamAliases()
	p.Transport, p.Security, ok = b.stream(false, nil)
	return ok
}

func (b *builder) plainProxy(p *Profile, scheme string) (ok bool) {
	if scheme == "socks" {
		if strings.HasPrefix(b.f.Scheme, "socks4") && b.f.Pass != "" {
			b.report(diag.Error, "user", b.f.UserAt, "SOCKS 4 has no passwords", "write socks5://")
			return false
		}
		p.Proxy = Socks{User: b.f.User.Reveal(), Password: b.f.Pass}
	} else {
		p.Proxy = HTTP{User: b.f.User.Reveal(), Password: b.f.Pass}
	}
	b.streamAliases()
	p.Transport, p.Security, ok = b.stream(scheme == "https", nil)
	return ok
}

func (b *builder) hysteria2(p *Profile, list string) (ok bool) {
	h := Hysteria2{Auth: b.f.User, PortList: list, Up: b.str("up"), Down: b.str("down")}
	if h.Auth == "" {
		b.report(diag.Hint, "user", b.f.UserAt, "there is no password", "")
	}
	b.alias("ports", "mport")
	b.alias("insecure", "allowInsecure")
	b.alias("allow_insecure", "allowInsecure")
	b.alias("pinSHA256", "pcs")
	b.alias("peer", "sni")
	if h.HopPorts = b.str("mport"); h.HopPorts != "" {
		if _, ok := portList(h.HopPorts); !ok {
			b.at(diag.Error, "mport", "not a list of ports and ranges", "")
			return false
		}
	}
	if h.HopInterval = b.str("hop-interval"); h.HopInterval != "" {
		if _, ok := portList(h.HopInterval); !ok || strings.Contains(h.HopInterval, ",") {
			b.at(diag.Error, "hop-interval", "not a number of seconds or a range of them", "")
			return false
		}
	}
	h.Obfs = strings.ToLower(b.str("obfs"))
	h.ObfsPassword = Secret(b.str("obfs-password"))
	switch {
	case h.Obfs == "none" || h.Obfs == "":
	case h.Obfs != "salamander":
		b.at(diag.Warning, "obfs", "this version of Xray has salamander only; the profile can't be run", "")
	case h.ObfsPassword == "":
		b.at(diag.Warning, "obfs", "salamander needs the key obfs-password; the profile can't be run", "")
	}
	if i := b.find("security"); i >= 0 && b.f.Params[i].Value == "" {
		b.take("security")
	}
	p.Proxy = h
	p.Security, ok = b.security(true, nil)
	return ok
}

func (b *builder) wireguard(p *Profile) bool {
	for _, a := range [...][2]string{
		{"publicKey", "publickey"},
		{"peer_public_key", "publickey"},
		{"privateKey", "privatekey"},
		{"pk", "privatekey"},
		{"presharedKey", "presharedkey"},
		{"pre_shared_key", "presharedkey"},
		{"psk", "presharedkey"},
		{"local_address", "address"},
		{"ip", "address"},
		{"allowedIPs", "allowedips"},
		{"allowed_ips", "allowedips"},
		{"persistentKeepalive", "keepalive"},
		{"persistent_keepalive", "keepalive"},
	} {
		b.alias(a[0], a[1])
	}
	w := WireGuard{PrivateKey: b.f.User, PresharedKey: Secret(b.str("presharedkey")), PublicKey: b.str("publickey"), MTU: b.number("mtu"), KeepAlive: b.number("keepalive")}
	if v, at := b.take("privatekey"); v != "" {
		if w.PrivateKey != "" && w.PrivateKey != Secret(v) {
			b.report(diag.Warning, "privatekey", at, "the private key stands twice; the one of this key holds", "")
		}
		w.PrivateKey = Secret(v)
	}
	if w.PrivateKey == "" {
		b.report(diag.Error, "user", b.f.UserAt, "the private key is missing", "")
		return false
	}
	if w.PublicKey == "" {
		b.report(diag.Warning, "publickey", 0, "without the peer's key the profile can't be run", "")
	}
	var ok bool
	if w.Addresses, ok = b.prefixes("address"); !ok {
		return false
	}
	if w.AllowedIPs, ok = b.prefixes("allowedips"); !ok {
		return false
	}
	if v, at := b.take("reserved"); v != "" {
		if w.Reserved = reserved(v); w.Reserved == nil {
			b.report(diag.Error, "reserved", at, "not three bytes", "write 1,2,3 or their base64")
			return false
		}
	}
	p.Proxy = w
	return true
}

// prefixes takes a list of addresses, with or without the length of a prefix.
func (b *builder) prefixes(key string) (list []netip.Prefix, ok bool) {
	v, at := b.take(key)
	for part := range strings.SplitSeq(v, ",") {
		part = strings.NewReplacer("[", "", "]", "").Replace(strings.TrimSpace(part))
		if part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if addr, errAddr := netip.ParseAddr(part); errAddr == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			b.report(diag.Error, key, at, "not a list of addresses", "such as 10.0.0.2/32,2001:db8::2/128")
			return nil, false
		}
		list = append(list, p)
	}
	return list, true
}

// reserved reads three bytes as numbers or base64; nil if it is neither.
func reserved(s string) []byte {
	var out []byte
	for part := range strings.SplitSeq(strings.Trim(s, "[]"), ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 8)
		if err != nil {
			out = nil
			break
		}
		out = append(out, byte(n))
	}
	if len(out) == 3 {
		return out
	}
	if raw, ok := DecodeBase64(s); ok && len(raw) == 3 {
		return []byte(raw)
	}
	return nil
}
