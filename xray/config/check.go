package config

import (
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

// networks are the transports by the names that configurations give them.
var networks = map[string]string{
	"": "raw", "raw": "raw", "tcp": "raw", "ws": "ws", "websocket": "ws", "httpupgrade": "httpupgrade", "xhttp": "xhttp",
	"splithttp": "xhttp", "grpc": "grpc", "kcp": "kcp", "mkcp": "kcp", "hysteria": "hysteria",
	"h2": "http", "h3": "http", "http": "http", "h2+ws": "http", "quic": "quic", "domainsocket": "domainsocket", "gun": "gun",
}

// removed says what to do instead of a transport that Xray no longer has.
var removed = map[string]string{
	"http":         "the server has to change, to xhttp with the mode stream-one for instance; what it speaks now is not the same",
	"quic":         "the server has to change, to xhttp over h3 for instance",
	"domainsocket": "the server has to change its transport",
	"gun":          "write grpc",
}

const pinHelp = "pin the server's certificate with pcs: `xray tls ping HOST`, or `openssl x509 -noout -fingerprint -sha256` at the server, prints it"

// outbound checks one outbound, ours or another's.
func (c *checker) outbound(path string, o object) {
	protocol := strings.ToLower(text(o, "protocol"))
	settings, stream := child(o, "settings"), child(o, "streamSettings")
	switch protocol {
	case "":
		c.report(diag.Error, at(path, "protocol"), "the protocol is missing", "")
		return
	case "hysteria2", "hy2":
		c.report(diag.Error, at(path, "protocol"), "Xray calls it hysteria, with the version 2", "write hysteria")
		return
	case "freedom", "blackhole", "dns", "loopback":
		c.stream(at(path, "streamSettings"), stream)
		return
	case "wireguard":
		c.keys(at(path, "settings"), protocol, settings)
		c.wireguard(at(path, "settings"), settings)
		return
	case "vless", "vmess", "trojan", "shadowsocks", "socks", "http", "hysteria":
		c.keys(at(path, "settings"), protocol, settings)
	default:
		c.report(diag.Error, at(path, "protocol"), "Xray does not have this protocol", "")
		return
	}
	user, userPath := c.endpoint(at(path, "settings"), protocol, settings)
	network, security := c.stream(at(path, "streamSettings"), stream)
	c.user(userPath, protocol, user)
	c.pairing(at(path, "streamSettings"), protocol, settings, user, stream, network, security)
}

// endpoint checks where the proxy is and returns its user, which in the older
// spelling stands in a list.
func (c *checker) endpoint(path, protocol string, settings object) (user object, userPath string) {
	server, serverPath, where := settings, path, "servers"
	if protocol == "vless" || protocol == "vmess" {
		where = "vnext"
	}
	user, userPath = settings, path
	if l := list(settings, where); len(l) > 0 {
		server, _ = l[0].(object)
		serverPath = item(path, where, 0)
		user, userPath = server, serverPath
		if l := list(server, "users"); len(l) > 0 {
			user, _ = l[0].(object)
			userPath = item(serverPath, "users", 0)
		}
	}
	if text(server, "address") == "" {
		c.report(diag.Error, at(serverPath, "address"), "the server's address is missing", "")
	}
	if port, _ := integer(server, "port"); port < 1 || port > 65535 {
		c.report(diag.Error, at(serverPath, "port"), "the port is missing or not from 1 to 65535", "")
	}
	return user, userPath
}

// user checks who we are to the proxy.
func (c *checker) user(path, protocol string, user object) {
	for _, key := range []string{"plugin", "pluginOpts", "plugin_opts"} {
		if _, ok := get(user, key); ok && protocol == "shadowsocks" {
			c.report(diag.Error, at(path, key), "Xray passes over plugins, so that all goes out without", pluginHelp)
		}
	}
	flow := text(user, "flow")
	switch protocol {
	case "vless":
		c.id(path, user)
		c.vlessEncryption(path, text(user, "encryption"))
		if !slices.Contains([]string{"", "xtls-rprx-vision", "xtls-rprx-vision-udp443"}, flow) {
			c.report(diag.Error, at(path, "flow"), "Xray has no such flow", "the server has to change to xtls-rprx-vision")
		}
	case "vmess":
		c.id(path, user)
		if n, _ := integer(user, "alterId"); n > 0 {
			c.report(diag.Warning, at(path, "alterId"), "Xray passes over it: the authentication is removed", "the server must take AEAD")
		}
		if s := strings.ToLower(text(user, "security")); !slices.Contains([]string{"", "auto", "aes-128-gcm", "chacha20-poly1305", "none", "zero"}, s) {
			c.report(diag.Error, at(path, "security"), "vmess has no such cipher", "it is auto, aes-128-gcm, chacha20-poly1305, none or zero")
		} else if s == "none" || s == "zero" {
			if c.v >= V26_7 {
				c.report(diag.Warning, at(path, "security"), "this version reads it as auto", "")
			} else {
				c.report(diag.Warning, at(path, "security"), "servers of Xray 26.7 do not answer this cipher", "write auto, which every server takes")
			}
		}
	case "trojan":
		if text(user, "password") == "" {
			c.report(diag.Error, at(path, "password"), "the password is missing", "")
		}
		if flow != "" {
			c.report(diag.Error, at(path, "flow"), "Xray has removed the flows of trojan", "leave it out")
		}
	case "shadowsocks":
		c.shadowsocks(path, text(user, "method"), text(user, "password"))
	}
}

func (c *checker) id(path string, user object) {
	switch id := text(user, "id"); {
	case id == "":
		c.report(diag.Error, at(path, "id"), "the user's id is missing", "")
	case !link.ValidID(id):
		c.report(diag.Error, at(path, "id"), "the id is neither a UUID nor up to 30 bytes long", "")
	}
}

// vlessEncryption checks none, or mlkem768x25519plus.MODE.RTT.[PADDING.]KEY.
func (c *checker) vlessEncryption(path, e string) {
	path = at(path, "encryption")
	switch parts := strings.Split(e, "."); {
	case e == "none":
	case e == "":
		c.report(diag.Error, path, "Xray wants the encryption said", "write none")
	case parts[0] != "mlkem768x25519plus" || len(parts) < 4 || !slices.Contains([]string{"native", "xorpub", "random"}, parts[1]) ||
		!slices.Contains([]string{"1rtt", "0rtt"}, parts[2]):
		c.report(diag.Error, path, "neither none nor mlkem768x25519plus with its mode, round trips and keys", "`xray vlessenc` prints one")
	default:
		for _, key := range parts[3:] {
			if n := link.KeyLen(key); len(key) >= 20 && n != 32 && n != 1184 {
				c.report(diag.Error, path, "a key is neither 32 nor 1184 bytes of URL-safe base64", "`xray vlessenc` prints one")
				return
			}
		}
	}
}

func (c *checker) shadowsocks(path, method, password string) {
	size, ok := link.ShadowsocksMethod(method)
	switch low := strings.ToLower(method); {
	case c.v >= V26_7 && (low == "none" || low == "plain"):
		c.report(diag.Error, at(path, "method"), "this version has removed the method without encryption", "the server has to change to another, such as aes-256-gcm")
	case !ok:
		c.report(diag.Error, at(path, "method"), "Xray does not have this method", "the server has to change to one of AEAD, such as aes-256-gcm, or of 2022")
	case password == "":
		c.report(diag.Error, at(path, "password"), "the password is missing", "")
	case size > 0:
		keys := strings.Split(password, ":")
		for _, key := range keys {
			raw, err := base64.StdEncoding.DecodeString(key)
			if err != nil {
				c.report(diag.Error, at(path, "password"), "the key is not standard base64, which this method wants", "`openssl rand -base64 "+strconv.Itoa(size)+"` makes one")
			} else if len(raw) != size {
				c.report(diag.Error, at(path, "password"), "the key has another length than this method's", "")
			}
		}
		if len(keys) > 1 && strings.HasSuffix(method, "chacha20-poly1305") {
			c.report(diag.Error, at(path, "password"), "this method takes one key only", "")
		}
	}
}

func (c *checker) wireguard(path string, s object) {
	if !wireguardKey(text(s, "secretKey")) {
		c.report(diag.Error, at(path, "secretKey"), "not a key of 32 bytes in base64", "`wg genkey` makes one")
	}
	if len(list(s, "peers")) == 0 {
		c.report(diag.Error, at(path, "peers"), "there is no peer", "")
	}
	for i, e := range list(s, "peers") {
		peer, _ := e.(object)
		if !wireguardKey(text(peer, "publicKey")) {
			c.report(diag.Error, at(item(path, "peers", i), "publicKey"), "not a key of 32 bytes in base64", "`wg pubkey` prints it at the peer")
		}
		if k := text(peer, "preSharedKey"); k != "" && !wireguardKey(k) {
			c.report(diag.Error, at(item(path, "peers", i), "preSharedKey"), "not a key of 32 bytes in base64", "")
		}
		if text(peer, "endpoint") == "" {
			c.report(diag.Error, at(item(path, "peers", i), "endpoint"), "the peer's address is missing", "")
		}
	}
	if noKernel, _ := get(s, "noKernelTun"); noKernel != true {
		c.report(diag.Warning, at(path, "noKernelTun"), "as root Xray makes a device and rules of its own in the host", "write true")
	}
}

// wireguardKey reports whether s is 32 bytes in base64 of either alphabet or in hexadecimal digits.
func wireguardKey(s string) bool {
	if raw, err := hex.DecodeString(s); err == nil {
		return len(raw) == 32
	}
	return link.KeyLen(strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))) == 32
}

// pairing checks what the core finds out at run time only: which protocols
// transport and security can carry.
func (c *checker) pairing(stream, protocol string, settings, user, streamSettings object, network, security string) {
	encrypted := protocol == "vless" && text(user, "encryption") != "none"
	protected := security == "tls" || security == "reality"
	switch {
	case protocol == "hysteria" && network != "hysteria":
		c.report(diag.Error, at(stream, "network"), "the protocol hysteria goes over the transport hysteria only", "write hysteria")
	case network == "hysteria" && security != "tls":
		c.report(diag.Error, at(stream, "security"), "hysteria needs TLS; Xray says so only when it connects", "write tls")
	case protocol != "hysteria" && network == "hysteria":
		c.report(diag.Warning, at(stream, "network"), "this protocol over hysteria is nothing that servers are known to speak", "")
	}
	// With its own encryption, vless carries the flow over anything.
	if protocol == "vless" && strings.HasPrefix(text(user, "flow"), "xtls-rprx-vision") && !encrypted {
		const help = "leave the flow out, or use the encryption of vless, where the server does"
		switch {
		case network != "raw" || rawHeader(streamSettings):
			c.report(diag.Error, at(stream, "network"), "the flow xtls-rprx-vision goes over raw without a header only; Xray says so only when it connects", help)
		case !protected:
			c.report(diag.Error, at(stream, "security"), "the flow xtls-rprx-vision needs TLS or REALITY; Xray says so only when it connects", help)
		}
	}
	plain := map[string]bool{
		"trojan": true, "vless": !encrypted, "socks": text(user, "pass") != "", "http": text(user, "pass") != "",
		"shadowsocks": slices.Contains([]string{"none", "plain"}, strings.ToLower(text(user, "method"))),
		"vmess":       c.v < V26_7 && slices.Contains([]string{"none", "zero"}, strings.ToLower(text(user, "security"))),
	}
	if address := text(settings, "address"); c.v >= V26_7 && !protected && (protocol == "trojan" || protocol == "vless" && !encrypted) && public(address) {
		c.report(diag.Error, at(stream, "security"), "this version takes "+protocol+" without TLS to private addresses only", "use TLS or REALITY, or the encryption of vless, where the server does")
		return
	}
	if plain[protocol] && !protected {
		c.report(diag.Warning, at(stream, "security"), "nothing is encrypted on the way to the server", "use TLS or REALITY")
	}
}

// reserved are the addresses that 26.7 takes for private.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// local are the domains that 26.7 takes for private, beside names without a dot.
var local = []string{"lan", "localdomain", "example", "invalid", "localhost", "test", "local", "home.arpa", "internal"}

// public reports whether 26.7 takes a server's address for one of the Internet.
func public(address string) bool {
	if a, err := netip.ParseAddr(address); err == nil {
		return !slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	name := strings.ToLower(strings.TrimSuffix(address, "."))
	return strings.Contains(name, ".") && !slices.ContainsFunc(local, func(d string) bool { return strings.HasSuffix(name, "."+d) })
}

// rawHeader reports whether the transport raw begins like a request of HTTP.
func rawHeader(stream object) bool {
	for _, key := range []string{"rawSettings", "tcpSettings"} {
		if kind := text(child(child(stream, key), "header"), "type"); kind != "" && !strings.EqualFold(kind, "none") {
			return true
		}
	}
	return false
}
