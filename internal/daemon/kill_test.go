package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/internal/api"
)

// TestKillStays: what is decided anew does not bring back a connection that was ended by hand.
func TestKillStays(t *testing.T) {
	c, plan := newTestCore(t, zoomPolicy)
	e := event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:22")
	c.event(&e, time.Second, time.Now())
	c.take()
	if err := c.kill(1, time.Second, nil); err != nil {
		t.Fatal(err)
	}
	marks := c.take().setMarks
	if len(marks) != 1 || marks[0].value != plan.BlockMark(true) {
		t.Fatalf("marks %+v, want the one that rejects", marks)
	}
	again := event(t, inspector.Update, "tcp 10.0.0.5:5000 > 203.0.113.7:22 sni=us01.zoom.us")
	c.event(&again, 2*time.Second, time.Now())
	if out := c.take(); len(out.setMarks) != 0 || len(out.records) != 1 {
		t.Errorf("marks %+v after another decision, %d records", out.setMarks, len(out.records))
	}
	if err := c.kill(2, time.Second, nil); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a connection that is none: %v", err)
	}
	c.observe = true
	if err := c.kill(1, time.Second, nil); !errors.Is(err, api.ErrConflict) {
		t.Errorf("while only observing: %v", err)
	}
}

// TestKilledEnds: what has no end of its own, such as UDP, is a new connection after a while; TCP, which would go
// on in the middle, is not.
func TestKilledEnds(t *testing.T) {
	c, _ := newTestCore(t, zoomPolicy)
	for _, text := range []string{"udp 10.0.0.5:51820 > 203.0.113.7:51820", "tcp 10.0.0.5:5000 > 203.0.113.7:22"} {
		e := event(t, inspector.Open, text)
		c.event(&e, time.Second, time.Now())
	}
	for id := range uint64(2) {
		if err := c.kill(id+1, time.Second, nil); err != nil {
			t.Fatal(err)
		}
	}
	if f := c.roster[0].describe(&c.live, time.Now()); !f.Killed {
		t.Error("the list does not say that it was ended")
	}
	c.take()
	c.expire(time.Second + killedLife - 1)
	if out := c.take(); len(out.flush) > 0 || len(out.ended) > 0 {
		t.Errorf("too early: %v", out.flush)
	}
	c.expire(time.Second + killedLife)
	out := c.take()
	if len(out.flush) != 1 || out.flush[0].proto != flow.UDP || len(out.ended) != 1 || out.ended[0].reason != api.EndKilled {
		t.Errorf("the kernel forgets %v, ended %+v", out.flush, out.ended)
	}
	again := event(t, inspector.Open, "udp 10.0.0.5:51820 > 203.0.113.7:51820")
	c.event(&again, time.Minute, time.Now())
	if out := c.take(); len(out.setMarks) > 0 || len(out.records) != 1 || c.flows[mustKey(t, "udp 10.0.0.5:51820 > 203.0.113.7:51820")].killed {
		t.Errorf("a new connection between the same ports: %+v", out)
	}
}

// TestKillOfNothing: what the kernel does not refuse has not been ended.
func TestKillOfNothing(t *testing.T) {
	r := start(t, zoomPolicy, nil)
	r.send(event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:22"))
	r.host.mu.Lock()
	r.host.unmarked = errors.New("no such file or directory")
	r.host.mu.Unlock()
	if err := r.Kill(t.Context(), 1); !errors.Is(err, api.ErrConflict) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	list, err := r.Flows(t.Context(), api.FlowsRequest{Limit: 10})
	if err != nil || len(list.Flows) != 1 || list.Flows[0].Killed {
		t.Errorf("%v, %+v", err, list.Flows)
	}
	r.host.mu.Lock()
	r.host.unmarked = nil
	r.host.mu.Unlock()
	if err := r.Kill(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if list, err := r.Flows(t.Context(), api.FlowsRequest{Limit: 10}); err != nil || len(list.Flows) != 1 || !list.Flows[0].Killed {
		t.Errorf("%v, %+v", err, list.Flows)
	}
}

// TestKillAgain: what was ended before is not ended again, and many connections have few lines in the log.
func TestKillAgain(t *testing.T) {
	const ended = 50
	r := start(t, zoomPolicy, nil)
	for i := range ended {
		r.send(event(t, inspector.Open, fmt.Sprintf("tcp 10.0.0.5:%d > 203.0.113.7:22", 5000+i)))
	}
	marks := func() int {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		return len(r.host.marks)
	}
	before := marks()
	for range 3 {
		for id := range uint64(ended) {
			if err := r.Kill(t.Context(), id+1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := marks() - before; n != ended {
		t.Errorf("%d marks, want %d", n, ended)
	}
	line := regexp.MustCompile(`"msg":"(connection|more connections) ended by hand",("count":(\d+))?`)
	said := func() (lines, connections int) {
		for _, m := range line.FindAllStringSubmatch(r.log.String(), -1) {
			n := 1
			if m[3] != "" {
				n, _ = strconv.Atoi(m[3])
			}
			lines++
			connections += n
		}
		return lines, connections
	}
	until(t, "the log tells of all", func() bool { _, n := said(); return n == ended })
	r.stop()
	if lines, n := said(); n != ended || lines == ended {
		t.Errorf("%d lines about %d connections", lines, n)
	}
}

// TestRelaysOwnSockets: of a connection that goes through the relay the client's is shown, once, and neither of
// the relay's own sockets; what other programs of this host open is.
func TestRelaysOwnSockets(t *testing.T) {
	r := start(t, zoomPolicy+"daemon: {tproxy: [tcp/5001]}\n", nil)
	sockets := func(text string) inspector.Event {
		e := event(t, inspector.Open, text)
		e.Source = socketsName
		return e
	}
	self := filepath.Base(os.Args[0])
	r.send(event(t, inspector.Open, "tcp 10.0.0.5:5000 > 203.0.113.7:5001"))
	r.send(sockets("tcp 203.0.113.7:5001 > 10.0.0.5:5000 process=" + self))
	r.send(sockets("tcp 192.0.2.2:40000 > 203.0.113.7:5001 process=" + self))
	r.send(event(t, inspector.Open, "tcp 192.0.2.2:40000 > 203.0.113.7:5001"))
	r.send(sockets("tcp 192.0.2.2:40001 > 203.0.113.8:443 process=curl"))
	early := "tcp 192.0.2.2:40002 > 203.0.113.9:443"
	r.send(event(t, inspector.Open, early))
	shown := func() string {
		t.Helper()
		list, err := r.Flows(t.Context(), api.FlowsRequest{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range list.Flows {
			var ends struct{ Src, Dst string }
			if err := json.Unmarshal(f.Flow, &ends); err != nil {
				t.Fatal(err)
			}
			out = append(out, ends.Src+" "+ends.Dst)
		}
		slices.Sort(out)
		if list.Total != len(out) {
			t.Errorf("%d in all, %d shown", list.Total, len(out))
		}
		return strings.Join(out, ", ")
	}
	if got := shown(); got != "10.0.0.5:5000 203.0.113.7:5001, 192.0.2.2:40001 203.0.113.8:443" {
		t.Errorf("shown: %s", got)
	}
	if n := r.records.Last(0); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
	if err := r.Kill(t.Context(), 2); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the relay's own socket can be ended: %v", err)
	}
	// The mark says that the table has decided it: it is another program's.
	marked := event(t, inspector.Update, early)
	if err := r.call(t.Context(), func(l *loop) error { marked.Mark, _ = l.plan.CTMark(1); return nil }); err != nil {
		t.Fatal(err)
	}
	r.send(marked)
	if got := shown(); !strings.Contains(got, "192.0.2.2:40002 203.0.113.9:443") || r.records.Last(0) != 3 {
		t.Errorf("shown: %s, %d records", got, r.records.Last(0))
	}
}
