package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/replay"
	"netpolicy.dev/netpolicy/internal/cli"
)

// newInspectCmd shows connections and their names, from a capture or live.
func newInspectCmd() *cobra.Command {
	var file, output string
	var live, tunnels, answers bool
	var watch watchOptions
	cmd := &cobra.Command{
		Use:   "inspect --pcap FILE | --live | --iface NAME",
		Short: "Show connections and the names they carry, from a capture or live",
		Long: `Show one line for each connection: its ends, the server name of its ClientHello (sni, null when it is known
that there is none), the Host of its HTTP request, and the DNS names of its destination. name_source tells where
the best name comes from: tls, http or dns. Of a hello with an encrypted part (ECH) the name is the outer, public one,
and another may lie inside: such a line has "ech":true, and tls+ech in the table. Browsers also send such a part without
a use, which looks the same. -o wide adds to the table what ndjson tells besides: the protocol (app), the TLS version offered (tls), the
QUIC version (quic), the protocols offered (alpn) and the JA4 fingerprint of the program (ja4).

--answers shows DNS answers, too, also those of HTTPS and SVCB records, with the protocols that these offer.

--live watches this host (or network namespace) until interrupted: conntrack, local sockets, DNS answers and
ClientHellos. It needs root and changes nothing. --iface captures on one interface alone, and shows the connections whose
first bytes pass there; programs, round-trip times and ends come from local sockets and conntrack, where they know the
same addresses. It needs CAP_NET_RAW. Both end at Ctrl-C, after --for, or after --count connections.`,
		Example: `  netpolicy inspect --pcap capture.pcapng -o ndjson
  netpolicy inspect --live -o wide
  netpolicy inspect --iface eth1 --for 1m -o ndjson`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"ndjson", "table", "wide"}, output) {
				return fmt.Errorf("unknown output %q: ndjson, table or wide", output)
			}
			c := newConnections()
			c.answers, c.wide = answers, output == "wide"
			given := 0
			for _, is := range []bool{live, file != "", watch.iface != ""} {
				if is {
					given++
				}
			}
			switch {
			case given != 1:
				return errors.New("give one of --pcap FILE, --live and --iface NAME")
			case file != "" && (watch.time != 0 || watch.count != 0):
				return errors.New("--for and --count belong to --live and --iface")
			case watch.time < 0 || watch.count < 0:
				return errors.New("--for and --count can't be negative")
			case file == "":
				watch.table = output != "ndjson"
				return inspectLive(cmd, c, watch)
			}
			return inspectFile(cmd, c, file, output, !tunnels)
		},
	}
	cmd.Flags().StringVar(&file, "pcap", "", "read this capture (pcap or pcapng; - for standard input)")
	cmd.Flags().BoolVar(&live, "live", false, "watch this host's connections until interrupted")
	cmd.Flags().StringVar(&watch.iface, "iface", "", "capture on the interface `NAME` until interrupted")
	cmd.Flags().DurationVar(&watch.time, "for", 0, "with --live and --iface: end after this time; 0 does not")
	cmd.Flags().IntVar(&watch.count, "count", 0, "with --live and --iface: end after `N` connections; 0 does not")
	cmd.Flags().BoolVar(&tunnels, "tunnels", false, "show tunnels themselves, not the connections inside them")
	cmd.Flags().BoolVar(&answers, "answers", false, "show DNS answers, too")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "ndjson, table or wide")
	return cmd
}

// watchOptions say what to watch live, and for how long.
type watchOptions struct {
	iface string        // "": all of this network namespace
	time  time.Duration // 0: without end
	count int           // connections; 0: without end
	table bool
}

func inspectFile(cmd *cobra.Command, c *connections, file, output string, inside bool) error {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return cli.Fail(cmd, err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	src := replay.New(in, replay.Options{CaptureOnly: true, KeepTunnels: !inside, Details: true})
	// What was read before an error is worth showing.
	runErr := src.Run(cmd.Context(), c.take)
	var err error
	if runErr != nil && len(c.order) == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "error: %s: %v\n", file, runErr)
		return cli.Errors
	}
	if output == "ndjson" {
		err = c.lines(cmd.OutOrStdout())
	} else {
		err = c.table(cmd.OutOrStdout())
	}
	if err != nil {
		return err
	}
	if c.dropped > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %d connections beyond the first %d are not shown\n", c.dropped, maxShown)
	}
	switch {
	case errors.Is(runErr, replay.ErrCut):
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s: %v\n", file, runErr)
	case runErr != nil:
		fmt.Fprintf(cmd.ErrOrStderr(), "error: %s: %v\n", file, runErr)
		return cli.Errors
	}
	return nil
}

// maxShown bounds the connections held for one output; each takes about 1 KiB.
const maxShown = 1 << 18

// ends identify a connection.
type ends struct {
	proto    flow.Proto
	src, dst netip.AddrPort
}

// connection is what was gathered of one connection; or a DNS answer.
type connection struct {
	flow  flow.Flow
	hello inspector.Hello // empty where none was whole
	ech   bool
	// answer is set for an answer alone, and then all that counts.
	answer *inspector.Event
	began  time.Time
	shown  bool
	over   bool
	seen   bool // by connections.only
}

// connections gathers events into connections, in the order of their beginning.
type connections struct {
	byEnds  map[ends]*connection
	order   []*connection
	names   *inspector.NameTable
	dropped int
	// only is the source that has to have seen a connection for watch to show it;
	// "" is any.
	only string
	// answers: DNS answers are shown, too.
	answers bool
	// wide: the table has the details of hellos.
	wide bool
}

func newConnections() *connections {
	return &connections{byEnds: make(map[ends]*connection), names: inspector.NewNameTable(0)}
}

func endsOf(f flow.Flow) ends {
	proto, _ := f.Proto.Get()
	src, _ := f.Src.Get()
	dst, _ := f.Dst.Get()
	srcPort, _ := f.SrcPort.Get()
	dstPort, _ := f.DstPort.Get()
	return ends{proto, netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort)}
}

// take enters one event.
func (c *connections) take(e inspector.Event) { c.enter(e) }

// enter enters one event and returns its connection, nil where it has none.
func (c *connections) enter(e inspector.Event) *connection {
	if e.Kind == inspector.Answered {
		c.names.Add(e.Answer, e.At)
		if !c.answers {
			return nil
		}
		return c.list(&connection{answer: &e, began: e.At, over: true, seen: true})
	}
	k := endsOf(e.Flow)
	n := c.byEnds[k]
	if n == nil && e.Kind == inspector.Name {
		// A hello may come from the side that was taken for the server.
		if o := c.byEnds[ends{k.proto, k.dst, k.src}]; o != nil && o.flow.SNI.Unknown() {
			delete(c.byEnds, ends{k.proto, k.dst, k.src})
			n, c.byEnds[k] = o, o
		}
	}
	if n == nil || n.over && e.Kind == inspector.Open {
		if e.Kind == inspector.Close && n == nil {
			return nil
		}
		if n = c.list(&connection{flow: e.Flow, began: e.At}); n == nil {
			return nil
		}
		c.byEnds[k] = n
	}
	n.seen = n.seen || e.Source == c.only
	merge(&n.flow, e.Flow)
	n.ech = n.ech || e.ECH
	if e.Hello != nil {
		n.hello = *e.Hello
	}
	if dst, ok := n.flow.Dst.Get(); ok && (n.flow.DNS.Empty() || e.Kind == inspector.Name) {
		n.flow.DNS = c.names.Names(dst, e.At)
	}
	n.over = n.over || e.Kind == inspector.Close
	return n
}

// list puts n behind the others and returns it, nil when there are too many.
func (c *connections) list(n *connection) *connection {
	if len(c.order) >= maxShown {
		c.dropped++
		return nil
	}
	c.order = append(c.order, n)
	return n
}

// merge adds to f what another source knows of the same connection.
func merge(f *flow.Flow, more flow.Flow) {
	learn(&f.SNI, more.SNI)
	learn(&f.HTTPHost, more.HTTPHost)
	learn(&f.App, more.App)
	learn(&f.ALPN, more.ALPN)
	learn(&f.Process, more.Process)
	learn(&f.ProcessPath, more.ProcessPath)
	learn(&f.User, more.User)
	learn(&f.IfaceIn, more.IfaceIn)
	learn(&f.DSCP, more.DSCP)
	learn(&f.RTT, more.RTT)
	f.Src, f.SrcPort, f.Dst, f.DstPort = more.Src, more.SrcPort, more.Dst, more.DstPort
}

func learn[T comparable](v *flow.Value[T], more flow.Value[T]) {
	if !more.Unknown() {
		*v = more
	}
}

// best returns the best name known of a connection and where it comes from.
func best(f flow.Flow) (name, source string) {
	if n, ok := f.SNI.Get(); ok {
		return n, "tls"
	}
	if n, ok := f.HTTPHost.Get(); ok {
		return n, "http"
	}
	if names := slices.Collect(f.DNS.All()); len(names) > 0 {
		return strings.Join(names, " "), "dns"
	}
	return "", ""
}

// appendLine appends the connection as a flow record with its name_source and
// what is known of its hello, or the answer as an event.
func (n *connection) appendLine(b []byte) ([]byte, error) {
	if n.answer != nil {
		b, err := n.answer.AppendJSON(b)
		return append(b, '\n'), err
	}
	b = n.flow.AppendJSON(b)
	b = append(b[:len(b)-1], `,"name_source":`...)
	if _, source := best(n.flow); source != "" {
		b = flow.AppendString(b, source)
	} else {
		b = append(b, "null"...)
	}
	if n.ech {
		b = append(b, `,"ech":true`...)
	}
	for _, x := range []struct{ key, value string }{{"tls", n.hello.TLS}, {"quic", n.hello.QUIC}, {"ja4", n.hello.JA4}} {
		if x.value != "" {
			b = append(b, `,"`+x.key+`":`...)
			b = flow.AppendString(b, x.value)
		}
	}
	return append(b, "}\n"...), nil
}

func (c *connections) lines(w io.Writer) error {
	var b []byte
	for _, n := range c.order {
		var err error
		if b, err = n.appendLine(b); err != nil {
			return err
		}
		const enough = 64 << 10
		if len(b) >= enough {
			if _, err := w.Write(b); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
			b = b[:0]
		}
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (c *connections) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(c.heading(), "\t"))
	for _, n := range c.order {
		fmt.Fprintln(t, strings.Join(c.row(n), "\t"))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// heading names the fields of rows, but for the program.
func (c *connections) heading() []string {
	fields := []string{"PROTO", "SOURCE", "DESTINATION", "NAME", "FROM"}
	if c.wide {
		fields = append(fields, "APP", "TLS", "QUIC", "ALPN", "JA4")
	}
	return fields
}

// row is a connection for people. Control characters can't occur: names are
// canonical, ALPN and app are printable, and a process's name is quoted when it has any.
func (c *connections) row(n *connection) []string {
	var fields []string
	var app, alpn string
	if a := n.answer; a != nil {
		var addrs []string
		for _, x := range a.Answer.Addrs {
			addrs = append(addrs, x.String())
		}
		fields = []string{"dns", "", strings.Join(addrs, ","), a.Answer.Name, "answer"}
		alpn = a.Answer.ALPN
	} else {
		k := endsOf(n.flow)
		name, source := best(n.flow)
		fields = []string{k.proto.String(), end(k.src, n.flow.SrcPort), end(k.dst, n.flow.DstPort), name, source}
		app, _ = n.flow.App.Get()
		alpn, _ = n.flow.ALPN.Get()
	}
	if n.ech || n.answer != nil && n.answer.ECH {
		fields[4] = strings.TrimPrefix(fields[4]+"+ech", "+")
	}
	if c.wide {
		fields = append(fields, app, n.hello.TLS, n.hello.QUIC, alpn, n.hello.JA4)
	}
	for i, f := range fields {
		fields[i] = cmp.Or(f, "-")
	}
	if p, ok := n.flow.Process.Get(); ok {
		fields = append(fields, fmt.Sprintf("%q", p))
	}
	return fields
}

func end(a netip.AddrPort, port flow.Value[uint16]) string {
	if _, ok := port.Get(); ok {
		return a.String()
	}
	return a.Addr().String()
}

// watch shows connections as they come: each once, when its name is known, at
// the latest a moment after it was seen, or when it ends.
func (c *connections) watch(ctx context.Context, events <-chan inspector.Event, show func(*connection) error) error {
	const patience = 2 * time.Second
	// memory is after what time a connection is forgotten of whose end nobody told.
	const memory = 10 * time.Minute
	tick := time.NewTicker(patience / 4)
	defer tick.Stop()
	for {
		select {
		case e := <-events:
			n := c.enter(e)
			if n == nil || n.shown || c.only != "" && !n.seen {
				continue
			}
			// Of one interface's connections the program, which is looked for each
			// second, is worth a moment's patience.
			if e.Kind == inspector.Name && (c.only == "" || !n.flow.Process.Unknown()) || e.Kind == inspector.Close || e.Kind == inspector.Answered {
				n.shown = true
				if err := show(n); err != nil {
					return err
				}
			}
		case now := <-tick.C:
			for k, n := range c.byEnds {
				if n.over {
					delete(c.byEnds, k)
				}
			}
			for _, n := range c.order {
				n.over = n.over || c.only != "" && now.Sub(n.began) > memory
				if !n.shown && (c.only == "" || n.seen) && now.Sub(n.began) > patience {
					n.shown = true
					if err := show(n); err != nil {
						return err
					}
				}
			}
			c.order = slices.DeleteFunc(c.order, func(n *connection) bool { return n.over && (n.shown || c.only != "") })
		case <-ctx.Done():
			return nil
		}
	}
}
