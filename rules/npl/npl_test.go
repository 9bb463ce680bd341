package npl

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
)

// samples are the texts of the golden files, by their names.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	list := map[string][]byte{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, member := range archive.Files {
			list[filepath.Base(file)+"/"+member.Name] = member.Data
		}
	}
	return list
}

func FuzzNPL(f *testing.F) {
	for name, text := range samples(f) {
		if strings.HasSuffix(name, ".npl") {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		checkParse(t, src)
		w := rules.Word{Text: string(src), Body: 7, Span: diag.Span{File: "f", Start: 7, End: 7 + len(src)}}
		checkShort(t, w)
		w.Body = 0
		checkShort(t, w)
	})
}

// checkShort reads a word in all ways, and looks at the places.
func checkShort(t *testing.T, w rules.Word) {
	t.Helper()
	n, diags := ParseExpr("f", w)
	if (n == nil) != diag.HasErrors(diags) && n == nil {
		t.Fatalf("no node and no error: %q", w.Text)
	}
	_, more := ParseOutcome("f", w)
	_, _, _, last := ParseTarget("f", w)
	for _, d := range slices.Concat(diags, more, last) {
		if s := d.Span; s.File != "f" || s.Start < w.Span.Start || s.End > w.Span.End || s.End < s.Start {
			t.Fatalf("the span %v lies outside of %v\n%v\n%q", s, w.Span, d, w.Text)
		}
		if w.Body == 0 && d.Span != w.Span {
			t.Fatalf("the span %v, and the text does not stand in the source", d.Span)
		}
	}
}

func TestLex(t *testing.T) {
	kinds := map[Kind]string{
		Newline: "nl", Space: "_", Comment: "#", Word: "w", String: "s", Open: "{", Close: "}", ParenOpen: "(", ParenClose: ")",
		Comma: ",", Semicolon: ";", Assign: "=", Arrow: "->", Compare: "cmp", Foreign: "for", SingleQuoted: "'", Unterminated: "un", Bad: "bad",
	}
	for _, c := range []struct{ src, want string }{
		{"a b\t c", "w:a _ w:b _ w:c"},
		{"\ufeffa", "_ w:a"},
		{"a\r\nb\n\nc\r", "w:a nl w:b nl nl w:c nl"},
		{"10.0.0.0/8,fc00::/7", "w:10.0.0.0/8 , w:fc00::/7"},
		{"02:42:ac:11:00:02 1.1.1.1:443 tcp/443 mon-thu 20:30-06:30", "w:02:42:ac:11:00:02 _ w:1.1.1.1:443 _ w:tcp/443 _ w:mon-thu _ w:20:30-06:30"},
		{"a->b - -> -", "w:a -> w:b _ w:- _ -> _ w:-"},
		{"rtt>120ms<=5!=6==7=8", "w:rtt cmp w:120ms cmp w:5 cmp w:6 cmp w:7 = w:8"},
		{"=>=<!x", "for for for w:x"},
		{`"a \" b"c`, "s w:c"},
		{`"a\\"b`, "s w:b"},
		{`"^ads\."`, "s"},
		{"\"a\n\"b\\", "un nl un"},
		{"a#b\nc # \r\n", "w:a # nl w:c _ # nl"},
		{"'a b' it's 'x", "' _ w:it's _ w:'x"},
		{"{}();,", "{ } ( ) ; ,"},
		{"münchen\u00a0\u200bx", "w:münchen bad bad w:x"},
		{"a\x00b\xffc", "w:a bad w:b bad w:c"},
		{"“a”", "bad w:a bad"},
		{"&& || *.x @", "w:&& _ w:|| _ w:*.x _ w:@"},
		{"", ""},
	} {
		var got []string
		at := 0
		for _, tok := range Lex([]byte(c.src)) {
			s := kinds[tok.Kind]
			if tok.Kind == Word {
				s += ":" + c.src[tok.Start:tok.End]
			}
			if got = append(got, s); tok.Start != at {
				t.Errorf("%q: a gap at %d", c.src, at)
			}
			at = tok.End
		}
		if s := strings.Join(got, " "); s != c.want || at != len(c.src) {
			t.Errorf("%q: %s\nwant %s", c.src, s, c.want)
		}
	}
}

func TestStrings(t *testing.T) {
	for _, c := range []struct {
		src, want string
		verbatim  bool
	}{
		{`"plain"`, "plain", true},
		{`""`, "", true},
		{`"^ads\.[a-z]+\d$"`, `^ads\.[a-z]+\d$`, true},
		{`"a\"b"`, `a"b`, false},
		{`"a\\b"`, `a\b`, false},
		{`"\n\r\t\u{e9}\u{1F600}"`, "\n\r\té😀", false},
		{`"\u{} \u{110000} \u{d800} \u{1234567} \uABCD \u{12"`, `\u{} \u{110000} \u{d800} \u{1234567} \uABCD \u{12`, true},
		{`"\x\u{41}\y"`, `\xA\y`, false},
	} {
		ast, diags := Parse("f", []byte("policy 1\nimport "+c.src))
		if len(diags) > 0 || len(ast.Imports) != 1 {
			t.Errorf("%s: %v", c.src, diags)
			continue
		}
		w := ast.Imports[0].Path
		if w.Text != c.want || !w.Quoted || (w.Body == 17) != c.verbatim || (w.Body == 0) == c.verbatim || w.Span != (diag.Span{File: "f", Start: 16, End: 16 + len(c.src)}) {
			t.Errorf("%s: %+v", c.src, w)
		}
	}
}

// TestUnderlined asserts the text under each part of the AST.
func TestUnderlined(t *testing.T) {
	const src = "\ufeffpolicy 1\nuplink u { gateway 1.2.3.4, ::1; threshold rtt 5/4; threshold loss 5% / 2% } # c \n" +
		"rule x priority 5 {\n match not (sni a or port 1,\n 2) and uplink.u.rtt > 5ms for 3s; do route \"r\", log }\n" +
		"assert \"h\" tcp/443 when NORMAL -> rule x\nnever (any) -> via y\n"
	ast, diags := Parse("f", []byte(src))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	under := func(s diag.Span) string { return src[s.Start:s.End] }
	u, r, a := ast.Uplinks[0], ast.Rules[0], ast.Asserts[0]
	not, metric := r.Match.Kids[0], r.Match.Kids[1]
	got := []string{
		under(ast.Version.Span), under(u.Span), under(u.Name.Span), under(u.Items[0].Span), under(u.Items[0].Args[1].Span),
		under(u.Items[1].Span), under(u.Items[1].Items[1].Span), under(ast.Comments[0].Span),
		under(r.Span), under(r.Match.Span), under(not.Span), under(not.Kids[0].Span), under(not.Kids[0].Kids[1].Span),
		under(metric.Span), under(metric.Pred.Subject.Span), under(metric.Pred.For.Span),
		under(r.Do.Span), under(r.Do.Items[0].Args[0].Span), under(a.Span), under(a.Target.Span), under(a.Proto.Span), under(a.Port.Span),
		under(a.Expect.Span), under(ast.Invariants[0].Span), under(ast.Invariants[0].Expect.Via.Span),
	}
	want := []string{
		"1", "uplink u { gateway 1.2.3.4, ::1; threshold rtt 5/4; threshold loss 5% / 2% }", "u", "gateway 1.2.3.4, ::1", "::1",
		"threshold rtt 5/4; threshold loss 5% / 2%", "threshold loss 5% / 2%", "# c",
		src[strings.Index(src, "rule x"):strings.Index(src, "\nassert")], "not (sni a or port 1,\n 2) and uplink.u.rtt > 5ms for 3s",
		"not (sni a or port 1,\n 2)", "sni a or port 1,\n 2", "port 1,\n 2",
		"uplink.u.rtt > 5ms for 3s", "u", "3s",
		`route "r", log`, `"r"`, `assert "h" tcp/443 when NORMAL -> rule x`, `"h"`, "tcp", "443",
		"rule x", "never (any) -> via y", "y",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if text := not.Kids[0].Kids[1].Pred.Text; text != "port 1, 2" {
		t.Errorf("text %q", text)
	}
}

func TestPredicateText(t *testing.T) {
	long := strings.Repeat("ä.example, ", 30)
	for _, c := range []struct{ src, want string }{
		{"sni   in {a,\n\tb # comment\n , c}", "sni in {a, b , c}"},
		{"sni in { " + long + "x }", "sni in { " + long[:108] + "..."},
		{"port  22", "port  22"},
	} {
		n, diags := ParseExpr("f", rules.Word{Text: c.src, Span: diag.Span{File: "f", End: 1}})
		if c.src[3] == ' ' && strings.Contains(c.src, "#") {
			if n != nil || len(diags) != 1 || diags[0].Code != "NP004" {
				t.Errorf("a comment in a short string: %v", diags)
			}
			ast, _ := Parse("f", []byte("policy 1\ncondition x = "+c.src))
			n = ast.Conditions[0].Expr
		}
		if n == nil || n.Pred.Text != c.want || len(n.Pred.Text) > maxText {
			t.Errorf("%q: %v %v, want %q", c.src, n, diags, c.want)
		}
	}
}

// TestShortStrings reads what stands in YAML's strings.
func TestShortStrings(t *testing.T) {
	const before = "match: '"
	at := func(text string) rules.Word {
		return rules.Word{Text: text, Body: len(before), Span: diag.Span{File: "f", Start: len(before) - 1, End: len(before) + len(text) + 1}}
	}
	n, diags := ParseExpr("f", at("sni in zoom\n  and port 443"))
	if n == nil || len(diags) > 0 || n.Op != rules.OpAnd || n.Kids[1].Pred.Values[0].Body != len(before)+23 || n.Kids[1].Span.Start != len(before)+18 {
		t.Errorf("%+v %v", n, diags)
	}
	for _, c := range []struct{ src, code, under string }{
		{"", "NP107", "''"},
		{"sni a b", "NP005", "b"},
		{"sni a }", "NP005", "}"},
		{"snii a", "NP102", "snii"},
		{"(sni a", "NP006", "("},
		{"sni \"a", "NP002", "\"a"},
		{"sni a -> block", "NP005", "->"},
		{"sni a; port 3", "NP005", ";"},
	} {
		w := at(c.src)
		_, diags := ParseExpr("f", w)
		if len(diags) != 1 || string(diags[0].Code) != c.code || (before + c.src + "'")[diags[0].Span.Start:diags[0].Span.End] != c.under {
			t.Errorf("%q: %v", c.src, diags)
		}
		w.Body = 0
		if _, diags = ParseExpr("f", w); len(diags) != 1 || diags[0].Span != w.Span {
			t.Errorf("%q without a place: %v", c.src, diags)
		}
	}
	for src, want := range map[string]string{
		"route a": "route[a]", "block reject": "block[reject]", "fallback(a, b)": "fallback[a | b]list", "rule x": "rule x", "default": "default true", "via y": "via y",
	} {
		if o, diags := ParseOutcome("f", at(src)); outcome(o) != want || len(diags) > 0 {
			t.Errorf("%q: %s %v", src, outcome(o), diags)
		}
	}
	for src, code := range map[string]string{"": "NP107", "blok": "NP120", "route a, log": "NP005", "rule": "NP107", "route a b": "NP005", "-> block": "NP107"} {
		if _, diags := ParseOutcome("f", at(src)); len(diags) != 1 || string(diags[0].Code) != code {
			t.Errorf("outcome %q: %v, want %s", src, diags, code)
		}
	}
	for src, want := range map[string]string{
		"api.zoom.us tcp/443": "api.zoom.us tcp 443", "192.0.2.1 icmp": "192.0.2.1 icmp -", "2001:db8::1": "2001:db8::1 - -", `"a b" udp/1`: `"a b" udp 1`,
	} {
		target, proto, port, diags := ParseTarget("f", at(src))
		if got := word(target) + " " + word(proto) + " " + word(port); got != want || len(diags) > 0 {
			t.Errorf("%q: %s %v", src, got, diags)
		}
	}
	for _, src := range []string{"", "a.example 443", "a.example tcp/", "a tcp/1 b", "(a)"} {
		if _, _, _, diags := ParseTarget("f", at(src)); len(diags) != 1 {
			t.Errorf("target %q: %v", src, diags)
		}
	}
}

func codes(diags []diag.Diagnostic) string {
	var list []string
	for _, d := range diag.Sort(slices.Clone(diags)) {
		list = append(list, fmt.Sprintf("%s@%d-%d", d.Code, d.Span.Start, d.Span.End))
	}
	return strings.Join(list, " ")
}

func TestEncoding(t *testing.T) {
	const good = "policy 1\nrule a { match any; do block }\n"
	for _, c := range []struct{ name, src, want string }{
		{"BOM", "\ufeff" + good, ""},
		{"BOM and an error", "\ufeffx\n", "NP101@3-4 NP108@3-4"},
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n"), ""},
		{"CRLF and an error", "policy 1\r\nx\r\ny\r\n", "NP101@10-11 NP101@13-14"},
		{"UTF-16", "\xff\xfep\x00", "NP008@0-2"},
		{"Latin-1", "policy 1 # caf\xe9\n", "NP008@14-15"},
		{"truncated", "policy 1 # \xe6\x97", "NP008@11-12 NP008@12-13"},
		{"NUL", "policy 1\x00", "NP001@8-9"},
		{"NUL in a name", "policy 1\nroute a\x00b via main\ndefault route a\x00b", "NP001@16-17 NP001@43-44"},
		{"lone CR", "policy 1\rdefault block", "NP001@8-9"},
		{"line separator", "policy 1 # a\u2028b", "NP001@12-15"},
		{"empty", "", "NP107@0-0"},
		{"only blanks", " \n\t\n", "NP107@0-0"},
	} {
		ast, diags := Parse("f", []byte(c.src))
		if got := codes(diags); got != c.want {
			t.Errorf("%s: %s, want %s\n%v", c.name, got, c.want, diags)
		}
		if ast != nil && ast.Partial != (c.want != "") {
			t.Errorf("%s: partial %v", c.name, ast.Partial)
		}
	}
	if ast, diags := Parse("f", bytes.Repeat([]byte{0xff}, 1000)); ast != nil || len(diags) > maxBadBytes {
		t.Errorf("%d diagnostics for a file that is no text", len(diags))
	}
}

// TestLost tells when names may be missing, and when only values are.
func TestLost(t *testing.T) {
	for _, c := range []struct {
		src           string
		lost, partial bool
	}{
		{"default block", false, false},
		{"default blok", false, true},
		{"ruote a via main", true, true},
		{"route via main", false, true}, // a route called via
		{"route = main", true, true},
		{"route a {", false, true},
		{"uplink u { dev eth1", false, true},
		{"rule a { match any do block }", false, true},
		{"import \"x", true, true},
		{"import", true, true},
		{"routes: {a: main}", true, true},
		{"{ }", true, true},
		{"rule a { match dst_ip 10.0.0.1; do block }", false, false},
	} {
		ast, diags := Parse("f", []byte("policy 1\n"+c.src+"\n"))
		if ast.Lost != c.lost || ast.Partial != c.partial {
			t.Errorf("%q: lost %v, partial %v: %v", c.src, ast.Lost, ast.Partial, diags)
		}
	}
}

// TestBounds: whatever the text, reading takes memory in proportion to it, and stops at a depth.
func TestBounds(t *testing.T) {
	if ast, diags := Parse("f", bytes.Repeat([]byte("# 456789\n"), MaxSize/9+1)); ast != nil || codes(diags) != "NP901@0-0" {
		t.Errorf("oversize: %v", diags)
	}
	const n = 100_000
	for name, src := range map[string]string{
		"braces": strings.Repeat("{", n), "closing": strings.Repeat("}", n), "pairs": strings.Repeat("{}", n),
		"rules": strings.Repeat("rule a {", n), "nested rules": nestedRules(300), "rules below": "rule a {\n" + strings.Repeat(" rule a {\n", n/10),
		"parens": "condition c = " + strings.Repeat("(", n) + "any" + strings.Repeat(")", n), "nots": "condition c = " + strings.Repeat("not ", n) + "any",
		"or": "condition c = any" + strings.Repeat(" or any", n), "commas": "set a: domain = {" + strings.Repeat(",", n),
		"long word": "set a: domain = {" + strings.Repeat("a", n), "long line": "rule a { match any; do block };" + strings.Repeat("rule a{match any;do block};", n/10),
		"quotes": strings.Repeat("\"\n", n), "signs": strings.Repeat("=>!", n), "escapes": `import "` + strings.Repeat(`\\`, n) + `"`,
		"one line of clauses": "rule a {" + strings.Repeat("match port 1,2;", n), "semicolons": strings.Repeat(";", n), "comments": strings.Repeat("#\n", n),
		"dashes": "assert any " + strings.Repeat("->", n), "values": "condition c = port 1" + strings.Repeat(",1", n), "lines": strings.Repeat("\n", n),
		"and on new lines": "condition c = any" + strings.Repeat("\n\n and any", n/10), "newlines before and": "condition c = any" + strings.Repeat("\n", n),
		"open sets": "rule a { match " + strings.Repeat("sni in {", n), "words": strings.Repeat("a ", n), "colons": strings.Repeat("a: ", n), "quotas": strings.Repeat("quota ", n),
		"single quotes": "set a: user = {" + strings.Repeat("'a' ", n), "apostrophes": strings.Repeat("' ", n),
		"stray clauses": "rule a { match any }\n" + strings.Repeat("do block\n", n),
	} {
		t.Run(name, func(t *testing.T) {
			src := "policy 1\n" + src
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, diags := Parse("f", []byte(src))
			runtime.ReadMemStats(&after)
			// The last place of a growing list is some 3,000 bytes for each `rule a {` of 8.
			if got := (after.TotalAlloc - before.TotalAlloc) / uint64(len(src)); got > 1000 {
				t.Errorf("%d bytes for each byte of the text", got)
			}
			if (name == "parens" || name == "nots" || name == "nested rules") && !strings.Contains(codes(diags), "NP902") {
				t.Errorf("deep nesting: %.200s", codes(diags))
			}
			checkParse(t, []byte(src))
		})
	}
	start := time.Now()
	if ast, diags := Parse("f", append([]byte("policy 1\n"), bytes.Repeat([]byte("x\n"), MaxSize/2-10)...)); len(diags) > maxFindings+2 || !ast.Lost {
		t.Errorf("%d diagnostics", len(diags))
	}
	if d := time.Since(start); d > 10*time.Second { // some 0.2 s
		t.Errorf("%v for a file of errors", d)
	}
	deep := strings.Repeat("(", MaxNesting) + "any" + strings.Repeat(")", MaxNesting)
	if _, diags := Parse("f", []byte("policy 1\ncondition c = "+deep+"\ncondition d = ("+deep+")\ncondition e = "+deep)); codes(diags) != fmt.Sprintf("NP902@%d-%d", 441+MaxNesting, 442+MaxNesting) {
		t.Errorf("%d levels: %s", MaxNesting, codes(diags))
	}
}

// nestedRules are rules inside rules, as far as their indentation tells.
func nestedRules(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "rule a {\n")
	}
	return b.String()
}

// TestExamples: Check finds nothing in the examples of the language reference but
// what the appliers can't do yet and hints.
func TestExamples(t *testing.T) {
	n := 0
	for name, text := range samples(t) {
		if !strings.HasPrefix(name, "examples.txtar/") || !strings.HasSuffix(name, ".npl") {
			continue
		}
		n++
		ast, diags := Parse(name, text)
		p, more := rules.Check(ast)
		for _, d := range append(diags, more...) {
			if d.Code != "NP502" && d.Severity != diag.Hint {
				t.Errorf("%s: %v", name, d)
			}
		}
		if p == nil || len(p.Rules) < 2 {
			t.Errorf("%s: no policy", name)
		}
	}
	if n != 4 {
		t.Errorf("%d examples", n)
	}
}

// TestContextual: keywords are names and values where their block does not make them more.
func TestContextual(t *testing.T) {
	const src = "policy 1\nset allow: process = { match, do, rule, and }\nroute group via main\nroute rule via dev route\ngroup default = fallback(group, rule)\n" +
		"condition when = any\nrule match priority 1 {\n match process in allow and user do, allow and sni when and when; when when; do route default\n}\n" +
		"rule rule { match process rule, match and user \"and\"; do route rule }\ndefault route group\n"
	ast, diags := Parse("f", []byte(src))
	if len(diags) > 0 {
		t.Fatal(diags)
	}
	got := dump(ast)
	for _, want := range []string{
		"values[match | do | rule | and]list", "route rule: via[dev | route]", "group default: fallback[group | rule]list",
		"match and(process in allow <process in allow>, user [do | allow] <user do, allow>, sni [when] <sni when>, condition<when> of when <when>)",
		"match and(process [rule | match] <process rule, match>, user [\"and\"] <user \"and\">)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

// TestDamaged: a damaged policy never makes Parse panic or point outside, and
// what is intact far from the damage is still read.
func TestDamaged(t *testing.T) {
	var good [][]byte
	for name, text := range samples(t) {
		if strings.HasSuffix(name, ".npl") {
			good = append(good, text)
		}
	}
	slices.SortFunc(good, bytes.Compare)
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		src := slices.Clone(good[r.IntN(len(good))])
		for range 1 + r.IntN(4) {
			at := r.IntN(len(src))
			switch r.IntN(3) {
			case 0:
				src = slices.Delete(src, at, min(len(src), at+1+r.IntN(6)))
			case 1:
				src = slices.Insert(src, at, " \t\n:{}()[]->!=\"'#,;\xe9"[r.IntN(20)])
			default:
				src[at] = byte(r.IntN(256))
			}
			if len(src) == 0 {
				return
			}
		}
		checkParse(t, src)
		// A rule behind the damage: its error is found unless the file is no text.
		src = append(src, "\nrule the_last {\n  match any\n  do blok\n}\n"...)
		_, diags := Parse("f", src)
		found := slices.ContainsFunc(diags, func(d diag.Diagnostic) bool {
			return d.Code == "NP120" && d.Span.Start == len(src)-len("blok\n}\n")
		})
		yaml := slices.ContainsFunc(diags, func(d diag.Diagnostic) bool { return strings.Contains(d.Message, "is YAML") })
		if !found && !yaml {
			t.Fatalf("the last rule was not read\n%v\n%s", diags, src)
		}
	})
}

// TestEveryCode holds code, catalogue and golden files together: each code that
// this package can report has a golden case with its caret.
func TestEveryCode(t *testing.T) {
	var shown strings.Builder
	for name, text := range samples(t) {
		if strings.HasSuffix(name, ".txt") {
			shown.Write(text)
		}
	}
	reported := map[string]bool{}
	for _, m := range regexp.MustCompile(`report\("(NP\d+)"|diag\.New\("(NP\d+)"|d\.Code = "(NP\d+)"|d\.Code, .* = "(NP\d+)"`).FindAllStringSubmatch(sources(t), -1) {
		reported[strings.Join(m[1:], "")] = true
	}
	delete(reported, "NP901") // a file of 16 MiB is no golden case; TestBounds has it and NP902
	delete(reported, "NP902")
	delete(reported, "NP008") // not text; TestEncoding has it
	if len(reported) < 14 {
		t.Fatalf("only %d codes found in the sources", len(reported))
	}
	for code := range reported {
		if !regexp.MustCompile(`\w+ ` + code + `: .*\n +\d+ \|.*\n +\| +\^+`).MatchString(shown.String()) {
			t.Errorf("%s is reported and has no golden case with a caret", code)
		}
	}
}

// manyRules is a policy of n rules with the classic conditions.
func manyRules(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	b.WriteString("policy 1\nroute direct via main\nroute tunnel_fast via table 7\ndefault route direct\n")
	for i := range n {
		fmt.Fprintf(&b, "rule rule_%d priority %d {\n", i, r.IntN(1000))
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "  match sni .host-%d.example.net and proto tcp\n", i)
		case 1:
			fmt.Fprintf(&b, "  match port %d,443,1000-2000 and latency > %dms\n", r.IntN(65536), 1+r.IntN(500))
		case 2:
			fmt.Fprintf(&b, "  match dst.ip 10.%d.%d.0/24 and proto tcp,udp\n", r.IntN(256), r.IntN(256))
		default:
			fmt.Fprintf(&b, "  match sni \"*.s%d.example\", cdn-%d.example and port 443\n", i, i)
		}
		if i%2 == 0 {
			b.WriteString("  when  state NORMAL,DEGRADED\n")
		}
		b.WriteString("  do    route tunnel_fast, log\n}\n")
	}
	return b.Bytes()
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		src := manyRules(n)
		b.Run(fmt.Sprintf("%dk", n/1000), func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if ast, diags := Parse("f", src); len(ast.Rules) != n || len(diags) > 0 {
					b.Fatal(len(ast.Rules), diags)
				}
			}
		})
	}
}

func BenchmarkParseAndCheck(b *testing.B) {
	const n = 100_000
	src := manyRules(n)
	b.ReportAllocs()
	for b.Loop() {
		ast, diags := Parse("f", src)
		if p, more := rules.Check(ast); p == nil || len(p.Rules) != n {
			b.Fatal(diags, more)
		}
	}
}

// TestAllocations: a rule is a few allocations.
func TestAllocations(t *testing.T) {
	const n = 1000
	src := manyRules(n)
	if got := testing.AllocsPerRun(3, func() { Parse("f", src) }); got > n {
		t.Errorf("%.0f allocations for %d rules", got, n)
	}
}
