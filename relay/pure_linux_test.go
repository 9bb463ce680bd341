package relay

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var addrEqual = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestHostPort(t *testing.T) {
	for _, c := range []struct {
		in   string
		port uint16
		want string
	}{
		{"example.com:443", 0, "example.com:443"},
		{"192.0.2.1:80", 0, "192.0.2.1:80"},
		{"[2001:db8::1]:80", 0, "[2001:db8::1]:80"},
		{"[2001:db8::1]", 80, "[2001:db8::1]:80"},
		{"example.com", 80, "example.com:80"},
		{"example.com", 0, ""},
		{"example.com:x", 80, ""},
		{"example.com:70000", 80, ""},
		{":80", 80, ""},
		{strings.Repeat("x", 300) + ":80", 0, ""},
	} {
		got := ""
		if to, err := hostPort(c.in, c.port); err == nil {
			got = to.String()
		}
		if got != c.want {
			t.Errorf("hostPort(%q, %d) = %q, want %q", c.in, c.port, got, c.want)
		}
	}
}

func TestInOrder(t *testing.T) {
	parse := func(s string) (list []netip.Addr) {
		for f := range strings.FieldsSeq(s) {
			list = append(list, netip.MustParseAddr(f))
		}
		return list
	}
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"192.0.2.1", "192.0.2.1"},
		{"2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2", "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"},
		{"192.0.2.1 192.0.2.1 ::ffff:192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1"},
		{"10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7 10.0.0.8 10.0.0.9 ::1", "10.0.0.1 ::1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7"},
	} {
		if diff := cmp.Diff(parse(c.want), inOrder(parse(c.in)), addrEqual); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.in, diff)
		}
	}
}

// TestBucket: over any time no more than the rate and the burst pass, and all of
// that for those who wait as they are told.
func TestBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1, 1<<40).Draw(t, "rate")
		burst := rapid.Int64Range(1, 1<<24).Draw(t, "burst")
		b := newBucket(rate, burst, 0)
		var now, passed int64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			want := rapid.Int64Range(1, 1<<20).Draw(t, "want")
			n, wait := b.take(want, now)
			if n > want || n < 0 || n == 0 && wait <= 0 {
				t.Fatalf("take(%d) = %d, %v", want, n, wait)
			}
			unused := rapid.Int64Range(0, n).Draw(t, "unused")
			b.back(unused)
			passed += n - unused
			// A rounding a step, at most a nanosecond's worth.
			if most := float64(burst) + float64(rate)*float64(now+200)/1e9 + 1; float64(passed) > most {
				t.Fatalf("%d bytes passed in %v, at most %.0f may", passed, time.Duration(now), most)
			}
			if n == 0 {
				now += int64(wait)
				if n, _ := b.take(want, now); n == 0 {
					t.Fatalf("nothing after %v, as told", wait)
				} else {
					b.back(n)
				}
			}
			now += rapid.Int64Range(0, int64(time.Hour)).Draw(t, "pause")
		}
	})
}

func TestShaper(t *testing.T) {
	var s shaper
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	get := func(per Per, host netip.Addr) *bucket {
		_, down := s.pair(&Throttle{Name: "x", Down: 1000, Per: per}, host, 0)
		return down
	}
	for _, c := range []struct {
		per         Per
		again, host bool // the same bucket for the same host, for another one
	}{{PerAll, true, true}, {PerHost, true, false}, {PerConn, false, false}} {
		begin := get(c.per, one)
		if again, host := begin == get(c.per, one), begin == get(c.per, two); again != c.again || host != c.host {
			t.Errorf("%d: shared %v with another flow, %v with another host", c.per, again, host)
		}
	}
	if up, _ := s.pair(&Throttle{Down: 1}, one, 0); up != nil {
		t.Error("a limit where there is none")
	}
	for i := range maxBuckets + 10 {
		get(PerHost, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	if len(s.buckets) > maxBuckets || s.order.Len() != len(s.buckets) {
		t.Errorf("%d buckets", len(s.buckets))
	}
}
