package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/rulesets"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

func newListsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lists",
		Short: "Read and fetch rule-set files",
	}
	cmd.AddCommand(newListsShowCmd(), newListsFetchCmd())
	return cmd
}

// listFlags say what is wanted of a rule-set file.
type listFlags struct{ format, set, part, sum string }

func (f *listFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "format", "", "list, hosts, dlc, geosite, geoip, clash or srs")
	cmd.Flags().StringVar(&f.set, "type", "", "domain, cidr, port, mac, process or user; unless given cidr for geoip, else domain")
	cmd.Flags().StringVar(&f.part, "select", "", `a part of the file, such as "google@ads"`)
	cmd.Flags().StringVar(&f.sum, "sha256", "", "the checksum that the file must have")
}

// ref returns the reference to a list that the flags mean. Everything that is
// wrong with it is a mistake in the command line.
func (f *listFlags) ref() (ref rules.ListRef, t rules.SetType, err error) {
	format, ok := lists.ParseFormat(f.format)
	if !ok {
		return ref, t, fmt.Errorf("--format %s: the formats are list, hosts, dlc, geosite, geoip, clash and srs", f.format)
	}
	name := f.set
	if name == "" {
		name = "domain"
		if format == lists.GeoIP {
			name = "cidr"
		}
	}
	if t, ok = rulesets.ParseType(name); !ok {
		return ref, t, fmt.Errorf("--type %s: the types are domain, cidr, port, mac, process and user", name)
	}
	parts := format == lists.GeoSite || format == lists.GeoIP
	switch {
	case !format.Holds(t):
		return ref, t, fmt.Errorf("--type %s: a %s file can't fill a %s set", name, format, name)
	case parts && f.part == "":
		return ref, t, fmt.Errorf("--select is needed with %s: which part of the file is meant, such as cn", format)
	case !parts && format != lists.DLC && f.part != "":
		return ref, t, fmt.Errorf("--select %s: a %s file has no parts", f.part, format)
	case f.sum != "" && (len(f.sum) != 64 || strings.Trim(f.sum, "0123456789abcdefABCDEF") != ""):
		return ref, t, fmt.Errorf("--sha256 %s: want 64 hexadecimal digits", f.sum)
	}
	return rules.ListRef{Format: f.format, Select: f.part, SHA256: f.sum, OnError: rules.ListFail}, t, nil
}

// guessFormat tells the format of a file by its name; "" if it does not say.
func guessFormat(file string) string {
	switch base := strings.ToLower(filepath.Base(file)); base {
	case "geosite.dat":
		return "geosite"
	case "geoip.dat":
		return "geoip"
	case "hosts", "hosts.txt":
		return "hosts"
	default:
		return map[string]string{
			".srs": "srs", ".json": "srs", ".yaml": "clash", ".yml": "clash", ".hosts": "hosts",
			".txt": "list", ".list": "list", ".conf": "list",
		}[filepath.Ext(base)]
	}
}

func newListsShowCmd() *cobra.Command {
	var f listFlags
	var output string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Print what a rule-set file holds, one element a line",
		Long: `Show reads a rule-set file as a policy would, and prints its elements in the form
of a plain list: "x" is one name, ".x" also all under it, "*.x" only what is under
it, then keyword: and regexp:, prefixes, ports "lo-hi", hardware addresses, globs.
What was left out is on standard error with its line. Without --format the name
tells it: .txt .list .conf, hosts, .yaml, .json .srs, geosite.dat, geoip.dat.

It exits with 1 when nothing in the file can be used. It uses no network.`,
		Example: `  netpolicy lists show blocklist.txt
  netpolicy lists show --select google@ads geosite.dat
  netpolicy lists show --format dlc domain-list-community/data/netflix`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if f.format == "" {
				if f.format = guessFormat(args[0]); f.format == "" {
					return fmt.Errorf("the name %s does not tell the format: give --format list, hosts, dlc, geosite, geoip, clash or srs",
						diag.Quote(filepath.Base(args[0])))
				}
			}
			ref, t, err := f.ref()
			if err != nil {
				return err
			}
			ref.File = args[0]
			e, problems, err := rulesets.ReadFile(ref, t)
			if output == "text" || err != nil {
				writeListProblems(cmd.ErrOrStderr(), ref.File, problems)
			}
			if err != nil {
				return cli.Fail(cmd, err)
			}
			if output == "json" {
				err = writeListJSON(cmd.OutOrStdout(), f.format, t, e, problems)
			} else {
				err = writeList(cmd.OutOrStdout(), e)
			}
			if err != nil {
				return cli.Fail(cmd, err)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// writeListProblems writes each as "FILE:line: text".
func writeListProblems(w io.Writer, file string, problems []lists.Problem) {
	for _, p := range problems {
		place := file
		if p.File != "" {
			place = filepath.Join(filepath.Dir(file), p.File)
		}
		if p.Line > 0 {
			place = fmt.Sprintf("%s:%d", place, p.Line)
		}
		p.File, p.Line = "", 0
		fmt.Fprintf(w, "%s: %s\n", place, p)
	}
}

// writeList writes one element a line. What would move a terminal's cursor is
// replaced.
func writeList(w io.Writer, e rules.Elements) error {
	b := bufio.NewWriter(w)
	for line := range rulesets.Lines(e) {
		_, _ = b.WriteString(strings.Map(printable, line)) // Flush has the error
		_ = b.WriteByte('\n')
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write the elements: %w", err)
	}
	return nil
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// shownList is the JSON form of `lists show`.
type shownList struct {
	Format   string        `json:"format"`
	Type     string        `json:"type"`
	Count    int           `json:"count"`
	Names    []string      `json:"names,omitempty"`
	Prefixes []string      `json:"prefixes,omitempty"`
	Ports    []string      `json:"ports,omitempty"`
	MACs     []string      `json:"macs,omitempty"`
	Globs    []string      `json:"globs,omitempty"`
	Problems []listProblem `json:"problems"`
}

type listProblem struct {
	File  string `json:"file,omitempty"` // the included file
	Line  int    `json:"line,omitempty"`
	Count int    `json:"count"`
	Text  string `json:"text"`
}

func writeListJSON(w io.Writer, format string, t rules.SetType, e rules.Elements, problems []lists.Problem) error {
	spell := func(e rules.Elements) (lines []string) {
		for line := range rulesets.Lines(e) {
			lines = append(lines, line)
		}
		return lines
	}
	out := shownList{
		Format: format, Type: rulesets.TypeName(t), Count: countElements(e),
		Names:    spell(rules.Elements{Names: e.Names}),
		Prefixes: spell(rules.Elements{Prefixes: e.Prefixes}),
		Ports:    spell(rules.Elements{Ports: e.Ports}),
		MACs:     spell(rules.Elements{MACs: e.MACs}),
		Globs:    spell(rules.Elements{Globs: e.Globs}),
		Problems: []listProblem{},
	}
	for _, p := range problems {
		out.Problems = append(out.Problems, listProblem(p))
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return fmt.Errorf("write the elements: %w", err)
	}
	return nil
}

func countElements(e rules.Elements) int {
	return len(e.Names) + len(e.Prefixes) + len(e.Ports) + len(e.MACs) + len(e.Globs)
}

func newListsFetchCmd() *cobra.Command {
	var f listFlags
	var cacheDir, url string
	cmd := &cobra.Command{
		Use:   "fetch --cache DIR --url URL --format FORMAT --type TYPE",
		Short: "Fetch a list from the web into a cache",
		Long: `Fetch asks once for a list, and keeps it in the cache if it is whole, has the
checksum, and can be read. If not, the exit code is 1 and the copy that was there
stays.`,
		Example: `  netpolicy lists fetch --cache lists --url https://lists.example/ads.txt --format list --type domain`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ref, t, err := f.ref()
			if err != nil {
				return err
			}
			if err := rulesets.CheckURL(url); err != nil {
				return fmt.Errorf("--url: %w", err)
			}
			ref.URL = url
			store := rulesets.New(rulesets.Config{Cache: cacheDir})
			changed, err := store.Refresh(cmd.Context(), ref, t)
			if err != nil {
				return cli.Fail(cmd, err)
			}
			e, problems, err := store.Load(ref, t)
			if err != nil {
				return cli.Fail(cmd, err)
			}
			for _, p := range problems {
				fmt.Fprintln(cmd.ErrOrStderr(), p)
			}
			word := "unchanged"
			if changed {
				word = "changed"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, %s\n", word, plural(countElements(e), "element"))
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&cacheDir, "cache", "", "folder of the copies, made where there is none")
	cmd.Flags().StringVar(&url, "url", "", "where the list is; http or https")
	require(cmd, "cache", "url", "format", "type")
	return cmd
}
