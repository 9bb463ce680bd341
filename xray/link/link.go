// Package link reads and writes the links that people share proxies with: vless,
// vmess in six forms, trojan, trojan-go, shadowsocks, socks, http, hysteria2 and
// wireguard.
//
//	p, findings := link.Parse("trojan://secret@proxy.example:443?type=ws&path=%2Fws#Home")
//	p.Format()   // the link again, in the form it came in
//	p.Link()     // the same profile as most clients read it
//	p.Redacted() // the same without what must not be seen
//
// Parse is lenient and lossless: keys that mean nothing here are kept, and so are
// values that Xray would refuse, with a warning; what can be run is for the
// builder of configurations to say. Format(Parse(x)) says what x says, and
// Parse(Format(p)) is p.
//
// The package is pure. Secrets are of a type that prints as ***; no finding and no
// error repeats one. Subscriptions, which are lists of profiles, are read by the
// package sub.
package link

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// maxLink bounds a link: the largest keys, of post-quantum kinds, have 3 KiB, and
// two objects of 16 KiB may be there, percent-encoded.
const maxLink = 64 << 10

// refused are schemes that are known and that Xray does not speak.
var refused = []string{
	"ssr", "tuic", "anytls", "naive+https", "naive+quic", "hysteria", "mieru", "mierus", "snell", "juicity", "hysteria2+realm", "ssconf",
}

// Schemes returns the schemes that Parse reads or refuses by name, in lower case.
func Schemes() []string {
	list := make([]string, 0, len(protocols)+len(refused))
	for scheme := range protocols {
		list = append(list, scheme)
	}
	list = append(list, refused...)
	slices.Sort(list)
	return list
}

// Parse reads one link. If a finding is an Error (see Refused), the link is refused
// and the profile is zero.
func Parse(s string) (Profile, []Finding) {
	f, form, findings := Read(s)
	if Refused(findings) {
		return Profile{}, findings
	}
	p, more := Build(f, form)
	return p, append(findings, more...)
}

// Read takes a link apart, without a look at what its keys mean: the fields are as
// the link spells them, of forms that are no URLs as near to a URL as the form is.
// They are zero if a finding is an Error.
func Read(s string) (Fields, Form, []Finding) {
	fail := func(link string, at int, message, help string) (Fields, Form, []Finding) {
		return Fields{}, URL, []Finding{{Severity: diag.Error, Link: link, Offset: at, Message: message, Help: help}}
	}
	if len(s) > maxLink {
		return fail("link", 0, "the link is longer than 64 KiB", "")
	}
	t := clean(s)
	if i := strings.Index(t.s, "]("); i >= 0 && strings.Contains(t.s, "[") {
		return fail("link", t.origin(i), "a messenger has made Markdown of the link", "copy the link as plain text, or out of the raw message")
	}
	parts, ok := split(t.s)
	if !ok {
		return fail("link", 0, "this is not a link: there is no ://", "")
	}
	if _, ok := protocols[parts.scheme]; !ok {
		for _, name := range refused {
			if parts.scheme == name {
				return fail(name+" link", t.origin(0), "Xray does not speak "+name, "another client, such as sing-box, may")
			}
		}
		return fail("link", t.origin(0), "the scheme is not known", "known are vless, vmess, trojan, trojan-go, ss, socks, http, https, hysteria2 and wireguard")
	}
	r := reader{t: t, parts: parts}
	f, form, ok := r.read()
	for i := range r.findings {
		r.findings[i].Link = parts.scheme + " link"
	}
	if !ok {
		return Fields{}, URL, r.findings
	}
	return f, form, r.findings
}

// Format writes the profile in the form that it came in. Profiles that came in no
// link are written as Link does.
func (p Profile) Format() string {
	f := p.Fields()
	switch p.Source.Form {
	case UserBase64:
		if s, ok := p.Proxy.(Shadowsocks); ok && is2022(s.Method) {
			return formatURL(f, URL) // SIP022 forbids base64 there
		}
		return formatURL(f, UserBase64)
	case LegacySS:
		return formatLegacySS(f)
	case VMessJSON:
		return formatVMessJSON(f)
	case Shadowrocket:
		return formatShadowrocket(f)
	case Quantumult:
		return formatQuantumult(f)
	case Kitsunebi:
		return formatKitsunebi(f)
	case V2flyStd:
		return formatStd(f)
	case URL:
		return formatURL(f, URL)
	default:
		return p.Link()
	}
}

// Link writes the profile as most clients read it: vmess as base64 of JSON unless
// it needs what only a URL can say, shadowsocks as SIP002 and SIP022 say, and all
// others as URLs. Keys that came out of no link are left out.
func (p Profile) Link() string {
	form, scheme := URL, ""
	switch x := p.Proxy.(type) {
	case VMess:
		if p.fitsJSON() {
			form = VMessJSON
		}
	case Shadowsocks:
		if !is2022(x.Method) {
			form = UserBase64
		}
	case HTTP:
		if _, ok := p.Security.(TLS); ok {
			scheme = "https"
		}
	case Socks:
		if strings.HasPrefix(p.Source.Scheme, "socks4") {
			scheme = p.Source.Scheme
		}
	case Trojan:
		if p.Source.Scheme == "trojan-go" {
			scheme = p.Source.Scheme
		}
	}
	if p.Source.Form >= SIP008 {
		p.Unknown = nil
	}
	p.Source = Source{Form: form, Scheme: scheme}
	return p.Format()
}

// fitsJSON reports whether v2rayN's JSON can say all of the profile.
func (p Profile) fitsJSON() bool {
	if _, ok := p.Security.(Reality); ok || p.FinalMask != "" {
		return false
	}
	if t, ok := p.Security.(TLS); ok && (t.ECH != "" || t.Pins != nil || t.Names != nil) {
		return false
	}
	switch x := p.Transport.(type) {
	case XHTTP:
		return x.Extra == ""
	case KCP:
		return x.MTU == 0 && x.TTI == 0
	}
	return true
}

// is2022 reports whether the method is one of SIP022.
func is2022(method string) bool { return strings.HasPrefix(method, "2022-") }
