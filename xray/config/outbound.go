package config

import (
	"encoding/base64"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

// checker collects findings on one profile or one configuration.
type checker struct {
	v        Version
	profile  string
	findings []Finding
}

func (c *checker) report(s diag.Severity, path, message, help string) {
	c.findings = append(c.findings, Finding{Severity: s, Profile: c.profile, Path: path, Message: message, Help: help})
}

// builder turns one profile into an outbound.
type builder struct {
	checker
	p link.Profile
}

// key reports on a key of the link.
func (b *builder) key(s diag.Severity, key, message, help string) {
	b.findings = append(b.findings, Finding{Severity: s, Profile: b.profile, Key: key, Message: message, Help: help})
}

// Check says what is to know about running a profile: what is migrated or dropped,
// and why it can't be run.
func Check(v Version, p link.Profile) []Finding {
	_, findings := outbound(v, p)
	return findings
}

// outbound returns the profile's outbound without a tag; nil if it is refused.
func outbound(v Version, p link.Profile) (object, []Finding) {
	out, findings := translate(v, p)
	if out == nil || Refused(findings) {
		return nil, findings
	}
	return out, findings
}

// translate is outbound that returns also what is refused, as far as it can be said.
func translate(v Version, p link.Profile) (object, []Finding) {
	b := builder{checker: checker{v: v}, p: p}
	if p.Proxy == nil {
		b.key(diag.Error, "", "there is no profile", "")
		return nil, b.findings
	}
	out := object{}
	out["protocol"], out["settings"] = b.proxy()
	b.profile = label(out["protocol"].(string), p)
	for i := range b.findings {
		b.findings[i].Profile = b.profile
	}
	if s := b.stream(); len(s) > 0 {
		out["streamSettings"] = s
	}
	b.unknown()
	// The checks read plain JSON, so that there is one set for ours and others'.
	tree, err := decode(encode(out))
	if err != nil {
		b.key(diag.Error, "", "an object of the link is no JSON", "")
		return nil, b.findings
	}
	out = tree.(object)
	b.scrub(out)
	b.confine(child(out, "streamSettings"))
	b.rename(child(child(out, "streamSettings"), "xhttpSettings"))
	b.outbound("outbound", out)
	return out, b.findings
}

// label names a profile in findings.
func label(protocol string, p link.Profile) string {
	return protocol + " to " + address(p)
}

func address(p link.Profile) string { return link.HostPort(p.Host, strconv.Itoa(int(p.Port))) }

// proxy returns the name of the protocol and its settings.
func (b *builder) proxy() (protocol string, settings object) {
	s := object{"address": b.p.Host, "port": b.p.Port}
	set := func(key, value string) {
		if value != "" {
			s[key] = value
		}
	}
	switch x := b.p.Proxy.(type) {
	case link.VLESS:
		s["id"], s["encryption"] = x.ID.Reveal(), x.Encryption
		if x.Encryption == "" {
			s["encryption"] = "none" // the core wants it said
		}
		set("flow", x.Flow)
		return "vless", s
	case link.VMess:
		s["id"], s["security"] = x.ID.Reveal(), b.cipher(x)
		return "vmess", s
	case link.Trojan:
		s["password"] = x.Password.Reveal()
		if e := x.Encryption.Reveal(); e != "" && e != "none" {
			b.key(diag.Error, "encryption", "Xray has no shadowsocks inside of trojan", "the server has to change, or another client has to be used")
		}
		if x.Plugin != "" {
			b.key(diag.Error, "plugin", "Xray runs no plugins of trojan-go", "the server has to change to a transport of Xray")
		}
		return "trojan", s
	case link.Shadowsocks:
		s["method"], s["password"] = x.Method, b.shadowsocksKeys(x)
		return "shadowsocks", s
	case link.Socks:
		if strings.HasPrefix(b.p.Source.Scheme, "socks4") {
			b.key(diag.Error, "", "Xray speaks SOCKS 5 only to a proxy", "write socks5:// if the proxy speaks it")
		}
		set("user", x.User)
		set("pass", x.Password.Reveal())
		return "socks", s
	case link.HTTP:
		set("user", x.User)
		set("pass", x.Password.Reveal())
		return "http", s
	case link.Hysteria2:
		s["version"] = 2
		return "hysteria", s
	case link.WireGuard:
		return "wireguard", b.wireguard(x)
	default:
		panic("config: a proxy that is not known")
	}
}

// cipher returns the cipher of vmess. What 26.7 reads otherwise is said.
func (b *builder) cipher(x link.VMess) string {
	if x.AlterID > 0 {
		b.key(diag.Warning, "alterId", "dropped: Xray has removed this authentication", "the server must take AEAD, which it does with alterId 0")
	}
	switch {
	case x.Cipher == "":
		return "auto"
	case b.v >= V26_7 && (x.Cipher == "none" || x.Cipher == "zero"):
		b.key(diag.Warning, "encryption", "this version reads "+x.Cipher+" as auto, which is written", "")
		return "auto"
	default:
		return x.Cipher
	}
}

// shadowsocksKeys returns the password. The 2022 methods want standard base64.
func (b *builder) shadowsocksKeys(x link.Shadowsocks) string {
	if !strings.HasPrefix(x.Method, "2022-") {
		return x.Password.Reveal()
	}
	keys := strings.Split(x.Password.Reveal(), ":")
	changed := false
	for i, key := range keys {
		std := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(key, "="))
		if raw, err := base64.RawStdEncoding.DecodeString(std); err == nil {
			std = base64.StdEncoding.EncodeToString(raw)
			changed = changed || std != key
			keys[i] = std
		}
	}
	if changed {
		b.key(diag.Hint, "user", "the key is rewritten to standard base64, which the core wants", "")
	}
	return strings.Join(keys, ":")
}

func (b *builder) wireguard(x link.WireGuard) object {
	peer := object{"publicKey": x.PublicKey, "endpoint": address(b.p)}
	if x.PresharedKey != "" {
		peer["preSharedKey"] = x.PresharedKey.Reveal()
	}
	if x.KeepAlive > 0 {
		peer["keepAlive"] = x.KeepAlive
	}
	if x.AllowedIPs != nil {
		list := make([]string, len(x.AllowedIPs))
		for i, p := range x.AllowedIPs {
			list[i] = p.String()
		}
		peer["allowedIPs"] = list
	}
	// A device of the kernel would come with rules and routes that netpolicy does not know of.
	s := object{"secretKey": x.PrivateKey.Reveal(), "peers": []object{peer}, "noKernelTun": true}
	if x.Addresses != nil {
		list := make([]string, len(x.Addresses))
		for i, p := range x.Addresses {
			list[i] = p.Addr().String()
		}
		s["address"] = list
	}
	if x.MTU > 0 {
		s["mtu"] = x.MTU
	}
	if x.Reserved != nil {
		s["reserved"] = base64.StdEncoding.EncodeToString(x.Reserved)
	}
	return s
}

// unknown says which keys of the link are not used.
func (b *builder) unknown() {
	for _, u := range b.p.Unknown {
		switch _, trojan := b.p.Proxy.(link.Trojan); {
		case u.Value == "" || u.Value == "none":
		case trojan && u.Key == "flow":
			b.key(diag.Warning, "flow", "dropped: Xray has no flows of trojan any more", "it works only if the server has none either")
		case u.Key == "shadow-tls" || u.Key == "gost" || u.Key == "v2ray-plugin":
			b.key(diag.Error, u.Key, "the server expects a plugin, and Xray runs none", pluginHelp)
		default:
			b.key(diag.Hint, u.Key, "the key is not used", "")
		}
	}
}

// scrub removes the key allowInsecure from all that the link's objects hold: the
// core refuses it. Where it was asked for, the check of what is pinned remains.
func (b *builder) scrub(v any) {
	switch x := v.(type) {
	case object:
		insecure, ok := get(x, "allowInsecure")
		if ok && (insecure != true || pinned(x)) {
			drop(x, "allowInsecure")
			if insecure == true {
				b.key(diag.Warning, "allowInsecure", "dropped: Xray no longer takes it, and what is pinned makes it needless", "")
			}
		}
		for _, key := range sortedKeys(x) {
			b.scrub(x[key])
		}
	case []any:
		for _, e := range x {
			b.scrub(e)
		}
	}
}

// renamed are keys of xhttp that 26.7 calls otherwise.
var renamed = [...][2]string{{"sessionPlacement", "sessionIDPlacement"}, {"sessionKey", "sessionIDKey"}}

// rename gives keys of xhttp, wherever the link's object has them, the version's names.
func (b *builder) rename(v any) {
	switch x := v.(type) {
	case object:
		for _, names := range renamed {
			from, to := names[0], names[1]
			if b.v < V26_7 {
				from, to = to, from
			}
			value, ok := get(x, from)
			if _, taken := get(x, to); ok && !taken {
				drop(x, from)
				x[to] = value
				b.key(diag.Hint, "extra", from+" is written as "+to+", as this version calls it", "")
			}
		}
		for _, key := range sortedKeys(x) {
			b.rename(x[key])
		}
	case []any:
		for _, e := range x {
			b.rename(e)
		}
	}
}

// pinned reports whether settings of TLS say which certificates to take.
func pinned(tls object) bool {
	return text(tls, "pinnedPeerCertSha256") != "" || text(tls, "verifyPeerCertByName") != ""
}
