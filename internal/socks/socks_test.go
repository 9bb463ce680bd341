package socks

import (
	"bytes"
	"io"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func drawTarget(t *rapid.T) Target {
	port := rapid.Uint16().Draw(t, "port")
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		return Target{Addr: netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4"))), Port: port}
	case 1:
		a := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6"))).Unmap()
		return Target{Addr: a, Port: port}
	default:
		return Target{Name: rapid.StringMatching(`[a-z][a-z0-9.-]{0,250}[g-z]`).Draw(t, "name"), Port: port}
	}
}

// TestTargets: what is written is read, from memory, from a stream, and at the
// head of a datagram.
func TestTargets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawTarget(t)
		tail := rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "tail")
		b := append(appendTarget(nil, want), tail...)
		got, rest, err := cutTarget(b)
		if err != nil || got != want || !bytes.Equal(rest, tail) {
			t.Fatalf("cutTarget: %v, %x, %v; want %v, %x", got, rest, err, want, tail)
		}
		r := bytes.NewReader(b)
		if got, err := readTarget(r); err != nil || got != want || r.Len() != len(tail) {
			t.Fatalf("readTarget: %v, %v, %d left; want %v", got, err, r.Len(), want)
		}
		got, rest, err = CutDatagram(append(AppendHead(nil, want), tail...))
		if err != nil || got != want || !bytes.Equal(rest, tail) {
			t.Fatalf("CutDatagram: %v, %x, %v", got, rest, err)
		}
	})
}

// both is a stream that is read from one place and written to another.
type both struct {
	io.Reader
	io.Writer
}

func FuzzSOCKS(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"), false)
	f.Add([]byte("\x05\x02\x00\x02\x01\x03ada\x06secret\x05\x03\x00\x03\x0bexample.com\x01\xbb"), true)
	f.Add([]byte("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"), false)
	f.Fuzz(func(t *testing.T, b []byte, auth bool) {
		users := map[string]string{"ada": "secret"}
		if !auth {
			users = nil
		}
		if _, to, err := Accept(bytes.NewReader(b), io.Discard, users); err == nil && to.Name == "" && !to.Addr.IsValid() {
			t.Error("a request for nothing")
		}
		if to, rest, err := CutDatagram(b); err == nil && (len(rest) > len(b) || to.Name == "" && !to.Addr.IsValid()) {
			t.Errorf("a datagram for %v", to)
		}
		_, _ = Ask(both{bytes.NewReader(b), io.Discard}, "ada", "secret", Connect, Target{Name: "x", Port: 1})
	})
}
