package daemon

import (
	"context"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/nfqueue"
	"netpolicy.dev/netpolicy/state"
)

// kernelQueue is a kernel that asks.
type kernelQueue struct {
	mu     sync.Mutex
	opts   []nfqueue.Options
	answer func(*nfqueue.Packet, *nfqueue.Verdict)
	open   chan struct{} // one value for each that was opened
	fail   error         // what opening the next one answers
}

func (k *kernelQueue) serve(ctx context.Context, opt nfqueue.Options, answer func(*nfqueue.Packet, *nfqueue.Verdict)) error {
	k.mu.Lock()
	fail := k.fail
	k.fail = nil
	k.opts, k.answer = append(k.opts, opt), answer
	k.mu.Unlock()
	k.open <- struct{}{}
	if fail == nil {
		<-ctx.Done()
	}
	return fail
}

// ask asks about a packet; nobody else does at that time.
func (k *kernelQueue) ask(p nfqueue.Packet) (v nfqueue.Verdict) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answer(&p, &v)
	return v
}

// datagram is an IPv4 packet with a UDP header.
func datagram(src, dst string, sport, dport uint16) []byte {
	b := make([]byte, 28)
	b[0], b[3], b[8], b[9] = 0x45, 28, 64, 17
	copy(b[12:], netip.MustParseAddr(src).AsSlice())
	copy(b[16:], netip.MustParseAddr(dst).AsSlice())
	b[20], b[21], b[22], b[23], b[25] = byte(sport>>8), byte(sport), byte(dport>>8), byte(dport), 8
	return b
}

// consulting starts a daemon that is asked.
func consulting(t *testing.T, text string) (*rig, *kernelQueue) {
	k := &kernelQueue{open: make(chan struct{}, 16)}
	r := start(t, text, func(_ *Options, p *Parts) {
		p.Queue = k.serve
		h, _ := p.Host.(*fakeHost)
		h.host.Queue, h.host.CPUs = actions.NFTQueue, 1
		h.host.Users = map[string]uint32{"root": 0, "toor": 0, "alice": 1000}
	})
	<-k.open
	return r, k
}

const askPolicy = zoomPolicy + `
  - {name: lan, priority: 70, match: {iface_in: eth0, port: 8080}, action: {route: backup, dscp: 46}}
  - {name: alice, priority: 60, match: {user: alice}, action: {route: backup}}
  - {name: loud, priority: 50, match: {port: 23}, action: {block: true, log: true}}
  - {name: silent, priority: 50, match: {port: 24}, action: {block: reject}}
  - {name: shut, priority: 50, match: {port: 25}, action: {block: true}}
daemon: {enforce: consult}
`

func recordsOf(r *rig) (list []string) {
	for _, l := range r.records.Read(0, 100).Lines {
		list = append(list, string(l))
	}
	return list
}

func TestConsult(t *testing.T) {
	r, k := consulting(t, askPolicy)
	plan := r.snap.Load().plan
	if plan.Consult.Via != actions.NFTQueue || len(k.opts) != 1 || !k.opts[0].FailOpen || k.opts[0].Queue != plan.Consult.First {
		t.Fatalf("%+v, %+v", plan.Consult, k.opts)
	}
	code := func(route string) uint32 { return plan.IDs.Routes[route] }
	for i, c := range []struct {
		name string
		in   uint32
		uid  int
		port uint16
		want nfqueue.Verdict
	}{
		{"the default", 2, -1, 53, nfqueue.Verdict{Priority: code("direct")}},
		{"by port", 2, -1, 22, nfqueue.Verdict{Priority: code("fast")}},
		{"by interface, with dscp", 2, -1, 8080, nfqueue.Verdict{Priority: code("backup") | 1<<14}},
		{"by another interface", 3, -1, 8080, nfqueue.Verdict{Priority: code("direct")}},
		{"a user's", 0, 1000, 9, nfqueue.Verdict{Priority: code("backup")}},
		{"another user's", 0, 0, 9, nfqueue.Verdict{Priority: code("direct")}},
		{"a user's without a name", 0, 4242, 9, nfqueue.Verdict{Priority: code("direct")}},
		{"dropped with a log", 2, -1, 23, nfqueue.Verdict{Drop: true}},
		{"rejected", 2, -1, 24, nfqueue.Verdict{Priority: 1}},
		{"dropped", 2, -1, 25, nfqueue.Verdict{Drop: true}},
	} {
		p := nfqueue.Packet{In: c.in, UID: uint32(c.uid), HasUID: c.uid >= 0, Payload: datagram("10.0.0.9", "203.0.113.7", 5000+uint16(i), c.port)}
		if got := k.ask(p); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	if got := k.ask(nfqueue.Packet{In: 2, Payload: []byte("no packet")}); !reflect.DeepEqual(got, nfqueue.Verdict{}) {
		t.Errorf("not readable: %+v, want nothing", got)
	}
	r.sync()
	records := strings.Join(recordsOf(r), "\n")
	for what, n := range map[string]int{`"source":"consult"`: 8, `"event":"logged"`: 1, `"rule":"loud","action"`: 1, `"rule":"silent","action"`: 0, `"rule":"shut","action"`: 0} {
		if got := strings.Count(records, what); got != n {
			t.Errorf("%d records with %s, want %d\n%s", got, what, n, records)
		}
	}
	if s := r.Status(); s.Sources[0].Name != "consult" || s.Sources[0].Error != "" {
		t.Errorf("%+v", s.Sources)
	}
}

// TestConsultNames: a name that was just resolved counts for the next packet, and
// until it runs out.
func TestConsultNames(t *testing.T) {
	r, k := consulting(t, askPolicy)
	p := nfqueue.Packet{In: 2, Payload: datagram("10.0.0.9", "203.0.113.50", 5000, 443)}
	before := k.ask(p)
	r.send(inspector.Event{Kind: inspector.Answered, Answer: inspector.Answer{
		Name: "us01.zoom.us", Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.50")}, TTL: time.Minute,
	}})
	if got := k.ask(p); reflect.DeepEqual(got, before) {
		t.Errorf("the name does not count: %+v", got)
	}
	now := time.Now()
	if n := r.hints.names(netip.MustParseAddr("203.0.113.50"), now.Add(2*inspector.MinTTL)); !n.Empty() {
		t.Errorf("the name outlives its answer: %v", n)
	}
	err := r.call(t.Context(), func(l *loop) error {
		r.hints.sweep(l.core.names, now.Add(2*inspector.MinTTL))
		return nil
	})
	if _, ok := r.hints.byAddr.Load(netip.MustParseAddr("203.0.113.50")); ok || err != nil {
		t.Errorf("still held, or %v", err)
	}
}

// TestConsultReload: asking begins and ends with the policy, and follows its state.
func TestConsultReload(t *testing.T) {
	r, k := consulting(t, askPolicy)
	p := nfqueue.Packet{In: 2, Payload: datagram("10.0.0.9", "203.0.113.7", 5000, 53)}
	first := k.ask(p)
	reload := func(text string) {
		t.Helper()
		r.write(text)
		if res, err := r.Reload(t.Context()); err != nil || res.Error != "" {
			t.Fatal(res, err)
		}
		r.sync()
	}
	reload(strings.Replace(askPolicy, "default: {route: direct}", "default: {route: fast}", 1))
	if got := k.ask(p); reflect.DeepEqual(got, first) {
		t.Errorf("the new default does not count: %+v", got)
	}
	reload(strings.Replace(askPolicy, "enforce: consult", "enforce: static", 1))
	if s := r.Status(); s.Sources[0].Name == "consult" {
		t.Errorf("still asked: %+v", s.Sources)
	}
	k.fail = context.DeadlineExceeded
	reload(strings.Replace(askPolicy, "enforce: consult", "enforce: consult, on_crash: closed", 1))
	<-k.open
	<-k.open // and again after the failure
	k.mu.Lock()
	defer k.mu.Unlock()
	if last := k.opts[len(k.opts)-1]; last.FailOpen || len(k.opts) != 3 {
		t.Errorf("%+v", k.opts)
	}
	if !strings.Contains(r.log.String(), "first packets are decided by the kernel's table") {
		t.Error("the failure is not in the log")
	}
}

// TestAnswerAllocations: a packet that is not recorded costs no memory, one that is
// only its event.
func TestAnswerAllocations(t *testing.T) {
	r, _ := consulting(t, askPolicy)
	a := answerer{d: r.Daemon}
	p := nfqueue.Packet{In: 2, Payload: datagram("10.0.0.9", "203.0.113.7", 5000, 25)}
	if n := testing.AllocsPerRun(1000, func() { var v nfqueue.Verdict; a.answer(&p, &v) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkAnswer is what one core needs for an answer, without the kernel's part:
// of a flow that goes to the loop as an event, and of one that is not recorded.
func BenchmarkAnswer(b *testing.B) {
	p := mustLoad(b, askPolicy)
	w := engine.OfflineWorld(p, state.Normal)
	host := testHost
	host.Queue = actions.NFTQueue
	plan, diags := actions.PlanFor(engine.Compile(p), host, w, nil)
	if plan == nil {
		b.Fatal(diags)
	}
	d := New(Options{}, Parts{})
	d.snap.Store(&snapshot{live: live{policy: p, prog: plan.Program(), world: w, marks: marksOf(plan, p)}, plan: exported(plan), host: &host})
	for name, port := range map[string]uint16{"recorded": 22, "dropped": 25} {
		b.Run(name, func(b *testing.B) {
			a := answerer{d: d}
			q := nfqueue.Packet{In: 2, Payload: datagram("10.0.0.9", "203.0.113.7", 5000, port)}
			b.ReportAllocs()
			for b.Loop() {
				var v nfqueue.Verdict
				a.answer(&q, &v)
				select {
				case <-d.events:
				default:
				}
			}
		})
	}
}
