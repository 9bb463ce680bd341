package generator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
)

// PinRequest is a text with a certificate as PEM.
type PinRequest struct {
	Text string `json:"text"`
}

// PinReply is what trusts that certificate alone.
type PinReply struct {
	Pin string `json:"pin"`
}

// Pin returns the SHA-256 of the first certificate, as Xray's pinnedPeerCertSha256
// wants it: 64 hexadecimal digits of the whole certificate.
func Pin(r PinRequest) (PinReply, error) {
	for rest := []byte(r.Text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return PinReply{}, errors.New("there is no certificate in the text")
		}
		der := block.Bytes
		// A certificate is a SEQUENCE with a length of two bytes that covers all of it.
		if block.Type == "CERTIFICATE" && len(der) > 4 && der[0] == 0x30 && der[1] == 0x82 && int(der[2])<<8|int(der[3]) == len(der)-4 {
			sum := sha256.Sum256(der)
			return PinReply{Pin: hex.EncodeToString(sum[:])}, nil
		}
	}
}
