// Package quictest makes a client's Initial packets for tests: an implementation
// of RFC 9001, 5, apart from the one that is tested.
package quictest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
)

// Version is a version and how its keys are made.
type Version struct {
	Number      uint32
	Salt        string // hexadecimal
	Label       string // "quic", or "quicv2"
	InitialBits byte   // the type bits of an Initial, in place
}

// The two versions of the RFCs.
var (
	V1 = Version{1, "38762cf7f55934b34d179ae6a4c80cadccbb7f0a", "quic", 0}
	V2 = Version{0x6b3343cf, "0dede3def700a6db819381be6e269dcbf9bd2ed9", "quicv2", 0x10}
)

// Initial returns a packet whose keys come from keyed and whose header says dcid.
func (v Version) Initial(keyed, dcid []byte, number byte, frames []byte) []byte {
	salt, err := hex.DecodeString(v.Salt)
	if err != nil {
		panic(err)
	}
	secret := label(mac(salt, keyed), "client in", 32)
	block, _ := aes.NewCipher(label(secret, v.Label+" key", 16))
	seal, _ := cipher.NewGCM(block)
	mask, _ := aes.NewCipher(label(secret, v.Label+" hp", 16))
	nonce := label(secret, v.Label+" iv", 12)
	nonce[11] ^= number

	for len(frames) < 4 { // enough for the sample
		frames = append(frames, 0)
	}
	b := []byte{0xc0 | v.InitialBits}
	b = binary.BigEndian.AppendUint32(b, v.Number)
	b = append(append(b, byte(len(dcid))), dcid...)
	b = append(b, 0, 0)                                                   // no source ID, no token
	b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(1+len(frames)+16)) // Length
	at := len(b)
	b = append(b, number) // of one byte
	b = seal.Seal(b, nonce, frames, b)
	var m [16]byte
	mask.Encrypt(m[:], b[at+4:at+20])
	b[0] ^= m[0] & 0x0f
	b[at] ^= m[1]
	return b
}

// Crypto returns a CRYPTO frame.
func Crypto(offset int, data []byte) []byte {
	b := []byte{6}
	b = binary.BigEndian.AppendUint32(b, 0x80000000|uint32(offset))
	b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(len(data)))
	return append(b, data...)
}

// Hello returns the ClientHello that crypto/tls sends over QUIC.
func Hello(c *tls.Config) ([]byte, error) {
	if c.MinVersion == 0 {
		c = c.Clone()
		c.MinVersion = tls.VersionTLS13
	}
	q := tls.QUICClient(&tls.QUICConfig{TLSConfig: c})
	defer func() { _ = q.Close() }()
	q.SetTransportParameters(nil)
	if err := q.Start(context.Background()); err != nil {
		return nil, err
	}
	for {
		switch e := q.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			return append([]byte(nil), e.Data...), nil
		case tls.QUICNoEvent:
			return nil, errors.New("crypto/tls says nothing")
		}
	}
}

func mac(key []byte, data ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, d := range data {
		_, _ = h.Write(d)
	}
	return h.Sum(nil)
}

// label is HKDF-Expand-Label for what fits into one block.
func label(secret []byte, name string, n int) []byte {
	name = "tls13 " + name
	info := append([]byte{0, byte(n), byte(len(name))}, name...)
	return mac(secret, append(info, 0), []byte{1})[:n]
}
