package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

func newDecideCmd() *cobra.Command {
	var config, flows string
	cmd := &cobra.Command{
		Use:   "decide --config FILE --flows FILE",
		Short: "Decide many connections: flow records in, decisions out",
		Long: `Decide reads one flow record a line (NDJSON) and writes one decision a line, in
the same order. Every link counts as up and NORMAL; a record's "state" puts the
primary uplink, and with it the policy's state, into another one.

A line that can't be read gives {"id":..,"error":{"code","message"}} in its
place, and the exit code is 1 at the end. Empty lines are passed over.`,
		Example: `  netpolicy decide --config policy.yaml --flows flows.ndjson
  generate-flows | netpolicy decide --config policy.yaml --flows -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config == "-" && flows == "-" {
				return errors.New("--config and --flows can't both be standard input")
			}
			policy, err := loadPolicy(config, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if flows != "-" {
				file, err := os.Open(flows)
				if err != nil {
					return fmt.Errorf("read flows: %w", err)
				}
				defer file.Close()
				in = file
			}
			bad, err := newDecider(policy).run(cmd.Context(), in, cmd.OutOrStdout())
			if err != nil {
				return cli.Fail(cmd, err)
			}
			if bad > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "error: %s could not be read\n", plural(bad, "line"))
				return cli.Errors
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "policy file")
	cmd.Flags().StringVar(&flows, "flows", "", `flow records, one a line; "-" for standard input`)
	require(cmd, "config", "flows")
	return cmd
}

const (
	// batchLines is how many lines a worker takes at once: enough that handing
	// over costs nothing beside deciding.
	batchLines = 256
	// batchBytes ends a batch early, so that the longest lines take little memory.
	batchBytes = 256 << 10
	// batchesAhead bounds the batches that are read but not yet written, for
	// each worker; when there are so many the reader waits.
	batchesAhead = 4
)

// decider decides streams of records over one policy.
type decider struct {
	prog   *engine.Program
	worlds [4]*state.World // by state
}

func newDecider(p *rules.Policy) *decider {
	d := &decider{prog: engine.Compile(p)}
	for s := range d.worlds {
		d.worlds[s] = engine.OfflineWorldAt(p, state.State(s), time.Now(), time.Local)
	}
	return d
}

// batch is some consecutive lines and, when done is closed, their answers.
type batch struct {
	lines   []byte // each with its newline
	tooLong bool   // instead of lines: one line over flow.MaxRecord
	out     []byte
	done    chan struct{}
}

// run reads records from r and writes decisions to w in their order, and returns
// how many lines could not be read. It works on all CPUs and holds a bounded
// number of batches.
func (d *decider) run(ctx context.Context, r io.Reader, w io.Writer) (bad int, err error) {
	workers := runtime.GOMAXPROCS(0)
	todo := make(chan *batch, workers*batchesAhead)
	order := make(chan *batch, workers*batchesAhead)
	var wrong atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(todo)
		defer close(order)
		return readBatches(ctx, r, todo, order)
	})
	for range workers {
		g.Go(func() error {
			for b := range todo {
				wrong.Add(int64(d.decideBatch(b)))
				close(b.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for b := range order {
			select {
			case <-b.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if _, err := w.Write(b.out); err != nil {
				return fmt.Errorf("write decisions: %w", err)
			}
		}
		return nil
	})
	err = g.Wait()
	return int(wrong.Load()), err
}

// readBatches cuts r into batches and hands each to both channels. It hands on
// what it has whenever r would block, so that a pipe gets its answers in time.
func readBatches(ctx context.Context, r io.Reader, todo, order chan<- *batch) error {
	in := bufio.NewReaderSize(r, flow.MaxRecord+2)
	b, lines := &batch{}, 0
	send := func() error {
		b.done = make(chan struct{})
		for _, c := range []chan<- *batch{order, todo} {
			select {
			case c <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b, lines = &batch{}, 0
		return nil
	}
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			for errors.Is(err, bufio.ErrBufferFull) { // pass over the rest
				_, err = in.ReadSlice('\n')
			}
			if lines > 0 {
				if err := send(); err != nil {
					return err
				}
			}
			b.tooLong = true
			if err := send(); err != nil {
				return err
			}
		case len(bytes.TrimSpace(line)) > 0:
			b.lines = append(b.lines, line...)
			if line[len(line)-1] != '\n' {
				b.lines = append(b.lines, '\n')
			}
			lines++
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read flows: %w", err)
		}
		if lines > 0 && (err != nil || lines == batchLines || len(b.lines) >= batchBytes || in.Buffered() == 0) {
			if err := send(); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// decideBatch answers every line and returns how many could not be read.
func (d *decider) decideBatch(b *batch) (bad int) {
	if b.tooLong {
		b.out = appendError(b.out, "", &flow.Error{Code: flow.ErrTooLong, Pos: flow.MaxRecord, Message: fmt.Sprintf("line longer than %d bytes", flow.MaxRecord)})
		return 1
	}
	for len(b.lines) > 0 {
		end := bytes.IndexByte(b.lines, '\n')
		f, err := flow.ParseJSON(b.lines[:end])
		b.lines = b.lines[end+1:]
		if err != nil {
			b.out = appendError(b.out, f.ID, err)
			bad++
			continue
		}
		s, _ := state.Parse(f.State) // NORMAL where the record has none
		decision := d.prog.Decide(&f, d.worlds[s])
		b.out = append(d.prog.AppendDecision(b.out, f.ID, &decision), '\n')
	}
	return bad
}

// appendError appends what stands in the place of a line that can't be read.
func appendError(b []byte, id string, err error) []byte {
	code := flow.ErrSyntax
	var e *flow.Error
	if errors.As(err, &e) {
		code = e.Code
	}
	b = append(b, `{"id":`...)
	if id == "" {
		b = append(b, "null"...)
	} else {
		b = flow.AppendString(b, id)
	}
	b = append(b, `,"error":{"code":`...)
	b = flow.AppendString(b, string(code))
	b = append(b, `,"message":`...)
	b = flow.AppendString(b, err.Error())
	return append(b, "}}\n"...)
}
