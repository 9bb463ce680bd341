package resolver

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestReadQuery(t *testing.T) {
	good := question(t, "Api.Zoom.us.", dnsmessage.TypeA, 0)
	edns := question(t, "api.zoom.us.", dnsmessage.TypeA, 4096)
	opt := edns[len(good):]
	with := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	long := append(bytes.Clone(good[:headerLen]), bytes.Repeat([]byte{1, 'a'}, 127)...)
	for _, c := range []struct {
		name string
		msg  []byte
		want verdict
	}{
		{"good", good, sound},
		{"edns", edns, sound},
		{"empty", nil, silence},
		{"header cut", good[:11], silence},
		{"an answer", with(good, 2, 0x81), silence},
		{"header alone", good[:12], malformed},
		{"name cut", good[:16], malformed},
		{"type cut", good[:len(good)-3], malformed},
		{"pointer", with(good, headerLen, 0xc0), malformed},
		{"label of 64", with(good, headerLen, 64), malformed},
		{"no question", with(good, 5, 0), malformed},
		{"two questions", with(good, 5, 2), malformed},
		{"an answer section", with(good, 7, 1), malformed},
		{"something behind", append(bytes.Clone(good), 0), malformed},
		{"two OPT", with(append(bytes.Clone(edns), opt...), 11, 2), malformed},
		{"OPT cut", edns[:len(edns)-1], malformed},
		{"name of 255", append(bytes.Clone(long), 0, 0, 1, 0, 1), sound},
		{"name of 257", append(bytes.Clone(long), 1, 'a', 0, 0, 1, 0, 1), malformed},
		{"NOTIFY", with(good, 2, 0x20), notImp},
		{"EDNS 1", with(edns, len(edns)-5, 1), badVers},
		{"ANY", with(good, len(good)-3, 255), refused},
		{"AXFR", with(good, len(good)-3, 252), refused},
		{"CHAOS", with(good, len(good)-1, 3), refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, v := readQuery(c.msg)
			if v != c.want {
				t.Fatalf("verdict %d, want %d", v, c.want)
			}
			if v != sound && v != silence {
				if m := unpack(t, q.reject(nil, verdictCodes[v], edeNone)); int(m.RCode) != verdictCodes[v]&0xf {
					t.Errorf("rejected with %v", m.RCode)
				}
			}
		})
	}
	q, _ := readQuery(good)
	if q.name() != "api.zoom.us" || q.payload != 512 {
		t.Errorf("%q, %d", q.name(), q.payload)
	}
	if q, _ := readQuery(edns); q.payload != maxPayload || !q.edns || q.do {
		t.Errorf("%+v", q)
	}
	q = query{wire: []byte("\x09a.corp\\\x00\xff\x02US\x00\x00\x01\x00\x01")}
	if got := q.name(); got != `a\046corp\092\000\255.us` {
		t.Errorf("a label with dots is %q", got)
	}
}

// TestLife: how long an answer may be kept (RFC 2308).
func TestLife(t *testing.T) {
	name := dnsmessage.MustNewName("a.example.")
	a := func(ttl uint32) dnsmessage.Resource {
		return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}, Body: &dnsmessage.AResource{}}
	}
	cname := func(ttl uint32) dnsmessage.Resource {
		return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}, Body: &dnsmessage.CNAMEResource{CNAME: name}}
	}
	type list = []dnsmessage.Resource
	for _, c := range []struct {
		what      string
		rcode     dnsmessage.RCode
		answers   list
		authority list
		want      uint32
	}{
		{"the least", 0, list{a(300), a(20)}, list{soa(5, 5)}, 20},
		{"bounded", 0, list{a(1e9)}, nil, positiveAtMost},
		{"top bit", 0, list{a(1 << 31)}, nil, 0},
		{"alias", 0, list{cname(10), a(300)}, nil, 10},
		{"no such name", dnsmessage.RCodeNameError, nil, list{soa(60, 30)}, 30},
		{"no such name, SOA's TTL", dnsmessage.RCodeNameError, nil, list{soa(20, 30)}, 20},
		{"no such name, bounded", dnsmessage.RCodeNameError, nil, list{soa(1e6, 1e6)}, negativeAtMost},
		{"no such name, without SOA", dnsmessage.RCodeNameError, nil, nil, 0},
		{"no such type", 0, nil, list{soa(60, 30)}, 30},
		{"no such type behind an alias", 0, list{cname(10)}, list{soa(60, 30)}, 10},
		{"no such type, without SOA", 0, list{cname(10)}, nil, 0},
		{"failure", dnsmessage.RCodeServerFailure, nil, list{soa(60, 30)}, 0},
	} {
		m := dnsmessage.Message{
			Header:    dnsmessage.Header{Response: true, RCode: c.rcode},
			Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
			Answers:   c.answers, Authorities: c.authority,
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		q, _ := readQuery(question(t, "a.example.", dnsmessage.TypeA, 0))
		got, err := readAnswer(b, &q)
		if err != nil || got.life != c.want {
			t.Errorf("%s: kept %d s, want %d (%v)", c.what, got.life, c.want, err)
		}
	}
}

// TestUnknownTypes: a record of a type that nobody here knows passes unchanged.
func TestUnknownTypes(t *testing.T) {
	s := serve(t, "127.0.0.1", func(_ string, m dnsmessage.Message) *dnsmessage.Message {
		r := replyTo(m)
		r.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.UnknownResource{Type: 65534, Data: []byte("\x00\xc0\x0c whatever")},
		}}
		return r
	})
	_, addr := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}})
	m := askUDP(t, addr, question(t, "a.example.", 65534, 0))
	if len(m.Answers) != 1 || string(m.Answers[0].Body.(*dnsmessage.UnknownResource).Data) != "\x00\xc0\x0c whatever" {
		t.Errorf("got %+v", m)
	}
}

// TestHTTPS: the hints of an HTTPS record are learned, and ECH is taken out if so
// wished.
func TestHTTPS(t *testing.T) {
	s := serve(t, "127.0.0.1", func(_ string, m dnsmessage.Message) *dnsmessage.Message {
		r := replyTo(m)
		svc := dnsmessage.SVCBResource{Priority: 1, Target: dnsmessage.MustNewName(".")}
		svc.SetParam(dnsmessage.SVCParamALPN, []byte("\x02h2"))
		svc.SetParam(dnsmessage.SVCParamIPv4Hint, []byte{192, 0, 2, 9})
		svc.SetParam(dnsmessage.SVCParamECH, []byte("a config"))
		r.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeHTTPS, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.HTTPSResource{SVCBResource: svc},
		}}
		return r
	})
	for _, strip := range []bool{false, true} {
		var learned recorder
		_, addr := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}, StripECH: strip, Learn: learned.learn})
		m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeHTTPS, 1232))
		svc := m.Answers[0].Body.(*dnsmessage.HTTPSResource)
		_, ech := svc.GetParam(dnsmessage.SVCParamECH)
		alpn, _ := svc.GetParam(dnsmessage.SVCParamALPN)
		if ech == strip || string(alpn) != "\x02h2" {
			t.Errorf("strip %v: ech %v, alpn %q", strip, ech, alpn)
		}
		if got := fmt.Sprint(learned.learned()); got != "[{a.example [192.0.2.9] 1m30s}]" {
			t.Errorf("learned %s", got)
		}
	}
}

// TestReplyAllocs: an answer from the cache costs nothing but its key.
func TestReplyAllocs(t *testing.T) {
	q, _ := readQuery(question(t, "a.example.", dnsmessage.TypeA, 1232))
	b, err := addressed(300, "192.0.2.7")("", unpack(t, q.forward(true))).Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(b, &q)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, maxPayload)
	if n := testing.AllocsPerRun(100, func() { a.reply(buf, &q, 1, 0, maxPayload) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzQuery gives the handler any bytes. Whatever it says is a DNS message with the
// same ID.
func FuzzQuery(f *testing.F) {
	f.Add(question(f, "api.zoom.us.", dnsmessage.TypeA, 1232))
	f.Add(question(f, "blocked.", dnsmessage.TypeHTTPS, 0))
	r, err := New(Config{
		Listen:    []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")},
		Upstreams: []Upstream{{URL: "udp://192.0.2.1"}},
		Choose: func(name string, _ uint16, _ netip.Addr) Choice {
			return Choice{Blocked: strings.HasPrefix(name, "b")}
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, _, reply, more := r.first(nil, b, netip.MustParseAddrPort("10.0.0.5:4000"), 0)
		if more {
			forward := q.forward(true)
			if back, v := readQuery(forward); v != sound || back.name() != q.name() {
				t.Fatalf("forwarded: %x", forward)
			}
			return
		}
		if reply != nil {
			if !bytes.Equal(reply[:2], b[:2]) || reply[2]&0x80 == 0 || len(reply) > len(b)+60 {
				t.Fatalf("%x is answered by %x", b, reply)
			}
			sections(t, reply)
		}
	})
}

// FuzzAnswer gives any bytes as an upstream's reply.
func FuzzAnswer(f *testing.F) {
	q, _ := readQuery(question(f, "api.zoom.us.", dnsmessage.TypeA, 1232))
	asked := q.forward(true)
	for _, ttl := range []uint32{0, 300} {
		b, err := addressed(ttl, "192.0.2.7")("", func() (m dnsmessage.Message) { _ = m.Unpack(asked); return m }()).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	svcb, _ := hex.DecodeString("0000818000010001000000000361706904" + "7a6f6f6d02757300" + "00010001" + "c00c00410001000000ff000d000100000100030268320005000101")
	f.Add(svcb)
	f.Fuzz(func(t *testing.T, b []byte) {
		if !matches(b, asked) {
			return
		}
		for _, strip := range []bool{false, true} {
			msg := bytes.Clone(b)
			if strip {
				var err error
				if msg, err = stripECH(msg); err != nil {
					continue
				}
			}
			a, err := readAnswer(msg, &q)
			if err != nil {
				continue
			}
			for _, limit := range []int{minPayload, maxPayload, maxTCP} {
				reply, truncated := a.reply(nil, &q, 10, 0, limit)
				if len(reply) > limit || !truncated && !bytes.Equal(reply[headerLen:headerLen+len(q.wire)], q.wire) {
					t.Fatalf("limit %d: %d bytes, truncated %v", limit, len(reply), truncated)
				}
				sections(t, reply)
			}
		}
	})
}

// sections checks that a message has the records that its header says, and no more.
func sections(t *testing.T, b []byte) {
	t.Helper()
	w := walk{msg: b, off: headerLen}
	if b[5] == 1 {
		w.off, _ = skipName(b, w.off)
		w.off += 4
	}
	for n := 6; n < headerLen; n += 2 {
		for range int(b[n])<<8 | int(b[n+1]) {
			if _, ok := w.next(); !ok {
				t.Fatalf("broken: %x", b)
			}
		}
	}
	if w.off != len(b) {
		t.Fatalf("%d bytes, %d of them records: %x", len(b), w.off, b)
	}
}
