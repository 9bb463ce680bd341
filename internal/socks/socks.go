// Package socks is SOCKS5 on the wire (RFC 1928, RFC 1929): what a client and a
// server say to each other, and the heads of datagrams. It opens no sockets.
package socks

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Version begins what a SOCKS5 client says.
const Version = 5

// Commands of a request (RFC 1928, section 4).
const (
	Connect   = 1
	Associate = 3 // UDP ASSOCIATE
)

// Codes of a reply (RFC 1928, section 6).
const (
	ReplyOK          = 0
	ReplyFailed      = 1
	ReplyNotAllowed  = 2
	ReplyNoNetwork   = 3 // network unreachable
	ReplyUnreachable = 4 // host unreachable
	ReplyRefused     = 5
	ReplyTimedOut    = 6 // TTL expired
	ReplyCommand     = 7 // command not supported
)

const (
	authVersion = 1 // RFC 1929

	methodNone     = 0
	methodPassword = 2
	methodRefused  = 0xff

	addrIPv4 = 1
	addrName = 3
	addrIPv6 = 4

	// maxHead is the longest head of a datagram, and of a request: 4 bytes, a
	// name with its length, a port.
	maxHead = 4 + 1 + 255 + 2
)

// Target is where a client wants to go: an address, or a name, and a port.
type Target struct {
	Addr netip.Addr // unmapped; the zero Addr when a name is asked for
	Name string
	Port uint16
}

func (t Target) String() string {
	if t.Name != "" {
		return fmt.Sprintf("%s:%d", t.Name, t.Port)
	}
	return netip.AddrPortFrom(t.Addr, t.Port).String()
}

// AddrPort is the address and the port; the zero Addr where a name is asked for.
func (t Target) AddrPort() netip.AddrPort { return netip.AddrPortFrom(t.Addr, t.Port) }

// TargetOf is what an address asks for.
func TargetOf(a netip.AddrPort) Target { return Target{Addr: a.Addr().Unmap(), Port: a.Port()} }

// appendTarget writes ATYP, the address and the port. A name is at most 255
// bytes: those that come in are, and canonical names too.
func appendTarget(b []byte, t Target) []byte {
	switch {
	case t.Name != "":
		b = append(b, addrName, byte(len(t.Name)))
		b = append(b, t.Name...)
	case t.Addr.Is6():
		a := t.Addr.As16()
		b = append(append(b, addrIPv6), a[:]...)
	case t.Addr.Is4():
		a := t.Addr.As4()
		b = append(append(b, addrIPv4), a[:]...)
	default:
		b = append(b, addrIPv4, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(b, t.Port)
}

// ErrProtocol says that the other side does not speak SOCKS5.
var ErrProtocol = errors.New("not SOCKS5")

// cutTarget reads ATYP, the address and the port from the beginning of b.
func cutTarget(b []byte) (t Target, rest []byte, err error) {
	if len(b) < 1 {
		return t, nil, ErrProtocol
	}
	n, kind := 0, b[0]
	b = b[1:]
	switch kind {
	case addrIPv4:
		n = 4
	case addrIPv6:
		n = 16
	case addrName:
		if len(b) < 1 {
			return t, nil, ErrProtocol
		}
		n, b = int(b[0]), b[1:]
	default:
		return t, nil, ErrProtocol
	}
	if len(b) < n+2 || n == 0 {
		return t, nil, ErrProtocol
	}
	if kind == addrName {
		// An address that was written as a name is an address.
		if a, err := netip.ParseAddr(string(b[:n])); err == nil {
			t.Addr = a.Unmap().WithZone("")
		} else {
			t.Name = string(b[:n])
		}
	} else {
		a, _ := netip.AddrFromSlice(b[:n])
		t.Addr = a.Unmap()
	}
	t.Port = binary.BigEndian.Uint16(b[n:])
	return t, b[n+2:], nil
}

// readTarget reads the same from a stream, and takes no byte more.
func readTarget(r io.Reader) (Target, error) {
	var buf [maxHead]byte
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return Target{}, err
	}
	n := 0
	switch buf[0] {
	case addrIPv4:
		n = 2 + 3 + 2
	case addrIPv6:
		n = 2 + 15 + 2
	case addrName:
		n = 2 + int(buf[1]) + 2
	default:
		return Target{}, ErrProtocol
	}
	if _, err := io.ReadFull(r, buf[2:n]); err != nil {
		return Target{}, err
	}
	t, _, err := cutTarget(buf[:n])
	return t, err
}

// AppendHead writes the head of a datagram (RFC 1928, section 7).
func AppendHead(b []byte, t Target) []byte {
	return appendTarget(append(b, 0, 0, 0), t)
}

// CutDatagram splits a datagram into its Target and its payload. Fragments are refused.
func CutDatagram(b []byte) (Target, []byte, error) {
	if len(b) < 4 || b[2] != 0 {
		return Target{}, nil, ErrProtocol
	}
	return cutTarget(b[3:])
}

// Accept reads a client's greeting and request.
func Accept(r io.Reader, w io.Writer, users map[string]string) (command byte, t Target, err error) {
	var buf [2 + 255]byte
	if _, err = io.ReadFull(r, buf[:2]); err != nil {
		return 0, t, err
	}
	if buf[0] != Version {
		return 0, t, ErrProtocol
	}
	methods := buf[2 : 2+int(buf[1])]
	if _, err = io.ReadFull(r, methods); err != nil {
		return 0, t, err
	}
	want := byte(methodNone)
	if len(users) > 0 {
		want = methodPassword
	}
	if bytes.IndexByte(methods, want) < 0 {
		_, _ = w.Write([]byte{Version, methodRefused})
		return 0, t, ErrAuth
	}
	if _, err = w.Write([]byte{Version, want}); err != nil {
		return 0, t, err
	}
	if want == methodPassword {
		if err = checkPassword(r, w, users); err != nil {
			return 0, t, err
		}
	}
	if _, err = io.ReadFull(r, buf[:3]); err != nil {
		return 0, t, err
	}
	if buf[0] != Version {
		return 0, t, ErrProtocol
	}
	command = buf[1]
	t, err = readTarget(r)
	return command, t, err
}

// ErrAuth says that a client did not log in.
var ErrAuth = errors.New("the client did not give a known name and password")

// checkPassword reads a name and a password (RFC 1929).
func checkPassword(r io.Reader, w io.Writer, users map[string]string) error {
	read := func() (string, error) {
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return "", err
		}
		b := make([]byte, n[0])
		_, err := io.ReadFull(r, b)
		return string(b), err
	}
	var version [1]byte
	if _, err := io.ReadFull(r, version[:]); err != nil {
		return err
	}
	user, err := read()
	if err != nil {
		return err
	}
	password, err := read()
	if err != nil {
		return err
	}
	if version[0] != authVersion || !Known(users, user, password) {
		_, _ = w.Write([]byte{authVersion, 1})
		return ErrAuth
	}
	_, err = w.Write([]byte{authVersion, 0})
	return err
}

// Known reports whether a name and a password are among users. It compares in a time that does not tell how much of a password is right.
func Known(users map[string]string, user, password string) bool {
	want, ok := users[user]
	same := subtle.ConstantTimeCompare([]byte(want), []byte(password)) == 1
	return ok && same
}

// WriteReply answers a request.
func WriteReply(w io.Writer, code byte, bound netip.AddrPort) error {
	b := make([]byte, 0, maxHead)
	_, err := w.Write(appendTarget(append(b, Version, code, 0), TargetOf(bound)))
	return err
}

// ServerError is a SOCKS server's refusal.
type ServerError struct{ Code byte }

func (e ServerError) Error() string {
	switch e.Code {
	case ReplyNotAllowed:
		return "the SOCKS server does not allow it"
	case ReplyNoNetwork, ReplyUnreachable:
		return "the SOCKS server can't reach it"
	case ReplyRefused:
		return "the SOCKS server was refused"
	default:
		return fmt.Sprintf("the SOCKS server says %d", e.Code)
	}
}

// Ask asks a SOCKS server, and returns the address in its answer.
func Ask(c io.ReadWriter, user, password string, command byte, t Target) (Target, error) {
	if len(user) > 255 || len(password) > 255 || len(t.Name) > 255 {
		return Target{}, errors.New("longer than SOCKS5 can say")
	}
	method := byte(methodNone)
	if user != "" {
		method = methodPassword
	}
	if _, err := c.Write([]byte{Version, 1, method}); err != nil {
		return Target{}, err
	}
	var buf [3]byte
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return Target{}, err
	}
	if buf[0] != Version || buf[1] != method {
		return Target{}, errors.New("the SOCKS server does not take our way to log in")
	}
	if method == methodPassword {
		b := append([]byte{authVersion, byte(len(user))}, user...)
		b = append(append(b, byte(len(password))), password...)
		if _, err := c.Write(b); err != nil {
			return Target{}, err
		}
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return Target{}, err
		}
		if buf[1] != 0 {
			return Target{}, errors.New("the SOCKS server does not know the name and password")
		}
	}
	if _, err := c.Write(appendTarget([]byte{Version, command, 0}, t)); err != nil {
		return Target{}, err
	}
	if _, err := io.ReadFull(c, buf[:3]); err != nil {
		return Target{}, err
	}
	bound, err := readTarget(c)
	switch {
	case err != nil:
		return Target{}, err
	case buf[0] != Version:
		return Target{}, ErrProtocol
	case buf[1] != ReplyOK:
		return Target{}, ServerError{buf[1]}
	}
	return bound, nil
}

// Handshake asks a SOCKS server behind c as Ask does, and gives up when ctx ends;
// then c is of no use any more.
func Handshake(ctx context.Context, c net.Conn, user, password string, command byte, t Target) (Target, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	bound, err := Ask(c, user, password, command, t)
	if !stop() && err == nil || ctx.Err() != nil {
		err = ctx.Err()
	}
	return bound, err
}
