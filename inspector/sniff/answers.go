package sniff

import (
	"hash/maphash"
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/dns"
	"netpolicy.dev/netpolicy/inspector/packet"
)

const (
	// maxQueries is how many questions wait for their answer: a resolver of a
	// thousand questions a second whose answers take seconds.
	maxQueries = 4096
	// queryLife is how long an answer is waited for; resolvers give up sooner.
	queryLife = 10 * time.Second
	// maxRecent segments are remembered to know a forwarded packet's second
	// copy, which follows the first at once.
	maxRecent  = 4096
	recentLife = time.Second
)

// dnsMessage takes one message, that came in by iface. A stream's answer needs no
// question: its connection was seen from the first SYN. answers is of cameIn.
func (s *Sniffer) dnsMessage(p packet.Packet, msg []byte, at time.Time, stream, answers bool, iface string) {
	m, err := dns.Parse(msg)
	if err != nil {
		return
	}
	if !m.Response {
		if !s.opt.Recorded && !stream {
			s.queries.add(query{p.Src, p.Dst, m.ID, m.Question}, at, iface, p.DSCP)
		}
		return
	}
	var asked *question
	if !s.opt.Recorded && !stream {
		asked = s.queries.find(query{p.Dst, p.Src, m.ID, m.Question}, at)
	}
	if asked != nil && answers {
		s.resolved(asked, p, at)
	}
	if len(m.Answer.Addrs) == 0 && (!s.opt.Details || m.Answer.Name == "") {
		return
	}
	if !s.opt.Recorded {
		if !stream && asked == nil {
			s.Counters.Unsolicited++
			return
		}
		// The same answer passes by twice when it is forwarded through NAT.
		if s.recent.seen(maphash.Bytes(s.recent.seeded(), msg), at) {
			s.Counters.Duplicates++
			return
		}
	}
	s.Counters.Answers++
	s.emit(inspector.Event{Kind: inspector.Answered, At: at, Source: s.source, Answer: m.Answer, ECH: m.ECH})
}

// query is a question under way.
type query struct {
	client, server netip.AddrPort
	id             uint16
	name           string
}

// question is when and how it was asked.
type question struct {
	at    time.Time // the last time
	iface string    // by which it came in first; "": from this host
	dscp  uint8
	trip  trip
}

// queries holds the questions under way, the oldest of which make room.
type queries struct {
	open map[query]*question
	ring []query
	at   int
}

func (q *queries) add(k query, now time.Time, iface string, dscp uint8) {
	if q.open == nil {
		q.open = make(map[query]*question)
	}
	asked, again := q.open[k]
	if !again {
		if len(q.ring) < maxQueries {
			q.ring = append(q.ring, k)
		} else {
			delete(q.open, q.ring[q.at])
			q.ring[q.at] = k
			q.at = (q.at + 1) % maxQueries
		}
	}
	if !again || now.Sub(asked.at) > queryLife {
		asked = &question{iface: iface, dscp: dscp}
		q.open[k] = asked
	}
	asked.at = now
	if iface != "" && asked.iface != "" {
		asked.trip.ask(now)
	}
}

// find returns the question, nil when it was not asked or is too old. It stays:
// forwarded answers are seen twice.
func (q *queries) find(k query, now time.Time) *question {
	if asked := q.open[k]; asked != nil && now.Sub(asked.at) <= queryLife {
		return asked
	}
	return nil
}

// fingerprint hashes what of a segment stays the same when NAT changes its source.
func fingerprint(seed maphash.Seed, p packet.Packet) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, struct {
		dst   netip.AddrPort
		seq   uint32
		flags packet.Flags
	}{p.Dst, p.Seq, p.Flags})
	const enough = 64 // covers a ClientHello's random
	_, _ = h.Write(p.Payload[:min(len(p.Payload), enough)])
	return h.Sum64()
}

// recent remembers fingerprints for a short time.
type recent struct {
	seed maphash.Seed
	made bool
	set  map[uint64]time.Time
	ring []uint64
	at   int
}

func (r *recent) seeded() maphash.Seed {
	if !r.made {
		r.seed, r.made = maphash.MakeSeed(), true
		r.set = make(map[uint64]time.Time)
	}
	return r.seed
}

// has reports whether h was entered lately.
func (r *recent) has(h uint64, now time.Time) bool {
	at, ok := r.set[h]
	return ok && now.Sub(at) <= recentLife
}

// seen reports whether h was entered lately, and enters it.
func (r *recent) seen(h uint64, now time.Time) bool {
	r.seeded()
	if at, ok := r.set[h]; ok {
		r.set[h] = now
		return now.Sub(at) <= recentLife
	}
	if len(r.ring) < maxRecent {
		r.ring = append(r.ring, h)
	} else {
		delete(r.set, r.ring[r.at])
		r.ring[r.at] = h
		r.at = (r.at + 1) % maxRecent
	}
	r.set[h] = now
	return false
}
