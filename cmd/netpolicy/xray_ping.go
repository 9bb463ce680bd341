package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/trial"
)

// maxPings bounds the connections at a time.
const maxPings = 16

// ping is how far one server is, in milliseconds.
type ping struct {
	Name      string  `json:"name,omitempty"`
	Protocol  string  `json:"protocol"`
	Server    string  `json:"server"`
	OK        bool    `json:"ok"`
	ConnectMS float64 `json:"connect_ms,omitempty"` // name resolution and the TCP handshake
	TLSMS     float64 `json:"tls_ms,omitempty"`     // the TLS handshake alone
	Error     string  `json:"error,omitempty"`
}

func newXrayPingCmd() *cobra.Command {
	var output string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ping LINK|FILE|-...",
		Short: "Measure how far the servers of profiles are, without Xray",
		Long: `Ping connects to each server, and shakes hands where the profile has TLS or REALITY,
whatever the certificate: it says nothing of whether the profile works, which test
does. What runs over UDP (hysteria2, wireguard, mKCP, xhttp over h3) can't be measured
so: such a server answers only those whom it knows. The nearest stand first. It exits
with 1 when no server answers.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if timeout <= 0 {
				return errors.New("--timeout: want a time such as 5s")
			}
			profiles, err := gather(args, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return cli.Fail(cmd, err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			all := pingAll(ctx, profiles, timeout)
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				err = enc.Encode(all)
			} else {
				err = writePings(cmd.OutOrStdout(), all)
			}
			if err != nil {
				return cli.Fail(cmd, fmt.Errorf("write what came of it: %w", err))
			}
			if ctx.Err() != nil {
				return cli.Interrupted
			}
			if !slices.ContainsFunc(all, func(p ping) bool { return p.OK }) {
				return cli.Errors
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long a server may take")
	return cmd
}

func pingAll(ctx context.Context, profiles []link.Profile, timeout time.Duration) []ping {
	all := make([]ping, len(profiles))
	slots := make(chan struct{}, maxPings)
	var group sync.WaitGroup
	for i, p := range profiles {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			all[i] = pingOne(ctx, p, timeout)
		})
	}
	group.Wait()
	slices.SortStableFunc(all, func(a, b ping) int {
		if a.OK != b.OK {
			return map[bool]int{true: -1, false: 1}[a.OK]
		}
		return cmp.Compare(a.ConnectMS, b.ConnectMS)
	})
	return all
}

func pingOne(ctx context.Context, p link.Profile, timeout time.Duration) (out ping) {
	out = ping{Name: p.Name, Protocol: p.Protocol(), Server: trial.Server(p)}
	if over := trial.OverUDP(p); over != "" {
		out.Error = "not measured: " + over + " runs over UDP, and only those who are known get an answer"
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", out.Server)
	if err != nil {
		out.Error = oneLine(err.Error())
		return out
	}
	defer conn.Close()
	out.ConnectMS, out.OK = trial.Since(began), true
	name, alpn, secure := serverName(p)
	if !secure {
		return out
	}
	began = time.Now()
	// Whose certificate it is does not matter: nothing is said to the server.
	if err := tls.Client(conn, &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true}).HandshakeContext(ctx); err != nil {
		out.Error, out.OK = "TLS: "+oneLine(err.Error()), false
		return out
	}
	out.TLSMS = trial.Since(began)
	return out
}

func writePings(w io.Writer, all []ping) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSERVER\tCONNECT\tTLS\tPROBLEM")
	for _, p := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", oneLine(cmp.Or(p.Name, "-")), oneLine(p.Protocol+" "+p.Server), millis(p.ConnectMS), millis(p.TLSMS), cmp.Or(p.Error, "-"))
	}
	return t.Flush()
}
