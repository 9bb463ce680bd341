package xtqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/child"
)

// maxErrorText bounds what is quoted of iptables' complaints.
const maxErrorText = 2000

// lockWait is how many seconds another iptables is waited for.
const lockWait = "5"

// families are the programs by family; the second is left out where the kernel
// has no IPv6.
func families() []string {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return []string{"iptables-legacy"}
	}
	return []string{"iptables-legacy", "ip6tables-legacy"}
}

// Usable reports whether the programs are there.
func Usable() bool {
	return !slices.ContainsFunc(families(), func(name string) bool {
		_, err := exec.LookPath(name)
		return err != nil
	})
}

// State is what stands in the mangle tables of our name.
type State uint8

// The states.
const (
	Nothing State = iota
	Other         // something, and not all of it as asked
	Ready
)

// Read compares what is there with c. Where iptables-legacy is missing there is nothing.
func Read(ctx context.Context, c actions.Consult) (State, error) {
	if !Usable() {
		return Nothing, nil
	}
	ready, empty := true, true
	for _, name := range families() {
		lines, err := ours(ctx, name)
		if err != nil {
			return Nothing, err
		}
		ready = ready && slices.Equal(lines, wanted(c))
		empty = empty && len(lines) == 0
	}
	switch {
	case ready:
		return Ready, nil
	case empty:
		return Nothing, nil
	default:
		return Other, nil
	}
}

// wanted is what iptables-save says of a chain that is as it should be.
func wanted(c actions.Consult) []string {
	return append(append([]string{":" + actions.AskChain}, actions.AskJumps()...), c.Rule())
}

// Apply carries out the steps that concern the jump; others are an error.
func Apply(ctx context.Context, s *actions.Step) error {
	var err error
	switch s.Kind {
	case actions.PutQueue:
		err = put(ctx, wanted(s.Consult)[1:])
	case actions.DelQueue:
		err = remove(ctx)
	default:
		err = errors.New("not a step of packet queues")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

func put(ctx context.Context, lines []string) error {
	for _, name := range families() {
		there, err := ours(ctx, name)
		if err != nil {
			return err
		}
		script := "*mangle\n:" + actions.AskChain + " - [0:0]\n" + undo(there) + strings.Join(lines, "\n") + "\nCOMMIT\n"
		if err := restore(ctx, name, script); err != nil {
			return err
		}
	}
	return nil
}

func remove(ctx context.Context) error {
	if !Usable() {
		return nil
	}
	var errs []error
	for _, name := range families() {
		there, err := ours(ctx, name)
		if err == nil && len(there) > 0 {
			// Naming the chain empties it.
			err = restore(ctx, name, "*mangle\n:"+actions.AskChain+" - [0:0]\n"+undo(there)+"-X "+actions.AskChain+"\nCOMMIT\n")
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// undo deletes the jumps that are there.
func undo(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		if rest, ok := strings.CutPrefix(l, "-A "); ok && !strings.HasPrefix(rest, actions.AskChain+" ") {
			b.WriteString("-D " + rest + "\n")
		}
	}
	return b.String()
}

// ours returns the lines of iptables-save about our chain: its declaration
// without its counters, and the rules in it and to it.
func ours(ctx context.Context, name string) ([]string, error) {
	out, err := run(exec.CommandContext(ctx, name+"-save", "-t", "mangle"))
	if err != nil {
		return nil, err
	}
	var list []string
	for l := range strings.Lines(out) {
		l = strings.TrimSpace(l)
		words := strings.Fields(l)
		switch {
		case len(words) < 2:
		case words[0] == ":"+actions.AskChain:
			list = append(list, words[0])
		case words[1] == actions.AskChain, slices.Contains(words, actions.AskChain) && slices.Contains(words, "-j"):
			list = append(list, l)
		}
	}
	return list, nil
}

func restore(ctx context.Context, name, script string) error {
	cmd := exec.CommandContext(ctx, name+"-restore", "--noflush", "-w", lockWait)
	cmd.Stdin = strings.NewReader(script)
	_, err := run(cmd)
	return err
}

func run(cmd *exec.Cmd) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := child.Run(cmd); err != nil {
		said := strings.TrimSpace(complaint.String())
		return "", fmt.Errorf("%s: %w: %s", cmd.Args[0], err, said[:min(len(said), maxErrorText)])
	}
	return out.String(), nil
}
