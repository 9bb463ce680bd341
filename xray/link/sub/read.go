package sub

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/xray/link"
)

// head makes fields of what all formats have; path names the keys.
func head(n *node, scheme, host, port, name string) link.Fields {
	return link.Fields{
		Scheme: scheme, Host: strings.Trim(n.str(host), "[]"), Port: n.str(port), Name: n.str(name),
		HostAt: lineOf(n, host), PortAt: lineOf(n, port), UserAt: n.line,
	}
}

func lineOf(n *node, key string) int {
	if v := n.get(key); v != nil {
		return v.line
	}
	return n.line
}

func sip008Entry(n *node) (link.Fields, link.Form, bool) {
	f := head(n, "ss", "server", "server_port", "remarks")
	f.User, f.Pass = link.Secret(n.str("method")), link.Secret(n.str("password"))
	done := []string{"server", "server_port", "remarks", "method", "password", "plugin", "plugin_opts"}
	if name := n.str("plugin"); name != "" {
		if opts := n.str("plugin_opts"); opts != "" {
			name += ";" + opts
		}
		f.Params = []link.Field{{Param: link.Param{Key: "plugin", Value: link.Secret(name)}, At: lineOf(n, "plugin")}}
	}
	read(&f, n.leaves("", nil), done)
	return f, link.SIP008, true
}

// clashTypes are Clash's types by the schemes of links.
var clashTypes = map[string]string{
	"ss": "ss", "vmess": "vmess", "vless": "vless", "trojan": "trojan", "socks5": "socks", "http": "http", "hysteria2": "hysteria2", "wireguard": "wireguard",
}

func clashEntry(n *node) (link.Fields, link.Form, bool) {
	scheme := clashTypes[n.str("type")]
	f := head(n, scheme, "server", "port", "name")
	done := []string{"type", "server", "port", "name", "tls", "network", "username", "password", "uuid", "cipher", "plugin", "private-key", "ip", "ipv6", "reserved"}
	network := n.str("network")
	tables := [][]pair{clashPairs, clashTransport[network]}
	switch scheme {
	case "vless", "vmess":
		f.User = link.Secret(n.str("uuid"))
		f.Add("encryption", n.str(map[string]string{"vless": "encryption", "vmess": "cipher"}[scheme]))
		if scheme == "vless" {
			done = append(done, "encryption")
		}
	case "ss":
		f.User, f.Pass = link.Secret(n.str("cipher")), link.Secret(n.str("password"))
		if p, ok := clashPlugin(n); ok {
			f.Add("plugin", p.Format())
			done = append(done, "plugin-opts.mode", "plugin-opts.host", "plugin-opts.path", "plugin-opts.tls", "plugin-opts.mux")
		}
	case "socks", "http":
		f.User, f.Pass = link.Secret(n.str("username")), link.Secret(n.str("password"))
	case "wireguard":
		f.User = link.Secret(n.str("private-key"))
		f.Add("address", strings.Trim(n.str("ip")+","+n.str("ipv6"), ","))
		if r := n.get("reserved"); r != nil {
			f.Add("reserved", plain(r))
		}
	default:
		f.User = link.Secret(n.str("password"))
	}
	switch {
	case n.get("reality-opts") != nil:
		f.Add("security", "reality")
	case scheme == "trojan" || n.str("tls") == "true" && scheme != "hysteria2":
		f.Add("security", "tls")
	case n.str("tls") == "false" && scheme != "hysteria2":
		f.Add("security", "none")
	}
	if n.get("ws-opts").str("v2ray-http-upgrade") == "true" {
		network = "httpupgrade"
		done = append(done, "ws-opts.v2ray-http-upgrade", "ws-opts.v2ray-http-upgrade-fast-open")
	}
	switch network {
	case "http":
		f.Add("type", "tcp")
		f.Add("headerType", "http")
	default:
		f.Add("type", network)
	}
	read(&f, n.leaves("", nil), done, tables...)
	return f, link.Clash, true
}

// clashPlugin makes a SIP003 plugin of Clash's keys; false for one that it spells
// otherwise.
func clashPlugin(n *node) (link.Plugin, bool) {
	opts := n.get("plugin-opts")
	var p link.Plugin
	add := func(key, value string) {
		if value != "" {
			p.Options = append(p.Options, link.PluginOption{Key: key, Value: link.Secret(value)})
		}
	}
	switch name := n.str("plugin"); name {
	case "obfs":
		p.Name = "obfs-local"
		add("obfs", opts.str("mode"))
		add("obfs-host", opts.str("host"))
	case "v2ray-plugin":
		p.Name = name
		add("mode", opts.str("mode"))
		if opts.str("tls") == "true" {
			p.Options = append(p.Options, link.PluginOption{Key: "tls", Flag: true})
		}
		add("host", opts.str("host"))
		add("path", opts.str("path"))
		if mux := opts.get("mux"); mux != nil {
			add("mux", plain(mux))
		}
	case "":
		return p, false
	default:
		p.Name = name // its options stay where they are
		return p, true
	}
	return p, true
}

var singboxTypes = map[string]string{
	"shadowsocks": "ss", "vmess": "vmess", "vless": "vless", "trojan": "trojan", "socks": "socks", "http": "http", "hysteria2": "hysteria2", "wireguard": "wireguard",
}

// singboxOwn are the outbounds that are no proxies.
var singboxOwn = []string{"direct", "block", "dns", "selector", "urltest"}

func singboxEntry(n *node) (link.Fields, link.Form, bool) {
	kind := n.str("type")
	if slices.Contains(singboxOwn, kind) {
		return link.Fields{}, link.SingBox, false
	}
	scheme := singboxTypes[kind]
	f := head(n, scheme, "server", "server_port", "tag")
	done := []string{
		"type", "server", "server_port", "tag", "tls.enabled", "tls.utls.enabled", "tls.reality.enabled", "transport.type", "uuid", "username",
		"password", "method", "plugin", "plugin_opts", "private_key", "reserved", "server_ports", "up_mbps", "down_mbps",
	}
	switch scheme {
	case "vless", "vmess":
		f.User = link.Secret(n.str("uuid"))
		if scheme == "vmess" {
			f.Add("encryption", n.str("security"))
			done = append(done, "security")
		}
	case "ss":
		f.User, f.Pass = link.Secret(n.str("method")), link.Secret(n.str("password"))
		if name := n.str("plugin"); name != "" {
			f.Add("plugin", strings.TrimSuffix(name+";"+n.str("plugin_opts"), ";"))
		}
	case "socks", "http":
		f.User, f.Pass = link.Secret(n.str("username")), link.Secret(n.str("password"))
	case "wireguard":
		f.User = link.Secret(n.str("private_key"))
		if r := n.get("reserved"); r != nil {
			f.Add("reserved", plain(r))
		}
		if peers := n.get("peers").items(); len(peers) > 0 { // an endpoint
			singboxPeer(&f, n, peers[0])
			done = append(done, "address")
			if len(peers) == 1 {
				done = append(done, "peers")
			}
		}
	case "hysteria2":
		f.User = link.Secret(n.str("password"))
		var hops []string
		for _, p := range listOrOne(n.get("server_ports")) {
			hops = append(hops, strings.ReplaceAll(p.text, ":", "-"))
		}
		f.Add("mport", strings.Join(hops, ","))
		if f.Port == "" && len(hops) > 0 {
			f.Port, _, _ = strings.Cut(hops[0], "-")
		}
		for _, dir := range []string{"up", "down"} {
			if v := n.str(dir + "_mbps"); v != "" {
				f.Add(dir, v+" mbps")
			}
		}
	default:
		f.User = link.Secret(n.str("password"))
	}
	tls := n.get("tls")
	switch {
	case scheme == "hysteria2":
	case tls.get("reality").str("enabled") == "true":
		f.Add("security", "reality")
	case tls.str("enabled") == "true":
		f.Add("security", "tls")
	case scheme == "trojan" || tls != nil:
		f.Add("security", "none")
	}
	f.Add("type", n.get("transport").str("type"))
	read(&f, n.leaves("", nil), done, singboxPairs)
	return f, link.SingBox, true
}

// singboxPeer reads the first peer of an endpoint.
func singboxPeer(f *link.Fields, n, peer *node) {
	f.Host, f.Port = strings.Trim(peer.str("address"), "[]"), peer.str("port")
	f.Add("publickey", peer.str("public_key"))
	f.Add("presharedkey", peer.str("pre_shared_key"))
	f.Add("keepalive", peer.str("persistent_keepalive_interval"))
	addresses, ips, bytes := n.get("address"), peer.get("allowed_ips"), peer.get("reserved")
	if addresses != nil {
		f.Add("address", plain(addresses))
	}
	if ips != nil {
		f.Add("allowedips", plain(ips))
	}
	if bytes != nil {
		f.Add("reserved", plain(bytes))
	}
}

func listOrOne(n *node) []*node {
	if n == nil {
		return nil
	}
	if n.kind == '[' {
		return n.vals
	}
	return []*node{n}
}

var xrayProtocols = map[string]string{
	"shadowsocks": "ss", "vmess": "vmess", "vless": "vless", "trojan": "trojan", "socks": "socks", "http": "http", "hysteria": "hysteria2", "wireguard": "wireguard",
}

var xrayOwn = []string{"freedom", "blackhole", "dns", "loopback"}

// xrayConfig reads the outbounds of a configuration. Its remarks name a single one.
func (s *Subscription) xrayConfig(config *node) {
	outbounds := config.get("outbounds").items()
	list := entries(outbounds, xrayEntry)
	if name := config.str("remarks"); name != "" && len(list) == 1 {
		list[0].Profile.Name = name
	}
	s.Entries = append(s.Entries, list...)
	s.besideKeys(config, "outbounds")
	s.besideOwn(outbounds, "protocol", xrayOwn)
}

func xrayEntry(n *node) (link.Fields, link.Form, bool) {
	if slices.Contains(xrayOwn, n.str("protocol")) {
		return link.Fields{}, link.XrayJSON, false
	}
	scheme := xrayProtocols[n.str("protocol")]
	settings := n.get("settings")
	if scheme == "hysteria2" && settings.str("version") == "1" {
		scheme = "hysteria"
	}
	done := []string{"protocol", "tag", "settings.users", "streamSettings.grpcSettings.multiMode"}
	for _, key := range []string{
		"address", "port", "id", "password", "method", "security", "encryption", "user", "pass", "flow", "secretKey", "version", "alterId",
	} {
		done = append(done, "settings."+key)
	}
	server, user, single := xrayServer(settings)
	if single {
		done = append(done, "settings.vnext", "settings.servers") // of several, what is not read stays to be seen
	}
	f := head(server, scheme, "address", "port", "")
	f.Name = n.str("tag")
	switch scheme {
	case "vless", "vmess":
		f.User = link.Secret(user.str("id"))
		f.Add("encryption", user.str(map[string]string{"vless": "encryption", "vmess": "security"}[scheme]))
		f.Add("alterId", strings.TrimPrefix(user.str("alterId"), "0"))
	case "ss":
		f.User, f.Pass = link.Secret(user.str("method")), link.Secret(user.str("password"))
	case "socks", "http":
		f.User, f.Pass = link.Secret(user.str("user")), link.Secret(user.str("pass"))
	case "hysteria2":
		f.User = link.Secret(n.get("streamSettings").get("hysteriaSettings").str("auth"))
		done = append(done, "streamSettings.network", "streamSettings.security", "streamSettings.hysteriaSettings.auth", "streamSettings.hysteriaSettings.version")
	case "wireguard":
		f = xrayWireGuard(n, settings)
		if len(settings.get("peers").items()) < 2 {
			done = append(done, "settings.peers")
		}
		done = slices.DeleteFunc(done, func(s string) bool { return s == "settings.address" })
	default:
		f.User = link.Secret(user.str("password"))
	}
	if scheme == "trojan" && n.get("streamSettings").str("security") == "" {
		f.Add("security", "none") // only its links are over TLS unless they say otherwise
		done = append(done, "streamSettings.security")
	}
	f.Add("flow", user.str("flow"))
	if multi := n.get("streamSettings").get("grpcSettings").str("multiMode"); multi == "true" {
		f.Add("mode", "multi")
	}
	read(&f, n.leaves("", []string{"streamSettings.finalmask", "streamSettings.xhttpSettings.extra"}), done, xrayPairs)
	if server != settings && server.line > 0 {
		read(&f, server.leaves("settings.", nil), done)
	}
	if user != server && user != nil {
		read(&f, user.leaves("settings.", nil), done)
	}
	return f, link.XrayJSON, true
}

// xrayServer returns where the server stands and where its user does: in the
// settings themselves, or in older lists of which the first counts.
func xrayServer(settings *node) (server, user *node, single bool) {
	if settings == nil {
		empty := &node{kind: '{'}
		return empty, empty, true
	}
	all := append(slices.Clone(settings.get("vnext").items()), settings.get("servers").items()...)
	if len(all) == 0 {
		return settings, settings, true
	}
	users := all[0].get("users").items()
	if len(users) == 0 {
		return all[0], all[0], len(all) == 1
	}
	return all[0], users[0], len(all) == 1 && len(users) == 1
}

func xrayWireGuard(n, settings *node) link.Fields {
	f := link.Fields{Scheme: "wireguard", Name: n.str("tag"), User: link.Secret(settings.str("secretKey")), UserAt: n.line, HostAt: n.line, PortAt: n.line}
	peers := settings.get("peers").items()
	if len(peers) == 0 {
		return f
	}
	peer := peers[0]
	if i := strings.LastIndexByte(peer.str("endpoint"), ':'); i >= 0 {
		f.Host, f.Port = strings.Trim(peer.str("endpoint")[:i], "[]"), peer.str("endpoint")[i+1:]
	}
	f.Add("publickey", peer.str("publicKey"))
	f.Add("presharedkey", peer.str("preSharedKey"))
	f.Add("keepalive", strings.TrimPrefix(peer.str("keepAlive"), "0"))
	if ips := peer.get("allowedIPs"); ips != nil {
		f.Add("allowedips", plain(ips))
	}
	return f
}

// parseWGQuick reads a configuration of wg-quick: one entry for each peer.
func parseWGQuick(s string) (list []Entry) {
	names := map[string]string{
		"privatekey": "privatekey", "address": "address", "mtu": "mtu", "publickey": "publickey", "presharedkey": "presharedkey",
		"allowedips": "allowedips", "persistentkeepalive": "keepalive",
	}
	var own []link.Field
	var peer *link.Fields
	line := 0
	peerLine := 0
	flush := func() {
		if peer != nil && len(list) <= maxEntries {
			peer.Params = append(slices.Clone(own), peer.Params...)
			list = append(list, build(*peer, link.WireGuardQuick, peerLine))
		}
		peer = nil
	}
	for raw := range strings.Lines(s) {
		line++
		text, _, _ := strings.Cut(raw, "#")
		text, _, _ = strings.Cut(text, ";")
		text = strings.TrimSpace(text)
		switch strings.ToLower(text) {
		case "":
			continue
		case "[interface]":
			flush()
			continue
		case "[peer]":
			flush()
			peer, peerLine = &link.Fields{Scheme: "wireguard", UserAt: line, HostAt: line, PortAt: line}, line
			continue
		}
		key, value, _ := strings.Cut(text, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		f := link.Field{Param: link.Param{Key: key, Value: link.Secret(value)}, At: line}
		if to, ok := names[strings.ToLower(key)]; ok {
			f.Key = to
		}
		switch {
		case peer == nil:
			if i := slices.IndexFunc(own, func(o link.Field) bool { return o.Key == f.Key }); i >= 0 && f.Key == "address" {
				own[i].Value += link.Secret("," + value)
			} else if len(own) < 256 {
				own = append(own, f)
			}
		case strings.EqualFold(key, "endpoint"):
			if i := strings.LastIndexByte(value, ':'); i >= 0 {
				peer.Host, peer.Port = strings.Trim(value[:i], "[]"), value[i+1:]
			}
			peer.HostAt, peer.PortAt = line, line
		default:
			if len(peer.Params) < 256 {
				peer.Params = append(peer.Params, f)
			}
		}
	}
	flush()
	return list
}
