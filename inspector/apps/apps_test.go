package apps

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/npl"
)

func question(t testing.TB, response bool) string {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x4142, RecursionDesired: true, Response: response},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeHTTPS, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func withLength(s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

const (
	stun = "\x00\x01\x00\x04\x21\x12\xa4\x42abcdefghijkl\x80\x22\x00\x00"
	utp  = "\x41\x00ab\x00\x00\x00\x01\x00\x00\x00\x00\x00\x10\x00\x00\x00\x01\x00\x00"
	dtls = "\x16\xfe\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0d\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01x"
)

func TestDatagram(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	for _, c := range []struct{ name, b, want string }{
		{"question", question(t, false), DNS},
		{"answer", question(t, true), DNS},
		{"question, cut", question(t, false)[:20], ""},
		{"STUN", stun, STUN},
		{"STUN, a response", "\x01\x01" + stun[2:], ""},
		{"STUN, another length", stun + "x", ""},
		{"STUN without the cookie", "\x00\x01\x00\x00abcdefghijklmnop", ""},
		{"DTLS", dtls, DTLS},
		{"DTLS, later", "\x17" + dtls[1:], ""},
		{"DTLS, cut", dtls[:20], ""},
		{"WireGuard, initiation", "\x01\x00\x00\x00" + zeros(144), WireGuard},
		{"WireGuard, response", "\x02\x00\x00\x00" + zeros(88), WireGuard},
		{"WireGuard, cookie", "\x03\x00\x00\x00" + zeros(60), WireGuard},
		{"WireGuard, data", "\x04\x00\x00\x00" + zeros(28), WireGuard},
		{"WireGuard, another length", "\x01\x00\x00\x00" + zeros(143), ""},
		{"DHT", "d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", BitTorrent},
		{"tracker", "\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00abcd", BitTorrent},
		{"uTP", utp, BitTorrent},
		{"uTP, data", "\x01" + utp[1:], ""},
		{"nothing", "", ""},
		{"zeros", zeros(100), ""},
		{"text", "hello, world: this is no protocol", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Datagram([]byte(c.b)); got != c.want {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestStream(t *testing.T) {
	for _, c := range []struct{ name, b, want string }{
		{"SSH", "SSH-2.0-OpenSSH_9.9\r\n", SSH},
		{"BitTorrent", "\x13BitTorrent protocol" + strings.Repeat("\x00", 48), BitTorrent},
		{"DNS", withLength(question(t, false)), DNS},
		{"two questions", withLength(question(t, false)) + withLength(question(t, false)), DNS},
		{"an answer", withLength(question(t, true)), ""},
		{"STUN", stun, STUN},
		{"text", "hello", ""},
		{"zeros", strings.Repeat("\x00", 40), ""},
		{"mail", "EHLO a.example\r\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, more := Stream([]byte(c.b))
			if got != c.want || more {
				t.Errorf("%q, more %v", got, more)
			}
			// What is recognised in the end is never given up before.
			for n := range len(c.b) {
				if got, more := Stream([]byte(c.b[:n])); c.want != "" && got == "" && !more || got != "" && got != c.want {
					t.Fatalf("%d bytes: %q, more %v", n, got, more)
				}
			}
		})
	}
}

// TestPolicies: the names are those that a rule may ask for.
func TestPolicies(t *testing.T) {
	const rest = "policy 1\nroute r via main\ndefault route r\nrule x { match app "
	for _, app := range []string{BitTorrent, DNS, DTLS, HTTP, QUIC, SSH, STUN, TLS, WireGuard} {
		ast, diags := npl.Parse("x.npl", []byte(rest+app+"; do block }\n"))
		_, more := rules.Check(ast)
		for _, d := range append(diags, more...) {
			if d.Severity == diag.Error {
				t.Errorf("%s: %+v", app, d)
			}
		}
	}
}

func TestAllocations(t *testing.T) {
	b, q := []byte(stun), []byte(withLength(question(t, false)))
	if n := testing.AllocsPerRun(100, func() {
		if Datagram(b) != STUN || Datagram(q[2:]) != DNS {
			t.Fatal("not recognised")
		}
		if app, _ := Stream(q); app != DNS {
			t.Fatal("not recognised")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzApps: what a prefix of a stream says stays true of the whole, and what is
// no protocol for a prefix is none for the whole.
func FuzzApps(f *testing.F) {
	f.Add("SSH-2.0-x\r\n", 3)
	f.Add("\x13BitTorrent protocol", 10)
	f.Add(withLength(question(f, false)), 8)
	f.Add(question(f, true), 8)
	f.Add(stun, 5)
	f.Add(utp, 20)
	f.Add(dtls, 20)
	f.Fuzz(func(t *testing.T, b string, n int) {
		n = max(0, min(n, len(b)))
		_ = Datagram([]byte(b))
		app, more := Stream([]byte(b[:n]))
		if app != "" && more {
			t.Fatal("both")
		}
		if whole, _ := Stream([]byte(b)); !more && whole != app {
			t.Fatalf("%q became %q", app, whole)
		}
	})
}
