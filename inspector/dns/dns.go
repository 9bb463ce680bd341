// Package dns reads DNS messages off the wire (RFC 1035) and keeps what names
// and addresses need: the question, and for an answer the addresses that the
// question's CNAME chain ends in.
//
//	m, err := dns.Parse(payload)
//	if err == nil && m.Response { use(m.Answer) }
//
// It is pure, and safe on hostile input: every loop is bounded by the message.
package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

const (
	// maxRecords bounds the answer records read of one message. Real answers
	// have a few dozen; a 64 KiB TCP message could hold four thousand.
	maxRecords = 256
	// maxChain bounds a CNAME chain; resolvers give up between 8 and 17.
	maxChain = 16
	// maxAddrs bounds the addresses kept of one answer.
	maxAddrs = 64
	// MaxMessage is the largest message over TCP (RFC 1035, 4.2.2).
	MaxMessage = 65535
)

// ErrNoQuestion is returned for messages that are not one plain question or its answer.
var ErrNoQuestion = errors.New("not a query or answer with exactly one question")

// Message is what a DNS message says to us.
type Message struct {
	ID       uint16
	Response bool
	// Question is the queried name as sent, lower-cased, without the trailing
	// dot; "" for the root.
	Question string
	Type     dnsmessage.Type
	// Answer is set for successful responses that hold addresses, or an HTTPS or
	// SVCB record that tells something else: Name is the question in canonical
	// form. It is empty otherwise.
	Answer inspector.Answer
	// ECH is true when one of these records has keys for encrypted hellos: the
	// name in the ClientHello that follows may be an outer one.
	ECH bool
}

// Parse reads one message without its TCP length. Records after a broken one
// are lost; those before it count.
func Parse(b []byte) (Message, error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil {
		return Message{}, fmt.Errorf("parse dns header: %w", err)
	}
	// The parser keeps the section counts to itself; QDCOUNT is bytes 4 and 5.
	if h.OpCode != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return Message{}, ErrNoQuestion
	}
	q, err := p.Question()
	if err != nil {
		return Message{}, fmt.Errorf("parse dns question: %w", err)
	}
	m := Message{ID: h.ID, Response: h.Response, Question: key(q.Name), Type: q.Type}
	if !h.Response || h.RCode != dnsmessage.RCodeSuccess || q.Class != dnsmessage.ClassINET {
		return m, nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return m, fmt.Errorf("parse dns question: %w", err)
	}
	name, err := flow.CanonicalName(origin(m.Question, m.Type))
	if err != nil {
		return m, nil // such as the root, or a name that no rule can have
	}
	found := resolve(records(&p), m.Question)
	m.ECH = found.ech
	if len(found.addrs) > 0 || found.alpn != "" || found.ech {
		m.Answer = inspector.Answer{Name: name, Addrs: found.addrs, TTL: time.Duration(found.ttl) * time.Second, ALPN: found.alpn}
	}
	return m, nil
}

// origin is the name that programs connect to by what a question asks: without
// the labels for port and service in front (RFC 9460, 2.3 and 9.1).
func origin(question string, t dnsmessage.Type) string {
	if t == dnsmessage.TypeHTTPS || t == dnsmessage.TypeSVCB {
		for strings.HasPrefix(question, "_") {
			_, question, _ = strings.Cut(question, ".")
		}
	}
	return question
}

// record is what an answer gives to a name.
type record struct {
	owner string
	ttl   uint32
	alias string       // CNAME, or the target of HTTPS and SVCB
	addrs []netip.Addr // A, AAAA, or hints of HTTPS and SVCB
	alpn  string
	ech   bool
}

// records reads the answer section as far as it is sound.
func records(p *dnsmessage.Parser) []record {
	var out []record
	for range maxRecords {
		h, err := p.AnswerHeader()
		if err != nil {
			return out
		}
		r := record{owner: key(h.Name), ttl: h.TTL}
		switch {
		case h.Class != dnsmessage.ClassINET:
			err = p.SkipAnswer()
		case h.Type == dnsmessage.TypeA:
			var a dnsmessage.AResource
			a, err = p.AResource()
			r.addrs = []netip.Addr{netip.AddrFrom4(a.A)}
		case h.Type == dnsmessage.TypeAAAA:
			var a dnsmessage.AAAAResource
			a, err = p.AAAAResource()
			r.addrs = []netip.Addr{netip.AddrFrom16(a.AAAA).Unmap()}
		case h.Type == dnsmessage.TypeCNAME:
			var c dnsmessage.CNAMEResource
			c, err = p.CNAMEResource()
			r.alias = key(c.CNAME)
		case h.Type == dnsmessage.TypeHTTPS:
			var svc dnsmessage.HTTPSResource
			svc, err = p.HTTPSResource()
			r.service(svc.SVCBResource)
		case h.Type == dnsmessage.TypeSVCB:
			var svc dnsmessage.SVCBResource
			svc, err = p.SVCBResource()
			r.service(svc)
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			return out
		}
		if r.alias != "" || len(r.addrs) > 0 || r.alpn != "" || r.ech {
			out = append(out, r)
		}
	}
	return out
}

// service takes an HTTPS or SVCB record (RFC 9460): an alias, or a service with
// hints of where it is. The hints are addresses that programs connect to before
// they have asked for the target's own.
func (r *record) service(svc dnsmessage.SVCBResource) {
	r.alias = key(svc.Target)
	if svc.Priority == 0 {
		return
	}
	hints := func(k dnsmessage.SVCParamKey, size int) {
		list, _ := svc.GetParam(k)
		for len(list) >= size && len(r.addrs) < maxAddrs {
			a, _ := netip.AddrFromSlice(list[:size])
			r.addrs = append(r.addrs, a.Unmap())
			list = list[size:]
		}
	}
	hints(dnsmessage.SVCParamIPv4Hint, 4)
	hints(dnsmessage.SVCParamIPv6Hint, 16)
	_, r.ech = svc.GetParam(dnsmessage.SVCParamECH)
	list, _ := svc.GetParam(dnsmessage.SVCParamALPN)
	r.alpn = flow.JoinALPN(func(yield func([]byte) bool) {
		for len(list) > 0 && len(list) > int(list[0]) {
			n := 1 + int(list[0])
			if !yield(list[1:n]) {
				return
			}
			list = list[n:]
		}
	})
}

// found is what hangs on a question's chain.
type found struct {
	addrs []netip.Addr
	ttl   uint32 // the least one met
	alpn  string
	ech   bool
}

// resolve follows the aliases from name to the first addresses. Records that do
// not hang on the chain don't count.
func resolve(records []record, name string) found {
	f := found{ttl: ^uint32(0)}
	for range maxChain {
		next := ""
		for _, r := range records {
			if r.owner != name {
				continue
			}
			f.ttl = min(f.ttl, seconds(r.ttl))
			f.addrs = append(f.addrs, r.addrs[:min(len(r.addrs), maxAddrs-len(f.addrs))]...)
			f.ech = f.ech || r.ech
			if f.alpn == "" {
				f.alpn = r.alpn
			}
			if r.alias != "" {
				next = r.alias
			}
		}
		if len(f.addrs) > 0 || next == "" {
			break
		}
		name = next
	}
	return f
}

// seconds reads a TTL: with the top bit set it is zero (RFC 2181, 8).
func seconds(ttl uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return ttl
}

// key is the form in which names of one message are compared (RFC 4343; this
// undoes the random case that some resolvers use).
func key(n dnsmessage.Name) string {
	return strings.ToLower(strings.TrimSuffix(n.String(), "."))
}

// Next cuts the first message off a TCP stream: its bytes and the rest. ok is
// false while the message is incomplete.
func Next(stream []byte) (msg, rest []byte, ok bool) {
	if len(stream) < 2 {
		return nil, stream, false
	}
	n := int(binary.BigEndian.Uint16(stream))
	if len(stream) < 2+n {
		return nil, stream, false
	}
	return stream[2 : 2+n], stream[2+n:], true
}
