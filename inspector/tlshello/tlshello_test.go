package tlshello

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
)

// hello returns the ClientHello record that crypto/tls sends for c.
func hello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(client, c).Handshake()
	}()
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	<-done
	return append(head, body...)
}

func named(t testing.TB) []byte {
	return hello(t, &tls.Config{ServerName: "us01.zoom.us", NextProtos: []string{"h2", "http/1.1"}})
}

// classic is a hello of few hundred bytes, quantum one of more than a segment.
func classic(t testing.TB) []byte {
	return hello(t, &tls.Config{ServerName: "us01.zoom.us", NextProtos: []string{"h2", "http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}})
}

func quantum(t testing.TB) []byte {
	b := hello(t, &tls.Config{ServerName: "us01.zoom.us", CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}})
	if len(b) < 1300 {
		t.Fatalf("no post-quantum key share in %d bytes", len(b))
	}
	return b
}

// split cuts a hello's one record into records of at most n bytes.
func split(record []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(record[recordHeader:], n) {
		out = append(out, record[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func protocols(h Hello) []string {
	var out []string
	for p := range h.Protocols() {
		out = append(out, string(p))
	}
	return out
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name    string
		stream  []byte
		sni     string
		version uint16
		alpn    []string
	}{
		{"whole", named(t), "us01.zoom.us", tls.VersionTLS13, []string{"h2", "http/1.1"}},
		{"with what follows", append(named(t), "\x14\x03\x03\x00\x01\x01\x17\x03\x03"...), "us01.zoom.us", tls.VersionTLS13, []string{"h2", "http/1.1"}},
		{"records of 100", split(named(t), 100), "us01.zoom.us", tls.VersionTLS13, []string{"h2", "http/1.1"}},
		{"records of 1", split(named(t), 1), "us01.zoom.us", tls.VersionTLS13, []string{"h2", "http/1.1"}},
		{"without post-quantum key shares", classic(t), "us01.zoom.us", tls.VersionTLS13, []string{"h2", "http/1.1"}},
		{"with one, records of 700", split(quantum(t), 700), "us01.zoom.us", tls.VersionTLS13, nil},
		{"1.2", hello(t, &tls.Config{ServerName: "a.example", MaxVersion: tls.VersionTLS12}), "a.example", tls.VersionTLS12, nil},
		{"no name", hello(t, &tls.Config{InsecureSkipVerify: true}), "", tls.VersionTLS13, nil}, // #nosec: nothing is verified here
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Parser
			h, err := p.Parse(c.stream)
			if err != nil || string(h.ServerName) != c.sni || h.Version != c.version || !slices.Equal(protocols(h), c.alpn) || h.ECH {
				t.Errorf("%q %#x %q ech %v, %v", h.ServerName, h.Version, protocols(h), h.ECH, err)
			}
			if c.sni == "" && h.ServerName != nil {
				t.Error("no name must be nil")
			}
		})
	}
}

// TestECH builds what crypto/tls only sends with a key: a hello with the extension.
func TestECH(t *testing.T) {
	record := named(t)
	ext := []byte{0xfe, 0x0d, 0, 3, 1, 2, 3}
	body := record[recordHeader+handshakeHeader:]
	r := reader{body}
	_ = r.skip(34) && r.skipVector8()
	_, _ = r.vector16()
	_ = r.skipVector8()
	at := len(record) - len(r.b)
	binary.BigEndian.PutUint16(record[at:], binary.BigEndian.Uint16(record[at:])+uint16(len(ext)))
	record = append(record, ext...)
	binary.BigEndian.PutUint16(record[3:], uint16(len(record)-recordHeader))
	binary.BigEndian.PutUint16(record[7:], uint16(len(record)-recordHeader-handshakeHeader))
	var p Parser
	if h, err := p.Parse(record); err != nil || !h.ECH || string(h.ServerName) != "us01.zoom.us" {
		t.Errorf("%+v %v", h, err)
	}
}

// TestEveryCut holds what a cut stream may say: nothing, or the truth.
func TestEveryCut(t *testing.T) {
	for _, stream := range [][]byte{named(t), classic(t), split(named(t), 50), split(quantum(t), 1000)} {
		var p Parser
		early := false
		for n := range len(stream) {
			h, err := p.Parse(stream[:n])
			if !errors.Is(err, ErrIncomplete) {
				t.Fatalf("%d of %d bytes: %v", n, len(stream), err)
			}
			if h.ServerName != nil && string(h.ServerName) != "us01.zoom.us" {
				t.Fatalf("%d of %d bytes: name %q", n, len(stream), h.ServerName)
			}
			early = early || h.ServerName != nil
		}
		if !early {
			t.Error("the name is not told before the end")
		}
	}
}

func TestRefuses(t *testing.T) {
	edit := func(at int, v ...byte) []byte {
		b := bytes.Clone(named(t))
		copy(b[at:], v)
		return b
	}
	for _, c := range []struct {
		name   string
		stream []byte
		want   error
	}{
		{"http", []byte("GET / HTTP/1.1\r\n"), ErrNotTLS},
		{"ssh", []byte("SSH-2.0-OpenSSH"), ErrNotTLS},
		{"one byte of ssh", []byte("S"), ErrNotTLS},
		{"nothing", nil, ErrIncomplete},
		{"one byte", []byte{22}, ErrIncomplete},
		{"application data", []byte{23, 3, 3, 0, 1, 0}, ErrNotTLS},
		{"server hello", edit(5, 2), ErrNotTLS},
		{"record too long", edit(3, 0x7f), ErrNotTLS},
		{"message too long", edit(6, 1), ErrTooLong},
		{"ssl 2", edit(9, 2), ErrNotTLS},
		{"other record between", append(split(named(t), 100)[:105], 23, 3, 3, 0, 1, 0), ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Parser
			if _, err := p.Parse(c.stream); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	stream := named(t)
	var p Parser
	if n := testing.AllocsPerRun(100, func() {
		if h, err := p.Parse(stream); err != nil || len(h.ServerName) == 0 {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var room [64]byte
	h, _ := p.Parse(stream)
	if n := testing.AllocsPerRun(100, func() {
		if len(h.AppendJA4(room[:0], OverTCP)) != 36 {
			t.Fatal("no fingerprint")
		}
	}); n != 0 {
		t.Errorf("JA4: %v allocations", n)
	}
	records := split(quantum(t), 500)
	if n := testing.AllocsPerRun(100, func() {
		if h, err := p.Parse(records); err != nil || len(h.ServerName) == 0 {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("several records: %v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	stream := named(b)
	var p Parser
	b.ReportAllocs()
	for b.Loop() {
		if h, err := p.Parse(stream); err != nil || len(h.ServerName) != 12 {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	whole := named(f)
	f.Add(whole)
	f.Add(split(whole, 64))
	f.Add(whole[:200])
	f.Add(classic(f))
	f.Add(split(quantum(f), 1000))
	f.Add(hello(f, &tls.Config{InsecureSkipVerify: true})) // #nosec: nothing is verified here
	f.Fuzz(func(t *testing.T, stream []byte) {
		var p Parser
		h, err := p.Parse(stream)
		if err != nil && !errors.Is(err, ErrIncomplete) && h.ServerName != nil {
			t.Fatalf("error %v with a name %q", err, h.ServerName)
		}
		if h.ServerName != nil && !bytes.Contains(stream, h.ServerName) && !bytes.Contains(p.joined, h.ServerName) {
			t.Fatalf("name %q from nowhere", h.ServerName)
		}
		name := bytes.Clone(h.ServerName)
		for range h.Protocols() {
		}
		if len(h.AppendJA4(nil, OverTCP)) != 36 {
			t.Fatalf("fingerprint %s", h.AppendJA4(nil, OverTCP))
		}
		// More bytes never take a name back, unless they show that all was malformed.
		if more, err2 := new(Parser).Parse(append(bytes.Clone(stream), 0)); name != nil &&
			(err2 == nil || errors.Is(err2, ErrIncomplete)) && !bytes.Equal(name, more.ServerName) {
			t.Fatalf("%q became %q", name, more.ServerName)
		}
	})
}
