package afpacket

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector/packet"
)

const (
	// snap is how much of a packet comes to user space: a hello's segment with
	// jumbo frames or receive offload.
	snap = 20 << 10
	// maxShed is how many connections the filter leaves out at a time. Each
	// costs twelve instructions; a program may have 4,096.
	maxShed = 64

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// shed is a settled connection, in the direction that it sends.
type shed struct{ src, dst netip.AddrPort }

func shedOf(p packet.Packet) shed { return shed{p.Src, p.Dst} }

// program builds the filter for packets that begin with their network header
// (SOCK_DGRAM). It passes
//
//   - UDP from or to port 53, and what package first may know: see firstUDP;
//   - TCP with SYN;
//   - TCP with payload from or to port 53;
//   - TCP with payload that begins like a ClientHello (16 03);
//   - TCP with payload from a higher to a lower port: a client's, most likely;
//
// without those in out, whose SYNs still pass.
func program(out []shed) ([]bpf.RawInstruction, error) {
	var a assembler
	a.add(bpf.LoadExtension{Num: bpf.ExtProto})
	a.jump(bpf.JumpEqual, etherIPv4, "ipv4", "")
	a.jump(bpf.JumpEqual, etherIPv6, "ipv6", "drop")

	a.label("ipv4")
	a.add(bpf.LoadAbsolute{Off: 6, Size: 2})
	a.jump(bpf.JumpBitsSet, 0x1fff, "drop", "") // a later fragment
	a.add(bpf.LoadAbsolute{Off: 2, Size: 2}, bpf.StoreScratch{Src: bpf.RegA, N: 0})
	a.add(bpf.LoadMemShift{Off: 0}) // X is the header's length from here on
	a.add(bpf.LoadAbsolute{Off: 9, Size: 1})
	a.jump(bpf.JumpEqual, uint32(flow.UDP), "udp", "")
	a.jump(bpf.JumpEqual, uint32(flow.TCP), "tcp", "drop")

	a.label("ipv6")
	a.add(bpf.LoadAbsolute{Off: 4, Size: 2}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 40}, bpf.StoreScratch{Src: bpf.RegA, N: 0})
	a.add(bpf.LoadConstant{Dst: bpf.RegX, Val: 40})
	a.add(bpf.LoadAbsolute{Off: 6, Size: 1})
	a.jump(bpf.JumpEqual, uint32(flow.UDP), "udp", "")
	a.jump(bpf.JumpEqual, uint32(flow.TCP), "tcp", "drop")

	a.label("udp")
	a.add(bpf.LoadIndirect{Off: 0, Size: 2})
	a.jump(bpf.JumpEqual, 53, "pass", "")
	a.add(bpf.LoadIndirect{Off: 2, Size: 2})
	a.jump(bpf.JumpEqual, 53, "pass", "")
	a.firstUDP()

	a.label("tcp")
	a.add(bpf.LoadIndirect{Off: 13, Size: 1})
	a.jump(bpf.JumpBitsSet, uint32(packet.SYN), "pass", "")
	a.shed(out)
	// Payload: scratch 0, the packet's length, is more than both headers. With
	// segmentation offload the header may say 0; then the buffer's length counts.
	a.add(bpf.LoadScratch{Dst: bpf.RegA, N: 0})
	a.jump(bpf.JumpEqual, 0, "", "length")
	a.add(bpf.LoadExtension{Num: bpf.ExtLen}, bpf.StoreScratch{Src: bpf.RegA, N: 0})
	a.label("length")
	a.add(bpf.LoadIndirect{Off: 12, Size: 1})
	a.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2}, bpf.ALUOpX{Op: bpf.ALUOpAdd})
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: 1}, bpf.StoreScratch{Src: bpf.RegX, N: 2}, bpf.TAX{}, bpf.LoadScratch{Dst: bpf.RegA, N: 0})
	a.add(bpf.ALUOpX{Op: bpf.ALUOpSub}, bpf.LoadScratch{Dst: bpf.RegX, N: 2})
	a.jump(bpf.JumpEqual, 0, "drop", "")
	a.add(bpf.LoadIndirect{Off: 0, Size: 2})
	a.jump(bpf.JumpEqual, 53, "pass", "")
	a.add(bpf.StoreScratch{Src: bpf.RegA, N: 3})
	a.add(bpf.LoadIndirect{Off: 2, Size: 2})
	a.jump(bpf.JumpEqual, 53, "pass", "")
	a.add(bpf.TAX{}, bpf.LoadScratch{Dst: bpf.RegA, N: 3})
	a.jumpX(bpf.JumpGreaterThan, "pass", "")
	a.add(bpf.LoadScratch{Dst: bpf.RegX, N: 1})
	a.add(bpf.LoadIndirect{Off: 0, Size: 2})
	a.jump(bpf.JumpEqual, 0x1603, "pass", "drop")

	a.label("drop")
	a.add(bpf.RetConstant{Val: 0})
	a.label("pass")
	a.add(bpf.RetConstant{Val: snap})
	return a.assemble()
}

// firstUDP passes datagrams that begin a protocol, by their fixed bytes, and drops
// all others. X is the IP header's length; what is too short is dropped.
func (a *assembler) firstUDP() {
	const payload = 8
	word := func(at uint32) { a.add(bpf.LoadIndirect{Off: payload + at, Size: 4}) }
	masked := func(mask uint32, values ...uint32) {
		a.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
		for _, v := range values {
			a.jump(bpf.JumpEqual, v, "pass", "")
		}
	}
	word(0)
	a.jump(bpf.JumpEqual, 0x01000000, "pass", "") // WireGuard's initiation
	a.jump(bpf.JumpEqual, 0x64313a61, "pass", "") // "d1:a", a question of BitTorrent's DHT
	masked(0xffffff00, 0x16feff00, 0x16fefd00)    // a handshake of DTLS
	word(4)
	a.jump(bpf.JumpEqual, 0x2112a442, "pass", "") // STUN
	word(0)
	masked(0xfffc0000, 0x41000000) // uTP's SYN, with few extensions
	masked(0xc0000000)
	a.jump(bpf.JumpEqual, 0xc0000000, "", "drop") // a long header of QUIC
	word(1)                                       // its version
	a.jump(bpf.JumpEqual, 1, "pass", "")
	a.jump(bpf.JumpEqual, 0x6b3343cf, "pass", "") // version 2
	masked(0xffffff00, 0xff000000, 0xfaceb000)    // drafts, Facebook's
	masked(0xffff0000, 0x51300000, 0x54300000)    // "Q0", "T0": Google's
	a.add(bpf.RetConstant{Val: 0})
}

// shed drops the given connections: both ports, and the last four bytes of both
// addresses, which is enough to leave hardly any other out.
func (a *assembler) shed(out []shed) {
	if len(out) == 0 {
		return
	}
	a.add(bpf.LoadIndirect{Off: 0, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: 4})
	a.add(bpf.LoadExtension{Num: bpf.ExtProto})
	a.jump(bpf.JumpEqual, etherIPv6, "shed6", "")
	a.add(bpf.LoadAbsolute{Off: 12, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: 5})
	a.add(bpf.LoadAbsolute{Off: 16, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: 6})
	a.jump(bpf.JumpEqual, 0, "shed", "shed")
	a.label("shed6")
	a.add(bpf.LoadAbsolute{Off: 20, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: 5})
	a.add(bpf.LoadAbsolute{Off: 36, Size: 4}, bpf.StoreScratch{Src: bpf.RegA, N: 6})
	a.label("shed")
	for i, s := range out {
		next := fmt.Sprint("shed", i, "next")
		a.add(bpf.LoadScratch{Dst: bpf.RegA, N: 4})
		a.jump(bpf.JumpEqual, uint32(s.src.Port())<<16|uint32(s.dst.Port()), "", next)
		a.add(bpf.LoadScratch{Dst: bpf.RegA, N: 5})
		a.jump(bpf.JumpEqual, tail(s.src.Addr()), "", next)
		a.add(bpf.LoadScratch{Dst: bpf.RegA, N: 6})
		a.jump(bpf.JumpEqual, tail(s.dst.Addr()), "drop", next)
		a.label(next)
	}
}

// tail is an address' last four bytes.
func tail(a netip.Addr) uint32 {
	b := a.As16()
	return binary.BigEndian.Uint32(b[12:])
}

// assembler puts jumps to labels into a program. A conditional jump reaches
// only 255 instructions, so each is followed by a pair of long ones: yes, no.
type assembler struct {
	code   []bpf.Instruction
	labels map[string]int
	long   map[int]string // bpf.Jump at this place goes to the label
}

func (a *assembler) add(i ...bpf.Instruction) { a.code = append(a.code, i...) }

func (a *assembler) label(name string) {
	if a.labels == nil {
		a.labels = make(map[string]int)
	}
	a.labels[name] = len(a.code)
}

// jump goes to yes or no; "" is the next instruction.
func (a *assembler) jump(test bpf.JumpTest, value uint32, yes, no string) {
	a.code = append(a.code, bpf.JumpIf{Cond: test, Val: value, SkipTrue: 0, SkipFalse: 1})
	a.targets(yes, no)
}

// jumpX compares with register X.
func (a *assembler) jumpX(test bpf.JumpTest, yes, no string) {
	a.code = append(a.code, bpf.JumpIfX{Cond: test, SkipTrue: 0, SkipFalse: 1})
	a.targets(yes, no)
}

func (a *assembler) targets(yes, no string) {
	if a.long == nil {
		a.long = make(map[int]string)
	}
	for _, target := range []string{yes, no} {
		a.long[len(a.code)] = target
		a.code = append(a.code, bpf.Jump{})
	}
}

func (a *assembler) assemble() ([]bpf.RawInstruction, error) {
	for at, name := range a.long {
		to, ok := a.labels[name]
		if name == "" { // the instruction after the pair
			to, ok = at+2, true
			if _, no := a.code[at-1].(bpf.Jump); no {
				to = at + 1
			}
		}
		if !ok || to <= at {
			return nil, fmt.Errorf("assemble packet filter: label %q at %d", name, at)
		}
		a.code[at] = bpf.Jump{Skip: uint32(to - at - 1)}
	}
	raw, err := bpf.Assemble(a.code)
	if err != nil {
		return nil, fmt.Errorf("assemble packet filter: %w", err)
	}
	return raw, nil
}
