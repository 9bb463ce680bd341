package api

import (
	"encoding/binary"
	"errors"
)

// What there is of protocol buffers: fields with a number of up to 64 bits, or with
// bytes, which are texts and messages (protobuf.dev, "Encoding").
const (
	wireVarint = 0
	wireFixed8 = 1
	wireBytes  = 2
	wireFixed4 = 5
)

var errWire = errors.New("the answer of xray's API is damaged")

// text adds a field with a text; an empty one is left out, as its default.
func text(b []byte, field int, s string) []byte {
	if s == "" {
		return b
	}
	b = binary.AppendUvarint(b, uint64(field)<<3|wireBytes)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// fields calls each for every field of a message, with its number or its bytes.
func fields(b []byte, each func(field int, number uint64, data []byte) error) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 || key>>3 == 0 || key>>3 > 1<<29-1 {
			return errWire
		}
		b = b[n:]
		var number uint64
		var data []byte
		switch key & 7 {
		case wireVarint:
			if number, n = binary.Uvarint(b); n <= 0 {
				return errWire
			}
			b = b[n:]
		case wireBytes:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return errWire
			}
			data, b = b[n:n+int(size)], b[n+int(size):]
		case wireFixed8, wireFixed4:
			size := 8
			if key&7 == wireFixed4 {
				size = 4
			}
			if len(b) < size {
				return errWire
			}
			b = b[size:]
		default:
			return errWire
		}
		if err := each(int(key>>3), number, data); err != nil {
			return err
		}
	}
	return nil
}

// within finds the bytes of a field of a field of a message, and so on.
func within(b []byte, path []int, found func([]byte)) error {
	return fields(b, func(field int, _ uint64, data []byte) error {
		switch {
		case field != path[0]:
			return nil
		case len(path) == 1:
			found(data)
			return nil
		default:
			return within(data, path[1:], found)
		}
	})
}
