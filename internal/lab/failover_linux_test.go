package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// failoverPolicy has the default settings of health and probes. Port 5001 takes
// the line that lives.
const failoverPolicy = `version: 1
uplinks:
  wan1: {dev: wan1, gateway: [192.0.2.1, "2001:db8:1::1"], probe: {kind: icmp, targets: [203.0.113.1, 198.51.100.1]}}
  wan2: {dev: wan2, gateway: [192.0.2.129, "2001:db8:2::1"], probe: {kind: icmp, targets: [203.0.113.1, 198.51.100.1]}}
groups:
  ha: {fallback: [wan2, wan1]}
health: {primary: wan2}
daemon: {masquerade: [wan1, wan2]}
default: {route: ha}
rules:
  - name: bulk
    priority: 100
    match: {protocol: tcp, port: 5001}
    action: {route: wan1}
`

// attemptEvery is the pace of new connections while a line dies, which is how
// exact the failover times are; attemptTime is how long each may take.
const (
	attemptEvery = 10 * time.Millisecond
	attemptTime  = 500 * time.Millisecond
)

// attempts opens a new connection over IPv4 and one over IPv6 each attemptEvery.
type attempts struct {
	l      *Lab
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu   sync.Mutex
	done [2][]tried // those that worked, by family, as they ended
}

type tried struct{ began, ended time.Time }

func newAttempts(ctx context.Context, l *Lab) *attempts {
	ctx, cancel := context.WithCancel(ctx)
	a := &attempts{l: l, cancel: cancel}
	a.all.Go(func() {
		for sleep(ctx, attemptEvery) {
			for family, addr := range online {
				a.all.Go(func() { a.try(ctx, family, addr) })
			}
		}
	})
	return a
}

func (a *attempts) try(ctx context.Context, family int, addr string) {
	at := tried{began: time.Now()}
	if reach(ctx, a.l, addr, attemptTime) != nil {
		return
	}
	at.ended = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done[family] = append(a.done[family], at)
}

// first returns when the first attempt was done that began after t.
func (a *attempts) first(family int, t time.Time) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.done[family] {
		if at.began.After(t) {
			return at.ended, true
		}
	}
	return time.Time{}, false
}

func (a *attempts) stop() {
	a.cancel()
	a.all.Wait()
}

// TestFailoverTimes measures, from the death of a line, how long it takes until
// a new connection works over the other one, with the default settings, and what
// an established connection on the line that lives notices.
func TestFailoverTimes(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	if err := WriteFile(policy, []byte(failoverPolicy)); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(*seedFlag, 2))
	kinds := []struct {
		name  string
		fault Fault
	}{{"carrier lost", Fault{Down: true}}, {"silent black hole", Fault{Blackhole: true}}}
	took := make([][]time.Duration, len(kinds))
	var kernel []time.Duration
	var carried int64
	var pause time.Duration
	var again uint32
	runs := times(6, 50)
	for n := range runs {
		kind := n % len(kinds)
		if err := l.StartDaemon(ctx, policy); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both lines are measured", func() bool {
			s, err := l.API().Status(ctx)
			return err == nil && len(s.Uplinks) == 2 && !s.Uplinks[0].Unknown && !s.Uplinks[1].Unknown && s.Uplinks[0].Up && s.Uplinks[1].Up
		})
		transfer, err := l.StartTransfer(ctx, "198.51.100.40:5001")
		if err != nil {
			t.Fatal(err)
		}
		a := newAttempts(ctx, l)
		for family := range online {
			eventually(t, "connections work", func() bool { _, ok := a.first(family, time.Time{}); return ok })
		}
		sleep(ctx, time.Duration(rnd.Int64N(int64(time.Second)))) // at any point of a round
		died := time.Now()
		if err := l.Fault(ctx, Wan2, kinds[kind].fault); err != nil {
			t.Fatal(err)
		}
		dead := time.Now()
		for family := range online {
			var back time.Time
			eventually(t, "a new connection over the other line", func() (ok bool) { back, ok = a.first(family, dead); return ok })
			took[kind] = append(took[kind], back.Sub(died))
		}
		a.stop()
		waiting, cancel := context.WithTimeout(ctx, aliveTime)
		if err := transfer.Alive(waiting, chunk); err != nil {
			t.Errorf("run %d, %s: the connection on the line that lives: %v", n, kinds[kind].name, err)
		}
		cancel()
		bytes, gap, _ := transfer.Progress()
		carried, pause = carried+bytes, max(pause, gap)
		again += retransmitted(t, transfer.conn)
		if err := transfer.Stop(); err != nil {
			t.Errorf("run %d, %s: the connection on the line that lives broke: %v", n, kinds[kind].name, err)
		}
		var turns []time.Duration
		eventually(t, "the log tells of the change", func() bool { turns = l.switches(t, died); return len(turns) > 0 })
		kernel = append(kernel, turns...)
		t.Logf("run %d, %s: first new connections after %v, kernel after %v, longest pause on the other line %.0f ms",
			n, kinds[kind].name, took[kind][len(took[kind])-2:], turns, ms(gap))
		if err := l.StopDaemon(); err != nil {
			t.Fatal(err)
		}
		if err := l.Fault(ctx, Wan2, Fault{}); err != nil {
			t.Fatal(err)
		}
		// The next run begins with a line that nothing is held against.
		if err := os.RemoveAll(filepath.Join(l.Dir, "state")); err != nil {
			t.Fatal(err)
		}
	}
	for i, k := range kinds {
		median, most := middle(took[i])
		t.Logf("failover: %s: %d runs, seed %d, IPv4 and IPv6: first new connection after %.2f s (median), %.2f s (worst)",
			k.name, len(took[i])/2, *seedFlag, median.Seconds(), most.Seconds())
	}
	median, most := middle(kernel)
	t.Logf("failover: from the sample to the kernel: %.2f ms (median), %.2f ms (worst) of %d", ms(median), ms(most), len(kernel))
	t.Logf("failover: on the line that lives: %s over %d connections, each byte as sent, %d packets sent again, longest pause %.0f ms",
		size(uint64(carried)), runs, again, ms(pause))
	t.Log("failover: documented defaults of others (docs/failover.md): mwan3 60 to 70 s with one address to ping, sing-box urltest up to 195 s, mihomo fallback up to 305 s")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// switches reads from the daemon's log how long it took, each time since a
// moment, from a sample to the kernel.
func (l *Lab) switches(t *testing.T, since time.Time) []time.Duration {
	t.Helper()
	log, err := os.ReadFile(l.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	var list []time.Duration
	for line := range bytes.Lines(log) {
		var e struct {
			Time time.Time
			Msg  string
			US   int64 `json:"after_sample_us"`
		}
		if json.Unmarshal(line, &e) == nil && e.Msg == "new flows take other ways" && e.Time.After(since) {
			list = append(list, time.Duration(e.US)*time.Microsecond)
		}
	}
	return slices.Clip(list)
}

// retransmitted is how many packets the kernel sent again on a connection.
func retransmitted(t *testing.T, conn net.Conn) (n uint32) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		var inner error
		err = raw.Control(func(fd uintptr) {
			var info *unix.TCPInfo
			if info, inner = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); inner == nil {
				n = info.Total_retrans
			}
		})
		if err == nil {
			err = inner
		}
	}
	if err != nil {
		t.Fatal(fmt.Errorf("ask for retransmissions: %w", err))
	}
	return n
}
