package lists_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// listCase is a source and what must come of it.
type listCase struct {
	name     string
	set      rules.SetType
	sel      string // Source.Select
	in       string
	files    memory   // dlc: what stands beside it
	want     string   // the elements as spell has them, with blanks between
	problems []string // as Problem.String has them
	err      string
}

// check parses each case in a format.
func check(t *testing.T, format lists.Format, cases []listCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			src := lists.Source{Format: format, Select: c.sel, Data: []byte(c.in), Name: "root"}
			if c.files != nil {
				src.Files = c.files
			}
			e, problems, err := lists.Parse(src, c.set)
			if got := errText(err); got != c.err {
				t.Errorf("error %q, want %q", got, c.err)
			}
			if diff := cmp.Diff(strings.Fields(c.want), spell(e), equalEmpty); diff != "" {
				t.Errorf("elements (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.problems, texts(problems), equalEmpty); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// equalEmpty makes nil and empty lists equal.
var equalEmpty = cmp.Transformer("", func(list []string) string { return strings.Join(list, "\n") })

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func texts(problems []lists.Problem) (list []string) {
	for _, p := range problems {
		list = append(list, p.String())
	}
	return list
}

// spell prints elements as lines of a plain list.
func spell(e rules.Elements) (list []string) {
	for _, p := range e.Names {
		switch p.Kind {
		case rules.Keyword:
			list = append(list, "keyword:"+p.Name)
		case rules.Regex:
			list = append(list, "regexp:"+p.Name)
		default:
			list = append(list, p.String())
		}
	}
	for _, p := range e.Prefixes {
		list = append(list, p.String())
	}
	for _, p := range e.Ports {
		list = append(list, fmt.Sprintf("%d-%d", p.Lo, p.Hi))
	}
	for _, m := range e.MACs {
		list = append(list, net.HardwareAddr(m[:]).String())
	}
	for _, g := range e.Globs {
		list = append(list, string(g))
	}
	return list
}

func TestFormats(t *testing.T) {
	want := map[lists.Format]string{
		lists.List: "domain cidr port mac process user", lists.Hosts: "domain", lists.DLC: "domain", lists.GeoSite: "domain",
		lists.GeoIP: "cidr", lists.Clash: "domain cidr port process", lists.SRS: "domain cidr port process",
	}
	names := []string{"domain", "cidr", "port", "mac", "process", "user"}
	for f := range lists.SRS + 2 {
		again, ok := lists.ParseFormat(f.String())
		if known := f >= lists.List && f <= lists.SRS; ok != known || ok && again != f {
			t.Errorf("%s is read as %s, %v", f, again, ok)
		}
		var held []string
		for set, name := range names {
			if f.Holds(rules.SetType(set)) {
				held = append(held, name)
			}
		}
		if got := strings.Join(held, " "); got != want[f] {
			t.Errorf("%s holds %q, want %q", f, got, want[f])
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		src  lists.Source
		set  rules.SetType
		err  string
	}{
		{"no format", lists.Source{}, rules.DomainSet, "the format of the list is not known"},
		{"format of the future", lists.Source{Format: lists.SRS + 1}, rules.DomainSet, "the format of the list is not known"},
		{"wrong type", lists.Source{Format: lists.Hosts}, rules.CIDRSet, "a hosts file can't fill a cidr set"},
		{"wrong type of a .dat", lists.Source{Format: lists.GeoIP}, rules.DomainSet, "a geoip file can't fill a domain set"},
		{"parts", lists.Source{Format: lists.List, Select: "cn"}, rules.DomainSet, "a list file has no parts to select"},
		{"size", lists.Source{Format: lists.List, Data: make([]byte, lists.MaxSize+1)}, rules.DomainSet, "larger than 64 MiB"},
	} {
		if _, _, err := lists.Parse(c.src, c.set); errText(err) != c.err {
			t.Errorf("%s: %v, want %s", c.name, err, c.err)
		}
	}
	for _, page := range []string{"<!DOCTYPE html>\nexample.com", "\ufeff \r\n\t<html>", "<?xml version='1.0'?>"} {
		for _, f := range []lists.Format{lists.List, lists.Hosts, lists.DLC, lists.Clash, lists.SRS} {
			if _, _, err := lists.Parse(lists.Source{Format: f, Data: []byte(page)}, rules.DomainSet); errText(err) != "a web page, not a list" {
				t.Errorf("%s: %q is read: %v", f, page, err)
			}
		}
	}
}

// TestTooManyElements: duplicates count too, so that the bound holds before
// they are found.
func TestTooManyElements(t *testing.T) {
	data := []byte(strings.Repeat("53\n", lists.MaxElements))
	src := lists.Source{Format: lists.List, Data: data}
	if e, _, err := lists.Parse(src, rules.PortSet); err != nil || len(e.Ports) != 1 {
		t.Errorf("MaxElements elements: %v, %v", e.Ports, err)
	}
	src.Data = append(src.Data, "53\n"...)
	if _, _, err := lists.Parse(src, rules.PortSet); errText(err) != "more than 4000000 elements" {
		t.Errorf("one more: %v", err)
	}
}

// TestManyProblems: a hundred are told apart, and all are counted.
func TestManyProblems(t *testing.T) {
	text := "good.example\n" + strings.Repeat("a..b\n", 250)
	e, problems, err := lists.Parse(lists.Source{Format: lists.List, Data: []byte(text)}, rules.DomainSet)
	if err != nil || len(e.Names) != 1 {
		t.Fatalf("%v, %v", e, err)
	}
	total := 0
	for _, p := range problems {
		total += p.Count
	}
	last := problems[len(problems)-1].String()
	if len(problems) != 101 || total != 250 || last != "line 102: 150 times: and more lines with a problem" {
		t.Errorf("%d problems of %d lines, the last %q", len(problems), total, last)
	}

	var kinds strings.Builder // as many kinds of what is left out
	for i := range 250 {
		kinds.WriteString(fmt.Sprintf("KIND-%d,a\n", i))
	}
	_, problems, _ = lists.Parse(lists.Source{Format: lists.Clash, Data: []byte(kinds.String())}, rules.DomainSet)
	last = problems[len(problems)-1].String()
	if len(problems) != 101 || last != "line 101: 150 times: and more problems, not shown" {
		t.Errorf("%d problems, the last %q", len(problems), last)
	}
}

// TestExpressions: an expression may ask for a large program, a list for many.
func TestExpressions(t *testing.T) {
	big := "regexp:" + strings.Repeat("x{1000}", 100) + "\n"
	src := lists.Source{Format: lists.List, Data: []byte(big)}
	if _, _, err := lists.Parse(src, rules.DomainSet); err != nil {
		t.Errorf("one: %v", err)
	}
	src.Data = []byte(strings.Repeat(big, 1000))
	if _, _, err := lists.Parse(src, rules.DomainSet); errText(err) != "its expressions are too large together" {
		t.Errorf("a thousand: %v", err)
	}
}

// TestSameInEveryFormat: one list gives the same elements in each spelling, and
// in every order of its entries.
func TestSameInEveryFormat(t *testing.T) {
	names := []string{"a.example", "b.a.example", "c.example", "xn--bcher-kva.example", "z-9.example.org", "_x.example"}
	prefixes := []string{"192.0.2.0/25", "192.0.2.128/25", "198.51.100.7", "2001:db8::/33", "2001:db8:8000::/33", "192.0.2.9"}
	wantNames := strings.Fields("_x.example a.example b.a.example c.example xn--bcher-kva.example z-9.example.org")
	wantPrefixes := strings.Fields("192.0.2.0/24 198.51.100.7/32 2001:db8::/32")
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		for _, s := range spellings {
			list, want := names, wantNames
			if s.set == rules.CIDRSet {
				list, want = prefixes, wantPrefixes
			}
			list = slices.Clone(list)
			random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			src := lists.Source{Format: s.format, Select: s.sel, Data: []byte(s.print(list))}
			e, problems, err := lists.Parse(src, s.set)
			if diff := cmp.Diff(want, spell(e)); diff != "" || len(problems) > 0 || err != nil {
				t.Fatalf("%s, %v: %v, %v, %s", s.name, list, problems, err, diff)
			}
		}
	}
}

// spellings print exact names, or prefixes, in each format.
var spellings = []struct {
	name   string
	format lists.Format
	set    rules.SetType
	sel    string
	print  func([]string) string
}{
	{"list", lists.List, rules.DomainSet, "", each("", "\n")},
	{"list with types", lists.List, rules.DomainSet, "", each("full:", " # and a comment\r\n")},
	{"hosts", lists.Hosts, rules.DomainSet, "", each("0.0.0.0 ", "\n")},
	{"hosts in one line", lists.Hosts, rules.DomainSet, "", func(list []string) string { return ":: " + strings.Join(list, "\t") }},
	{"dlc", lists.DLC, rules.DomainSet, "", each("full:", " @ads\n")},
	{"geosite", lists.GeoSite, rules.DomainSet, "CN", func(list []string) string {
		var entries []string
		for _, s := range list {
			entries = append(entries, site(3, s))
		}
		return datFile(datPart("cn", entries...))
	}},
	{"clash text", lists.Clash, rules.DomainSet, "", each("", "\n")},
	{"clash classical text", lists.Clash, rules.DomainSet, "", each("DOMAIN,", "\n")},
	{"clash YAML", lists.Clash, rules.DomainSet, "", func(list []string) string { return "payload:\n" + each("  - '", "'\n")(list) }},
	{"clash flow YAML", lists.Clash, rules.DomainSet, "", func(list []string) string { return "payload: [" + strings.Join(list, ",") + "]" }},
	{"sing-box", lists.SRS, rules.DomainSet, "", func(list []string) string {
		return `{"version":3,"rules":[{"domain":["` + strings.Join(list, `","`) + `"]}]}`
	}},
	{".srs", lists.SRS, rules.DomainSet, "", func(list []string) string { return srsFile(2, srsRule(false, srsNames(list, nil))) }},
	{"list", lists.List, rules.CIDRSet, "", each("", "\n")},
	{"clash", lists.Clash, rules.CIDRSet, "", each("IP-CIDR,", ",no-resolve\n")},
	{"clash ipcidr", lists.Clash, rules.CIDRSet, "", func(list []string) string { return "payload:\n" + each("- ", "\n")(list) }},
	{"geoip", lists.GeoIP, rules.CIDRSet, "us", func(list []string) string {
		var entries []string
		for _, s := range list {
			entries = append(entries, cidr(s))
		}
		return datFile(datPart("CN"), datPart("US", entries...))
	}},
	{"sing-box", lists.SRS, rules.CIDRSet, "", func(list []string) string {
		return `{"version":1,"rules":[{"ip_cidr":["` + strings.Join(list, `","`) + `"]}]}`
	}},
	{".srs", lists.SRS, rules.CIDRSet, "", func(list []string) string { return srsFile(1, srsRule(false, srsPrefixes(6, list))) }},
}

func each(before, after string) func([]string) string {
	return func(list []string) string {
		return before + strings.Join(list, after+before) + after
	}
}

// TestMinimalNames: the elements match a name if a line of the list does.
func TestMinimalNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[ab](\.[ab]){0,3}`)
		spelled := rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"", ".", "*.", "keyword:", "regexp:"}).Draw(t, "kind") + name.Draw(t, "name")
		})
		lines := rapid.SliceOfN(spelled, 1, 12).Draw(t, "lines")
		src := lists.Source{Format: lists.List, Data: []byte(strings.Join(lines, "\n"))}
		e, problems, err := lists.Parse(src, rules.DomainSet)
		if err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		for _, n := range rapid.SliceOfN(rapid.StringMatching(`[abc](\.[ab]){0,4}`), 20, 20).Draw(t, "names") {
			want := slices.ContainsFunc(lines, func(line string) bool { return matchLine(line, n) })
			got := slices.ContainsFunc(e.Names, func(p rules.NamePattern) bool { return p.Match(n) })
			if got != want {
				t.Fatalf("%s is matched: %v, want %v by %v", n, got, want, spell(e))
			}
		}
		for i, p := range e.Names {
			for j, other := range e.Names {
				if i != j && covers(other, p) {
					t.Fatalf("%s is covered by %s", p, other)
				}
			}
		}
		if !slices.IsSortedFunc(e.Names, func(a, b rules.NamePattern) int {
			return strings.Compare(string(rune('0'+a.Kind))+a.Name, string(rune('0'+b.Kind))+b.Name)
		}) {
			t.Fatalf("not sorted: %v", spell(e))
		}
	})
}

// covers reports whether one exact name, suffix or sub-domain pattern makes
// another one needless, or could be one with it.
func covers(by, p rules.NamePattern) bool {
	if by.Kind > rules.Subdomain || p.Kind > rules.Subdomain {
		return by.Kind == p.Kind && by.Name == p.Name
	}
	return by.Name == p.Name || by.Kind != rules.Exact && strings.HasSuffix(p.Name, "."+by.Name)
}

// matchLine is what a line of TestMinimalNames says.
func matchLine(line, name string) bool {
	if k, ok := strings.CutPrefix(line, "keyword:"); ok {
		return strings.Contains(name, k)
	}
	if r, ok := strings.CutPrefix(line, "regexp:"); ok {
		p, err := rules.NewRegex(r)
		return err == nil && p.Match(name)
	}
	p, _ := rules.ParseNamePattern(line)
	return p.Match(name)
}

// TestRealFiles reads what sing-box and Xray wrote; testdata/README.md says how.
func TestRealFiles(t *testing.T) {
	names := `a.example xn--bcher-kva.example .example.com .example.net *.example.org keyword:track regexp:^ads?\.`
	type file struct {
		name, sel string
		format    lists.Format
		set       rules.SetType
		want      string
	}
	cases := []file{
		{"geosite.dat", "cn", lists.GeoSite, rules.DomainSet, ".cn.example"},
		{"geosite.dat", "video", lists.GeoSite, rules.DomainSet, `a.example .example.com keyword:track regexp:^ads?\.`},
		{"geosite.dat", "video@ads", lists.GeoSite, rules.DomainSet, "a.example"},
		{"geoip.dat", "cn", lists.GeoIP, rules.CIDRSet, "192.0.2.0/24"},
		{"geoip.dat", "!half", lists.GeoIP, rules.CIDRSet, "128.0.0.0/1 8000::/1"},
		{"geoip.dat", "rest", lists.GeoIP, rules.CIDRSet, "128.0.0.0/1 8000::/1"},
	}
	for _, name := range []string{"sing-box-v1.srs", "sing-box-v2.srs", "sing-box-v5.srs", "sing-box.json"} {
		for set, want := range map[rules.SetType]string{
			rules.DomainSet: names, rules.CIDRSet: "192.0.2.0/24 198.51.100.7/32 2001:db8::/32",
			rules.PortSet: "80-80 443-443 8000-8080", rules.ProcessSet: "/usr/bin/wget curl",
		} {
			cases = append(cases, file{name, "", lists.SRS, set, want})
		}
	}
	for _, c := range cases {
		data, err := os.ReadFile("testdata/" + c.name)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := lists.Parse(lists.Source{Format: c.format, Select: c.sel, Data: data}, c.set)
		if diff := cmp.Diff(strings.Fields(c.want), spell(e)); diff != "" || err != nil {
			t.Errorf("%s, type %d: %v %s", c.name, c.set, err, diff)
		}
	}
}
