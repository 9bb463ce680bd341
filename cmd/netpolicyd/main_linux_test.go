package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"netpolicyd": main})
}

func TestScripts(t *testing.T) {
	lib, err := os.ReadFile("testdata/lib.sh")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			return os.WriteFile(filepath.Join(e.WorkDir, "lib.sh"), lib, 0o600)
		},
		Condition: func(cond string) (bool, error) {
			if cond != "netns" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			// Whether network namespaces can be made here, and nft is installed.
			return exec.Command("unshare", "-n", "nft", "list", "ruleset").Run() == nil, nil
		},
	})
}

// TestManual checks that the manual page tells of every flag.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../packaging/man/netpolicyd.8")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`--[a-z-]+`).FindAllString(newRoot().Flags().FlagUsages(), -1)
	if len(flags) < 10 {
		t.Fatalf("flags %q", flags)
	}
	for _, name := range flags {
		if !strings.Contains(string(page), strings.ReplaceAll(name, "-", `\-`)) {
			t.Errorf("netpolicyd.8 says nothing of %s", name)
		}
	}
}
