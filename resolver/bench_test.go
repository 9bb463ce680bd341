package resolver

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// BenchmarkAnswers counts answers by a resolver with real sockets, from 16 clients
// that each wait for theirs. The upstream is in the same process.
func BenchmarkAnswers(b *testing.B) {
	for _, c := range []struct{ name, scheme string }{{"cached", "udp"}, {"uncached/udp", "udp"}, {"uncached/tcp", "tcp"}, {"uncached/tls", "tls"}, {"uncached/https", "https"}} {
		b.Run(c.name, func(b *testing.B) {
			s := serve(b, "127.0.0.1", addressed(300, "192.0.2.7"))
			r, addr := start(b, Config{Upstreams: []Upstream{s.upstream(c.scheme)}, Learn: func(context.Context, Answer) error { return nil }})
			var n, failed atomic.Int64
			b.SetParallelism(8)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				conn, err := net.Dial("udp", addr.String())
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close()
				msg := question(b, "00000000.example.", dnsmessage.TypeA, 1232)
				buf := make([]byte, 4096)
				for pb.Next() {
					if c.name != "cached" {
						copy(msg[headerLen+1:], fmt.Sprintf("%08x", n.Add(1)))
					}
					if _, err := conn.Write(msg); err != nil {
						b.Error(err)
						return
					}
					_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
					if got, err := conn.Read(buf); err != nil || got < headerLen || buf[3]&0xf != 0 || buf[7] != 1 {
						failed.Add(1)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
			if failed.Load() > 0 {
				b.Errorf("%d of %d without an answer; %d dropped", failed.Load(), b.N, r.Counters().Dropped.Load())
			}
		})
	}
}

// BenchmarkCached is a hit alone, without sockets.
func BenchmarkCached(b *testing.B) {
	s := serve(b, "127.0.0.1", addressed(300, "192.0.2.7"))
	r, addr := start(b, Config{Upstreams: []Upstream{s.upstream("udp")}})
	msg := question(b, "a.example.", dnsmessage.TypeA, 1232)
	askUDP(b, addr, msg)
	buf := make([]byte, 0, maxPayload)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, reply, more := r.first(buf, msg, addr, 0); more || len(reply) < 40 {
			b.Fatal("not cached")
		}
	}
}
