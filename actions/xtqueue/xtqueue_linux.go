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

// Read compares what is there with l. Where iptables-legacy is missing there is nothing.
func Read(ctx context.Context, l actions.Legacy) (State, error) {
	if !Usable() {
		return Nothing, nil
	}
	ready, empty := true, true
	for _, name := range families() {
		lines, err := ours(ctx, name)
		if err != nil {
			return Nothing, err
		}
		ready = ready && slices.Equal(lines, wanted(l))
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

// wanted is what iptables-save says of chains that are as they should be.
func wanted(l actions.Legacy) (list []string) {
	for _, c := range l.Chains() {
		list = append(list, ":"+c)
	}
	return append(list, l.Rules()...)
}

// Apply carries out the steps that concern the jump; others are an error.
func Apply(ctx context.Context, s *actions.Step) error {
	var err error
	switch s.Kind {
	case actions.PutQueue:
		err = put(ctx, s.Legacy)
	case actions.DelQueue:
		if Usable() {
			err = put(ctx, actions.Legacy{})
		}
	default:
		err = errors.New("not a step of packet queues")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

// put brings it about that l, and nothing else of ours, is there.
func put(ctx context.Context, l actions.Legacy) error {
	var errs []error
	for _, name := range families() {
		there, err := ours(ctx, name)
		if err == nil && len(there)+len(l.Chains()) > 0 {
			err = restore(ctx, name, script(there, l))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// script leads from there to l. Naming a chain makes it, or empties it.
func script(there []string, l actions.Legacy) string {
	var b strings.Builder
	var gone []string
	b.WriteString("*mangle\n")
	for _, c := range actions.LegacyChains() {
		wanted := slices.Contains(l.Chains(), c)
		if wanted || slices.Contains(there, ":"+c) {
			b.WriteString(":" + c + " - [0:0]\n")
		}
		if !wanted && slices.Contains(there, ":"+c) {
			gone = append(gone, "-X "+c)
		}
	}
	b.WriteString(undo(there))
	for _, line := range slices.Concat(l.Rules(), gone, []string{"COMMIT"}) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// undo deletes the jumps that are there.
func undo(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		if rest, ok := strings.CutPrefix(l, "-A "); ok && !ourChain(strings.Fields(rest)[0]) {
			b.WriteString("-D " + rest + "\n")
		}
	}
	return b.String()
}

func ourChain(name string) bool { return slices.Contains(actions.LegacyChains(), name) }

// ours returns the lines of iptables-save about our chains: their declarations
// without their counters, and the rules in them and to them.
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
		case ourChain(strings.TrimPrefix(words[0], ":")):
			list = append(list, words[0])
		case ourChain(words[1]), slices.ContainsFunc(words, ourChain) && slices.Contains(words, "-j"):
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
