package lab

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

func TestLeftBy(t *testing.T) {
	for _, c := range []struct {
		wan1, wan2 uint64
		want       string
	}{
		{70_000, 100, Wan1},
		{100, 70_000, Wan2},
		{65_536, 32_767, Wan1},
		{65_536, 32_768, ""}, // both carried much of it
		{70_000, 70_000, ""},
		{40_000, 0, ""}, // not all of it
		{0, 0, ""},
	} {
		got := Counters{Wan1: {1, c.wan1}, Wan2: {1, c.wan2}}.LeftBy(65_536)
		if got != c.want {
			t.Errorf("wan1 %d, wan2 %d: left by %q, want %q", c.wan1, c.wan2, got, c.want)
		}
	}
	before, after := Counters{Wan1: {3, 1000}}, Counters{Wan1: {5, 71_000}, Wan2: {0, 0}}
	if d := after.Since(before); d[Wan1] != (Counter{2, 70_000}) {
		t.Errorf("Since: %v", d)
	}
}

func TestRecords(t *testing.T) {
	line := func(event, log string) []byte {
		return []byte(`{"rule":null,"action":"route","target":"direct","route":"direct","log":` + log + `,"default":true,"event":"` + event +
			`","flow":{"proto":"tcp","src":"10.77.0.2:20001","dst":"[2001:db8::1]:443","sni":"a.example"}}`)
	}
	d := newDecisions()
	var key tuple
	for i, log := range []string{"false", "true", `"text"`} {
		r, err := ParseRecord(line("open", log))
		if err != nil {
			t.Fatal(err)
		}
		if bool(r.Log) != (i > 0) || ruleName(r) != "default" {
			t.Errorf("log %s: %+v", log, r)
		}
		key, _ = tupleOf(&r.Flow)
		d.add(r)
	}
	if got := key.String(); got != "tcp 10.77.0.2:20001 > [2001:db8::1]:443" {
		t.Error(got)
	}
	two := func(list []Record) bool { return len(list) >= 2 }
	if list := d.wait(t.Context(), key, two); len(list) != 3 {
		t.Errorf("%d records", len(list))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if list := d.wait(ended, tuple{}, two); len(list) != 0 {
		t.Errorf("records of nothing: %v", list)
	}
	if _, err := ParseRecord([]byte(`{"flow":{"proto":"what"}}`)); err == nil {
		t.Error("a flow that can't be read was read")
	}
}

// TestBounds: many records of one connection do not grow without end.
func TestBounds(t *testing.T) {
	d := newDecisions()
	r, err := ParseRecord([]byte(`{"flow":{"proto":"tcp","src":"10.0.0.1:1","dst":"10.0.0.2:2"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 * maxPerTuple {
		d.add(r)
	}
	key, _ := tupleOf(&r.Flow)
	if n := len(d.by[key]); n != maxPerTuple {
		t.Errorf("%d records of one connection", n)
	}
}

func TestPrinter(t *testing.T) {
	var out bytes.Buffer
	p := NewPrinter(&out, true)
	p.line(plain, "connect", "not shown")
	p.line(red, "state", "shown")
	p.result(green, "ok", "two\nlines")
	got := out.String()
	if strings.Contains(got, "not shown") || strings.Contains(got, "\x1b") || !strings.Contains(got, "shown") {
		t.Errorf("%q", got)
	}
	if lines := strings.Split(got, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[2], strings.Repeat(" ", 20)) {
		t.Errorf("%q", got)
	}
}

func TestFaultString(t *testing.T) {
	f := Fault{Delay: 200 * time.Millisecond, Loss: 25_000, Down: true}
	if got := f.String(); got != "delay 200ms loss 2.5% down" {
		t.Error(got)
	}
	if got := (Fault{}).String(); got != "healthy" {
		t.Error(got)
	}
}
