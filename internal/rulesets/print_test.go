package rulesets

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// TestLinesReadBack: what is printed is read again as the same elements.
func TestLinesReadBack(t *testing.T) {
	for _, c := range []struct {
		set  rules.SetType
		text string
	}{
		{rules.DomainSet, "a.example\nxn--mnchen-3ya.example\n_dmarc.example\n.b.example\ncom\n.net\n*.c.example\nzoom-*.us\n*.x-*.us\nkeyword:ad_s.\nregexp:^(a|b)+#[[:alpha:]]{2,3}$\nregexp:(?i)a:b\n"},
		{rules.CIDRSet, "0.0.0.0/0\n2001:db8::1/128\n"},
		{rules.PortSet, "22\n80-443\n"},
		{rules.MACSet, "02:00:5e:00:53:01\n"},
		{rules.ProcessSet, "/usr/bin/*\ncurl\nC:\\a b\n"},
		{rules.UserSet, "root\nu*\n"},
	} {
		once := parseText(t, c.text, c.set)
		data, err := printList(once)
		if err != nil {
			t.Fatal(err)
		}
		again := parseText(t, string(data), c.set)
		if diff := cmp.Diff(spell(once), spell(again)); diff != "" || strings.Count(c.text, "\n") != strings.Count(string(data), "\n") {
			t.Errorf("%s: read, printed %q, and read again:\n%s", TypeName(c.set), data, diff)
		}
	}
}

// TestRandomReadBack does so with random dlc files, whose copies are printed.
func TestRandomReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.OneOf(
			rapid.StringMatching(`(domain:|full:|)[a-z0-9_]{1,4}(-[a-zäßø]{1,3})?\.[a-c]{1,2}(\.)?`),
			rapid.StringMatching(`keyword:[a-zA-Z0-9._-]{1,6}`),
			rapid.StringMatching(`regexp:[\^a-c.\\d+*?|:@&$]{1,8}`),
			rapid.Map(rapid.String(), func(s string) string { return "regexp:" + s }),
		)
		text := strings.Join(rapid.SliceOfN(line, 1, 20).Draw(t, "lines"), "\n")
		src := lists.Source{Format: lists.DLC, Data: []byte(text)}
		e, _, err := lists.Parse(src, rules.DomainSet)
		if err != nil {
			t.Skip(err)
		}
		data, err := printList(e)
		if err != nil {
			t.Fatal(err)
		}
		again, problems, err := lists.Parse(lists.Source{Format: lists.List, Data: data}, rules.DomainSet)
		if err != nil || len(problems) > 0 || sorted(again) != sorted(e) { // escapes sort in other places
			t.Fatalf("%q: printed %q, read %q, %v, %v", text, data, spell(again), problems, err)
		}
	})
}

func sorted(e rules.Elements) string {
	return strings.Join(slices.Sorted(Lines(e)), "\n")
}

func parseText(t *testing.T, text string, set rules.SetType) rules.Elements {
	t.Helper()
	e, problems, err := lists.Parse(lists.Source{Format: lists.List, Data: []byte(text)}, set)
	if err != nil || len(problems) > 0 {
		t.Fatalf("%q: %v, %v", text, problems, err)
	}
	return e
}

// TestOddExpressions: blanks and control characters of an expression don't
// break its line, and it matches what it did.
func TestOddExpressions(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`a b`, `regexp:a\x20b`},
		{"a\n#", `regexp:a\n#`},
		{"\x1b[ \t]", `regexp:\x1b[\t\x20]`},
		{`\Q #\E`, `regexp:\x20#`},
		{"a\u00a0", `regexp:a\xa0`},
		{`^ads\d+$`, `regexp:^ads\d+$`},
	} {
		p, err := rules.NewRegex(c.in)
		if err != nil {
			t.Fatal(err)
		}
		e := rules.Elements{Names: []rules.NamePattern{p}}
		if got := spell(e); got != c.want {
			t.Errorf("%q is printed as %s, want %s", c.in, got, c.want)
		}
		parseText(t, spell(e), rules.DomainSet)
	}
}

func TestLines(t *testing.T) {
	e := rules.Elements{
		Names:    []rules.NamePattern{{Kind: rules.Suffix, Name: "a.example"}},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Ports:    []rules.PortRange{{Lo: 1, Hi: 1}, {Lo: 3, Hi: 4}},
		MACs:     []flow.MAC{{2, 0, 0x5e, 0, 0x53, 0xff}},
		Globs:    []rules.Glob{"x*"},
	}
	const want = ".a.example 192.0.2.0/24 1 3-4 02:00:5e:00:53:ff x*"
	if got := spell(e); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	n := 0
	for range strings.Fields(want) { // stopping is possible at each
		n++
		seen := 0
		for range Lines(e) {
			if seen++; seen == n {
				break
			}
		}
	}
}

// TestPrintBound: elements that could not be read again are not printed.
func TestPrintBound(t *testing.T) {
	name := strings.Repeat("a", 253)
	e := rules.Elements{Names: make([]rules.NamePattern, lists.MaxSize/254+1)}
	for i := range e.Names {
		e.Names[i] = rules.NamePattern{Kind: rules.Keyword, Name: name}
	}
	if _, err := printList(e); err == nil || err.Error() != "larger than 64 MiB" {
		t.Errorf("error %v", err)
	}
}
