package lists_test

import (
	"bytes"
	"cmp"
	"os"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// maxFuzz keeps a run fast, and small enough for the bounds on memory to tell
// work that grows with the square of the input.
const maxFuzz = 32 << 10

func FuzzList(f *testing.F) {
	f.Add(uint8(0), []byte("\ufeffzoom.us # a\r\n.example.com\n*.example.org\nzoom-*.us\nfull:a.example\nkeyword:ads\nregexp:^a{2}\na..b\n"))
	f.Add(uint8(1), []byte("10.0.0.0/8\n192.0.2.77/24\n::ffff:192.0.2.0/120\n2001:db8::1\n::/0\n"))
	f.Add(uint8(2), []byte("80\n81-90\n65535\n0-0\n"))
	f.Add(uint8(3), []byte("02:00:00:00:00:01\n02-00-00-00-00-0F\n"))
	f.Add(uint8(4), []byte("curl\n/usr/bin/*\na b\n"))
	f.Fuzz(func(t *testing.T, set uint8, data []byte) {
		verify(t, lists.Source{Format: lists.List, Data: data}, rules.SetType(set%6))
	})
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\n::1 ip6-localhost\n0.0.0.0 a.example b.example#c\nfe80::1%lo0 x\nx y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		verify(t, lists.Source{Format: lists.Hosts, Data: data}, rules.DomainSet)
	})
}

func FuzzDLC(f *testing.F) {
	f.Add("@ads", []byte("a.example @ads\ninclude:b @-cn\nfull:c.example # x\n"), []byte("include:root\nb.example @ads &root\nregexp:^x &c\n"))
	f.Add("", []byte("include:b\ninclude:b @ads\ninclude:c\nkeyword:a\n"), []byte("d.example @cn @ads &c\nfull: e.example\n"))
	f.Fuzz(func(t *testing.T, sel string, root, other []byte) {
		if len(other) > maxFuzz {
			return
		}
		files := memory{"root": string(root), "b": string(other)}
		verify(t, lists.Source{Format: lists.DLC, Select: sel, Data: root, Name: "root", Files: files}, rules.DomainSet)
	})
}

func FuzzGeoSite(f *testing.F) {
	f.Add("cn@ads", []byte(datFile(datPart("CN", site(2, "a.example", "ads"), site(3, "b.example"), site(0, "c"), site(1, "^d")), datPart("US"))))
	f.Add("new", []byte(datFile(text(4, "NEW")+text(2, site(2, "a.example"))+number(9, 3))))
	f.Fuzz(func(t *testing.T, sel string, data []byte) {
		verify(t, lists.Source{Format: lists.GeoSite, Select: sel, Data: data}, rules.DomainSet)
	})
}

func FuzzGeoIP(f *testing.F) {
	f.Add("cn", []byte(datFile(datPart("CN", cidr("192.0.2.0/24"), cidr("2001:db8::/32"), cidr("0.0.0.0/0")))))
	f.Add("!cn", []byte(datFile(datPart("CN", cidr("192.0.2.0/25"), cidr("192.0.2.128/25"), cidr("::/1")))))
	f.Fuzz(func(t *testing.T, sel string, data []byte) {
		verify(t, lists.Source{Format: lists.GeoIP, Select: sel, Data: data}, rules.CIDRSet)
	})
}

func FuzzClash(f *testing.F) {
	f.Add(uint8(0), []byte("payload:\n  - '+.a.example'\n  - \"b.example\" # c\n  - *.d\n- .e.example\n- '*.f'\n"))
	f.Add(uint8(0), []byte("payload: [a.example, \"\\x62.example\"]\nmore: &x {y: *x}\n"))
	f.Add(uint8(0), []byte("DOMAIN,a.example\nDOMAIN-SUFFIX,b.example,no-resolve\nDOMAIN-KEYWORD,c\nDOMAIN-REGEX,^d{1,2}\nDOMAIN-WILDCARD,*.e?\n// x\n"))
	f.Add(uint8(1), []byte("payload:\n- 192.0.2.0/24\n- IP-CIDR,198.51.100.0/24,no-resolve,src\n- IP-CIDR6,2001:db8::/32\n"))
	f.Add(uint8(2), []byte("DST-PORT,80/443-500\n"))
	f.Add(uint8(4), []byte("PROCESS-NAME,curl\nPROCESS-PATH,/usr/bin/wget\n"))
	f.Fuzz(func(t *testing.T, set uint8, data []byte) {
		verify(t, lists.Source{Format: lists.Clash, Data: data}, rules.SetType(set%6))
	})
}

func FuzzSingBoxJSON(f *testing.F) {
	for set := range uint8(5) {
		data, err := os.ReadFile("testdata/sing-box.json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(set, data)
		f.Add(set, []byte(ruleSet(`{"domain":"a.example","port":[80]}`, `{"type":"logical","mode":"and","rules":[{"port_range":":3"}],"invert":true}`)))
	}
	f.Fuzz(func(t *testing.T, set uint8, data []byte) {
		if !bytes.HasPrefix(data, []byte("SRS")) {
			verify(t, lists.Source{Format: lists.SRS, Data: data}, rules.SetType(set%6))
		}
	})
}

// FuzzSRS mutates what is compressed, of which zlib would let little through.
func FuzzSRS(f *testing.F) {
	names := srsNames([]string{"a.example", "bücher.example"}, []string{"b.example", ".c.example"})
	f.Add(uint8(0), uint8(2), []byte("\x02"+srsRule(false, names, srsTexts(3, "ads"), srsTexts(4, "^a"))+srsLogical(1, false, srsRule(true, names))))
	f.Add(uint8(1), uint8(1), []byte("\x01"+srsRule(false, srsPrefixes(6, []string{"192.0.2.0/24", "2001:db8::/33", "::/0"}))))
	f.Add(uint8(2), uint8(1), []byte("\x01"+srsLogical(0, false, srsRule(false, srsPorts(9, 80, 81), srsTexts(10, "1:2", ":7")))))
	f.Add(uint8(4), uint8(1), []byte("\x02"+srsRule(false, srsTexts(11, "curl"))+srsRule(false, srsTexts(12, "/bin/sh"))))
	for _, o := range others {
		f.Add(uint8(0), uint8(5), []byte("\x01"+srsRule(false, names, o.item)))
	}
	f.Fuzz(func(t *testing.T, set, version uint8, plain []byte) {
		if len(plain) > maxFuzz {
			return
		}
		file := "SRS" + string([]byte{version}) + deflated(string(plain))
		verify(t, lists.Source{Format: lists.SRS, Data: []byte(file)}, rules.SetType(set%6))
	})
}

// verify parses a source and checks what must hold of every result.
func verify(t *testing.T, src lists.Source, set rules.SetType) {
	if len(src.Data) > maxFuzz {
		return
	}
	before := allocated()
	e, problems, err := lists.Parse(src, set)
	limit := uint64(8<<20 + 4000*len(src.Data))
	if strings.Contains(string(src.Data), "{") || src.Format == lists.SRS {
		limit = 512 << 20 // the programs of expressions with repetitions
	}
	if took := allocated() - before; took > limit {
		t.Errorf("%d bytes took %d of memory", len(src.Data), took)
	}
	if err != nil && len(spell(e)) > 0 {
		t.Errorf("%v, and elements: %v", err, spell(e))
	}
	verifyNames(t, e.Names)
	verifyOthers(t, e, set)
	again, problems2, err2 := lists.Parse(src, set)
	if diff := gocmp.Diff(spell(e), spell(again)) + gocmp.Diff(problems, problems2); diff != "" || errText(err) != errText(err2) {
		t.Errorf("read twice: %v, %v %s", err, err2, diff)
	}
	for _, p := range problems {
		if s := p.String(); p.Count < 1 || p.Text == "" || len(s) > 1000 || strings.ContainsAny(s, "\x00\x1b\n\r") {
			t.Errorf("problem %q of %d lines", s, p.Count)
		}
	}
	printed := spell(e)
	if len(printed) == 0 || slices.ContainsFunc(printed, unprintable) {
		return
	}
	plain := lists.Source{Format: lists.List, Data: []byte(strings.Join(printed, "\n"))}
	again, problems, err = lists.Parse(plain, set)
	if diff := gocmp.Diff(printed, spell(again)); diff != "" || len(problems) > 0 || err != nil {
		t.Errorf("printed as a plain list: %v, %v %s", problems, err, diff)
	}
}

// unprintable reports what a line of a plain list can't hold, which only
// expressions and paths have.
func unprintable(s string) bool {
	return strings.Contains(s, "\n") || strings.Contains(s, " #") || strings.Contains(s, "\t#") || strings.Trim(s, " \t\r") != s ||
		s == "" || strings.HasPrefix(s, "#") || strings.HasPrefix(s, "<") || strings.HasPrefix(s, "\ufeff") || len(s) > 4<<10
}

// allocated returns the bytes that were allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func verifyNames(t *testing.T, list []rules.NamePattern) {
	tree := map[string]rules.PatternKind{}
	for i, p := range list {
		ok := false
		switch p.Kind {
		case rules.Exact, rules.Suffix, rules.Subdomain:
			name, err := flow.CanonicalName(p.Name)
			_, twice := tree[p.Name]
			ok = err == nil && name == p.Name && !twice
			tree[p.Name] = p.Kind
		case rules.Keyword:
			var k rules.NamePattern
			k, ok = rules.NewKeyword(p.Name)
			ok = ok && k.Name == p.Name
		case rules.Regex:
			_, err := rules.NewRegex(p.Name)
			ok = err == nil
			p.Match("a.example") // which needs its program
		default:
			var g rules.NamePattern
			g, ok = rules.ParseNamePattern(p.Name)
			ok = ok && g == p
		}
		if !ok {
			t.Errorf("not in its one form: %s", p)
		}
		if i > 0 && cmp.Or(cmp.Compare(list[i-1].Kind, p.Kind), cmp.Compare(list[i-1].Name, p.Name)) >= 0 {
			t.Errorf("%s is not behind %s", p, list[i-1])
		}
	}
	for name := range tree {
		for _, parent, found := strings.Cut(name, "."); found; _, parent, found = strings.Cut(parent, ".") {
			if kind, ok := tree[parent]; ok && kind != rules.Exact {
				t.Errorf("%s is covered by %s", name, parent)
			}
		}
	}
}

func verifyOthers(t *testing.T, e rules.Elements, set rules.SetType) {
	counts := [...]int{len(e.Names), len(e.Prefixes), len(e.Ports), len(e.MACs), len(e.Globs)}
	for i, n := range counts {
		if n > lists.MaxElements || n > 0 && i != int(min(set, rules.ProcessSet)) {
			t.Errorf("%d elements of kind %d in a set of type %d", n, i, set)
		}
	}
	if problem := notMinimal(e.Prefixes); problem != "" {
		t.Error(problem)
	}
	for i, p := range e.Ports {
		if p.Lo > p.Hi || i > 0 && int(e.Ports[i-1].Hi)+1 >= int(p.Lo) {
			t.Errorf("ports %v", e.Ports)
		}
	}
	for i, m := range e.MACs {
		if i > 0 && bytes.Compare(e.MACs[i-1][:], m[:]) >= 0 {
			t.Errorf("MACs %v", e.MACs)
		}
	}
	for i, g := range e.Globs {
		if g == "" || len(g) > 4096 || strings.Count(string(g), "*") > 3 || i > 0 && e.Globs[i-1] >= g {
			t.Errorf("globs %q", e.Globs)
		}
	}
}
