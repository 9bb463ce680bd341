package npl

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/golden"
	"netpolicy.dev/netpolicy/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden renders what each NAME.npl of testdata/golden/*.txtar gets, and
// compares it with the NAME.txt behind it: the AST, or the diagnostics of Parse
// and Check where Parse has any.
func TestGolden(t *testing.T) { golden.Files(t, "testdata/golden/*.txtar", ".npl", *update, render) }

func render(t testing.TB, name string, src []byte) string {
	t.Helper()
	ast, diags := Parse(name, src)
	if len(diags) == 0 {
		return dump(ast)
	}
	if ast != nil { // what was reported must not be reported again
		_, more := rules.Check(ast)
		diags = append(diags, more...)
	}
	var b bytes.Buffer
	if err := diag.Text(&b, diag.Sort(diags), diag.NewSource(name, src)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// dump shows an AST, one declaration a line; quoted words have their quotes.
func dump(a *rules.AST) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("policy %s", word(a.Version))
	for _, n := range a.Imports {
		line("import %s %s", word(n.Path), word(n.SHA256))
	}
	for _, section := range []struct {
		what string
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
		for _, d := range section.list {
			s := fmt.Sprintf("%s %s: %s", section.what, word(d.Name), items(d.Items))
			if d.Expr != nil {
				s += " expr " + expr(d.Expr)
			}
			line("%s", strings.ReplaceAll(s, ":  ", ": "))
		}
	}
	if a.Default != nil {
		line("default %s", items(a.Default.Items))
	}
	for _, r := range a.Rules {
		line("rule %s priority %s %s", word(r.Name), word(r.Priority), word(r.Disabled))
		if r.Match != nil {
			line("  match %s", expr(r.Match))
		}
		if r.When != nil {
			line("  when %s", expr(r.When))
		}
		if len(r.Disable)+len(r.Allow) > 0 || r.OnUnknown.Given() || r.Description.Given() {
			line("  disable %s allow %s on_unknown %s description %s", words(r.Disable), words(r.Allow), word(r.OnUnknown), word(r.Description))
		}
		if r.Do != nil {
			line("  do %s", items(r.Do.Items))
		}
	}
	for _, n := range a.Asserts {
		s := word(n.Target) + " " + word(n.Proto) + " " + word(n.Port)
		if n.Expr != nil {
			s = expr(n.Expr)
		}
		line("assert %s when %s -> %s", s, words(n.When), outcome(n.Expect))
	}
	for _, n := range a.Invariants {
		if n.Expr == nil {
			line("%s %s", word(n.Kind), word(n.Level))
			continue
		}
		line("%s %s when %s -> %s", word(n.Kind), expr(n.Expr), words(n.When), outcome(n.Expect))
	}
	for _, c := range a.Comments {
		line("comment %q own %v", c.Text, c.Own)
	}
	return b.String()
}

func word(w rules.Word) string {
	switch {
	case !w.Given():
		return "-"
	case w.Quoted:
		return fmt.Sprintf("%q", w.Text)
	}
	return w.Text
}

func words(list []rules.Word) string {
	s := make([]string, len(list))
	for i, w := range list {
		s[i] = word(w)
	}
	return "[" + strings.Join(s, " | ") + "]"
}

func items(list []rules.Item) string {
	s := make([]string, len(list))
	for i, item := range list {
		s[i] = word(item.Key)
		if item.Args != nil || item.List {
			s[i] += words(item.Args)
		}
		if item.List {
			s[i] += "list"
		}
		if item.Block {
			s[i] += "{" + items(item.Items) + "}"
		}
		if item.Bad {
			s[i] += " bad"
		}
	}
	return strings.Join(s, "; ")
}

func expr(n *rules.ExprNode) string {
	var kids []string
	for i := range n.Kids {
		kids = append(kids, expr(&n.Kids[i]))
	}
	switch n.Op {
	case rules.OpAny:
		return "any"
	case rules.OpAnd, rules.OpOr, rules.OpNot:
		return [...]string{rules.OpAnd: "and", rules.OpOr: "or", rules.OpNot: "not"}[n.Op] + "(" + strings.Join(kids, ", ") + ")"
	}
	p := &n.Pred
	s := p.Field.String()
	if p.Key.Text != s {
		s += "<" + p.Key.Text + ">"
	}
	if p.Subject.Given() {
		s += " of " + p.Subject.Text
	}
	if p.Field == rules.FieldUplink || p.Field == rules.FieldRoute {
		s += " metric " + rules.Metrics()[p.Metric]
	}
	if p.Negated {
		s += " not"
	}
	if p.Set.Given() {
		s += " in " + word(p.Set)
	}
	if p.Cmp.Given() {
		s += " " + p.Cmp.Text
	}
	if p.Values != nil {
		s += " " + words(p.Values)
	}
	if p.For.Given() {
		s += " for " + p.For.Text
	}
	return s + " <" + p.Text + ">"
}

func outcome(o rules.OutcomeNode) string {
	switch {
	case o.Action != nil:
		return items(o.Action.Items)
	case o.Rule.Given():
		return "rule " + word(o.Rule)
	case o.Via.Given():
		return "via " + word(o.Via)
	}
	return fmt.Sprintf("default %v", o.Default)
}

// checkParse holds for every input at all.
func checkParse(t interface {
	Helper()
	Fatalf(string, ...any)
}, src []byte,
) {
	t.Helper()
	at := 0
	for _, tok := range Lex(src) {
		if tok.Start != at || tok.End <= at {
			t.Fatalf("a gap or an empty token at %d: %v\n%q", at, tok, src)
		}
		at = tok.End
	}
	if at != len(src) {
		t.Fatalf("the tokens end at %d of %d\n%q", at, len(src), src)
	}
	ast, diags := Parse("f", src)
	inside := func(s diag.Span) {
		if s.File != "f" || s.Start < 0 || s.End < s.Start || s.End > len(src) {
			t.Fatalf("the span %v lies outside of %d bytes\n%v\n%q", s, len(src), diags, src)
		}
	}
	for _, d := range diags {
		inside(d.Span)
		if _, ok := diag.Lookup(d.Code); !ok || d.Message == "" {
			t.Fatalf("no such code: %v", d)
		}
		for _, n := range d.Notes {
			inside(n.Span)
		}
	}
	if ast == nil {
		if !diag.HasErrors(diags) {
			t.Fatalf("no AST and no error\n%q", src)
		}
		return
	}
	v := visitor{t: t, src: src, inside: inside, exact: !diag.HasErrors(diags)}
	v.ast(ast)
	if ast.Partial != diag.HasErrors(diags) {
		t.Fatalf("partial: %v beside %v", ast.Partial, diags)
	}
}

// visitor looks at every span of an AST.
type visitor struct {
	t      interface{ Fatalf(string, ...any) }
	src    []byte
	inside func(diag.Span)
	exact  bool // no repair changed the text
}

func (v *visitor) word(w rules.Word) {
	if !w.Given() {
		return
	}
	v.inside(w.Span)
	if w.Body > 0 && v.exact && (w.Body < w.Span.Start || w.Body+len(w.Text) > w.Span.End || string(v.src[w.Body:w.Body+len(w.Text)]) != w.Text) {
		v.t.Fatalf("%q does not stand at %d\n%q", w.Text, w.Body, v.src)
	}
	if len(w.Text) > 4*len(v.src) {
		v.t.Fatalf("a word of %d bytes", len(w.Text))
	}
}

func (v *visitor) words(list []rules.Word) {
	for _, w := range list {
		v.word(w)
	}
}

func (v *visitor) items(list []rules.Item) {
	for i := range list {
		v.word(list[i].Key)
		v.words(list[i].Args)
		v.inside(list[i].Span)
		v.items(list[i].Items)
	}
}

func (v *visitor) expr(n *rules.ExprNode, depth int) {
	if n == nil {
		return
	}
	if depth > 2*MaxNesting {
		v.t.Fatalf("the expression is %d deep", depth)
	}
	if n.Span != (diag.Span{}) {
		v.inside(n.Span)
	}
	for i := range n.Kids {
		v.expr(&n.Kids[i], depth+1)
	}
	if n.Op != rules.OpPred {
		return
	}
	v.words([]rules.Word{n.Pred.Key, n.Pred.Subject, n.Pred.Cmp, n.Pred.Set, n.Pred.For})
	v.words(n.Pred.Values)
	if len(n.Pred.Text) > maxText || n.Pred.Text == "" || strings.ContainsAny(n.Pred.Text, "\n") {
		v.t.Fatalf("the text of a predicate is %q\n%q", n.Pred.Text, v.src)
	}
}

func (v *visitor) outcome(o *rules.OutcomeNode) {
	v.inside(o.Span)
	v.words([]rules.Word{o.Rule, o.Via})
	if o.Action != nil {
		v.inside(o.Action.Span)
		v.items(o.Action.Items)
	}
}

func (v *visitor) ast(a *rules.AST) {
	v.word(a.Version)
	for _, n := range a.Imports {
		v.inside(n.Span)
		v.words([]rules.Word{n.Path, n.SHA256})
	}
	for _, d := range slices.Concat(a.Sets, a.Uplinks, a.Routes, a.Groups, a.Throttles, a.Quotas, a.Schedules, a.Conditions, a.Health, a.Daemon) {
		v.inside(d.Span)
		v.word(d.Name)
		v.items(d.Items)
		v.expr(d.Expr, 0)
	}
	if a.Default != nil {
		v.inside(a.Default.Span)
		v.items(a.Default.Items)
	}
	for i := range a.Rules {
		r := &a.Rules[i]
		v.inside(r.Span)
		v.words([]rules.Word{r.Name, r.Priority, r.Disabled, r.OnUnknown, r.Description})
		v.words(r.Disable)
		v.words(r.Allow)
		v.expr(r.Match, 0)
		v.expr(r.When, 0)
		if r.Do != nil {
			v.inside(r.Do.Span)
			v.items(r.Do.Items)
		}
	}
	for i := range a.Asserts {
		n := &a.Asserts[i]
		v.inside(n.Span)
		v.words([]rules.Word{n.Target, n.Proto, n.Port})
		v.words(n.When)
		v.expr(n.Expr, 0)
		v.outcome(&n.Expect)
	}
	for i := range a.Invariants {
		n := &a.Invariants[i]
		v.inside(n.Span)
		v.words([]rules.Word{n.Kind, n.Level})
		v.words(n.When)
		v.expr(n.Expr, 0)
		if n.Expr != nil {
			v.outcome(&n.Expect)
		}
	}
	end := 0
	for _, c := range a.Comments {
		v.inside(c.Span)
		if c.Span.Start < end || v.exact && string(v.src[c.Span.Start:c.Span.End]) != c.Text {
			v.t.Fatalf("the comment %q is not where it says\n%q", c.Text, v.src)
		}
		end = c.Span.End
	}
}

// sources are the sources of this package without its tests.
func sources(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
