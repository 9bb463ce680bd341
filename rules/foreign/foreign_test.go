package foreign

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/npl"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden imports each NAME.FORMAT of testdata/golden/*.txtar and compares
// the policy with NAME.npl and the report with NAME.report.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	verdicts := map[string]bool{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, f := range archive.Files {
			want[f.Name] = string(f.Data)
		}
		var updated []txtar.File
		for _, f := range archive.Files {
			name, format, _ := strings.Cut(f.Name, ".")
			if format == "npl" || format == "report" {
				continue
			}
			updated = append(updated, f)
			r, err := Import(format, f.Name, f.Data)
			var report strings.Builder
			if err != nil {
				report.WriteString("error: " + err.Error() + "\n")
			}
			for _, l := range r.Report {
				report.WriteString(l.String() + "\n")
				verdicts[format+" "+string(l.Verdict)] = true
			}
			seen := map[Line]bool{}
			for _, l := range r.Report {
				key := Line{Line: l.Line, Text: l.Text}
				if seen[key] {
					t.Errorf("%s: reported twice: %s", f.Name, l)
				}
				seen[key] = true
			}
			for _, got := range []txtar.File{{Name: name + ".npl", Data: r.NPL}, {Name: name + ".report", Data: []byte(report.String())}} {
				if err != nil && got.Data == nil {
					continue
				}
				updated = append(updated, got)
				if diff := cmp.Diff(want[got.Name], string(got.Data)); diff != "" && !*update {
					t.Errorf("%s: %s (-want +got):\n%s", file, got.Name, diff)
				}
			}
			if err == nil {
				checkPolicy(t, f.Name, r)
			}
		}
		if *update {
			archive.Files = updated
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, format := range Formats() {
		for _, v := range []Verdict{Carried, Approximated, Dropped} {
			if !verdicts[format+" "+string(v)] {
				t.Errorf("no golden case of %s has the verdict %s", format, v)
			}
		}
	}
}

// checkPolicy holds what is true of every import.
func checkPolicy(t testing.TB, name string, r Result) {
	t.Helper()
	if len(r.NPL) > MaxOutput || !bytes.Contains(r.NPL, []byte("\npolicy 1\n")) {
		t.Errorf("%s: a policy of %d bytes", name, len(r.NPL))
	}
	checkClean(t, name, r.NPL)
	last := 0
	for _, l := range r.Report {
		if l.Line < last || l.Line < 1 {
			t.Errorf("%s: line %d stands behind %d", name, l.Line, last)
		}
		last = l.Line
		if l.Verdict != Carried && l.Why == "" {
			t.Errorf("%s: no reason: %s", name, l)
		}
		// The relay is the one construct that goes and leaves a name behind.
		if l.Verdict == Dropped && l.To != "" && !strings.Contains(l.Text, "(relay)") {
			t.Errorf("%s: dropped, and at a place: %s", name, l)
		}
	}
}

// checkClean parses and checks a policy, which has neither errors nor warnings.
func checkClean(t testing.TB, name string, text []byte) {
	t.Helper()
	ast, diags := npl.Parse(name, text)
	if ast != nil && !diag.HasErrors(diags) {
		_, more := rules.CheckWith(ast, nil)
		diags = append(diags, more...)
	}
	// Routes by a relay are right as they are written: NP502 is about the daemon.
	diags = slices.DeleteFunc(diags, func(d diag.Diagnostic) bool { return d.Severity == diag.Hint || d.Code == "NP502" })
	if ast == nil || len(diags) > 0 {
		var b strings.Builder
		if err := diag.Text(&b, diags, diag.NewSource(name, text)); err != nil {
			t.Fatal(err)
		}
		t.Errorf("%s: the policy is not clean:\n%s", name, b.String())
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ from, src, want string }{
		{"xray", "", `from "xray": the formats are clash, singbox and mwan3`},
		{"clash", "", "f: the file is empty"},
		{"clash", "rules: [a", "f:2: not YAML: did not find expected ',' or ']'"},
		{"clash", "- a", "f:1: not a configuration of Clash: the file is not a mapping of keys"},
		{"clash", "rules: x", "f:1: `rules` is not a list"},
		{"clash", "mode: rule\nmode: rule", "f:2: the key \"mode\" is there twice"},
		{"clash", "\xff", "f: not a text in UTF-8"},
		{"clash", strings.Repeat("[", 100), "f:1: not YAML: nested too deeply"},
		{"singbox", "{", "f:1: expected '}' for the bracket of line 1, found the end of the file"},
		{"singbox", "[]", "f:1: not a configuration of sing-box: the file is not an object"},
		{"singbox", "{\n\"a\": 1\n\"b\": 2}", "f:3: expected a comma or '}', found '\"'"},
		{"singbox", "{a: 1}", "f:1: expected a key in quotes, found 'a'"},
		{"singbox", "{\"a\": nope}", "f:1: expected a value, found 'n'"},
		{"singbox", "{\"a\": \"x\n\"}", "f:1: the string is not closed"},
		{"singbox", "{} x", "f:1: expected the end of the file, found 'x'"},
		{"singbox", "/* ", "f:1: the comment is not closed"},
		{"singbox", "{\"a\": 1, \"a\": 1}", "f:1: the key \"a\" is there twice"},
		{"singbox", `{"a": ` + strings.Repeat("[", 100), "f:1: nested more than 32 deep"},
		{"mwan3", "", "f: not a configuration of mwan3: it has no interface, member, policy or rule"},
		{"mwan3", "option a b", "f:1: option stands before the first `config`"},
		{"mwan3", "config rule x\n\toption a 'b", "f:2: the quote is not closed"},
		{"mwan3", "config rule x\n\toption a b c", "f:2: expected `option NAME 'VALUE'`: a value with blanks needs quotes"},
		{"mwan3", "[section]", "f:1: expected config, option or list, found \"[section]\""},
		{"mwan3", strings.Repeat(" ", MaxInput+1), "f: larger than 4 MiB"},
	} {
		_, err := Import(c.from, "f", []byte(c.src))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s %.40q: %v, want %s", c.from, c.src, err, c.want)
		}
		var at *Error
		if c.from != "xray" && !errors.As(err, &at) {
			t.Errorf("%s %.40q: not an *Error", c.from, c.src)
		}
	}
}
