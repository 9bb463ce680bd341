package rulesets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

const (
	// maxRedirects is what mirrors and release pages need, with room.
	maxRedirects = 5
	// fetchTimeout bounds a whole fetch: the largest file over 1 Mbit/s.
	fetchTimeout = 10 * time.Minute
	// stepTimeout bounds connecting, the TLS handshake, and the wait for an answer.
	stepTimeout = 15 * time.Second
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 64 << 10

	userAgent = "netpolicy"
)

// newClient returns c with a bound on redirects, or a client of our own.
func newClient(c *http.Client) *http.Client {
	own := http.Client{}
	if c != nil {
		own = *c
	} else {
		own.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: stepTimeout}).DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    stepTimeout,
			ResponseHeaderTimeout:  stepTimeout,
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true, // a list is fetched once a day
		}
	}
	if own.CheckRedirect == nil {
		own.CheckRedirect = checkRedirect
	}
	return &own
}

// checkRedirect follows few redirects, none from https to http, and does not tell
// the next host the address of the former one, which may hold a token.
func checkRedirect(req *http.Request, via []*http.Request) error {
	req.Header.Del("Referer")
	switch last := via[len(via)-1].URL.Scheme; {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case req.URL.Scheme != "https" && req.URL.Scheme != last:
		return fmt.Errorf("redirected from %s to %s", last, req.URL.Scheme)
	}
	return nil
}

// parseURL reads the URL of a list. Its errors say nothing of the text, which
// can hold a password.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return nil, errors.New("the URL of a list is not a URL with a host")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the URL of a list is one of http or https")
	}
	return u, nil
}

// CheckURL reports what is wrong with the URL of a list.
func CheckURL(s string) error {
	_, err := parseURL(s)
	return err
}

// redact spells a URL without what can be secret in it.
func redact(u *url.URL) string {
	s := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
	if u.RawQuery != "" {
		s += "?..."
	}
	return s
}

// Refresh fetches the list of a URL and makes it the last good copy, if it is
// whole, has the checksum that is expected, and can be read. changed is false when
// there was such a copy with the same content. On errors the last good copy stays.
func (s *Store) Refresh(ctx context.Context, ref rules.ListRef, t rules.SetType) (changed bool, err error) {
	l, err := s.list(ref, t)
	if err != nil {
		return false, err
	}
	if l.url == nil {
		return false, fmt.Errorf("fetch list %s: it is a file", l.name)
	}
	if changed, err = s.refresh(ctx, l); err != nil {
		return false, fmt.Errorf("fetch list %s: %w", l.name, err)
	}
	return changed, nil
}

func (s *Store) refresh(ctx context.Context, l list) (changed bool, err error) {
	if err := s.cache.ready(); err != nil {
		return false, err
	}
	had, err := s.hasCopy(l)
	if err != nil {
		had = meta{} // as if there were none
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	resp, err := s.get(ctx, l.url, had)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && had.conditional() {
		had.Checked = time.Now().UTC().Truncate(time.Second)
		return false, s.cache.touch(l.key, had)
	}
	c, err := l.receive(resp)
	if err != nil {
		return false, err
	}
	if err := s.keep(l, c); err != nil {
		return false, fmt.Errorf("keep it: %w", err)
	}
	return c.sum != had.SourceSum, nil
}

// conditional reports whether the server can be asked for changes since.
func (m meta) conditional() bool { return m.ETag != "" || m.LastModified != "" }

// get asks for the list, unless it is as it was.
func (s *Store) get(ctx context.Context, u *url.URL, had meta) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("no request can be made of the URL")
	}
	req.Header.Set("User-Agent", userAgent)
	if had.ETag != "" {
		req.Header.Set("If-None-Match", had.ETag)
	}
	if had.LastModified != "" {
		req.Header.Set("If-Modified-Since", had.LastModified)
	}
	resp, err := s.client.Do(req)
	if e, ok := errors.AsType[*url.Error](err); ok {
		return nil, e.Err // without the URL
	}
	return resp, err
}

// receive reads the list from an answer.
func (l list) receive(resp *http.Response) (content, error) {
	if resp.StatusCode != http.StatusOK {
		return content{}, fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return content{}, errors.New("the server sent it in an encoding that was not asked for")
	}
	if resp.ContentLength > lists.MaxSize {
		return content{}, errSize
	}
	data, err := readBounded(resp.Body, lists.MaxSize) // what the server says about the size is not believed
	if err != nil {
		return content{}, fmt.Errorf("read the answer: %w", err)
	}
	c := content{data: data, sum: sumOf(data), etag: tag(resp, "ETag"), lastModified: tag(resp, "Last-Modified")}
	if len(data) == 0 {
		return content{}, errors.New("the answer is empty")
	}
	if err := l.verify(c.sum); err != nil {
		return content{}, err
	}
	c.elements, c.problems, err = l.parse(data, nil)
	return c, err
}

// tag returns a header that is sent back next time; "" if it is too long for
// that, or not ASCII, which JSON might change.
func tag(resp *http.Response, name string) string {
	v := resp.Header.Get(name)
	if len(v) > maxTag || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return v
}
