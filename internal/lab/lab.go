// Package lab builds a small internet in network namespaces of its own, runs
// the real netpolicyd in its gateway, and sends real packets through it.
//
//	client ---- gw ==wan1== isp1 ---- inet     10.77.0.0/24, 2001:db8:77::/64 behind gw
//	              ==wan2== isp2 ----/          servers on 203.0.113.0/24, 198.51.100.0/24
//
// Both providers translate addresses (as carriers do), so that an answer comes
// back over the uplink that the question took, and a flow that is moved breaks
// as it would outside. Nothing is linked to the machine's own network.
//
//	l, err := lab.New(ctx, lab.Options{})
//	defer l.Close()
//	err = l.StartDaemon("policy.yaml")
//	conn, err := l.Client().Dial(ctx, "tcp", "203.0.113.10:443")
//
// It needs root and Linux. Close removes everything it made; Clean removes what
// a killed lab left behind.
package lab

import (
	"errors"
	"fmt"
	"time"
)

// The uplinks of every lab, which are also the gateway's device names.
const (
	Wan1 = "wan1"
	Wan2 = "wan2"
)

// ErrUnsupported is returned where a lab can't be built; the text says why.
var ErrUnsupported = errors.New("the lab needs root on Linux")

// Options says how a lab is built. The zero Options is a working one.
type Options struct {
	// Main is the uplink of the gateway's own default routes; "" is Wan1.
	Main string
	// Seed is for the packets that a lossy line drops.
	Seed uint64
	// Daemon is the path of netpolicyd; "" looks beside the running executable, then in PATH.
	Daemon string
	// Web is an address of this process's own network, such as 127.0.0.1:0, where the
	// daemon serves its web interface; "" is nowhere.
	Web string
}

// Fault is what is wrong with an uplink. The zero Fault is a healthy line.
type Fault struct {
	// Delay is added to the round trip, half of it each way.
	Delay time.Duration
	// Loss is the probability, in parts per million, with which a packet is dropped, each way.
	Loss int
	// Down takes the carrier away; Blackhole keeps it and drops every packet.
	Down, Blackhole bool
}

// String describes the fault as the script language spells it.
func (f Fault) String() string {
	s := ""
	add := func(t string) {
		if s != "" {
			s += " "
		}
		s += t
	}
	if f.Delay > 0 {
		add("delay " + f.Delay.String())
	}
	if f.Loss > 0 {
		add(fmt.Sprintf("loss %g%%", float64(f.Loss)/10_000))
	}
	if f.Down {
		add("down")
	}
	if f.Blackhole {
		add("blackhole")
	}
	if s == "" {
		return "healthy"
	}
	return s
}

// Counter is what left through one device of the gateway.
type Counter struct{ Packets, Bytes uint64 }

// Counters are the gateway's own transmit counters, by uplink.
type Counters map[string]Counter

// Since returns how much c grew since before.
func (c Counters) Since(before Counters) Counters {
	d := Counters{}
	for name, now := range c {
		d[name] = Counter{now.Packets - before[name].Packets, now.Bytes - before[name].Bytes}
	}
	return d
}

// LeftBy returns the uplink that carried at least payload bytes when no other
// carried half as much, and otherwise "".
func (c Counters) LeftBy(payload uint64) string {
	found := ""
	for name, n := range c {
		switch {
		case n.Bytes >= payload && found == "":
			found = name
		case n.Bytes >= payload/2:
			return ""
		}
	}
	return found
}
