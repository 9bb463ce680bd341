package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run the real main as `netpolicy`.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"netpolicy": main,
	})
}

// TestScripts runs testdata/script/*.txtar; each is one behaviour of the command line.
// UPDATE_SCRIPTS=1 rewrites the files that `cmp` compares with.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("NO_COLOR", "1")
			return nil
		},
	})
}
