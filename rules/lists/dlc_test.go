package lists_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

func TestDLC(t *testing.T) {
	check(t, lists.DLC, []listCase{
		{name: "nothing", in: "# nothing\n"},
		{
			name: "every kind",
			in:   "\ufeffa.example\r\ndomain:B.example # why\r\nfull:c.example#why\n\nkeyword:Track\nregexp:^ads?[0-9]+\\.\nFULL: d.example\n",
			want: `c.example d.example .a.example .b.example keyword:track regexp:^ads?[0-9]+\.`,
		},
		{name: "a name covers those below", in: "a.example\nb.a.example\nfull:c.a.example\nfull:a.example\n", want: ".a.example"},
		{name: "attributes", in: "a.example @ads @cn\nb.example\t@!cn\nfull:c.example @Ads &other\n", want: "c.example .a.example .b.example"},
		{name: "select", sel: "@ads", in: "a.example @ads @cn\nb.example @cn\nc.example\nd.example @adsx\n", want: ".a.example"},
		{name: "select without", sel: "@cn @-ads", in: "a.example @ads @cn\nb.example @cn\nc.example\n", want: ".b.example"},
		{name: "select only without", sel: "@-ads", in: "a.example @ads @cn\nb.example @cn\nc.example\n", want: ".b.example .c.example"},
		{name: "select nothing", sel: "@ad", in: "a.example @ads\n", err: "no entry has the attributes that select asks for"},
		{name: "select of an empty list", sel: "@ad", in: "", err: "no entry has the attributes that select asks for"},
		{name: "select in another form", sel: "ads", in: "a.example @ads\n", err: `select takes attributes: "@ads", "@cn@-ads"`},
		{
			name: "bad lines",
			in:   "good.example\nip:192.0.2.1\n192.0.2.1\n.b.example\na.example ads\na.example @a-b\na.example &a_b\nfull:\n:x\nx.example @\n@ads",
			want: ".good.example",
			problems: []string{
				"line 2: not domain:, full:, keyword:, regexp: or include:: `ip:192.0.2.1`", "line 3: not a name: `192.0.2.1`",
				"line 4: not a name: `.b.example`", "line 5: neither an @attribute nor an &affiliation: `ads`",
				"line 6: neither an @attribute nor an &affiliation: `@a-b`", "line 7: neither an @attribute nor an &affiliation: `&a_b`",
				"line 8: not a name: nothing", "line 9: not domain:, full:, keyword:, regexp: or include:: `:x`",
				"line 10: neither an @attribute nor an &affiliation: `@`", "line 11: not a name: `@ads`",
			},
		},
	})
}

func TestInclude(t *testing.T) {
	check(t, lists.DLC, []listCase{
		{
			name: "by name", in: "include:google\ninclude: other # why\n", want: ".google.example .other.example",
			files: memory{"google": "google.example", "other": "other.example"},
		},
		{
			name: "in any case", in: "INCLUDE:Google", want: ".google.example", files: memory{"google": "google.example"},
		},
		{
			name: "by attributes", in: "include:google @ads @-cn\ninclude:google\t@none", want: ".a.example",
			files: memory{"google": "a.example @ads\nb.example @ads @cn\nc.example"},
		},
		{
			name: "attributes stay on what is included", sel: "@ads", in: "include:google\nd.example", want: ".a.example",
			files: memory{"google": "a.example @ads\nc.example"},
		},
		{
			name: "through another", in: "include:a", want: ".a.example .b.example",
			files: memory{"a": "a.example\ninclude:b", "b": "b.example"},
		},
		{
			name: "twice", in: "include:a\ninclude:b", want: ".a.example .b.example .c.example",
			files: memory{"a": "a.example\ninclude:c", "b": "b.example\ninclude:c", "c": "c.example"},
		},
		{
			name: "of itself", in: "include:root\na.example", want: ".a.example", files: memory{},
			problems: []string{"line 1: a list that includes itself: `root`"},
		},
		{
			name: "in a circle", in: "include:a\nroot.example", want: ".a.example .b.example .root.example",
			files:    memory{"a": "a.example\ninclude:b", "b": "include:a\nb.example\ninclude:root"},
			problems: []string{"b: line 1: a list that includes itself: `a`", "b: line 3: a list that includes itself: `root`"},
		},
		{
			name: "what is not there", in: "include:a\na.example", want: ".a.example", files: memory{},
			problems: []string{"line 1: can't include `a`: file does not exist"},
		},
		{
			name: "without a folder", in: "include:a\na.example", want: ".a.example",
			problems: []string{"line 1: a list can only be included from a folder: `a`"},
		},
		{
			name: "what no file is called", in: "include:../passwd\ninclude:\ninclude:a b\na.example", want: ".a.example", files: memory{},
			problems: []string{
				"line 1: not a list to include: `../passwd`", "line 2: not a list to include: nothing", "line 3: not a list to include: `a b`",
			},
		},
		{
			name: "bad lines of an included file", in: "include:a\nb..c\n", want: ".a.example", files: memory{"a": "a.example\na..b"},
			problems: []string{"a: line 2: not a name: `a..b`", "line 2: not a name: `b..c`"},
		},
	})
}

func TestAffiliations(t *testing.T) {
	check(t, lists.DLC, []listCase{
		{
			name: "of other files", in: "root.example", want: ".a.example .root.example",
			files: memory{"root": "root.example", "a": "a.example @ads &root\nb.example &other"},
		},
		{
			name: "with their attributes", sel: "@ads", in: "root.example", want: ".a.example",
			files: memory{"a": "a.example @ads &ROOT\nb.example &root"},
		},
		{
			name: "to what is included", in: "include:b", want: ".a.example .b.example", files: memory{"a": "a.example &b", "b": "b.example"},
		},
		{
			name: "to a list without a file", in: "include:b", want: ".a.example", files: memory{"a": "a.example &b"},
		},
		{
			name:  "bad lines of files that were not asked for",
			in:    "root.example",
			want:  ".root.example",
			files: memory{"a": "a..b &root\nx.example &root ads"},
		},
	})
}

// TestIncludeBounds: files may not nest without end, nor copy each other's
// entries without end.
func TestIncludeBounds(t *testing.T) {
	chain := memory{}
	for i := range 20 {
		chain[fmt.Sprint("a", i)] = fmt.Sprintf("include:a%d\na%d.example\n", i+1, i)
	}
	chain["a20"] = "a20.example"
	parse := func(text string, files lists.Files) (rules.Elements, error) {
		e, _, err := lists.Parse(lists.Source{Format: lists.DLC, Name: "root", Data: []byte(text), Files: files}, rules.DomainSet)
		return e, err
	}
	if e, err := parse("include:a6", chain); err != nil || len(e.Names) != 15 {
		t.Errorf("15 files: %d names, %v", len(e.Names), err)
	}
	if _, err := parse("include:a5", chain); errText(err) != "include: nests deeper than 16 files" {
		t.Errorf("16 files: %v", err)
	}
	var big strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&big, "a%d.example\n", i)
	}
	files := memory{"big": big.String()}
	if e, err := parse(strings.Repeat("include:big\n", 40), files); err != nil || len(e.Names) != 10_000 {
		t.Errorf("40 times: %d names, %v", len(e.Names), err)
	}
	if _, err := parse(strings.Repeat("include:big @none\n", 401), files); errText(err) != "more than 4000000 elements" {
		t.Errorf("401 times: %v", err)
	}
}

// TestAffiliationBounds: nor may one line give its entry to others without end,
// or the expressions of other files be too large together.
func TestAffiliationBounds(t *testing.T) {
	for _, c := range []struct{ line, err string }{
		{"a.example" + strings.Repeat(" &b", 1000) + "\n", "more than 4000000 elements"},
		{"regexp:" + strings.Repeat("x{1000}", 100) + " &b\n", "its expressions are too large together"},
	} {
		files := memory{"other": strings.Repeat(c.line, 4001), "Not A List": "x.example &root"}
		_, _, err := lists.Parse(lists.Source{Format: lists.DLC, Name: "root", Data: []byte("a.example"), Files: files}, rules.DomainSet)
		if errText(err) != c.err {
			t.Errorf("%.20s: %v, want %s", c.line, err, c.err)
		}
	}
}

// unlisted is a folder whose names can't be had.
type unlisted struct{ memory }

func (unlisted) Names() ([]string, error) { return nil, errors.New("forbidden") }

func TestUnlistedFolder(t *testing.T) {
	src := lists.Source{Format: lists.DLC, Name: "root", Data: []byte("include:a\nb.example"), Files: unlisted{memory{"a": "a.example\nc.example &root"}}}
	e, problems, err := lists.Parse(src, rules.DomainSet)
	if got := strings.Join(spell(e), " "); got != ".a.example .b.example .c.example" || err != nil || len(problems) > 0 {
		t.Errorf("%s, %v, %v", got, problems, err)
	}
}
