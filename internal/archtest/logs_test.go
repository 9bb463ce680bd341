package archtest

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/types"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// inEveryLine are the keys that the logger itself writes.
var inEveryLine = []string{"time", "level", "msg"}

// documentedKeys reads the first column of the table of docs/telemetry.md, section Logs.
func documentedKeys(t *testing.T) map[string]bool {
	text, err := os.ReadFile("../../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Logs\n")
	section, _, _ = strings.Cut(section, "\n## ")
	keys := map[string]bool{}
	for line := range strings.Lines(section) {
		if row := strings.Split(line, "|"); len(row) > 2 {
			for _, key := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(row[1], -1) {
				keys[key[1]] = true
			}
		}
	}
	return keys
}

// TestLogKeys holds every line that netpolicyd can log against docs/telemetry.md: its message is constant, its keys
// are documented, and each key has one type of JSON everywhere.
func TestLogKeys(t *testing.T) {
	documented := documentedKeys(t)
	mode := packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedDeps | packages.NeedModule
	all, err := packages.Load(&packages.Config{Mode: mode, Env: append(os.Environ(), "GOOS=linux")}, module+"cmd/netpolicyd")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	first := map[string]string{} // by key: its type, and where it is used so
	packages.Visit(all, nil, func(p *packages.Package) {
		if !strings.HasPrefix(p.PkgPath, module) {
			return
		}
		for _, e := range p.Errors {
			t.Error(e)
		}
		for _, file := range p.Syntax {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				method := logs(p.TypesInfo, call)
				if method == "" {
					return true
				}
				at := p.Fset.Position(call.Pos()).String()
				_, at, _ = strings.Cut(at, "/"+strings.TrimPrefix(p.PkgPath, module)+"/")
				at = p.PkgPath + "/" + at
				args := call.Args
				if call.Ellipsis.IsValid() {
					t.Errorf("%s: the keys are not seen: write them down", at)
					return true
				}
				if method != "With" {
					if lines++; p.TypesInfo.Types[args[0]].Value == nil {
						t.Errorf("%s: the message is no constant", at)
					}
					args = args[1:]
				}
				for i := 0; i+1 < len(args); i += 2 {
					value := p.TypesInfo.Types[args[i]].Value
					if value == nil {
						t.Errorf("%s: a key is no constant", at)
						continue
					}
					key := constant.StringVal(value)
					if !documented[key] || slices.Contains(inEveryLine, key) {
						t.Errorf("%s: key %q is not in the table of docs/telemetry.md", at, key)
					}
					kind := jsonType(p.TypesInfo.Types[args[i+1]].Type)
					before, known := first[key]
					if !known {
						first[key] = kind + " at " + at
					} else if !strings.HasPrefix(before, kind+" at ") {
						t.Errorf("%s: key %q is %s, and %s", at, key, kind, before)
					}
				}
				return true
			})
		}
	})
	for key := range documented {
		if _, used := first[key]; !used && !slices.Contains(inEveryLine, key) {
			t.Errorf("docs/telemetry.md: nothing logs the key %q", key)
		}
	}
	if lines < 50 {
		t.Errorf("only %d lines are looked at", lines)
	}
}

// logs returns the method of *slog.Logger that a call is of, "" for any other call.
func logs(info *types.Info, call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	f, ok := info.Uses[sel.Sel].(*types.Func)
	if !ok || !strings.HasPrefix(f.FullName(), "(*log/slog.Logger).") {
		return ""
	}
	switch f.Name() {
	case "Debug", "Info", "Warn", "Error", "With":
		return f.Name()
	case "Handler", "Enabled":
		return ""
	default:
		return "With" // a form that this test can't read: its arguments are no keys, which it says
	}
}

// jsonType is what slog's JSON handler makes of a type.
func jsonType(t types.Type) string {
	if t.String() == "encoding/json.RawMessage" {
		return "object"
	}
	if types.NewMethodSet(t).Lookup(nil, "Error") != nil {
		return "string"
	}
	if b, ok := t.Underlying().(*types.Basic); ok {
		switch info := b.Info(); {
		case info&types.IsString != 0:
			return "string"
		case info&types.IsNumeric != 0:
			return "number"
		case info&types.IsBoolean != 0:
			return "boolean"
		}
	}
	return fmt.Sprintf("of the type %v, which this test does not know", t)
}
