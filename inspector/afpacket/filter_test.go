package afpacket

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/packet"
)

// build makes an IP packet; the IPv4 header has options.
func build(proto flow.Proto, src, dst string, flags packet.Flags, payload string) []byte {
	a, b := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	var l4 []byte
	l4 = binary.BigEndian.AppendUint16(l4, a.Port())
	l4 = binary.BigEndian.AppendUint16(l4, b.Port())
	switch proto {
	case flow.TCP:
		l4 = append(l4, 0, 0, 0, 1, 0, 0, 0, 2, 8<<4, byte(flags), 0, 0, 0, 0, 0, 0)
		l4 = append(l4, make([]byte, 12)...) // options
	default:
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(payload)))
		l4 = append(l4, 0, 0)
	}
	l4 = append(l4, payload...)
	if a.Addr().Is6() {
		h := make([]byte, 40)
		h[0], h[6] = 6<<4, byte(proto)
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
		copy(h[8:], a.Addr().AsSlice())
		copy(h[24:], b.Addr().AsSlice())
		return append(h, l4...)
	}
	h := make([]byte, 24)
	h[0], h[9] = 4<<4|6, byte(proto)
	binary.BigEndian.PutUint16(h[2:], uint16(24+len(l4)))
	copy(h[12:], a.Addr().AsSlice())
	copy(h[16:], b.Addr().AsSlice())
	return append(h, l4...)
}

// passes runs the filter, with the kernel's protocol extension as a constant.
func passes(t *testing.T, out []shed, b []byte) bool {
	t.Helper()
	raw, err := program(out)
	if err != nil {
		t.Fatal(err)
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("not all of the filter is understood")
	}
	proto := uint32(etherIPv4)
	if b[0]>>4 == 6 {
		proto = etherIPv6
	}
	for i, c := range code {
		if c == (bpf.LoadExtension{Num: bpf.ExtProto}) {
			code[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: proto}
		}
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestFilter(t *testing.T) {
	const hello = "\x16\x03\x01\x02\x00\x01"
	fragment := build(flow.TCP, "10.0.0.5:40000", "192.0.2.9:443", packet.SYN, "")
	binary.BigEndian.PutUint16(fragment[6:], 100)
	offload := build(flow.TCP, "10.0.0.5:40000", "192.0.2.9:443", packet.ACK, "x")
	binary.BigEndian.PutUint16(offload[2:], 0)
	for _, c := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"question", build(flow.UDP, "10.0.0.5:40000", "192.0.2.53:53", 0, "x"), true},
		{"answer", build(flow.UDP, "192.0.2.53:53", "10.0.0.5:40000", 0, "x"), true},
		{"answer, IPv6", build(flow.UDP, "[2001:db8::53]:53", "[2001:db8::5]:40000", 0, "x"), true},
		{"other UDP", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:443", 0, "x"), false},
		{"QUIC", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:443", 0, "\xc3\x00\x00\x00\x01\x08abcdefgh"), true},
		{"QUIC, version 2, IPv6", build(flow.UDP, "[2001:db8::5]:40000", "[2001:db8::9]:443", 0, "\xd3\x6b\x33\x43\xcf\x08abcdefgh"), true},
		{"QUIC, draft 29", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:443", 0, "\xc3\xff\x00\x00\x1d\x08abcdefgh"), true},
		{"QUIC of Google", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:443", 0, "\xc3Q050\x08abcdefgh"), true},
		{"QUIC, short header", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:443", 0, "\x43\x00\x00\x00\x01\x08abcdefgh"), false},
		{"RTP", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:9000", 0, "\x80\x00\x00\x00\x01\x08abcdefgh"), false},
		{"STUN", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:3478", 0, "\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"), true},
		{"DTLS", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:9000", 0, "\x16\xfe\xfd\x00\x00"), true},
		{"WireGuard", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:51820", 0, "\x01\x00\x00\x00abcd"), true},
		{"WireGuard's data", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:51820", 0, "\x04\x00\x00\x00abcd"), false},
		{"DHT", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:6881", 0, "d1:ad2:id20:"), true},
		{"uTP", build(flow.UDP, "10.0.0.5:40000", "192.0.2.9:6881", 0, "\x41\x00abcdefgh"), true},
		{"ICMP", build(flow.ICMP, "10.0.0.5:53", "192.0.2.9:53", 0, "x"), false},
		{"SYN", build(flow.TCP, "10.0.0.5:40000", "192.0.2.9:443", packet.SYN, ""), true},
		{"SYN of IPv6", build(flow.TCP, "[2001:db8::5]:40000", "[2001:db8::9]:443", packet.SYN, ""), true},
		{"bare ACK", build(flow.TCP, "10.0.0.5:40000", "192.0.2.9:443", packet.ACK, ""), false},
		{"bare ACK, IPv6", build(flow.TCP, "[2001:db8::5]:40000", "[2001:db8::9]:443", packet.ACK, ""), false},
		{"client's data", build(flow.TCP, "10.0.0.5:40000", "192.0.2.9:443", packet.ACK, "x"), true},
		{"client's data, IPv6", build(flow.TCP, "[2001:db8::5]:40000", "[2001:db8::9]:443", packet.ACK, "x"), true},
		{"client's data, length unknown", offload, true},
		{"server's data", build(flow.TCP, "192.0.2.9:443", "10.0.0.5:40000", packet.ACK, "x"), false},
		{"hello to a high port", build(flow.TCP, "10.0.0.5:40000", "192.0.2.9:50000", packet.ACK, hello), true},
		{"hello to a high port, IPv6", build(flow.TCP, "[2001:db8::5]:40000", "[2001:db8::9]:50000", packet.ACK, hello), true},
		{"data to a high port", build(flow.TCP, "10.0.0.5:40000", "192.0.2.9:50000", packet.ACK, "\x17\x03\x01"), false},
		{"DNS over TCP", build(flow.TCP, "192.0.2.53:53", "10.0.0.5:40000", packet.ACK, "x"), true},
		{"later fragment", fragment, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := passes(t, nil, c.b); got != c.want {
				t.Errorf("passes: %v", got)
			}
		})
	}
}

func TestFilterSheds(t *testing.T) {
	var out []shed
	for i := range maxShed {
		src, dst := "10.0.0.5", "192.0.2.9"
		if i%2 == 1 {
			src, dst = "2001:db8::5", "2001:db8::9"
		}
		out = append(out, shed{
			netip.AddrPortFrom(netip.MustParseAddr(src), uint16(40000+i)), netip.AddrPortFrom(netip.MustParseAddr(dst), 443),
		})
	}
	for i, s := range out {
		if passes(t, out, build(flow.TCP, s.src.String(), s.dst.String(), packet.ACK, "x")) {
			t.Errorf("%d: %v is not left out", i, s)
		}
		if !passes(t, out, build(flow.TCP, s.src.String(), s.dst.String(), packet.SYN, "")) {
			t.Errorf("%d: the SYN of %v is left out", i, s)
		}
		other := netip.AddrPortFrom(s.dst.Addr().Next(), s.dst.Port())
		if !passes(t, out, build(flow.TCP, s.src.String(), other.String(), packet.ACK, "x")) {
			t.Errorf("%d: %v > %v is left out", i, s.src, other)
		}
	}
}
