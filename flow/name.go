package flow

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// profile is UTS-46 with hyphen checks off and "_" allowed (StrictDomainName off).
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.CheckHyphens(false),
	idna.StrictDomainName(false), idna.VerifyDNSLength(false), idna.BidiRule())

// Limits of RFC 1035, 2.3.4, for names in presentation form without the last dot.
const (
	maxName  = 253
	maxLabel = 63
)

// longestName bounds the work on names that come from traffic: no text that is
// longer maps to a legal name (mapping shortens by less than a factor of four).
const longestName = 4 * maxName

var (
	errEmptyName  = errors.New("empty name")
	errEmptyLabel = errors.New("empty label")
	errLongName   = errors.New("name longer than 253 bytes")
	errLongLabel  = errors.New("label longer than 63 bytes")
	errAddress    = errors.New("an IP address is not a name")
	errUnstable   = errors.New("name without a canonical form")
	errCharacter  = errors.New("character not allowed in a name")
)

// CanonicalName brings a name into the one form in which policies and traffic
// are compared: one trailing dot stripped, lower case, IDNA UTS-46 ToASCII. It
// fails on empty names and labels, names over 253 and labels over 63 bytes
// (RFC 1035, 2.3.4), IP literals, and what IDNA refuses. Of ASCII it also
// refuses white space, controls, and punctuation that means something in
// policies, URLs or shells; "-", "_", "$", "+" and "~" stay. Names that are
// canonical already are returned without allocating, and canonical names map to
// themselves.
func CanonicalName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if isCanonical(s) {
		return s, nil
	}
	switch {
	case s == "":
		return "", errEmptyName
	case len(s) > longestName:
		return "", errLongName
	case isAddress(s):
		return "", errAddress
	case !utf8.ValidString(s):
		return "", errCharacter
	}
	a, err := profile.ToASCII(s)
	if err != nil {
		return "", err
	}
	// What IDNA makes, it must also take: it encodes some labels that it refuses to decode.
	if again, err := profile.ToASCII(a); err != nil || again != a {
		return "", errUnstable
	}
	if len(a) > maxName {
		return "", errLongName
	}
	for label := range strings.SplitSeq(a, ".") {
		if label == "" {
			return "", errEmptyLabel
		}
		if len(label) > maxLabel {
			return "", errLongLabel
		}
		for i := range len(label) {
			if c := label[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`*"'/\:;,<>(){}[]@#!?=%&|^`+"`", c) >= 0 {
				return "", errCharacter
			}
		}
	}
	if isAddress(a) { // from full-width digits, say
		return "", errAddress
	}
	return a, nil
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return err == nil
}

// isCanonical recognises the plain names that most traffic has: lower-case
// letters, digits, "-" and "_", no xn-- label that IDNA would have to check, and
// a last label with a letter or "_", so no IPv4 literal.
func isCanonical(s string) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	start, digitsOnly := 0, true
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '.' {
			if i == start || i-start > maxLabel || strings.HasPrefix(s[start:i], "xn--") {
				return false
			}
			if i == len(s) {
				break
			}
			start, digitsOnly = i+1, true
			continue
		}
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || c == '_':
			digitsOnly = false
		case '0' <= c && c <= '9' || c == '-':
		default:
			return false
		}
	}
	return !digitsOnly
}

// Name returns s as a fact: canonical, or invalid.
func Name(s string) Value[string] {
	c, err := CanonicalName(s)
	if err != nil {
		return Bad[string]()
	}
	return Some(c)
}
