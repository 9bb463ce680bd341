package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/durable"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/generator"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

func newXrayCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "xray",
		Short: "Read, convert and try share links, keep subscriptions, run Xray, and see to the daemon's",
	}
	cmd.AddCommand(newXrayParseCmd(), newXrayFormatCmd(), newXrayConvertCmd(), newXrayQRCmd(), newXrayConfigCmd(), newXrayTestCmd(),
		newXrayPingCmd(), newXrayPinCmd(), newXrayRunCmd(), newXraySubCmd())
	cmd.AddCommand(newXrayDaemonCmds()...)
	return cmd
}

// readProfiles reads a link that stands in the command line, a file, or standard
// input for "-".
func readProfiles(arg string, stdin io.Reader) (sub.Subscription, error) {
	if strings.Contains(arg, "://") {
		p, findings := link.Parse(arg)
		return sub.Subscription{Format: sub.Links, Entries: []sub.Entry{{Profile: p, Findings: findings}}}, nil
	}
	data, err := readInput(arg, stdin, sub.MaxBytes, "the profiles")
	if err != nil {
		return sub.Subscription{}, err
	}
	return parseProfiles(arg, data)
}

// parseProfiles reads what readInput has read.
func parseProfiles(arg string, data []byte) (sub.Subscription, error) {
	s, err := sub.Parse(data)
	if err != nil {
		return s, fmt.Errorf("read the profiles of %s: %w", inputName(arg), err)
	}
	return s, nil
}

// readInput reads a file, or standard input for "-"; one byte more than most is
// enough for the error about it. what names it in errors.
func readInput(arg string, stdin io.Reader, most int64, what string) ([]byte, error) {
	r := stdin
	if arg != "-" {
		f, err := os.Open(arg)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", what, err)
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", what, inputName(arg), err)
	}
	return data, nil
}

func inputName(arg string) string {
	if arg == "-" {
		return "standard input"
	}
	return arg
}

// writeFindings writes each finding on a line; hints only where all are wanted.
func writeFindings(w io.Writer, s sub.Subscription, all bool) {
	for _, e := range s.Entries {
		for _, f := range e.Findings {
			if all || f.Severity > diag.Hint {
				fmt.Fprintln(w, oneLine(f.String()))
			}
		}
	}
}

// oneLine replaces what would move a terminal's cursor.
func oneLine(s string) string { return strings.Map(printable, s) }

func newXrayParseCmd() *cobra.Command {
	var output string
	var secrets bool
	cmd := &cobra.Command{
		Use:   "parse LINK|FILE|-",
		Short: "Print what share links and subscriptions say",
		Long: `Parse reads a link, or a file of links, base64 of one, SIP008, Clash YAML, sing-box
JSON, Xray JSON or a configuration of wg-quick, and prints every profile with its
keys in the spelling of links, and what there is to know: why a line is refused,
what Xray no longer has, what was assumed, what the formats of convert can't say of
it. Secrets are shown as ***, and so are values of which nobody knows whether they
are secret, unless --secrets is given.

A link in the command line is seen by everybody on the machine; "-" reads it from
standard input. It exits with 1 when no profile can be used.`,
		Example: `  netpolicy xray parse 'trojan://password@proxy.example:443#Home'
  netpolicy xray parse -o json subscription.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			s, err := readProfiles(args[0], cmd.InOrStdin())
			if err != nil {
				return cli.Fail(cmd, err)
			}
			if output == "json" {
				err = writeProfilesJSON(cmd.OutOrStdout(), s, secrets)
			} else {
				err = writeProfiles(cmd.OutOrStdout(), s, secrets)
			}
			if err != nil {
				return cli.Fail(cmd, fmt.Errorf("write the profiles: %w", err))
			}
			if len(s.Profiles()) == 0 {
				return cli.Errors
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().BoolVar(&secrets, "secrets", false, "show the secrets too")
	return cmd
}

func writeProfiles(w io.Writer, s sub.Subscription, secrets bool) error {
	var b strings.Builder
	for i, e := range s.Entries {
		if i > 0 {
			b.WriteByte('\n')
		}
		if e.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", e.Line)
		}
		if link.Refused(e.Findings) {
			b.WriteString("refused\n")
		} else {
			shown := shownFields(e.Profile, secrets)
			fmt.Fprintf(&b, "%s %s:%s", shown.Scheme, shown.Host, shown.Port)
			if shown.Name != "" {
				b.WriteString(" " + oneLine(diag.Quote(shown.Name)))
			}
			b.WriteByte('\n')
			for _, row := range shown.rows() {
				fmt.Fprintf(&b, "  %-14s %s\n", oneLine(row[0]), oneLine(row[1]))
			}
		}
		for _, f := range e.Findings {
			fmt.Fprintf(&b, "  %s\n", oneLine(f.String()))
		}
		if link.Refused(e.Findings) {
			continue
		}
		for _, l := range generator.Losses(config.V26_3, e.Profile) {
			what := "can't say " + strings.Join(l.Keys, ", ")
			if l.Left {
				what = "leaves it out: " + l.Why
			}
			fmt.Fprintf(&b, "  convert --to %s %s\n", l.Format, oneLine(what))
		}
	}
	if len(s.Beside) > 0 {
		fmt.Fprintf(&b, "\nbeside the profiles, in no output: %s\n", oneLine(strings.Join(s.Beside, ", ")))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shownProfile is the JSON form of a profile in `xray parse`.
type shownProfile struct {
	Line     int               `json:"line,omitempty"`
	Form     string            `json:"form,omitempty"`
	Scheme   string            `json:"scheme,omitempty"`
	Name     string            `json:"name,omitempty"`
	Host     string            `json:"host,omitempty"`
	Port     string            `json:"port,omitempty"`
	User     string            `json:"user,omitempty"`
	Password string            `json:"password,omitempty"`
	Keys     map[string]string `json:"keys,omitempty"`
	Findings []shownFinding    `json:"findings"`
	Losses   []generator.Loss  `json:"losses,omitempty"` // of each format of convert that can't say all
	order    []string
}

type shownFinding struct {
	Severity string `json:"severity"`
	Link     string `json:"link"`
	Key      string `json:"key,omitempty"`
	Line     int    `json:"line,omitempty"`
	Offset   int    `json:"offset"`
	Message  string `json:"message"`
	Help     string `json:"help,omitempty"`
}

// shownFields returns a profile as it is shown.
func shownFields(p link.Profile, secrets bool) shownProfile {
	if !secrets {
		p = p.Redacted()
	}
	f := p.Fields()
	out := shownProfile{
		Form: p.Source.Form.String(), Scheme: f.Scheme, Name: f.Name, Host: f.Host, Port: f.Port,
		User: f.User.Reveal(), Password: f.Pass.Reveal(), Keys: map[string]string{},
	}
	for _, field := range f.Params {
		out.order = append(out.order, field.Key)
		out.Keys[field.Key] = field.Value.Reveal()
	}
	return out
}

// rows returns the keys with their values in order.
func (s shownProfile) rows() (rows [][2]string) {
	if s.User != "" {
		rows = append(rows, [2]string{"user", s.User})
	}
	if s.Password != "" {
		rows = append(rows, [2]string{"password", s.Password})
	}
	for _, key := range s.order {
		rows = append(rows, [2]string{key, s.Keys[key]})
	}
	return rows
}

func writeProfilesJSON(w io.Writer, s sub.Subscription, secrets bool) error {
	out := struct {
		Format   string         `json:"format"`
		Beside   []string       `json:"beside,omitempty"` // what the file has that is no profile
		Profiles []shownProfile `json:"profiles"`
	}{Format: s.Format.String(), Beside: s.Beside, Profiles: []shownProfile{}}
	for _, e := range s.Entries {
		shown := shownProfile{}
		if !link.Refused(e.Findings) {
			shown = shownFields(e.Profile, secrets)
			shown.Losses = generator.Losses(config.V26_3, e.Profile)
		}
		shown.Line, shown.Findings = e.Line, []shownFinding{}
		for _, f := range e.Findings {
			shown.Findings = append(shown.Findings, shownFinding{f.Severity.String(), f.Link, f.Key, f.Line, f.Offset, f.Message, f.Help})
		}
		out.Profiles = append(out.Profiles, shown)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}

func newXrayFormatCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "format LINK|FILE|-",
		Short: "Write share links in their usual spelling",
		Long: `Format reads what parse reads and prints one link for each profile, in the form that
it came in (a profile out of a file that has no links as most clients read it):
encoded as the standard says, aliases by their first name, the keys in order. No
key is lost. The links hold their secrets. What is refused is on standard error;
it exits with 1 when no profile can be used.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := readProfiles(args[0], cmd.InOrStdin())
			if err != nil {
				return cli.Fail(cmd, err)
			}
			writeFindings(cmd.ErrOrStderr(), s, false)
			profiles := s.Profiles()
			for _, p := range profiles {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), p.Format()); err != nil {
					return cli.Fail(cmd, fmt.Errorf("write the links: %w", err))
				}
			}
			if len(profiles) == 0 {
				return cli.Errors
			}
			return nil
		},
	}
}

// xrayFormat is a configuration for Xray; the other formats are sub's.
const xrayFormat = "xray"

// convertFormats are what convert writes.
var convertFormats = []string{"link", "base64", "clash", "singbox", "sip008", xrayFormat}

// writeFormat returns the profiles in a format, nil where it can say none, and writes
// what it can't say to errs.
func writeFormat(errs io.Writer, format sub.Format, profiles []link.Profile) []byte {
	out, losses := sub.Write(format, profiles)
	left := 0
	for _, l := range losses {
		fmt.Fprintln(errs, oneLine(l.String()))
		if l.Left {
			left++
		}
	}
	if len(profiles) == left {
		return nil
	}
	return out
}

func newXrayConvertCmd() *cobra.Command {
	var to, output string
	flags := xrayFlags{listen: defaultListen}
	cmd := &cobra.Command{
		Use:   "convert --to link|base64|clash|singbox|sip008|xray LINK|FILE|-",
		Short: "Turn a subscription into another format",
		Long: `Convert reads what parse reads and writes all profiles that can be used: as links,
base64 of them, proxies of Clash and mihomo, outbounds of sing-box, or SIP008. To
standard error it says of every profile which keys the format can't say, and which
profiles are left out because the server would not be understood without. With
xray it is the configuration that the command config prints, for one version. It
exits with 1 when nothing is written.`,
		Example: `  netpolicy xray convert --to clash subscription.txt`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, ok := sub.ParseFormat(to)
			if !ok && to != xrayFormat {
				return fmt.Errorf("--to %s: the formats are %s", to, strings.Join(convertFormats, ", "))
			}
			v, o, err := flags.parse()
			if err != nil {
				return err
			}
			s, err := readProfiles(args[0], cmd.InOrStdin())
			if err != nil {
				return cli.Fail(cmd, err)
			}
			var out []byte
			switch profiles := s.Profiles(); {
			case to == xrayFormat && len(profiles) > 0:
				writeFindings(cmd.ErrOrStderr(), refusals(s), false)
				var findings []config.Finding
				out, findings = config.Build(v, profiles, o)
				writeConfigFindings(cmd.ErrOrStderr(), findings, false)
			default:
				writeFindings(cmd.ErrOrStderr(), s, false)
				out = writeFormat(cmd.ErrOrStderr(), format, profiles)
			}
			if out == nil {
				return cli.Fail(cmd, fmt.Errorf("nothing to write: no profile can be said in %s", to))
			}
			if output == "" {
				_, err = cmd.OutOrStdout().Write(out)
			} else {
				err = durable.Rewrite(output, out, 0o600) // it holds secrets
			}
			if err != nil {
				return cli.Fail(cmd, fmt.Errorf("write the profiles: %w", err))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the format: "+strings.Join(convertFormats, ", "))
	cmd.Flags().StringVar(&flags.core, "core", config.V26_3.String(), "the version of Xray, with --to xray: 26.3 or 26.7")
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions(convertFormats, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringVarP(&output, "output", "o", "", "the file to write; a new one is readable by its owner only")
	require(cmd, "to")
	return cmd
}
