package rulesets

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// fetchTimeout bounds a whole fetch: the largest file over 1 Mbit/s.
const fetchTimeout = 10 * time.Minute

// parseURL reads the URL of a list.
func parseURL(s string) (*url.URL, error) { return download.ParseURL(s, "a list") }

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
	f, err := download.Get(ctx, s.client, download.Request{URL: l.url, ETag: had.ETag, LastModified: had.LastModified, Limit: lists.MaxSize})
	if err != nil {
		return false, err
	}
	if f.Unchanged {
		had.Checked = time.Now().UTC().Truncate(time.Second)
		return false, s.cache.touch(l.key, had)
	}
	c, err := l.receive(f)
	if err != nil {
		return false, err
	}
	if err := s.keep(l, c); err != nil {
		return false, fmt.Errorf("keep it: %w", err)
	}
	return c.sum != had.SourceSum, nil
}

// receive reads the list from an answer.
func (l list) receive(f download.File) (c content, err error) {
	c = content{data: f.Data, sum: sumOf(f.Data), etag: f.ETag, lastModified: f.LastModified}
	if err := l.verify(c.sum); err != nil {
		return content{}, err
	}
	c.elements, c.problems, err = l.parse(f.Data, nil)
	return c, err
}
