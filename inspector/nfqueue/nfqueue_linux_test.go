package nfqueue

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const testQueue = 7

// queueing sends what this namespace sends to UDP ports 7000 to 7999 into the queue,
// and drops what has priority 7 after that.
func queueing(t *testing.T) {
	t.Helper()
	nstest.Need(t)
	here := nstest.Here(t)
	table := "table inet t { chain after { type filter hook output priority 0; meta priority 0x7 drop; }; "
	if exec.Command("nft", "-c", "add table inet try; add chain inet try c; add rule inet try c queue num 0").Run() == nil {
		table += fmt.Sprintf("chain out { type filter hook output priority -150; udp dport 7000-7999 queue num %d bypass; }; ", testQueue)
	} else if _, err := exec.LookPath("iptables-legacy"); err == nil {
		rule := fmt.Sprintf("OUTPUT -p udp --dport 7000:7999 -j NFQUEUE --queue-num %d --queue-bypass", testQueue)
		here.Run(t, "", "iptables-legacy", append([]string{"-t", "mangle", "-A"}, strings.Fields(rule)...)...)
		t.Cleanup(func() { here.Run(t, "", "iptables-legacy", "-t", "mangle", "-F", "OUTPUT") })
	} else {
		t.Skip("needs nft_queue or iptables-legacy")
	}
	here.Run(t, table+"}", "nft", "-f", "-")
	t.Cleanup(func() { here.Run(t, "", "nft", "delete", "table", "inet", "t") })
}

// pair returns a socket that listens on the port, and one that is connected to it.
func pair(t *testing.T, port int) (server net.PacketConn, client net.Conn) {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	server, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if client, err = net.Dial("udp", addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return server, client
}

// arrives reports whether what the client sends reaches the server, once it has been asked
// about: it looks long for what should.
func arrives(t *testing.T, server net.PacketConn, client net.Conn, asked *atomic.Int64, should bool) bool {
	t.Helper()
	before := asked.Load()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for n := 0; asked.Load() == before; n++ {
		if n == 60_000 {
			t.Fatal("nobody is asked")
		}
		time.Sleep(time.Millisecond)
	}
	long := 200 * time.Millisecond
	if should {
		long = 30 * time.Second
	}
	_ = server.SetReadDeadline(time.Now().Add(long))
	_, _, err := server.ReadFrom(make([]byte, 10))
	return err == nil
}

func TestQueue(t *testing.T) {
	queueing(t)
	q, err := Open(Options{Queue: testQueue})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Queue: testQueue}); err == nil {
		t.Error("a queue was bound twice")
	}
	var asked atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- q.Run(ctx, func(p *Packet, v *Verdict) {
			if p.Hook != 3 || p.In != 0 || !p.HasUID || p.UID != 0 {
				t.Errorf("%+v", p)
			}
			switch port := int(p.Payload[22])<<8 | int(p.Payload[23]); port {
			case 7001:
				v.Drop = true
			case 7002:
				v.Priority = 7
			case 7003:
				v.Priority = 8
			}
			asked.Add(1)
		})
	}()
	for port, want := range map[int]bool{7000: true, 7001: false, 7002: false, 7003: true} {
		server, client := pair(t, port)
		if got := arrives(t, server, client, &asked, want); got != want {
			t.Errorf("port %d arrives: %v, want %v", port, got, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c := q.Counters; c.Packets.Load() != 4 || c.Missed.Load()+c.Bad.Load()+c.Gone.Load() != 0 {
		t.Errorf("packets %d, missed %d, bad %d, gone %d", c.Packets.Load(), c.Missed.Load(), c.Bad.Load(), c.Gone.Load())
	}
	server, client := pair(t, 7011) // nobody has the queue: it is passed by
	_, _ = client.Write([]byte("x"))
	_ = server.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
		t.Error(err)
	}
}

// TestMissed: what the buffer does not hold goes on, and is counted by its gap.
func TestMissed(t *testing.T) {
	queueing(t)
	q, err := Open(Options{Queue: testQueue, FailOpen: true, ReadBuffer: 4096})
	if err != nil {
		t.Fatal(err)
	}
	const sent = 200
	server, client := pair(t, 7100)
	for range sent {
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	arrived := 0
	for {
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
			break
		}
		if arrived++; arrived > sent {
			t.Fatal("more than was sent")
		}
	}
	if arrived == 0 || arrived == sent {
		t.Fatalf("%d of %d went on: the queue was not full", arrived, sent)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var asked atomic.Int64
	go func() { done <- q.Run(ctx, func(*Packet, *Verdict) { asked.Add(1) }) }()
	for n := 0; int(asked.Load())+arrived < sent; n++ {
		if n == 60_000 {
			t.Fatalf("asked about %d of the %d that were kept", asked.Load(), sent-arrived)
		}
		time.Sleep(time.Millisecond)
	}
	if !arrives(t, server, client, &asked, true) { // whose number shows the gap
		t.Log("an earlier one arrived")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := int(q.Counters.Missed.Load()); n != arrived || q.Counters.Full.Load() == 0 {
		t.Errorf("%d missed, want %d; full %d times", n, arrived, q.Counters.Full.Load())
	}
}

// TestHold: packets wait until another brings their verdict, or the clock does.
func TestHold(t *testing.T) {
	queueing(t)
	var held []uint32 // Run's goroutine alone
	var due time.Time // of those that wait for the clock, zero while none does
	q, err := Open(Options{Queue: testQueue, Tick: func() (list []Answer, more bool) {
		if len(held) == 0 || due.IsZero() || time.Now().Before(due) {
			return nil, len(held) > 0
		}
		for _, id := range held {
			list = append(list, Answer{ID: id})
		}
		held = nil
		return list, false
	}})
	if err != nil {
		t.Fatal(err)
	}
	const wait = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- q.Run(ctx, func(p *Packet, v *Verdict) {
			switch p.Payload[28] {
			case 'c':
				due = time.Now().Add(wait)
				fallthrough
			case 'h':
				v.Hold, held = true, append(held, p.ID)
				return
			}
			for i, id := range held {
				v.Before = append(v.Before, Answer{ID: id, Drop: i == 0})
			}
			held = nil
		})
	}()
	server, client := pair(t, 7000)
	send := func(what string) (sent time.Time) {
		sent = time.Now()
		if _, err := client.Write([]byte(what)); err != nil {
			t.Fatal(err)
		}
		return sent
	}
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 10)
		_ = server.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("%q, %v, want %q", buf[:n], err, want)
		}
	}
	send("h1")
	send("h2")
	send("x")
	expect("h2") // h1 was dropped
	expect("x")
	sent := send("c")
	expect("c")
	if d := time.Since(sent); d < wait {
		t.Errorf("held for %v, want %v", d, wait)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
