package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
)

const (
	// defaultPage is what most clients ask for: it answers 204 and nothing else.
	defaultPage = "https://www.gstatic.com/generate_204"
	// maxPage bounds what is read of a page, in bytes.
	maxPage = 64 << 20
	// maxAtOnce bounds the cores that run at a time: each takes 30 MiB of memory.
	maxAtOnce = 16
	// causeWithin is how long Xray may take to write why a connection has failed.
	causeWithin = 2 * time.Second
)

// tryFlags say how links are tried.
type tryFlags struct {
	page     string
	timeout  time.Duration
	parallel int
	output   string
}

func (f *tryFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.page, "url", defaultPage, "the page to ask for")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 15*time.Second, "how long a page may take")
	cmd.Flags().IntVar(&f.parallel, "parallel", 2, fmt.Sprintf("how many links are tried at a time, up to %d", maxAtOnce))
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "text or json")
}

func (f *tryFlags) check() error {
	if err := checkOutput(f.output); err != nil {
		return err
	}
	u, err := url.Parse(f.page)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("--url: want a URL of http or https")
	}
	if f.timeout <= 0 {
		return errors.New("--timeout: want a time such as 15s")
	}
	if f.parallel < 1 || f.parallel > maxAtOnce {
		return fmt.Errorf("--parallel: from 1 to %d", maxAtOnce)
	}
	return nil
}

// trial is what came of one link; times are in milliseconds, those that were not
// taken are left out.
type trial struct {
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"`
	Server   string `json:"server"`
	OK       bool   `json:"ok"`
	// StartMS is the core's test of the configuration and its start; ConnectMS a
	// connection to the server, past the core; TLSMS the handshake with the page through
	// the tunnel, FirstMS its first byte, and TotalMS its last one, all from the request on.
	StartMS   float64 `json:"start_ms,omitempty"`
	ConnectMS float64 `json:"connect_ms,omitempty"`
	TLSMS     float64 `json:"tls_ms,omitempty"`
	FirstMS   float64 `json:"first_byte_ms,omitempty"`
	TotalMS   float64 `json:"total_ms,omitempty"`
	Status    int     `json:"status,omitempty"` // of HTTP
	Bytes     int64   `json:"bytes"`
	Error     string  `json:"error,omitempty"`
	Help      string  `json:"help,omitempty"`

	flags *tryFlags
}

func (t *trial) fail(message, help string) { t.Error, t.Help = message, help }

// msSince returns the milliseconds since a moment, to the hundredth.
func msSince(began time.Time) float64 {
	return math.Round(float64(time.Since(began))/float64(time.Millisecond)*100) / 100
}

// connect measures how far the server is. That it can't be reached so says nothing yet:
// Xray may find another way.
func (t *trial) connect(ctx context.Context, p link.Profile) {
	if overUDP(p) != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, t.flags.timeout)
	defer cancel()
	began := time.Now()
	if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", serverOf(p)); err == nil {
		t.ConnectMS = msSince(began)
		conn.Close()
	}
}

// fetch asks for the page through the core's inbound.
func (t *trial) fetch(ctx context.Context, in netip.AddrPort) error {
	proxy := &url.URL{Scheme: "socks5h", Host: in.String()}
	transport := &http.Transport{
		Proxy:             func(*http.Request) (*url.URL, error) { return proxy, nil },
		DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, cancel := context.WithTimeout(ctx, t.flags.timeout)
	defer cancel()
	began := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				t.TLSMS = msSince(began)
			}
		},
		GotFirstResponseByte: func() { t.FirstMS = msSince(began) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.flags.page, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err == nil {
		t.Status = resp.StatusCode
		t.Bytes, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxPage))
		resp.Body.Close()
	}
	if err != nil {
		t.FirstMS, t.TLSMS = 0, 0
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the page is known
		}
		return err
	}
	t.TotalMS, t.OK = msSince(began), true
	return nil
}

// explain says why a page could not be had, out of the log of the core, which it
// writes a moment later.
func (t *trial) explain(ctx context.Context, p link.Profile, err error, log func() []string) {
	var best config.Finding
	for end := time.Now().Add(causeWithin); ; {
		if f, ok := config.Explain(p, strings.Join(log(), "\n")); ok {
			best = f
		}
		if best.Severity == diag.Error && best.Message != "" || time.Now().After(end) || ctx.Err() != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	switch {
	case ctx.Err() != nil:
		t.fail("interrupted", "")
	case best.Message == "":
		t.fail(oneLine(err.Error()), "")
	default:
		message := best.Message
		if best.Key != "" {
			message = "key " + diag.Quote(best.Key) + ": " + message
		}
		t.fail(message, best.Help)
	}
}

// tryAll tries profiles, some at a time, and returns what came of them: the fastest
// first, then those that fail, each in the order they came.
func tryAll(ctx context.Context, f *tryFlags, binary string, v config.Version, profiles []link.Profile) []trial {
	all := make([]trial, len(profiles))
	slots := make(chan struct{}, f.parallel)
	var group sync.WaitGroup
	for i, p := range profiles {
		all[i] = trial{Name: p.Name, Protocol: p.Protocol(), Server: serverOf(p), flags: f}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				all[i].fail("interrupted", "")
				return
			}
			tryCore(ctx, &all[i], binary, v, p)
		})
	}
	group.Wait()
	slices.SortStableFunc(all, func(a, b trial) int {
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
	binary, v, err := core.core(ctx)
	if err != nil {
		return cli.Fail(cmd, err)
	}
	profiles, err := gather(args, cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return cli.Fail(cmd, err)
	}
	all := tryAll(ctx, f, binary, v, profiles)
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
	if !slices.ContainsFunc(all, func(t trial) bool { return t.OK }) {
		return cli.Errors
	}
	return nil
}

// writeTrial writes one link, step by step.
func writeTrial(w io.Writer, t *trial) error {
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
func writeTrials(w io.Writer, all []trial) error {
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
