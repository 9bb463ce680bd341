package flow

import "iter"

// maxALPN bounds the fact in bytes; browsers offer about twenty.
const maxALPN = 256

// JoinALPN writes protocols as the fact ALPN has them: "h2,http/1.1". GREASE (RFC
// 8701) is left out, and whatever else is not printable or has a comma.
func JoinALPN(protocols iter.Seq[[]byte]) string {
	var room [maxALPN]byte
	b := room[:0]
	for p := range protocols {
		if len(p) == 0 || !printable(p) || len(b)+1+len(p) > maxALPN {
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, p...)
	}
	return string(b)
}

func printable(p []byte) bool {
	for _, c := range p {
		if c <= ' ' || c > '~' || c == ',' {
			return false
		}
	}
	return true
}
