package lists_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

func TestComplement(t *testing.T) {
	for _, c := range []struct{ list, want string }{
		{"0.0.0.0/0", "::/0"},
		{"::/0", "0.0.0.0/0"},
		{"0.0.0.0/0 ::/0", ""},
		{"", "0.0.0.0/0 ::/0"},
		{"128.0.0.0/1 ::/1", "0.0.0.0/1 8000::/1"},
		{"0.0.0.0/32 255.255.255.255/32 8000::/1", "0.0.0.1/32 0.0.0.2/31 0.0.0.4/30 0.0.0.8/29 0.0.0.16/28 0.0.0.32/27 " +
			"0.0.0.64/26 0.0.0.128/25 0.0.1.0/24 0.0.2.0/23 0.0.4.0/22 0.0.8.0/21 0.0.16.0/20 0.0.32.0/19 0.0.64.0/18 0.0.128.0/17 " +
			"0.1.0.0/16 0.2.0.0/15 0.4.0.0/14 0.8.0.0/13 0.16.0.0/12 0.32.0.0/11 0.64.0.0/10 0.128.0.0/9 1.0.0.0/8 2.0.0.0/7 4.0.0.0/6 " +
			"8.0.0.0/5 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2 128.0.0.0/2 192.0.0.0/3 224.0.0.0/4 240.0.0.0/5 248.0.0.0/6 252.0.0.0/7 254.0.0.0/8 " +
			"255.0.0.0/9 255.128.0.0/10 255.192.0.0/11 255.224.0.0/12 255.240.0.0/13 255.248.0.0/14 255.252.0.0/15 255.254.0.0/16 " +
			"255.255.0.0/17 255.255.128.0/18 255.255.192.0/19 255.255.224.0/20 255.255.240.0/21 255.255.248.0/22 255.255.252.0/23 " +
			"255.255.254.0/24 255.255.255.0/25 255.255.255.128/26 255.255.255.192/27 255.255.255.224/28 255.255.255.240/29 " +
			"255.255.255.248/30 255.255.255.252/31 255.255.255.254/32 ::/1"},
	} {
		e, err := inverse(strings.Fields(c.list))
		if diff := cmp.Diff(strings.Fields(c.want), spell(e), equalEmpty); diff != "" || err != nil {
			t.Errorf("%s: %v %s", c.list, err, diff)
		}
	}
}

// inverse reads all but the prefixes of list, through a geoip.dat.
func inverse(list []string) (rules.Elements, error) {
	var entries []string
	for _, s := range list {
		entries = append(entries, cidr(s))
	}
	src := lists.Source{Format: lists.GeoIP, Select: "!x", Data: []byte(datFile(datPart("X", entries...)))}
	e, _, err := lists.Parse(src, rules.CIDRSet)
	return e, err
}

// TestPrefixes: the minimal prefixes hold the addresses of the list, their
// complement all others, and neither could be fewer.
func TestPrefixes(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		base := netip.MustParseAddr(rapid.SampledFrom([]string{
			"0.0.0.0", "192.0.2.0", "255.255.255.248", "::", "2001:db8::fffe:0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0", "0:0:0:1::",
		}).Draw(t, "base"))
		b := base.AsSlice()
		b[len(b)-1] |= byte(rapid.IntRange(0, 15).Draw(t, "host"))
		a, _ := netip.AddrFromSlice(b)
		bits := rapid.OneOf(rapid.IntRange(a.BitLen()-5, a.BitLen()), rapid.IntRange(0, a.BitLen())).Draw(t, "bits")
		return netip.PrefixFrom(a, bits).Masked()
	})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(prefix, 1, 10).Draw(t, "list")
		var spelled []string
		for _, p := range list {
			spelled = append(spelled, p.String())
		}
		e, problems, err := lists.Parse(lists.Source{Format: lists.List, Data: []byte(strings.Join(spelled, "\n"))}, rules.CIDRSet)
		if err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		rest, err := inverse(spelled)
		if err != nil {
			t.Fatal(err)
		}
		var probes []netip.Addr
		for _, p := range slices.Concat(list, e.Prefixes, rest.Prefixes) {
			lo, hi := p.Addr(), last(p)
			probes = append(probes, lo, hi, lo.Prev(), hi.Next())
		}
		for _, a := range probes {
			want := !a.IsValid() || holds(list, a)
			if a.IsValid() && (holds(e.Prefixes, a) != want || holds(rest.Prefixes, a) == want) {
				t.Fatalf("%s is in %v: %v, in its minimum %v, in its complement %v", a, list, want, e.Prefixes, rest.Prefixes)
			}
		}
		for _, list := range [][]netip.Prefix{e.Prefixes, rest.Prefixes} {
			if problem := notMinimal(list); problem != "" {
				t.Fatal(problem)
			}
		}
	})
}

func holds(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// last returns the greatest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// notMinimal says what is wrong with a list that should be sorted, masked, and
// without prefixes that overlap or are the halves of one.
func notMinimal(list []netip.Prefix) string {
	for i, p := range list {
		switch {
		case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96:
			return p.String() + " is not masked or not unmapped"
		case i == 0:
		case list[i-1].Compare(p) >= 0:
			return p.String() + " is not behind " + list[i-1].String()
		case list[i-1].Overlaps(p):
			return p.String() + " overlaps " + list[i-1].String()
		case list[i-1].Bits() == p.Bits() && p.Bits() > 0 && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked().Contains(list[i-1].Addr()):
			return p.String() + " and " + list[i-1].String() + " are one"
		}
	}
	return ""
}
