package sub

import (
	"strings"

	"netpolicy.dev/netpolicy/xray/link"
)

func (w *writer) clash() {
	w.o.put("name", text(w.name))
	server := func(kind string) {
		w.put("type", kind)
		w.put("server", w.f.Host)
		w.number("port", portOf(w.p))
	}
	streams := false
	switch x := w.p.Proxy.(type) {
	case link.VLESS:
		server("vless")
		w.put("uuid", x.ID.Reveal())
		w.put("encryption", w.take("encryption"))
		streams = true
	case link.VMess:
		server("vmess")
		w.put("uuid", x.ID.Reveal())
		w.number("alterId", orElse(w.take("alterId"), "0"))
		w.put("cipher", orElse(w.take("encryption"), "auto"))
		streams = true
	case link.Trojan:
		server("trojan")
		w.put("password", x.Password.Reveal())
		w.takeIf("encryption", "none")
		streams = true
	case link.Shadowsocks:
		server("ss")
		w.put("cipher", x.Method)
		w.o.put("password", text(x.Password.Reveal()))
		w.clashPlugin(x.Plugin)
	case link.Socks:
		if w.socks4() {
			return
		}
		server("socks5")
		w.put("username", x.User)
		w.put("password", x.Password.Reveal())
	case link.HTTP:
		server("http")
		w.put("username", x.User)
		w.put("password", x.Password.Reveal())
	case link.Hysteria2:
		server("hysteria2")
		w.put("password", x.Auth.Reveal())
		if x.HopPorts == "" {
			w.put("ports", x.PortList)
		}
		w.hysteria2Keys()
	case link.WireGuard:
		server("wireguard")
		w.clashWireGuard(x)
	}
	w.clashSecurity()
	if streams {
		w.clashTransport()
	} else {
		w.plainStream()
	}
	w.pairs(clashPairs)
	w.again(link.Clash)
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func portOf(p link.Profile) string {
	p.Proxy = link.VLESS{} // hysteria2 may have a list
	return p.Fields().Port
}

// hysteria2Keys gives the official spellings those of the other links.
func (w *writer) hysteria2Keys() {
	for i, p := range w.f.Params {
		switch p.Key {
		case "pinSHA256":
			w.f.Params[i].Key = "pcs"
		case "insecure":
			w.f.Params[i].Key = "allowInsecure"
		}
	}
	w.takeIf("obfs", "none")
}

func (w *writer) clashSecurity() {
	_, trojan := w.p.Proxy.(link.Trojan)
	_, ss := w.p.Proxy.(link.Shadowsocks)
	_, hysteria2 := w.p.Proxy.(link.Hysteria2)
	_, vless := w.p.Proxy.(link.VLESS)
	_, vmess := w.p.Proxy.(link.VMess)
	switch w.p.Security.(type) {
	case link.Plain:
		if trojan {
			return // it is always over TLS there
		}
		if !ss {
			w.o.put("tls", flag(false))
		}
		w.take("security")
	case link.TLS:
		if ss {
			return
		}
		w.take("security")
		if !trojan && !hysteria2 {
			w.o.put("tls", flag(true))
		}
	case link.Reality:
		if !vless && !vmess && !trojan || w.f.Get("pbk") == "" {
			return
		}
		w.take("security")
		if !trojan {
			w.o.put("tls", flag(true))
		}
	}
	if !vless && !vmess {
		w.put("sni", w.take("sni"))
	}
}

func (w *writer) clashTransport() {
	network := w.f.Get("type")
	switch network {
	case "", "tcp", "original":
		w.take("type")
		if w.f.Get("headerType") == "http" {
			w.take("headerType")
			w.put("network", "http")
			w.pairs(clashTransport["http"])
		} else if network == "tcp" {
			w.put("network", "tcp")
		}
		return
	case "ws":
		w.put("network", "ws")
		w.earlyData()
	case "httpupgrade":
		w.put("network", "ws")
		w.o.set("ws-opts.v2ray-http-upgrade", flag(true))
		w.earlyData()
		network = "ws"
	case "grpc":
		w.put("network", "grpc")
		w.takeIf("mode", "gun")
	case "xhttp":
		w.put("network", "xhttp")
	case "http", "h2":
		w.put("network", "h2")
		network = "h2"
	default:
		return
	}
	w.take("type")
	w.pairs(clashTransport[network])
}

func (w *writer) clashPlugin(p link.Plugin) {
	option := func(key string) string {
		v, _ := p.Get(key)
		return v
	}
	switch p.Name {
	case "":
		return
	case "obfs-local", "simple-obfs":
		w.put("plugin", "obfs")
		w.put("plugin-opts.mode", orElse(option("obfs"), "http"))
		w.put("plugin-opts.host", option("obfs-host"))
		if option("obfs-uri") != "" {
			w.lost = append(w.lost, "plugin obfs-uri")
		}
	case "v2ray-plugin":
		w.put("plugin", p.Name)
		w.put("plugin-opts.mode", orElse(option("mode"), "websocket"))
		w.put("plugin-opts.host", option("host"))
		w.put("plugin-opts.path", option("path"))
		if _, tls := p.Get("tls"); tls {
			w.o.set("plugin-opts.tls", flag(true))
		}
		if mux := option("mux"); mux != "" {
			w.o.set("plugin-opts.mux", flag(mux != "0"))
		}
	default:
		return
	}
	w.take("plugin")
}

func (w *writer) clashWireGuard(x link.WireGuard) {
	w.put("private-key", x.PrivateKey.Reveal())
	w.take("address")
	extra := false
	for _, a := range x.Addresses {
		key := "ipv6"
		if a.Addr().Is4() {
			key = "ip"
		}
		if w.o.get(key) != nil {
			extra = true
			continue
		}
		w.put(key, a.String())
	}
	if extra {
		w.lost = append(w.lost, "address")
	}
	if r := w.take("reserved"); r != "" {
		w.o.put("reserved", numbers(r))
	}
}

// numbers is a list of numbers for what commas divide.
func numbers(s string) *node {
	n := list()
	for part := range strings.SplitSeq(s, ",") {
		n.vals = append(n.vals, &node{kind: 'n', text: part})
	}
	return n
}

// again writes what came out of the same format and only that format knows. What was
// said twice there is not written a second time.
func (w *writer) again(form link.Form) {
	if w.p.Source.Form != form {
		return
	}
	for _, u := range w.p.Unknown {
		if !w.o.vacant(u.Key) {
			continue
		}
		n := text(u.Value.Reveal())
		if u.JSON {
			parsed, err := readJSON([]byte(u.Value.Reveal()))
			if err != nil {
				continue
			}
			n = parsed
		}
		w.o.set(u.Key, n)
		w.take(u.Key)
	}
}
