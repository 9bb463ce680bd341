package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/load"
)

// Total is what a run of scripts amounts to.
type Total struct {
	Connections int // whose uplink was measured, or that were blocked as expected
	Transitions int
}

// RunDirs runs the lab.txt of each directory in a lab of its own, one after the
// other, and prints what happens. It goes on after a failure, and returns all of
// them; it ends early only when ctx does.
func RunDirs(ctx context.Context, opts Options, out *Printer, dirs ...string) error {
	var sum Total
	var errs []error
	for _, dir := range dirs {
		begin := time.Now()
		total, err := runDir(ctx, opts, out, dir)
		sum.Connections += total.Connections
		sum.Transitions += total.Transitions
		if err != nil {
			errs = append(errs, err)
			out.result(red, "FAIL", "%s: %v", filepath.Base(dir), err)
		} else {
			out.result(green, "ok", "%s: %d connections, %d transitions, %.1f s",
				filepath.Base(dir), total.Connections, total.Transitions, time.Since(begin).Seconds())
		}
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
	if len(errs) == 0 {
		out.result(bold, "ok", "%d connections, each as its decision says; %d transitions", sum.Connections, sum.Transitions)
	}
	return errors.Join(errs...)
}

// run is one lab with a daemon in which scripts are carried out.
type run struct {
	l         *Lab
	out       *Printer
	dir       string
	live      string // the policy file that the daemon watches
	policy    *rules.Policy
	watch     *watcher
	unwatch   context.CancelFunc
	transfers map[string]*Transfer
	xrays     map[string]*exec.Cmd
	total     Total
}

// newRun builds a lab and starts the daemon with a policy of dir. On an error
// nothing is left; otherwise the caller calls close.
func newRun(ctx context.Context, opts Options, out *Printer, dir, policy string) (_ *run, err error) {
	l, err := New(ctx, opts)
	if err != nil {
		return nil, err
	}
	r := &run{l: l, out: out, dir: dir, live: filepath.Join(l.Dir, "policy"+filepath.Ext(policy)), transfers: map[string]*Transfer{}, xrays: map[string]*exec.Cmd{}}
	if err = r.install(policy); err == nil {
		err = l.StartDaemon(ctx, r.live)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	watching, stop := context.WithCancel(ctx)
	r.unwatch = stop
	r.watch = newWatcher(watching, l, out)
	return r, nil
}

// close ends everything and removes the lab.
func (r *run) close() error {
	for _, t := range r.transfers {
		_ = t.Stop()
	}
	for name := range r.xrays {
		r.endXray(name)
	}
	r.unwatch()
	r.watch.wait()
	r.total.Transitions = r.watch.transitions
	return r.l.Close()
}

func runDir(ctx context.Context, opts Options, out *Printer, dir string) (total Total, err error) {
	file := filepath.Join(dir, scriptName)
	src, err := os.ReadFile(file)
	if err != nil {
		return total, fmt.Errorf("read the lab script: %w", err)
	}
	script, err := ParseScript(file, src)
	if err != nil {
		return total, err
	}
	opts.Main = script.Main
	out.line(bold, "lab", "%s: client - gateway =(wan1, wan2)= internet; the gateway's own default route is %s", filepath.Base(dir), script.Main)
	r, err := newRun(ctx, opts, out, dir, script.Policy)
	if err != nil {
		return total, err
	}
	// The lab is also removed when what follows panics; the panic is then an error.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		err = errors.Join(err, r.close())
		total = r.total
	}()
	out.line(dim, "daemon", "netpolicyd enforces %s", script.Policy)
	return total, r.steps(ctx, script.Steps)
}

// steps carries out the steps up to the first that fails.
func (r *run) steps(ctx context.Context, list []Step) error {
	for _, step := range list {
		if err := r.do(ctx, step); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%s: interrupted: %w", step.Where(), ctx.Err())
			}
			return fmt.Errorf("%s: %s: %w", step.Where(), step.Text, err)
		}
	}
	for name, t := range r.transfers {
		if err := t.Stop(); err != nil {
			return fmt.Errorf("transfer %s broke: %w", name, err)
		}
	}
	return nil
}

// install puts a policy file of the example in the place that the daemon reads.
func (r *run) install(name string) error {
	src, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	if p := load.Policy(name, src, load.Options{}).Policy; p != nil {
		r.policy = p
		if err := r.installLinks(p); err != nil {
			return err
		}
	}
	return WriteFile(r.live, src)
}

// WriteFile replaces a file in one step, as editors do.
func WriteFile(path string, data []byte) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// do carries out one step.
func (r *run) do(ctx context.Context, step Step) error {
	switch c := step.Do.(type) {
	case Say:
		r.out.line(bold, "", "%s", c.Text)
	case Sleep:
		sleep(ctx, c.For)
	case SetFault:
		r.out.line(yellow, "fault", "%s is %s", c.Uplink, describeFault(c.Fault))
		return r.l.Fault(ctx, c.Uplink, c.Fault)
	case Await:
		return r.await(ctx, c)
	case AwaitRoute:
		return r.awaitRoute(ctx, c)
	case Xray:
		return r.xray(ctx, c)
	case Reload:
		return r.reload(ctx, c)
	case Daemon:
		if c.Kill {
			r.out.line(yellow, "daemon", "kill -9")
			return r.l.KillDaemon()
		}
		r.out.line(dim, "daemon", "start")
		return r.l.StartDaemon(ctx, r.live)
	case TransferStart, TransferCheck, TransferStop:
		return r.transfer(ctx, c)
	case Connect:
		return r.connect(ctx, c)
	}
	return ctx.Err()
}

func describeFault(f Fault) string {
	if f == (Fault{}) {
		return "healthy again"
	}
	return f.String()
}

// await waits until a state holds.
func (r *run) await(ctx context.Context, a Await) error {
	what := "the global state"
	if a.Uplink != "" {
		what = a.Uplink
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, a.Within+time.Second/2)
	defer cancel()
	for {
		s, err := r.watch.now()
		is := s.State
		for _, u := range s.Uplinks {
			if u.Name == a.Uplink {
				is = u.State
			}
		}
		if err == nil && is == a.State.String() {
			if a.Within > 0 {
				r.out.line(green, "await", "%s is %s after %.1f s", what, is, time.Since(begin).Seconds())
			}
			return nil
		}
		if !sleep(ctx, pollEvery) {
			return fmt.Errorf("%s is %s, want %v (last status: %v)", what, is, a.State, err)
		}
	}
}

// reload puts another policy in place and asks the daemon to read it.
func (r *run) reload(ctx context.Context, c Reload) error {
	before, err := r.l.API().Status(ctx)
	if err != nil {
		return err
	}
	if err := r.install(c.File); err != nil {
		return err
	}
	res, err := r.l.API().Reload(ctx)
	if err != nil {
		return err
	}
	// The daemon's own file watch may have been faster: then there is nothing left to do.
	if res.Result == "unchanged" && res.Policy.Hash != before.Policy.Hash {
		res.Result = "applied"
	}
	text := res.Result
	codes := ""
	for _, d := range res.Diagnostics {
		codes += " " + d.Code
		if d.Severity == diag.Error.String() {
			text += fmt.Sprintf("\n%s:%d:%d: %s: %s", filepath.Base(d.File), d.Line, d.Column, d.Code, d.Message)
		}
	}
	r.out.line(cyan, "reload", "%s: %s", c.File, text)
	if res.Result != c.Result {
		return fmt.Errorf("the reload was %s, want %s", res.Result, c.Result)
	}
	if c.Code != "" && !strings.Contains(codes+" ", " "+c.Code+" ") {
		return fmt.Errorf("the reload names%s, want %s", codes, c.Code)
	}
	return nil
}

// aliveBytes is how far a transfer must move on to be alive, in aliveTime.
const (
	aliveBytes = 64 << 10
	aliveTime  = 15 * time.Second
)

func (r *run) transfer(ctx context.Context, cmd any) error {
	switch c := cmd.(type) {
	case TransferStart:
		if r.transfers[c.Name] != nil {
			return fmt.Errorf("transfer %s runs already", c.Name)
		}
		resolving, cancel := context.WithTimeout(ctx, connectTime)
		defer cancel()
		addr, err := r.l.Client().Resolve(resolving, c.Host, false)
		if err != nil {
			return err
		}
		t, err := r.l.StartTransfer(ctx, addr.String()+":"+c.Port)
		if err != nil {
			return err
		}
		r.transfers[c.Name] = t
		r.out.line(plain, "transfer", "%s: %s > %s begins", c.Name, t.Local, t.Remote)
		return nil
	case TransferCheck:
		t := r.transfers[c.Name]
		if t == nil {
			return fmt.Errorf("transfer %s does not run", c.Name)
		}
		return r.checkTransfer(ctx, c, t)
	case TransferStop:
		t := r.transfers[c.Name]
		if t == nil {
			return fmt.Errorf("transfer %s does not run", c.Name)
		}
		delete(r.transfers, c.Name)
		bytes, gap, _ := t.Progress()
		if err := t.Stop(); err != nil {
			return err
		}
		r.out.line(plain, "transfer", "%s: done, %s each way, longest pause %.1f s", c.Name, size(uint64(bytes)), gap.Seconds())
	}
	return nil
}

// checkTransfer fails unless the transfer moves on, over the uplink asked for.
func (r *run) checkTransfer(ctx context.Context, c TransferCheck, t *Transfer) error {
	before, err := r.l.Counters()
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, aliveTime)
	defer cancel()
	// One chunk may have left before the counters were read.
	if err := t.Alive(waiting, aliveBytes+chunk); err != nil {
		return err
	}
	after, err := r.l.Counters()
	if err != nil {
		return err
	}
	delta := after.Since(before)
	// Only this transfer's chunks are sure to be in the delta when it runs alone.
	left := delta.LeftBy(aliveBytes)
	r.out.line(green, "transfer", "%s: alive on %s  (%s)", c.Name, left, describeCounters(delta))
	if c.Uplink != "" && left != c.Uplink {
		return fmt.Errorf("the transfer left by %q, want %s: %s", left, c.Uplink, describeCounters(delta))
	}
	return nil
}

func describeCounters(c Counters) string {
	var parts []string
	for _, name := range []string{Wan1, Wan2} {
		parts = append(parts, fmt.Sprintf("%s +%d packets, %s", name, c[name].Packets, size(c[name].Bytes)))
	}
	return strings.Join(parts, "; ")
}

// size prints bytes for people.
func size(n uint64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
