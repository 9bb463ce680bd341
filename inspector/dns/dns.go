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
	// Answer is set for successful responses that hold addresses: Name is the
	// question in canonical form. It is empty (no Addrs) otherwise.
	Answer inspector.Answer
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
	name, err := flow.CanonicalName(m.Question)
	if err != nil {
		return m, nil // such as the root, or a name that no rule can have
	}
	addrs, ttl := resolve(records(&p), m.Question)
	if len(addrs) > 0 {
		m.Answer = inspector.Answer{Name: name, Addrs: addrs, TTL: ttl}
	}
	return m, nil
}

// record is an address or alias that an answer gives to a name.
type record struct {
	owner string
	ttl   uint32
	alias string     // CNAME
	addr  netip.Addr // A, AAAA
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
			r.addr = netip.AddrFrom4(a.A)
		case h.Type == dnsmessage.TypeAAAA:
			var a dnsmessage.AAAAResource
			a, err = p.AAAAResource()
			r.addr = netip.AddrFrom16(a.AAAA).Unmap()
		case h.Type == dnsmessage.TypeCNAME:
			var c dnsmessage.CNAMEResource
			c, err = p.CNAMEResource()
			r.alias = key(c.CNAME)
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			return out
		}
		if r.alias != "" || r.addr.IsValid() {
			out = append(out, r)
		}
	}
	return out
}

// resolve follows the aliases from name and returns the addresses at the end,
// with the least TTL met. Records that do not hang on the chain don't count.
func resolve(records []record, name string) (addrs []netip.Addr, ttl time.Duration) {
	least := ^uint32(0)
	for range maxChain {
		next := ""
		for _, r := range records {
			if r.owner != name {
				continue
			}
			if r.alias != "" {
				next = r.alias
				least = min(least, seconds(r.ttl))
			} else if len(addrs) < maxAddrs {
				addrs = append(addrs, r.addr)
				least = min(least, seconds(r.ttl))
			}
		}
		if len(addrs) > 0 || next == "" {
			break
		}
		name = next
	}
	return addrs, time.Duration(least) * time.Second
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
