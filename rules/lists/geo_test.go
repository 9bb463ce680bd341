package lists_test

import (
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

func TestGeoSite(t *testing.T) {
	dat := datFile(
		datPart("CN", site(2, "cn.example")),
		datPart("GOOGLE", site(2, "google.example"), site(3, "full.example"), site(0, "Key"), site(1, `^ads?\.`),
			site(2, "ads.example", "ads", "cn"), site(2, "cn-only.example", "cn")),
		text(4, "NEW")+text(2, site(2, "new.example")),   // v2ray-core 5: the name in field 4
		text(2, site(2, "late.example"))+text(1, "LATE"), // the name behind the members
		text(1, "")+text(4, "both")+number(9, 3)+uvarint(9<<3|5)+"abcd"+uvarint(8<<3|1)+"abcdefgh"+text(2, site(2, "both.example")),
		datPart("BAD", site(2, "a..b"), site(9, "x.example"), site(9, "y.example"), site(0, ""), site(1, "("), site(2, "good.example")),
		datPart("EMPTY"),
		datPart("CN", site(2, "second.example")),
	)
	check(t, lists.GeoSite, []listCase{
		{name: "by name", sel: "cn", in: dat, want: ".cn.example"},
		{
			name: "every kind", sel: "Google", in: dat,
			want: `full.example .ads.example .cn-only.example .google.example keyword:key regexp:^ads?\.`,
		},
		{name: "an attribute", sel: "google@cn", in: dat, want: ".ads.example .cn-only.example"},
		{name: "two attributes", sel: "google@CN@ads", in: dat, want: ".ads.example"},
		{name: "without an attribute", sel: "google@-ads@cn", in: dat, want: ".cn-only.example"},
		{name: "no such attribute", sel: "google@ad", in: dat, err: "no entry has the attributes that select asks for"},
		{name: "half an attribute", sel: "google@", in: dat, err: `select takes attributes: "@ads", "@cn@-ads"`},
		{name: "no attribute's name", sel: "google@a d", in: dat, err: `select takes attributes: "@ads", "@cn@-ads"`},
		{name: "new name", sel: "new", in: dat, want: ".new.example"},
		{name: "name behind", sel: "late", in: dat, want: ".late.example"},
		{name: "unknown fields", sel: "both", in: dat, want: ".both.example"},
		{name: "empty", sel: "empty", in: dat},
		{
			name: "bad entries", sel: "bad", in: dat, want: ".good.example",
			problems: []string{
				"not a name: `a..b`", "2 times: an entry of a kind that is not known", "no name can contain this keyword: nothing",
				"not an RE2 expression: `(`: missing closing )",
			},
		},
		{name: "no part", sel: "us", in: dat, err: "there is no part `us` in it"},
		{name: "no select", in: dat, err: `select is needed: which part of the file is meant, such as "cn"`},
		{name: "only an attribute", sel: "@ads", in: dat, err: `select is needed: which part of the file is meant, such as "cn"`},
		{name: "no bytes", sel: "cn", in: "", err: "there is no part `cn` in it"},
		{name: "text", sel: "cn", in: "example.com\n", err: "damaged: not a list of protobuf messages"},
		{name: "a group", sel: "cn", in: uvarint(1<<3 | 3), err: "damaged: not a list of protobuf messages"},
	})
	for i := range len(dat) { // a file that ends early has its error, or the part as far as it is whole
		for _, sel := range []string{"cn", "google", "bad", "both"} {
			_, _, err := lists.Parse(lists.Source{Format: lists.GeoSite, Select: sel, Data: []byte(dat[:i])}, rules.DomainSet)
			if err != nil && !strings.HasPrefix(err.Error(), "there is no part") && !strings.HasPrefix(err.Error(), "damaged") {
				t.Errorf("%d bytes, %s: %v", i, sel, err)
			}
		}
	}
}

// TestDamaged: messages that end within a field, or have one that no message of
// these files has.
func TestDamaged(t *testing.T) {
	for _, field := range []string{"\x80", "\x08", "\x08\x80", "\x09abcdefg", "\x0dabc", "\x12\x05abcd", "\x12", "\x0b", "\x0c", "\x0f"} {
		for _, inner := range []string{field, text(1, "CN") + field, datPart("CN", field), datPart("CN", text(3, field)), datPart("CN", site(2, "a.example")+field)} {
			for format, set := range map[lists.Format]rules.SetType{lists.GeoSite: rules.DomainSet, lists.GeoIP: rules.CIDRSet} {
				if format == lists.GeoIP && inner == datPart("CN", text(3, field)) {
					continue // a field that GeoIP has not is passed over
				}
				src := lists.Source{Format: format, Select: "cn", Data: []byte(datFile(inner))}
				if _, _, err := lists.Parse(src, set); errText(err) != "damaged: not a list of protobuf messages" {
					t.Errorf("%s with %q: %v", format, inner, err)
				}
			}
		}
	}
	src := lists.Source{Format: lists.GeoSite, Select: "cn", Data: []byte(number(1, 5) + datFile(text(7, "no name"), datPart("CN", site(2, "a.example"))))}
	if e, _, err := lists.Parse(src, rules.DomainSet); err != nil || len(e.Names) != 1 {
		t.Errorf("a part without a name: %v, %v", e, err)
	}
}

// TestManyAttributes: the work grows with the attributes of an entry, not with
// their square.
func TestManyAttributes(t *testing.T) {
	attr := text(3, text(1, "ads"))
	dat := datFile(datPart("CN", text(2, "a.example")+strings.Repeat(attr, 500_000)))
	start := time.Now()
	e, _, err := lists.Parse(lists.Source{Format: lists.GeoSite, Select: "cn@ads", Data: []byte(dat)}, rules.DomainSet)
	if took := time.Since(start); err != nil || len(e.Names) != 1 || took > 10*time.Second {
		t.Errorf("%v, %v in %s", spell(e), err, took)
	}
}

func TestGeoIP(t *testing.T) {
	dat := datFile(
		datPart("CN", cidr("192.0.2.0/25"), cidr("192.0.2.128/25"), cidr("2001:db8::/32"), cidr("198.51.100.7")),
		datPart("HALF", cidr("0.0.0.0/1"), cidr("::/1"))+number(3, 0),
		text(1, "REST")+text(2, cidr("0.0.0.0/1"))+text(2, cidr("::/1"))+number(3, 1),
		text(5, "NEW")+text(2, cidr("192.0.2.1")),
		datPart("MAPPED", text(1, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x00")+number(2, 120)),
		datPart("HOST", text(1, "\xc0\x00\x02\x63")+number(2, 24)),
		datPart("BAD", text(1, "\xc0\x00\x02")+number(2, 24), text(1, "\xc0\x00\x02\x63")+number(2, 33), text(1, "")+number(2, 1<<63), cidr("192.0.2.1")),
	)
	check(t, lists.GeoIP, []listCase{
		{name: "by name", set: rules.CIDRSet, sel: "cn", in: dat, want: "192.0.2.0/24 198.51.100.7/32 2001:db8::/32"},
		{name: "inverse", set: rules.CIDRSet, sel: "!half", in: dat, want: "128.0.0.0/1 8000::/1"},
		{name: "an inverse part", set: rules.CIDRSet, sel: "rest", in: dat, want: "128.0.0.0/1 8000::/1"},
		{name: "inverse of an inverse part", set: rules.CIDRSet, sel: "!REST", in: dat, want: "0.0.0.0/1 ::/1"},
		{name: "new name", set: rules.CIDRSet, sel: "new", in: dat, want: "192.0.2.1/32"},
		{name: "IPv4 in IPv6", set: rules.CIDRSet, sel: "mapped", in: dat, want: "192.0.2.0/24"},
		{name: "host bits", set: rules.CIDRSet, sel: "host", in: dat, want: "192.0.2.0/24"},
		{
			name: "bad entries", set: rules.CIDRSet, sel: "bad", in: dat,
			want:     "192.0.2.1/32",
			problems: []string{"3 times: an entry that is not a prefix"},
		},
		{
			name: "inverse of bad entries", set: rules.CIDRSet, sel: "!bad", in: dat, problems: []string{"3 times: an entry that is not a prefix"},
			err: "an entry can't be read, so that its inverse is not known",
		},
		{name: "no part", set: rules.CIDRSet, sel: "xx", in: dat, err: "there is no part `xx` in it"},
		{name: "no select", set: rules.CIDRSet, in: dat, err: `select is needed: which part of the file is meant, such as "cn"`},
		{name: "only an inverse", set: rules.CIDRSet, sel: "!", in: dat, err: `select is needed: which part of the file is meant, such as "cn"`},
		{
			name: "a length beyond the end", set: rules.CIDRSet, sel: "cn", in: "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
			err: "damaged: not a list of protobuf messages",
		},
	})
}
