// Package archtest holds the import rules of docs/architecture.md as a test.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "netpolicy.dev/netpolicy/"

// core are the packages that stay pure: bytes come in, values go out. A folder
// stands for itself and everything below it.
var core = []string{"flow", "diag", "rules", "engine", "analysis", "state", "sim", "actions", "xray/link", "xray/config", "xray/generator"}

// parsers are the pure part of inspector: as pure as the core, and open to other
// edges, such as a relay that reads the same first bytes.
var parsers = []string{
	"inspector/apps", "inspector/dns", "inspector/first", "inspector/httphost", "inspector/packet", "inspector/quic", "inspector/sniff", "inspector/tlshello",
}

// screens show what they are given: they read no terminal and ask nobody.
var screens = []string{"internal/top"}

// leaves are edges that live below a core folder.
var leaves = []string{"actions/nft", "actions/iptables", "actions/iproute", "actions/tc", "actions/host", "actions/conntrack", "actions/xtqueue"}

// forbidden in the core: everything that touches a host or a clock's owner.
var forbidden = []string{"os", "os/exec", "net", "net/http", "syscall", "log", "log/slog"}

// coreLibraries are the only external libraries the core may use, with what
// lies below them, and where.
var coreLibraries = []struct{ library, user string }{
	{"go.yaml.in/yaml/v4", "rules/yaml"},
	{"go.yaml.in/yaml/v4", "rules/lists"},
	{"go.yaml.in/yaml/v4", "rules/foreign"},
	{"go.yaml.in/yaml/v4", "xray/link/sub"},
	{"golang.org/x/net/idna", "flow"},
	{"github.com/gaissmai/bart", "engine"},
}

// below says which of our own packages each core folder may import.
var below = map[string][]string{
	"flow":     {},
	"diag":     {},
	"state":    {"flow", "diag"},
	"rules":    {"flow", "diag", "state", "rules"},
	"engine":   {"flow", "diag", "state", "rules", "engine"},
	"analysis": {"flow", "diag", "state", "rules", "engine"},
	"actions":  {"flow", "diag", "state", "rules", "engine", "actions"},
	"sim":      {"flow", "diag", "state", "rules", "engine"},
	// Links and what Xray makes of them know nothing of policies.
	"xray/link":      {"flow", "diag"},
	"xray/config":    {"diag", "xray/link"},
	"xray/generator": {"diag", "xray/link", "xray/config"},
}

// edges never import each other. actions/host is not among them: it puts
// actions/nft, iptables, iproute, tc and xtqueue together, because the order of
// their steps, the ledger and the take-back concern all.
var edges = []string{"actions/nft", "actions/iptables", "actions/iproute", "actions/tc", "actions/conntrack", "actions/xtqueue", "inspector", "probe", "relay", "resolver", "xray/process", "internal/rulesets"}

func TestImports(t *testing.T) {
	root := "../.."
	checked := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		if d.IsDir() {
			if base := d.Name(); base == ".git" || base == "testdata" || base == "node_modules" || rel == "bench/peers" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, rel, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		checked++
		for _, imp := range file.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			if why := violation(filepath.ToSlash(filepath.Dir(rel)), name); why != "" {
				t.Errorf("%s: imports %q: %s", fset.Position(imp.Pos()), name, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 10 {
		t.Fatalf("only %d files read: the walk is broken", checked)
	}
}

// violation says why dir may not import name, or "".
func violation(dir, name string) string {
	own, isOurs := strings.CutPrefix(name, module)
	if e := within(dir, edges); e != "" && isOurs {
		if other := within(own, edges); other != "" && other != e && within(own, parsers) == "" {
			return "edges never import each other"
		}
	}
	if isOurs && strings.HasPrefix(own, "cmd/") {
		return "nothing imports a command"
	}
	if isOurs && strings.HasPrefix(own, "internal/daemon") && !strings.HasPrefix(dir, "cmd/") && !strings.HasPrefix(dir, "internal/") {
		return "imports point down: only cmd and internal see the daemon"
	}
	if within(dir, parsers) != "" {
		if isOurs && own != "flow" && own != "inspector" && within(own, parsers) == "" {
			return "a parser sees flow, inspector and other parsers"
		}
		if slices.Contains(forbidden, name) {
			return "a parser is pure: bytes come in, values go out"
		}
	}
	if within(dir, screens) != "" && slices.Contains(forbidden, name) {
		return "a screen is pure: whoever runs it reads keys and asks the daemon"
	}
	c := within(dir, core)
	if c == "" || within(dir, leaves) != "" {
		return ""
	}
	if slices.Contains(forbidden, name) {
		return "the core is pure: bytes come in, values go out"
	}
	if isOurs {
		if own == c || strings.HasPrefix(own, c+"/") {
			return ""
		}
		if within(own, leaves) != "" {
			return "the planning half of actions does not see its appliers"
		}
		if within(own, below[c]) == "" {
			return "imports point down only: " + c + " may import " + strings.Join(below[c], ", ")
		}
		return ""
	}
	if first, _, _ := strings.Cut(name, "/"); strings.Contains(first, ".") {
		for _, l := range coreLibraries {
			if within(name, []string{l.library}) != "" && within(dir, []string{l.user}) != "" {
				return ""
			}
		}
		return "not among the libraries that the core may use here"
	}
	return ""
}

// within returns the entry of folders that dir lies in, or "".
func within(dir string, folders []string) string {
	for _, f := range folders {
		if dir == f || strings.HasPrefix(dir, f+"/") {
			return f
		}
	}
	return ""
}

func TestViolation(t *testing.T) {
	for _, c := range []struct {
		dir, imp string
		bad      bool
	}{
		{"flow", "os", true},
		{"flow", "net/netip", false},
		{"flow", module + "rules", true},
		{"rules/yaml", "go.yaml.in/yaml/v4", false},
		{"engine", "go.yaml.in/yaml/v4", true},
		{"actions", "os/exec", true},
		{"actions/nft", "os/exec", false},
		{"actions/nft", module + "inspector", true},
		{"inspector/dns", module + "inspector", false},
		{"probe", module + "inspector", true},
		{"inspector/dns", module + "inspector/replay", true},
		{"inspector/quic", "net", true},
		{"inspector/replay", "os", false},
		{"relay", module + "inspector/first", false},
		{"resolver", module + "inspector/dns", false},
		{"resolver", module + "inspector", true},
		{"relay", module + "inspector/nfqueue", true},
		{"relay", module + "inspector", true},
		{"relay", module + "probe", true},
		{"inspector/first", "net", true},
		{"internal/rulesets", module + "probe", true},
		{"internal/rulesets", module + "rules/lists", false},
		{"rules/lists", module + "internal/rulesets", true},
		{"engine", module + "internal/daemon", true},
		{"cmd/netpolicyd", module + "internal/daemon", false},
		{"state", module + "rules", true},
		{"internal/top", "os", true},
		{"internal/top", module + "internal/api", false},
		{"xray/link", module + "diag", false},
		{"xray/link", module + "rules", true},
		{"xray/link", "net", true},
		{"xray/link/sub", "go.yaml.in/yaml/v4", false},
		{"xray/link", "go.yaml.in/yaml/v4", true},
	} {
		if got := violation(c.dir, c.imp) != ""; got != c.bad {
			t.Errorf("violation(%q, %q) = %v, want %v", c.dir, c.imp, got, c.bad)
		}
	}
}
