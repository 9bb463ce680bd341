package lists_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// others are the items that no set holds, each with a value.
var others = []struct{ name, item string }{
	{"`query_type`", srsPorts(0, 1, 65)},
	{"`network`", srsTexts(1, "tcp")},
	{"`source_ip_cidr`", srsPrefixes(5, []string{"192.0.2.0/24"})},
	{"`source_port`", srsPorts(7, 1, 2)},
	{"`source_port_range`", srsTexts(8, "1:2")},
	{"`package_name`", srsTexts(13, "org.example")},
	{"`wifi_ssid`", srsTexts(14, "home")},
	{"`wifi_bssid`", srsTexts(15, "02:00:00:00:00:01")},
	{"AdGuard rules", "\x10" + srsTrie([]string{"||a.example^"})},
	{"`process_path_regex`", srsTexts(17, "x")},
	{"`network_type`", "\x12\x02\x00\x01"},
	{"`network_is_expensive`", "\x13"},
	{"`network_is_constrained`", "\x14"},
	{"`network_interface_address`", "\x15\x01\x00\x02\x04\xc0\x00\x02\x00\x18" + counted(strings.Repeat("\x00", 16)) + "\x00"},
	{"`default_interface_address`", "\x16\x01\x04\xc0\x00\x02\x00\x18"},
	{"`package_name_regex`", srsTexts(23, "x")},
}

// only is a rule with one name.
func only(name string) string { return srsRule(false, srsNames([]string{name}, nil)) }

func TestSRS(t *testing.T) {
	names := srsNames([]string{"a.example"}, []string{"b.example", ".c.example"})
	cases := []listCase{
		{name: "no rules", in: srsFile(1)},
		{
			name: "every kind of name", in: srsFile(2, srsRule(false, names, srsTexts(3, "Track"), srsTexts(4, `^ads?\.`))),
			want: `a.example .b.example *.c.example keyword:track regexp:^ads?\.`,
		},
		{
			name: "version 1 has a suffix as two", in: srsFile(1, srsRule(false, srsNames([]string{"b.example"}, []string{".b.example"}))),
			want: ".b.example",
		},
		{
			name:     "before sing-box 1.9 a suffix had no dot",
			in:       srsFile(1, srsRule(false, "\x02"+srsTrie([]string{"\rb.example", "a.example"}))),
			want:     "a.example",
			problems: []string{"a suffix that does not begin at a dot: `b.example`"},
		},
		{
			name: "not in ASCII", in: srsFile(2, srsRule(false, srsNames([]string{"bücher.example"}, []string{"例.example"}))),
			want: "xn--bcher-kva.example .xn--fsq.example",
		},
		{name: "several rules", in: srsFile(3, only("a.example"), only("b.example")), want: "a.example b.example"},
		{
			name: "bad names",
			in:   srsFile(2, srsRule(false, srsNames([]string{"", "good.example", "a..b", strings.Repeat("x.", 300)}, []string{"", ".", "192.0.2.1"}[1:]))),
			want: "good.example", problems: []string{
				"not a name: nothing", "not a name: `192.0.2.1`", "not a name: `a..b`", "names that are longer than any",
			},
		},
		{name: "bad texts", in: srsFile(2, srsRule(false, names, srsTexts(3, "", "ü"), srsTexts(4, "("))), want: "a.example .b.example *.c.example", problems: []string{
			"no name can contain this keyword: nothing", "no name can contain this keyword: `ü`",
			"not an RE2 expression: `(`: missing closing )",
		}},
		{name: "terminal escapes", in: srsFile(2, srsRule(false, names, srsTexts(4, "(\x1b[31m\r", strings.Repeat("x", 1025)))), want: "a.example .b.example *.c.example", problems: []string{
			"not an RE2 expression: `(\ufffd[31m\ufffd`: missing closing ]",
			"not an RE2 expression: `" + strings.Repeat("x", 60) + "...`: the expression is longer than 1024 bytes",
		}},
		{
			name: "addresses", set: rules.CIDRSet,
			in:   srsFile(1, srsRule(false, names, srsPrefixes(6, []string{"192.0.2.0/25", "192.0.2.128/25", "2001:db8::/33", "0.0.0.0/32", "255.255.255.255"}))),
			want: "0.0.0.0/32 192.0.2.0/24 255.255.255.255/32 2001:db8::/33",
		},
		{
			name: "a range", set: rules.CIDRSet, in: srsFile(1, srsRule(false, "\x06\x01"+string(binary.BigEndian.AppendUint64(nil, 2))+
				counted("\xc0\x00\x02\x01")+counted("\xc0\x00\x02\x06")+counted(strings.Repeat("\x00", 10)+"\xff\xff\xc6\x33\x64\x00")+counted(strings.Repeat("\x00", 10)+"\xff\xff\xc6\x33\x64\x01"))),
			want: "192.0.2.1/32 192.0.2.2/31 192.0.2.4/31 192.0.2.6/32 198.51.100.0/31",
		},
		{
			name: "every address", set: rules.CIDRSet,
			in:   srsFile(1, srsRule(false, srsPrefixes(6, []string{"0.0.0.0/0", "::/0"}))),
			want: "0.0.0.0/0 ::/0",
		},
		{name: "ports", set: rules.PortSet, in: srsFile(1, srsRule(false, srsPorts(9, 443, 80), srsTexts(10, "81:90", ":5", "x"))), want: "0-5 80-90 443-443", problems: []string{
			"not a range of ports: `x`",
		}},
		{
			name: "processes", set: rules.ProcessSet, in: srsFile(1, srsRule(false, srsTexts(11, "curl")), srsRule(false, srsTexts(12, "/usr/bin/wget"))),
			want: "/usr/bin/wget curl",
		},
		{
			name:     "names and ports",
			in:       srsFile(1, srsRule(false, names, srsPorts(9, 443)), srsRule(true, names), srsRule(false), only("z.example")),
			want:     "z.example",
			problems: []string{"a rule that joins several kinds of condition", "an inverted rule", "a rule without conditions"},
		},
		{
			name: "logical rules", in: srsFile(1,
				srsLogical(1, false, only("a.example"), srsLogical(0, false, only("b.example"))),
				srsLogical(0, false, srsRule(false, names), srsRule(false, srsPorts(9, 1))),
				srsLogical(1, true, srsRule(false, names), srsLogical(1, false, srsRule(false, names))),
				only("c.example"),
			), want: "a.example b.example c.example",
			problems: []string{"a rule that joins others with `and`", "an inverted rule"},
		},
	}
	for _, o := range others {
		cases = append(cases, listCase{
			name: o.name, in: srsFile(5, srsRule(false, o.item, names), only("z.example")),
			want: "z.example", problems: []string{"a rule with " + o.name},
		})
	}
	check(t, lists.SRS, cases)
}

func TestSRSDamaged(t *testing.T) {
	names := srsNames([]string{"a.example"}, []string{"b.example", ".c.example"})
	check(t, lists.SRS, []listCase{
		{name: "no magic", in: "SR", err: "neither an .srs file nor a JSON rule-set"},
		{name: "only magic", in: "SRS", err: "a damaged .srs file"},
		{name: "version 0", in: srsFile(0), err: "an .srs file of version 0, only 1 to 5 are known"},
		{name: "version 6", in: srsFile(6), err: "an .srs file of version 6, only 1 to 5 are known"},
		{name: "no zlib", in: "SRS\x01plain", err: "a damaged .srs file"},
		{name: "rules that are missing", in: "SRS\x01" + deflated("\x02"+srsRule(false, names)), err: "a damaged .srs file"},
		{name: "a kind of rule that is not known", in: srsFile(1, "\x02"), err: "a damaged .srs file"},
		{name: "an item that is not known", in: srsFile(1, srsRule(false, "\x18")), err: "a damaged .srs file"},
		{name: "a mode that is not known", in: srsFile(1, srsLogical(2, false)), err: "a damaged .srs file"},
		{
			name: "a range that ends before it begins", set: rules.CIDRSet, in: srsFile(1, srsRule(false, "\x06\x01\x00\x00\x00\x00\x00\x00\x00\x01\x04\x02\x02\x02\x02\x04\x01\x01\x01\x01")),
			err: "a damaged .srs file",
		},
		{
			name: "an address of five bytes", set: rules.CIDRSet, in: srsFile(1, srsRule(false, "\x06\x01\x00\x00\x00\x00\x00\x00\x00\x01\x05\x02\x02\x02\x02\x02\x04\x01\x01\x01\x01")),
			err: "a damaged .srs file",
		},
		{
			name: "a trie without its labels", in: srsFile(1, srsRule(false, "\x02\x00"+words([]bool{false, true})+words([]bool{false, true, true})+counted(""))),
			err: "a damaged .srs file",
		},
		{name: "an empty trie", in: srsFile(1, srsRule(false, "\x02\x00\x00\x00\x00")), err: "a damaged .srs file"},
		{name: "a trie of the root alone", in: srsFile(1, srsRule(false, "\x02\x00"+words(nil)+words([]bool{true})+counted("")))},
		{
			name: "nodes that no walk reaches", in: srsFile(1, srsRule(false, "\x02\x00"+words([]bool{false, true})+words([]bool{true, false, true})+counted("a"))),
		},
	})
	whole := srsRule(false, names, srsTexts(3, "Track"), srsPrefixes(6, []string{"192.0.2.0/24"}))
	for i := range whole { // a file that ends early is damaged, wherever it is
		if _, _, err := lists.Parse(lists.Source{Format: lists.SRS, Data: []byte(srsFile(1, whole[:i]))}, rules.DomainSet); errText(err) != "a damaged .srs file" {
			t.Errorf("%d bytes: %v", i, err)
		}
	}
}

func TestSRSBounds(t *testing.T) {
	deep := only("a.example")
	for range 16 {
		deep = srsLogical(1, false, deep)
	}
	check(t, lists.SRS, []listCase{
		{name: "as deep as may be", in: srsFile(1, deep), want: "a.example"},
		{name: "too deep", in: srsFile(1, srsLogical(1, false, deep)), err: "its rules nest deeper than 16"},
		{
			name: "a bomb", in: "SRS\x01" + deflated(strings.Repeat("\x00", 8<<20)),
			err: fmt.Sprintf("inflates to more than %d KiB", (1<<20+100*(4+len(deflated(strings.Repeat("\x00", 8<<20)))))>>10),
		},
	})
	texts := "\x03" + uvarint(lists.MaxElements+1) + strings.Repeat("\x00", lists.MaxElements+1)
	src := lists.Source{Format: lists.SRS, Data: []byte("SRS\x01" + deflated("\x01"+srsRule(false, texts)) + strings.Repeat("x", 50_000))}
	if _, _, err := lists.Parse(src, rules.PortSet); errText(err) != "more than 4000000 elements" {
		t.Errorf("too many keywords: %v", err)
	}
}

// TestLargeSRS: the bound on inflating does not overflow where int has 32 bits.
func TestLargeSRS(t *testing.T) {
	file := append([]byte(srsFile(1, only("a.example"))), make([]byte, 25<<20)...)
	e, _, err := lists.Parse(lists.Source{Format: lists.SRS, Data: file}, rules.DomainSet)
	if err != nil || len(e.Names) != 1 {
		t.Errorf("%v, %v", spell(e), err)
	}
}

// TestTrieMemory: what a trie takes is in proportion to the file.
func TestTrieMemory(t *testing.T) {
	const nodes = 2 << 20
	labels := uvarint(nodes) + strings.Repeat("x", nodes)
	bitmap := make([]bool, 2*nodes+1) // the root has all of them
	for i := nodes; i < len(bitmap); i++ {
		bitmap[i] = true
	}
	src := lists.Source{Format: lists.SRS, Data: []byte("SRS\x02" + deflated("\x01"+srsRule(false, "\x02\x00"+words(nil)+words(bitmap)+labels)))}
	src.Data = append(src.Data, make([]byte, 20_000)...) // to be allowed so much
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := lists.Parse(src, rules.DomainSet)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; err != nil || got > 8*nodes {
		t.Errorf("%d nodes took %d bytes, %v", nodes, got, err)
	}
}

// TestTrie reads back what the writer put in.
func TestTrie(t *testing.T) {
	name := rapid.StringMatching(`[a-c]{1,3}(\.[a-c]{1,2}){0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(name, 1, 200).Draw(t, "names")
		suffixes := rapid.SliceOfN(name, 0, 5).Draw(t, "suffixes")
		src := lists.Source{Format: lists.SRS, Data: []byte(srsFile(2, srsRule(false, srsNames(names, suffixes))))}
		got, problems, err := lists.Parse(src, rules.DomainSet)
		if err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		text := strings.Join(names, "\n")
		for _, s := range suffixes {
			text += "\n." + s
		}
		want, _, err := lists.Parse(lists.Source{Format: lists.List, Data: []byte(text)}, rules.DomainSet)
		if diff := cmp.Diff(spell(want), spell(got)); diff != "" || err != nil {
			t.Fatal(err, diff)
		}
	})
}
