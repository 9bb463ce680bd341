package diag

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPosition(t *testing.T) {
	s := NewSource("f", []byte(bom+"ab\r\né日x\n"))
	for _, c := range []struct{ offset, line, column int }{
		{-1, 1, 1}, {0, 1, 1}, {3, 1, 1}, {4, 1, 2}, {5, 1, 3}, {7, 2, 1}, {9, 2, 2}, {12, 2, 3}, {13, 2, 4}, {14, 3, 1}, {99, 3, 1},
	} {
		if line, column := s.Position(c.offset); line != c.line || column != c.column {
			t.Errorf("offset %d: %d:%d, want %d:%d", c.offset, line, column, c.line, c.column)
		}
	}
	if got := string(s.Text[s.LineStart(1):s.LineEnd(1)]); got != "ab" {
		t.Errorf("line 1 = %q", got)
	}
	if s.LineStart(3) != s.LineEnd(3) || s.Lines() != 3 {
		t.Error("the last line is empty")
	}
}

func TestText(t *testing.T) {
	src := "a: 1\n\tb: 日本 x\n" + "c: e\u0301 \x1b[31m y\n"
	at := func(token string) Span {
		i := strings.Index(src, token)
		return Span{"f.yaml", i, i + len(token)}
	}
	for _, c := range []struct {
		name string
		d    Diagnostic
		want string
	}{
		{"wide characters and a tab", New("NP110", at("x"), "no %s", Quote("x")), `
f.yaml:2:8: error NP110: no ` + "`x`" + `
 2 |     b: 日本 x
   |             ^
`},
		{"wide token", New("NP401", at("日本"), "m"), `
f.yaml:2:5: hint NP401: m
 2 |     b: 日本 x
   |        ^^^^
`},
		{"combining mark and escape", New("NP115", at("y"), "m"), "\nf.yaml:3:13: warning NP115: m\n 3 | c: e\u0301 \ufffd[31m y\n   |            ^\n"},
		{"empty span", New("NP107", Span{"f.yaml", 4, 4}, "m"), `
f.yaml:1:5: error NP107: m
 1 | a: 1
   |     ^
`},
		{"over several lines", New("NP006", Span{"f.yaml", 3, 9}, "m"), `
f.yaml:1:4: error NP006: m
 1 | a: 1
   |    ^
`},
		{"help and note", Diagnostic{
			Code: "NP105", Severity: Error, Span: at("b"), Message: "m", Help: "h",
			Notes: []Note{{at("a"), "first here"}},
		}, `
f.yaml:2:2: error NP105: m
 2 |     b: 日本 x
   |     ^
  help: h
f.yaml:1:1: note: first here
 1 | a: 1
   | ^
`},
		{"no source", New("NP501", Span{File: "g.yaml"}, "m"), "\ng.yaml: error NP501: m\n"},
		{"no place", New("NP501", Span{}, "m"), "\nerror NP501: m\n"},
	} {
		var b bytes.Buffer
		if err := Text(&b, []Diagnostic{c.d}, NewSource("f.yaml", []byte(src))); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), b.String()); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestTextLongLine(t *testing.T) {
	src := strings.Repeat("a", 5000) + "TOKEN" + strings.Repeat("b", 5000)
	var b bytes.Buffer
	if err := Text(&b, []Diagnostic{New("NP001", Span{"f", 5000, 5005}, "m")}, NewSource("f", []byte(src))); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if !strings.HasPrefix(lines[0], "f:1:5001:") || len(lines[1]) > 200 {
		t.Errorf("got %q", lines)
	}
	if i := strings.Index(lines[2], "^^^^^"); i < 0 || lines[1][i:i+5] != "TOKEN" {
		t.Errorf("caret is not under the token: %q", lines)
	}
}

func TestTextShowsFifty(t *testing.T) {
	var list []Diagnostic
	for i := range 53 {
		list = append(list, New("NP001", Span{"f", i, i + 1}, "m"))
	}
	var b bytes.Buffer
	if err := Text(&b, list); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Count(got, "NP001") != 50 || !strings.HasSuffix(got, "... and 3 more\n") {
		t.Errorf("got %q", got)
	}
	for i := range list {
		list[i] = New("NP401", Span{"f", i, i + 1}, "m")
	}
	list[52] = New("NP110", Span{"f", 52, 53}, "m")
	list[51] = New("NP115", Span{"f", 51, 52}, "m")
	b.Reset()
	if err := Text(&b, list); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Count(got, "NP401") != 48 || !strings.HasSuffix(got, "f: warning NP115: m\nf: error NP110: m\n... and 3 more\n") {
		t.Errorf("hints hide the error: %q", got)
	}
}

func TestJSON(t *testing.T) {
	list := []Diagnostic{
		{Code: "NP105", Severity: Error, Span: Span{"f", 3, 5}, Message: "<m>", Help: "h", Notes: []Note{{Span{"f", 0, 1}, "n"}}},
		New("NP401", Span{"f", 6, 7}, "x"),
	}
	var b bytes.Buffer
	if err := JSON(&b, list, NewSource("f", []byte("a\néx\n"))); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"errors": 1.0, "warnings": 0.0, "hints": 1.0,
		"diagnostics": []any{
			map[string]any{
				"code": "NP105", "severity": "error", "message": "<m>", "help": "h",
				"place": map[string]any{"file": "f", "line": 2.0, "column": 1.0 + 1, "end_line": 2.0, "end_column": 3.0, "offset": 3.0, "length": 2.0},
				"notes": []any{map[string]any{
					"message": "n",
					"place":   map[string]any{"file": "f", "line": 1.0, "column": 1.0, "end_line": 1.0, "end_column": 2.0, "offset": 0.0, "length": 1.0},
				}},
			},
			map[string]any{
				"code": "NP401", "severity": "hint", "message": "x",
				"place": map[string]any{"file": "f", "line": 3.0, "column": 1.0, "end_line": 3.0, "end_column": 1.0, "offset": 6.0, "length": 1.0},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSuggest(t *testing.T) {
	for _, c := range []struct {
		word       string
		candidates []string
		want       string
	}{
		{"tunel_fast", []string{"direct", "tunnel_fast", "tunnel_slow"}, "tunnel_fast"},
		{"NORMLA", []string{"NORMAL"}, "NORMAL"},
		{"normal", []string{"NORMAL"}, "NORMAL"},
		{"prot", []string{"port", "proto"}, "port"},
		{"udp", []string{"any"}, ""},
		{"tpc", []string{"tcp"}, "tcp"},
		{"abcdef", []string{"abc"}, ""},
		{"x", []string{"x"}, ""},
		{"%", []string{"d", "ms"}, ""},
		{"k", []string{"kB"}, "kB"},
		{"", []string{"ab"}, ""},
	} {
		if got := Suggest(c.word, c.candidates); got != c.want {
			t.Errorf("Suggest(%q) = %q, want %q", c.word, got, c.want)
		}
	}
}

func TestSort(t *testing.T) {
	at := func(f string, o int, c Code) Diagnostic { return Diagnostic{Code: c, Span: Span{f, o, o}} }
	list := []Diagnostic{at("b", 0, "NP1"), at("a", 9, "NP1"), at("a", 1, "NP2"), at("a", 1, "NP1"), at("a", 1, "NP2")}
	want := []Diagnostic{at("a", 1, "NP1"), at("a", 1, "NP2"), at("a", 9, "NP1"), at("b", 0, "NP1")}
	if diff := cmp.Diff(want, Sort(list)); diff != "" {
		t.Error(diff)
	}
}

func TestCatalogue(t *testing.T) {
	list := Catalogue()
	if !slices.IsSortedFunc(list, func(a, b Entry) int { return strings.Compare(string(a.Code), string(b.Code)) }) {
		t.Error("not sorted")
	}
	for _, e := range list {
		if got, ok := Lookup(e.Code); !ok || got != e || e.Title == "" {
			t.Errorf("%s: %v %v", e.Code, got, ok)
		}
	}
	for code := range examples {
		if _, ok := Lookup(code); !ok {
			t.Errorf("%s has an example and no entry", code)
		}
	}
	if _, ok := Lookup("NP999"); ok {
		t.Error("NP999 is not a code")
	}
}

func TestQuote(t *testing.T) {
	if got := Quote("a\x1b\u202eb" + strings.Repeat("x", 100)); got != fmt.Sprintf("`a\ufffd\ufffdb%s...`", strings.Repeat("x", 56)) {
		t.Errorf("got %q", got)
	}
}
