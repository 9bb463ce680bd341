package telemetry

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// drops counts what a DecisionLog drops.
type drops struct{ queue, disk atomic.Int64 }

func (d *drops) count(reason string, n int) {
	if reason == DropQueue {
		d.queue.Add(int64(n))
	} else {
		d.disk.Add(int64(n))
	}
}

// run runs a log until the returned function is called.
func runLog(l *DecisionLog) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	return func() { cancel(); <-done }
}

func record(rule string, n int) Record {
	return Record{
		Decision: json.RawMessage(fmt.Sprintf(`{"id":"%d","rule":%q}`, n, rule)), Rule: rule,
		Context: Context{Time: time.Unix(int64(n), 0).UTC(), Flow: json.RawMessage(`{"proto":"tcp"}`)},
	}
}

// TestNobodyWaits: while a record can't be written down, Add returns, and what is too much is counted.
func TestNobodyWaits(t *testing.T) {
	ring, lost := NewRing(16), &drops{}
	l := NewDecisionLog(DecisionOptions{Ring: ring, Log: slog.New(slog.DiscardHandler), Dropped: lost.count})
	stop := runLog(l)
	stuck, free := make(chan struct{}), make(chan struct{})
	first := record("r", 0)
	first.Near = func() json.RawMessage { close(stuck); <-free; return nil }
	l.Add(first)
	<-stuck
	for i := range Queue + 1000 {
		l.Add(record("r", i+1))
	}
	if n := lost.queue.Load(); n != 1000 {
		t.Errorf("%d records dropped, want 1000", n)
	}
	close(free)
	for deadline := time.Now().Add(30 * time.Second); !l.Idle() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	stop()
	if b := ring.Read(0, 100); b.Next != Queue+1 || len(b.Lines) != 16 || b.Missed != Queue+1-16 {
		t.Errorf("the ring is at %d with %d lines, %d missed", b.Next, len(b.Lines), b.Missed)
	}
}

func TestSampling(t *testing.T) {
	dir := t.TempDir()
	segs := NewSegments(dir, 0)
	lost := &drops{}
	l := NewDecisionLog(DecisionOptions{Ring: NewRing(0), Log: slog.New(slog.DiscardHandler), Dropped: lost.count, Segments: segs, Sample: 10})
	stop := runLog(l)
	for i := range 25 {
		l.Add(record("often", i))
	}
	l.Add(record("rare", 100))
	for i := range 3 {
		r := record("blocked", 200+i)
		r.Always = true
		l.Add(r)
	}
	stop()
	var got []string
	for _, line := range segmentLines(t, dir) {
		var r struct {
			ID      string `json:"id"`
			Sampled int    `json:"sampled_1_in"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s/%d", r.ID, r.Sampled))
	}
	want := []string{"0/10", "10/10", "20/10", "100/10", "200/0", "201/0", "202/0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if lost.queue.Load()+lost.disk.Load() > 0 {
		t.Error("records were dropped")
	}
}

// segmentLines returns the lines of all segments of a folder.
func segmentLines(t *testing.T, dir string) (lines []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, segmentPrefix+"*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := io.ReadAll(z)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%s: %v", name, err)
		}
		for line := range strings.Lines(string(b)) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

func TestSegmentsRotateAndGo(t *testing.T) {
	dir := t.TempDir()
	const most = 40 << 10
	s := NewSegments(dir, most)
	if err := os.WriteFile(filepath.Join(dir, "other.txt"), make([]byte, most), 0o600); err != nil {
		t.Fatal(err)
	}
	line := []byte(`{"n":"` + strings.Repeat("x", 64<<10) + `"}`)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 6 * segmentSize / len(line) {
		// The clock goes back in between: names go on.
		if err := s.Append(line, at.Add(-time.Duration(i)*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(names) < 1 || len(names) > 4 {
		t.Errorf("%v, segments %v", err, names)
	}
	var total int64
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if total += info.Size(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if total > most+most/2 {
		t.Errorf("%d bytes, want about %d at most", total, most)
	}
	// What a crash leaves reads as far as it goes.
	if err := s.Append([]byte(`{"last":1}`), at); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	lines := segmentLines(t, dir)
	if last := lines[len(lines)-1]; last != `{"last":1}` {
		t.Errorf("the last line is %.40s", last)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other.txt")); err != nil {
		t.Errorf("a file of others is gone: %v", err)
	}
}

// TestSegmentsOrder: the order of segments is that in which they were written, whatever the clock says, also
// over restarts and after names of another kind; the names do not grow.
func TestSegmentsOrder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"decisions-20310101T000000.000Z-000.ndjson.gz", "decisions-20310101T000000.000Z-000~~.ndjson.gz"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ahead, now := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var want []string
	for i := range 120 {
		s := NewSegments(dir, 3<<20)
		for j, at := range []time.Time{ahead, now.Add(time.Duration(i) * time.Hour)} {
			line := fmt.Sprintf("%d/%d", i, j)
			if err := errors.Join(s.Append([]byte(line), at), s.Close()); err != nil {
				t.Fatal(i, err)
			}
			want = append(want, line)
		}
	}
	// Less room has the first go first.
	s := NewSegments(dir, 1<<10)
	if err := errors.Join(s.Append([]byte("last"), now), s.Close()); err != nil {
		t.Fatal(err)
	}
	want = append(want, "last")
	got := segmentLines(t, dir)
	if n := len(got); n < 10 || n > 100 {
		t.Fatalf("%d lines", n)
	}
	if diff := cmp.Diff(want[len(want)-len(got):], got); diff != "" {
		t.Error(diff)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != len(got) {
		t.Errorf("%v, files %v", err, names)
	}
	if name := filepath.Base(names[len(names)-1]); name != "decisions-0000000241-20260101T000000Z.ndjson.gz" {
		t.Error("the last is", name)
	}
}

// TestBrokenDisk: records that the disk does not take are counted, and it is tried again later.
func TestBrokenDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	s := NewSegments(dir, 0)
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file, where the folder should be
		t.Fatal(err)
	}
	lost := &drops{}
	ring := NewRing(0)
	l := NewDecisionLog(DecisionOptions{Ring: ring, Log: slog.New(slog.DiscardHandler), Dropped: lost.count, Segments: s})
	stop := runLog(l)
	for i := range 5 {
		l.Add(record("r", i))
	}
	stop()
	if lost.disk.Load() != 5 || len(ring.Read(0, 10).Lines) != 5 {
		t.Errorf("%d counted, %d in the ring", lost.disk.Load(), len(ring.Read(0, 10).Lines))
	}
	if err := s.Append([]byte("{}"), time.Now()); !errors.Is(err, errPaused) {
		t.Errorf("the disk is not left alone: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	s.again = time.Time{}
	if err := errors.Join(s.Append([]byte("{}"), time.Now()), s.Close()); err != nil {
		t.Error(err)
	}
}

// TestDiskWorksAgain: it is told that the disk works again without a record to write, and nothing is left of the trial.
func TestDiskWorksAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file, where the folder should be
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		told := make(chan bool, 10)
		l := NewDecisionLog(DecisionOptions{
			Ring: NewRing(0), Log: slog.New(slog.DiscardHandler), Dropped: (&drops{}).count, Segments: NewSegments(dir, 0),
			Broken: func(err error) { told <- err != nil },
		})
		stop := runLog(l)
		l.Add(record("r", 1))
		time.Sleep(2 * pauseAfterError)
		synctest.Wait()
		if len(told) != 2 || <-told || !<-told {
			t.Error("that the disk fails is not told")
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pauseAfterError + 2*flushEvery)
		synctest.Wait()
		if len(told) != 1 || <-told {
			t.Error("that the disk works again is not told")
		}
		stop()
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("%v, left: %v", err, names)
		}
	})
}

// TestNearFault: a fault in finding near misses costs nothing but them, and is logged once.
func TestNearFault(t *testing.T) {
	var out strings.Builder
	ring := NewRing(0)
	l := NewDecisionLog(DecisionOptions{Ring: ring, Log: slog.New(slog.NewTextHandler(&out, nil)), Dropped: (&drops{}).count})
	stop := runLog(l)
	for i := range 3 {
		r := record("r", i)
		r.Near = func() json.RawMessage {
			if i < 2 {
				var none []int
				_ = none[i]
			}
			return json.RawMessage(`["found"]`)
		}
		l.Add(r)
	}
	stop()
	lines := ring.Read(0, 10).Lines
	if len(lines) != 3 || strings.Contains(string(lines[1]), `"near"`) || !strings.Contains(string(lines[2]), `"near":["found"]`) {
		t.Errorf("%q", lines)
	}
	if n := strings.Count(out.String(), "near misses of a decision not found"); n != 1 || !strings.Contains(out.String(), "TestNearFault") {
		t.Errorf("logged %d times: %s", n, out.String())
	}
}

func TestMask(t *testing.T) {
	m := newMask([]string{"name", "src", "dst", "process", "user"})
	r := record("r", 1)
	r.Context.Name, r.Context.Near = "a.example,b.example", json.RawMessage(`[{"failed":"flow: a.example"}]`)
	r.Context.Flow = json.RawMessage(`{"proto":"tcp","src":"10.0.0.5:5000","dst":"[2001:db8::1]:443","sni":"a.example","dns":["a.example","b.example"],` +
		`"process":"firefox","user":null,"rtt_ms":12.5}`)
	m.apply(&r)
	text := string(r.Context.Flow) + r.Context.Name
	for _, secret := range []string{"10.0.0.5", "2001", "firefox", `"a.example`, `,b.`} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is in %s", secret, text)
		}
	}
	for _, kept := range []string{`"proto":"tcp"`, `:5000"`, `]:443"`, `.example"`, `"rtt_ms":12.5`, `"user":null`} {
		if kept == `]:443"` {
			kept = `:443"`
		}
		if !strings.Contains(text, kept) {
			t.Errorf("%s is not in %s", kept, text)
		}
	}
	var facts struct {
		SNI string
		DNS []string
	}
	if err := json.Unmarshal(r.Context.Flow, &facts); err != nil || facts.SNI != facts.DNS[0] || r.Context.Near != nil {
		t.Errorf("%v: equal names differ, or near is there: %s", err, text)
	}
	var hashes []string
	for _, dst := range []string{"[2001:db8::1]:443", "2001:db8::1", "203.0.113.9:443", "203.0.113.9"} {
		r := record("r", 1)
		r.Context.Flow, _ = json.Marshal(map[string]string{"dst": dst})
		m.apply(&r)
		var facts map[string]string
		if err := json.Unmarshal(r.Context.Flow, &facts); err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, facts["dst"])
	}
	if hashes[0] != hashes[1]+":443" || hashes[2] != hashes[3]+":443" || hashes[1] == hashes[3] {
		t.Errorf("addresses with and without a port: %q", hashes)
	}
	broken := record("r", 1)
	broken.Context.Flow = json.RawMessage(`{"src":"10.0.0.5`)
	if m.apply(&broken); broken.Context.Flow != nil {
		t.Error("a flow that can't be read is written down")
	}
	var none *mask
	if none = newMask(nil); none != nil {
		t.Error("a mask of nothing")
	}
}
