package flow

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// profile is UTS-46 with hyphen checks off and "_" allowed (StrictDomainName off).
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.CheckHyphens(false),
	idna.StrictDomainName(false), idna.VerifyDNSLength(false), idna.BidiRule())

// CanonicalName brings a name into the one form in which policies and traffic
// are compared: one trailing dot stripped, lower case, IDNA UTS-46 ToASCII. It
// fails on empty names and labels, names over 253 and labels over 63 bytes
// (RFC 1035, 2.3.4), IP literals, and what IDNA refuses.
func CanonicalName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "", errors.New("empty name")
	}
	if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return "", errors.New("an IP address is not a name")
	}
	a, err := profile.ToASCII(s)
	if err != nil {
		return "", err
	}
	if len(a) > 253 {
		return "", errors.New("name longer than 253 bytes")
	}
	for label := range strings.SplitSeq(a, ".") {
		if label == "" {
			return "", errors.New("empty label")
		}
		if len(label) > 63 {
			return "", errors.New("label longer than 63 bytes")
		}
		for i := range len(label) {
			if c := label[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`*"'/\:;,<>(){}[]@#!?=%&|^`+"`", c) >= 0 {
				return "", errors.New("character not allowed in a name")
			}
		}
	}
	return a, nil
}

// Name returns s as a fact: canonical, or invalid.
func Name(s string) Value[string] {
	c, err := CanonicalName(s)
	if err != nil {
		return Bad[string]()
	}
	return Some(c)
}
