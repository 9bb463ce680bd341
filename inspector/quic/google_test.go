package quic

import (
	"encoding/binary"
	"errors"
	"testing"
)

// chlo makes a CHLO of tags and values, in the order given.
func chlo(pairs ...string) []byte {
	b := append([]byte("CHLO"), byte(len(pairs)/2), 0, 0, 0)
	end := 0
	for i := 0; i < len(pairs); i += 2 {
		end += len(pairs[i+1])
		b = binary.LittleEndian.AppendUint32(append(b, pairs[i]...), uint32(end))
	}
	for i := 1; i < len(pairs); i += 2 {
		b = append(b, pairs[i]...)
	}
	return b
}

// stream is the frame of stream 1 with an offset of two bytes.
func stream(offset int, data []byte) []byte {
	b := []byte{0x80 | 0x20 | 1<<2, 1}
	b = binary.BigEndian.AppendUint16(b, uint16(offset))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func google43(frames []byte) []byte {
	b := []byte("\x09abcdefghQ043\x01")
	return append(append(b, make([]byte, googleHash)...), frames...)
}

func google46(frames []byte) []byte {
	b := []byte("\xc3Q046\x50abcdefgh\x00\x00\x00\x01")
	return append(append(b, make([]byte, googleHash)...), frames...)
}

func TestGoogle(t *testing.T) {
	msg := chlo("PAD\x00", "------", "SNI\x00", "a.example", "VER\x00", "Q043")
	for _, c := range []struct {
		name      string
		datagrams [][]byte
	}{
		{"Q043", [][]byte{google43(stream(0, msg))}},
		{"Q043 without offset and length", [][]byte{google43(append([]byte{0x80, 1}, msg...))}},
		{"Q043, in two", [][]byte{google43(stream(20, msg[20:])), google43(stream(0, msg[:20]))}},
		{"Q046", [][]byte{google46(stream(0, msg))}},
		{"Q046, in two", [][]byte{google46(stream(0, msg[:20])), google46(append([]byte{7}, stream(20, msg[20:])...))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var client Client
			for _, d := range c.datagrams {
				if !client.Datagram(d) {
					t.Error("not QUIC")
				}
			}
			name, err := ServerName(client.Message())
			if err != nil || string(name) != "a.example" || !client.Google() {
				t.Errorf("%q %v", name, err)
			}
		})
	}
}

func TestServerName(t *testing.T) {
	whole := chlo("PAD\x00", "------", "SNI\x00", "a.example", "VER\x00", "Q043")
	for n := range whole {
		name, err := ServerName(whole[:n])
		if err == nil && string(name) != "a.example" || err != nil && !errors.Is(err, ErrIncomplete) {
			t.Errorf("%d of %d bytes: %q %v", n, len(whole), name, err)
		}
	}
	edit := func(at int, v byte) []byte {
		b := append([]byte(nil), whole...)
		b[at] = v
		return b
	}
	for _, c := range []struct {
		name string
		msg  []byte
		want string
		err  error
	}{
		{"no name", chlo("VER\x00", "Q043"), "", nil},
		{"an empty name", chlo("SNI\x00", "", "VER\x00", "Q043"), "", nil},
		{"no tags", chlo(), "", nil},
		{"another message", []byte("SHLO1234"), "", ErrNotCHLO},
		{"too many tags", edit(4, 200), "", ErrNotCHLO},
		{"ends go back", edit(12, 200), "", ErrNotCHLO},
	} {
		t.Run(c.name, func(t *testing.T) {
			name, err := ServerName(c.msg)
			if string(name) != c.want || !errors.Is(err, c.err) {
				t.Errorf("%q %v", name, err)
			}
		})
	}
}
