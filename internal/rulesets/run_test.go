package rulesets

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/rules"
)

// background runs a Store in a bubble and notes when each list is asked for.
type background struct {
	*rig
	mu      sync.Mutex
	start   time.Time
	asked   []string
	changed []string
	answer  func(*http.Request) (*http.Response, error)
	log     bytes.Buffer
	rand    *rand.Rand
}

func newBackground(t *testing.T) *background {
	t.Helper()
	b := &background{rig: newRig(t), answer: func(*http.Request) (*http.Response, error) { return answer(200, "a.example\n"), nil }}
	b.client = &http.Client{Transport: roundTrip(func(q *http.Request) (*http.Response, error) {
		b.mu.Lock()
		b.asked = append(b.asked, time.Since(b.start).String()+" "+q.URL.Host)
		f := b.answer
		b.mu.Unlock()
		return f(q)
	})}
	return b
}

// run runs for a while and returns what was asked for.
func (b *background) run(t *testing.T, d time.Duration, wanted ...Wanted) []string {
	t.Helper()
	b.start, b.asked, b.changed = time.Now(), nil, nil
	s := New(Config{
		Cache: b.cache, Policy: b.policy, Client: b.client, Rand: b.rand,
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := s.Run(ctx, wanted, func(w Wanted) { b.changed = append(b.changed, w.Ref.URL) }); err != nil {
		t.Error(err)
	}
	return b.asked
}

func same(t *testing.T, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func want(host string, refresh time.Duration) Wanted {
	return Wanted{Ref: rules.ListRef{URL: "http://" + host, Format: "list", Refresh: refresh}, Type: rules.DomainSet}
}

// TestRun: what is missing is fetched at once, the rest by its age.
func TestRun(t *testing.T) {
	b := newBackground(t)
	synctest.Test(t, func(t *testing.T) {
		a := want("a", time.Hour)
		same(t, []string{"0s a", "1h0m0s a", "2h0m0s a"}, b.run(t, 150*time.Minute, a))
		same(t, []string{"http://a"}, b.changed)
		same(t, []string{"30m0s a"}, b.run(t, time.Hour, a)) // half an hour after the last
		same(t, nil, b.changed)
		same(t, nil, b.run(t, 20*time.Hour, want("a", 0))) // a day unless said
		same(t, []string{"0s a", "1m0s a"}, b.run(t, 90*time.Second, want("a", time.Second)))

		b.answer = func(*http.Request) (*http.Response, error) { return answer(200, "b.example\n"), nil }
		same(t, []string{"30s a"}, b.run(t, time.Minute, want("a", time.Minute)))
		same(t, []string{"http://a"}, b.changed)
		b.load(a.Ref, "b.example")

		b.write("ads.txt", "a.example\n")
		same(t, nil, b.run(t, time.Hour, Wanted{Ref: file("ads.txt")}))
		same(t, nil, b.run(t, time.Hour, Wanted{Ref: rules.ListRef{URL: "ftp://x", Format: "list"}}))
		if !strings.Contains(b.log.String(), `level=ERROR msg="list can't be fetched" error="the URL of a list is one of http or https"`) {
			t.Errorf("log:\n%s", b.log.String())
		}
	})
}

// TestBackoff: failures double the wait up to the interval, and the copy stays.
func TestBackoff(t *testing.T) {
	b := newBackground(t)
	synctest.Test(t, func(t *testing.T) {
		a := want("a", 5*time.Minute)
		good := b.answer
		b.answer = func(*http.Request) (*http.Response, error) { return nil, errors.New("no route to host") }
		same(t, []string{"0s a", "30s a", "1m30s a", "3m30s a", "7m30s a", "12m30s a", "17m30s a"}, b.run(t, 20*time.Minute, a))
		same(t, nil, b.changed)
		if !strings.Contains(b.log.String(), `level=WARN msg="list not fetched" list=http://a error="no route to host" retry_in=30s`) {
			t.Errorf("log:\n%s", b.log.String())
		}
		b.answer = good
		b.run(t, time.Minute, a)
		b.load(a.Ref, "a.example")
		fails := 0
		b.answer = func(q *http.Request) (*http.Response, error) {
			if fails++; fails == 3 {
				return answer(200, "b.example\n"), nil
			}
			return answer(500, ""), nil
		}
		// It starts again from 30 s after a success.
		same(t, []string{"4m0s a", "4m30s a", "5m30s a", "10m30s a", "11m0s a"}, b.run(t, 11*time.Minute+time.Second, a))
		b.load(a.Ref, "b.example")
	})
}

// TestJitter: waits grow by up to an eighth, by chance that is handed in.
func TestJitter(t *testing.T) {
	times := func(seed uint64) []string {
		b := newBackground(t)
		b.rand = rand.New(rand.NewPCG(seed, 1))
		synctest.Test(t, func(t *testing.T) { b.run(t, 100*time.Hour, want("a", time.Hour)) })
		return b.asked
	}
	one := times(1)
	same(t, one, times(1))
	if two := times(2); slices.Equal(one, two) {
		t.Error("another seed gives the same times")
	}
	last := time.Duration(0)
	for i, s := range one {
		d, err := time.ParseDuration(strings.TrimSuffix(s, " a"))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && (d-last < time.Hour || d-last > time.Hour+time.Hour/8) {
			t.Errorf("%d: after %v", i, d-last)
		}
		last = d
	}
	if len(one) < 88 || len(one) > 99 {
		t.Errorf("%d fetches", len(one))
	}
}

// TestPinned: what has the checksum that is expected is not fetched again.
func TestPinned(t *testing.T) {
	b := newBackground(t)
	synctest.Test(t, func(t *testing.T) {
		a := want("a", time.Hour)
		a.Ref.SHA256 = sumOf([]byte("a.example\n"))
		same(t, []string{"0s a"}, b.run(t, 100*time.Hour, a))
		same(t, nil, b.run(t, 100*time.Hour, a))
		a.Ref.SHA256 = sumOf([]byte("b.example\n"))
		same(t, []string{"0s a", "30s a"}, b.run(t, time.Minute, a))
	})
}

// TestShared: sets that want the same list share its fetches, and all are told.
func TestShared(t *testing.T) {
	b := newBackground(t)
	synctest.Test(t, func(t *testing.T) {
		fails := want("a", time.Hour)
		fails.Ref.OnError = rules.ListFail
		same(t, []string{"0s a", "1h0m0s a"}, b.run(t, 90*time.Minute, want("a", 2*time.Hour), fails))
		same(t, []string{"http://a", "http://a"}, b.changed)
	})
}

// TestClock: a copy from the future is fetched again at once; routers begin in 1970.
func TestClock(t *testing.T) {
	b := newBackground(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(1000 * time.Hour)
		b.run(t, time.Minute, want("a", time.Hour))
	})
	synctest.Test(t, func(t *testing.T) { // begins in 2000 again
		b.load(want("a", 0).Ref, "a.example")
		same(t, []string{"0s a", "1h0m0s a"}, b.run(t, 90*time.Minute, want("a", time.Hour)))
	})
}

// TestAtOnce: only so many lists are fetched at a time, and the end of the
// context ends them all.
func TestAtOnce(t *testing.T) {
	b := newBackground(t)
	var wanted []Wanted
	for _, host := range strings.Fields("a b c d e f g h i j") {
		wanted = append(wanted, want(host, 0))
	}
	var now, most int
	slow := func(d time.Duration) func(*http.Request) (*http.Response, error) {
		return func(q *http.Request) (*http.Response, error) {
			b.mu.Lock()
			now++
			most = max(most, now)
			b.mu.Unlock()
			defer func() { b.mu.Lock(); now--; b.mu.Unlock() }()
			select {
			case <-time.After(d):
				return answer(200, "a.example\n"), nil
			case <-q.Context().Done():
				return nil, q.Context().Err()
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b.answer = slow(time.Minute)
		if b.run(t, time.Hour, wanted...); most != maxFetches || len(b.changed) != len(wanted) || len(b.asked) != len(wanted) {
			t.Errorf("%d at a time, %d changed, %d asked", most, len(b.changed), len(b.asked))
		}
	})
	b.cache += "2"
	synctest.Test(t, func(t *testing.T) {
		b.answer = slow(5 * time.Minute)
		b.log.Reset()
		start := time.Now()
		b.run(t, time.Minute, wanted...)
		if took := time.Since(start); took != time.Minute || now != 0 || len(b.changed) != 0 || b.log.Len() != 0 {
			t.Errorf("took %v, %d still fetching, %d changed, log:\n%s", took, now, len(b.changed), b.log.String())
		}
	})
}
