package tlshello

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// The transports of a JA4 fingerprint.
const (
	OverTCP  = 't'
	OverQUIC = 'q'
)

// AppendJA4 appends the JA4 fingerprint of a whole hello: what kind of program
// sent it, whatever the name. It is the TLS client part of FoxIO's JA4, which is
// under the BSD licence (github.com/FoxIO-LLC/ja4, technical_details/JA4.md).
//
//	t13d1516h2_8daaf6152771_e5627efa2ab1
func (h Hello) AppendJA4(dst []byte, transport byte) []byte {
	var room [2][128]uint16 // more than any client sends; a longer list goes to the heap
	ciphers := numbers(room[0][:0], h.ciphers)
	extensions, shown := room[1][:0], 0
	for r := (reader{h.extensions}); len(r.b) > 0; {
		kind, ok := r.uint16()
		if _, ok2 := r.vector16(); !ok || !ok2 {
			break
		}
		if grease(kind) {
			continue
		}
		shown++
		if kind != extServerName && kind != extALPN {
			extensions = append(extensions, kind)
		}
	}
	name := byte('i')
	if h.named {
		name = 'd'
	}
	dst = append(dst, transport)
	dst = append(dst, h.ja4Version()...)
	dst = append(dst, name)
	dst = twoDigits(dst, len(ciphers))
	dst = twoDigits(dst, shown)
	dst = h.firstALPN(dst)

	var text [1024]byte
	slices.Sort(ciphers)
	dst = appendHash(append(dst, '_'), appendList(text[:0], ciphers))
	slices.Sort(extensions)
	list := appendList(text[:0], extensions)
	if algs := numbers(room[0][:0], h.sigAlgs); len(algs) > 0 && len(list) > 0 {
		list = appendList(append(list, '_'), algs)
	}
	return appendHash(append(dst, '_'), list)
}

// grease reports the values of RFC 8701.
func grease(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

// numbers appends the values in b, without GREASE.
func numbers(list []uint16, b []byte) []uint16 {
	for r := (reader{b}); len(r.b) > 1; {
		if v, _ := r.uint16(); !grease(v) {
			list = append(list, v)
		}
	}
	return list
}

func (h Hello) ja4Version() string {
	switch h.offered {
	case 0x0304:
		return "13"
	case 0x0303:
		return "12"
	case 0x0302:
		return "11"
	case 0x0301:
		return "10"
	case 0x0300:
		return "s3"
	default:
		return "00"
	}
}

func twoDigits(dst []byte, n int) []byte {
	n = min(n, 99)
	return append(dst, '0'+byte(n/10), '0'+byte(n%10))
}

// firstALPN appends the first and last letter of the first protocol offered, or
// of its hexadecimal form when these are no letters or digits.
func (h Hello) firstALPN(dst []byte) []byte {
	for p := range h.Protocols() {
		first, last := p[0], p[len(p)-1]
		if alphanumeric(first) && alphanumeric(last) {
			return append(dst, first, last)
		}
		const digits = "0123456789abcdef"
		return append(dst, digits[first>>4], digits[last&15])
	}
	return append(dst, '0', '0')
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// appendList appends values in hexadecimal, with commas between them.
func appendList(dst []byte, list []uint16) []byte {
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = hex.AppendEncode(dst, []byte{byte(v >> 8), byte(v)})
	}
	return dst
}

// appendHash appends the first twelve digits of the text's SHA-256; zeros for none.
func appendHash(dst, text []byte) []byte {
	if len(text) == 0 {
		return append(dst, "000000000000"...)
	}
	sum := sha256.Sum256(text)
	return hex.AppendEncode(dst, sum[:6])
}
