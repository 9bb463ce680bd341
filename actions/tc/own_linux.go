package tc

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// What a device receives for this host itself comes to traffic control before
// anything knows its connection. So the class is remembered by what the host
// sends: at egress one program writes the class of a throttled packet of a local
// socket into a map, under its addresses and ports; at ingress another looks the
// packet's own up, and where it finds a class gives it to the packet, which then
// goes through the IFB. Both are a few dozen instructions, so they are assembled
// here: no compiler, no object file.

const (
	// maxOwn bounds the connections of this host that are remembered on a device;
	// the stalest make room.
	maxOwn = 16384
	// ownName is by which a device's programs are known again; the number is that of
	// their code's meaning.
	ownName = "npthrottle-1"

	keySize, valueSize = 40, 4
)

// Offsets in struct __sk_buff (include/uapi/linux/bpf.h).
const (
	skbProtocol = 16
	skbPriority = 32
	skbSk       = 168
)

// Helpers of BPF programs.
const (
	mapLookup    = 1
	mapUpdate    = 2
	loadRelative = 68
	headerNet    = 1 // BPF_HDR_START_NET
)

// The stack: the map's key (remote address, local address, their ports, protocol),
// its value, and what is read of the packet.
const (
	atKey    = -keySize
	atRemote = atKey
	atLocal  = atKey + 16
	atPorts  = atKey + 32 // remote, local
	atProto  = atKey + 36
	atValue  = atKey - 8
	atPacket = atValue - 40
)

// Operations, and sizes of memory accesses.
const (
	opMov, opMovImm          = 0xbf, 0xb7
	opAndImm, opXorImm       = 0x57, 0xa7
	opShlImm, opShrImm       = 0x67, 0x77
	opAddImm                 = 0x07
	opLoad, opStore, opZero8 = 0x61, 0x63, 0x7a
	opJump, opEqual, opNot   = 0x05, 0x15, 0x55
	opCall, opExit, opMap    = 0x85, 0x95, 0x18

	size4, size2, size1, size8 = 0x00, 0x08, 0x10, 0x18
)

// code is a program under construction; jumps go to names.
type code struct {
	b      []byte
	labels map[string]int
	jumps  map[int]string
}

func (c *code) op(op, dst, src byte, off int16, imm int32) {
	regs := dst | src<<4
	if isBigEndian {
		regs = dst<<4 | src
	}
	c.b = append(c.b, op, regs)
	c.b = binary.NativeEndian.AppendUint16(c.b, uint16(off))
	c.b = binary.NativeEndian.AppendUint32(c.b, uint32(imm))
}

var isBigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

func (c *code) jump(op, reg byte, imm int32, to string) {
	c.jumps[len(c.b)/8] = to
	c.op(op, reg, 0, 0, imm)
}

func (c *code) label(name string) { c.labels[name] = len(c.b) / 8 }

// bytes returns the program with its jumps resolved.
func (c *code) bytes() []byte {
	for at, to := range c.jumps {
		binary.NativeEndian.PutUint16(c.b[8*at+2:], uint16(c.labels[to]-at-1))
	}
	return c.b
}

// mapArgs makes the first two arguments of a map's helper.
func (c *code) mapArgs(fd int) {
	c.op(opMap, 1, 1, 0, int32(fd)) // BPF_PSEUDO_MAP_FD
	c.op(0, 0, 0, 0, 0)
	c.op(opMov, 2, 10, 0, 0)
	c.op(opAddImm, 2, 0, 0, atKey)
}

// load reads n bytes at an offset from the network header: the one that r8
// holds, or 0.
func (c *code) load(fromR8 bool, n int32) {
	c.op(opMov, 1, 6, 0, 0)
	if fromR8 {
		c.op(opMov, 2, 8, 0, 0)
	} else {
		c.op(opMovImm, 2, 0, 0, 0)
	}
	c.op(opMov, 3, 10, 0, 0)
	c.op(opAddImm, 3, 0, 0, atPacket)
	c.op(opMovImm, 4, 0, 0, n)
	c.op(opMovImm, 5, 0, 0, headerNet)
	c.op(opCall, 0, 0, 0, loadRelative)
	c.jump(opNot, 0, 0, "out")
}

// move copies size bytes of the packet to the key.
func (c *code) move(size byte, from, to int16) {
	c.op(opLoad|size, 1, 10, atPacket+from, 0)
	c.op(opStore|size, 10, 1, to, 0)
}

// network is a 16-bit number as a packet has it.
func network(n uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)))
}

// key makes the map's key of a packet whose skb is in r6. src and dst say where
// the addresses go. Packets of other protocols have no ports; fragments but the
// first are left out, as they don't tell theirs.
func (c *code) key(src, dst int16) {
	for off := int16(atKey); off < 0; off += 8 {
		c.op(opZero8, 10, 0, off, 0)
	}
	c.op(opLoad, 8, 6, skbProtocol, 0)
	c.jump(opEqual, 8, network(unix.ETH_P_IPV6), "v6")
	c.jump(opNot, 8, network(unix.ETH_P_IP), "out")
	c.load(false, 20)
	c.op(opLoad|size2, 1, 10, atPacket+6, 0)
	c.op(opAndImm, 1, 0, 0, network(0x1fff))
	c.jump(opNot, 1, 0, "out")
	c.op(opLoad|size1, 9, 10, atPacket+9, 0)
	c.move(size4, 12, src)
	c.move(size4, 16, dst)
	c.op(opLoad|size1, 8, 10, atPacket, 0)
	c.op(opAndImm, 8, 0, 0, 0xf)
	c.op(opShlImm, 8, 0, 0, 2)
	c.jump(opJump, 0, 0, "transport")
	c.label("v6")
	c.load(false, 40)
	c.op(opLoad|size1, 9, 10, atPacket+6, 0)
	for i := int16(0); i < 16; i += 8 {
		c.move(size8, 8+i, src+i)
		c.move(size8, 24+i, dst+i)
	}
	c.op(opMovImm, 8, 0, 0, 40)
	c.label("transport")
	c.op(opStore, 10, 9, atProto, 0)
	c.jump(opEqual, 9, unix.IPPROTO_TCP, "ports")
	c.jump(opNot, 9, unix.IPPROTO_UDP, "done")
	c.label("ports")
	c.load(true, 4)
	first, second := int16(atPorts), int16(atPorts+2)
	if src == atLocal {
		first, second = second, first
	}
	c.move(size2, 0, first)
	c.move(size2, 2, second)
	c.label("done")
}

func newCode() *code { return &code{labels: map[string]int{}, jumps: map[int]string{}} }

// remember is the program at egress. It matches nothing.
func remember(fd int) []byte {
	c := newCode()
	c.op(opMov, 6, 1, 0, 0)
	c.op(opLoad, 7, 6, skbPriority, 0)
	c.op(opMov, 8, 7, 0, 0)
	c.op(opShrImm, 8, 0, 0, 16)
	c.jump(opNot, 8, actions.TCMajor, "out")
	c.op(opLoad|size8, 1, 6, skbSk, 0)
	c.jump(opEqual, 1, 0, "out") // forwarded: it is shaped where it leaves
	c.key(atLocal, atRemote)
	c.op(opXorImm, 7, 0, 0, actions.TCDown) // what comes back is the other direction's
	c.op(opStore, 10, 7, atValue, 0)
	c.mapArgs(fd)
	c.op(opMov, 3, 10, 0, 0)
	c.op(opAddImm, 3, 0, 0, atValue)
	c.op(opMovImm, 4, 0, 0, 0)
	c.op(opCall, 0, 0, 0, mapUpdate)
	c.label("out")
	c.op(opMovImm, 0, 0, 0, 0)
	c.op(opExit, 0, 0, 0, 0)
	return c.bytes()
}

// recall is the program at ingress. It matches what has a class, and gives it.
func recall(fd int) []byte {
	c := newCode()
	c.op(opMov, 6, 1, 0, 0)
	c.key(atRemote, atLocal)
	c.mapArgs(fd)
	c.op(opCall, 0, 0, 0, mapLookup)
	c.jump(opEqual, 0, 0, "out")
	c.op(opLoad, 1, 0, 0, 0)
	c.op(opStore, 6, 1, skbPriority, 0)
	c.op(opMovImm, 0, 0, 0, -1)
	c.op(opExit, 0, 0, 0, 0)
	c.label("out")
	c.op(opMovImm, 0, 0, 0, 0)
	c.op(opExit, 0, 0, 0, 0)
	return c.bytes()
}

// maxAgain bounds how often a program is given to the verifier again: it gives up
// with EAGAIN when a signal comes, and Go's runtime sends itself signals.
const maxAgain = 100

// bpf is bpf(2).
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for n := 0; ; n++ {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		switch {
		case errno == 0:
			return int(fd), nil
		case errno != unix.EAGAIN || n == maxAgain:
			return -1, errno
		}
	}
}

// newMap makes the map of a device's connections.
func newMap() (int, error) {
	attr := struct{ kind, key, value, entries, flags uint32 }{unix.BPF_MAP_TYPE_LRU_HASH, keySize, valueSize, maxOwn, 0}
	fd, err := bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return -1, fmt.Errorf("make a BPF map: %w", err)
	}
	return fd, nil
}

// maxVerifier bounds what is quoted of the verifier's complaints.
const maxVerifier = 4096

// loadProgram loads a program of the kind that filters run.
func loadProgram(code []byte) (int, error) {
	license := []byte{0} // it calls no helper that asks for one
	log := make([]byte, maxVerifier)
	var pin runtime.Pinner // the kernel is given addresses as numbers
	defer pin.Unpin()
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	pin.Pin(&log[0])
	attr := struct {
		kind, count    uint32
		code, license  uint64
		level, logSize uint32
		log            uint64
		version, flags uint32
		name           [16]byte
	}{
		kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(code) / 8),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(attr.name[:], "npthrottle")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == unix.EACCES || err == unix.EINVAL { // the verifier can say why
		attr.level, attr.logSize, attr.log = 1, maxVerifier, uint64(uintptr(unsafe.Pointer(&log[0])))
		if fd, again := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); again == nil {
			_ = unix.Close(fd)
		}
		err = fmt.Errorf("%w: %s", err, text(log))
	}
	if err != nil {
		return -1, fmt.Errorf("load a BPF program: %w", err)
	}
	return fd, nil
}

// own is a device's map and programs, while they are being attached.
type own struct{ remember, recall int }

func loadOwn() (own, error) {
	m, err := newMap()
	if err != nil {
		return own{}, err
	}
	defer unix.Close(m) // the programs hold it
	a, err := loadProgram(remember(m))
	if err != nil {
		return own{}, err
	}
	b, err := loadProgram(recall(m))
	if err != nil {
		_ = unix.Close(a)
		return own{}, err
	}
	return own{a, b}, nil
}

// close lets go of the programs; attached ones stay.
func (o own) close() {
	_ = unix.Close(o.remember)
	_ = unix.Close(o.recall)
}
