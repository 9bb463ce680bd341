package link

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

// What this file has, readers of other forms and the builder of configurations use
// too, so that a value is read in one way.

// LongestID is how long the id of vless and vmess may be that is no UUID: the core
// makes one of it.
const LongestID = 30

// ValidID reports whether the core takes an id of vless and vmess.
func ValidID(id string) bool {
	return id != "" && (len(id) <= LongestID || isUUID(id))
}

// isUUID reports whether s is a UUID with or without its hyphens.
func isUUID(s string) bool {
	if len(s) == 36 {
		if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
			return false
		}
		s = strings.ReplaceAll(s, "-", "")
	}
	return len(s) == 32 && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// methods are the ciphers of shadowsocks that Xray 26.3 has, with the length of the
// keys that the 2022 ones need.
var methods = []struct {
	name string
	key  int
}{
	{"aes-128-gcm", 0},
	{"aes-256-gcm", 0},
	{"chacha20-poly1305", 0},
	{"chacha20-ietf-poly1305", 0},
	{"xchacha20-poly1305", 0},
	{"xchacha20-ietf-poly1305", 0},
	{"none", 0},
	{"plain", 0},
	{"aead_aes_128_gcm", 0},
	{"aead_aes_256_gcm", 0},
	{"aead_chacha20_poly1305", 0},
	{"aead_xchacha20_poly1305", 0},
	{"2022-blake3-aes-128-gcm", 16},
	{"2022-blake3-aes-256-gcm", 32},
	{"2022-blake3-chacha20-poly1305", 32},
}

// ShadowsocksMethod reports whether Xray 26.3 has a method of shadowsocks, and how
// many bytes its keys have, 0 where any password does. Only the names of 2022 must be
// in lower case.
func ShadowsocksMethod(name string) (keyLen int, ok bool) {
	for _, m := range methods {
		if m.name == name || m.key == 0 && m.name == strings.ToLower(name) {
			return m.key, true
		}
	}
	return 0, false
}

// fingerprints are the names that the core takes, apart from those of uTLS itself,
// which begin with hello.
var fingerprints = []string{
	"chrome", "firefox", "safari", "ios", "android", "edge", "360", "qq", "random", "randomized", "randomizednoalpn", "unsafe",
}

// ValidFingerprint reports whether the core knows whose ClientHello to imitate; "" is
// its own choice.
func ValidFingerprint(s string) bool {
	low := strings.ToLower(s)
	return s == "" || strings.HasPrefix(low, "hello") || slices.Contains(fingerprints, low)
}

// KeyLen returns the length of what URL-safe base64 without padding means, -1 if s
// is none.
func KeyLen(s string) int {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return -1
	}
	return len(raw)
}

// DecodeBase64 decodes base64 of either alphabet, with or without padding, with white
// space and percent-encoded padding. It is false for what is none, or is nothing.
func DecodeBase64(s string) (string, bool) {
	s = unescape(s)
	s = strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n':
			return -1
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return r
	}, s)
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	return string(raw), err == nil && len(raw) > 0
}

// HostPort joins a host without brackets and a port.
func HostPort(host, port string) string { return bracketed(host) + ":" + port }

// bracketed puts IPv6 into brackets.
func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// JSONDepth returns how deep brackets nest outside of strings.
func JSONDepth(s []byte) (deepest int) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// QuoteJSON returns s as a JSON string, with < > & as they are. YAML reads it too.
func QuoteJSON(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be encoded
	return strings.TrimSuffix(b.String(), "\n")
}
