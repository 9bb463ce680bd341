package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
)

// datatype is one of nft's types of values. The kernel keeps the id for nft to
// read; it only looks at the size.
type datatype struct {
	id   uint32
	size int
	host bool // numbers are in the host's byte order
}

// The types that tables use, by nft's names (`nft describe TYPE`).
var (
	nfProtoType = datatype{id: 2, size: 1}
	integerType = datatype{id: 4, size: 4, host: true}
	ctIDType    = datatype{id: 4, size: 4}
	ipv4Type    = datatype{id: 7, size: 4}
	ipv6Type    = datatype{id: 8, size: 16}
	protoType   = datatype{id: 12, size: 1}
	portType    = datatype{id: 13, size: 2}
	markType    = datatype{id: 19, size: 4, host: true}
	ifindexType = datatype{id: 20, size: 4, host: true}
	classidType = datatype{id: 23, size: 4, host: true}
	uidType     = datatype{id: 24, size: 4, host: true}
	ctStateType = datatype{id: 26, size: 4, host: true}
	ctDirType   = datatype{id: 27, size: 1}
	ctLabelType = datatype{id: 30, size: 16, host: true}
	dscpType    = datatype{id: 36, size: 1}
	fibAddrType = datatype{id: 38, size: 4, host: true}
	ifnameType  = datatype{id: 41, size: 16, host: true}
)

// declared are the types by the names that sets are declared with.
var declared = map[string]datatype{
	"nf_proto": nfProtoType, "ipv4_addr": ipv4Type, "ipv6_addr": ipv6Type, "inet_proto": protoType,
	"inet_service": portType, "mark": markType, "iface_index": ifindexType, "classid": classidType,
	"uid": uidType, "ifname": ifnameType,
}

// operand is a value of at most 16 bytes, from the left.
type operand [16]byte

// key describes what actions.Key loads.
type key struct {
	datatype
	shift int // by how many bits its numbers stand above the lowest bit of what is loaded
	load  func(e *encoder, reg uint32)
}

// number writes n as the type holds it, or in network order, in which ordered
// comparisons and intervals need it.
func (d datatype) number(n uint32, network bool) operand {
	var o operand
	switch {
	case d.id == ctLabelType.id:
		return label(n)
	case d.size == 1:
		o[0] = byte(n)
	case d.size == 2:
		binary.BigEndian.PutUint16(o[:], uint16(n))
	case d.host && !network:
		binary.NativeEndian.PutUint32(o[:], n)
	default:
		binary.BigEndian.PutUint32(o[:], n)
	}
	return o
}

// bigEndian is whether this machine is.
var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// label is the connection label n as a bit of 128, which are in the host's order.
func label(n uint32) operand {
	var o operand
	at := n / 8
	if bigEndian {
		at = 15 - at
	}
	o[at] = 1 << (n % 8)
	return o
}

func addr(a netip.Addr) operand {
	var o operand
	copy(o[:], a.AsSlice())
	return o
}

// name is an interface's name.
func name(s string) operand {
	var o operand
	copy(o[:15], s)
	return o
}

// entry is an element: one value, or all from lo to hi, as the set holds them.
type entry struct{ lo, hi operand }

func single(o operand) entry { return entry{o, o} }

// entries are what the match compares with; intervals as sets hold them when
// ranges is true.
func (k key) entries(m *actions.Match, ranges bool) ([]entry, error) {
	var list []entry
	for _, r := range m.Nums {
		list = append(list, entry{k.number(r.Lo<<k.shift, ranges), k.number(r.Hi<<k.shift, ranges)})
	}
	for _, p := range m.Prefixes {
		list = append(list, entry{addr(p.Masked().Addr()), addr(engine.LastAddr(p))})
	}
	for _, t := range m.Texts {
		o, err := k.text(t)
		if err != nil {
			return nil, err
		}
		list = append(list, single(o))
	}
	return list, nil
}

// addrTypes are the address types of `fib daddr type` (enum RTN_* of linux/rtnetlink.h).
var addrTypes = map[string]uint32{
	"unspec": unix.RTN_UNSPEC, "unicast": unix.RTN_UNICAST, "local": unix.RTN_LOCAL, "broadcast": unix.RTN_BROADCAST,
	"anycast": unix.RTN_ANYCAST, "multicast": unix.RTN_MULTICAST,
}

// loopback is the index of lo in every network namespace (LOOPBACK_IFINDEX).
const loopback = 1

func (k key) text(s string) (operand, error) {
	switch k.id {
	case ifnameType.id:
		return name(s), nil
	case ifindexType.id:
		if s != "lo" {
			return operand{}, fmt.Errorf("interface %q by index: only lo has the same everywhere", s)
		}
		return k.number(loopback, false), nil
	case fibAddrType.id:
		n, ok := addrTypes[s]
		if !ok {
			return operand{}, fmt.Errorf("address type %q", s)
		}
		return k.number(n, false), nil
	default:
		return operand{}, fmt.Errorf("text %q for a number", s)
	}
}

// setType is what the kernel must be told of a set of the table.
type setType struct {
	key     datatype
	typeof  *expression // what it is declared with by typeof, nil for a type
	isMap   bool
	ranks   bool // the map's values are numbers, not verdicts
	timeout bool
	ranges  bool
	// Packets fill the set when size is not 0: so many elements, each for ttl.
	size uint32
	ttl  time.Duration
}

// expression is what a set may be declared with by typeof, with nft's notes of it.
type expression struct {
	datatype
	kind  uint32 // expr...
	notes []byte
}

var expressions = map[string]*expression{
	"meta priority": {classidType, exprMeta, note(nil, noteMetaKey, unix.NFT_META_PRIORITY)},
	"meta mark":     {markType, exprMeta, note(nil, noteMetaKey, unix.NFT_META_MARK)},
	"meta skuid":    {uidType, exprMeta, note(nil, noteMetaKey, unix.NFT_META_SKUID)},
	"ct id":         {ctIDType, exprCT, note(note(nil, noteCTKey, unix.NFT_CT_ID), noteCTDir, 1<<32-1)},
}

func typeOf(s *actions.Set) (setType, error) {
	t := setType{isMap: s.Map, ranks: s.Ranks, timeout: s.Timeout, ranges: s.Ranges, size: s.Size, ttl: s.TTL}
	var ok bool
	if what, found := strings.CutPrefix(s.Type, "typeof "); found {
		if t.typeof, ok = expressions[what]; ok {
			t.key = t.typeof.datatype
		}
	} else if what, found := strings.CutPrefix(s.Type, "type "); found {
		t.key, ok = declared[what]
	}
	if !ok {
		return t, fmt.Errorf("set %s: type %q is not known", s.Name, s.Type)
	}
	return t, nil
}

// entry reads an element's key as nft's text spells it.
func (t *setType) entry(text string) (entry, error) {
	if p, err := netip.ParsePrefix(text); err == nil && t.ranges && p.Addr().BitLen() == 8*t.key.size {
		return entry{addr(p.Masked().Addr()), addr(engine.LastAddr(p))}, nil
	}
	if lo, hi, ok := strings.Cut(text, "-"); ok && t.ranges && t.key.id != ifnameType.id {
		a, err := t.operand(lo)
		if err != nil {
			return entry{}, err
		}
		b, err := t.operand(hi)
		return entry{a, b}, err
	}
	o, err := t.operand(text)
	return single(o), err
}

func (t *setType) operand(text string) (operand, error) {
	switch t.key.id {
	case ipv4Type.id, ipv6Type.id:
		a, err := netip.ParseAddr(text)
		if err != nil || a.BitLen() != 8*t.key.size {
			return operand{}, fmt.Errorf("element %q: want an address of %d bytes", text, t.key.size)
		}
		return addr(a), nil
	case ifnameType.id:
		s, err := strconv.Unquote(text)
		if err != nil {
			s = text
		}
		return name(s), nil
	case nfProtoType.id:
		switch text {
		case "ipv4":
			return t.key.number(unix.NFPROTO_IPV4, t.ranges), nil
		case "ipv6":
			return t.key.number(unix.NFPROTO_IPV6, t.ranges), nil
		}
	}
	n, err := strconv.ParseUint(text, 0, min(32, 8*t.key.size))
	if err != nil {
		return operand{}, fmt.Errorf("element %q: want a number of %d bits", text, min(32, 8*t.key.size))
	}
	return t.key.number(uint32(n), t.ranges), nil
}

// next is the value after o, and false after the last.
func (d datatype) next(o operand) (operand, bool) {
	for i := d.size - 1; i >= 0; i-- {
		o[i]++
		if o[i] != 0 {
			return o, true
		}
	}
	return o, false
}

// The hooks and priorities of base chains (enum nf_inet_hooks, nf_ip_hook_priorities).
var (
	hooks = map[string]uint32{
		"prerouting": unix.NF_INET_PRE_ROUTING, "input": unix.NF_INET_LOCAL_IN, "forward": unix.NF_INET_FORWARD,
		"output": unix.NF_INET_LOCAL_OUT, "postrouting": unix.NF_INET_POST_ROUTING,
	}
	priorities = map[string]int32{"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
)

// hook is a base chain's declaration.
type hook struct {
	kind     string // filter, route, nat
	num      uint32
	priority int32
	policy   uint32 // NF_ACCEPT or NF_DROP
}

// parseHook reads "type T hook H priority P; policy V;".
func parseHook(text string) (hook, error) {
	bad := func() (hook, error) {
		return hook{}, fmt.Errorf("base chain %q: want type, hook, priority, policy", text)
	}
	h := hook{policy: 1}
	words := strings.Fields(strings.ReplaceAll(text, ";", " ; "))
	if len(words) < 6 || words[0] != "type" || words[2] != "hook" || words[4] != "priority" {
		return bad()
	}
	var ok bool
	h.kind = words[1]
	if h.num, ok = hooks[words[3]]; !ok {
		return bad()
	}
	rest := words[5:]
	end := 0
	for end < len(rest) && rest[end] != ";" {
		end++
	}
	if h.priority, ok = priority(rest[:end]); !ok {
		return bad()
	}
	switch strings.Join(rest[end:], " ") {
	case "", ";", "; policy accept ;":
	case "; policy drop ;":
		h.policy = 0
	default:
		return bad()
	}
	return h, nil
}

// priority reads a number, a name, or a name and what is added to it.
func priority(words []string) (int32, bool) {
	if len(words) == 0 {
		return 0, false
	}
	base, named := priorities[words[0]]
	if named {
		words = words[1:]
	}
	if len(words) == 0 {
		return base, true
	}
	n, err := strconv.ParseInt(strings.Join(words, ""), 10, 32)
	return base + int32(n), err == nil
}

// merged sorts intervals and joins those that touch or overlap.
func (d datatype) merged(list []entry) []entry {
	slices.SortFunc(list, func(a, b entry) int { return bytes.Compare(a.lo[:], b.lo[:]) })
	out := list[:1]
	for _, n := range list[1:] {
		last := &out[len(out)-1]
		end, more := d.next(last.hi)
		switch {
		case more && bytes.Compare(n.lo[:], end[:]) > 0:
			out = append(out, n)
		case bytes.Compare(n.hi[:], last.hi[:]) > 0:
			last.hi = n.hi
		}
	}
	return out
}
