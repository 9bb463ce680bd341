package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var seedFlag = flag.Uint64("seed", 1, "of the moments at which the daemon is killed and lines die")

// times returns how often to do something: more with FULL set.
func times(usual, full int) int {
	if os.Getenv("FULL") != "" {
		return full
	}
	return usual
}

// aliveTTL is how long the kernel takes a daemon for alive that says nothing any
// more (actions.AliveTTL), and a little.
const aliveTTL = 5*time.Second + 100*time.Millisecond

// crashPolicy has the default on the group of both lines, one port that always
// takes wan1, one that is refused, and a name that is refused. Probes are fast,
// so that lines fail over while the test waits.
func crashPolicy(mode string, n int) []byte {
	return fmt.Appendf(nil, `version: 1
uplinks:
  wan1: {dev: wan1, gateway: [192.0.2.1, "2001:db8:1::1"], probe: {kind: icmp, targets: [203.0.113.1], every: 200ms}}
  wan2: {dev: wan2, gateway: [192.0.2.129, "2001:db8:2::1"], probe: {kind: icmp, targets: [203.0.113.1], every: 200ms}}
groups:
  ha: {fallback: [wan2, wan1]}
health: {primary: wan2, hold_failover: 1s}
daemon: {masquerade: [wan1, wan2], on_crash: %s}
default: {route: ha}
rules:
  - name: bulk
    priority: 100
    match: {protocol: tcp, port: 5001}
    action: {route: wan1}
  - name: telnet
    priority: 90
    match: {protocol: tcp, port: 23}
    action: {block: reject}
  - name: ads
    priority: 80
    match: {sni: ads.example.com}
    action: {block: reject}
%s`, mode, extraRule(n))
}

// The moments at which the daemon is killed.
const (
	atStart = iota
	inRun
	atStop
	inCleanup
	phases
)

var phaseNames = [phases]string{"start", "run", "stop", "cleanup"}

// crash is a lab in which netpolicyd is killed again and again.
type crash struct {
	*Lab
	t      *testing.T
	mode   string
	policy string
	rnd    *rand.Rand
	before string // the kernel without us

	// How long a start, a stop and a clean-up take here.
	startTook, stopTook, cleanTook time.Duration

	moved bool // a line failed meanwhile: new flows may take the other one
	named bool // the kernel knows the name that is refused
	kills [phases]int
	in    int // kills that left our table in force
}

// TestCrash kills the daemon at random moments of its start, its work (answers,
// failovers, reloads), its stop and its clean-up. After each kill, new and
// established connections go as on_crash says; `netpolicyd cleanup` then leaves
// no residue, and what others have in the kernel is as it was.
func TestCrash(t *testing.T) {
	for i, mode := range []string{"last", "open", "closed"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // they wait for the most part
			l, policy := daemonLab(t)
			foreign(t, l)
			c := &crash{Lab: l, t: t, mode: mode, policy: policy, rnd: rand.New(rand.NewPCG(*seedFlag, uint64(i))), before: kernel(t, l)}
			c.measure()
			kills := times(7, 67)
			for n := range kills {
				c.once(n, n == kills-1)
			}
			t.Logf("crash: on_crash %s: %d kills (%s), seed %d: %d found our table in force; connections as documented after each, residue after none",
				mode, kills, c.counts(), *seedFlag, c.in)
		})
	}
}

func (c *crash) counts() string {
	var parts []string
	for i, n := range c.kills {
		parts = append(parts, fmt.Sprintf("%s %d", phaseNames[i], n))
	}
	return strings.Join(parts, ", ")
}

// measure takes the time of a start until the table is there, of a stop, and of a
// clean-up, so that kills come at all their moments, on a busy machine too.
func (c *crash) measure() {
	c.t.Helper()
	timed := func(f func()) time.Duration {
		begin := time.Now()
		f()
		return time.Since(begin)
	}
	c.must(WriteFile(c.policy, crashPolicy(c.mode, 0)))
	start := func() {
		c.must(c.SpawnDaemon(c.policy))
		eventually(c.t, "the table is there", c.inForce)
	}
	c.startTook = timed(start)
	c.stopTook = timed(func() { c.must(c.StopDaemon()) })
	start()
	c.must(c.KillDaemon())
	c.cleanTook = timed(func() { c.must(c.Lab.Cleanup(c.t.Context())) })
}

// once kills the daemon once, looks at what new and established flows get, and
// cleans up, but for a few times that the next start adopts what is left.
func (c *crash) once(n int, last bool) {
	ctx := c.t.Context()
	phase := n % phases
	c.kills[phase]++
	c.must(WriteFile(c.policy, crashPolicy(c.mode, n)))
	var decided, grouped *Transfer
	when, moment := "", time.Duration(0)
	if phase == atStart {
		if c.mode != "closed" || !c.inForce() {
			decided = c.begin("198.51.100.40:5001")
		}
		c.named = false // another policy: names are asked for anew
		c.must(c.SpawnDaemon(c.policy))
		moment = c.chance(2 * c.startTook)
		sleep(ctx, moment)
	} else {
		c.must(c.StartDaemon(ctx, c.policy))
		c.learn()
		decided, grouped = c.begin("198.51.100.40:5001"), c.begin("198.51.100.41:8080")
		stop := c.busy(ctx, n, phase == inRun && c.rnd.IntN(2) == 0)
		if phase == inRun {
			moment = c.chance(1500 * time.Millisecond)
			sleep(ctx, moment)
		} else {
			sleep(ctx, c.chance(100*time.Millisecond))
		}
		if phase == atStop {
			c.must(c.SignalDaemon(syscall.SIGTERM))
			moment = c.chance(c.stopTook)
			sleep(ctx, moment)
		}
		defer stop()
		c.must(c.KillDaemon())
		stop()
	}
	c.must(c.KillDaemon())
	if phase == inCleanup {
		moment = c.chance(c.cleanTook)
		c.killCleanup(moment)
	}
	killed := time.Now()
	eventually(c.t, "nothing of the killed daemon runs", func() bool { return len(inside(netnsDir+c.gw.name)) == 0 })
	when = fmt.Sprintf("on_crash %s, kill %d (seed %d), %v after the begin of its %s", c.mode, n, *seedFlag, moment, phaseNames[phase])
	c.must(c.Fault(ctx, Wan2, Fault{}))
	c.check(when, killed)
	if decided != nil {
		c.lives(when, "the rule's own route", decided)
	}
	if grouped != nil && !c.moved && c.inForce() {
		c.lives(when, "the group's first line", grouped)
	}
	for _, t := range []*Transfer{decided, grouped} {
		if t != nil {
			_ = t.Stop() // what had to live was looked at
		}
	}
	if c.rnd.IntN(4) == 0 && !last {
		return // the next start adopts what is left
	}
	sameKernel(c.t, c.Lab, c.before, when)
	c.must(os.RemoveAll(filepath.Join(c.Dir, "state", "state.json")))
	c.moved, c.named = false, false
	for _, addr := range online {
		if err := reach(ctx, c.Lab, addr, 5*time.Second); err != nil {
			c.t.Fatalf("%s: after the cleanup the client does not reach %s: %v", when, addr, err)
		}
	}
}

func (c *crash) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *crash) chance(most time.Duration) time.Duration {
	return time.Duration(c.rnd.Int64N(int64(most)))
}

// begin starts a transfer, which has moved on once when begin returns.
func (c *crash) begin(addr string) *Transfer {
	c.t.Helper()
	t, err := c.StartTransfer(c.t.Context(), addr)
	c.must(err)
	c.t.Cleanup(func() { _ = t.Stop() })
	ctx, cancel := context.WithTimeout(c.t.Context(), aliveTime)
	defer cancel()
	c.must(t.Alive(ctx, 1))
	return t
}

// learn has the client ask for the refused name until the kernel knows it.
func (c *crash) learn() {
	c.t.Helper()
	eventually(c.t, "the name is refused", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		_, _ = c.Client().resolveAt(ctx, Resolver4, "ads.example.com", false)
		return refused(c.Lab, "198.51.100.33:7")
	})
	c.named = true
}

// busy resolves names, writes new policies, and, if asked, lets wan2 die and come
// back, until stop is called, which can be done twice.
func (c *crash) busy(ctx context.Context, n int, faults bool) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	c.moved = c.moved || faults
	rnd := rand.New(rand.NewPCG(c.rnd.Uint64(), 0))
	go func() {
		defer close(done)
		names := []string{"us01.zoom.us", "example.com", "bulk.example.net", "www.example.com", "ads.example.com"}
		for i := 0; sleep(ctx, time.Duration(rnd.Int64N(int64(60*time.Millisecond)))); i++ {
			switch i % 4 {
			case 0:
				_ = WriteFile(c.policy, crashPolicy(c.mode, 100*n+i))
			case 1:
				if faults {
					_ = c.Fault(context.WithoutCancel(ctx), Wan2, Fault{Blackhole: i%8 == 1})
				}
			default:
				asking, stop := context.WithTimeout(ctx, 200*time.Millisecond)
				_, _ = c.Client().resolveAt(asking, Resolver4, names[i%len(names)], i%3 == 0)
				stop()
			}
		}
	}()
	return func() { cancel(); <-done }
}

// killCleanup kills a `netpolicyd cleanup` that has run for some time.
func (c *crash) killCleanup(after time.Duration) {
	ctx, cancel := context.WithTimeout(c.t.Context(), after)
	defer cancel()
	if err := c.Lab.Cleanup(ctx); err != nil && ctx.Err() == nil {
		c.t.Fatal(err)
	}
}

// inForce reports whether our table is in the kernel.
func (c *crash) inForce() bool {
	_, err := c.Gateway(context.Background(), "nft", "list", "table", "inet", "netpolicy")
	return err == nil
}

// check looks at what new flows get.
func (c *crash) check(when string, killed time.Time) {
	c.t.Helper()
	mode := c.mode
	if c.inForce() {
		c.in++
	} else {
		mode = "none"
	}
	if mode == "open" || mode == "closed" {
		sleep(c.t.Context(), time.Until(killed.Add(aliveTTL)))
	}
	if mode == "closed" {
		for _, addr := range online {
			if err := reach(c.t.Context(), c.Lab, addr, 500*time.Millisecond); err == nil {
				c.t.Fatalf("%s: a new connection to %s works\n%s", when, addr, kernel(c.t, c.Lab))
			}
		}
		return
	}
	allowed := map[string]bool{Wan1: mode != "last" || c.moved, Wan2: mode == "last"}
	for _, addr := range online {
		left, err := leaves(c.Lab, addr)
		if err != nil || !allowed[left] {
			c.t.Fatalf("%s: a new connection to %s leaves by %q, %v; want one of %v (table: %s)\n%s", when, addr, left, err, allowed, mode, kernel(c.t, c.Lab))
		}
	}
	if is, want := refused(c.Lab, "198.51.100.41:23"), mode == "last"; is != want {
		c.t.Fatalf("%s: telnet refused: %v, want %v (table: %s)\n%s", when, is, want, mode, kernel(c.t, c.Lab))
	}
	if c.named {
		if is, want := refused(c.Lab, "198.51.100.33:7"), mode == "last"; is != want {
			c.t.Fatalf("%s: the name's address refused: %v, want %v (table: %s)\n%s", when, is, want, mode, kernel(c.t, c.Lab))
		}
	}
}

// lives fails unless the transfer goes on.
func (c *crash) lives(when, which string, t *Transfer) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), aliveTime)
	defer cancel()
	if err := t.Alive(ctx, 2*chunk); err != nil {
		c.t.Fatalf("%s: the established connection over %s: %v\n%s", when, which, err, kernel(c.t, c.Lab))
	}
}

// refused reports whether a new connection gets a reset, other than from a
// server: every address and port of the lab's is served.
func refused(l *Lab, addr string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := l.Client().Dial(ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	var op *net.OpError
	return errors.As(err, &op) && errors.Is(err, syscall.ECONNREFUSED)
}
