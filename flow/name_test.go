package flow_test

import (
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/flow"
)

func TestCanonicalName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ in, want string }{
		{"zoom.us", "zoom.us"},
		{"zoom.us.", "zoom.us"},
		{"Zoom.US", "zoom.us"},
		{"_dmarc.example.com", "_dmarc.example.com"},
		{"r3---sn-4g5e6nez.googlevideo.com", "r3---sn-4g5e6nez.googlevideo.com"},
		{"-a-.example", "-a-.example"},
		{"localhost", "localhost"},
		{"1.2.3.4.in-addr.arpa", "1.2.3.4.in-addr.arpa"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", "xn--bcher-kva.example"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"faß.de", "xn--fa-hia.de"},
		{"zoom。us", "zoom.us"},
		{"ｚｏｏｍ.us", "zoom.us"},
		{long + ".example", long + ".example"},
		{strings.Repeat("a.", 126) + "b", strings.Repeat("a.", 126) + "b"},
		{"", ""},
		{".", ""},
		{"zoom..us", ""},
		{".zoom.us", ""},
		{"zoom.us..", ""},
		{long + "a.example", ""},
		{strings.Repeat("a.", 127) + "b", ""},
		{"1.2.3.4", ""},
		{"１.２.３.４", ""},
		{"1.2.3.4.", ""},
		{"2001:db8::1", ""},
		{"[2001:db8::1]", ""},
		{"zoom.us:443", ""},
		{"*.zoom.us", ""},
		{"zoom us", ""},
		{"zoom\x00.us", ""},
		{"xn--a.example", ""},
		{"a\u200db.example", ""},
		{strings.Repeat("ａ", 100_000), ""},
	} {
		got, err := flow.CanonicalName(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("CanonicalName(%.40q) = %q, %v, want %q", c.in, got, err, c.want)
		}
	}
}

func TestCanonicalNameAllocatesNothing(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		if s, err := flow.CanonicalName("us01.zoom.us."); s != "us01.zoom.us" || err != nil {
			t.Fatal(s, err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"zoom.us", "BÜCHER.example.", "xn--bcher-kva", "1.2.3.4", "a\u200db", "１.２", "ǅ.ﬁ", "x.1", "0x7f.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := flow.CanonicalName(s)
		if err != nil {
			return
		}
		if again, err := flow.CanonicalName(c); err != nil || again != c {
			t.Errorf("%q -> %q -> %q, %v", s, c, again, err)
		}
		for i := range len(c) {
			if c[i] <= ' ' || c[i] >= 0x7f || 'A' <= c[i] && c[i] <= 'Z' {
				t.Errorf("%q -> %q is not canonical", s, c)
			}
		}
	})
}

func TestFirstNames(t *testing.T) {
	for _, c := range []struct {
		names, first []string
		most         int
	}{
		{nil, nil, 4},
		{[]string{"a.example"}, []string{"a.example"}, 1},
		{[]string{"b.example", "a.example"}, []string{"a.example"}, 1},
		{[]string{"c.example", "b.example", "a.example"}, []string{"a.example", "b.example"}, 2},
		{[]string{"c.example", "b.example", "a.example"}, []string{"a.example", "b.example", "c.example"}, 3},
	} {
		if got, want := flow.NewNames(c.names...).First(c.most), flow.NewNames(c.first...); got != want {
			t.Errorf("the first %d of %q: %v, want %v", c.most, c.names, got, want)
		}
	}
}
