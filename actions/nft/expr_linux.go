package nft

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/flow"
)

// encoder writes a table's objects into a batch, with the instructions that nft
// itself would send for the table's text.
type encoder struct {
	batch
	table string
	sets  map[string]setType
	live  bool // the table is there, and has nameless sets of its own
	anon  int  // nameless sets so far

	family uint32 // of the present rule: the NFPROTO_* that its instructions have asked for, 0 for none
}

// Registers: 0 is the verdict. 1 holds what is compared; a hash is taken of what
// begins at 2, in steps of 4 bytes.
const (
	regVerdict = unix.NFT_REG_VERDICT
	reg1       = unix.NFT_REG_1
	reg2       = unix.NFT_REG_2
)

// instr starts an instruction; attributes follow, and then finish.
func (e *encoder) instr(name string) (elem, data int) {
	elem = e.nest(unix.NFTA_LIST_ELEM)
	e.text(unix.NFTA_EXPR_NAME, name)
	return elem, e.nest(unix.NFTA_EXPR_DATA)
}

func (e *encoder) finish(elem, data int) {
	e.done(data)
	e.done(elem)
}

func (e *encoder) meta(what, reg uint32) {
	elem, data := e.instr("meta")
	e.u32(unix.NFTA_META_KEY, what)
	e.u32(unix.NFTA_META_DREG, reg)
	e.finish(elem, data)
}

func (e *encoder) setMeta(what, reg uint32) {
	elem, data := e.instr("meta")
	e.u32(unix.NFTA_META_KEY, what)
	e.u32(unix.NFTA_META_SREG, reg)
	e.finish(elem, data)
}

func (e *encoder) ct(what, reg uint32) {
	elem, data := e.instr("ct")
	e.u32(unix.NFTA_CT_KEY, what)
	e.u32(unix.NFTA_CT_DREG, reg)
	e.finish(elem, data)
}

func (e *encoder) setCT(what, reg uint32) {
	elem, data := e.instr("ct")
	e.u32(unix.NFTA_CT_KEY, what)
	e.u32(unix.NFTA_CT_SREG, reg)
	e.finish(elem, data)
}

func (e *encoder) payload(base, offset, size, reg uint32) {
	elem, data := e.instr("payload")
	e.u32(unix.NFTA_PAYLOAD_DREG, reg)
	e.u32(unix.NFTA_PAYLOAD_BASE, base)
	e.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
	e.u32(unix.NFTA_PAYLOAD_LEN, size)
	e.finish(elem, data)
}

// Where the addresses and the checksum are in the network header (RFC 791, RFC 8200).
const (
	srcAt4, dstAt4 = 12, 16
	srcAt6, dstAt6 = 8, 24
	checksumAt4    = 10
)

// portAt is where a port is in the transport header.
func portAt(k actions.Key) uint32 {
	if k == actions.KeyDstPort {
		return 2
	}
	return 0
}

func addressAt(k actions.Key, v6 bool) uint32 {
	switch {
	case k == actions.KeySrc && v6:
		return srcAt6
	case v6:
		return dstAt6
	case k == actions.KeyDst:
		return dstAt4
	default:
		return srcAt4
	}
}

// address loads the first size bytes of an address.
func (e *encoder) address(k actions.Key, v6 bool, size int, reg uint32) {
	e.depend(v6)
	e.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addressAt(k, v6), uint32(size), reg)
}

func (e *encoder) cmp(op uint32, o ...byte) {
	elem, data := e.instr("cmp")
	e.u32(unix.NFTA_CMP_SREG, reg1)
	e.u32(unix.NFTA_CMP_OP, op)
	e.value(unix.NFTA_CMP_DATA, o...)
	e.finish(elem, data)
}

// bitwise does reg1 = reg1 & mask ^ xor.
func (e *encoder) bitwise(mask, xor []byte) {
	elem, data := e.instr("bitwise")
	e.u32(unix.NFTA_BITWISE_SREG, reg1)
	e.u32(unix.NFTA_BITWISE_DREG, reg1)
	e.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
	e.value(unix.NFTA_BITWISE_MASK, mask...)
	e.value(unix.NFTA_BITWISE_XOR, xor...)
	e.finish(elem, data)
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func (e *encoder) mask32(mask, xor uint32) { e.bitwise(native(mask), native(xor)) }

// toNetwork turns a number of the host's order round.
func (e *encoder) toNetwork() {
	elem, data := e.instr("byteorder")
	e.u32(unix.NFTA_BYTEORDER_SREG, reg1)
	e.u32(unix.NFTA_BYTEORDER_DREG, reg1)
	e.u32(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
	e.u32(unix.NFTA_BYTEORDER_LEN, 4)
	e.u32(unix.NFTA_BYTEORDER_SIZE, 4)
	e.finish(elem, data)
}

// Kinds of lookup.
const (
	inSet = iota
	notInSet
	verdictOf // the map's verdict is carried out
	valueOf   // the map's value goes into reg1
)

const lookupInverted = 1 // NFT_LOOKUP_F_INV

// setRef names a set; id is its number within the transaction, 0 for one that
// has its name for good.
type setRef struct {
	name string
	id   uint32
}

func (e *encoder) lookup(set setRef, kind int) {
	elem, data := e.instr("lookup")
	e.u32(unix.NFTA_LOOKUP_SREG, reg1)
	switch kind {
	case verdictOf:
		e.u32(unix.NFTA_LOOKUP_DREG, regVerdict)
	case valueOf:
		e.u32(unix.NFTA_LOOKUP_DREG, reg1)
	case notInSet:
		e.u32(unix.NFTA_LOOKUP_FLAGS, lookupInverted)
	}
	e.text(unix.NFTA_LOOKUP_SET, set.name)
	if set.id != 0 {
		e.u32(unix.NFTA_LOOKUP_SET_ID, set.id)
	}
	e.finish(elem, data)
}

// immediate puts a constant into reg1.
func (e *encoder) immediate(b ...byte) { e.immediateTo(reg1, b...) }

func (e *encoder) immediateTo(reg uint32, b ...byte) {
	elem, data := e.instr("immediate")
	e.u32(unix.NFTA_IMMEDIATE_DREG, reg)
	e.value(unix.NFTA_IMMEDIATE_DATA, b...)
	e.finish(elem, data)
}

func (e *encoder) verdictInstr(code int32, chain string) {
	elem, data := e.instr("immediate")
	e.u32(unix.NFTA_IMMEDIATE_DREG, regVerdict)
	e.verdict(unix.NFTA_IMMEDIATE_DATA, code, chain)
	e.finish(elem, data)
}

// depend makes sure that the packet is of the family before its header is read.
func (e *encoder) depend(v6 bool) {
	want := uint32(unix.NFPROTO_IPV4)
	if v6 {
		want = unix.NFPROTO_IPV6
	}
	if e.family == want {
		return
	}
	e.family = want
	e.meta(unix.NFT_META_NFPROTO, reg1)
	e.cmp(unix.NFT_CMP_EQ, byte(want))
}

// keyOf returns how the key is loaded and what it is.
func keyOf(k actions.Key, v6 bool) (key, error) {
	meta := func(t datatype, what uint32) (key, error) {
		return key{datatype: t, load: func(e *encoder, reg uint32) { e.meta(what, reg) }}, nil
	}
	ct := func(t datatype, what uint32) (key, error) {
		return key{datatype: t, load: func(e *encoder, reg uint32) { e.ct(what, reg) }}, nil
	}
	switch k {
	case actions.KeyNFProto:
		return meta(nfProtoType, unix.NFT_META_NFPROTO)
	case actions.KeyL4Proto:
		return meta(protoType, unix.NFT_META_L4PROTO)
	case actions.KeySrc, actions.KeyDst:
		t := ipv4Type
		if v6 {
			t = ipv6Type
		}
		return key{datatype: t, load: func(e *encoder, reg uint32) { e.address(k, v6, t.size, reg) }}, nil
	case actions.KeySrcPort, actions.KeyDstPort:
		return key{datatype: portType, load: func(e *encoder, reg uint32) {
			e.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, portAt(k), 2, reg)
		}}, nil
	case actions.KeyIifname:
		return meta(ifnameType, unix.NFT_META_IIFNAME)
	case actions.KeyOifname:
		return meta(ifnameType, unix.NFT_META_OIFNAME)
	case actions.KeyIif:
		return meta(ifindexType, unix.NFT_META_IIF)
	case actions.KeyOif:
		return meta(ifindexType, unix.NFT_META_OIF)
	case actions.KeyDstType:
		return key{datatype: fibAddrType, load: (*encoder).fibType}, nil
	case actions.KeyDSCP:
		// Numbers are compared where the field stands: above two bits, or, across two bytes, six.
		k := key{datatype: dscpType, shift: 2, load: func(e *encoder, _ uint32) { e.dscp(v6) }}
		if v6 {
			k.size, k.shift = 2, 6
		}
		return k, nil
	case actions.KeyMark:
		return meta(markType, unix.NFT_META_MARK)
	case actions.KeyCTMark:
		return ct(markType, unix.NFT_CT_MARK)
	case actions.KeyCTState:
		return ct(ctStateType, unix.NFT_CT_STATE)
	case actions.KeyCTDir:
		return ct(ctDirType, unix.NFT_CT_DIRECTION)
	case actions.KeyCTLabel:
		return ct(ctLabelType, unix.NFT_CT_LABELS)
	case actions.KeyRank:
		return meta(classidType, unix.NFT_META_PRIORITY)
	case actions.KeyCTSrc:
		t := ipv4Type
		if v6 {
			t = ipv6Type
		}
		return key{datatype: t, load: func(e *encoder, reg uint32) { e.ctSource(v6, reg) }}, nil
	case actions.KeyCTID:
		return ct(ctIDType, unix.NFT_CT_ID)
	case actions.KeyUID:
		return meta(uidType, unix.NFT_META_SKUID)
	case actions.KeyHash, actions.KeyHash0:
		return key{datatype: integerType, load: func(e *encoder, _ uint32) { e.hash(k == actions.KeyHash, v6) }}, nil
	default:
		return key{}, fmt.Errorf("key %d is not known", k)
	}
}

func (e *encoder) fibType(reg uint32) {
	elem, data := e.instr("fib")
	e.u32(unix.NFTA_FIB_DREG, reg)
	e.u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
	e.u32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)
	e.finish(elem, data)
}

// dscp loads the byte or, for ip6, the two bytes that the field is in, without the rest.
func (e *encoder) dscp(v6 bool) {
	e.depend(v6)
	if v6 {
		e.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 0, 2, reg1)
		e.bitwise([]byte{0x0f, 0xc0}, []byte{0, 0})
		return
	}
	e.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 1, 1, reg1)
	e.bitwise([]byte{0xfc}, []byte{0})
}

// hash loads jhash(source . destination . two ports, or the rank twice) modulo 100.
func (e *encoder) hash(ports, v6 bool) {
	e.depend(v6)
	src, dst, size := uint32(srcAt4), uint32(dstAt4), uint32(4)
	if v6 {
		src, dst, size = srcAt6, dstAt6, 16
	}
	// The four-byte registers that follow reg2 are numbered from its own first.
	next := uint32(unix.NFT_REG32_04) + size/4
	e.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, src, size, reg2)
	e.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, dst, size, next)
	next += size / 4
	if ports {
		e.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, next)
		e.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, next+1)
	} else {
		e.meta(unix.NFT_META_PRIORITY, next)
		e.meta(unix.NFT_META_PRIORITY, next+1)
	}
	elem, data := e.instr("hash")
	e.u32(unix.NFTA_HASH_SREG, reg2)
	e.u32(unix.NFTA_HASH_DREG, reg1)
	e.u32(unix.NFTA_HASH_LEN, 2*size+8)
	e.u32(unix.NFTA_HASH_MODULUS, hashBuckets)
	e.u32(unix.NFTA_HASH_SEED, flow.HashSeed)
	e.u32(unix.NFTA_HASH_TYPE, unix.NFT_HASH_JENKINS)
	e.finish(elem, data)
}

// hashBuckets is the modulus of KeyHash and KeyHash0.
const hashBuckets = 100

// match writes one condition; anon is the nameless set that it needs, if any.
func (e *encoder) match(m *actions.Match, anon setRef) error {
	k, err := keyOf(m.Key, m.V6)
	if err != nil {
		return err
	}
	set, ranges := anon, wantsRanges(m)
	if m.Set != "" {
		t, ok := e.sets[m.Set]
		if !ok {
			return fmt.Errorf("set %q is not declared", m.Set)
		}
		if k.shift > 0 {
			return fmt.Errorf("set %q: its numbers do not stand where the packet has them", m.Set)
		}
		set, ranges = setRef{name: m.Set}, t.ranges
	}
	if set.name != "" {
		k.load(e, reg1)
		if m.Mask != 0 {
			e.mask32(m.Mask, 0)
		}
		if ranges && k.host && k.size == 4 {
			e.toNetwork()
		}
		kind := inSet
		if m.Op == actions.Not {
			kind = notInSet
		}
		e.lookup(set, kind)
		return nil
	}
	list, err := k.entries(m, false)
	if err != nil {
		return err
	}
	if len(list) != 1 {
		return fmt.Errorf("a match on %d values without a set", len(list))
	}
	return e.compare(m, &k, list[0])
}

// compare writes a condition on one value or range.
func (e *encoder) compare(m *actions.Match, k *key, v entry) error {
	op := uint32(unix.NFT_CMP_EQ)
	switch m.Op {
	case actions.Not:
		op = unix.NFT_CMP_NEQ
	case actions.Above:
		op = unix.NFT_CMP_GT
	case actions.Below:
		op = unix.NFT_CMP_LT
	}
	switch {
	case (m.Key == actions.KeyCTState || m.Key == actions.KeyCTLabel) && op == unix.NFT_CMP_EQ:
		// A bit is asked for, whatever the others are.
		k.load(e, reg1)
		e.bitwise(v.lo[:k.size], make([]byte, k.size))
		e.cmp(unix.NFT_CMP_NEQ, make([]byte, k.size)...)
		return nil
	case len(m.Prefixes) == 1 && !m.Prefixes[0].IsSingleIP():
		return e.comparePrefix(m, k, op, v)
	}
	k.load(e, reg1)
	if m.Mask != 0 {
		e.mask32(m.Mask, 0)
	}
	if k.host && k.size == 4 && (v.lo != v.hi || op >= unix.NFT_CMP_LT) {
		e.toNetwork()
		v = entry{k.number(m.Nums[0].Lo, true), k.number(m.Nums[0].Hi, true)} // such keys have no shift
	}
	switch {
	case v.lo == v.hi:
		e.cmp(op, v.lo[:k.size]...)
		if m.Key == actions.KeyNFProto && op == unix.NFT_CMP_EQ {
			e.family = uint32(v.lo[0])
		}
	case op == unix.NFT_CMP_EQ:
		e.cmp(unix.NFT_CMP_GTE, v.lo[:k.size]...)
		e.cmp(unix.NFT_CMP_LTE, v.hi[:k.size]...)
	case op == unix.NFT_CMP_NEQ:
		elem, data := e.instr("range")
		e.u32(unix.NFTA_RANGE_SREG, reg1)
		e.u32(unix.NFTA_RANGE_OP, unix.NFT_RANGE_NEQ)
		e.value(unix.NFTA_RANGE_FROM_DATA, v.lo[:k.size]...)
		e.value(unix.NFTA_RANGE_TO_DATA, v.hi[:k.size]...)
		e.finish(elem, data)
	default:
		return fmt.Errorf("a range is neither above nor below anything")
	}
	return nil
}

// comparePrefix compares whole bytes where the prefix ends with one, else bits.
func (e *encoder) comparePrefix(m *actions.Match, k *key, op uint32, v entry) error {
	n := m.Prefixes[0].Bits()
	if n == 0 {
		return fmt.Errorf("a match on every address")
	}
	if n%8 == 0 {
		e.address(m.Key, m.V6, n/8, reg1)
		e.cmp(op, v.lo[:n/8]...)
		return nil
	}
	k.load(e, reg1)
	var mask operand
	for i := range n {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	e.bitwise(mask[:k.size], make([]byte, k.size))
	e.cmp(op, v.lo[:k.size]...)
	return nil
}

// do writes one statement.
func (e *encoder) do(s *actions.Stmt) error {
	switch s.Kind {
	case actions.SetRank:
		e.immediate(native(s.Value)...)
		e.setMeta(unix.NFT_META_PRIORITY, reg1)
	case actions.SetMark:
		e.meta(unix.NFT_META_MARK, reg1)
		e.mask32(^s.Mask&^s.Value, s.Value)
		e.setMeta(unix.NFT_META_MARK, reg1)
	case actions.SetCTMark:
		e.ct(unix.NFT_CT_MARK, reg1)
		e.mask32(^s.Mask&^s.Value, s.Value)
		e.setCT(unix.NFT_CT_MARK, reg1)
	case actions.SetLabel:
		bit := label(s.Value)
		e.immediate(bit[:]...)
		e.setCT(unix.NFT_CT_LABELS, reg1)
	case actions.SetDSCP4, actions.SetDSCP6:
		e.setDSCP(s.Kind == actions.SetDSCP6, byte(s.Value))
	case actions.Goto:
		e.verdictInstr(verdictGoto, s.Target)
	case actions.Jump:
		e.verdictInstr(verdictJump, s.Target)
	case actions.Return:
		e.verdictInstr(verdictReturn, "")
	case actions.Drop:
		e.verdictInstr(verdictDrop, "")
	case actions.RejectTCP:
		e.reject(unix.NFT_REJECT_TCP_RST, 0)
	case actions.RejectAny:
		e.reject(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED)
	case actions.Log:
		e.log(s.Target, uint16(s.Value))
	case actions.Lookup, actions.MapRank:
		return e.lookIn(s)
	case actions.OrRank:
		e.orRank(s.Value)
	case actions.NextRank:
		e.nextRank(s.Mask, s.Value)
	case actions.HashRank:
		e.hashRank(s.Mask, s.Value)
	case actions.AddRank, actions.Police:
		return e.fill(s)
	case actions.Masquerade:
		e.finish(e.instr("masq"))
	case actions.TProxy:
		return e.tproxy(s)
	case actions.Queue:
		return e.queue(s.Target)
	default:
		return fmt.Errorf("statement %d is not known", s.Kind)
	}
	return nil
}

// lookIn writes a lookup in a map, for its verdict or for a rank.
func (e *encoder) lookIn(s *actions.Stmt) error {
	k, err := keyOf(s.Key, s.V6)
	if err != nil {
		return err
	}
	t, ok := e.sets[s.Target]
	if !ok {
		return fmt.Errorf("map %q is not declared", s.Target)
	}
	k.load(e, reg1)
	if s.Mask != 0 {
		e.mask32(s.Mask, 0)
	}
	if t.ranges && k.host && k.size == 4 {
		e.toNetwork()
	}
	if s.Kind == actions.Lookup {
		e.lookup(setRef{name: s.Target}, verdictOf)
		return nil
	}
	e.lookup(setRef{name: s.Target}, valueOf)
	e.setMeta(unix.NFT_META_PRIORITY, reg1)
	return nil
}

// setDSCP rewrites the two bytes that the field is in; the header of IPv4 has a checksum.
func (e *encoder) setDSCP(v6 bool, n byte) {
	e.depend(v6)
	e.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 0, 2, reg1)
	if v6 {
		e.bitwise([]byte{0xf0, 0x3f}, []byte{n >> 2, n << 6})
	} else {
		e.bitwise([]byte{0xff, 0x03}, []byte{0, n << 2})
	}
	elem, data := e.instr("payload")
	e.u32(unix.NFTA_PAYLOAD_SREG, reg1)
	e.u32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
	e.u32(unix.NFTA_PAYLOAD_OFFSET, 0)
	e.u32(unix.NFTA_PAYLOAD_LEN, 2)
	if v6 {
		e.u32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_NONE)
	} else {
		e.u32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_INET)
		e.u32(unix.NFTA_PAYLOAD_CSUM_OFFSET, checksumAt4)
	}
	e.finish(elem, data)
}

func (e *encoder) reject(kind uint32, code byte) {
	elem, data := e.instr("reject")
	e.u32(unix.NFTA_REJECT_TYPE, kind)
	e.bytes(unix.NFTA_REJECT_ICMP_CODE, code)
	e.finish(elem, data)
}

// log writes to a group of nfnetlink_log, at most LogRate times a second.
func (e *encoder) log(prefix string, group uint16) {
	elem, data := e.instr("limit")
	e.u64(unix.NFTA_LIMIT_RATE, actions.LogRate)
	e.u64(unix.NFTA_LIMIT_UNIT, 1) // second
	e.u32(unix.NFTA_LIMIT_BURST, actions.LogBurst)
	e.u32(unix.NFTA_LIMIT_TYPE, 0) // NFT_LIMIT_PKTS
	e.u32(unix.NFTA_LIMIT_FLAGS, 0)
	e.finish(elem, data)
	elem, data = e.instr("log")
	e.text(unix.NFTA_LOG_PREFIX, prefix)
	e.u16(unix.NFTA_LOG_GROUP, group)
	e.finish(elem, data)
}
