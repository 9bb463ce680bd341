package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/recorder"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/sim"
)

// replaying is what `netpolicy replay` is asked for.
type replaying struct {
	config, against string
	output          string
	changes         bool // exit 1 when there are some
	most            int
}

func newReplayCmd() *cobra.Command {
	var r replaying
	cmd := &cobra.Command{
		Use:   "replay --config FILE [--against FILE] RECORDING...",
		Short: "Decide recorded traffic by a candidate policy",
		Long: `Replay takes what netpolicyd --record wrote (a directory, or files of it; also the
state directory's journal.ndjson) and runs it under a policy: the lines' health as
it was measured, and every flow that was decided, with the facts that were known
of it then. It tells which rules decided how many, and each change of state.

With --against, the same is run under another policy, such as the one in force,
and the flows are listed that the two do not treat alike.`,
		Example: `  netpolicy replay --config new.yaml /var/lib/netpolicy/recordings
  netpolicy replay --config new.yaml --against /etc/netpolicy/policy.yaml --fail-on-change recordings`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(r.output); err != nil {
				return err
			}
			if r.changes && r.against == "" {
				return errors.New("--fail-on-change needs --against FILE")
			}
			return r.run(cmd, args)
		},
	}
	cmd.Flags().StringVar(&r.config, "config", "", "the candidate policy `file`")
	cmd.Flags().StringVar(&r.against, "against", "", "the policy `file` to compare it with")
	cmd.Flags().StringVarP(&r.output, "output", "o", "text", "text or json")
	cmd.Flags().BoolVar(&r.changes, "fail-on-change", false, "exit with 1 when a flow or a state differs")
	cmd.Flags().IntVar(&r.most, "limit", 100, "list at most so many differences; 0: all")
	require(cmd, "config")
	return cmd
}

// replayed is one policy's run of a recording.
type replayed struct {
	policy *rules.Policy
	player *sim.Replayer
	rules  map[string]int // flows by what decided them
	moves  []string       // changes of state
}

const (
	maxMoves    = 10_000 // changes of state that are kept to be told
	maxWarnings = 10     // lines that can't be read, and are told of
)

func newReplayed(p *rules.Policy) *replayed {
	return &replayed{policy: p, player: sim.NewReplayer(p), rules: map[string]int{}, moves: []string{}}
}

// note takes account of what happened, and returns the flow's decision in it, if any.
func (r *replayed) note(list []sim.Entry) (decided *sim.Decided) {
	for _, e := range list {
		if e.Decided != nil {
			decided = e.Decided
			name := "default"
			if i := decided.Decision.Rule; i >= 0 {
				name = r.policy.Rules[i].Name
			}
			r.rules[name]++
		} else if len(r.moves) < maxMoves {
			r.moves = append(r.moves, fmt.Sprintf("%s %s", e.At, sim.Describe(r.policy, e)))
		}
	}
	return decided
}

// replayJSON is the answer of `replay -o json`.
type replayJSON struct {
	Flows     int            `json:"flows"`
	Bad       int            `json:"bad_lines"`
	Rules     map[string]int `json:"rules"`
	Moves     []string       `json:"transitions"`
	Changed   int            `json:"changed"`
	Changes   []changeJSON   `json:"changes,omitempty"`
	MovesDiff bool           `json:"transitions_differ,omitempty"`
}

type changeJSON struct {
	Flow json.RawMessage `json:"flow"`
	Was  string          `json:"was"`
	Is   string          `json:"is"`
	text string
}

func (r *replaying) run(cmd *cobra.Command, paths []string) error {
	policy, err := loadPolicy(r.config, cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	now := newReplayed(policy)
	var before *replayed
	if r.against != "" {
		old, err := loadPolicy(r.against, cmd.InOrStdin(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		before = newReplayed(old)
	}
	names, err := recorder.Files(paths...)
	if err != nil {
		return cli.Fail(cmd, err)
	}
	var out replayJSON
	for _, name := range names {
		if err := r.file(cmd.ErrOrStderr(), name, now, before, &out); err != nil {
			return cli.Fail(cmd, err)
		}
	}
	out.Rules, out.Moves = now.rules, now.moves
	out.MovesDiff = before != nil && !slices.Equal(before.moves, now.moves)
	if err := r.print(cmd.OutOrStdout(), &out, policy, before != nil); err != nil {
		return err
	}
	if r.changes && (out.Changed > 0 || out.MovesDiff) {
		return cli.Errors
	}
	return nil
}

// file replays one file. A line that can't be read is told and passed over.
func (r *replaying) file(stderr io.Writer, name string, now, before *replayed, out *replayJSON) error {
	in, err := recorder.File(name)
	if err != nil {
		return err
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), flow.MaxRecord+1024)
	for number := 1; lines.Scan(); number++ {
		then, err := now.player.Line(lines.Bytes())
		var once []sim.Entry
		if before != nil && err == nil {
			once, err = before.player.Line(lines.Bytes())
		}
		if err != nil {
			if out.Bad++; out.Bad <= maxWarnings {
				fmt.Fprintf(stderr, "warning: %s:%d: %v\n", name, number, err)
			}
			continue
		}
		is := now.note(then)
		var was *sim.Decided
		if before != nil {
			was = before.note(once)
		}
		if is == nil {
			continue
		}
		out.Flows++
		if was == nil {
			continue
		}
		a, b := sim.Outcome(before.policy, was.Decision), sim.Outcome(now.policy, is.Decision)
		if a == b {
			continue
		}
		if out.Changed++; r.most == 0 || len(out.Changes) < r.most {
			out.Changes = append(out.Changes, changeJSON{
				Flow: is.Flow.AppendJSON(nil), text: is.Flow.String(),
				Was: sim.DescribeDecision(before.policy, was.Decision), Is: sim.DescribeDecision(now.policy, is.Decision),
			})
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read recording %s: %w", name, err)
	}
	return nil
}

func (r *replaying) print(w io.Writer, out *replayJSON, p *rules.Policy, compared bool) error {
	if r.output == "json" {
		return json.NewEncoder(w).Encode(out)
	}
	var b strings.Builder
	for _, c := range out.Changes {
		fmt.Fprintf(&b, "%s\n  was %s\n  is  %s\n", c.text, c.Was, c.Is)
	}
	if n := out.Changed - len(out.Changes); n > 0 {
		fmt.Fprintf(&b, "and %s more\n", plural(n, "flow"))
	}
	fmt.Fprintf(&b, "%s, %s", plural(out.Flows, "flow"), plural(len(out.Moves), "transition"))
	if compared {
		fmt.Fprintf(&b, "; %s treated otherwise", plural(out.Changed, "flow"))
		if out.MovesDiff {
			b.WriteString("; transitions differ")
		}
	}
	b.WriteByte('\n')
	for i := range p.Rules {
		fmt.Fprintf(&b, "%8d  %s\n", out.Rules[p.Rules[i].Name], p.Rules[i].Name)
	}
	fmt.Fprintf(&b, "%8d  default\n", out.Rules["default"])
	for _, m := range out.Moves {
		fmt.Fprintf(&b, "%s\n", m)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
