package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/analysis"
	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
	"netpolicy.dev/netpolicy/sim"
)

func newTestCmd() *cobra.Command {
	var output string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Run scenarios and show each expectation that does not hold",
		Long: `Test tries the assertions of policies, and runs scenario files: a policy, lines that get better and worse on a virtual
clock, flows, and what is expected of them. It shows each expectation that does
not hold with its place and what happened instead. docs/states.md describes the
language. A policy's path is relative to its scenario; "-" reads standard input.

It exits with 0 when everything holds and 1 when something does not.`,
		Example: "  netpolicy test zoom.sim\n  netpolicy test -v outage.sim",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return testScenarios(cmd.OutOrStdout(), cmd.InOrStdin(), args, output == "json", verbose)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show every transition and decision, too")
	return cmd
}

// tested is what became of one scenario.
type tested struct {
	file     string
	policy   *rules.Policy // nil: it did not run
	result   sim.Result
	asserted *analysis.Result // of a policy's own assertions; nil for a scenario
	diags    []diag.Diagnostic
	sources  []*diag.Source
}

func testScenarios(w io.Writer, stdin io.Reader, files []string, asJSON, verbose bool) error {
	failed := false
	list := make([]tested, 0, len(files))
	for _, name := range files {
		src, err := policyfile.Read(name, stdin)
		if err != nil {
			return err
		}
		t := testFile(name, src)
		failed = failed || len(t.diags) > 0
		if !asJSON {
			if err := t.text(w, verbose); err != nil {
				return fmt.Errorf("write the result of %s: %w", name, err)
			}
		}
		list = append(list, t)
	}
	if asJSON {
		if err := testsJSON(w, list, verbose); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	if failed {
		return cli.Errors
	}
	return nil
}

// testFile tries the assertions of a policy, or runs a scenario.
func testFile(name string, src []byte) tested {
	if !isPolicy(name, src) {
		return testScenario(name, src)
	}
	r := policyfile.Check(name, src, nil)
	t := tested{file: name, policy: r.Policy, sources: r.Sources}
	if r.Policy == nil {
		t.diags = r.Diags
		return t
	}
	a := analysis.Assertions(engine.Compile(r.Policy))
	t.diags, t.asserted = a.Diags, &a
	t.result.Expectations, t.result.Failed = a.Tried, a.Failed
	return t
}

// isPolicy tells policies from scenarios: by their ending, else by their first word.
func isPolicy(name string, src []byte) bool {
	switch filepath.Ext(name) {
	case ".npl", ".yaml", ".yml":
		return true
	case ".sim":
		return false
	default:
		return load.IsNPL(name, src)
	}
}

// testScenario parses a scenario, loads its policy and runs it.
func testScenario(name string, src []byte) tested {
	t := tested{file: name, sources: []*diag.Source{diag.NewSource(name, src)}}
	scenario, diags := sim.Parse(name, src)
	if scenario == nil {
		t.diags = diags
		return t
	}
	path := scenario.Policy
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(name), path)
	}
	r, err := policyfile.Load(path, nil, nil)
	if err != nil {
		var cause *fs.PathError
		if errors.As(err, &cause) {
			err = cause.Err
		}
		t.diags = []diag.Diagnostic{diag.New("NP111", scenario.PolicySpan, "can't read the policy %s: %v", path, err)}
		return t
	}
	if r.Policy == nil {
		t.sources = append(t.sources, r.Sources...)
		t.diags = r.Diags
		return t
	}
	t.policy = r.Policy
	t.result, t.diags = sim.Run(scenario, r.Policy)
	return t
}

func (t tested) text(w io.Writer, verbose bool) error {
	var b bytes.Buffer
	if verbose {
		for _, e := range t.result.Log {
			fmt.Fprintf(&b, "%9s  %s\n", e.At, sim.Describe(t.policy, e))
		}
	}
	if err := diag.Text(&b, t.diags, t.sources...); err != nil {
		return err
	}
	switch {
	case t.result.Expectations == 0 && len(t.diags) > 0:
		fmt.Fprintf(&b, "%s: failed, did not run\n", t.file)
	case t.result.Failed > 0:
		what := "expectation"
		if t.asserted != nil {
			what = "assertion"
		}
		fmt.Fprintf(&b, "%s: failed, %d of %s\n", t.file, t.result.Failed, plural(t.result.Expectations, what))
	case t.asserted != nil:
		fmt.Fprintf(&b, "%s: ok, %s", t.file, plural(t.asserted.Tried, "assertion"))
		if n := t.asserted.Unproven; n > 0 {
			fmt.Fprintf(&b, "; %d about more than one connection not tried", n)
		}
		b.WriteByte('\n')
	default:
		fmt.Fprintf(&b, "%s: ok, %s in %s\n", t.file, plural(t.result.Expectations, "expectation"), t.result.Length)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// The JSON form of `netpolicy test -o json`. Times are seconds on the virtual clock.
type testJSON struct {
	File         string          `json:"file"`
	OK           bool            `json:"ok"`
	Ran          bool            `json:"ran"`
	Expectations int             `json:"expectations"`
	Failed       int             `json:"failed"`
	Seconds      json.Number     `json:"seconds"`
	Report       json.RawMessage `json:"report"` // as `lint -o json`
	Log          []testLogJSON   `json:"log,omitempty"`
}

type testLogJSON struct {
	At   json.Number `json:"at"`
	What string      `json:"what"`
}

func testsJSON(w io.Writer, list []tested, verbose bool) error {
	out := struct {
		OK    bool       `json:"ok"`
		Files []testJSON `json:"files"`
	}{OK: true, Files: []testJSON{}}
	for _, t := range list {
		var report bytes.Buffer
		if err := diag.JSON(&report, t.diags, t.sources...); err != nil {
			return err
		}
		ok := len(t.diags) == 0
		j := testJSON{
			File: t.file, OK: ok, Ran: ok || t.result.Expectations > 0, Expectations: t.result.Expectations,
			Failed: t.result.Failed, Seconds: seconds(t.result.Length), Report: report.Bytes(),
		}
		if verbose {
			for _, e := range t.result.Log {
				j.Log = append(j.Log, testLogJSON{seconds(e.At), sim.Describe(t.policy, e)})
			}
		}
		out.OK = out.OK && ok
		out.Files = append(out.Files, j)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// seconds writes a duration as a decimal number of seconds, to the millisecond.
func seconds(d time.Duration) json.Number {
	ms := d.Milliseconds()
	if ms%1000 == 0 {
		return json.Number(fmt.Sprint(ms / 1000))
	}
	return json.Number(fmt.Sprintf("%d.%03d", ms/1000, ms%1000))
}
