package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Addresses of the topology. Every one is for documentation or private use.
const (
	clientAddr4, clientAddr6 = "10.77.0.2", "2001:db8:77::2"
	lanPrefix4, lanPrefix6   = "10.77.0.0/24", "2001:db8:77::/64"
	lanGateway4, lanGateway6 = "10.77.0.1", "2001:db8:77::1"

	// Resolver4 and Resolver6 are the lab's DNS server.
	Resolver4, Resolver6 = "203.0.113.53", "2001:db8:cafe::53"
)

// serverPrefixes are wholly local to the inet namespace: whatever address in
// them is asked, it answers pings, and TCP on the ports that are served.
var serverPrefixes = []string{"203.0.113.0/24", "198.51.100.0/24", "2001:db8:cafe::/48"}

// line is one uplink: its provider's namespace, what the gateway needs to know
// of it, and what holds its packets up.
type line struct {
	name       string // also the gateway's device
	isp        *space
	gw4, gw6   string // the gateway's addresses on it
	isp4, isp6 string // the provider's: the gateway's next hops
	out4, out6 string // the provider's addresses towards inet
	in4, in6   string // inet's addresses towards the provider

	fault    Fault
	up, back *holder // made when first needed
}

// lines returns the two uplinks' addresses.
func lines() []*line {
	return []*line{
		{
			name: Wan1, gw4: "192.0.2.2", gw6: "2001:db8:1::2", isp4: "192.0.2.1", isp6: "2001:db8:1::1",
			out4: "10.99.1.1", in4: "10.99.1.2", out6: "2001:db8:f1::1", in6: "2001:db8:f1::2",
		},
		{
			name: Wan2, gw4: "192.0.2.130", gw6: "2001:db8:2::2", isp4: "192.0.2.129", isp6: "2001:db8:2::1",
			out4: "10.99.2.1", in4: "10.99.2.2", out6: "2001:db8:f2::1", in6: "2001:db8:f2::2",
		},
	}
}

// Device names inside the providers' namespaces.
const (
	ispToGateway = "gw"
	ispToInet    = "inet"
)

// early and late are the sysctls of every namespace: no waiting for duplicate
// address detection, and forwarding where asked.
var (
	early   = []string{"net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0", "net/ipv6/conf/all/disable_ipv6=0"}
	forward = []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", "net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0"}
)

// build makes the namespaces, links, addresses, routes and translations.
func (l *Lab) build(ctx context.Context) error {
	for _, n := range []struct {
		at      **space
		name    string
		forward bool
	}{
		{&l.client, "client", false},
		{&l.gw, "gw", true},
		{&l.lines[0].isp, "isp1", true},
		{&l.lines[1].isp, "isp2", true},
		{&l.inet, "inet", false},
	} {
		s, err := newSpace(l.ID + "-" + n.name)
		if err != nil {
			return err
		}
		*n.at = s
		l.spaces = append(l.spaces, s)
		settings := early
		if n.forward {
			settings = append(settings[:len(settings):len(settings)], forward...)
		}
		if err := s.sysctl(settings...); err != nil {
			return err
		}
	}
	if err := l.buildLAN(); err != nil {
		return err
	}
	// IPv6 does not count an AnyIP address as one to bind to.
	if err := l.inet.sysctl("net/ipv6/ip_nonlocal_bind=1"); err != nil {
		return err
	}
	for _, p := range serverPrefixes {
		if err := l.inet.own(p); err != nil {
			return err
		}
	}
	for i, ln := range l.lines {
		if err := l.buildLine(ctx, ln, fmt.Sprintf("isp%d", i+1)); err != nil {
			return err
		}
	}
	main := l.line(l.opts.Main)
	return steps(
		func() error { return l.gw.route("default4", main.isp4) },
		func() error { return l.gw.route("default6", main.isp6) },
	)
}

func (l *Lab) buildLAN() error {
	return steps(
		func() error { return l.client.veth("eth0", l.gw, "lan") },
		func() error { return l.client.address("eth0", clientAddr4+"/24", clientAddr6+"/64") },
		func() error { return l.gw.address("lan", lanGateway4+"/24", lanGateway6+"/64") },
		func() error { return l.client.route("default4", lanGateway4) },
		func() error { return l.client.route("default6", lanGateway6) },
	)
}

func (l *Lab) buildLine(ctx context.Context, ln *line, inetDev string) error {
	return steps(
		func() error { return l.gw.veth(ln.name, ln.isp, ispToGateway) },
		func() error { return ln.isp.veth(ispToInet, l.inet, inetDev) },
		func() error { return l.gw.address(ln.name, ln.gw4+"/25", ln.gw6+"/64") },
		func() error { return l.inet.address(inetDev, ln.in4+"/30", ln.in6+"/64") },
		func() error { return ln.connect() },
		func() error { return ln.translate(ctx) },
	)
}

// connect gives the provider its addresses and routes; it does so again after
// the line was down, since the kernel forgets some of them then.
func (ln *line) connect() error {
	return steps(
		func() error { return ln.isp.address(ispToGateway, ln.isp4+"/25", ln.isp6+"/64") },
		func() error { return ln.isp.address(ispToInet, ln.out4+"/30", ln.out6+"/64") },
		func() error { return ln.isp.route(lanPrefix4, ln.gw4) },
		func() error { return ln.isp.route(lanPrefix6, ln.gw6) },
		func() error { return ln.isp.route("default4", ln.in4) },
		func() error { return ln.isp.route("default6", ln.in6) },
	)
}

// translate makes the provider translate what leaves towards inet to its own
// address, so that answers return over this line.
func (ln *line) translate(ctx context.Context) error {
	for _, cmd := range []string{"iptables-legacy", "ip6tables-legacy"} {
		if _, err := ln.isp.run(ctx, "", cmd, "-w", "-t", "nat", "-A", "POSTROUTING", "-o", ispToInet, "-j", "MASQUERADE"); err != nil {
			return err
		}
	}
	return nil
}

// steps runs each until one fails.
func steps(each ...func() error) error {
	for _, f := range each {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// line returns the uplink of that name, or nil.
func (l *Lab) line(name string) *line {
	for _, ln := range l.lines {
		if ln.name == name {
			return ln
		}
	}
	return nil
}

// readyTime is how long a lab's links may take until they carry.
const readyTime = 10 * time.Second

// The queues of a provider: packets from the gateway, packets from inet.
const (
	queueUp   = 1
	queueBack = 2
)

// Fault makes an uplink ill in the way f says, instead of how it was before;
// the zero Fault heals it. It is safe for use by one goroutine at a time.
func (l *Lab) Fault(ctx context.Context, uplink string, f Fault) error {
	ln := l.line(uplink)
	if ln == nil {
		return fmt.Errorf("the lab has no uplink %q, only %s and %s", uplink, Wan1, Wan2)
	}
	if err := ln.hold(f, l.opts.Seed); err != nil {
		return err
	}
	if f != ln.fault {
		if err := ln.filter(ctx, f); err != nil {
			return err
		}
	}
	switch {
	case f.Down && !ln.fault.Down:
		if err := ln.isp.down(ispToGateway); err != nil {
			return err
		}
	case !f.Down && ln.fault.Down:
		if err := ln.connect(); err != nil {
			return err
		}
	}
	ln.fault = f
	return nil
}

// hold sets what the holders do, making them when they are first needed.
func (ln *line) hold(f Fault, seed uint64) error {
	if ln.up == nil && (f.Delay > 0 || f.Loss > 0) {
		var err error
		if ln.up, err = newHolder(ln.isp, queueUp, seed); err != nil {
			return err
		}
		if ln.back, err = newHolder(ln.isp, queueBack, seed); err != nil {
			return errors.Join(err, ln.release())
		}
	}
	if ln.up != nil {
		half := f.Delay / 2
		ln.up.set(half, f.Loss)
		ln.back.set(f.Delay-half, f.Loss)
	}
	return nil
}

// filter sends the line's packets to the holders, or nowhere. Raw comes before
// conntrack, so a held packet has no half-made entry. Neighbour discovery is
// the link's own business and passes, as ARP does.
func (ln *line) filter(ctx context.Context, f Fault) error {
	target := func(queue int) string {
		if f.Blackhole {
			return "DROP"
		}
		return fmt.Sprintf("NFQUEUE --queue-num %d --queue-bypass", queue)
	}
	var rules strings.Builder
	if f.Delay > 0 || f.Loss > 0 || f.Blackhole {
		fmt.Fprintf(&rules, "-A PREROUTING -i %s -j %s\n-A PREROUTING -i %s -j %s\n",
			ispToGateway, target(queueUp), ispToInet, target(queueBack))
	}
	const neighbours = "-A PREROUTING -p icmpv6 --icmpv6-type neighbour-solicitation -j ACCEPT\n" +
		"-A PREROUTING -p icmpv6 --icmpv6-type neighbour-advertisement -j ACCEPT\n"
	if _, err := ln.isp.run(ctx, "*raw\n"+rules.String()+"COMMIT\n", "iptables-legacy-restore", "-w"); err != nil {
		return err
	}
	_, err := ln.isp.run(ctx, "*raw\n"+neighbours+rules.String()+"COMMIT\n", "ip6tables-legacy-restore", "-w")
	return err
}

// release ends the holders.
func (ln *line) release() error {
	var errs []error
	for _, h := range []**holder{&ln.up, &ln.back} {
		if *h != nil {
			errs = append(errs, (*h).close())
			*h = nil
		}
	}
	return errors.Join(errs...)
}

// Held says how many packets the line's holders lost, by chance and because too many were held.
func (l *Lab) Held(uplink string) (dropped, overflow uint64) {
	ln := l.line(uplink)
	if ln == nil || ln.up == nil {
		return 0, 0
	}
	return ln.up.dropped.Load() + ln.back.dropped.Load(), ln.up.lostOver.Load() + ln.back.lostOver.Load()
}

// Counters reads the gateway's transmit counters of both uplinks.
func (l *Lab) Counters() (Counters, error) {
	c := Counters{}
	for _, ln := range l.lines {
		link, err := l.gw.nl.LinkByName(ln.name)
		if err != nil {
			return nil, fmt.Errorf("read the counters of %s: %w", ln.name, err)
		}
		st := link.Attrs().Statistics
		c[ln.name] = Counter{Packets: st.TxPackets, Bytes: st.TxBytes}
	}
	return c, nil
}

// ready waits until the gateway's links have settled, which the kernel notices up
// to a second late, and until the client reaches the resolver over both families.
func (l *Lab) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for _, dev := range []string{"lan", Wan1, Wan2} {
		for !l.gw.linkLocal(dev) {
			if !sleep(ctx, 10*time.Millisecond) {
				return fmt.Errorf("%s in %s gets no link-local address: %w", dev, l.gw.name, ctx.Err())
			}
		}
	}
	for _, server := range []string{Resolver4, Resolver6} {
		for {
			_, err := l.Client().resolveAt(ctx, server, "example.com", false)
			if err == nil {
				break
			}
			if !sleep(ctx, 50*time.Millisecond) {
				return fmt.Errorf("the lab's client does not reach its resolver at %s: %w", server, err)
			}
		}
	}
	return nil
}
