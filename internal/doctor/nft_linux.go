package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// maxRules bounds what is read of a packet filter; Kubernetes has 100,000 on
	// large clusters.
	maxRules = 400_000
	// maxUses bounds the uses of marks that are kept; equal ones are kept once.
	maxUses = 4096
)

// nftables of include/uapi/linux/netfilter/nf_tables.h that x/sys lacks.
const (
	nftTableFlagOwner = 2
	nftaBitwiseOp     = 6 // Linux 5.6
)

var families = map[uint8]string{
	unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev",
}

// readNft reads the tables, chains and rules of nftables, those that iptables-nft
// made among them.
func readNft(f *Facts) error {
	err := nftDump(unix.NFT_MSG_GETTABLE, func(family string, ad *netlink.AttributeDecoder) {
		t := NftTable{Family: family}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				t.Name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				t.Owned = ad.Uint32()&nftTableFlagOwner != 0
			}
		}
		f.Nft = append(f.Nft, t)
	})
	if err != nil {
		return fmt.Errorf("list nft tables: %w", err)
	}
	known := map[Chain]Chain{} // by family, table and name alone
	err = nftDump(unix.NFT_MSG_GETCHAIN, func(family string, ad *netlink.AttributeDecoder) {
		c := nftChain(family, ad)
		known[Chain{Family: c.Family, Table: c.Table, Name: c.Name}] = c
		f.Chains = append(f.Chains, c)
	})
	if err != nil {
		return fmt.Errorf("list nft chains: %w", err)
	}
	rules := 0
	seen := map[MarkUse]bool{}
	err = nftDump(unix.NFT_MSG_GETRULE, func(family string, ad *netlink.AttributeDecoder) {
		if rules++; rules > maxRules || len(seen) > maxUses {
			return
		}
		c := Chain{Family: family}
		var d ruleReader
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				c.Table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				c.Name = ad.String()
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(d.exprs)
			}
		}
		if full, ok := known[c]; ok {
			c = full
		}
		for _, m := range d.uses {
			if m.Chain = c; !seen[m] {
				seen[m] = true
				f.Marks = append(f.Marks, m)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("list nft rules: %w", err)
	}
	if rules > maxRules || len(seen) > maxUses {
		return fmt.Errorf("there are %d rules, more than are read", rules)
	}
	return nil
}

// nftDump calls each with every object of a kind. A kernel without nftables has none.
func nftDump(message int, each func(family string, ad *netlink.AttributeDecoder)) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|message, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: unix.NFNETLINK_V0})
	var failed error
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		if len(msg) < nl.SizeofNfgenmsg {
			return true
		}
		ad, err := netlink.NewAttributeDecoder(msg[nl.SizeofNfgenmsg:])
		if err != nil {
			failed = err
			return false
		}
		ad.ByteOrder = binary.BigEndian
		family := families[msg[0]]
		if family == "" {
			family = fmt.Sprint(msg[0])
		}
		each(family, ad)
		if failed = ad.Err(); failed != nil {
			return false
		}
		return true
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // no nf_tables in this kernel
	}
	return errors.Join(err, failed)
}

func nftChain(family string, ad *netlink.AttributeDecoder) Chain {
	c := Chain{Family: family}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.Table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			c.Name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			c.Type = ad.String()
		case unix.NFTA_CHAIN_HOOK:
			ad.Nested(func(in *netlink.AttributeDecoder) error {
				for in.Next() {
					switch in.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						c.Hook = hookName(family, in.Uint32())
					case unix.NFTA_HOOK_PRIORITY:
						c.Priority = int(int32(in.Uint32()))
					}
				}
				return nil
			})
		}
	}
	return c
}

func hookName(family string, n uint32) string {
	names := []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	if family == "netdev" {
		names = []string{"ingress", "egress"}
	}
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprint("hook ", n)
}

// ruleReader follows the registers of one rule far enough to know what becomes of
// marks: (mark & and) ^ xor, or a constant.
type ruleReader struct {
	regs map[uint32]register
	uses []MarkUse
}

type register struct {
	holds    holds
	and, xor uint32
	data     []byte // a constant, or the mask of labels
}

type holds uint8

const (
	something holds = iota
	constant
	packetMark
	connMark
	labels
)

// number gives the register of 16 bytes its first one of 4 bytes.
func number(reg uint32) uint32 {
	if reg >= unix.NFT_REG_1 && reg <= unix.NFT_REG_4 {
		return unix.NFT_REG32_00 + (reg-unix.NFT_REG_1)*4
	}
	return reg
}

// exprs reads the expressions of a rule.
func (d *ruleReader) exprs(list *netlink.AttributeDecoder) error {
	d.regs = map[uint32]register{}
	for list.Next() {
		list.Nested(func(e *netlink.AttributeDecoder) error {
			name := ""
			for e.Next() {
				switch e.Type() {
				case unix.NFTA_EXPR_NAME:
					name = e.String()
				case unix.NFTA_EXPR_DATA:
					e.Nested(func(data *netlink.AttributeDecoder) error { return d.expr(name, data) })
				}
			}
			return nil
		})
	}
	return nil
}

// attributes are those of one expression: numbers are big endian, data is nested.
type attributes map[uint16][]byte

func (a attributes) number(t uint16) (uint32, bool) {
	b, ok := a[t]
	if !ok || len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// value returns the bytes of nested data.
func (a attributes) value(t uint16) []byte {
	ad, err := netlink.NewAttributeDecoder(a[t])
	if err != nil {
		return nil
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_DATA_VALUE {
			return ad.Bytes()
		}
	}
	return nil
}

// native reads a mark as the kernel holds it.
func native(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(b), true
}

func (d *ruleReader) expr(name string, data *netlink.AttributeDecoder) error {
	a := attributes{}
	for data.Next() {
		a[data.Type()] = data.Bytes()
	}
	switch name {
	case "meta":
		d.load(a, unix.NFTA_META_KEY, unix.NFTA_META_DREG, unix.NFTA_META_SREG, map[uint32]holds{unix.NFT_META_MARK: packetMark})
	case "ct":
		d.load(a, unix.NFTA_CT_KEY, unix.NFTA_CT_DREG, unix.NFTA_CT_SREG, map[uint32]holds{unix.NFT_CT_MARK: connMark, unix.NFT_CT_LABELS: labels})
	case "immediate":
		if reg, ok := a.number(unix.NFTA_IMMEDIATE_DREG); ok {
			d.regs[number(reg)] = register{holds: constant, data: a.value(unix.NFTA_IMMEDIATE_DATA)}
		}
	case "bitwise":
		d.bitwise(a)
	case "cmp":
		reg, _ := a.number(unix.NFTA_CMP_SREG)
		d.compare(d.regs[number(reg)], a.value(unix.NFTA_CMP_DATA))
	case "range":
		reg, _ := a.number(unix.NFTA_RANGE_SREG)
		d.compare(d.regs[number(reg)], nil)
	case "lookup":
		reg, _ := a.number(unix.NFTA_LOOKUP_SREG)
		d.compare(d.regs[number(reg)], nil)
		if out, ok := a.number(unix.NFTA_LOOKUP_DREG); ok {
			delete(d.regs, number(out))
		}
	case "match":
		d.xtMatch(cstring(a[unix.NFTA_MATCH_NAME]), a[unix.NFTA_MATCH_INFO])
	case "target":
		rev, _ := a.number(unix.NFTA_TARGET_REV)
		d.xtTarget(cstring(a[unix.NFTA_TARGET_NAME]), rev, a[unix.NFTA_TARGET_INFO])
	default:
		clear(d.regs) // it may have written any
	}
	return nil
}

func cstring(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// load handles an expression that reads a key into a register, or sets it from one.
func (d *ruleReader) load(a attributes, key, dreg, sreg uint16, marks map[uint32]holds) {
	k, _ := a.number(key)
	if reg, ok := a.number(dreg); ok {
		d.regs[number(reg)] = register{holds: marks[k], and: ^uint32(0)}
		return
	}
	reg, ok := a.number(sreg)
	if !ok || marks[k] == something {
		return
	}
	d.set(marks[k], d.regs[number(reg)])
}

func (d *ruleReader) bitwise(a attributes) {
	in, _ := a.number(unix.NFTA_BITWISE_SREG)
	out, ok := a.number(unix.NFTA_BITWISE_DREG)
	if !ok {
		return
	}
	r := d.regs[number(in)]
	op, _ := a.number(nftaBitwiseOp)
	and, okAnd := native(a.value(unix.NFTA_BITWISE_MASK))
	xor, okXor := native(a.value(unix.NFTA_BITWISE_XOR))
	switch {
	case op != unix.NFT_BITWISE_BOOL:
		r = register{}
	case r.holds == labels:
		r.data = a.value(unix.NFTA_BITWISE_MASK)
	case (r.holds == packetMark || r.holds == connMark) && okAnd && okXor:
		r.and, r.xor = r.and&and, r.xor&and^xor
	default:
		r = register{}
	}
	d.regs[number(out)] = r
}

func kindOf(h holds) MarkKind {
	switch h {
	case connMark:
		return ConnMark
	case labels:
		return ConnLabel
	default:
		return PacketMark
	}
}

// compare records that a mark is asked for; nil is for a value that is not known.
func (d *ruleReader) compare(r register, with []byte) {
	switch r.holds {
	case packetMark, connMark:
		m := MarkUse{Kind: kindOf(r.holds), Mask: r.and}
		n, ok := native(with)
		if m.Any = !ok; ok {
			m.Value = (n ^ r.xor) & r.and
		}
		d.use(m)
	case labels:
		d.bits(r.data, false)
	}
}

// set records that a mark is written from a register.
func (d *ruleReader) set(target holds, r register) {
	m := MarkUse{Kind: kindOf(target), Set: true, Mask: ^uint32(0)}
	switch {
	case target == labels:
		if r.holds == constant {
			d.bits(r.data, true)
		}
		return
	case r.holds == constant:
		n, ok := native(r.data)
		m.Value, m.Any = n, !ok
	case r.holds == target:
		// Bits that survive the mask and are not turned over stay what they are.
		m.Mask = ^r.and | r.xor
		m.Value = r.xor
	default:
		m.Any = true
		m.Copy = r.holds == packetMark || r.holds == connMark
	}
	if m.Mask != 0 {
		d.use(m)
	}
}

// bits records the labels of a set of bits.
func (d *ruleReader) bits(b []byte, set bool) {
	for i := range min(len(b), 16) * 8 {
		if b[i/8]>>(i%8)&1 != 0 {
			d.use(MarkUse{Kind: ConnLabel, Set: set, Value: uint32(i)})
		}
	}
}

func (d *ruleReader) use(m MarkUse) { d.uses = append(d.uses, m) }

// words reads an extension's data as numbers.
func words(b []byte) []uint32 {
	var list []uint32
	for ; len(b) >= 4; b = b[4:] {
		list = append(list, binary.NativeEndian.Uint32(b))
	}
	return list
}

// xtMatch reads struct xt_mark_mtinfo1, xt_connmark_mtinfo1 and xt_connlabel_mtinfo.
func (d *ruleReader) xtMatch(name string, info []byte) {
	w := words(info)
	switch {
	case (name == "mark" || name == "connmark") && len(w) >= 2:
		m := MarkUse{Value: w[0], Mask: w[1]}
		if name == "connmark" {
			m.Kind = ConnMark
		}
		d.use(m)
	case name == "connlabel" && len(info) >= 4:
		bit, options := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:])
		d.use(MarkUse{Kind: ConnLabel, Value: uint32(bit), Set: options&2 != 0})
	}
}

// xtTarget reads struct xt_mark_tginfo2 and xt_connmark_tginfo1 or 2. What a
// CONNMARK does stands behind its three masks, in the second behind a shift, too.
func (d *ruleReader) xtTarget(name string, revision uint32, info []byte) {
	w := words(info)
	does := 12
	if revision >= 2 {
		does = 14
	}
	switch {
	case name == "MARK" && len(w) >= 2:
		d.use(MarkUse{Set: true, Value: w[0], Mask: w[0] | w[1]})
	case name == "CONNMARK" && len(info) > does:
		switch info[does] {
		case 0:
			d.use(MarkUse{Kind: ConnMark, Set: true, Value: w[0], Mask: w[0] | w[1]})
		case 1:
			d.use(MarkUse{Kind: ConnMark, Set: true, Any: true, Copy: true, Mask: w[1] | w[2]})
		case 2:
			d.use(MarkUse{Set: true, Any: true, Copy: true, Mask: w[1] | w[2]})
		}
	}
}
