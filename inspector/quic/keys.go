package quic

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// Versions. Those of Google are four letters.
const (
	version1 = 1
	version2 = 0x6b3343cf // RFC 9369
	q046     = 0x51303436
	q050     = 0x51303530
	t050     = 0x54303530
	t051     = 0x54303531

	facebook           = 0xfaceb0 // before a number of eight bits
	facebookExperiment = 0xfaceb00e
)

// schedule is what the keys of Initial packets are made from.
type schedule struct {
	salt         string
	key, iv, mix string // labels
}

// labels of version 1 and of what came before it.
func of(salt string) schedule { return schedule{salt, "quic key", "quic iv", "quic hp"} }

// The salts: RFC 9001, 5.2; RFC 9369, 3.3.1; draft-ietf-quic-tls-22, -23 and
// -29, 5.2; for Google the sources of QUICHE.
var (
	schedule1    = of("\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a")
	schedule2    = schedule{"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9", "quicv2 key", "quicv2 iv", "quicv2 hp"}
	schedule22   = of("\x7f\xbc\xdb\x0e\x7c\x66\xbb\xe9\x19\x3a\x96\xcd\x21\x51\x9e\xbd\x7a\x02\x64\x4a")
	schedule23   = of("\xc3\xee\xf7\x12\xc7\x2e\xbb\x5a\x11\xa7\xd2\x43\x2b\xb4\x63\x65\xbe\xf9\xf5\x02")
	schedule29   = of("\xaf\xbf\xec\x28\x99\x93\xd2\x4c\x9e\x97\x86\xf1\x9c\x61\x11\xe0\x43\x90\xa8\x99")
	scheduleQ050 = of("\x50\x45\x74\xef\xd0\x66\xfe\x2f\x9d\x94\x5c\xfc\xdb\xd3\xa7\xf0\xd3\xb5\x6b\x45")
	scheduleT050 = of("\x7f\xf5\x79\xe5\xac\xd0\x72\x91\x55\x80\x30\x4c\x43\xa2\x36\x7c\x60\x48\x83\x10")
	scheduleT051 = of("\x7a\x4e\xde\xf4\xe7\xcc\xee\x5f\xa4\x50\x6c\x19\x12\x4f\xc8\xcc\xda\x6e\x03\x3d")
)

// draft returns the number of an IETF draft that a version is, or is made from
// (Facebook's mvfst); 0 for none.
func draft(version uint32) uint32 {
	switch {
	case version>>8 == 0xff0000:
		return version & 0xff
	case version == 0xfaceb001:
		return 22
	case version>>8 == facebook:
		return 27
	default:
		return 0
	}
}

// reserved reports a version that forces a negotiation (RFC 9000, 15).
func reserved(version uint32) bool { return version&0x0f0f0f0f == 0x0a0a0a0a }

// known reports whether a version is one of QUIC, readable or not.
func known(version uint32) bool {
	if _, ok := scheduleOf(version); ok {
		return true
	}
	return version == q046 || reserved(version)
}

// scheduleOf returns how the keys of a version are made.
func scheduleOf(version uint32) (schedule, bool) {
	switch version {
	case version1:
		return schedule1, true
	case version2:
		return schedule2, true
	case q050:
		return scheduleQ050, true
	case t050:
		return scheduleT050, true
	case t051:
		return scheduleT051, true
	}
	switch d := draft(version); {
	case d >= 33 && d <= 34:
		return schedule1, true
	case d >= 29 && d <= 32:
		return schedule29, true
	case d >= 23 && d <= 28:
		return schedule23, true
	case d == 22:
		return schedule22, true
	default:
		return schedule{}, false
	}
}

// keys open the Initial packets of a client.
type keys struct {
	aead cipher.AEAD
	iv   [12]byte
	mix  cipher.Block // header protection
}

// keys makes them from the connection ID that the client chose.
func (s schedule) keys(dcid []byte) keys {
	key, iv, mix := s.secrets(dcid)
	var k keys
	block, _ := aes.NewCipher(key) // fails for another length only
	k.aead, _ = cipher.NewGCM(block)
	k.mix, _ = aes.NewCipher(mix)
	copy(k.iv[:], iv)
	return k
}

// secrets derives what the keys are (RFC 9001, 5.2).
func (s schedule) secrets(dcid []byte) (key, iv, mix []byte) {
	secret, _ := hkdf.Extract(sha256.New, dcid, []byte(s.salt)) // fails for nothing that is here
	secret = expand(secret, "client in", sha256.Size)
	return expand(secret, s.key, 16), expand(secret, s.iv, 12), expand(secret, s.mix, 16)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
func expand(secret []byte, label string, n int) []byte {
	info := make([]byte, 0, 32)
	info = binary.BigEndian.AppendUint16(info, uint16(n))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(info, "tls13 "...)
	info = append(info, label...)
	info = append(info, 0)
	out, _ := hkdf.Expand(sha256.New, secret, string(info), n)
	return out
}

// open removes the header protection (RFC 9001, 5.4) and decrypts the payload
// into scratch. ok is false when the tag is wrong: for other keys, or damaged.
func (k *keys) open(scratch []byte, p header) (clear []byte, ok bool) {
	const longestNumber, sample = 4, aes.BlockSize
	at := p.number + longestNumber
	if len(p.raw) < at+sample {
		return nil, false
	}
	var mask [aes.BlockSize]byte
	k.mix.Encrypt(mask[:], p.raw[at:at+sample])
	// The header in clear is what is authenticated.
	head := make([]byte, 0, 128)
	head = append(head, p.raw[:at]...)
	head[0] ^= mask[0] & 0x0f
	n := int(head[0]&3) + 1
	nonce := k.iv
	number := uint32(0)
	for i := range n {
		head[p.number+i] ^= mask[1+i]
		number = number<<8 | uint32(head[p.number+i])
	}
	// A client's first packets have small numbers: all of it stands there.
	for i := range 4 {
		nonce[8+i] ^= byte(number >> (24 - 8*i))
	}
	clear, err := k.aead.Open(scratch[:0], nonce[:], p.raw[p.number+n:], head[:p.number+n])
	return clear, err == nil
}
