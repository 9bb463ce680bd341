package main

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"netpolicyd": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireUniqueNames: true,
		Condition: func(cond string) (bool, error) {
			if cond != "netns" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			// Whether network namespaces can be made here, and nft is installed.
			return exec.Command("unshare", "-n", "nft", "list", "ruleset").Run() == nil, nil
		},
	})
}
