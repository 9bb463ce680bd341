package daemon

import (
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/inspector/sniff"
)

const helloPolicy = zoomPolicy + `
  - {name: ads, priority: 200, match: {sni: ads.example.com}, action: {block: reject}}
  - {name: web, priority: 200, match: {http_host: web.example.com}, action: {block: true}}
daemon: {hello: hold}
`

// segment is an IPv4 packet with a TCP header and a payload.
func segment(sport, dport uint16, seq byte, payload string) []byte {
	b := datagram("10.0.0.9", "203.0.113.7", sport, dport)[:24]
	b = append(b, 0, 0, 0, seq, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0)
	b = append(b, payload...)
	b[2], b[3], b[9] = byte(len(b)>>8), byte(len(b)), 6
	return b
}

// TestHello: packets of a request wait for the host, are answered together, and the
// flow table learns it; what does not come is absent when its time is over.
func TestHello(t *testing.T) {
	r, k := consulting(t, helloPolicy)
	plan := r.snap.Load().plan
	if plan.Hello.Via != actions.NFTQueue || len(k.opts) != 1 || !k.opts[0].FailOpen || k.opts[0].Queue != plan.Hello.First {
		t.Fatalf("%+v, %+v", plan.Hello, k.opts)
	}
	ask := func(id uint32, b []byte) nfqueue.Verdict { return k.ask(nfqueue.Packet{ID: id, In: 2, Payload: b}) }
	if v := ask(1, segment(5000, 80, 7, "")); v.Hold || v.Priority != actions.HelloAgain {
		t.Errorf("the handshake: %+v", v)
	}
	if v := ask(2, segment(5000, 80, 7, "GET / HTTP/1.1\r\nHo")); !v.Hold || len(v.Before) != 0 {
		t.Errorf("a part: %+v", v)
	}
	v := ask(3, segment(5000, 80, 25, "st: web.example.com\r\n\r\n"))
	if v.Hold || v.Priority != 2 || len(v.Before) != 1 || v.Before[0] != (nfqueue.Answer{ID: 2, Priority: 2}) {
		t.Errorf("the rest: %+v", v)
	}
	if v := ask(4, segment(5001, 80, 7, "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")); v.Hold || v.Priority != actions.HelloPass {
		t.Errorf("another host: %+v", v)
	}
	if v := ask(5, segment(5002, 80, 7, "GE")); !v.Hold {
		t.Errorf("two bytes: %+v", v)
	}
	var list []nfqueue.Answer
	for more := true; more; time.Sleep(nfqueue.TickEvery) {
		var some []nfqueue.Answer
		some, more = k.opts[0].Tick()
		list = append(list, some...)
	}
	if len(list) != 1 || list[0] != (nfqueue.Answer{ID: 5, Priority: actions.HelloPass}) || r.held.Late.Load() != 1 {
		t.Errorf("after %v: %+v", sniff.HoldTime, list)
	}
	if v := ask(6, []byte("no packet")); v.Hold || v.Drop || v.Priority != 0 {
		t.Errorf("not readable: %+v", v)
	}
	r.sync()
	records := strings.Join(recordsOf(r), "\n")
	for what, n := range map[string]int{`"source":"hello"`: 3, `"rule":"web","action"`: 1, `"http_host":"other.example"`: 1} {
		if got := strings.Count(records, what); got != n {
			t.Errorf("%d records with %s, want %d\n%s", got, what, n, records)
		}
	}
	if s := r.Status(); s.Sources[0].Name != "hello" || s.Sources[0].Error != "" {
		t.Errorf("%+v", s.Sources)
	}
}

// TestHelloMissing: where packets can't be queued the status says so.
func TestHelloMissing(t *testing.T) {
	r := start(t, helloPolicy, nil)
	if s := r.Status(); len(s.Sources) == 0 || s.Sources[0].Name != "hello" || !strings.Contains(s.Sources[0].Error, "watched") {
		t.Errorf("%+v", s.Sources)
	}
}
