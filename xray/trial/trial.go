// Package trial runs a profile in a real Xray of its own and asks with it for a page:
// what works is measured step by step, what does not is explained out of Xray's log.
//
//	v, err := trial.Core(ctx, "/usr/bin/xray")
//	r := trial.Run(ctx, trial.Options{Binary: "/usr/bin/xray", Version: v, Page: trial.DefaultPage, Timeout: 15 * time.Second}, profile)
//
// The Xray listens on loopback alone and has ended when Run returns. What Run gives has no
// secrets.
package trial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/config"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/process"
)

const (
	// DefaultPage is what most clients ask for: it answers 204 and nothing else.
	DefaultPage = "https://www.gstatic.com/generate_204"
	// maxPage bounds what is read of a page, in bytes.
	maxPage = 64 << 20
	// causeWithin is how long Xray may take to write why a connection has failed.
	causeWithin = 2 * time.Second
)

// Options say how a profile is tried.
type Options struct {
	Binary  string         // the path of the program
	Version config.Version // whose rules hold for it, see Core
	Page    string         // see CheckPage
	Timeout time.Duration  // of the page; it must be more than zero
	// Dir is a directory of ours for who runs, one for each Run at a time; "" makes one
	// and takes it away again.
	Dir string
	// UID and GID are whom Xray runs as; zero is as whom we run.
	UID, GID uint32
	Output   *process.Output // what Xray prints into, for one Run at a time; nil makes one
	// Mark is on what Xray itself sends, and Control gives it to what goes past Xray. Their
	// zero values are none.
	Mark    uint32
	Control func(network, address string, c syscall.RawConn) error
}

// Result is what came of a profile; times are in milliseconds, those that were not
// taken are left out.
type Result struct {
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
}

// CheckPage says what is wrong with a page's address.
func CheckPage(page string) error {
	u, err := url.Parse(page)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("want a URL of http or https")
	}
	return nil
}

// Core asks a program which Xray it is, and returns the version whose rules hold for it.
func Core(ctx context.Context, binary string) (config.Version, error) {
	text, err := process.Version(ctx, binary)
	if err != nil {
		return 0, err
	}
	return Rules(text)
}

// Rules returns the version whose rules hold for the Xray of a version, as it tells it.
func Rules(text string) (config.Version, error) {
	v, ok := config.ParseVersion(text)
	if !ok {
		return 0, fmt.Errorf("the rules of Xray %s are not known, those of 26.3 and 26.7 are", text)
	}
	return v, nil
}

// FreePort returns a port of 127.0.0.1 that nobody has at the moment.
func FreePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// Server returns a profile's host and port.
func Server(p link.Profile) string {
	return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
}

// OverUDP returns what a profile speaks over UDP, "" where that is TCP.
func OverUDP(p link.Profile) string {
	switch p.Proxy.(type) {
	case link.Hysteria2:
		return "QUIC"
	case link.WireGuard:
		return "WireGuard"
	}
	switch p.Transport.(type) {
	case link.KCP:
		return "mKCP"
	case link.XHTTP:
		if t, ok := p.Security.(link.TLS); ok && len(t.ALPN) == 1 && t.ALPN[0] == "h3" {
			return "QUIC"
		}
	}
	return ""
}

// Since returns the milliseconds since a moment, to the hundredth.
func Since(began time.Time) float64 {
	return math.Round(float64(time.Since(began))/float64(time.Millisecond)*100) / 100
}

// NewResult is that of a profile which was not tried yet.
func NewResult(p link.Profile) Result {
	return Result{Name: p.Name, Protocol: p.Protocol(), Server: Server(p)}
}

// Fail notes why nothing came of it, and the way out.
func (r *Result) Fail(message, help string) { r.Error, r.Help = message, help }

// connect measures how far the server is. That it can't be reached so says nothing yet:
// Xray may find another way.
func (r *Result) connect(ctx context.Context, o *Options, p link.Profile) {
	if OverUDP(p) != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	began := time.Now()
	if conn, err := (&net.Dialer{Control: o.Control}).DialContext(ctx, "tcp", Server(p)); err == nil {
		r.ConnectMS = Since(began)
		conn.Close()
	}
}

// Fetch asks for a page through the SOCKS server of an Xray, and notes how that went.
func (r *Result) Fetch(ctx context.Context, in netip.AddrPort, page string, timeout time.Duration) error {
	proxy := &url.URL{Scheme: "socks5h", Host: in.String()}
	transport := &http.Transport{
		Proxy:             func(*http.Request) (*url.URL, error) { return proxy, nil },
		DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				r.TLSMS = Since(began)
			}
		},
		GotFirstResponseByte: func() { r.FirstMS = Since(began) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err == nil {
		r.Status = resp.StatusCode
		r.Bytes, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxPage))
		resp.Body.Close()
	}
	if err != nil {
		r.FirstMS, r.TLSMS = 0, 0
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the page is known
		}
		return err
	}
	r.TotalMS, r.OK = Since(began), true
	return nil
}

// explain says why a page could not be had, out of the log of the core, which it
// writes a moment later.
func (r *Result) explain(ctx context.Context, p link.Profile, err error, log func() []string) {
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
		r.Fail("interrupted", "")
	case best.Message == "":
		r.Fail(err.Error(), "")
	default:
		message := best.Message
		if best.Key != "" {
			message = "key " + diag.Quote(best.Key) + ": " + message
		}
		r.Fail(message, best.Help)
	}
}
