package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/doctor"
	"netpolicy.dev/netpolicy/internal/policyfile"
	"netpolicy.dev/netpolicy/rules"
)

// askTime bounds the question to a daemon that may hang: doctor is for when
// something is wrong.
const askTime = 3 * time.Second

type doctorOptions struct {
	config   string
	stateDir string
	socket   string
	output   string
	json     bool
	strict   bool
	noTry    bool
}

func newDoctorCmd() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine before a policy is enforced on it",
		Long: `Doctor looks at this machine and says what would be in the way of a policy:
kernel features that are missing, marks, routing tables, rule priorities and chains
that others use, sysctls, other programs that change routing or packet filters, and
whether the policy's uplinks are there. Of each it says what it means, what netpolicy
does about it and what you can do. docs/doctor.md describes every finding.

It changes nothing. Kernel features are tried in a network namespace that is thrown
away, for which the kernel may load modules; --no-try reads its configuration instead.

The policy is that of --config, else the one that a running netpolicyd decides by.
It exits with 1 when there is an error, and with --strict 3 when there is a warning.`,
		Example: "  netpolicy doctor --config policy.yaml\n  netpolicy doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.json {
				o.output = "json"
			}
			if err := checkOutput(o.output); err != nil {
				return err
			}
			return o.run(cmd)
		},
	}
	cmd.Flags().StringVar(&o.config, "config", "", `policy file, "-" for standard input`)
	cmd.Flags().StringVar(&o.stateDir, "state-dir", "", "the daemon's state `directory`; the policy's, or "+api.DefaultStateDir)
	cmd.Flags().StringVar(&o.socket, "socket", api.DefaultSocket, "the daemon's API `socket`")
	cmd.Flags().StringVarP(&o.output, "output", "o", "text", "text or json")
	cmd.Flags().BoolVar(&o.json, "json", false, "the same as -o json")
	cmd.Flags().BoolVar(&o.strict, "strict", false, "fail on warnings, too")
	cmd.Flags().BoolVar(&o.noTry, "no-try", false, "don't try kernel features")
	return cmd
}

func (o *doctorOptions) run(cmd *cobra.Command) error {
	var p *rules.Policy
	var why error
	var running api.Status
	dir := o.stateDir
	if o.config != "" {
		var err error
		if p, err = loadPolicy(o.config, cmd.InOrStdin(), cmd.ErrOrStderr()); err != nil {
			var code cli.Exit
			if errors.As(err, &code) {
				return err
			}
			return cli.Fail(cmd, err)
		}
	} else {
		p, running, why = livePolicy(cmd.Context(), o.socket)
		dir = cmp.Or(dir, running.StateDir)
	}
	want := doctor.WantOf(p)
	if why != nil {
		want.Why = why.Error()
	}
	for _, s := range running.Sources {
		if s.Error != "" {
			want.NotInUse = append(want.NotInUse, doctor.NotInUse{Name: s.Name, Why: s.Error})
		}
	}
	if p != nil {
		dir = cmp.Or(dir, p.Daemon.StateDir)
	}
	facts, err := look(cmd.Context(), cmp.Or(dir, api.DefaultStateDir), !o.noTry)
	if err != nil {
		return cli.Fail(cmd, err)
	}
	r := doctor.Diagnose(facts, want)
	if err := o.write(cmd.OutOrStdout(), &r); err != nil {
		return cli.Fail(cmd, err)
	}
	switch {
	case r.Counts.Errors > 0:
		return cli.Errors
	case o.strict && r.Counts.Warnings > 0:
		return cli.Warnings
	default:
		return nil
	}
}

func (o *doctorOptions) write(w io.Writer, r *doctor.Report) error {
	if o.output == "json" {
		return r.JSON(w)
	}
	return r.Text(w)
}

// livePolicy reads the policy by which the daemon decides, and returns what the daemon
// says of itself; the error says why there is no policy.
func livePolicy(ctx context.Context, socket string) (*rules.Policy, api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	s, err := api.NewClient(socket).Status(ctx)
	if err != nil {
		return nil, s, err
	}
	r, err := policyfile.Load(s.Policy.File, nil, nil)
	if err == nil && r.Policy == nil {
		err = fmt.Errorf("%s, by which netpolicyd decides, has %s now", s.Policy.File, plural(diag.Count(r.Diags, diag.Error), "error"))
	}
	return r.Policy, s, err
}
