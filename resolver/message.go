package resolver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Types, classes and response codes (IANA DNS parameters).
const (
	typeA      = 1
	typeCNAME  = 5
	typeSOA    = 6
	typeAAAA   = 28
	typeDNAME  = 39
	typeOPT    = 41
	typeRRSIG  = 46
	typeSVCB   = 64
	typeHTTPS  = 65
	classIN    = 1
	firstQType = 128 // up to 255: types of questions alone, such as ANY and AXFR (RFC 6895, 3.1)
	lastQType  = 255

	rcodeFormErr  = 1
	rcodeServFail = 2
	rcodeNXDomain = 3
	rcodeNotImp   = 4
	rcodeRefused  = 5
	rcodeBadVers  = 16

	// Extended errors (RFC 8914).
	edeNone        = -1
	edeBlocked     = 15
	edeNoReachable = 22

	// Header flags (RFC 1035, 4.1.1; RFC 4035, 3), and sizes.
	flagsResponse    = 1 << 15
	flagsTruncated   = 1 << 9
	flagsRecursion   = 1 << 8
	flagsAvailable   = 1 << 7
	flagsAuthentic   = 1 << 5
	flagsNoChecking  = 1 << 4
	flagsOpcode      = 0xf << 11
	headerLen        = 12
	optLen           = 11 // an OPT record without options
	maxPayload       = 1232
	minPayload       = 512
	maxTCP           = 65535
	maxNameWire      = 255
	blockedTTL       = 10 // seconds; a policy may change
	pointerToQuery   = 0xc000 | headerLen
	flagDO           = 1 << 15
	maxRecordsInAns  = 4096
	negativeAtMost   = 3600  // seconds; RFC 2308, 5 advises one to three hours
	positiveAtMost   = 86400 // names move faster than what RFC 8767, 4 would keep
	extendedErrorOpt = 15
)

// query is a client's question. It keeps the bytes it was read from.
type query struct {
	id       uint16
	flags    uint16
	wire     []byte // name, type and class, as sent
	qtype    uint16
	edns, do bool
	payload  int // what the client takes over UDP
}

// verdict says what becomes of a message before anyone looks at its name.
type verdict uint8

const (
	sound     verdict = iota
	silence           // no answer: it is none, or nobody asked
	malformed         // FORMERR
	refused           // REFUSED
	notImp            // NOTIMP
	badVers           // BADVERS
)

var verdictCodes = [...]int{malformed: rcodeFormErr, refused: rcodeRefused, notImp: rcodeNotImp, badVers: rcodeBadVers}

// readQuery reads a message from a client. For the verdicts that are answered, q
// has the ID, and the question if it could be read.
func readQuery(b []byte) (q query, v verdict) {
	if len(b) < headerLen {
		return q, silence
	}
	q.id, q.flags, q.payload = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), minPayload
	switch {
	case q.flags&flagsResponse != 0:
		return q, silence // answering answers makes loops
	case q.flags&flagsOpcode != 0:
		return q, notImp
	case binary.BigEndian.Uint16(b[4:]) != 1:
		return q, malformed
	}
	off := headerLen
	for off < len(b) && b[off] != 0 { // a name without pointers: nothing precedes it
		if b[off] > 63 {
			return q, malformed
		}
		off += 1 + int(b[off])
	}
	off++
	if off+4 > len(b) || off-headerLen > maxNameWire {
		return q, malformed
	}
	q.wire = b[headerLen : off+4]
	class := binary.BigEndian.Uint16(b[off+2:])
	q.qtype = binary.BigEndian.Uint16(b[off:])
	if q.qtype >= firstQType && q.qtype <= lastQType || q.qtype == typeOPT || q.qtype == 0 || class != classIN {
		return q, refused
	}
	if b[6]|b[7]|b[8]|b[9] != 0 {
		return q, malformed // records where a question has none
	}
	return q, q.readAdditional(b, off+4)
}

// readAdditional finds EDNS among the records behind the question.
func (q *query) readAdditional(b []byte, off int) verdict {
	w := walk{msg: b, off: off}
	for range binary.BigEndian.Uint16(b[10:]) {
		rr, ok := w.next()
		if !ok {
			return malformed
		}
		if rr.rtype != typeOPT {
			continue
		}
		if q.edns || rr.dataAt-rr.at != optLen {
			return malformed // a second one, or not the root's (RFC 6891, 6.1.1)
		}
		q.edns, q.do = true, rr.ttl&flagDO != 0
		q.payload = min(max(int(rr.class), minPayload), maxPayload)
		if rr.ttl>>16&0xff != 0 {
			return badVers
		}
	}
	if w.off != len(b) {
		return malformed
	}
	return sound
}

// name returns the name as Choose wants it.
func (q *query) name() string {
	var s strings.Builder
	labels := q.wire[:len(q.wire)-4]
	s.Grow(len(labels))
	for len(labels) > 1 {
		n := int(labels[0])
		if s.Len() > 0 {
			s.WriteByte('.')
		}
		for _, c := range labels[1 : 1+n] {
			if c <= ' ' || c >= 0x7f || c == '.' || c == '\\' {
				fmt.Fprintf(&s, `\%03d`, c)
			} else {
				s.WriteByte(lower(c))
			}
		}
		labels = labels[1+n:]
	}
	return s.String()
}

// forward makes the question for an upstream. It says nothing of the client but
// what changes the answer: name, type, DO and CD.
func (q *query) forward(edns bool) []byte {
	b := make([]byte, headerLen, headerLen+len(q.wire)+optLen)
	binary.BigEndian.PutUint16(b[2:], flagsRecursion|flagsAuthentic|q.flags&flagsNoChecking)
	b[5] = 1
	b = appendLower(b, q.wire)
	if edns {
		b = appendOPT(b, 0, q.do, edeNone)
	}
	return b
}

// appendLower appends name, type and class with the name in lower case.
func appendLower(b, wire []byte) []byte {
	n := len(b)
	b = append(b, wire...)
	for i := n; i < len(b)-4; i++ {
		b[i] = lower(b[i]) // lengths are below 'A'
	}
	return b
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// appendOPT appends EDNS and counts it in the header.
func appendOPT(b []byte, rcode int, do bool, ede int) []byte {
	ttl := uint32(rcode>>4) << 24
	if do {
		ttl |= flagDO
	}
	b = append(b, 0, 0, typeOPT)
	b = binary.BigEndian.AppendUint16(b, maxPayload)
	b = binary.BigEndian.AppendUint32(b, ttl)
	if ede == edeNone {
		b = append(b, 0, 0)
	} else {
		b = append(b, 0, 6, 0, extendedErrorOpt, 0, 2)
		b = binary.BigEndian.AppendUint16(b, uint16(ede))
	}
	binary.BigEndian.PutUint16(b[10:], binary.BigEndian.Uint16(b[10:])+1)
	return b
}

// reject appends to dst an answer without records.
func (q *query) reject(dst []byte, rcode, ede int) []byte {
	at := len(dst)
	dst = q.head(dst, rcode)
	if q.edns {
		m := appendOPT(dst[at:], rcode, q.do, ede)
		dst = append(dst[:at], m...)
	}
	return dst
}

// head appends header and question of an answer.
func (q *query) head(dst []byte, rcode int) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, headerLen)...)
	binary.BigEndian.PutUint16(dst[at:], q.id)
	flags := flagsResponse | flagsAvailable | q.flags&(flagsOpcode|flagsRecursion|flagsNoChecking) | uint16(rcode&0xf)
	binary.BigEndian.PutUint16(dst[at+2:], flags)
	if q.wire != nil {
		dst[at+5] = 1
		dst = append(dst, q.wire...)
	}
	return dst
}

// block makes the answer for a blocked name.
func (q *query) block(how BlockedAnswer) []byte {
	size := 0
	rcode := rcodeNXDomain
	if how == ZeroAddress {
		rcode = 0
		switch q.qtype {
		case typeA:
			size = 4
		case typeAAAA:
			size = 16
		}
	}
	b := q.head(nil, rcode)
	b = binary.BigEndian.AppendUint16(b, pointerToQuery)
	if size > 0 {
		b[7] = 1
		b = binary.BigEndian.AppendUint16(b, q.qtype)
	} else {
		b[9] = 1
		size = 2 + 5*4 // two root names, five numbers
		b = binary.BigEndian.AppendUint16(b, typeSOA)
	}
	b = append(b, 0, classIN, 0, 0, 0, blockedTTL, 0, byte(size))
	b = append(b, make([]byte, size)...)
	if b[9] == 1 {
		b[len(b)-1] = blockedTTL // the SOA's minimum
	}
	if q.edns {
		b = appendOPT(b, rcode, q.do, edeBlocked)
	}
	return b
}

// walk steps through records.
type walk struct {
	msg []byte
	off int
}

// record is where a record stands in its message.
type record struct {
	at, dataAt   int
	rtype, class uint16
	ttl          uint32
	data         []byte
}

// next reads one record; false if it is broken.
func (w *walk) next() (record, bool) {
	rr := record{at: w.off}
	off, ok := skipName(w.msg, w.off)
	if !ok || off+10 > len(w.msg) {
		return rr, false
	}
	rr.rtype, rr.class = binary.BigEndian.Uint16(w.msg[off:]), binary.BigEndian.Uint16(w.msg[off+2:])
	rr.ttl = binary.BigEndian.Uint32(w.msg[off+4:])
	rr.dataAt = off + 10
	end := rr.dataAt + int(binary.BigEndian.Uint16(w.msg[off+8:]))
	if end > len(w.msg) {
		return rr, false
	}
	rr.data = w.msg[rr.dataAt:end]
	w.off = end
	return rr, true
}

// skipName returns the offset behind a name that may end in a pointer.
func skipName(b []byte, off int) (int, bool) {
	for off < len(b) {
		switch c := b[off]; {
		case c == 0:
			return off + 1, true
		case c < 64:
			off += 1 + int(c)
		case c >= 0xc0:
			return off + 2, off+2 <= len(b)
		default:
			return 0, false
		}
	}
	return 0, false
}

// matches reports whether reply answers what query asked.
func matches(reply, query []byte) bool {
	if len(reply) < headerLen || reply[0] != query[0] || reply[1] != query[1] {
		return false
	}
	flags := binary.BigEndian.Uint16(reply[2:])
	if flags&flagsResponse == 0 || flags&flagsOpcode != 0 {
		return false
	}
	count := binary.BigEndian.Uint16(reply[4:])
	if rcode := flags & 0xf; count == 0 && (rcode == rcodeFormErr || rcode == rcodeNotImp) {
		return true // a server that could not read it repeats nothing
	}
	end, _ := skipName(query, headerLen)
	end += 4
	if count != 1 || len(reply) < end {
		return false
	}
	for i := headerLen; i < end; i++ {
		if c := reply[i]; c != query[i] && (i >= end-4 || lower(c) != query[i]) {
			return false
		}
	}
	return true
}

func isTruncated(b []byte) bool { return binary.BigEndian.Uint16(b[2:])&flagsTruncated != 0 }

// answer is an upstream's reply without its EDNS, ready for any client. It is
// immutable.
type answer struct {
	msg  []byte
	ttls []uint16 // where TTLs stand in msg
	// life is how long it may be kept, in seconds; 0: not at all.
	life uint32
	edns bool // the upstream knows EDNS
	// learn is what the answer tells of addresses.
	learn Answer
}

func (a *answer) rcode() int { return int(a.msg[3] & 0xf) }

var errBroken = errors.New("the reply is broken")

// readAnswer reads a reply that matches q, and takes msg over.
func readAnswer(msg []byte, q *query) (*answer, error) {
	if len(msg) > maxTCP {
		return nil, errBroken
	}
	if binary.BigEndian.Uint16(msg[4:]) == 0 { // see matches
		if msg = (&query{wire: q.wire}).head(nil, int(msg[3]&0xf)); len(msg) < headerLen {
			return nil, errBroken
		}
	}
	a := &answer{msg: msg}
	w := walk{msg: msg, off: headerLen + len(q.wire)}
	least, negative := uint32(positiveAtMost), uint32(0)
	found, records := false, 0
	for section := range 3 {
		for n := range binary.BigEndian.Uint16(msg[6+2*section:]) {
			rr, ok := w.next()
			if records++; !ok || records > maxRecordsInAns {
				return nil, errBroken
			}
			if rr.rtype == typeOPT {
				if section != 2 || rr.ttl>>24 != 0 {
					return nil, errBroken // misplaced, or an extended error code
				}
				// What is behind it is dropped too: names could point into the gap.
				a.edns = true
				a.msg = msg[:rr.at]
				binary.BigEndian.PutUint16(msg[10:], n)
				break
			}
			ttl := seconds(rr.ttl)
			a.ttls = append(a.ttls, uint16(rr.dataAt-6))
			switch {
			case section == 0:
				found = found || rr.rtype == q.qtype || rr.rtype != typeCNAME && rr.rtype != typeDNAME && rr.rtype != typeRRSIG
				least = min(least, ttl)
			case section == 1 && rr.rtype == typeSOA && len(rr.data) >= 4:
				negative = min(ttl, binary.BigEndian.Uint32(rr.data[len(rr.data)-4:]), negativeAtMost)
			}
		}
	}
	if !a.edns {
		a.msg = msg[:w.off] // EDNS is added right behind the records
	}
	switch a.rcode() {
	case 0:
		a.life = least
		if !found {
			a.life = min(least, negative)
		}
	case rcodeNXDomain:
		a.life = min(least, negative)
	}
	return a, nil
}

// seconds reads a TTL: with the top bit set it is zero (RFC 2181, 8).
func seconds(ttl uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}

// reply appends to dst the answer for q when it is age old. Longer than limit it
// is truncated. A TTL is at least least.
func (a *answer) reply(dst []byte, q *query, age, least uint32, limit int) (msg []byte, truncated bool) {
	at := len(dst)
	size := len(a.msg)
	if q.edns {
		size += optLen
	}
	if size > limit {
		dst = q.reject(dst, a.rcode(), edeNone)
		dst[at+2] |= flagsTruncated >> 8
		return dst, true
	}
	dst = append(dst, a.msg...)
	m := dst[at:]
	binary.BigEndian.PutUint16(m, q.id)
	flags := flagsResponse | flagsAvailable | q.flags&(flagsRecursion|flagsNoChecking) | uint16(a.rcode())
	if q.do || q.flags&flagsAuthentic != 0 { // RFC 6840, 5.8
		flags |= binary.BigEndian.Uint16(m[2:]) & flagsAuthentic
	}
	binary.BigEndian.PutUint16(m[2:], flags)
	copy(m[headerLen:], q.wire) // in the client's case
	for _, t := range a.ttls {
		ttl := seconds(binary.BigEndian.Uint32(m[t:]))
		binary.BigEndian.PutUint32(m[t:], max(ttl-min(ttl, age), least))
	}
	if q.edns {
		dst = append(dst[:at], appendOPT(m, 0, q.do, edeNone)...)
	}
	return dst, false
}

// failureLife is how long a failure is kept, in seconds: the least that RFC 9520,
// 3.2 wants.
const failureLife = 1

// failure is what is kept when nobody replies.
func (q *query) failure() *answer {
	return &answer{msg: (&query{wire: q.wire}).head(nil, rcodeServFail), life: failureLife}
}

// stripECH takes the ech parameter out of the HTTPS and SVCB records of a message.
func stripECH(b []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return nil, err
	}
	stripped := false
	for _, section := range [][]dnsmessage.Resource{m.Answers, m.Authorities, m.Additionals} {
		for i := range section {
			switch body := section[i].Body.(type) {
			case *dnsmessage.HTTPSResource:
				stripped = body.DeleteParam(dnsmessage.SVCParamECH) || stripped
			case *dnsmessage.SVCBResource:
				stripped = body.DeleteParam(dnsmessage.SVCParamECH) || stripped
			}
		}
	}
	if !stripped {
		return b, nil
	}
	return m.Pack()
}

// age returns whole seconds.
func age(d time.Duration) uint32 { return uint32(max(d, 0) / time.Second) }
