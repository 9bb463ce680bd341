package yaml

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/golden"
	"netpolicy.dev/netpolicy/internal/policygen"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/npl"
)

// TestAST shows the AST of each NAME.yaml of testdata/ast/*.txtar, and what
// Parse reports, in the NAME.txt behind it.
func TestAST(t *testing.T) { golden.Files(t, "testdata/ast/*.txtar", ".yaml", *update, renderAST) }

func renderAST(t testing.TB, name string, src []byte) string {
	ast, diags := Parse(name, src)
	var b bytes.Buffer
	if err := diag.Text(&b, diag.Sort(diags), diag.NewSource(name, src)); err != nil {
		t.Fatal(err)
	}
	if ast != nil {
		d := dumper{b: &b, src: src, t: t}
		d.ast(ast)
	}
	checkComments(t, src)
	return b.String()
}

// dumper writes an AST in a form that is easy to compare. A word is its text,
// in quotes if it is Quoted; `'` before it means that it does not stand in the
// source byte for byte. It checks every span on its way.
type dumper struct {
	b   *bytes.Buffer
	src []byte
	t   testing.TB
}

func (d *dumper) line(depth int, format string, args ...any) {
	fmt.Fprintf(d.b, "%*s%s\n", 2*depth, "", strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

func (d *dumper) inside(s diag.Span, what any) {
	if s.Start < 0 || s.End < s.Start || s.End > len(d.src) {
		d.t.Fatalf("the span %v of %v lies outside of %d bytes\n%q", s, what, len(d.src), d.src)
	}
}

func (d *dumper) word(w rules.Word) string {
	if !w.Given() {
		return "-"
	}
	d.inside(w.Span, w.Text)
	mark := ""
	switch {
	case w.Body == 0:
		mark = "'"
	case w.Body+len(w.Text) > len(d.src):
		d.t.Fatalf("the body of %q lies outside", w.Text)
	case w.Body < w.Span.Start || w.Body+len(w.Text) > w.Span.End:
		d.t.Fatalf("the body of %q lies outside of its span %v", w.Text, w.Span)
	}
	if w.Quoted {
		return mark + fmt.Sprintf("%q", w.Text)
	}
	if w.Text == "" || strings.ContainsAny(w.Text, " \n\t") {
		return mark + "<" + strings.ReplaceAll(w.Text, "\n", "\\n") + ">"
	}
	return mark + w.Text
}

func (d *dumper) words(list []rules.Word) string {
	parts := make([]string, len(list))
	for i, w := range list {
		parts[i] = d.word(w)
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func (d *dumper) ast(a *rules.AST) {
	if a.Version.Given() {
		d.line(0, "version %s", d.word(a.Version))
	}
	for _, i := range a.Imports {
		d.inside(i.Span, "an import")
		d.line(0, "import %s sha256 %s", d.word(i.Path), d.word(i.SHA256))
	}
	for _, section := range []struct {
		name string
		list []rules.Decl
	}{
		{"set", a.Sets},
		{"uplink", a.Uplinks},
		{"route", a.Routes},
		{"group", a.Groups},
		{"throttle", a.Throttles},
		{"quota", a.Quotas},
		{"schedule", a.Schedules},
		{"condition", a.Conditions},
		{"health", a.Health},
		{"daemon", a.Daemon},
	} {
		for _, x := range section.list {
			d.inside(x.Span, x.Name.Text)
			bad := ""
			if x.Bad {
				bad = " bad"
			}
			d.line(0, "%s %s%s", section.name, d.word(x.Name), bad)
			d.items(1, x.Items)
			if x.Expr != nil {
				d.expr(1, x.Expr)
			}
		}
	}
	if a.Default != nil {
		d.line(0, "default")
		d.items(1, a.Default.Items)
	}
	for i := range a.Rules {
		d.rule(&a.Rules[i])
	}
	for _, x := range a.Asserts {
		d.inside(x.Span, "an assertion")
		d.line(0, "assert %s %s/%s when %s", d.word(x.Target), d.word(x.Proto), d.word(x.Port), d.words(x.When))
		if x.Expr != nil {
			d.expr(1, x.Expr)
		}
		d.outcome(x.Expect)
	}
	for _, x := range a.Invariants {
		d.inside(x.Span, "an invariant")
		d.line(0, "%s %s when %s", d.word(x.Kind), d.word(x.Level), d.words(x.When))
		if x.Expr != nil {
			d.expr(1, x.Expr)
			d.outcome(x.Expect)
		}
	}
	for _, c := range a.Comments {
		d.inside(c.Span, c.Text)
		if string(d.src[c.Span.Start:c.Span.End]) != c.Text {
			d.t.Fatalf("the comment %q stands elsewhere", c.Text)
		}
		own := ""
		if c.Own {
			own = " own"
		}
		d.line(0, "comment%s <%s>", own, c.Text)
	}
	if a.Lost || a.Partial {
		d.line(0, "lost %v partial %v", a.Lost, a.Partial)
	}
}

func (d *dumper) items(depth int, items []rules.Item) {
	for _, i := range items {
		d.inside(i.Span, i.Key.Text)
		flags := ""
		for _, f := range []struct {
			on   bool
			name string
		}{{i.Block, " block"}, {i.List, " list"}, {i.Bad, " bad"}} {
			if f.on {
				flags += f.name
			}
		}
		args := ""
		if !i.Block {
			args = d.words(i.Args)
		}
		d.line(depth, "%s%s %s", d.word(i.Key), flags, args)
		d.items(depth+1, i.Items)
	}
}

func (d *dumper) rule(r *rules.RuleNode) {
	d.inside(r.Span, r.Name.Text)
	d.line(0, "rule %s priority %s", d.word(r.Name), d.word(r.Priority))
	for _, w := range []struct {
		name string
		word rules.Word
	}{{"disabled", r.Disabled}, {"on_unknown", r.OnUnknown}, {"description", r.Description}} {
		if w.word.Given() {
			d.line(1, "%s %s", w.name, d.word(w.word))
		}
	}
	if len(r.Disable) > 0 {
		d.line(1, "disable %s", d.words(r.Disable))
	}
	if len(r.Allow) > 0 {
		d.line(1, "allow %s", d.words(r.Allow))
	}
	if r.Match != nil {
		d.line(1, "match")
		d.expr(2, r.Match)
	}
	if r.When != nil {
		d.line(1, "when")
		d.expr(2, r.When)
	}
	if r.Do != nil {
		d.line(1, "do")
		d.items(2, r.Do.Items)
	}
}

func (d *dumper) outcome(o rules.OutcomeNode) {
	d.inside(o.Span, "an outcome")
	d.line(1, "-> rule %s via %s default %v", d.word(o.Rule), d.word(o.Via), o.Default)
	if o.Action != nil {
		d.items(2, o.Action.Items)
	}
}

func (d *dumper) expr(depth int, e *rules.ExprNode) {
	d.inside(e.Span, "a condition")
	if e.Op != rules.OpPred {
		d.line(depth, "%s", [...]string{"any", "and", "or", "not"}[e.Op])
		for i := range e.Kids {
			d.expr(depth+1, &e.Kids[i])
		}
		return
	}
	p := &e.Pred
	if len(p.Text) > maxText {
		d.t.Fatalf("the text %q has %d bytes", p.Text, len(p.Text))
	}
	s := p.Field.String()
	if p.Field == rules.FieldUplink || p.Field == rules.FieldRoute {
		s += " " + d.word(p.Subject) + " " + rules.Metrics()[p.Metric]
	} else if p.Subject.Given() {
		s += " " + d.word(p.Subject)
	}
	if p.Negated {
		s += " not"
	}
	if p.Set.Given() {
		s += " in " + d.word(p.Set)
	}
	if p.Cmp.Given() {
		s += " " + d.word(p.Cmp)
	}
	if len(p.Values) > 0 {
		s += " " + d.words(p.Values)
	}
	if p.For.Given() {
		s += " for " + d.word(p.For)
	}
	d.line(depth, "%s (%s) {%s}", s, d.word(p.Key), p.Text)
}

// FuzzParse walks the AST of anything at all: each word and span lies in the text.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, x := range archive.Files {
			if strings.HasSuffix(x.Name, ".yaml") {
				f.Add(x.Data)
			}
		}
	}
	f.Add(policygen.YAML(1, 3))
	f.Add([]byte("rules: [{name: a, priority: 0, match: sni in zoom and not port 1-2, when: {uplink.a.rtt: \">1ms for 2s\"}, action: block}]\n"))
	f.Fuzz(func(t *testing.T, src []byte) { renderAST(t, "f", src) })
}

// checkComments holds for every text without errors: what stands in a comment
// means nothing, and every other `#` is a character of a value.
func checkComments(t testing.TB, src []byte) {
	ast, diags := Parse("f", src)
	if ast == nil || diag.HasErrors(diags) {
		return
	}
	other := bytes.ReplaceAll(src, []byte("#"), []byte("x"))
	for _, c := range ast.Comments {
		other[c.Span.Start] = '#'
		for i := c.Span.Start + 1; i < c.Span.End; i++ {
			other[i] = '"'
		}
	}
	again, diags := Parse("f", other)
	if slices.ContainsFunc(diags, func(d diag.Diagnostic) bool { return d.Code == "NP105" }) {
		return // a#b and axb
	}
	if again == nil || len(again.Comments) != len(ast.Comments) {
		t.Fatalf("other comments in\n%q\n%q\n%v", src, other, diags)
	}
	a, b := dump(t, ast, src), dump(t, again, other)
	if a = strings.ReplaceAll(a, "#", "x"); a != strings.ReplaceAll(b, "#", "x") {
		t.Fatalf("%q and %q differ:\n%s", src, other, cmp.Diff(a, b))
	}
}

// dump is the AST without its comments.
func dump(t testing.TB, ast *rules.AST, src []byte) string {
	var b bytes.Buffer
	without := *ast
	without.Comments = nil
	d := dumper{b: &b, src: src, t: t}
	d.ast(&without)
	return b.String()
}

// TestComments puts comments into a policy at every place where one can stand,
// and finds exactly those.
func TestComments(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		src := policygen.YAML(rapid.Int64Range(0, 1<<40).Draw(rt, "seed"), rapid.IntRange(1, 10).Draw(rt, "n"))
		texts := []string{"#", "# it's", "#\"a: b", "# # é", "#[{|", "# x   "}
		var out []byte
		var want []string
		for line := range bytes.Lines(src) {
			line = bytes.TrimRight(line, "\n")
			if rapid.Bool().Draw(rt, "own") {
				c := rapid.SampledFrom(texts).Draw(rt, "text")
				out = append(out, rapid.SampledFrom([]string{"", "  ", "\t", "        "}).Draw(rt, "indent")+c+"\n"...)
				want = append(want, strings.TrimRight(c, " ")+" own")
			}
			out = append(out, line...)
			if rapid.Bool().Draw(rt, "trailing") {
				c := rapid.SampledFrom(texts).Draw(rt, "text")
				out = append(out, " "+c...)
				want = append(want, strings.TrimRight(c, " "))
			}
			out = append(out, rapid.SampledFrom([]string{"\n", "\r\n", "\n\n"}).Draw(rt, "end")...)
		}
		ast, diags := Parse("f", out)
		if len(diags) > 0 {
			rt.Fatalf("%v\n%s", diags, out)
		}
		var got []string
		for _, c := range ast.Comments {
			if c.Own {
				c.Text += " own"
			}
			got = append(got, c.Text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("(-want +got)\n%s\n%s", diff, out)
		}
		checkComments(t, out)
	})
}

// TestTwins: the examples of the language in YAML have the meaning of those in NPL.
func TestTwins(t *testing.T) {
	files, err := filepath.Glob("testdata/examples/*.yaml")
	if err != nil || len(files) != 4 {
		t.Fatalf("%d examples: %v", len(files), err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		policy, diags := Load(file, src)
		if policy == nil {
			t.Fatal(diags)
		}
		original := filepath.Join("../npl/testdata/examples", strings.TrimSuffix(filepath.Base(file), ".yaml")+".npl")
		text, err := os.ReadFile(original)
		if err != nil {
			t.Fatal(err)
		}
		ast, diags := npl.Parse(original, text)
		if diag.HasErrors(diags) {
			t.Fatal(diags)
		}
		twin, diags := rules.Check(ast)
		if twin == nil {
			t.Fatal(diags)
		}
		if twin.Hash != policy.Hash {
			t.Errorf("%s and %s differ in their meaning", file, original)
		}
		if len(twin.Asserts) != len(policy.Asserts) || len(twin.Invariants) != len(policy.Invariants) {
			t.Errorf("%s and %s have other assertions or invariants", file, original)
		}
	}
}
