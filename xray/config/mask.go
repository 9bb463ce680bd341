package config

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

// masks is streamSettings.finalmask in the making.
type masks struct {
	all  object // of the link; nil is none
	udp  []any
	quic object
}

// finalMask reads the key fm.
func (b *builder) finalMask() (m masks) {
	if b.p.FinalMask == "" {
		return m
	}
	tree, err := decode([]byte(b.p.FinalMask.Reveal()))
	all, ok := tree.(object)
	if err != nil || !ok {
		b.key(diag.Error, "fm", "not a JSON object", "")
		return m
	}
	m.all = all
	if v, ok := get(all, "udp"); ok {
		if m.udp, ok = v.([]any); !ok {
			b.key(diag.Error, "fm", "its member udp is not a list", "")
		}
	}
	if v, ok := get(all, "quicParams"); ok {
		if m.quic, ok = v.(object); !ok {
			b.key(diag.Error, "fm", "its member quicParams is not an object", "")
		}
	}
	if len(m.udp) > 1 {
		order := "outermost"
		if b.v >= V26_7 {
			order = "innermost"
		}
		b.key(diag.Warning, "fm", "this version takes the first of several masks as the "+order+", the other one as its opposite; the order is kept",
			"turn the list round if the link was made for the other version")
	}
	b.numbers(m.quic)
	return m
}

// numbers turns texts such as "10s" in quicParams into the numbers that the core
// wants, as other clients write them.
func (b *builder) numbers(quic object) {
	for _, key := range []string{"maxIdleTimeout", "keepAlivePeriod"} {
		if s := strings.TrimSuffix(text(quic, key), "s"); s != "" && strings.Trim(s, "0123456789") == "" {
			quic[actualKey(quic, key)] = json.Number(strings.TrimLeft(s[:len(s)-1], "0") + s[len(s)-1:])
			b.key(diag.Hint, "fm", key+" is a text; it is written as the number that the core wants", "")
		}
	}
	if hop := child(quic, "udpHop"); hop != nil {
		if _, ok := get(hop, "interval"); !ok {
			hop[actualKey(hop, "interval")] = hopInterval
		}
	}
}

// hopInterval is what an Xray means that is given none, in seconds: its own default
// overflows, and it ends when it comes to use it (26.3.27).
const hopInterval = "30"

// object returns finalmask; nil if there is none.
func (m masks) object() object {
	out := m.all
	if out == nil {
		out = object{}
	}
	if m.udp != nil {
		out[actualKey(out, "udp")] = m.udp
	}
	if m.quic != nil {
		out[actualKey(out, "quicParams")] = m.quic
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// kcpMasks puts masks in the place of what mKCP's header and seed were. Without
// either an old server still obfuscates, and so does the mask for that.
func (b *builder) kcpMasks(x link.KCP, m *masks) {
	legacy := x.Seed != "" || x.Header != "" && x.Header != "none"
	if m.udp != nil {
		if legacy {
			b.key(diag.Warning, "fm", "it has masks, so the header and seed of mKCP are not used", "")
		}
		return
	}
	header := x.Header
	switch header {
	case "none":
		header = ""
	case "wechat-video": // as mKCP called it
		header = "wechat"
	}
	if b.v >= V26_7 {
		// The innermost comes first.
		inner := object{"type": "mkcp-legacy"}
		if x.Seed != "" {
			inner["settings"] = object{"value": x.Seed.Reveal()}
		}
		m.udp = []any{inner}
		if header != "" {
			m.udp = append(m.udp, object{"type": "mkcp-legacy", "settings": object{"header": header}})
		}
	} else {
		inner := object{"type": "mkcp-original"}
		if x.Seed != "" {
			inner = object{"type": "mkcp-aes128gcm", "settings": object{"password": x.Seed.Reveal()}}
		}
		if header != "" {
			m.udp = append(m.udp, object{"type": "header-" + header})
		}
		m.udp = append(m.udp, inner)
	}
	switch {
	case x.Seed != "":
		b.key(diag.Warning, "seed", "replaced by a mask in finalmask", "whether a server of an old version understands it was not tried")
	case header != "":
		b.key(diag.Warning, "headerType", "replaced by a mask in finalmask", "whether a server of an old version understands it was not tried")
	default:
		b.key(diag.Warning, "type", "mKCP no longer obfuscates by itself; a mask in finalmask does what it did", "write fm={\"udp\":[]} for a server without it")
	}
}

// hysteria writes the stream of hysteria2.
func (b *builder) hysteria(s object, m *masks) {
	x := b.p.Proxy.(link.Hysteria2)
	settings := object{"version": 2}
	if x.Auth != "" {
		settings["auth"] = x.Auth.Reveal()
	}
	s["network"], s["hysteriaSettings"] = "hysteria", settings
	switch {
	case x.Obfs == "" || x.Obfs == "none":
	case x.Obfs != "salamander":
		b.key(diag.Error, "obfs", "of the obfuscations of hysteria2 only salamander can be run", "the server has to change")
	case x.ObfsPassword == "":
		b.key(diag.Error, "obfs-password", "salamander needs a password", "ask whoever runs the server for it")
	case slices.ContainsFunc(m.udp, func(v any) bool { o, ok := v.(object); return ok && text(o, "type") == "salamander" }):
		b.key(diag.Hint, "obfs", "fm says the same", "")
	default:
		m.udp = append(m.udp, object{"type": "salamander", "settings": object{"password": x.ObfsPassword.Reveal()}})
	}
	ports := x.HopPorts
	if ports == "" {
		ports = x.PortList
	}
	add := func(key string, value any) {
		if m.quic == nil {
			m.quic = object{}
		}
		if _, ok := get(m.quic, key); !ok {
			m.quic[key] = value
		}
	}
	if ports != "" {
		add("udpHop", object{"ports": ports, "interval": cmp.Or(x.HopInterval, hopInterval)})
	}
	if x.Up != "" || x.Down != "" {
		add("congestion", "brutal")
	}
	if x.Up != "" {
		add("brutalUp", rate(x.Up))
	}
	if x.Down != "" {
		add("brutalDown", rate(x.Down))
	}
}

// rate gives a number without a unit the one that links mean.
func rate(s string) string {
	if strings.Trim(s, "0123456789") == "" {
		return s + " mbps"
	}
	return s
}
