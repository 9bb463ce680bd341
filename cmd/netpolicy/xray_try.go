package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/trial"
)

// maxAtOnce bounds the cores that run at a time: each takes 30 MiB of memory.
const maxAtOnce = 16

// tryFlags say how links are tried.
type tryFlags struct {
	page     string
	timeout  time.Duration
	parallel int
	output   string
	byDaemon bool // its Xray, from where it stands
	socket   string
	gone     error // why the daemon does not answer any more
}

func (f *tryFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.page, "url", trial.DefaultPage, "the page to ask for")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 15*time.Second, "how long a page may take")
	cmd.Flags().IntVar(&f.parallel, "parallel", 2, fmt.Sprintf("how many links are tried at a time, up to %d", maxAtOnce))
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "text or json")
}

func (f *tryFlags) check() error {
	if err := checkOutput(f.output); err != nil {
		return err
	}
	if err := trial.CheckPage(f.page); err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	if f.timeout <= 0 {
		return errors.New("--timeout: want a time such as 15s")
	}
	if f.parallel < 1 || f.parallel > maxAtOnce {
		return fmt.Errorf("--parallel: from 1 to %d", maxAtOnce)
	}
	return nil
}

// xray returns what tries a profile: a core of ours, or the daemon.
func (f *tryFlags) xray(ctx context.Context, core *coreFlags) (func(context.Context, link.Profile) trial.Result, error) {
	if !f.byDaemon {
		binary, v, err := core.core(ctx)
		return func(ctx context.Context, p link.Profile) trial.Result {
			return trial.Run(ctx, trial.Options{Binary: binary, Version: v, Page: f.page, Timeout: f.timeout}, p)
		}, err
	}
	f.parallel = 1 // it tries one at a time
	c := api.NewClient(f.socket)
	_, err := c.Status(ctx)
	return func(ctx context.Context, p link.Profile) trial.Result {
		var x api.XrayTrial
		err := f.gone
		if err == nil {
			x, err = c.TryXray(ctx, api.XrayTrialRequest{Link: p.Link(), URL: f.page})
		}
		var gone *api.UnreachableError
		if errors.As(err, &gone) {
			f.gone = gone
		}
		if err != nil {
			r := trial.NewResult(p)
			r.Fail(err.Error(), "")
			return r
		}
		return trial.Result(x)
	}, err
}

// tryAll tries profiles, some at a time, and returns what came of them: the fastest
// first, then those that fail, each in the order they came.
func tryAll(ctx context.Context, f *tryFlags, one func(context.Context, link.Profile) trial.Result, profiles []link.Profile) []trial.Result {
	all := make([]trial.Result, len(profiles))
	slots := make(chan struct{}, f.parallel)
	var group sync.WaitGroup
	for i, p := range profiles {
		all[i] = trial.NewResult(p)
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				all[i].Fail("interrupted", "")
				return
			}
			all[i] = one(ctx, p)
			all[i].Error = oneLine(all[i].Error)
		})
	}
	group.Wait()
	slices.SortStableFunc(all, func(a, b trial.Result) int {
		if a.OK != b.OK {
			return map[bool]int{true: -1, false: 1}[a.OK]
		}
		if !a.OK {
			return 0
		}
		return cmp.Compare(a.FirstMS, b.FirstMS)
	})
	return all
}

// tryLinks is `xray test` without --config-only.
func tryLinks(ctx context.Context, cmd *cobra.Command, f *tryFlags, core *coreFlags, args []string) error {
	if err := f.check(); err != nil {
		return err
	}
	one, err := f.xray(ctx, core)
	switch {
	case err != nil && f.byDaemon:
		return daemonFailed(cmd, err)
	case err != nil:
		return cli.Fail(cmd, err)
	}
	profiles, err := gather(args, cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return cli.Fail(cmd, err)
	}
	all := tryAll(ctx, f, one, profiles)
	out := cmd.OutOrStdout()
	switch {
	case f.output == "json":
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		err = enc.Encode(all)
	case len(all) == 1:
		err = writeTrial(out, &all[0])
	default:
		err = writeTrials(out, all)
	}
	if err != nil {
		return cli.Fail(cmd, fmt.Errorf("write what came of it: %w", err))
	}
	switch {
	case f.gone != nil:
		return daemonFailed(cmd, f.gone)
	case ctx.Err() != nil:
		return cli.Interrupted
	}
	if !slices.ContainsFunc(all, func(t trial.Result) bool { return t.OK }) {
		return cli.Errors
	}
	return nil
}

// writeTrial writes one link, step by step.
func writeTrial(w io.Writer, t *trial.Result) error {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s "+format+"\n", append([]any{name}, args...)...)
	}
	row("server", "%s %s", t.Protocol, oneLine(t.Server))
	for _, step := range []struct {
		name string
		ms   float64
	}{{"core start", t.StartMS}, {"connect", t.ConnectMS}, {"page's TLS", t.TLSMS}, {"first byte", t.FirstMS}, {"total", t.TotalMS}} {
		if step.ms > 0 {
			row(step.name, "%s", millis(step.ms))
		}
	}
	if t.OK {
		row("answer", "%d %s, %d bytes", t.Status, http.StatusText(t.Status), t.Bytes)
	} else {
		row("failed", "%s", t.Error)
		if t.Help != "" {
			row("", "%s", t.Help)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeTrials writes a table, the fastest first.
func writeTrials(w io.Writer, all []trial.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSERVER\tCONNECT\tFIRST BYTE\tTOTAL\tANSWER")
	for i := range all {
		x := &all[i]
		answer := x.Error
		if x.OK {
			answer = fmt.Sprintf("%d, %d bytes", x.Status, x.Bytes)
		} else if x.Help != "" {
			answer += " (" + x.Help + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", oneLine(cmp.Or(x.Name, "-")), oneLine(x.Protocol+" "+x.Server), millis(x.ConnectMS), millis(x.FirstMS), millis(x.TotalMS), answer)
	}
	return t.Flush()
}

func millis(ms float64) string {
	if ms <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.4g ms", ms)
}
