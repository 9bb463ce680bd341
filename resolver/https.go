package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"sync"
)

const (
	// maxHeader bounds the header of an HTTP answer, which we hardly read.
	maxHeader = 16 << 10
	// dnsMessage is the media type of RFC 8484, 6.
	dnsMessage = "application/dns-message"
)

// httpsUpstream asks over HTTP/2 (RFC 8484), with connections of its own for each
// route.
type httpsUpstream struct {
	dialer
	tls *tls.Config
	url string

	mu      sync.Mutex
	clients map[Route]*http.Client
	done    chan struct{} // closed by close
	dials   sync.WaitGroup
}

func newHTTPS(d dialer, t *tls.Config, url string) *httpsUpstream {
	return &httpsUpstream{dialer: d, tls: t, url: url, clients: map[Route]*http.Client{}, done: make(chan struct{})}
}

func (u *httpsUpstream) client(r Route) *http.Client {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.clients[r]; c != nil {
		return c
	}
	if len(u.clients) >= maxRoutes {
		for old, c := range u.clients { // any: it opens again when it is needed
			c.CloseIdleConnections()
			delete(u.clients, old)
			break
		}
	}
	c := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return u.connect(ctx, r)
			},
			TLSClientConfig:        u.tls.Clone(),
			ForceAttemptHTTP2:      true,
			IdleConnTimeout:        idleUpstream,
			MaxConnsPerHost:        4,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true,
			// A connection whose way is gone is found by its silence.
			HTTP2: &http.HTTP2Config{SendPingTimeout: queryWithin, PingTimeout: attemptWithin},
		},
		// A question goes where the policy says, not where a server points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	u.clients[r] = c
	return c
}

// connect dials. The transport lets a dial go on when its question gave up, so it
// has an end of its own.
func (u *httpsUpstream) connect(ctx context.Context, r Route) (net.Conn, error) {
	u.mu.Lock()
	select {
	case <-u.done:
		u.mu.Unlock()
		return nil, errClosed
	default:
	}
	u.dials.Add(1)
	u.mu.Unlock()
	defer u.dials.Done()
	ctx, cancel := context.WithTimeout(ctx, queryWithin)
	defer cancel()
	go func() {
		select {
		case <-u.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return u.dial(ctx, "tcp", r)
}

func (u *httpsUpstream) exchange(ctx context.Context, query []byte, r Route) ([]byte, error) {
	query[0], query[1] = 0, 0 // RFC 8484, 4.1
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Content-Type": {dnsMessage}, "Accept": {dnsMessage}, "User-Agent": {""}}
	resp, err := u.client(r).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode != http.StatusOK || media != dnsMessage {
		return nil, fmt.Errorf("the answer is %s with %q", resp.Status, resp.Header.Get("Content-Type"))
	}
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxTCP+1))
	if err != nil {
		return nil, err
	}
	if !matches(reply, query) {
		return nil, errBroken
	}
	return reply, nil
}

func (u *httpsUpstream) close() {
	u.mu.Lock()
	close(u.done)
	u.mu.Unlock()
	u.dials.Wait()
	for _, c := range u.clients {
		c.CloseIdleConnections()
	}
}
