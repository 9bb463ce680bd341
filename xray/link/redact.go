package link

import "slices"

// String returns the link without its secrets, so that printing a profile shows
// none.
func (p Profile) String() string { return p.Redacted().Link() }

// GoString is String for the verb %#v.
func (p Profile) GoString() string { return p.String() }

// Redacted returns the profile with *** in the place of each secret, and of each
// value of which nobody knows whether it is one. It can be printed and written as
// a link, but not used.
func (p Profile) Redacted() Profile {
	switch x := p.Proxy.(type) {
	case VLESS:
		x.ID = hide(x.ID)
		p.Proxy = x
	case VMess:
		x.ID = hide(x.ID)
		p.Proxy = x
	case Trojan:
		x.Password, x.Encryption, x.Plugin = hide(x.Password), hide(x.Encryption), hide(x.Plugin)
		p.Proxy = x
	case Shadowsocks:
		x.Password = hide(x.Password)
		x.Plugin.Options = slices.Clone(x.Plugin.Options)
		for i, o := range x.Plugin.Options {
			if !slices.Contains([]string{"mode", "obfs", "host", "obfs-host", "tls", "mux"}, o.Key) {
				x.Plugin.Options[i].Value = hide(o.Value)
			}
		}
		p.Proxy = x
	case Socks:
		x.Password = hide(x.Password)
		p.Proxy = x
	case HTTP:
		x.Password = hide(x.Password)
		p.Proxy = x
	case Hysteria2:
		x.Auth, x.ObfsPassword = hide(x.Auth), hide(x.ObfsPassword)
		p.Proxy = x
	case WireGuard:
		x.PrivateKey, x.PresharedKey = hide(x.PrivateKey), hide(x.PresharedKey)
		p.Proxy = x
	}
	switch x := p.Transport.(type) {
	case XHTTP:
		x.Extra = hideObject(x.Extra)
		p.Transport = x
	case KCP:
		x.Seed = hide(x.Seed)
		p.Transport = x
	}
	if r, ok := p.Security.(Reality); ok {
		r.ShortID = hide(r.ShortID)
		p.Security = r
	}
	p.FinalMask = hideObject(p.FinalMask)
	p.Unknown = slices.Clone(p.Unknown)
	for i, u := range p.Unknown {
		p.Unknown[i] = Param{Key: u.Key, Value: hide(u.Value)}
	}
	return p
}

func hide(s Secret) Secret { return Secret(s.String()) }

func hideObject(o Object) Object {
	if o == "" {
		return ""
	}
	return `{"hidden":"***"}`
}
