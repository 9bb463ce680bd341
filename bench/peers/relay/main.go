// Command relay measures three SOCKS5 servers in one run: netpolicy's relay,
// sing-box, and the least that a server can be: a goroutine a direction and
// splice. Each is a process of its own; rounds take turns, so that what the
// machine does meanwhile hits all of them; figures are medians.
//
//	go run ./relay -rounds 9 -for 3s -idle 2000
//
// The far end and the clients are this process. Everything goes over loopback.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"netpolicy.dev/netpolicy/relay"
)

// servers run one system until ctx ends, and say where it listens.
var servers = map[string]func(ctx context.Context, at func(netip.AddrPort)) error{
	"netpolicy": netpolicy,
	"sing-box":  singBox,
	"splice":    plain,
}

// order is that of the table.
var order = []string{"netpolicy", "sing-box", "splice"}

func main() {
	var o options
	serve := flag.String("serve", "", "run this system (for the command itself)")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; figures are medians of as many")
	flag.DurationVar(&o.each, "for", 2*time.Second, "how long each figure is measured in each round")
	flag.IntVar(&o.streams, "streams", 8, "connections at once for the second throughput figure")
	flag.IntVar(&o.workers, "workers", 16, "connections that are opened at once")
	flag.IntVar(&o.idle, "idle", 1000, "idle connections for the memory figure; 0: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *serve != "" {
		err = child(ctx, *serve)
	} else {
		err = drive(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// child serves until its standard input ends, which it does with its parent.
func child(ctx context.Context, system string) error {
	run, ok := servers[system]
	if !ok {
		return fmt.Errorf("no system %q", system)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return run(ctx, func(at netip.AddrPort) { fmt.Println(at) })
}

// netpolicy is our relay, with a decider that sends everything out directly.
func netpolicy(ctx context.Context, at func(netip.AddrPort)) error {
	r, err := relay.New(relay.Config{
		Inbounds: []relay.Inbound{{Kind: relay.SOCKS, Listen: netip.MustParseAddrPort("127.0.0.1:0")}},
		Decider:  straight{}, Reporter: straight{},
	})
	if err != nil {
		return err
	}
	at(r.Addrs()[0])
	return r.Run(ctx)
}

// straight also hears the reports, as the daemon would.
type straight struct{}

func (straight) Dialled(*relay.Outcome)         {}
func (straight) Opened(*relay.Conn)             {}
func (straight) Closed(*relay.Conn, *relay.End) {}

func (straight) Decide(_ *relay.Ask, v *relay.Verdict) { v.Way.Uplink = -1 }

// freePort is one that was free just now.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	a, _ := l.Addr().(*net.TCPAddr)
	return a.AddrPort(), nil
}
