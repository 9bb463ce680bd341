package main

import (
	"os"
	"path/filepath"
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
// $TESTDATA is the folder above, for what is no text.
// UPDATE_SCRIPTS=1 rewrites the files that `cmp` compares with.
func TestScripts(t *testing.T) {
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("NO_COLOR", "1")
			e.Setenv("TESTDATA", testdata)
			return nil
		},
	})
}
