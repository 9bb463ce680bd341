package tlshello

import (
	"crypto/tls"
	"encoding/binary"
	"strings"
	"testing"
)

// made builds a hello message of the given parts; extensions are whole.
func made(version uint16, ciphers []uint16, extensions ...[]byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, version)
	body = append(body, make([]byte, 33)...) // random, no session
	body = binary.BigEndian.AppendUint16(body, uint16(2*len(ciphers)))
	for _, c := range ciphers {
		body = binary.BigEndian.AppendUint16(body, c)
	}
	body = append(body, 1, 0)
	if extensions != nil {
		n := 0
		for _, e := range extensions {
			n += len(e)
		}
		body = binary.BigEndian.AppendUint16(body, uint16(n))
		for _, e := range extensions {
			body = append(body, e...)
		}
	}
	return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

func extension(kind uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// chrome are the parts of the example in JA4's description.
func chrome() ([]uint16, [][]byte) {
	ciphers := []uint16{0x1a1a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035}
	extensions := [][]byte{
		extension(0x4a4a, ""), extension(0x0000, "\x00\x0c\x00\x00\x09a.example"), extension(0x0017, ""), extension(0xff01, "\x00"),
		extension(0x000a, "x"), extension(0x000b, "x"), extension(0x0023, ""), extension(0x0010, "\x00\x0c\x02h2\x08http/1.1"),
		extension(0x0005, "x"), extension(0x000d, "\x00\x10\x04\x03\x08\x04\x04\x01\x05\x03\x08\x05\x05\x01\x08\x06\x06\x01"),
		extension(0x0012, ""), extension(0x0033, "x"), extension(0x002d, "x"), extension(0x002b, "\x06\x2a\x2a\x03\x04\x03\x03"),
		extension(0x001b, "x"), extension(0x4469, "x"), extension(0xbaba, "\x00"), extension(0x0015, "xx"),
	}
	return ciphers, extensions
}

func TestJA4(t *testing.T) {
	ciphers, extensions := chrome()
	shuffled := append(append([][]byte(nil), extensions[9:]...), extensions[:9]...)
	for _, c := range []struct {
		name      string
		msg       []byte
		transport byte
		want      string
	}{
		// The example of github.com/FoxIO-LLC/ja4, technical_details/JA4.md.
		{"the example", made(0x0303, ciphers, extensions...), OverTCP, "t13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"extensions in another order", made(0x0303, ciphers, shuffled...), OverTCP, "t13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"over QUIC", made(0x0303, ciphers, extensions...), OverQUIC, "q13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"nothing at all", made(0x0301, nil), OverTCP, "t10i000000_000000000000_000000000000"},
		{"a protocol of one letter", made(0x0303, nil, extension(16, "\x00\x02\x01h")), OverTCP, "t12i0001hh_000000000000_000000000000"},
		{"a protocol that is no text", made(0x0303, nil, extension(16, "\x00\x03\x02\xab\xcd")), OverTCP, "t12i0001ad_000000000000_000000000000"},
		{"an older version", made(0x0303, nil, extension(43, "\x04\x03\x02\x03\x01")), OverTCP, "t11i000100_000000000000_b9a491fefe05"},
		// The highest value counts, also one that has no letters (a draft, Facebook's).
		{"a draft beside a version", made(0x0303, nil, extension(43, "\x04\x7f\x1c\x03\x04")), OverQUIC, "q00i000100_000000000000_b9a491fefe05"},
		{"a name that is empty", made(0x0303, nil, extension(0, "\x00\x00")), OverTCP, "t12d000100_000000000000_000000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := ParseMessage(c.msg)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(h.AppendJA4(nil, c.transport)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestVersionName(t *testing.T) {
	for text, want := range map[string]string{
		"\x06\x2a\x2a\x03\x04\x03\x03": "1.3", "\x04\x7f\x1c\x03\x04": "1.3", "\x02\x7f\x1c": "1.2",
		"\x02\x03\x03": "1.2", "\x02\x03\x02": "1.1", "\x02\x03\x01": "1.0", "\x02\x03\x00": "SSL3", "\x02\x03\x05": "0x0305",
	} {
		h, err := ParseMessage(made(0x0303, nil, extension(43, text)))
		if err != nil || h.VersionName() != want {
			t.Errorf("%q: %q %v, want %q", text, h.VersionName(), err, want)
		}
	}
}

// TestJA4Lists is for lists longer than the room on the stack.
func TestJA4Lists(t *testing.T) {
	var ciphers []uint16
	var extensions [][]byte
	for i := range 300 {
		ciphers = append(ciphers, uint16(0x100+i))
		extensions = append(extensions, extension(uint16(0x100+i), ""))
	}
	h, err := ParseMessage(made(0x0303, ciphers, extensions...))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(h.AppendJA4(nil, OverTCP)); !strings.HasPrefix(got, "t12i999900_") || len(got) != 36 {
		t.Error(got)
	}
}

func TestParseMessage(t *testing.T) {
	record := named(t)
	var p Parser
	want, err := p.Parse(record)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseMessage(record[recordHeader:])
	if err != nil || string(got.ServerName) != string(want.ServerName) || got.Version != tls.VersionTLS13 ||
		string(got.AppendJA4(nil, OverTCP)) != string(want.AppendJA4(nil, OverTCP)) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ParseMessage([]byte{2, 0, 0, 0}); err != ErrNotTLS {
		t.Error(err)
	}
	if _, err := ParseMessage(nil); err != ErrIncomplete {
		t.Error(err)
	}
}
