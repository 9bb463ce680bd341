package config

import (
	"encoding/json"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

const pluginHelp = "run the plugin as a program of its own and give Xray a socks proxy, or change the server to a transport of Xray"

// stream returns streamSettings; nil where the protocol has none.
func (b *builder) stream() object {
	t, security := b.p.Stream()
	if x, ok := b.p.Proxy.(link.Shadowsocks); ok && x.Plugin.Name != "" {
		t, security = b.plugin(x.Plugin, t, security)
	}
	s := object{}
	mask := b.finalMask()
	host := ""
	switch _, hysteria := b.p.Proxy.(link.Hysteria2); {
	case hysteria:
		b.hysteria(s, &mask)
	case isWireGuard(b.p.Proxy):
	default:
		host = b.transport(s, t, &mask)
	}
	if m := mask.object(); m != nil {
		s["finalmask"] = m
	}
	if !isWireGuard(b.p.Proxy) {
		b.security(s, security, host)
	}
	return s
}

func isWireGuard(p link.Proxy) bool {
	_, ok := p.(link.WireGuard)
	return ok
}

// transport writes the network and its settings, and returns the host that it
// names, which stands in for a missing server name.
func (b *builder) transport(s object, t link.Transport, mask *masks) (host string) {
	settings := object{}
	set := func(key, value string) {
		if value != "" {
			settings[key] = value
		}
	}
	switch x := t.(type) {
	case link.Raw:
		s["network"] = "raw"
		if x.Header == "http" {
			settings["header"] = httpHeader(x)
			if len(x.Hosts) > 0 {
				host = x.Hosts[0]
			}
			s["rawSettings"] = settings
		}
		return host
	case link.WebSocket:
		set("host", x.Host)
		set("path", x.Path)
		s["network"], s["wsSettings"] = "ws", settings
		return x.Host
	case link.HTTPUpgrade:
		set("host", x.Host)
		set("path", x.Path)
		s["network"], s["httpupgradeSettings"] = "httpupgrade", settings
		return x.Host
	case link.XHTTP:
		set("host", x.Host)
		set("path", x.Path)
		set("mode", x.Mode)
		if x.Extra != "" {
			settings["extra"] = json.RawMessage(x.Extra.Reveal())
		}
		s["network"], s["xhttpSettings"] = "xhttp", settings
		return x.Host
	case link.GRPC:
		set("serviceName", x.ServiceName)
		set("authority", x.Authority)
		if x.Mode == "multi" {
			settings["multiMode"] = true
		}
		s["network"], s["grpcSettings"] = "grpc", settings
		return x.Authority
	case link.KCP:
		if x.MTU > 0 {
			settings["mtu"] = x.MTU
		}
		if x.TTI > 0 {
			settings["tti"] = x.TTI
		}
		s["network"], s["kcpSettings"] = "kcp", settings
		b.kcpMasks(x, mask)
	case link.Removed:
		s["network"] = x.Network
	}
	return ""
}

func httpHeader(x link.Raw) object {
	request := object{}
	if len(x.Paths) > 0 {
		request["path"] = x.Paths
	}
	if len(x.Hosts) > 0 {
		request["headers"] = object{"Host": x.Hosts}
	}
	header := object{"type": "http"}
	if len(request) > 0 {
		header["request"] = request
	}
	return header
}

// security writes what protects the transport.
func (b *builder) security(s object, security link.Security, host string) {
	settings := object{}
	set := func(key, value string) {
		if value != "" {
			settings[key] = value
		}
	}
	switch x := security.(type) {
	case link.TLS:
		set("serverName", serverName(x.ServerName, host))
		set("fingerprint", x.Fingerprint)
		if x.ALPN != nil {
			settings["alpn"] = x.ALPN
		}
		set("pinnedPeerCertSha256", strings.ToLower(strings.ReplaceAll(strings.Join(x.Pins, ","), ":", "")))
		set("verifyPeerCertByName", strings.Join(x.Names, ","))
		set("echConfigList", x.ECH)
		if x.AllowInsecure == link.On {
			settings["allowInsecure"] = true // refused by the check, unless something is pinned
		}
		s["security"], s["tlsSettings"] = "tls", settings
	case link.Reality:
		set("serverName", serverName(x.ServerName, host))
		settings["fingerprint"] = "chrome"
		set("fingerprint", x.Fingerprint)
		set("password", x.PublicKey)
		set("shortId", x.ShortID.Reveal())
		set("spiderX", x.SpiderX)
		set("mldsa65Verify", x.Verify)
		s["security"], s["realitySettings"] = "reality", settings
	}
}

// serverName returns the name to ask for: that of the link, or the transport's
// host without a port. "" is the server's address.
func serverName(stated, host string) string {
	if stated != "" {
		return stated
	}
	if name, _, ok := strings.Cut(host, ":"); ok && !strings.Contains(host, "[") && strings.Count(host, ":") == 1 {
		return name
	}
	return host
}

// plugin returns the stream that does the same as a plugin of shadowsocks. Only
// v2ray-plugin without its multiplexing has one.
func (b *builder) plugin(p link.Plugin, t link.Transport, s link.Security) (link.Transport, link.Security) {
	mode, _ := p.Get("mode")
	mux, _ := p.Get("mux")
	if b.p.Transport != nil {
		b.key(diag.Error, "plugin", "there are a plugin and a transport", "one of them has to go")
		return t, s
	}
	switch {
	case p.Name == "v2ray-plugin" || p.Name == "xray-plugin":
		if mode != "" && mode != "websocket" {
			b.key(diag.Error, "plugin", "Xray has nothing that equals this mode of "+p.Name, pluginHelp)
			return t, s
		}
		if mux != "0" {
			b.key(diag.Error, "plugin", "the server expects the multiplexing of "+p.Name+", which is on unless mux=0 is said", pluginHelp)
			return t, s
		}
		host, _ := p.Get("host")
		path, _ := p.Get("path")
		if _, ok := p.Get("tls"); ok {
			s = link.TLS{ServerName: host}
		}
		b.key(diag.Warning, "plugin", p.Name+" is replaced by a WebSocket", "")
		return link.WebSocket{Host: host, Path: path}, s
	case p.Name == "obfs-local" || p.Name == "simple-obfs":
		b.key(diag.Error, "plugin", "that Xray can stand in for simple-obfs was never shown", pluginHelp)
	default:
		b.key(diag.Error, "plugin", "Xray runs no plugins", pluginHelp)
	}
	return t, s
}
