package packet

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/flow"
)

// Building blocks, as bytes on the wire.
var (
	payload = []byte("hello")
	tcp     = []byte{0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 7, 0, 0, 0, 9, 5 << 4, byte(PSH | ACK), 0, 0, 0, 0, 0, 0}
	udp     = []byte{0x9c, 0x40, 0x01, 0xbb, 0, 13, 0, 0}
	a4, b4  = netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("192.0.2.9")
	a6, b6  = netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("2001:db8::9")
)

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func v4(proto byte, body []byte) []byte {
	h := make([]byte, 20)
	h[0], h[1], h[8], h[9] = 0x45, 46<<2, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
	copy(h[12:], a4.AsSlice())
	copy(h[16:], b4.AsSlice())
	return append(h, body...)
}

func v6(next byte, body []byte) []byte {
	h := make([]byte, 40)
	binary.BigEndian.PutUint32(h, 6<<28|46<<22)
	h[6] = next
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], a6.AsSlice())
	copy(h[24:], b6.AsSlice())
	return append(h, body...)
}

func bytesOf(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func udpOf(port uint16, body []byte) []byte {
	h := binary.BigEndian.AppendUint16([]byte{0x9c, 0x40}, port)
	h = binary.BigEndian.AppendUint16(h, uint16(8+len(body)))
	return join(h, []byte{0, 0}, body)
}

func TestDecode(t *testing.T) {
	macs := make([]byte, 12)
	in4, in6 := v4(6, join(tcp, payload)), v6(6, join(tcp, payload))
	wifi := join(bytesOf("08 01 0000"), make([]byte, 20), bytesOf("aaaa03 000000 0800"), in4)
	swapped := join(bytesOf("01 08 0000"), wifi[4:])
	for _, c := range []struct {
		name    string
		link    LinkType
		b       []byte
		tunnels bool
		src     string
		proto   flow.Proto
	}{
		{"ethernet, IPv4", Ethernet, join(macs, bytesOf("0800"), in4), false, "10.0.0.5:40000", flow.TCP},
		{"ethernet, IPv6", Ethernet, join(macs, bytesOf("86dd"), in6), false, "[2001:db8::5]:40000", flow.TCP},
		{"padded", Ethernet, join(macs, bytesOf("0800"), in4, make([]byte, 10)), false, "10.0.0.5:40000", flow.TCP},
		{"VLAN", Ethernet, join(macs, bytesOf("8100 0005 0800"), in4), false, "10.0.0.5:40000", flow.TCP},
		{"QinQ", Ethernet, join(macs, bytesOf("88a8 0005 8100 0006 86dd"), in6), false, "[2001:db8::5]:40000", flow.TCP},
		{"PPPoE", Ethernet, join(macs, bytesOf("8864 1100 0001 0010 0021"), in4), false, "10.0.0.5:40000", flow.TCP},
		{"MPLS", Ethernet, join(macs, bytesOf("8847 00010040 00011140"), in4), false, "10.0.0.5:40000", flow.TCP},
		{"raw", Raw, in6, false, "[2001:db8::5]:40000", flow.TCP},
		{"BSD loopback", Null, join(bytesOf("02000000"), in4), false, "10.0.0.5:40000", flow.TCP},
		{"cooked", LinuxSLL, join(make([]byte, 14), bytesOf("0800"), in4), false, "10.0.0.5:40000", flow.TCP},
		{"cooked 2", LinuxSLL2, join(bytesOf("86dd"), make([]byte, 18), in6), false, "[2001:db8::5]:40000", flow.TCP},
		{"PPP", PPP, join(bytesOf("ff03 0021"), in4), false, "10.0.0.5:40000", flow.TCP},
		{"PPP, compressed", PPP, join(bytesOf("57"), in6), false, "[2001:db8::5]:40000", flow.TCP},
		{"802.11", IEEE80211, wifi, false, "10.0.0.5:40000", flow.TCP},
		{"UDP", Raw, v4(17, join(udp, payload)), false, "10.0.0.5:40000", flow.UDP},
		{"ICMP", Raw, v4(1, payload), false, "10.0.0.5:0", flow.ICMP},
		{"extension headers", Raw, v6(0, join(bytesOf("3c00 000000000000"), bytesOf("0600 000000000000"), tcp, payload)), false, "[2001:db8::5]:40000", flow.TCP},
		{"IPv6's first fragment", Raw, v6(44, join(bytesOf("0600 0001 00000001"), tcp, payload)), false, "[2001:db8::5]:40000", flow.TCP},
		{"6in4", Raw, v4(41, in6), true, "[2001:db8::5]:40000", flow.TCP},
		{"6in4, kept", Raw, v4(41, in6), false, "10.0.0.5:0", 41},
		{"IP in IP", Raw, v4(4, in4), true, "10.0.0.5:40000", flow.TCP},
		{"GRE with key", Raw, v4(47, join(bytesOf("2000 86dd 00000001"), in6)), true, "[2001:db8::5]:40000", flow.TCP},
		{"GRE with Ethernet", Raw, v4(47, join(bytesOf("0000 6558"), macs, bytesOf("0800"), in4)), true, "10.0.0.5:40000", flow.TCP},
		{"PPTP", Raw, v4(47, join(bytesOf("3081 880b 0010 0001 00000001 00000002 ff03 0021"), in4)), true, "10.0.0.5:40000", flow.TCP},
		{"VXLAN", Raw, v4(17, udpOf(4789, join(bytesOf("08000000 00000100"), macs, bytesOf("0800"), in4))), true, "10.0.0.5:40000", flow.TCP},
		{"GTP-U", Raw, v4(17, udpOf(2152, join(bytesOf("30ff 0030 00000001"), in4))), true, "10.0.0.5:40000", flow.TCP},
		{"GTP-U with an extension", Raw, v4(17, udpOf(2152, join(bytesOf("34ff 0030 00000001 0000 00 85 01 100900"), in4))), true, "10.0.0.5:40000", flow.TCP},
		{"CAPWAP", Raw, v4(17, udpOf(5247, join(bytesOf("00 10 03 00 00000000"), wifi))), true, "10.0.0.5:40000", flow.TCP},
		{"CAPWAP, swapped", Raw, v4(17, udpOf(5247, join(bytesOf("00 10 03 00 00000000"), swapped))), true, "10.0.0.5:40000", flow.TCP},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := Decode(c.link, c.b, Options{Tunnels: c.tunnels})
			if !ok || p.Proto != c.proto || p.Src.String() != c.src || p.DSCP != 46 {
				t.Fatalf("%v %+v", ok, p)
			}
			if c.proto == flow.TCP && (p.Seq != 7 || p.Flags != PSH|ACK || p.Dst.Port() != 443) {
				t.Errorf("%+v", p)
			}
			if p.HasPorts && (string(p.Payload) != "hello" || p.Length != 5) {
				t.Errorf("payload %q of %d", p.Payload, p.Length)
			}
			if n := testing.AllocsPerRun(10, func() { Decode(c.link, c.b, Options{Tunnels: c.tunnels}) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
			for n := range c.b { // cut anywhere: no panic, and no bytes out of nowhere
				if p, ok := Decode(c.link, c.b[:n], Options{Tunnels: c.tunnels}); ok && len(p.Payload) > n {
					t.Errorf("cut at %d: %+v", n, p)
				}
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	later := v4(6, join(tcp, payload))
	binary.BigEndian.PutUint16(later[6:], 100)
	if p, ok := Decode(Raw, later, Options{}); !ok || p.HasPorts || !p.Fragment {
		t.Errorf("later fragment: %v %+v", ok, p)
	}
	cut := v4(6, join(tcp, payload))
	if p, ok := Decode(Raw, cut[:len(cut)-3], Options{}); !ok || string(p.Payload) != "he" || p.Length != 5 {
		t.Errorf("cut: %v %+v", ok, p)
	}
	deep := v4(6, join(tcp, payload))
	for range 2 * maxDepth {
		deep = v4(4, deep)
	}
	if p, ok := Decode(Raw, deep, Options{Tunnels: true}); ok && p.Proto == flow.TCP {
		t.Errorf("nested without bound: %+v", p)
	}
	for _, c := range []struct {
		link LinkType
		b    []byte
	}{{Ethernet, join(make([]byte, 12), bytesOf("0806"), payload)}, {Raw, nil}, {Raw, payload}, {9999, payload}, {LinuxSLL, payload}, {PPP, payload}} {
		if p, ok := Decode(c.link, c.b, Options{}); ok {
			t.Errorf("%d %x: %+v", c.link, c.b, p)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(uint16(Raw), v4(6, join(tcp, payload)))
	f.Add(uint16(Raw), v4(47, join(bytesOf("2000 86dd 00000001"), v6(6, join(tcp, payload)))))
	f.Add(uint16(Ethernet), join(make([]byte, 12), bytesOf("8100 0005 0800"), v4(17, join(udp, payload))))
	f.Fuzz(func(t *testing.T, link uint16, b []byte) {
		p, ok := Decode(LinkType(link), b, Options{Tunnels: true})
		if !ok {
			return
		}
		if len(p.Payload) > len(b) || len(p.Payload) > p.Length || !p.Src.Addr().IsValid() || !p.Dst.Addr().IsValid() {
			t.Fatalf("%+v", p)
		}
	})
}
