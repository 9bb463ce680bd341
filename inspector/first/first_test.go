package first

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/quic/quictest"
	"netpolicy.dev/netpolicy/inspector/tlshello"
)

var dcid = []byte("12345678")

// message is a ClientHello of crypto/tls without record header.
func message(t testing.TB, name string, quantum bool) []byte {
	t.Helper()
	c := &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}} // #nosec: only the first flight is made
	if !quantum {
		c.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	b, err := quictest.Hello(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// records puts a message into records of at most n bytes.
func records(msg []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(msg, n) {
		out = append(out, 22, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func hello(t testing.TB, name string) []byte { return records(message(t, name, true), 1<<14) }

// streams are beginnings with what they say.
func streams(t testing.TB) map[string]Facts {
	tlsFacts := Facts{App: "tls", SNI: "us01.zoom.us", ALPN: "h2,http/1.1"}
	noName := tlsFacts
	noName.SNI = ""
	ech := tlsFacts
	ech.ECH = true
	return map[string]Facts{
		string(hello(t, "us01.zoom.us")):                                   tlsFacts,
		string(records(message(t, "us01.zoom.us", false), 100)):            tlsFacts,
		string(hello(t, "")):                                               noName,
		string(records(withECH(message(t, "us01.zoom.us", false)), 1<<14)): ech,
		"GET / HTTP/1.1\r\nHost: a.example:80\r\n\r\n":                     {App: "http", Host: "a.example"},
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                 {App: "http"},
		"SSH-2.0-OpenSSH\r\n":                                              {App: "ssh"},
		"\x13BitTorrent protocol":                                          {App: "bittorrent"},
		"EHLO a.example\r\n":                                               {},
		"\x05\x01\x00\x05\x01\x00\x03":                                     {},
	}
}

// withECH adds the extension to a message.
func withECH(msg []byte) []byte {
	ext := []byte{0xfe, 0x0d, 0, 3, 0, 1, 2}
	b := append(bytes.Clone(msg), ext...)
	b[2], b[3] = byte((len(b)-4)>>8), byte(len(b)-4)
	at := 4 + 2 + 32
	at += 1 + int(b[at])
	at += 2 + int(binary.BigEndian.Uint16(b[at:]))
	at += 1 + int(b[at])
	binary.BigEndian.PutUint16(b[at:], binary.BigEndian.Uint16(b[at:])+uint16(len(ext)))
	return b
}

// TestStream reads prefixes that grow by pieces of any size: the end is the same,
// and on the way facts are only added.
func TestStream(t *testing.T) {
	for text, want := range streams(t) {
		t.Run(text[:min(len(text), 12)], func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				var r Reader
				before, state := Facts{}, More
				for n := 0; state == More; {
					if n == len(text) {
						t.Fatal("more, at the end")
					}
					n += rapid.IntRange(1, min(len(text)-n, 900)).Draw(t, "piece")
					var x Facts
					if x, state = r.Stream([]byte(text[:n])); !grown(before, x) {
						t.Fatalf("%+v became %+v", before, x)
					}
					before = x
				}
				if before != want || (want == Facts{}) != (state == Unknown) {
					t.Fatalf("%v %+v, want %+v", state, before, want)
				}
			})
		})
	}
}

// grown reports whether b says all that a says.
func grown(a, b Facts) bool {
	same := func(x, y string) bool { return x == "" || x == y }
	return same(a.App, b.App) && same(a.SNI, b.SNI) && same(a.Host, b.Host) && same(a.ALPN, b.ALPN) && (!a.ECH || b.ECH)
}

func TestEarly(t *testing.T) {
	b := hello(t, "us01.zoom.us")
	r := Reader{Details: true}
	x, state := r.Stream(b[:len(b)-1])
	if want := (Facts{App: "tls", SNI: "us01.zoom.us"}); state != More || x.App != want.App || x.SNI != want.SNI || x.Hello != nil {
		t.Errorf("%v %+v", state, x)
	}
}

func TestBound(t *testing.T) {
	for _, text := range []string{"GET /", "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"} {
		var r Reader
		long := []byte(text + strings.Repeat("x", 2*MaxStream))
		if _, state := r.Stream(long[:MaxStream-1]); state != More {
			t.Errorf("%q: %v below the bound", text, state)
		}
		at, state := r.Stream(long[:MaxStream])
		if beyond, same := r.Stream(long); state == More || same != state || beyond != at {
			t.Errorf("%q: %v %+v, beyond the bound %v %+v", text, state, at, same, beyond)
		}
	}
}

// TestDetails are for readers that ask, and the others' facts are the same but for them.
func TestDetails(t *testing.T) {
	msg := message(t, "us01.zoom.us", true)
	h, err := tlshello.ParseMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	print := func(transport byte) string { return string(h.AppendJA4(nil, transport)) }
	google := []byte("\x09abcdefghQ043\x01rest")
	for _, c := range []struct {
		name string
		read func(details bool) Facts
		want inspector.Hello
	}{
		{"TLS", func(details bool) Facts {
			r := Reader{Details: details}
			x, _ := r.Stream(records(msg, 700))
			return x
		}, inspector.Hello{TLS: "1.3", JA4: print(tlshello.OverTCP)}},
		{"QUIC", func(details bool) Facts {
			d := Datagrams{Details: details}
			d.Write(quictest.V2.Initial(dcid, dcid, 0, quictest.Crypto(0, msg)))
			return d.Facts()
		}, inspector.Hello{TLS: "1.3", QUIC: "2", JA4: print(tlshello.OverQUIC)}},
		{"half of QUIC", func(details bool) Facts {
			d := Datagrams{Details: details}
			d.Write(quictest.V1.Initial(dcid, dcid, 0, quictest.Crypto(0, msg[:900])))
			return d.Facts()
		}, inspector.Hello{QUIC: "1"}},
		{"Google's QUIC", func(details bool) Facts {
			d := Datagrams{Details: details}
			d.Write(google)
			return d.Facts()
		}, inspector.Hello{QUIC: "Q043"}},
		{"SSH", func(details bool) Facts {
			r := Reader{Details: details}
			x, _ := r.Stream([]byte("SSH-2.0-x\r\n"))
			return x
		}, inspector.Hello{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain, full := c.read(false), c.read(true)
			if plain.App == "" || plain.Hello != nil {
				t.Errorf("%+v", plain)
			}
			var got inspector.Hello
			if full.Hello != nil {
				got = *full.Hello
			}
			if full.Hello = nil; got != c.want || full != plain {
				t.Errorf("%+v %+v, without details %+v", full, got, plain)
			}
		})
	}
}

func TestDatagrams(t *testing.T) {
	whole := message(t, "us01.zoom.us", true)
	quic := Facts{App: "quic", SNI: "us01.zoom.us", ALPN: "h2,http/1.1"}
	v := quictest.V1
	part := func(number, from, to int) string {
		return string(v.Initial(dcid, dcid, byte(number), quictest.Crypto(from, whole[from:to])))
	}
	n := len(whole)
	for _, c := range []struct {
		name      string
		datagrams []string
		state     State
		want      Facts
	}{
		{"whole", []string{part(0, 0, n)}, Done, quic},
		{"in two", []string{part(0, 0, 900), part(1, 900, n)}, Done, quic},
		{"in two, backwards", []string{part(1, 900, n), part(0, 0, 900)}, Done, quic},
		{"the end is missing", []string{part(0, 0, n-1)}, More, quic},
		{"the beginning is missing", []string{part(1, 900, n)}, More, Facts{App: "quic"}},
		{"it never comes", slices.Repeat([]string{part(1, 900, n)}, MaxDatagrams), Done, Facts{App: "quic"}},
		{"no hello in it", []string{string(v.Initial(dcid, dcid, 0, quictest.Crypto(0, []byte("\x02\x00\x00\x00"))))}, Done, Facts{App: "quic"}},
		{"STUN", []string{"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"}, Done, Facts{App: "stun"}},
		{"something else", []string{"hello, world, here I am"}, Unknown, Facts{}},
		{"a short header", []string{"\x43\x00\x00\x00\x01\x08abcdefgh"}, Unknown, Facts{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Datagrams
			state := More
			for i, b := range c.datagrams {
				if state != More {
					t.Fatalf("%v after %d", state, i)
				}
				state = d.Write([]byte(b))
			}
			if state != c.state || d.Facts() != c.want {
				t.Errorf("%v %+v", state, d.Facts())
			}
			if state != More && d.Held() != 0 {
				t.Error("still held")
			}
		})
	}
}

func TestFill(t *testing.T) {
	was := flow.Flow{HTTPHost: flow.Some("was.example"), ALPN: flow.Some("h3")}
	x := Facts{App: "tls", SNI: "US01.Zoom.us.", ALPN: "h2"}
	f := was
	x.Fill(&f, false)
	want := flow.Flow{App: flow.Some("tls"), SNI: flow.Some("us01.zoom.us"), ALPN: flow.Some("h2"), HTTPHost: flow.Some("was.example")}
	if f != want {
		t.Errorf("%v", f)
	}
	want.HTTPHost = flow.Absent[string]()
	if x.Fill(&f, true); f != want {
		t.Errorf("final: %v", f)
	}
	if (Facts{SNI: "192.0.2.1"}).Fill(&f, true); f.SNI != flow.Bad[string]() {
		t.Errorf("an address: %v", f.SNI)
	}
}

// TestAllocations: a hello in one piece costs the two strings of its facts.
func TestAllocations(t *testing.T) {
	b := hello(t, "us01.zoom.us")
	var r Reader
	if n := testing.AllocsPerRun(100, func() {
		if x, state := r.Stream(b); state != Done || x.SNI == "" {
			t.Fatal(state)
		}
	}); n > 2 {
		t.Errorf("%v allocations", n)
	}
	ssh := []byte("SSH-2.0-x\r\n")
	if n := testing.AllocsPerRun(100, func() {
		if _, state := r.Stream(ssh); state != Done {
			t.Fatal(state)
		}
	}); n != 0 {
		t.Errorf("SSH: %v allocations", n)
	}
}

func BenchmarkStream(b *testing.B) {
	for name, stream := range map[string][]byte{
		"tls": hello(b, "us01.zoom.us"), "http": []byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"), "ssh": []byte("SSH-2.0-x\r\n"),
	} {
		b.Run(name, func(b *testing.B) {
			var r Reader
			b.ReportAllocs()
			for b.Loop() {
				if _, state := r.Stream(stream); state != Done {
					b.Fatal(state)
				}
			}
		})
	}
}

func FuzzStream(f *testing.F) {
	for text := range streams(f) {
		f.Add([]byte(text), uint16(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		n := min(int(cut), len(b))
		var r Reader
		early, state := r.Stream(b[:n])
		x, whole := r.Stream(b)
		if state != More && (whole != state || x != early) {
			t.Fatalf("%v %+v became %v %+v", state, early, whole, x)
		}
		if whole != Unknown && !grown(early, x) {
			t.Fatalf("%+v became %+v", early, x)
		}
	})
}

func FuzzDatagrams(f *testing.F) {
	msg := message(f, "us01.zoom.us", false)
	f.Add(quictest.V1.Initial(dcid, dcid, 0, quictest.Crypto(0, msg)), []byte{})
	f.Add(quictest.V2.Initial(dcid, dcid, 0, quictest.Crypto(0, msg[:100])), quictest.V2.Initial(dcid, dcid, 1, quictest.Crypto(100, msg[100:])))
	f.Add([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"), []byte("d1:ad2:id20:"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var d Datagrams
		state := d.Write(a)
		early := d.Facts()
		if later := d.Write(b); state != More && (later != state || d.Facts() != early) {
			t.Fatalf("%v %+v became %v %+v", state, early, later, d.Facts())
		}
	})
}
