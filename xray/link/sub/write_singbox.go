package sub

import (
	"encoding/base64"
	"strings"

	"netpolicy.dev/netpolicy/xray/link"
)

func (w *writer) singbox() {
	server := func(kind string) {
		w.put("type", kind)
		w.put("tag", w.name)
		w.put("server", w.f.Host)
		w.number("server_port", portOf(w.p))
	}
	streams := false
	switch x := w.p.Proxy.(type) {
	case link.VLESS:
		server("vless")
		w.put("uuid", x.ID.Reveal())
		w.takeIf("encryption", "none")
		streams = true
	case link.VMess:
		server("vmess")
		w.put("uuid", x.ID.Reveal())
		w.put("security", orElse(w.take("encryption"), "auto"))
		streams = true
	case link.Trojan:
		server("trojan")
		w.put("password", x.Password.Reveal())
		w.takeIf("encryption", "none")
		streams = true
	case link.Shadowsocks:
		server("shadowsocks")
		w.put("method", x.Method)
		w.o.put("password", text(x.Password.Reveal()))
		if x.Plugin.Name == "obfs-local" || x.Plugin.Name == "v2ray-plugin" {
			w.take("plugin")
			w.put("plugin", x.Plugin.Name)
			w.put("plugin_opts", x.Plugin.FormatOptions())
		}
	case link.Socks:
		if w.socks4() {
			return
		}
		server("socks")
		w.put("username", x.User)
		w.put("password", x.Password.Reveal())
	case link.HTTP:
		server("http")
		w.put("username", x.User)
		w.put("password", x.Password.Reveal())
	case link.Hysteria2:
		server("hysteria2")
		w.put("password", x.Auth.Reveal())
		w.singboxHysteria2(x)
	case link.WireGuard:
		w.singboxWireGuard(x)
		return
	}
	w.singboxTLS()
	if streams {
		w.singboxTransport()
	} else {
		w.plainStream()
	}
	w.pairs(singboxPairs)
	w.again(link.SingBox)
}

func (w *writer) singboxTLS() {
	_, ss := w.p.Proxy.(link.Shadowsocks)
	_, socks := w.p.Proxy.(link.Socks)
	switch w.p.Security.(type) {
	case link.Plain:
		w.take("security")
		return
	case link.TLS:
		if ss || socks {
			return
		}
		w.o.set("tls.enabled", flag(true))
	case link.Reality:
		if ss || socks || w.f.Get("pbk") == "" {
			return
		}
		w.o.set("tls.enabled", flag(true))
		w.o.set("tls.reality.enabled", flag(true))
		if w.f.Get("fp") == "" {
			w.f.Add("fp", "chrome") // sing-box has no REALITY without
		}
	default:
		return
	}
	w.take("security")
	if w.f.Get("fp") != "" {
		w.o.set("tls.utls.enabled", flag(true))
	}
}

func (w *writer) singboxTransport() {
	switch network := w.f.Get("type"); network {
	case "tcp", "original":
		if w.f.Get("headerType") != "http" {
			w.take("type")
		}
		return
	case "ws":
		w.put("transport.type", network)
		w.earlyData()
	case "httpupgrade":
		w.put("transport.type", network)
		w.put("transport.host", w.take("host"))
		if path, size := early(w.f.Get("path")); size != "" {
			w.take("path")
			w.put("transport.path", path)
			w.lost = append(w.lost, "ed")
		}
	case "grpc":
		w.put("transport.type", network)
		w.takeIf("mode", "gun")
	case "http", "h2":
		w.put("transport.type", "http")
		if hosts := w.take("host"); hosts != "" {
			w.o.set("transport.host", spell(hosts, asList))
		}
	default:
		return
	}
	w.take("type")
}

func (w *writer) singboxHysteria2(x link.Hysteria2) {
	w.hysteria2Keys()
	ports := orElse(x.HopPorts, x.PortList)
	w.take("mport")
	if ports != "" {
		n := list()
		for part := range strings.SplitSeq(ports, ",") {
			lo, hi, ranged := strings.Cut(part, "-")
			if !ranged {
				hi = lo
			}
			n.vals = append(n.vals, text(lo+":"+hi))
		}
		w.o.put("server_ports", n)
	}
	for _, dir := range []string{"up", "down"} {
		if n, ok := strings.CutSuffix(w.f.Get(dir), " mbps"); ok && spell(n, asNumber) != nil {
			w.take(dir)
			w.number(dir+"_mbps", n)
		}
	}
}

// singboxWireGuard writes an endpoint, which is what sing-box has since 1.11.
func (w *writer) singboxWireGuard(x link.WireGuard) {
	w.put("type", "wireguard")
	w.put("tag", w.name)
	w.o.put("address", spell(orElse(w.take("address"), "0.0.0.0/32"), asList))
	w.put("private_key", x.PrivateKey.Reveal())
	w.number("mtu", w.take("mtu"))
	peer := &writer{o: &node{kind: '{'}}
	peer.put("address", w.f.Host)
	peer.number("port", w.f.Port)
	peer.put("public_key", w.take("publickey"))
	peer.put("pre_shared_key", w.take("presharedkey"))
	ips := orElse(w.take("allowedips"), "0.0.0.0/0,::/0")
	peer.o.put("allowed_ips", spell(ips, asList))
	peer.number("persistent_keepalive_interval", w.take("keepalive"))
	if r := w.take("reserved"); r != "" {
		peer.o.put("reserved", numbers(r))
	}
	w.o.put("peers", list(peer.o))
}

// encode is base64 as subscriptions are served.
func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
