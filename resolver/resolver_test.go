package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"netpolicy.dev/netpolicy/rules/yaml"
)

// TestTransports asks over each transport, from a client over UDP and TCP.
func TestTransports(t *testing.T) {
	for _, scheme := range []string{"udp", "tcp", "tls", "https"} {
		t.Run(scheme, func(t *testing.T) {
			s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
			r, addr := start(t, Config{Upstreams: []Upstream{s.upstream(scheme)}})
			for i := range 20 {
				name := fmt.Sprintf("n%d.Example.", i)
				m := askUDP(t, addr, question(t, name, dnsmessage.TypeA, 1232))
				if addresses(m) != "192.0.2.7" || m.ID != 0x1234 || !m.RecursionAvailable || m.Questions[0].Name.String() != name {
					t.Fatalf("%s: got %+v", name, m)
				}
			}
			if m := askTCP(t, addr, question(t, "n1.example.", dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" || len(m.Additionals) != 0 {
				t.Errorf("over TCP, without EDNS: %+v", m)
			}
			if n := s.asked.Load(); n != 20 {
				t.Errorf("the upstream got %d questions, want 20", n)
			}
			if got := r.Counters().Cached.Load(); got != 1 {
				t.Errorf("cached: %d", got)
			}
			if s.notHTTP2.Load() > 0 || scheme != "udp" && scheme != "https" && s.conns.Load() != 1 {
				t.Errorf("%d not over HTTP/2, %d connections", s.notHTTP2.Load(), s.conns.Load())
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			slices.Sort(s.ids)
			if n := len(slices.Compact(s.ids)); scheme != "https" && n < 18 {
				t.Errorf("%d different IDs of 20: they can be guessed", n)
			}
			ports := map[uint16]bool{}
			for _, f := range s.from {
				ports[f.Port()] = true
			}
			if scheme == "udp" && len(ports) < 15 {
				t.Errorf("%d different ports of 20", len(ports))
			}
			if s.lastEDNS.Class != maxPayload || s.lastOptions != 0 || strings.ToLower(s.names[0]) != s.names[0] {
				t.Errorf("the upstream is told %+v, %d options, %q", s.lastEDNS, s.lastOptions, s.names[0])
			}
		})
	}
}

// TestTLSNames: a certificate of another name, or of nobody known, is no upstream.
func TestTLSNames(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	for _, u := range []Upstream{
		{URL: "tls://" + s.tls.String() + "#other.example", Roots: s.roots},
		{URL: "tls://" + s.tls.String(), Roots: s.roots},
		{URL: "tls://" + s.tls.String() + "#" + serverName},
		{URL: "https://other.example:" + portOf(s.https) + "/", Bootstrap: []netip.Addr{s.https.Addr()}, Roots: s.roots},
	} {
		r, addr := start(t, Config{Upstreams: []Upstream{u}})
		if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 0)); m.RCode != dnsmessage.RCodeServerFailure {
			t.Errorf("%s: %v", u.URL, m.RCode)
		}
		if r.Counters().Failed.Load() != 1 || s.asked.Load() != 0 {
			t.Errorf("%s: failed %d, asked %d", u.URL, r.Counters().Failed.Load(), s.asked.Load())
		}
	}
}

// TestLearnsFirst: whoever gets an address, gets it after it was learned: the one
// who asked, those who asked the same meanwhile, and those who get it from the cache.
func TestLearnsFirst(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	var learned recorder
	r, addr := start(t, Config{
		Upstreams: []Upstream{s.upstream("udp")},
		Learn: func(ctx context.Context, a Answer) error {
			time.Sleep(20 * time.Millisecond) // a slow kernel
			return learned.learn(ctx, a)
		},
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			m := askUDP(t, addr, question(t, "api.Zoom.us.", dnsmessage.TypeA, 1232))
			if len(learned.learned()) == 0 || addresses(m) != "192.0.2.7" {
				t.Errorf("answered before it was learned: %s", addresses(m))
			}
		})
	}
	all.Wait()
	list := learned.learned()
	if late := r.Counters().LateLearns.Load(); len(list) != 1 && late == 0 { // what was late is learned again
		t.Fatalf("learned %+v", list)
	}
	if got := list[0]; got.Name != "api.zoom.us" || fmt.Sprint(got.Addrs) != "[192.0.2.7]" || got.TTL < 300*time.Second || got.TTL > 331*time.Second {
		t.Errorf("learned %+v", got)
	}
}

// TestLateLearn: a Learn that is late or fails delays an answer, and is tried again
// with the next.
func TestLateLearn(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	var calls atomic.Int64
	r, addr := start(t, Config{
		Upstreams: []Upstream{s.upstream("udp")},
		Learn: func(ctx context.Context, a Answer) error {
			switch calls.Add(1) {
			case 1:
				<-ctx.Done()
				return ctx.Err()
			case 2:
				return errors.New("no kernel")
			}
			return nil
		},
	})
	for range 5 {
		if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" {
			t.Fatalf("got %+v", m)
		}
	}
	// On a machine that stops for a while the third may be late, too.
	if c, late := r.Counters(), r.Counters().LateLearns.Load(); late < 2 || calls.Load() != min(int64(late)+1, 5) || c.Cached.Load() != 4 {
		t.Errorf("learned %d times, late %d, cached %d", calls.Load(), late, c.Cached.Load())
	}
}

// TestTruncation: what does not fit into UDP comes over TCP, on both sides.
func TestTruncation(t *testing.T) {
	s := serve(t, "127.0.0.1", func(proto string, m dnsmessage.Message) *dnsmessage.Message {
		r := replyTo(m)
		if proto == "udp" {
			r.Truncated = true
			return r
		}
		for i := range 3000 {
			r.Answers = append(r.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{10, 1, byte(i >> 8), byte(i)}},
			})
		}
		return r
	})
	r, addr := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}})
	m := askUDP(t, addr, question(t, "big.example.", dnsmessage.TypeA, 4096))
	if !m.Truncated || len(m.Answers) != 0 || len(m.Additionals) != 1 {
		t.Errorf("over UDP: truncated %v, %d answers", m.Truncated, len(m.Answers))
	}
	m = askTCP(t, addr, question(t, "big.example.", dnsmessage.TypeA, 0))
	if m.Truncated || len(m.Answers) != 3000 {
		t.Errorf("over TCP: truncated %v, %d answers", m.Truncated, len(m.Answers))
	}
	if r.Counters().Truncated.Load() != 1 || s.overTCP.Load() != 2 { // too long for the cache
		t.Errorf("truncated %d, over TCP %d", r.Counters().Truncated.Load(), s.overTCP.Load())
	}
}

// TestFailover: an upstream that says nothing, that refuses, or that is not there,
// is followed by the next, and asked last for a while.
func TestFailover(t *testing.T) {
	mute := serve(t, "127.0.0.1", func(string, dnsmessage.Message) *dnsmessage.Message { return nil })
	sick := serve(t, "127.0.0.1", func(_ string, m dnsmessage.Message) *dnsmessage.Message {
		r := replyTo(m)
		r.RCode = dnsmessage.RCodeServerFailure
		return r
	})
	good := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	for _, first := range []Upstream{mute.upstream("udp"), mute.upstream("tls"), mute.upstream("https"), sick.upstream("udp"), {URL: "tcp://127.0.0.1:1"}, {URL: "udp://127.0.0.1:1"}} {
		t.Run(first.URL, func(t *testing.T) {
			t.Parallel()
			r, addr := start(t, Config{Upstreams: []Upstream{first, good.upstream("udp")}})
			for i := range 5 {
				if m := askUDP(t, addr, question(t, fmt.Sprintf("n%d.example.", i), dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" {
					t.Fatalf("got %+v", m)
				}
			}
			want := uint64(1)
			if first.URL == sick.upstream("udp").URL {
				want = 5 // it does reply
			}
			if got := r.Counters().UpstreamErrors.Load(); got != want {
				t.Errorf("%d attempts failed, want %d", got, want)
			}
		})
	}
}

// TestBlocked shows both answers for blocked names, and what else is refused here.
func TestBlocked(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	choose := func(name string, _ uint16, _ netip.Addr) Choice { return Choice{Blocked: name == "ads.example"} }
	for _, how := range []BlockedAnswer{NXDomain, ZeroAddress} {
		r, addr := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}, Choose: choose, Blocked: how})
		a := askUDP(t, addr, question(t, "ADS.example.", dnsmessage.TypeA, 1232))
		aaaa := askUDP(t, addr, question(t, "ads.example.", dnsmessage.TypeAAAA, 0))
		txt := askTCP(t, addr, question(t, "ads.example.", dnsmessage.TypeTXT, 1232))
		if how == NXDomain {
			opt := a.Additionals[0].Body.(*dnsmessage.OPTResource).Options
			if a.RCode != dnsmessage.RCodeNameError || len(a.Authorities) != 1 || len(opt) != 1 || opt[0].Code != extendedErrorOpt || !bytes.Equal(opt[0].Data, []byte{0, edeBlocked}) {
				t.Errorf("blocked: %+v", a)
			}
		} else if addresses(a) != "0.0.0.0" || addresses(aaaa) != "::" || txt.RCode != 0 || len(txt.Authorities) != 1 {
			t.Errorf("blocked with zeroes: %+v\n%+v\n%+v", a, aaaa, txt)
		}
		if askUDP(t, addr, question(t, "example.", dnsmessage.TypeA, 0)); r.Counters().Blocked.Load() != 3 || s.overUDP.Load() == 0 {
			t.Errorf("blocked %d", r.Counters().Blocked.Load())
		}
	}
	r, addr := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}})
	for _, qtype := range []dnsmessage.Type{dnsmessage.TypeALL, dnsmessage.TypeAXFR, 251, 249} {
		if m := askTCP(t, addr, question(t, "example.", qtype, 0)); m.RCode != dnsmessage.RCodeRefused {
			t.Errorf("type %v: %v", qtype, m.RCode)
		}
	}
	if got := r.Counters().Refused.Load(); got != 4 {
		t.Errorf("refused %d", got)
	}
}

// TestNoEDNS asks an upstream that does not know EDNS once more without it.
func TestNoEDNS(t *testing.T) {
	s := serve(t, "127.0.0.1", func(_ string, m dnsmessage.Message) *dnsmessage.Message {
		if len(m.Additionals) > 0 {
			return &dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RCode: dnsmessage.RCodeFormatError}}
		}
		return addressed(300, "192.0.2.7")("", m)
	})
	_, addr := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}})
	if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 1232)); addresses(m) != "192.0.2.7" {
		t.Errorf("got %+v", m)
	}
}

// TestMismatched: replies to other questions are not taken, and who sends many
// makes the question go over TCP.
func TestMismatched(t *testing.T) {
	both, err := bind(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer both.close()
	pc, l := both.udp, both.tcp
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	s.serving.Go(func() { s.accept(l, "tcp") })
	s.serving.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for i := range maxMismatched {
				fake := append([]byte(nil), buf[:n]...)
				fake[2] |= 0x80
				switch i % 3 {
				case 0:
					fake[0]++ // the ID
				case 1:
					fake[headerLen+1]++ // the name
				case 2:
					fake[2] &= 0x7f // a question
				}
				_, _ = pc.WriteTo(fake, from)
			}
		}
	})
	r, addr := start(t, Config{Upstreams: []Upstream{{URL: "udp://" + pc.LocalAddr().String()}}})
	if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" {
		t.Errorf("got %+v", m)
	}
	if got := r.Counters().Mismatched.Load(); got != maxMismatched || s.overTCP.Load() != 1 {
		t.Errorf("mismatched %d, over TCP %d", got, s.overTCP.Load())
	}
	_ = pc.Close()
}

// TestLoop: our question that comes back to us is noticed, as when an upstream is an
// address of this machine.
func TestLoop(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := addrPort(free.LocalAddr())
	_ = free.Close()
	r, _ := start(t, Config{
		Listen:    []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())},
		Upstreams: []Upstream{{URL: "udp://" + addr.String()}, s.upstream("udp")},
	})
	if m := askUDP(t, addr, question(t, "a.example.", dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" {
		t.Errorf("got %+v", m)
	}
	if got := r.Counters().Looped.Load(); got != 1 {
		t.Errorf("looped %d", got)
	}
	if _, err := New(Config{Listen: []netip.AddrPort{addr}, Upstreams: []Upstream{{URL: "tcp://" + addr.String()}}}); err == nil {
		t.Error("we are our own upstream, and it was taken")
	}
}

// TestHostile sends what is no question, fast, while a client asks. The client is
// served, and the counters tell of the rest.
func TestHostile(t *testing.T) {
	s := serve(t, "127.0.0.1", addressed(300, "192.0.2.7"))
	r, addr := start(t, Config{Upstreams: []Upstream{s.upstream("udp")}})
	c, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const sent = 30000
	good := question(t, "a.example.", dnsmessage.TypeA, 1232)
	bad := [][]byte{
		{},
		{1},
		good[:11], good[:20], append(slices.Clone(good), 0), bytes.Repeat([]byte{0xff}, 600), bytes.Repeat([]byte{0xc0}, 40),
		func() []byte { b := slices.Clone(good); b[5] = 2; return b }(),
		func() []byte { b := slices.Clone(good); b[7] = 1; return b }(),
		func() []byte { b := slices.Clone(good); b[2] |= 0x80; return b }(),
		func() []byte { b := slices.Clone(good); b[headerLen] = 0xc0; return b }(),
	}
	var asking sync.WaitGroup
	asking.Go(func() {
		for i := range sent {
			_, _ = c.Write(bad[i%len(bad)])
			if i%64 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	for i := range 50 {
		if m := askUDP(t, addr, question(t, fmt.Sprintf("n%d.example.", i), dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" {
			t.Fatalf("got %+v", m)
		}
	}
	asking.Wait()
	if got := r.Counters().Malformed.Load(); got < sent/4 {
		t.Errorf("malformed %d of %d sent", got, sent)
	} else {
		t.Logf("%d malformed counted of %d sent", got, sent)
	}
	if s.asked.Load() != 50 {
		t.Errorf("the upstream got %d questions", s.asked.Load())
	}
}

// TestBounds: more questions than may wait, of one client, are dropped and counted;
// and a client has only so many connections.
func TestBounds(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, "127.0.0.1", func(_ string, m dnsmessage.Message) *dnsmessage.Message {
		<-release
		return addressed(300, "192.0.2.7")("", m)
	})
	r, addr := start(t, Config{Upstreams: []Upstream{s.upstream("tcp")}})
	c, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for range 60_000 {
			if ok() {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatal("never: ", what)
	}
	for i := range maxQueriesPerClient + 20 {
		_, _ = c.Write(question(t, fmt.Sprintf("n%d.example.", i), dnsmessage.TypeA, 0))
		wait("taken", func() bool { return r.Counters().Queries.Load() == uint64(i+1) })
	}
	wait("dropped", func() bool { return r.Counters().Dropped.Load() == 20 })
	close(release)
	var conns []net.Conn
	for range maxConnsPerClient + 3 {
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	wait("connections dropped", func() bool { return r.Counters().Dropped.Load() == 23 })
	for _, conn := range conns {
		_ = conn.Close()
	}
}

func TestNew(t *testing.T) {
	listen := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	for _, u := range []Upstream{
		{URL: "192.0.2.1"},
		{URL: "ftp://192.0.2.1"},
		{URL: "udp://dns.example"},
		{URL: "tls://dns.example"},
		{URL: "udp://192.0.2.1/x"},
		{URL: "udp://192.0.2.1#x"},
		{URL: "tls://192.0.2.1:0"},
		{URL: "tls://192.0.2.1:70000"},
		{URL: "https://u:p@192.0.2.1/"},
		{URL: "tls://"},
		{URL: "udp://127.0.0.1"},
		{URL: "%"},
	} {
		if _, err := New(Config{Listen: listen, Upstreams: []Upstream{u}}); err == nil {
			t.Errorf("%q was taken", u.URL)
		} else {
			t.Log(err)
		}
	}
}

// TestClosingUpstream: an upstream that closes each connection after an answer, as
// some do when idle, loses no question.
func TestClosingUpstream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer l.Close()
	s := &fakeServer{answer: addressed(300, "192.0.2.7")}
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if msg, err := readFrame(c, maxTCP); err == nil {
				r := s.reply("tcp", msg, netip.AddrPort{})
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
			}
			_ = c.Close()
		}
	})
	r, addr := start(t, Config{Upstreams: []Upstream{{URL: "tcp://" + l.Addr().String()}}})
	for i := range 50 {
		if m := askUDP(t, addr, question(t, fmt.Sprintf("n%d.example.", i), dnsmessage.TypeA, 0)); addresses(m) != "192.0.2.7" {
			t.Fatalf("question %d: %+v; %d attempts failed", i, m, r.Counters().UpstreamErrors.Load())
		}
	}
}

// TestPolicy: what rules takes for an upstream is one here.
func TestPolicy(t *testing.T) {
	p, diags := yaml.Load("f", []byte(`
routes: {a: {via: main}}
daemon:
  dns_listen: [10.0.0.1:53, "[2001:db8::1]:53"]
  dns_upstreams:
    - corp tls://ns.corp.example at 192.0.2.53, 192.0.2.54 for .corp.example
    - tcp tcp://[2001:db8::53]:5353
    - main https://dns.example/dns-query at 2001:db8::53
    - udp udp://192.0.2.57
    - second tls://192.0.2.57#dns.example
default: {route: a}
`))
	if p == nil || len(diags) > 0 {
		t.Fatal(diags)
	}
	cfg := Config{Listen: p.Daemon.DNS.Listen}
	for _, u := range p.Daemon.DNS.Upstreams {
		cfg.Upstreams = append(cfg.Upstreams, Upstream{Name: u.Name, URL: u.URL, Bootstrap: u.At})
	}
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
}
