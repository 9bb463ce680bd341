// Package measure runs one system in a process of its own, so that its memory
// and its garbage collector are no one else's, and lets another process ask it
// for one pass at a time: so passes of several systems take turns, and what the
// machine does meanwhile hits all of them.
//
// A child is started with the flags -system, -shape and -n, builds, and then
// answers requests on its standard input with a line of JSON each:
//
//	load 16384   makes connections
//	check 1000   compares answers with those of a linear search
//	warm 20      decides each connection once, but for 20 ms at most
//	pass 200     decides for at least 200 ms
//	forget 0     makes names unknown, for systems that know the difference; 1: but for DNS names
//	tail 16      times each connection by itself, by so many decisions in a row
package measure

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"netpolicy.dev/netpolicy/bench/workload"
)

// System decides connections.
type System interface {
	// Load takes the connections that Decide is asked about.
	Load([]workload.Conn)
	// Decide returns the outcome for connection i, or workload.NoMatch.
	Decide(i int) int
	// Run decides the connections from one number up to another, as Decide does, and
	// returns the sum of the outcomes: so no call through an interface is measured.
	Run(from, to int) int
}

// Forgetter is a system that can decide while it does not know a name yet; with
// hints it has seen a DNS answer.
type Forgetter interface{ Forget(hints bool) }

// Kind is a kind of system.
type Kind struct {
	// Build prepares rules, which are in order.
	Build func([]workload.Rule) (System, error)
	// Parse, if set, makes what Build is measured without: rules as the system
	// holds them once it has read them. It returns the Build to measure.
	Parse func([]workload.Rule) func() (System, error)
	// Loose systems know neither states nor latencies.
	Loose bool
	// Judge says what a connection must be answered; nil: as a linear search over
	// all rules does.
	Judge func(list []workload.Rule, c *workload.Conn) int
}

// Built is what a child tells of building.
type Built struct {
	Rules  int     `json:"rules"`
	Millis float64 `json:"ms"`
	// Bytes is what building has left on the heap; Parsed is what parsing had left
	// there before.
	Bytes  int64 `json:"bytes"`
	Parsed int64 `json:"parsed"`
	// Resident is by how much both have enlarged the process.
	Resident int64  `json:"resident"`
	Error    string `json:"error,omitempty"`
}

// Pass is what a child tells of one pass.
type Pass struct {
	Decisions int   `json:"decisions"`
	CPU       int64 `json:"cpu"`  // of the process, nanoseconds
	Wall      int64 `json:"wall"` // nanoseconds
	Allocs    int64 `json:"allocs"`
}

// Check is what a child tells of a comparison.
type Check struct {
	Compared int    `json:"compared"`
	Wrong    int    `json:"wrong"`
	First    string `json:"first,omitempty"` // the first wrong answer
}

// child is one system with its connections.
type child struct {
	kind  Kind
	shape string
	rules []workload.Rule
	sys   System
	conns []workload.Conn
	at    int // the next connection
	sum   int // of all answers, so that none can be optimised away
}

// Serve is the main function of a child.
func Serve(kinds map[string]Kind) {
	system := flag.String("system", "", "which system")
	shape := flag.String("shape", workload.NRules, "of the policy")
	n := flag.Int("n", 1000, "rules")
	flag.Parse()
	kind, ok := kinds[*system]
	if !ok {
		fail("there is no system %q", *system)
	}
	list, err := workload.Make(*shape, *n)
	if err != nil {
		fail("%v", err)
	}
	c := &child{kind: kind, shape: *shape, rules: list}
	built := c.build()
	answer(built)
	if built.Error != "" {
		return
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var what string
		var arg int
		if _, err := fmt.Sscan(in.Text(), &what, &arg); err != nil {
			fail("%q: %v", in.Text(), err)
		}
		switch what {
		case "load":
			c.conns, c.at = workload.ConnsFor(c.shape, c.rules, arg), 0
			c.sys.Load(c.conns)
			runtime.GC()
			answer(len(c.conns))
		case "check":
			answer(c.check(arg))
		case "warm":
			c.warm(time.Duration(arg) * time.Millisecond)
			answer(true)
		case "forget":
			c.sys.(Forgetter).Forget(arg == 1)
			answer(true)
		case "tail":
			answer(c.tail(arg))
		case "pass":
			answer(c.pass(time.Duration(arg) * time.Millisecond))
		default:
			fail("%q is no request", in.Text())
		}
	}
}

func answer(v any) {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		fail("%v", err)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func (c *child) build() Built {
	begin, size := heap(), resident()
	build := func() (System, error) { return c.kind.Build(c.rules) }
	if c.kind.Parse != nil {
		build = c.kind.Parse(c.rules)
	}
	before := heap()
	start := time.Now()
	sys, err := build()
	took := time.Since(start)
	if err != nil {
		return Built{Error: err.Error()}
	}
	c.sys = sys
	after := heap()
	return Built{
		Rules: len(c.rules), Millis: float64(took.Microseconds()) / 1000,
		Bytes: after - before, Parsed: before - begin, Resident: resident() - size,
	}
}

// heap returns the bytes that are in use, and gives the others back.
func heap() int64 {
	runtime.GC() // so that finalizers have run
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// resident returns the size of the process in memory, in bytes.
func resident() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	var size, pages int64
	if err == nil {
		_, err = fmt.Sscan(string(data), &size, &pages)
	}
	if err != nil {
		fail("%v", err)
	}
	return pages * int64(os.Getpagesize())
}

// check compares the answers to n connections.
func (c *child) check(n int) Check {
	judge := workload.NewLinear(c.rules, c.kind.Loose)
	var out Check
	for i := range min(n, len(c.conns)) {
		want, got := 0, c.sys.Decide(i)
		if c.kind.Judge != nil {
			want = c.kind.Judge(c.rules, &c.conns[i])
		} else {
			want = judge.Decide(&c.conns[i])
		}
		out.Compared++
		if got != want {
			if out.Wrong++; out.First == "" {
				out.First = fmt.Sprintf("%+v: %d, want %d", c.conns[i], got, want)
			}
		}
	}
	return out
}

// pass decides for at least as long as asked, in batches, so that the clock is seldom read.
func (c *child) pass(least time.Duration) Pass {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, start := cpuTime(), time.Now()
	var p Pass
	for batch := 1; ; batch = min(2*batch, 1<<14) {
		n := min(batch, len(c.conns)-c.at)
		c.sum += c.sys.Run(c.at, c.at+n)
		if c.at += n; c.at == len(c.conns) {
			c.at = 0
		}
		if p.Decisions += n; time.Since(start) >= least {
			break
		}
	}
	p.Wall, p.CPU = time.Since(start).Nanoseconds(), (cpuTime() - cpu).Nanoseconds()
	runtime.ReadMemStats(&after)
	p.Allocs = int64(after.Mallocs - before.Mallocs)
	return p
}

// warm fills the caches that others have emptied meanwhile.
func (c *child) warm(most time.Duration) {
	const part = 16
	for start, i := time.Now(), 0; i+part <= len(c.conns) && time.Since(start) < most; i += part {
		c.sum += c.sys.Run(i, i+part)
	}
}

// tail returns the 99th percentile of the nanoseconds that single connections
// take, of as many as there is time for.
func (c *child) tail(times int) float64 {
	const most = time.Second
	var all []float64
	for i, begin := 0, time.Now(); i < len(c.conns) && time.Since(begin) < most; i++ {
		start := time.Now()
		for range times {
			c.sum += c.sys.Run(i, i+1)
		}
		all = append(all, float64(time.Since(start).Nanoseconds())/float64(times))
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// cpuTime is what the process has used, in user mode and in the kernel.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		fail("%v", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
