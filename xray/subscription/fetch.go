package subscription

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/xray/link"
	"netpolicy.dev/netpolicy/xray/link/sub"
)

// fetchTimeout bounds a whole fetch: the largest content over 1 Mbit/s.
const fetchTimeout = 3 * time.Minute

// errRemoved says that a subscription went while it was fetched.
var errRemoved = errors.New("it was removed meanwhile")

// fetch asks the provider and takes over what is new. Of one subscription one fetch
// runs at a time. The error is kept as the subscription's problem too.
func (s *Store) fetch(ctx context.Context, x *subscription) error {
	select {
	case x.fetching <- struct{}{}:
		defer func() { <-x.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	file, err := s.get(ctx, x)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	changed := false
	if err == nil {
		changed, err = s.take(x, file)
	}
	s.mu.Lock()
	x.problem = ""
	if err != nil {
		x.problem = err.Error()
		x.failures++
	} else {
		x.failures = 0
	}
	s.schedule(x)
	name, host, every := x.record.Name, Mask(x.url), x.next.Sub(s.now())
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("subscription not fetched", "subscription", name, "url", host, "error", err, "retry_in", every.Round(time.Second).String())
		return fmt.Errorf("fetch subscription %s from %s: %w", name, host, err)
	}
	if changed {
		s.tell()
	}
	return nil
}

// get asks the provider.
func (s *Store) get(ctx context.Context, x *subscription) (download.File, error) {
	s.mu.Lock()
	r := x.record
	s.mu.Unlock()
	dial, err := s.way(r.Via)
	if err != nil {
		return download.File{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return download.Get(ctx, download.NewClient(&http.Client{Transport: s.transport(dial)}), download.Request{
		URL: x.url, UserAgent: r.UserAgent, ETag: r.ETag, LastModified: r.LastModified, Limit: sub.MaxBytes,
	})
}

// way returns how a route connects; nil is the host's own way.
func (s *Store) way(via string) (download.Dial, error) {
	switch {
	case s.route != nil:
		return s.route(via)
	case via == "":
		return nil, nil
	}
	return nil, fmt.Errorf("there is no route %q", via)
}

// take makes an answer the last good content, if it is one.
func (s *Store) take(x *subscription, file download.File) (changed bool, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	next, there := *x, s.subs[x.record.Name] == x
	s.mu.Unlock()
	if !there {
		return false, errRemoved
	}
	r := &next.record
	r.Checked = s.now().UTC().Truncate(time.Second)
	r.heed(file.Header)
	if !file.Unchanged {
		r.ETag, r.LastModified = file.ETag, file.LastModified
		r.Fetched, r.Sum = r.Checked, sumOf(file.Data)
		if err := next.read(file.Data); err != nil {
			return false, err
		}
	}
	if err := s.save(*r, file.Data); err != nil {
		return false, fmt.Errorf("keep it: %w", plain(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = !same(x, &next)
	x.record, x.list, x.filtered, x.refused, x.reasons = *r, next.list, next.filtered, next.refused, next.reasons
	return changed, nil
}

// same reports whether two states of a subscription give the same profiles.
func same(a, b *subscription) bool {
	return a.chosen() == b.chosen() && reflect.DeepEqual(links(a.list), links(b.list))
}

func links(list []Profile) (out []link.Profile) {
	for _, p := range list {
		out = append(out, p.Profile)
	}
	return out
}

// heed reads what providers say in headers: how often to ask, and how much of the
// account is used. What is not said now was not withdrawn.
func (r *record) heed(h http.Header) {
	if hours, err := strconv.Atoi(strings.TrimSpace(h.Get("Profile-Update-Interval"))); err == nil && hours > 0 {
		r.Asked = min(time.Duration(min(hours, 1000))*time.Hour, longestEvery)
	}
	if text := h.Get("Subscription-Userinfo"); text != "" && len(text) <= download.MaxTag {
		r.Usage = parseUsage(text)
	}
}

// parseUsage reads "upload=1; download=2; total=3; expire=4"; what can't be read is
// not said.
func parseUsage(text string) (u Usage) {
	var up, down int64
	for part := range strings.SplitSeq(text, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		f, err := strconv.ParseFloat(strings.TrimSpace(value), 64) // some write 1.5e9
		if err != nil || !(f >= 0 && f < 1<<62) {
			continue
		}
		switch n := int64(f); strings.ToLower(key) {
		case "upload":
			up = n
		case "download":
			down = n
		case "total":
			u.Total = n
		case "expire":
			if n > 0 && n < 1<<36 { // the year 4147
				u.Expires = time.Unix(n, 0).UTC()
			}
		}
	}
	u.Used = up + down
	return u
}

// Mask spells a URL without what can be secret in it, which is all behind the host.
func Mask(u *url.URL) string {
	s := u.Scheme + "://" + u.Host
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		s += "/***"
	}
	return s
}
