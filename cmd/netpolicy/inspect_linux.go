package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/afpacket"
	"netpolicy.dev/netpolicy/inspector/conntrack"
	"netpolicy.dev/netpolicy/inspector/sockdiag"
	"netpolicy.dev/netpolicy/internal/cli"
)

// liveEvents bounds the events that wait for the output; beyond it they are
// dropped and counted.
const liveEvents = 16384

// inspectLive shows the connections of this network namespace until interrupted.
func inspectLive(ctx context.Context, w io.Writer, table bool) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	events := make(chan inspector.Event, liveEvents)
	dropped := 0
	var mu sync.Mutex
	emit := func(e inspector.Event) {
		select {
		case events <- e:
		default:
			mu.Lock()
			dropped++
			mu.Unlock()
		}
	}
	var sources sync.WaitGroup
	failed := make(chan error, 3)
	for _, s := range []inspector.Source{conntrack.New(conntrack.Options{}), sockdiag.New(sockdiag.Options{}), afpacket.New(afpacket.Options{})} {
		sources.Go(func() {
			if err := s.Run(ctx, emit); err != nil {
				failed <- fmt.Errorf("%s: %w", s.Name(), err)
				cancel()
			}
		})
	}
	if table {
		fmt.Fprintln(w, "PROTO SOURCE DESTINATION NAME FROM PROGRAM")
	}
	err := newConnections().watch(ctx, events, func(f flow.Flow) error {
		line := append([]byte(row(f, " ")), '\n')
		if !table {
			line = appendLine(nil, f)
		}
		if _, err := w.Write(line); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return nil
	})
	cancel()
	sources.Wait()
	select {
	case e := <-failed:
		fmt.Fprintln(os.Stderr, "error:", e)
		return cli.Errors
	default:
	}
	if dropped > 0 {
		fmt.Fprintf(os.Stderr, "warning: %d events were dropped: the output is too slow\n", dropped)
	}
	return err
}
