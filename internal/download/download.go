// Package download fetches files from the web, for those who keep a last good copy
// of them.
//
//	file, err := download.Get(ctx, download.NewClient(nil), download.Request{URL: u, Limit: 1 << 20})
//
// It guarantees that every part of an answer is bounded, that nothing is followed to
// where it is less safe, and that neither errors nor other servers are told the
// URL, which often holds a token.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// MaxRedirects is what mirrors and release pages need, with room.
	MaxRedirects = 5
	// StepTimeout bounds connecting, the TLS handshake, and the wait for an answer.
	StepTimeout = 15 * time.Second
	// MaxHeader bounds the header of an answer, in bytes, and MaxTag what is kept of
	// one line of it.
	MaxHeader = 64 << 10
	MaxTag    = 1 << 10
)

// Dial connects; http.Transport calls it.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// NewTransport returns a transport with time-outs. A nil dial is the host's own way,
// with the proxy of the environment.
func NewTransport(dial Dial) *http.Transport {
	t := &http.Transport{
		DialContext:            dial,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    StepTimeout,
		ResponseHeaderTimeout:  StepTimeout,
		MaxResponseHeaderBytes: MaxHeader,
		DisableKeepAlives:      true, // nothing is fetched twice in a row
	}
	if dial == nil {
		t.Proxy, t.DialContext = http.ProxyFromEnvironment, (&net.Dialer{Timeout: StepTimeout}).DialContext
	}
	return t
}

// NewClient returns c with a bound on redirects, unless it has its own; nil is a
// client of our own.
func NewClient(c *http.Client) *http.Client {
	own := http.Client{}
	if c != nil {
		own = *c
	} else {
		own.Transport = NewTransport(nil)
	}
	if own.CheckRedirect == nil {
		own.CheckRedirect = checkRedirect
	}
	return &own
}

// checkRedirect follows few redirects, none from https to http, and does not tell
// the next host the address of the former one.
func checkRedirect(req *http.Request, via []*http.Request) error {
	req.Header.Del("Referer")
	switch last := via[len(via)-1].URL.Scheme; {
	case len(via) > MaxRedirects:
		return fmt.Errorf("more than %d redirects", MaxRedirects)
	case req.URL.Scheme != "https" && req.URL.Scheme != last:
		return fmt.Errorf("redirected from %s to %s", last, req.URL.Scheme)
	}
	return nil
}

// ParseURL reads a URL of http or https. Its errors say nothing of the text, which
// can hold a password; what names the thing in them.
func ParseURL(s, what string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return nil, fmt.Errorf("the URL of %s is not a URL with a host", what)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the URL of %s is one of http or https", what)
	}
	return u, nil
}

// Request is what to ask for.
type Request struct {
	URL       *url.URL
	UserAgent string // "" is netpolicy
	// ETag and LastModified are those of the copy that is there; with either the
	// server need not send it again.
	ETag, LastModified string
	Limit              int // bytes, after decompression
}

// File is an answer.
type File struct {
	// Unchanged says that the copy that was asked about is still the newest; there is
	// no Data then.
	Unchanged          bool
	Data               []byte
	ETag, LastModified string
	Header             http.Header
}

// Get asks once. Its errors don't repeat the URL, nor where a server leads to.
func Get(ctx context.Context, client *http.Client, r Request) (File, error) {
	resp, err := ask(ctx, client, r)
	if err != nil {
		return File{}, err
	}
	defer resp.Body.Close()
	f := File{Header: resp.Header, ETag: tag(resp, "ETag"), LastModified: tag(resp, "Last-Modified")}
	if resp.StatusCode == http.StatusNotModified && (r.ETag != "" || r.LastModified != "") {
		f.Unchanged = true
		return f, nil
	}
	if resp.StatusCode != http.StatusOK {
		return File{}, fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return File{}, errors.New("the server sent it in an encoding that was not asked for")
	}
	if resp.ContentLength > int64(r.Limit) {
		return File{}, tooLarge(r.Limit)
	}
	f.Data, err = io.ReadAll(io.LimitReader(resp.Body, int64(r.Limit)+1)) // what the server says about the size is not believed
	switch {
	case err != nil:
		return File{}, fmt.Errorf("read the answer: %w", err)
	case len(f.Data) > r.Limit:
		return File{}, fmt.Errorf("read the answer: %w", tooLarge(r.Limit))
	case len(f.Data) == 0:
		return File{}, errors.New("the answer is empty")
	}
	return f, nil
}

func tooLarge(limit int) error { return fmt.Errorf("larger than %d MiB", limit>>20) }

func ask(ctx context.Context, client *http.Client, r Request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL.String(), nil)
	if err != nil {
		return nil, errors.New("no request can be made of the URL")
	}
	if r.UserAgent == "" {
		r.UserAgent = "netpolicy"
	}
	req.Header.Set("User-Agent", r.UserAgent)
	if r.ETag != "" {
		req.Header.Set("If-None-Match", r.ETag)
	}
	if r.LastModified != "" {
		req.Header.Set("If-Modified-Since", r.LastModified)
	}
	resp, err := client.Do(req)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the URL
		if strings.HasPrefix(err.Error(), "failed to parse Location header") {
			err = errors.New("redirected to what is no URL") // it would repeat that
		}
	}
	return resp, err
}

// tag returns a header that is sent back next time; "" if it is too long for
// that, or not ASCII, which JSON might change.
func tag(resp *http.Response, name string) string {
	v := resp.Header.Get(name)
	if len(v) > MaxTag || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return v
}
