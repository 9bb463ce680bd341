package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// nlaAlign is the alignment of netlink messages and attributes (NLMSG_ALIGNTO, NLA_ALIGNTO).
const nlaAlign = 4

// maxPart bounds the elements of one message: the length of a netlink attribute
// has 16 bits, and one element has a few hundred bytes at most.
const maxPart = math.MaxUint16 - 1024

// What a message of a batch is about, for errors.
const (
	ofTable = iota
	ofChain
	ofSet
	ofElems
	ofRule
)

// origin says what a message is about: chain or set i, and its rule j.
type origin struct {
	kind uint8
	i, j int32
}

// batch is one nfnetlink transaction as bytes, message by message. Attributes
// are in the order in which they are added. The zero batch is empty.
type batch struct {
	b       []byte
	origins []origin // of the messages, by sequence number from 1
	open    int      // where the last message starts
	err     error    // the first attribute that was too long
}

// begin starts the transaction.
func (w *batch) begin() {
	w.header(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
}

// end ends the transaction. One that is sent without its end is tried and then
// forgotten.
func (w *batch) end() {
	w.seal()
	w.header(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	w.seal()
}

// message starts the next message, one of NFT_MSG_*, about family inet.
func (w *batch) message(kind, flags uint16, from origin) {
	w.seal()
	w.origins = append(w.origins, from)
	w.header(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, unix.NFPROTO_INET, 0)
}

// header writes struct nlmsghdr, whose length seal fills in, and struct nfgenmsg.
func (w *batch) header(kind, flags uint16, family uint8, resource uint16) {
	w.open = len(w.b)
	w.b = binary.NativeEndian.AppendUint32(w.b, 0)
	w.b = binary.NativeEndian.AppendUint16(w.b, kind)
	w.b = binary.NativeEndian.AppendUint16(w.b, unix.NLM_F_REQUEST|flags)
	w.b = binary.NativeEndian.AppendUint32(w.b, uint32(len(w.origins)))
	w.b = binary.NativeEndian.AppendUint32(w.b, 0)
	w.b = append(w.b, family, 0) // NFNETLINK_V0
	w.b = binary.BigEndian.AppendUint16(w.b, resource)
}

// seal fills in the length of the last message.
func (w *batch) seal() {
	if len(w.b) == 0 {
		return
	}
	binary.NativeEndian.PutUint32(w.b[w.open:], uint32(len(w.b)-w.open))
}

// attr starts an attribute; done ends it.
func (w *batch) attr(kind uint16) int {
	at := len(w.b)
	w.b = binary.NativeEndian.AppendUint16(w.b, 0)
	w.b = binary.NativeEndian.AppendUint16(w.b, kind)
	return at
}

// nest starts an attribute that consists of attributes.
func (w *batch) nest(kind uint16) int { return w.attr(kind | unix.NLA_F_NESTED) }

func (w *batch) done(at int) {
	n := len(w.b) - at
	if n > math.MaxUint16 && w.err == nil {
		w.err = fmt.Errorf("a netlink attribute of %d bytes", n)
	}
	binary.NativeEndian.PutUint16(w.b[at:], uint16(n))
	for len(w.b)%nlaAlign != 0 {
		w.b = append(w.b, 0)
	}
}

func (w *batch) bytes(kind uint16, b ...byte) {
	at := w.attr(kind)
	w.b = append(w.b, b...)
	w.done(at)
}

// text adds a string with its NUL.
func (w *batch) text(kind uint16, s string) {
	at := w.attr(kind)
	w.b = append(w.b, s...)
	w.b = append(w.b, 0)
	w.done(at)
}

// u16, u32 and u64 add numbers as nfnetlink wants them: big-endian.
func (w *batch) u16(kind, n uint16) {
	at := w.attr(kind)
	w.b = binary.BigEndian.AppendUint16(w.b, n)
	w.done(at)
}

func (w *batch) u32(kind uint16, n uint32) {
	at := w.attr(kind)
	w.b = binary.BigEndian.AppendUint32(w.b, n)
	w.done(at)
}

func (w *batch) u64(kind uint16, n uint64) {
	at := w.attr(kind)
	w.b = binary.BigEndian.AppendUint64(w.b, n)
	w.done(at)
}

// value adds NFTA_DATA_VALUE within an attribute.
func (w *batch) value(kind uint16, b ...byte) {
	at := w.nest(kind)
	w.bytes(unix.NFTA_DATA_VALUE, b...)
	w.done(at)
}

// Verdicts, as the kernel numbers them (include/uapi/linux/netfilter/nf_tables.h).
const (
	verdictDrop   = 0
	verdictJump   = unix.NFT_JUMP
	verdictGoto   = unix.NFT_GOTO
	verdictReturn = unix.NFT_RETURN
)

// verdict adds NFTA_DATA_VERDICT within an attribute.
func (w *batch) verdict(kind uint16, code int32, chain string) {
	at := w.nest(kind)
	v := w.nest(unix.NFTA_DATA_VERDICT)
	w.u32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		w.text(unix.NFTA_VERDICT_CHAIN, chain)
	}
	w.done(v)
	w.done(at)
}

// refusal is what the kernel said of one message.
type refusal struct {
	seq  uint32
	no   unix.Errno
	said string // its extended acknowledgement
}

var errShort = errors.New("short netlink answer")

// The parts of struct nlmsgerr and the attributes behind it (include/uapi/linux/netlink.h).
const (
	nlmsgHeader   = 16
	capped        = 0x100 // NLM_F_CAPPED
	ackTLVs       = 0x200 // NLM_F_ACK_TLVS
	attrErrorText = 1     // NLMSGERR_ATTR_MSG
)

// refusals reads the errors among the answers in b.
func refusals(b []byte) ([]refusal, error) {
	var list []refusal
	for len(b) > 0 {
		if len(b) < nlmsgHeader {
			return list, errShort
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < nlmsgHeader || n > len(b) {
			return list, errShort
		}
		kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		body := b[nlmsgHeader:n]
		b = b[min(len(b), (n+nlaAlign-1)&^(nlaAlign-1)):]
		if kind != unix.NLMSG_ERROR {
			continue
		}
		if len(body) < 4+nlmsgHeader {
			return list, errShort
		}
		no := int32(binary.NativeEndian.Uint32(body))
		if no == 0 {
			continue // an acknowledgement
		}
		r := refusal{seq: binary.NativeEndian.Uint32(body[4+8:]), no: unix.Errno(-no)}
		if flags&ackTLVs != 0 {
			rest := body[4+nlmsgHeader:]
			if flags&capped == 0 { // the whole message is quoted
				rest = rest[min(len(rest), max(0, int(binary.NativeEndian.Uint32(body[4:]))-nlmsgHeader)):]
			}
			r.said = errorText(rest)
		}
		list = append(list, r)
	}
	return list, nil
}

func errorText(b []byte) string {
	text := ""
	eachAttr(b, func(kind uint16, v []byte) {
		if kind == attrErrorText {
			text = string(trimNUL(v))
		}
	})
	return text
}

func trimNUL(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}
