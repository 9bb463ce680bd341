package generator

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
)

// mend gives each error and warning the first change that is known for its key and
// that helps: it is made, and what is found then is compared.
func mend(v config.Version, state State, list []Finding) {
	for i, f := range list {
		if f.Severity == diag.Hint.String() {
			continue
		}
		for _, c := range changes(state, f) {
			if helps(v, state, list, f, c) {
				list[i].Fix = &c
				break
			}
		}
	}
}

// helps reports whether a finding is gone after a change, and nothing has come.
func helps(v config.Version, state State, before []Finding, f Finding, c Change) bool {
	after, err := state.with([]Change{c})
	if err != nil {
		return false
	}
	p, read, err := after.profile()
	if err != nil || link.Refused(read) {
		return false
	}
	same := func(a, b Finding) bool { return a.Key == b.Key && a.Message == b.Message && a.Path == b.Path }
	for _, x := range findings(v, p, read) {
		isNew := !slices.ContainsFunc(before, func(b Finding) bool { return same(b, x) })
		if same(x, f) || isNew && x.Severity != diag.Hint.String() {
			return false
		}
	}
	return true
}

// changes are what can be done about a finding without knowing more of the server
// than the link says; a note says what is assumed. What the server decides alone, such
// as its transport, has none.
func changes(state State, f Finding) []Change {
	value := func(key string) string {
		i := slices.IndexFunc(state.Params, func(p Param) bool { return p.Key == key })
		if i < 0 {
			return ""
		}
		return state.Params[i].Value
	}
	remove := func(note string) []Change { return []Change{{Key: f.Key, Note: note}} }
	set := func(key, value, note string) []Change { return []Change{{Key: key, Value: &value, Note: note}} }
	switch f.Key {
	case "allowInsecure", "insecure":
		const note = "the server's certificate has to be valid, or pinned with pcs"
		return slices.Concat([]Change{{Key: "allowInsecure", Note: note}}, []Change{{Key: "insecure", Note: note}})
	case "alterId", "aid":
		return []Change{{Key: "alterId", Note: "the server takes AEAD"}}
	case "flow":
		return remove("the server has no flow either")
	case "mode", "headerType", "mtu", "tti", "ed", "eh":
		return remove("the default holds")
	case "fp":
		return set("fp", "chrome", "")
	case "spx":
		return set("spx", "/"+value("spx"), "")
	case "pbk":
		return set("security", "reality", "the server has REALITY, as the key says")
	case "sni":
		name := value("sni")
		if _, rest, ok := strings.Cut(name, "://"); ok {
			name = rest
		}
		if i := strings.IndexAny(name, "/:"); i > 0 {
			name = name[:i]
		}
		return set("sni", name, "")
	case "encryption":
		if state.Scheme == "vmess" {
			return set("encryption", "auto", "")
		}
		return set("encryption", "none", "the server has no encryption of vless")
	case "":
		if strings.HasPrefix(state.Scheme, "socks4") {
			return set(keyScheme, "socks5", "the proxy speaks SOCKS 5")
		}
	}
	return nil
}
