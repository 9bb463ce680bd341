package relay

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// SOCKS5 on the wire: RFC 1928, RFC 1929.
const (
	socksVersion = 5
	authVersion  = 1

	methodNone     = 0
	methodPassword = 2
	methodRefused  = 0xff

	commandConnect   = 1
	commandAssociate = 3

	addrIPv4 = 1
	addrName = 3
	addrIPv6 = 4

	replyOK          = 0
	replyFailed      = 1
	replyNotAllowed  = 2
	replyUnreachable = 4 // host unreachable
	replyRefused     = 5
	replyTimedOut    = 6 // TTL expired
	replyCommand     = 7 // command not supported

	// maxSOCKSHead is the longest head of a datagram, and of a request: 4 bytes, a
	// name with its length, a port.
	maxSOCKSHead = 4 + 1 + 255 + 2
)

// target is where a client wants to go: an address, or a name, and a port.
type target struct {
	addr netip.Addr // unmapped; the zero Addr when a name is asked for
	name string
	port uint16
}

func (t target) String() string {
	if t.name != "" {
		return fmt.Sprintf("%s:%d", t.name, t.port)
	}
	return netip.AddrPortFrom(t.addr, t.port).String()
}

func (t target) addrPort() netip.AddrPort { return netip.AddrPortFrom(t.addr, t.port) }

// targetOf is what an address asks for.
func targetOf(a netip.AddrPort) target { return target{addr: a.Addr().Unmap(), port: a.Port()} }

// appendTarget writes ATYP, the address and the port. A name is at most 255
// bytes: those that come in are, and canonical names too.
func appendTarget(b []byte, t target) []byte {
	switch {
	case t.name != "":
		b = append(b, addrName, byte(len(t.name)))
		b = append(b, t.name...)
	case t.addr.Is6():
		a := t.addr.As16()
		b = append(append(b, addrIPv6), a[:]...)
	case t.addr.Is4():
		a := t.addr.As4()
		b = append(append(b, addrIPv4), a[:]...)
	default:
		b = append(b, addrIPv4, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(b, t.port)
}

var errSOCKS = errors.New("not SOCKS5")

// cutTarget reads ATYP, the address and the port from the beginning of b.
func cutTarget(b []byte) (t target, rest []byte, err error) {
	if len(b) < 1 {
		return t, nil, errSOCKS
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
			return t, nil, errSOCKS
		}
		n, b = int(b[0]), b[1:]
	default:
		return t, nil, errSOCKS
	}
	if len(b) < n+2 || n == 0 {
		return t, nil, errSOCKS
	}
	if kind == addrName {
		// An address that was written as a name is an address.
		if a, err := netip.ParseAddr(string(b[:n])); err == nil {
			t.addr = a.Unmap().WithZone("")
		} else {
			t.name = string(b[:n])
		}
	} else {
		a, _ := netip.AddrFromSlice(b[:n])
		t.addr = a.Unmap()
	}
	t.port = binary.BigEndian.Uint16(b[n:])
	return t, b[n+2:], nil
}

// readTarget reads the same from a stream, and takes no byte more.
func readTarget(r io.Reader) (target, error) {
	var buf [maxSOCKSHead]byte
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return target{}, err
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
		return target{}, errSOCKS
	}
	if _, err := io.ReadFull(r, buf[2:n]); err != nil {
		return target{}, err
	}
	t, _, err := cutTarget(buf[:n])
	return t, err
}

// appendDatagramHead writes the head of a datagram (RFC 1928, section 7).
func appendDatagramHead(b []byte, t target) []byte {
	return appendTarget(append(b, 0, 0, 0), t)
}

// cutDatagram splits a datagram into its target and its payload. Fragments are refused.
func cutDatagram(b []byte) (target, []byte, error) {
	if len(b) < 4 || b[2] != 0 {
		return target{}, nil, errSOCKS
	}
	return cutTarget(b[3:])
}

// acceptSOCKS reads a client's greeting and request.
func acceptSOCKS(r io.Reader, w io.Writer, users map[string]string) (command byte, t target, err error) {
	var buf [2 + 255]byte
	if _, err = io.ReadFull(r, buf[:2]); err != nil {
		return 0, t, err
	}
	if buf[0] != socksVersion {
		return 0, t, errSOCKS
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
		_, _ = w.Write([]byte{socksVersion, methodRefused})
		return 0, t, errAuth
	}
	if _, err = w.Write([]byte{socksVersion, want}); err != nil {
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
	if buf[0] != socksVersion {
		return 0, t, errSOCKS
	}
	command = buf[1]
	t, err = readTarget(r)
	return command, t, err
}

var errAuth = errors.New("the client did not give a known name and password")

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
	if version[0] != authVersion || !known(users, user, password) {
		_, _ = w.Write([]byte{authVersion, 1})
		return errAuth
	}
	_, err = w.Write([]byte{authVersion, 0})
	return err
}

// known compares in a time that does not tell how much of a password is right.
func known(users map[string]string, user, password string) bool {
	want, ok := users[user]
	same := subtle.ConstantTimeCompare([]byte(want), []byte(password)) == 1
	return ok && same
}

// writeReply answers a request.
func writeReply(w io.Writer, code byte, bound netip.AddrPort) error {
	b := make([]byte, 0, maxSOCKSHead)
	_, err := w.Write(appendTarget(append(b, socksVersion, code, 0), targetOf(bound)))
	return err
}

// serverError is a SOCKS server's refusal.
type serverError struct{ code byte }

func (e serverError) Error() string {
	switch e.code {
	case replyNotAllowed:
		return "the SOCKS server does not allow it"
	case 3, replyUnreachable:
		return "the SOCKS server can't reach it"
	case replyRefused:
		return "the SOCKS server was refused"
	default:
		return fmt.Sprintf("the SOCKS server says %d", e.code)
	}
}

// askServer asks a SOCKS server, and returns the address in its answer.
func askServer(c io.ReadWriter, user, password string, command byte, t target) (target, error) {
	if len(user) > 255 || len(password) > 255 || len(t.name) > 255 {
		return target{}, errors.New("longer than SOCKS5 can say")
	}
	method := byte(methodNone)
	if user != "" {
		method = methodPassword
	}
	if _, err := c.Write([]byte{socksVersion, 1, method}); err != nil {
		return target{}, err
	}
	var buf [3]byte
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return target{}, err
	}
	if buf[0] != socksVersion || buf[1] != method {
		return target{}, errors.New("the SOCKS server does not take our way to log in")
	}
	if method == methodPassword {
		b := append([]byte{authVersion, byte(len(user))}, user...)
		b = append(append(b, byte(len(password))), password...)
		if _, err := c.Write(b); err != nil {
			return target{}, err
		}
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return target{}, err
		}
		if buf[1] != 0 {
			return target{}, errors.New("the SOCKS server does not know the name and password")
		}
	}
	if _, err := c.Write(appendTarget([]byte{socksVersion, command, 0}, t)); err != nil {
		return target{}, err
	}
	if _, err := io.ReadFull(c, buf[:3]); err != nil {
		return target{}, err
	}
	bound, err := readTarget(c)
	switch {
	case err != nil:
		return target{}, err
	case buf[0] != socksVersion:
		return target{}, errSOCKS
	case buf[1] != replyOK:
		return target{}, serverError{buf[1]}
	}
	return bound, nil
}
