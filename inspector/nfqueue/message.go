package nfqueue

import "encoding/binary"

// Numbers of linux/netlink.h, linux/netfilter/nfnetlink.h and nfnetlink_queue.h.
const (
	subsystem  = 3 << 8 // NFNL_SUBSYS_QUEUE
	msgPacket  = subsystem
	msgVerdict = subsystem | 1
	msgConfig  = subsystem | 2

	attrHeader   = 1 // struct nfqnl_msg_packet_hdr: id be32, protocol be16, hook u8
	attrVerdict  = 2 // struct nfqnl_msg_verdict_hdr: verdict be32, id be32
	attrMark     = 3
	attrInDev    = 5
	attrMAC      = 9 // struct nfqnl_msg_packet_hw: length be16, pad, address
	attrPayload  = 10
	attrUID      = 16
	attrPriority = 21

	cfgCommand = 1 // struct nfqnl_msg_config_cmd: command u8, pad, family be16
	cfgParams  = 2 // struct nfqnl_msg_config_params: range be32, mode u8
	cfgLength  = 3
	cfgMask    = 4
	cfgFlags   = 5

	commandBind = 1
	copyPacket  = 2
	flagOpen    = 1 << 0 // NFQA_CFG_F_FAIL_OPEN, kernel 3.6
	flagGSO     = 1 << 2 // NFQA_CFG_F_GSO, kernel 3.10: no segmentation on the way here
	flagUID     = 1 << 3 // NFQA_CFG_F_UID_GID, kernel 4.0

	verdictDrop   = 0
	verdictAccept = 1

	headerSize = 16 // struct nlmsghdr
	genericLen = 4  // struct nfgenmsg
	attrType   = 1<<14 - 1

	nlmsgError = 2 // NLMSG_ERROR
	nlmRequest = 1 // NLM_F_REQUEST
)

// parse reads an announcement: struct nfgenmsg, then attributes.
func parse(b []byte, p *Packet) bool {
	*p = Packet{}
	if len(b) < genericLen {
		return false
	}
	known := false
	for b = b[genericLen:]; len(b) >= 4; {
		n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&attrType
		if n < 4 || n > len(b) {
			return false
		}
		value := b[4:n]
		switch {
		case kind == attrPayload:
			p.Payload = value
		case len(value) < 4: // all others have more
		case kind == attrHeader && len(value) >= 7:
			p.ID, p.Hook, known = binary.BigEndian.Uint32(value), value[6], true
		case kind == attrMark:
			p.Mark = binary.BigEndian.Uint32(value)
		case kind == attrInDev:
			p.In = binary.BigEndian.Uint32(value)
		case kind == attrUID:
			p.UID, p.HasUID = binary.BigEndian.Uint32(value), true
		case kind == attrMAC && len(value) >= 10 && binary.BigEndian.Uint16(value) == 6:
			p.MAC, p.HasMAC = [6]byte(value[4:10]), true
		}
		b = b[min(align(n), len(b)):]
	}
	return known
}

func align(n int) int { return (n + 3) &^ 3 }

// appendVerdict appends the whole netlink message that gives a packet's verdict.
func appendVerdict(b []byte, queue uint16, v Answer) []byte {
	start := len(b)
	b = appendHeader(b, msgVerdict, queue)
	b = appendAttr(b, attrVerdict, 8)
	answer := uint32(verdictAccept)
	if v.Drop {
		answer = verdictDrop
	}
	b = binary.BigEndian.AppendUint32(b, answer)
	b = binary.BigEndian.AppendUint32(b, v.ID)
	if !v.Drop && v.Priority != 0 {
		b = appendAttr(b, attrPriority, 4)
		b = binary.BigEndian.AppendUint32(b, v.Priority)
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// appendHeader appends struct nlmsghdr, whose length comes later, and struct nfgenmsg.
func appendHeader(b []byte, kind, queue uint16) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, nlmRequest)
	b = append(b, make([]byte, 8)...) // sequence, port: the kernel's
	return append(b, 0, 0, byte(queue>>8), byte(queue))
}

// appendAttr appends an attribute's header for a value of n bytes.
func appendAttr(b []byte, kind uint16, n int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+n))
	return binary.NativeEndian.AppendUint16(b, kind)
}
