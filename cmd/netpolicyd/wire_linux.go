package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/conntrack"
	"netpolicy.dev/netpolicy/actions/host"
	"netpolicy.dev/netpolicy/actions/iproute"
	"netpolicy.dev/netpolicy/actions/nft"
	"netpolicy.dev/netpolicy/actions/tc"
	"netpolicy.dev/netpolicy/actions/xtqueue"
	"netpolicy.dev/netpolicy/inspector/ebpf"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/daemon"
)

// maxFirstFlow bounds the chance in ids of flows: browsers count to 2^53 exactly.
const maxFirstFlow = 1 << 52

// wire connects the daemon with this host. clean removes everything that was made.
func wire(stateDir string, observe bool, log *slog.Logger) (parts daemon.Parts, clean func(context.Context) error, err error) {
	boot, err := daemon.BootID()
	if err != nil {
		return parts, nil, err
	}
	bpf := ebpf.New(ebpf.Options{})
	parts = daemon.Parts{
		Sources: sources(bpf), Probe: measure, Now: sinceBoot, Boot: boot, Accounting: accounting, Programs: programs, Counters: counters,
		FirstFlow: rand.Uint64N(maxFirstFlow),
	}
	if observe {
		parts.Host = reader{stateDir}
		return parts, nil, nil
	}
	e, err := host.New(host.Config{StateDir: stateDir})
	if err != nil {
		return parts, nil, err
	}
	ct, err := conntrack.New()
	if err != nil {
		return parts, nil, errors.Join(err, e.Close())
	}
	v, err := newVerifier(e)
	if err != nil {
		return parts, nil, errors.Join(err, ct.Close(), e.Close())
	}
	parts.Host, parts.Kernel, parts.Verifier, parts.Connections = reader{stateDir}, e, v, connected{ct, log}
	parts.Drift = e
	parts.Queue = serveQueue
	parts.Refuser = bpf
	parts.Previous = e.Previous()
	return parts, func(ctx context.Context) error {
		if err := errors.Join(v.Close(), e.Close(), ct.Close()); err != nil {
			return err
		}
		return host.Cleanup(ctx, stateDir)
	}, nil
}

// readHost reads the host and the plan that a former run left, for a dry run.
func readHost(_ context.Context, stateDir string) (*actions.Host, *actions.Plan, error) {
	h, previous, err := host.Read(stateDir)
	return &h, previous, err
}

// accounting reads net.netfilter.nf_conntrack_acct; where it can't be read, nothing is said.
func accounting() bool {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_acct")
	return err != nil || strings.TrimSpace(string(b)) != "0"
}

// counters reads what a device has received and sent, in bytes.
func counters(dev string) (rx, tx uint64, err error) {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return 0, 0, err
	}
	s := link.Attrs().Statistics
	if s == nil {
		return 0, 0, errors.New("the device counts nothing")
	}
	return s.RxBytes, s.TxBytes, nil
}

// reader is the daemon's view of links, addresses and routes.
type reader struct{ stateDir string }

func (r reader) ReadHost(context.Context) (*actions.Host, error) {
	h, _, err := host.Read(r.stateDir)
	return &h, err
}

func (reader) Watch(ctx context.Context, changed func()) error { return daemon.WatchHost(ctx, changed) }

// verifier looks for a plan in the kernel.
type verifier struct {
	nft *nft.Applier
	ip  *iproute.Applier
	tc  *tc.Applier
	all *host.Enforcer
}

func newVerifier(e *host.Enforcer) (verifier, error) {
	n, err := nft.New()
	if err != nil {
		return verifier{}, err
	}
	ip, err := iproute.New()
	if err != nil {
		return verifier{}, errors.Join(err, n.Close())
	}
	queues, err := tc.New()
	if err != nil {
		ip.Close()
		return verifier{}, errors.Join(err, n.Close())
	}
	return verifier{n, ip, queues, e}, nil
}

// Close closes the sockets.
func (v verifier) Close() error {
	v.ip.Close()
	return errors.Join(v.nft.Close(), v.tc.Close())
}

// Verify reports what of the plan is not there: its table, a rule, the last
// resort of one of its routing tables, or traffic control. Routes over devices come and go with them.
func (v verifier) Verify(ctx context.Context, p *actions.Plan) error {
	if err := v.table(ctx, p); err != nil {
		return err
	}
	if want := p.Legacy(); want != (actions.Legacy{}) {
		if s, err := xtqueue.Read(ctx, want); err != nil || s != xtqueue.Ready {
			return errors.Join(err, fmt.Errorf("gone: iptables-legacy %s", strings.Join(want.Rules(), ", ")))
		}
	}
	rules, err := v.ip.Rules()
	if err != nil {
		return err
	}
	for _, r := range p.IPRules {
		if !slices.Contains(rules, r) {
			return fmt.Errorf("gone: %s", r)
		}
	}
	var tables []uint32
	for _, r := range p.IPRoutes {
		if !slices.Contains(tables, r.Table) {
			tables = append(tables, r.Table)
		}
	}
	routes, _, err := v.ip.Routes(tables)
	if err != nil {
		return err
	}
	for _, r := range p.IPRoutes {
		if r.Unreachable && !slices.Contains(routes, r) {
			return fmt.Errorf("gone: %s", r)
		}
	}
	have, err := v.tc.Have(p.TC)
	if err != nil {
		return err
	}
	for _, o := range p.TC {
		if !slices.Contains(have, o) {
			return fmt.Errorf("gone: %s", o)
		}
	}
	return nil
}

func (v verifier) table(ctx context.Context, p *actions.Plan) error {
	if p.Table.XT != nil {
		return v.all.VerifyX(ctx, p)
	}
	exists, err := v.nft.Exists(p.Table.Name)
	if err == nil && !exists {
		err = fmt.Errorf("nft table inet %s is gone", p.Table.Name)
	}
	return err
}

// connected changes live connections.
type connected struct {
	*conntrack.Conn
	log *slog.Logger
}

func tuple(c daemon.Connection) conntrack.Tuple {
	return conntrack.Tuple{Proto: c.Proto, Src: c.Src, Dst: c.Dst}
}

// SetMark marks a connection; one that is gone needs no mark.
func (c connected) SetMark(_ context.Context, conn daemon.Connection, value, mask uint32) error {
	err := c.Conn.SetMark(tuple(conn), value, mask)
	if errors.Is(err, conntrack.ErrNotFound) {
		return nil
	}
	return err
}

// Forget removes connections; one that is gone already is as it should be.
func (c connected) Forget(ctx context.Context, list []daemon.Connection) error {
	var errs []error
	for _, conn := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.Conn.Forget(tuple(conn)); err != nil && !errors.Is(err, conntrack.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sinceBoot is the time since boot, sleep included: it goes on over restarts of
// the daemon and does not jump when the wall clock is set.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // since Linux 2.6.39 it can't fail
	}
	return time.Duration(t.Nano())
}

func newCleanupCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything that netpolicyd made: table, rules, routes, Xray",
		Long: "Remove exactly what the ledger in the state directory lists: the nftables table or\n" +
			"the chains and sets of iptables, the ip rules and the routes; and end an Xray that a killed netpolicyd left. It is safe at any time and twice, but not while\n" +
			"netpolicyd runs.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer giveBack(dir)
			if err := canChange(); err != nil {
				return failed(cmd, err)
			}
			err := host.Cleanup(cmd.Context(), dir)
			hint := ""
			switch {
			case errors.Is(err, host.ErrRunning):
				hint = "stop netpolicyd; when it stops it cleans up by itself"
			case errors.Is(err, host.ErrUnlisted):
				hint = "--state-dir names the folder that the daemon used (daemon.state_dir in the policy)"
			default:
				return failed(cmd, errors.Join(err, daemon.EndXray(cmd.Context(), dir)))
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "error: %v\nhint: %s\n", err, hint)
			return cli.Errors
		},
	}
	cmd.Flags().StringVar(&dir, "state-dir", api.DefaultStateDir, "the state `directory`")
	return cmd
}
