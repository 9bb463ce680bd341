package dns

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/inspector"
)

// build makes an answer to question from records given as "owner ttl type value".
func build(t testing.TB, question string, h dnsmessage.Header, records ...string) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, h)
	b.EnableCompression()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(b.StartQuestions())
	ok(b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(question), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}))
	ok(b.StartAnswers())
	for _, r := range records {
		f := strings.Fields(r)
		ttl, err := time.ParseDuration(f[1])
		ok(err)
		rh := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(f[0]), Class: dnsmessage.ClassINET, TTL: uint32(ttl / time.Second)}
		switch f[2] {
		case "A":
			ok(b.AResource(rh, dnsmessage.AResource{A: netip.MustParseAddr(f[3]).As4()}))
		case "AAAA":
			ok(b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(f[3]).As16()}))
		case "CNAME":
			ok(b.CNAMEResource(rh, dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(f[3])}))
		case "HTTPS", "SVCB":
			svc := service(t, f[3:])
			if f[2] == "HTTPS" {
				ok(b.HTTPSResource(rh, dnsmessage.HTTPSResource{SVCBResource: svc}))
			} else {
				ok(b.SVCBResource(rh, svc))
			}
		case "TXT":
			ok(b.TXTResource(rh, dnsmessage.TXTResource{TXT: []string{f[3]}}))
		}
	}
	msg, err := b.Finish()
	ok(err)
	return msg
}

// service makes the data of an HTTPS or SVCB record from "priority target
// alpn=a,b ipv4hint=x ech=y ipv6hint=z".
func service(t testing.TB, f []string) dnsmessage.SVCBResource {
	t.Helper()
	priority, err := strconv.Atoi(f[0])
	if err != nil {
		t.Fatal(err)
	}
	svc := dnsmessage.SVCBResource{Priority: uint16(priority), Target: dnsmessage.MustNewName(f[1])}
	for _, p := range f[2:] {
		k, v, _ := strings.Cut(p, "=")
		var data []byte
		switch list := strings.Split(v, ","); k {
		case "alpn":
			for _, id := range list {
				data = append(append(data, byte(len(id))), id...)
			}
			svc.SetParam(dnsmessage.SVCParamALPN, data)
		case "ech":
			svc.SetParam(dnsmessage.SVCParamECH, []byte(v))
		default:
			for _, a := range addrs(list...) {
				data = append(data, a.AsSlice()...)
			}
			svc.SetParam(map[string]dnsmessage.SVCParamKey{"ipv4hint": dnsmessage.SVCParamIPv4Hint, "ipv6hint": dnsmessage.SVCParamIPv6Hint}[k], data)
		}
	}
	return svc
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestParse(t *testing.T) {
	response := dnsmessage.Header{ID: 7, Response: true}
	for _, c := range []struct {
		name, question string
		header         dnsmessage.Header
		records        []string
		want           inspector.Answer
	}{
		{
			"one address", "Us01.Zoom.US.", response,
			[]string{"us01.zoom.us. 300s A 192.0.2.1"},
			inspector.Answer{Name: "us01.zoom.us", Addrs: addrs("192.0.2.1"), TTL: 300 * time.Second},
		},
		{
			"both families", "a.example.", response,
			[]string{"a.example. 300s A 192.0.2.1", "a.example. 60s AAAA 2001:db8::1"},
			inspector.Answer{Name: "a.example", Addrs: addrs("192.0.2.1", "2001:db8::1"), TTL: 60 * time.Second},
		},
		{
			"chain out of order", "www.example.", response,
			[]string{"c.cdn.example. 20s A 198.51.100.9", "b.cdn.example. 900s CNAME c.cdn.example.", "www.example. 30s CNAME b.cdn.example."},
			inspector.Answer{Name: "www.example", Addrs: addrs("198.51.100.9"), TTL: 20 * time.Second},
		},
		{
			"the alias' ttl is the least", "www.example.", response,
			[]string{"www.example. 5s CNAME c.example.", "c.example. 600s A 192.0.2.3"},
			inspector.Answer{Name: "www.example", Addrs: addrs("192.0.2.3"), TTL: 5 * time.Second},
		},
		{"alias loop", "a.example.", response, []string{"a.example. 5s CNAME b.example.", "b.example. 5s CNAME a.example."}, inspector.Answer{}},
		{"strange owner", "a.example.", response, []string{"bank.example. 5s A 203.0.113.6"}, inspector.Answer{}},
		{
			"other types are skipped", "a.example.", response,
			[]string{"a.example. 5s TXT hello", "a.example. 9s A 192.0.2.1"},
			inspector.Answer{Name: "a.example", Addrs: addrs("192.0.2.1"), TTL: 9 * time.Second},
		},
		{
			"mapped address", "a.example.", response,
			[]string{"a.example. 5s AAAA ::ffff:192.0.2.1"},
			inspector.Answer{Name: "a.example", Addrs: addrs("192.0.2.1"), TTL: 5 * time.Second},
		},
		{"failure", "a.example.", dnsmessage.Header{Response: true, RCode: dnsmessage.RCodeNameError}, []string{"a.example. 5s A 192.0.2.1"}, inspector.Answer{}},
		{"query", "a.example.", dnsmessage.Header{ID: 9}, nil, inspector.Answer{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Parse(build(t, c.question, c.header, c.records...))
			if err != nil {
				t.Fatal(err)
			}
			if m.ID != c.header.ID || m.Response != c.header.Response || m.Question != strings.ToLower(strings.TrimSuffix(c.question, ".")) {
				t.Errorf("message = %+v", m)
			}
			if diff := cmp.Diff(c.want, m.Answer, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestServices(t *testing.T) {
	for _, c := range []struct {
		name, question string
		kind           dnsmessage.Type
		records        []string
		want           inspector.Answer
		ech            bool
	}{
		{
			"hints", "a.example.", dnsmessage.TypeHTTPS,
			[]string{"a.example. 300s HTTPS 1 . alpn=h3,h2 ipv4hint=192.0.2.1,192.0.2.2 ech=keys ipv6hint=2001:db8::1"},
			inspector.Answer{Name: "a.example", Addrs: addrs("192.0.2.1", "192.0.2.2", "2001:db8::1"), TTL: 300 * time.Second, ALPN: "h3,h2"},
			true,
		},
		{"no hints", "a.example.", dnsmessage.TypeHTTPS, []string{"a.example. 300s HTTPS 1 . alpn=h2"}, inspector.Answer{Name: "a.example", TTL: 300 * time.Second, ALPN: "h2"}, false},
		{
			"after an alias", "a.example.", dnsmessage.TypeHTTPS,
			[]string{"a.example. 300s CNAME b.example.", "b.example. 60s HTTPS 1 . ipv4hint=192.0.2.1"},
			inspector.Answer{Name: "a.example", Addrs: addrs("192.0.2.1"), TTL: 60 * time.Second},
			false,
		},
		{
			"an alias of its own", "a.example.", dnsmessage.TypeHTTPS,
			[]string{"a.example. 300s HTTPS 0 b.example.", "b.example. 60s HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1"},
			inspector.Answer{Name: "a.example", Addrs: addrs("192.0.2.1"), TTL: 60 * time.Second, ALPN: "h2"},
			false,
		},
		{
			"another port", "_8443._https.a.example.", dnsmessage.TypeHTTPS,
			[]string{"_8443._https.a.example. 60s HTTPS 1 pool.example. ipv6hint=2001:db8::1"},
			inspector.Answer{Name: "a.example", Addrs: addrs("2001:db8::1"), TTL: 60 * time.Second},
			false,
		},
		{
			"SVCB", "_dns.a.example.", dnsmessage.TypeSVCB,
			[]string{"_dns.a.example. 60s SVCB 1 r.example. alpn=dot", "r.example. 60s A 192.0.2.53"},
			inspector.Answer{Name: "a.example", Addrs: addrs("192.0.2.53"), TTL: 60 * time.Second, ALPN: "dot"},
			false,
		},
		{"strange owner", "a.example.", dnsmessage.TypeHTTPS, []string{"bank.example. 60s HTTPS 1 . ipv4hint=192.0.2.1 ech=x"}, inspector.Answer{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := build(t, c.question, dnsmessage.Header{Response: true}, c.records...)
			at := 12 + len(c.question) + 1
			binary.BigEndian.PutUint16(b[at:], uint16(c.kind)) // build asks for A
			m, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, m.Answer, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if m.ECH != c.ech || m.Type != c.kind {
				t.Errorf("ech %v, type %v", m.ECH, m.Type)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	whole := build(t, "a.example.", dnsmessage.Header{Response: true}, "a.example. 5s A 192.0.2.1", "a.example. 5s A 192.0.2.2")
	for n := range len(whole) {
		m, err := Parse(whole[:n])
		if n < 12+11+4 && err == nil {
			t.Errorf("%d of %d bytes: no error", n, len(whole))
		}
		if len(m.Answer.Addrs) > 1 {
			t.Errorf("%d of %d bytes: %v", n, len(whole), m.Answer)
		}
	}
	two := append([]byte(nil), whole...)
	two[5] = 2
	if _, err := Parse(two); err != ErrNoQuestion {
		t.Errorf("two questions: %v", err)
	}
}

func TestNext(t *testing.T) {
	stream := []byte{0, 3, 'a', 'b', 'c', 0, 1, 'd', 0, 9, 'e'}
	var got []string
	for {
		msg, rest, ok := Next(stream)
		if !ok {
			break
		}
		got, stream = append(got, string(msg)), rest
	}
	if diff := cmp.Diff([]string{"abc", "d"}, got); diff != "" || len(stream) != 3 {
		t.Errorf("%s rest %v", diff, stream)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(build(f, "www.example.", dnsmessage.Header{Response: true}, "www.example. 5s CNAME c.example.", "c.example. 600s A 192.0.2.3"))
	f.Add(build(f, "a.example.", dnsmessage.Header{}, []string{}...))
	f.Add(build(f, "a.example.", dnsmessage.Header{Response: true}, "a.example. 300s HTTPS 1 . alpn=h3,h2 ipv4hint=192.0.2.1 ech=keys ipv6hint=2001:db8::1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil && len(m.Answer.Addrs) > 0 {
			t.Fatalf("error %v with an answer %v", err, m.Answer)
		}
		if len(m.Answer.Addrs) > maxAddrs || m.Answer.TTL < 0 || m.Answer.TTL > (1<<31)*time.Second {
			t.Fatalf("out of bounds: %v", m.Answer)
		}
		for _, a := range m.Answer.Addrs {
			if !a.IsValid() || a.Is4In6() {
				t.Fatalf("address %v", a)
			}
		}
	})
}
