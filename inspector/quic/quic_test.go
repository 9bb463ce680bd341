package quic

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/inspector/quic/quictest"
	"netpolicy.dev/netpolicy/inspector/tlshello"
)

var dcid = []byte("\x83\x94\xc8\xf0\x3e\x51\x57\x08")

// hello is a ClientHello of crypto/tls: with a post-quantum key share it takes
// two datagrams.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	b, err := quictest.Hello(&tls.Config{ServerName: name, NextProtos: []string{"h3"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func name(t testing.TB, c *Client) string {
	t.Helper()
	h, err := tlshello.ParseMessage(c.Message())
	if err != nil {
		return ""
	}
	return string(h.ServerName)
}

// TestKeys holds the examples of RFC 9001, A.1, and RFC 9369, A.1.
func TestKeys(t *testing.T) {
	for _, c := range []struct {
		version     uint32
		key, iv, hp string
	}{
		{version1, "1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"},
		{version2, "8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"},
	} {
		s, _ := scheduleOf(c.version)
		key, iv, hp := s.secrets(dcid)
		if hex.EncodeToString(key) != c.key || hex.EncodeToString(iv) != c.iv || hex.EncodeToString(hp) != c.hp {
			t.Errorf("version %#x: key %x, iv %x, hp %x", c.version, key, iv, hp)
		}
	}
}

// versions are those that encrypt, with what differs.
func versions() []quictest.Version {
	list := []quictest.Version{quictest.V1, quictest.V2}
	add := func(salt string, numbers ...uint32) {
		for _, n := range numbers {
			list = append(list, quictest.Version{Number: n, Salt: salt, Label: "quic"})
		}
	}
	add("7fbcdb0e7c66bbe9193a96cd21519ebd7a02644a", 0xff000016, 0xfaceb001)
	add("c3eef712c72ebb5a11a7d2432bb46365bef9f502", 0xff000017, 0xff00001b, 0xff00001c, 0xfaceb002, 0xfaceb00e)
	add("afbfec289993d24c9e9786f19c6111e04390a899", 0xff00001d, 0xff000020)
	add(quictest.V1.Salt, 0xff000021, 0xff000022)
	return list
}

func TestVersions(t *testing.T) {
	msg := hello(t, "us01.zoom.us")
	for _, v := range versions() {
		var c Client
		if !c.Datagram(v.Initial(dcid, dcid, 0, quictest.Crypto(0, msg))) || name(t, &c) != "us01.zoom.us" || c.version != v.Number {
			t.Errorf("version %#x: %q", v.Number, c.Message())
		}
	}
	if new(Client).Datagram([]byte{0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 0, 0, 0}) {
		t.Error("a reserved version in a short datagram")
	}
	for _, v := range []uint32{0, 0xff000015, 0xff000023, 2, 0x51303434, 0xfaceb100} {
		b := quictest.Version{Number: v, Salt: quictest.V1.Salt, Label: "quic"}.Initial(dcid, dcid, 0, quictest.Crypto(0, msg))
		if new(Client).Datagram(b) {
			t.Errorf("version %#x is not known", v)
		}
	}
}

func TestVersionNames(t *testing.T) {
	msg := hello(t, "us01.zoom.us")
	names := map[uint32]string{1: "1", 0x6b3343cf: "2", 0xff000016: "draft-22", 0xff00001d: "draft-29", 0xfaceb001: "mvfst-22", 0xfaceb002: "mvfst-27", 0xfaceb00e: "mvfst-exp"}
	for _, v := range versions() {
		want, ok := names[v.Number]
		if !ok {
			continue
		}
		delete(names, v.Number)
		var c Client
		if c.Version() != "" {
			t.Errorf("before the first packet: %q", c.Version())
		}
		c.Datagram(v.Initial(dcid, []byte("others"), 0, quictest.Crypto(0, msg)))
		if c.Version() != "" {
			t.Errorf("%#x: %q of a packet that can't be read", v.Number, c.Version())
		}
		c.Datagram(v.Initial(dcid, dcid, 0, quictest.Crypto(0, msg)))
		if c.Version() != want {
			t.Errorf("%#x: %q, want %q", v.Number, c.Version(), want)
		}
	}
	if len(names) > 0 {
		t.Errorf("not tried: %v", names)
	}
	var c Client
	if c.Datagram([]byte("\x09abcdefghQ043\x01rest")); c.Version() != "Q043" {
		t.Errorf("Google's: %q", c.Version())
	}
}

// TestAnyOrder cuts a hello into frames, shuffles them over packets, coalesces
// some of these, and puts other packets and frames between them.
func TestAnyOrder(t *testing.T) {
	msg := hello(t, "us01.zoom.us")
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom([]quictest.Version{quictest.V1, quictest.V2}).Draw(t, "version")
		var frames [][]byte
		for at := 0; at < len(msg); {
			n := min(rapid.IntRange(60, 700).Draw(t, "length"), len(msg)-at)
			frames = append(frames, quictest.Crypto(at, msg[at:at+n]))
			if rapid.Bool().Draw(t, "again") {
				frames = append(frames, quictest.Crypto(at, msg[at:at+n]))
			}
			at += n
		}
		frames = append(frames, []byte{framePing}, make([]byte, 30), []byte{frameAck, 1, 0, 1, 0, 0, 0}, []byte{frameAckECN, 1, 0, 0, 0, 1, 1, 1})
		frames = rapid.Permutation(frames).Draw(t, "order")
		var c Client
		var datagram []byte
		number := byte(0)
		for len(frames) > 0 {
			n := rapid.IntRange(1, min(6, len(frames))).Draw(t, "in one packet")
			datagram = append(datagram, v.Initial(dcid, dcid, number, bytes.Join(frames[:n], nil))...)
			frames = frames[n:]
			number++
			if rapid.Bool().Draw(t, "0-RTT") {
				datagram = append(datagram, other(v, 1)...)
			}
			if len(frames) == 0 || number%3 == 0 || rapid.Bool().Draw(t, "send") {
				if !c.Datagram(datagram) {
					t.Fatal("not QUIC")
				}
				datagram = nil
			}
		}
		if !bytes.Equal(c.Message(), msg) || c.Lost() > 0 {
			t.Fatalf("%d of %d bytes, lost %d", len(c.Message()), len(msg), c.Lost())
		}
	})
}

// other is a packet with a long header that holds no hello: 1 is 0-RTT, 2 is a
// handshake's, 3 a Retry.
func other(v quictest.Version, kind byte) []byte {
	b := []byte{0xc0 | (kind<<4+v.InitialBits)&0x30}
	b = binary.BigEndian.AppendUint32(b, v.Number)
	b = append(append(b, byte(len(dcid))), dcid...)
	b = append(b, 0)
	return append(append(b, 0x40, 50), make([]byte, 50)...)
}

func TestOtherPackets(t *testing.T) {
	msg := hello(t, "us01.zoom.us")
	first, second := quictest.Crypto(0, msg[:500]), quictest.Crypto(500, msg[500:])
	whole := quictest.Crypto(0, msg)
	v1, v2 := quictest.V1, quictest.V2
	another := []byte("another1")
	draft := quictest.Version{Number: 0xff00001d, Salt: "afbfec289993d24c9e9786f19c6111e04390a899", Label: "quic"}
	for _, c := range []struct {
		name      string
		datagrams [][]byte
		want      bool
	}{
		{"0-RTT first", [][]byte{other(v1, 1), v1.Initial(dcid, dcid, 0, whole)}, true},
		{"a handshake's, then nothing", [][]byte{other(v1, 2)}, false},
		{"the connection ID changes, the keys don't", [][]byte{v1.Initial(dcid, dcid, 0, first), v1.Initial(dcid, another, 1, second)}, true},
		{"after a Retry", [][]byte{v1.Initial(dcid, dcid, 0, first), v1.Initial(another, another, 1, first), v1.Initial(another, another, 2, second)}, true},
		{"half before and half after a Retry", [][]byte{v1.Initial(dcid, dcid, 0, first), v1.Initial(another, another, 1, second)}, false},
		{"after a version negotiation", [][]byte{draft.Initial(dcid, dcid, 0, first), v1.Initial(dcid, dcid, 0, whole)}, true},
		{"version 2 after 1", [][]byte{v1.Initial(dcid, dcid, 0, first), v2.Initial(dcid, dcid, 0, whole)}, true},
		{"a reserved version first", [][]byte{append([]byte{0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 0, 0}, make([]byte, minInitial)...), v1.Initial(dcid, dcid, 0, whole)}, true},
		{"only the second half", [][]byte{v1.Initial(dcid, dcid, 1, second)}, false},
		{"padding after the packet", [][]byte{append(v1.Initial(dcid, dcid, 0, whole), make([]byte, 100)...)}, true},
		{"wrong keys", [][]byte{v1.Initial(another, dcid, 0, whole)}, false},
		{"CONNECTION_CLOSE", [][]byte{v1.Initial(dcid, dcid, 0, append([]byte{0x1c, 0, 0, 0}, whole...))}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var client Client
			for _, d := range c.datagrams {
				if !client.Datagram(d) {
					t.Error("not QUIC")
				}
			}
			if got := name(t, &client) == "us01.zoom.us"; got != c.want {
				t.Errorf("read: %v", got)
			}
		})
	}
}

// TestEveryCut and a flip of every bit: there is nothing, or the truth.
func TestEveryCut(t *testing.T) {
	msg := hello(t, "us01.zoom.us")
	whole := quictest.V1.Initial(dcid, dcid, 0, quictest.Crypto(0, msg))
	for n := range whole {
		var c Client
		c.Datagram(whole[:n])
		if len(c.Message()) > 0 {
			t.Fatalf("%d of %d bytes: %q", n, len(whole), c.Message())
		}
	}
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		var c Client
		c.Datagram(b)
		if len(c.Message()) > 0 {
			t.Fatalf("bit %d flipped: %q", bit, c.Message())
		}
	}
}

func TestBounds(t *testing.T) {
	var c Client
	for i := range 3 * maxSpans {
		c.Datagram(quictest.V1.Initial(dcid, dcid, byte(i), quictest.Crypto(2*i+1, []byte{1})))
	}
	if len(c.message.have) != maxSpans || c.Lost() != 2*maxSpans {
		t.Errorf("%d spans, lost %d", len(c.message.have), c.Lost())
	}
	c = Client{}
	for i := range 100 {
		c.Datagram(quictest.V1.Initial(dcid, dcid, byte(i), quictest.Crypto(i*1000, make([]byte, 1000))))
	}
	if len(c.Message()) > MaxHello || c.Lost() != 84 || c.Held() > 2*MaxHello {
		t.Errorf("%d bytes, %d held, lost %d", len(c.Message()), c.Held(), c.Lost())
	}
}

// TestAssembler compares with a map of bytes, where the first counts.
func TestAssembler(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a assembler
		want := map[int]byte{}
		for i := range rapid.IntRange(1, 30).Draw(t, "pieces") {
			at, n := rapid.IntRange(0, 60).Draw(t, "at"), rapid.IntRange(0, 20).Draw(t, "length")
			data := bytes.Repeat([]byte{byte(i + 1)}, n)
			if !a.add(uint64(at), data) {
				t.Fatal("lost")
			}
			for j, b := range data {
				if _, ok := want[at+j]; !ok {
					want[at+j] = b
				}
			}
		}
		n := 0
		for ; want[n] != 0; n++ {
		}
		got := a.prefix()
		if len(got) != n {
			t.Fatalf("%d bytes, want %d: %v", len(got), n, a.have)
		}
		for i, b := range got {
			if b != want[i] {
				t.Fatalf("byte %d is of piece %d, want %d", i, b, want[i])
			}
		}
	})
}

func BenchmarkInitial(b *testing.B) {
	d := quictest.V1.Initial(dcid, dcid, 0, quictest.Crypto(0, hello(b, "us01.zoom.us")))
	b.ReportAllocs()
	for b.Loop() {
		var c Client
		if c.Datagram(d); len(c.Message()) == 0 {
			b.Fatal("nothing")
		}
	}
}

func FuzzDatagram(f *testing.F) {
	msg := hello(f, "us01.zoom.us")
	f.Add(quictest.V1.Initial(dcid, dcid, 0, quictest.Crypto(0, msg)), []byte{})
	f.Add(quictest.V2.Initial(dcid, dcid, 0, quictest.Crypto(0, msg[:300])), quictest.V2.Initial(dcid, dcid, 1, quictest.Crypto(300, msg[300:])))
	f.Add(other(quictest.V1, 1), other(quictest.V1, 3))
	f.Add(google43(stream(0, chlo("SNI\x00", "a.example"))), google46(stream(0, chlo("SNI\x00", "a.example"))))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var c Client
		c.Datagram(a)
		before := bytes.Clone(c.Message())
		version := c.version
		c.Datagram(b)
		if c.version == version && len(c.Message()) < len(before) && version != q046 && len(c.keys) < 2 {
			t.Fatalf("%d bytes became %d", len(before), len(c.Message()))
		}
		if c.Held() > 4*MaxHello+len(a)+len(b) {
			t.Fatalf("holds %d", c.Held())
		}
	})
}

// FuzzFrames skips the encryption.
func FuzzFrames(f *testing.F) {
	f.Add(quictest.Crypto(0, []byte("hello")))
	f.Add([]byte{frameAck, 1, 0, 1, 0, 0, 0, framePing, frameCrypto, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Client
		c.frames(b, frameCrypto)
		c.googleFrames(b)
		if len(c.message.have) > maxSpans || len(c.message.buf) > MaxHello {
			t.Fatalf("%d spans, %d bytes", len(c.message.have), len(c.message.buf))
		}
		_, _ = ServerName(b)
	})
}
