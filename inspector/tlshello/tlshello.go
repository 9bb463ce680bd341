// Package tlshello reads a TLS ClientHello off the beginning of a TCP stream
// (RFC 8446, 4.1.2; RFC 6066, 3 for the server name; RFC 9849 for ECH). The
// handshake message may be split over segments (the caller appends and asks
// again) and over records (joined here).
//
//	var p tlshello.Parser
//	hello, err := p.Parse(stream)
//	switch {
//	case errors.Is(err, tlshello.ErrIncomplete): // more bytes may come
//	case err != nil:                             // not TLS: no server name
//	case hello.ServerName == nil:                // known to be absent
//	}
//
// It is pure, bounded and safe on hostile input, and allocates nothing for a
// hello in one record.
package tlshello

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// MaxStream is how many bytes of a stream are worth keeping for Parse: peers
// give up at 16 KiB too, and post-quantum hellos are under 4 KiB.
const MaxStream = 16 << 10

// Errors of Parse. Only ErrIncomplete can change with more bytes.
var (
	ErrIncomplete = errors.New("the ClientHello goes on after these bytes")
	ErrNotTLS     = errors.New("not a TLS ClientHello")
	ErrMalformed  = errors.New("malformed ClientHello")
	ErrTooLong    = errors.New("ClientHello longer than 16 KiB")
)

// Hello is what a ClientHello says. Its slices point into the stream, or into
// the Parser when the hello took several records, and live as long as those.
type Hello struct {
	// Version is the highest version offered, GREASE left out: from the
	// supported_versions extension, else the hello's own field (0x0303 is TLS 1.2).
	Version uint16
	// ServerName is the first host_name of the server_name extension, as sent;
	// nil when there is none. With ECH it is the outer, public name.
	ServerName []byte
	// ECH is true when encrypted_client_hello (or the older encrypted
	// server name) is present; GREASE ECH looks the same by design.
	ECH bool

	offered    uint16 // the highest version offered, drafts and private ones too, for JA4
	alpn       []byte // the ProtocolNameList, checked
	named      bool   // there is a server_name extension, even an empty one
	ciphers    []byte // cipher_suites
	extensions []byte // all of them, when the hello is whole
	sigAlgs    []byte // supported_signature_algorithms
}

// Protocols yields the ALPN protocols offered, in order.
func (h Hello) Protocols() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for list := h.alpn; len(list) > 0; {
			n := int(list[0])
			if !yield(list[1 : 1+n]) {
				return
			}
			list = list[1+n:]
		}
	}
}

// VersionName returns the highest version offered as people write it: "1.3", or
// "SSL3"; in hexadecimal what has no name.
func (h Hello) VersionName() string {
	switch h.Version {
	case 0x0304:
		return "1.3"
	case 0x0303:
		return "1.2"
	case 0x0302:
		return "1.1"
	case 0x0301:
		return "1.0"
	case 0x0300:
		return "SSL3"
	default:
		return fmt.Sprintf("0x%04x", h.Version)
	}
}

// Parser joins records. The zero Parser is ready; it is for one goroutine and
// can be used for any number of streams.
type Parser struct{ joined []byte }

// Values of the TLS registries (IANA "TLS Parameters", "TLS ExtensionType Values").
const (
	recordHandshake  = 22
	typeClientHello  = 1
	extServerName    = 0
	extSigAlgs       = 13
	extALPN          = 16
	extVersions      = 43
	extESNI          = 0xffce // draft-ietf-tls-esni-01 to -06
	extECH           = 0xfe0d
	nameTypeHost     = 0
	recordHeader     = 5
	handshakeHeader  = 4
	maxRecordPayload = 1 << 14
)

// Parse reads the ClientHello that stream begins with. With ErrIncomplete the
// Hello may hold a server name already: a hello can have only one (RFC 8446,
// 4.2), so it will not change; what it does not hold may still come.
func (p *Parser) Parse(stream []byte) (Hello, error) {
	body, whole, err := p.message(stream)
	if err != nil {
		return Hello{}, err
	}
	return parseBody(body, whole)
}

// ParseMessage reads a ClientHello that has no record header: what the CRYPTO
// frames of QUIC carry (RFC 9001, 4.1.3). The errors mean the same as Parse's.
func ParseMessage(msg []byte) (Hello, error) {
	if len(msg) > 0 && msg[0] != typeClientHello {
		return Hello{}, ErrNotTLS
	}
	body, whole, err := bodyOf(msg)
	if err != nil {
		return Hello{}, err
	}
	return parseBody(body, whole)
}

// message returns the handshake message's body as far as it is there. Without
// joining when it lies in the first record.
func (p *Parser) message(stream []byte) (body []byte, whole bool, err error) {
	first, rest, err := record(stream)
	if err != nil {
		return nil, false, err
	}
	if len(first) > 0 && first[0] != typeClientHello {
		return nil, false, ErrNotTLS
	}
	msg := first
	if n, ok := length(first); !ok || len(first) < handshakeHeader+n {
		p.joined = append(p.joined[:0], first...)
		for len(rest) > 0 && len(p.joined) <= MaxStream {
			var next []byte
			next, rest, err = record(rest)
			if errors.Is(err, ErrIncomplete) {
				break
			}
			if err != nil {
				return nil, false, ErrMalformed
			}
			p.joined = append(p.joined, next...)
			if n, ok := length(p.joined); ok && len(p.joined) >= handshakeHeader+n {
				break
			}
		}
		msg = p.joined
	}
	if len(msg) > 0 && msg[0] != typeClientHello { // an empty first record
		return nil, false, ErrNotTLS
	}
	return bodyOf(msg)
}

// bodyOf cuts the header and what follows off a handshake message.
func bodyOf(msg []byte) (body []byte, whole bool, err error) {
	n, ok := length(msg)
	switch {
	case !ok:
		return nil, false, ErrIncomplete
	case n > MaxStream:
		return nil, false, ErrTooLong
	case len(msg) < handshakeHeader+n:
		return msg[handshakeHeader:], false, nil
	}
	return msg[handshakeHeader : handshakeHeader+n], true, nil
}

// record cuts the payload of one handshake record off b, as much as is there.
func record(b []byte) (payload, rest []byte, err error) {
	for i, c := range b[:min(len(b), 3)] {
		// Type, then a version whose major number is 3 (0x0301 to 0x0304).
		if i == 0 && c != recordHandshake || i == 1 && c != 3 || i == 2 && c > 4 {
			return nil, nil, ErrNotTLS
		}
	}
	if len(b) < recordHeader {
		return nil, nil, ErrIncomplete
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	if n > maxRecordPayload {
		return nil, nil, ErrNotTLS
	}
	b = b[recordHeader:]
	if len(b) < n {
		return b, nil, nil
	}
	return b[:n], b[n:], nil
}

// length reads the handshake header's length.
func length(msg []byte) (int, bool) {
	if len(msg) < handshakeHeader {
		return 0, false
	}
	return int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]), true
}

// parseBody reads the ClientHello itself; whole is false when body is cut.
func parseBody(body []byte, whole bool) (Hello, error) {
	var h Hello
	short := func() (Hello, error) {
		if whole {
			return Hello{}, ErrMalformed
		}
		return h, ErrIncomplete
	}
	r := reader{body}
	version, ok := r.uint16()
	if ok && version>>8 != 3 {
		return h, ErrNotTLS
	}
	h.Version, h.offered = version, version
	// random, legacy_session_id, cipher_suites, legacy_compression_methods
	if !ok || !r.skip(32) || !r.skipVector8() {
		return short()
	}
	ciphers, ok := r.vector16()
	if !ok || !r.skipVector8() {
		return short()
	}
	if len(ciphers)%2 != 0 {
		return Hello{}, ErrMalformed
	}
	h.ciphers = ciphers
	if whole && len(r.b) == 0 {
		return h, nil // no extensions at all: TLS 1.2 and older
	}
	n, ok := r.uint16()
	if !ok {
		return short()
	}
	if whole && int(n) != len(r.b) {
		return short()
	}
	if len(r.b) > int(n) {
		r.b = r.b[:n]
	}
	if whole {
		h.extensions = r.b
	}
	for len(r.b) > 0 {
		kind, ok1 := r.uint16()
		data, ok2 := r.vector16()
		if !ok1 || !ok2 {
			return short()
		}
		if !h.extension(kind, data) {
			return Hello{}, ErrMalformed
		}
	}
	if !whole {
		return h, ErrIncomplete
	}
	return h, nil
}

// extension takes one whole extension; false when it is malformed.
func (h *Hello) extension(kind uint16, data []byte) bool {
	r := reader{data}
	switch kind {
	case extServerName:
		list, ok := r.vector16()
		if !ok || len(r.b) > 0 || h.ServerName != nil {
			return false
		}
		h.named = true
		for entries := (reader{list}); len(entries.b) > 0; {
			t, _ := entries.uint8()
			name, ok := entries.vector16()
			if !ok {
				return false
			}
			if t == nameTypeHost && h.ServerName == nil && len(name) > 0 {
				h.ServerName = name
			}
		}
	case extALPN:
		list, ok := r.vector16()
		if !ok || len(r.b) > 0 {
			return false
		}
		for protocols := (reader{list}); len(protocols.b) > 0; {
			if p, ok := protocols.vector8(); !ok || len(p) == 0 {
				return false
			}
		}
		h.alpn = list
	case extVersions:
		list, ok := r.vector8()
		if !ok || len(r.b) > 0 || len(list)%2 != 0 {
			return false
		}
		best, offered := uint16(0), uint16(0)
		for versions := (reader{list}); len(versions.b) > 0; {
			v, _ := versions.uint16()
			if v>>8 == 3 { // leaves GREASE and drafts out
				best = max(best, v)
			}
			if !grease(v) {
				offered = max(offered, v)
			}
		}
		h.Version, h.offered = cmp.Or(best, h.Version), cmp.Or(offered, h.offered)
	case extSigAlgs:
		list, ok := r.vector16()
		if !ok || len(r.b) > 0 || len(list)%2 != 0 {
			return false
		}
		h.sigAlgs = list
	case extECH, extESNI:
		h.ECH = true
	}
	return true
}

// reader cuts values off the front of b.
type reader struct{ b []byte }

func (r *reader) take(n int) ([]byte, bool) {
	if len(r.b) < n {
		return nil, false
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v, true
}

func (r *reader) uint8() (uint8, bool) {
	v, ok := r.take(1)
	if !ok {
		return 0, false
	}
	return v[0], true
}

func (r *reader) uint16() (uint16, bool) {
	v, ok := r.take(2)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint16(v), true
}

func (r *reader) vector8() ([]byte, bool) {
	n, ok := r.uint8()
	if !ok {
		return nil, false
	}
	return r.take(int(n))
}

func (r *reader) vector16() ([]byte, bool) {
	n, ok := r.uint16()
	if !ok {
		return nil, false
	}
	return r.take(int(n))
}

func (r *reader) skip(n int) bool {
	_, ok := r.take(n)
	return ok
}

func (r *reader) skipVector8() bool {
	_, ok := r.vector8()
	return ok
}
