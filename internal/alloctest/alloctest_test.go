package alloctest

import "testing"

type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

var sink []byte

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		takes int
		bad   bool
	}{{0, false}, {10 << 20, true}} {
		r := &recorder{TB: t}
		Check(r, 1000, 1<<20, 1<<10, func() { sink = make([]byte, c.takes) })
		if r.failed != c.bad {
			t.Errorf("%d bytes: failed %v", c.takes, r.failed)
		}
	}
}
