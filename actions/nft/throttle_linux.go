package nft

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/flow"
)

// The instructions of throttles, and the one that asks the daemon.

// ctSource loads the address that opened the connection, before any translation.
func (e *encoder) ctSource(v6 bool, reg uint32) {
	what := uint32(unix.NFT_CT_SRC_IP)
	if v6 {
		what = unix.NFT_CT_SRC_IP6
	}
	elem, data := e.instr("ct")
	e.u32(unix.NFTA_CT_KEY, what)
	e.u32(unix.NFTA_CT_DREG, reg)
	e.bytes(unix.NFTA_CT_DIRECTION, 0) // IP_CT_DIR_ORIGINAL
	e.finish(elem, data)
}

// orRank sets bits of the rank.
func (e *encoder) orRank(bits uint32) {
	e.meta(unix.NFT_META_PRIORITY, reg1)
	e.mask32(^bits, bits)
	e.setMeta(unix.NFT_META_PRIORITY, reg1)
}

// nextRank sets the rank to one of modulus numbers from offset on, another each time.
func (e *encoder) nextRank(modulus, offset uint32) {
	elem, data := e.instr("numgen")
	e.u32(unix.NFTA_NG_DREG, reg1)
	e.u32(unix.NFTA_NG_MODULUS, modulus)
	e.u32(unix.NFTA_NG_TYPE, 0) // NFT_NG_INCREMENTAL
	e.u32(unix.NFTA_NG_OFFSET, offset)
	e.finish(elem, data)
	e.setMeta(unix.NFT_META_PRIORITY, reg1)
}

// hashRank sets the rank to one of modulus numbers from offset on, always the same
// for a connection.
func (e *encoder) hashRank(modulus, offset uint32) {
	e.ct(unix.NFT_CT_ID, reg2)
	elem, data := e.instr("hash")
	e.u32(unix.NFTA_HASH_SREG, reg2)
	e.u32(unix.NFTA_HASH_DREG, reg1)
	e.u32(unix.NFTA_HASH_LEN, 4)
	e.u32(unix.NFTA_HASH_MODULUS, modulus)
	e.u32(unix.NFTA_HASH_SEED, flow.HashSeed)
	e.u32(unix.NFTA_HASH_OFFSET, offset)
	e.u32(unix.NFTA_HASH_TYPE, unix.NFT_HASH_JENKINS)
	e.finish(elem, data)
	e.setMeta(unix.NFT_META_PRIORITY, reg1)
}

// fill writes a statement that has packets fill a set, or a limit without one.
func (e *encoder) fill(s *actions.Stmt) error {
	if s.Kind == actions.Police && s.Target == "" {
		e.police(nil, "", s.Value, s.Mask)
		return nil
	}
	k, err := keyOf(s.Key, s.V6)
	if err != nil {
		return err
	}
	if s.Kind == actions.AddRank {
		e.addRank(&k, s.Target)
	} else {
		e.police(&k, s.Target, s.Value, s.Mask)
	}
	return nil
}

// What dynset does with an element (enum nft_dynset_ops).
const (
	dynsetAdd    = 0
	dynsetUpdate = 1
)

// addRank gives the map the rank for the key, unless it has one.
func (e *encoder) addRank(k *key, set string) {
	k.load(e, reg1)
	e.meta(unix.NFT_META_PRIORITY, reg2)
	elem, data := e.instr("dynset")
	e.u32(unix.NFTA_DYNSET_SREG_KEY, reg1)
	e.u32(unix.NFTA_DYNSET_SREG_DATA, reg2)
	e.u32(unix.NFTA_DYNSET_OP, dynsetAdd)
	e.text(unix.NFTA_DYNSET_SET_NAME, set)
	e.finish(elem, data)
}

// police goes on when more than rate bytes a second pass; set holds a limit of its
// own for each key, "" is one for the rule.
func (e *encoder) police(k *key, set string, rate, burst uint32) {
	if set == "" {
		elem, data := e.instr("limit")
		e.limitOver(rate, burst)
		e.finish(elem, data)
		return
	}
	k.load(e, reg1)
	elem, data := e.instr("dynset")
	e.u32(unix.NFTA_DYNSET_SREG_KEY, reg1)
	e.u32(unix.NFTA_DYNSET_OP, dynsetUpdate)
	e.text(unix.NFTA_DYNSET_SET_NAME, set)
	at := e.nest(unix.NFTA_DYNSET_EXPR)
	e.text(unix.NFTA_EXPR_NAME, "limit")
	inner := e.nest(unix.NFTA_EXPR_DATA)
	e.limitOver(rate, burst)
	e.done(inner)
	e.done(at)
	e.finish(elem, data)
}

func (e *encoder) limitOver(rate, burst uint32) {
	e.u64(unix.NFTA_LIMIT_RATE, uint64(rate))
	e.u64(unix.NFTA_LIMIT_UNIT, 1) // second
	e.u32(unix.NFTA_LIMIT_BURST, burst)
	e.u32(unix.NFTA_LIMIT_TYPE, 1)  // NFT_LIMIT_PKT_BYTES
	e.u32(unix.NFTA_LIMIT_FLAGS, 1) // NFT_LIMIT_F_INV
}

// queue writes the statement "queue num N[-M] [bypass]".
func (e *encoder) queue(text string) error {
	words := strings.Fields(text)
	if len(words) < 3 || len(words) > 4 || words[0] != "queue" || words[1] != "num" || len(words) == 4 && words[3] != "bypass" {
		return fmt.Errorf("statement %q: want queue num N, or N-M, and bypass", text)
	}
	from, to, ranged := strings.Cut(words[2], "-")
	if !ranged {
		to = from
	}
	lo, err := strconv.ParseUint(from, 10, 16)
	if err != nil {
		return fmt.Errorf("statement %q: %w", text, err)
	}
	hi, err := strconv.ParseUint(to, 10, 16)
	if err != nil || hi < lo {
		return fmt.Errorf("statement %q: queue %q", text, words[2])
	}
	elem, data := e.instr("queue")
	e.u16(unix.NFTA_QUEUE_NUM, uint16(lo))
	e.u16(unix.NFTA_QUEUE_TOTAL, uint16(hi-lo+1))
	if len(words) == 4 {
		e.u16(unix.NFTA_QUEUE_FLAGS, 1) // NFT_QUEUE_FLAG_BYPASS
	}
	e.finish(elem, data)
	return nil
}

// Attributes of the tproxy expression (linux/netfilter/nf_tables.h).
const (
	tproxyFamily = 1
	tproxyAddr   = 2
	tproxyPort   = 3
)

// tproxy hands packets to the socket that listens at an address of loopback.
func (e *encoder) tproxy(s *actions.Stmt) error {
	to, err := netip.ParseAddrPort(s.Target)
	if err != nil || to.Addr().Is6() != s.V6 {
		return fmt.Errorf("statement tproxy: address %q", s.Target)
	}
	const reg2 = unix.NFT_REG_2
	family := uint32(unix.NFPROTO_IPV4)
	if s.V6 {
		family = unix.NFPROTO_IPV6
	}
	e.immediateTo(reg1, to.Addr().AsSlice()...)
	e.immediateTo(reg2, byte(to.Port()>>8), byte(to.Port()))
	elem, data := e.instr("tproxy")
	e.u32(tproxyFamily, family)
	e.u32(tproxyAddr, reg1)
	e.u32(tproxyPort, reg2)
	e.finish(elem, data)
	return nil
}
