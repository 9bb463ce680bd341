package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/afpacket"
	"netpolicy.dev/netpolicy/inspector/conntrack"
	"netpolicy.dev/netpolicy/inspector/sockdiag"
	"netpolicy.dev/netpolicy/internal/cli"
)

// liveEvents bounds the events that wait for the output; beyond it they are
// dropped and counted.
const liveEvents = 16384

// errEnough ends a watch that has shown as many connections as it should.
var errEnough = errors.New("enough")

// inspectLive shows the connections of this network namespace, or of one of its
// interfaces, until interrupted or until there is enough.
func inspectLive(cmd *cobra.Command, c *connections, o watchOptions) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.time > 0 {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, o.time)
		defer end()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	events := make(chan inspector.Event, liveEvents)
	var dropped atomic.Int64
	emit := func(e inspector.Event) {
		select {
		case events <- e:
		default:
			dropped.Add(1)
		}
	}
	capture := afpacket.New(afpacket.Options{Interface: o.iface, Details: true})
	if o.iface != "" {
		c.only = capture.Name()
	}
	var sources sync.WaitGroup
	failed := make(chan error, 3)
	for _, s := range []inspector.Source{conntrack.New(conntrack.Options{}), sockdiag.New(sockdiag.Options{}), capture} {
		sources.Go(func() {
			err := s.Run(ctx, emit)
			switch {
			case err == nil:
			case c.only != "" && s.Name() != c.only: // it only adds to what the capture shows
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: without %s: %v\n", s.Name(), err)
			default:
				failed <- fmt.Errorf("%s: %w", s.Name(), err)
				cancel()
			}
		})
	}
	err := watchConnections(ctx, cmd, c, events, o)
	cancel()
	sources.Wait()
	select {
	case e := <-failed:
		fmt.Fprintln(cmd.ErrOrStderr(), "error:", e)
		if errors.Is(e, os.ErrPermission) {
			fmt.Fprintln(cmd.ErrOrStderr(), "hint: a capture needs root, or CAP_NET_RAW; --live needs CAP_NET_ADMIN, too")
		}
		return cli.Errors
	default:
	}
	if n := dropped.Load(); n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %d events were dropped: the output is too slow\n", n)
	}
	return err
}

// watchConnections writes a line for each connection.
func watchConnections(ctx context.Context, cmd *cobra.Command, c *connections, events <-chan inspector.Event, o watchOptions) error {
	w, left := cmd.OutOrStdout(), o.count
	if o.table {
		fmt.Fprintln(w, strings.Join(append(c.heading(), "PROGRAM"), " "))
	}
	err := c.watch(ctx, events, func(n *connection) error {
		line := []byte(strings.Join(c.row(n), " ") + "\n")
		if !o.table {
			var err error
			if line, err = n.appendLine(nil); err != nil {
				return err
			}
		}
		if _, err := w.Write(line); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		if n.answer != nil {
			return nil
		}
		if left--; left == 0 {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
