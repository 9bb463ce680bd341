package print_test

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/npl"
	"netpolicy.dev/netpolicy/rules/print"
	"netpolicy.dev/netpolicy/rules/yaml"
)

// syntax is one of the two.
type syntax struct {
	name  string
	parse func(string, []byte) (*rules.AST, []diag.Diagnostic)
	print func(*rules.AST) []byte
}

var (
	inNPL  = syntax{"npl", npl.Parse, print.NPL}
	inYAML = syntax{"yaml", yaml.Parse, print.YAML}
)

// read parses a text that must be right.
func (s syntax) read(t *testing.T, text []byte, from string) *rules.AST {
	t.Helper()
	a, list := s.parse("policy."+s.name, text)
	for _, d := range list {
		if d.Severity == diag.Error {
			line, _ := diag.NewSource("", text).Position(d.Span.Start)
			t.Fatalf("%s does not read: line %d: %s %s\n%s\n--- from\n%s", s.name, line, d.Code, d.Message, text, from)
		}
	}
	return a
}

// comments are the texts of all comments, sorted.
func comments(a *rules.AST) []string {
	var list []string
	for _, c := range a.Comments {
		list = append(list, c.Text)
	}
	slices.Sort(list)
	return list
}

// through prints a in s and checks all that has to hold of it.
func through(t *testing.T, a *rules.AST, s syntax, from string) []byte {
	t.Helper()
	meaning, texts := print.Canonical(a), comments(a)
	out := s.print(a)
	b := s.read(t, out, from)
	if diff := cmp.Diff(meaning, print.Canonical(b)); diff != "" {
		t.Fatalf("printed in %s it means something else (-read +printed):\n%s\n%s\n--- from\n%s", s.name, diff, out, from)
	}
	if diff := cmp.Diff(texts, comments(b)); diff != "" {
		t.Fatalf("printed in %s its comments differ (-read +printed):\n%s\n%s\n--- from\n%s", s.name, diff, out, from)
	}
	if diff := cmp.Diff(string(out), string(s.print(b))); diff != "" {
		t.Fatalf("printed in %s twice it is another text (-first +second):\n%s\n%s\n--- from\n%s", s.name, diff, out, from)
	}
	return out
}

// TestRandom reads random policies in both syntaxes, prints each in both, and
// checks that the policy, its comments and a second printing stay the same.
// NETPOLICY_PRINT_CASES is how many, NETPOLICY_PRINT_SEED the first.
func TestRandom(t *testing.T) {
	cases, first := 5000, 0
	if s := os.Getenv("NETPOLICY_PRINT_CASES"); s != "" {
		cases, _ = strconv.Atoi(s)
	} else if testing.Short() {
		cases = 500
	}
	if s := os.Getenv("NETPOLICY_PRINT_SEED"); s != "" {
		first, _ = strconv.Atoi(s)
	}
	for seed := first; seed < first+cases; seed++ {
		ok := t.Run(strconv.Itoa(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 4))
			text := policyText(r)
			read := func() *rules.AST { return inNPL.read(t, []byte(text), "") }
			through(t, read(), inNPL, text)
			out := through(t, read(), inYAML, text)
			// The same with YAML as the text that people have written over.
			text = string(decorate(r, out))
			again := func() *rules.AST { return inYAML.read(t, []byte(text), string(out)) }
			if diff := cmp.Diff(print.Canonical(read0(t, out)), print.Canonical(again())); diff != "" {
				t.Fatalf("comments changed the policy:\n%s\n%s", diff, text)
			}
			through(t, again(), inYAML, text)
			through(t, again(), inNPL, text)
		})
		if !ok {
			return
		}
	}
}

func read0(t *testing.T, text []byte) *rules.AST { return inYAML.read(t, text, "") }

// decorate puts comments and empty lines into a text in YAML: between lines at any
// column, and at the end of lines.
func decorate(r *rand.Rand, text []byte) []byte {
	var b strings.Builder
	g := &gen{Rand: r, serial: 10_000}
	n := 2 + r.IntN(8)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		for r.IntN(n) == 0 {
			b.WriteString(strings.Repeat(" ", r.IntN(9)) + g.comment() + "\n")
		}
		if r.IntN(2*n) == 0 {
			b.WriteString("\n")
		}
		b.WriteString(line)
		if r.IntN(n) == 0 && !strings.Contains(line, "#") {
			b.WriteString(" " + g.comment())
		}
		b.WriteString("\n")
	}
	for r.IntN(n) == 0 {
		b.WriteString(strings.Repeat(" ", r.IntN(9)) + g.comment() + "\n")
	}
	return []byte(b.String())
}
