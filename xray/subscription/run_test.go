package subscription

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"netpolicy.dev/netpolicy/internal/download"
	"netpolicy.dev/netpolicy/xray/link"
)

func secretOf(s string) link.Secret { return link.Secret(s) }

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// TestRun: at the interval, after failures sooner and then ever later, and at once
// after a start that has no content.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		fail := false
		open := func() *Store {
			s, err := Open(Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			s.transport = func(download.Dial) http.RoundTripper {
				return roundTrip(func(*http.Request) (*http.Response, error) {
					at = append(at, time.Since(start))
					if fail {
						return nil, io.ErrUnexpectedEOF
					}
					return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(tokyo))}, nil
				})
			}
			return s
		}
		run := func(s *Store, d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		}
		want := func(times ...time.Duration) {
			t.Helper()
			if fmt.Sprint(at) != fmt.Sprint(times) {
				t.Errorf("fetched at %v, want %v", at, times)
			}
			at, start = nil, time.Now()
		}
		s := open()
		if _, err := s.Add(t.Context(), Settings{Name: "a", URL: "http://x.example", Every: 2 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		run(s, 5*time.Hour)
		want(0, 2*time.Hour, 4*time.Hour) // an hour after the last
		fail = true
		run(s, 3*time.Hour+time.Minute)
		want(time.Hour, time.Hour+30*time.Second, time.Hour+90*time.Second, time.Hour+210*time.Second, time.Hour+450*time.Second,
			time.Hour+930*time.Second, time.Hour+1890*time.Second, time.Hour+3810*time.Second)
		fail = false
		s = open()
		run(s, time.Hour)
		want(0) // it is three hours old by now
		// Added while it runs.
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Run(ctx) }()
		synctest.Wait()
		if _, err := s.Add(t.Context(), Settings{Name: "b", URL: "http://y.example", Every: MinEvery}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		cancel()
		<-done
		want(0, 5*time.Minute, 10*time.Minute)
	})
}

// TestSlow: a server that never ends does not hold a fetch for ever, and one that
// can't be had is told.
func TestSlow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Dir: dir, Rand: rand.New(rand.NewPCG(1, 2))})
		if err != nil {
			t.Fatal(err)
		}
		s.transport = func(download.Dial) http.RoundTripper {
			return roundTrip(func(q *http.Request) (*http.Response, error) {
				body, w := io.Pipe()
				go func() {
					for q.Context().Err() == nil {
						time.Sleep(time.Second)
						if _, err := w.Write([]byte("# wait\n")); err != nil {
							return
						}
					}
					w.CloseWithError(q.Context().Err())
				}()
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, ContentLength: -1}, nil
			})
		}
		began := time.Now()
		i, err := s.Add(t.Context(), Settings{Name: "a", URL: "http://x.example"})
		if took := time.Since(began); err != nil || !strings.Contains(i.Problem, "deadline exceeded") || took < fetchTimeout || took > fetchTimeout+2*time.Second {
			t.Errorf("%+v, %v after %v", i, err, took)
		}
		if wait := time.Until(i.Next); wait < firstRetry || wait > firstRetry*9/8 {
			t.Error("next in", wait)
		}
	})
}

// TestClock: a content from the future is asked about at once.
func TestClock(t *testing.T) {
	s := &Store{now: time.Now}
	x := &subscription{record: record{Checked: time.Now().Add(time.Hour)}}
	if s.schedule(x); time.Until(x.next) > 0 {
		t.Error(x.next)
	}
}
