package nfqueue

import (
	"bytes"
	"encoding/binary"
	"testing"

	"netpolicy.dev/netpolicy/flow"
)

// announce builds an announcement as the kernel does.
func announce(attrs map[uint16][]byte, order ...uint16) []byte {
	b := []byte{2, 0, 0x2d, 0xb4}
	for _, kind := range order {
		b = appendAttr(b, kind, len(attrs[kind]))
		b = append(b, attrs[kind]...)
		b = append(b, make([]byte, align(len(b))-len(b))...)
	}
	return b
}

func be(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

var (
	syn  = []byte("\x45\xb8\x00\x28\x00\x00\x40\x00\x40\x06\x00\x00\x0a\x00\x00\x02\xcb\x00\x71\x07\x9c\x40\x01\xbb\x00\x00\x00\x01\x00\x00\x00\x00\x50\x02\xff\xff\x00\x00\x00\x00")
	sctp = []byte("\x60\x00\x00\x00\x00\x0c\x84\x40\x20\x01\x0d\xb8\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x20\x01\x0d\xb8\x00\x0f\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x13\x88\x01\xbb\x00\x00\x00\x00\x00\x00\x00\x00")
	full = map[uint16][]byte{
		attrHeader: {0, 0, 0, 9, 8, 0, 3}, attrMark: be(5), attrInDev: be(2), attrUID: be(1000), 17: be(1000),
		attrMAC: {0, 6, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0}, attrPayload: syn, 15: be(1),
	}
)

func TestParse(t *testing.T) {
	whole := announce(full, attrHeader, attrInDev, attrMark, attrMAC, attrUID, 17, 15, attrPayload)
	var p Packet
	if !parse(whole, &p) {
		t.Fatal("not understood")
	}
	if p.ID != 9 || p.Hook != 3 || p.In != 2 || p.Mark != 5 || !p.HasUID || p.UID != 1000 || !p.HasMAC || p.MAC != (flow.MAC{2, 0, 0, 0, 0, 2}) || !bytes.Equal(p.Payload, syn) {
		t.Errorf("%+v", p)
	}
	if n := testing.AllocsPerRun(100, func() { parse(whole, &p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for n := range whole { // cut anywhere: no panic
		parse(whole[:n], &p)
	}
	if parse(announce(full, attrInDev, attrPayload), &p) {
		t.Error("understood without an id")
	}
	if parse([]byte{2, 0, 0, 0, 3, 0, 1, 0}, &p) {
		t.Error("understood an attribute shorter than its header")
	}
}

func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{syn, "tcp 10.0.0.2:40000 > 203.0.113.7:443 dscp=46"},
		{sctp, "132 [2001:db8:10::2]:5000 > [2001:db8:f::7]:443 dscp=0"},
		{syn[:30], ""},
		{nil, ""},
	} {
		var f flow.Flow
		ok := (&Packet{Payload: c.b}).Describe(&f)
		if ok != (c.want != "") || !ok && f != (flow.Flow{}) {
			t.Errorf("%x: %v, %v", c.b, ok, f)
		}
		if ok && f.String() != c.want {
			t.Errorf("got %q, want %q", f.String(), c.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name string
		v    Answer
		want []byte // behind struct nlmsghdr, on a little-endian machine
	}{
		{"accept", Answer{ID: 9}, []byte("\x00\x00\x2d\xb4\x0c\x00\x02\x00\x00\x00\x00\x01\x00\x00\x00\x09")},
		{"drop, whatever else", Answer{ID: 9, Drop: true, Priority: 1}, []byte("\x00\x00\x2d\xb4\x0c\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x09")},
		{"priority", Answer{ID: 9, Priority: 0x01020304}, []byte("\x00\x00\x2d\xb4\x0c\x00\x02\x00\x00\x00\x00\x01\x00\x00\x00\x09\x08\x00\x15\x00\x01\x02\x03\x04")},
	} {
		got := appendVerdict([]byte("before"), 0x2db4, c.v)[len("before"):]
		if int(binary.NativeEndian.Uint32(got)) != len(got) || binary.NativeEndian.Uint16(got[4:]) != msgVerdict {
			t.Errorf("%s: header %x", c.name, got[:headerSize])
		}
		if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 && !bytes.Equal(got[headerSize:], c.want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, got[headerSize:], c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(announce(full, attrHeader, attrInDev, attrMark, attrMAC, attrUID, 17, 15, attrPayload))
	f.Add(announce(map[uint16][]byte{attrHeader: {0, 0, 0, 1, 0x86, 0xdd, 0}, attrPayload: sctp}, attrHeader, attrPayload))
	f.Add([]byte{2, 0, 0, 0, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packet
		if !parse(b, &p) {
			return
		}
		if len(p.Payload) > len(b) {
			t.Fatalf("%d bytes out of %d", len(p.Payload), len(b))
		}
		var fl flow.Flow
		if !p.Describe(&fl) {
			if fl != (flow.Flow{}) {
				t.Fatalf("not readable, and yet %v", fl)
			}
			return
		}
		if fl.Proto.Unknown() || fl.Src.Unknown() || fl.Dst.Unknown() || fl.SrcPort.Unknown() || fl.DstPort.Unknown() || fl.DSCP.Unknown() {
			t.Fatalf("not whole: %v", fl)
		}
	})
}
