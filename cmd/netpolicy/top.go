package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/internal/cli"
	"netpolicy.dev/netpolicy/internal/top"
)

const (
	// onceWidth is the width of what --once prints, for files and scripts.
	onceWidth = 120
	// leastEvery keeps a screen from asking the daemon all the time.
	leastEvery = 200 * time.Millisecond
	// lookTime is how long an answer of the daemon may take before that is said.
	lookTime = 5 * time.Second
)

func newTopCmd() *cobra.Command {
	var (
		f      daemonFlags
		once   bool
		last   int
		order  string
		filter string
		every  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show uplinks and the busiest connections, live",
		Long: `Show the uplinks with their states, and below them the connections that the daemon follows: name, process, route
(* where an established connection stays on a former route), round-trip time in milliseconds, bytes a second, rule.

Keys: q quit, s next order (bytes, rate, rtt, age), / filter by name, process, rule, route or address, p pause,
arrows choose, enter shows why the chosen connection is decided as it is, esc closes that.

Bytes of forwarded connections are those of conntrack: net.netfilter.nf_conntrack_acct has to be 1.`,
		Example: `  netpolicy top
  netpolicy top --once --sort rtt -n 10
  netpolicy top -o json | jq '.flows.flows[].name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(f.output); err != nil { // before what needs a terminal
				return err
			}
			switch {
			case !slices.Contains(api.Orders, order):
				return fmt.Errorf("--sort %q: want %s", order, strings.Join(api.Orders, ", "))
			case last < 1 || last > api.MaxFlows:
				return fmt.Errorf("-n %d: want 1 to %d connections", last, api.MaxFlows)
			case every < leastEvery:
				return fmt.Errorf("--every %s: want at least %s", every, leastEvery)
			}
			once = once || f.output == "json"
			out, isFile := cli.File(cmd.OutOrStdout())
			if !once && (!isFile || !isTerminal(out)) {
				return errors.New("the screen needs a terminal; --once prints one look at it")
			}
			return f.ask(func(ctx context.Context, c *api.Client, w io.Writer) error {
				if once {
					return topOnce(ctx, c, w, &f, api.FlowsRequest{Sort: order, Limit: last, Match: filter})
				}
				if _, err := c.Status(ctx); err != nil { // said before the screen is taken
					return err
				}
				m := top.New(80, 24, os.Getenv("NO_COLOR") == "").By(order).Matching(filter)
				return runScreen(ctx, c, m, every, cmd.InOrStdin(), out)
			})(cmd, args)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&once, "once", false, "print one look as plain text, and end")
	cmd.Flags().IntVarP(&last, "lines", "n", 20, "with --once or -o json: at most `N` connections")
	cmd.Flags().StringVar(&order, "sort", api.ByRate, "bytes, rate, rtt or age")
	cmd.Flags().StringVar(&filter, "filter", "", "only connections whose name, process, rule, route or address contains `TEXT`")
	cmd.Flags().DurationVar(&every, "every", time.Second, "time between looks")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(api.Orders, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// runScreen shows the model in a terminal until the user leaves or ctx ends.
func runScreen(ctx context.Context, c *api.Client, m top.Model, every time.Duration, in io.Reader, out io.Writer) error {
	s := screen{
		Model: m, every: every,
		look: func(q api.FlowsRequest) (top.Look, error) { return lookAt(ctx, c, q) },
		why: func(facts json.RawMessage) (json.RawMessage, error) {
			ctx, cancel := context.WithTimeout(ctx, lookTime)
			defer cancel()
			return c.Explain(ctx, api.ExplainRequest{Flow: facts})
		},
	}
	_, err := tea.NewProgram(s, tea.WithContext(ctx), tea.WithoutSignalHandler(), tea.WithInput(in), tea.WithOutput(out)).Run()
	if ctx.Err() != nil {
		return nil // ended from outside
	}
	return err
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// topOnce prints one look.
func topOnce(ctx context.Context, c *api.Client, w io.Writer, f *daemonFlags, q api.FlowsRequest) error {
	l, err := lookAt(ctx, c, q)
	if err != nil {
		return err
	}
	return f.print(w, l, func() {
		io.WriteString(w, top.New(onceWidth, 0, false).By(q.Sort).Matching(q.Match).Looked(l, nil).Once())
	})
}

// lookAt asks the daemon once.
func lookAt(ctx context.Context, c *api.Client, q api.FlowsRequest) (l top.Look, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if l.Status, err = c.Status(ctx); err != nil {
		return l, err
	}
	l.Flows, err = c.Flows(ctx, q)
	return l, err
}

// screen runs a top.Model in a terminal.
type screen struct {
	top.Model
	every time.Duration
	look  func(api.FlowsRequest) (top.Look, error)
	why   func(facts json.RawMessage) (json.RawMessage, error)
}

type (
	lookedMsg struct {
		q    api.FlowsRequest
		look top.Look
		err  error
		due  bool // the one that brings the next
	}
	explainedMsg struct {
		facts, answer json.RawMessage
		err           error
	}
	dueMsg struct{}
)

// Init implements tea.Model.
func (s screen) Init() tea.Cmd { return s.ask(true) }

// ask looks at the daemon. due is set for the looks that follow one another:
// there is one such chain, and at most one request of it at a time.
func (s screen) ask(due bool) tea.Cmd {
	q := s.Request()
	return func() tea.Msg {
		l, err := s.look(q)
		return lookedMsg{q, l, err, due}
	}
}

func (s screen) explain() tea.Cmd {
	facts, ok := s.Chosen()
	if !ok {
		return nil
	}
	return func() tea.Msg {
		answer, err := s.why(facts)
		return explainedMsg{facts, answer, err}
	}
}

// Update implements tea.Model.
func (s screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.Model = s.Sized(msg.Width, msg.Height)
	case tea.KeyPressMsg:
		var wish top.Wish
		s.Model, wish = s.Key(msg.String())
		switch wish {
		case top.Quit:
			return s, tea.Quit
		case top.Refresh:
			return s, s.ask(false)
		case top.Explain:
			return s, s.explain()
		}
	case lookedMsg:
		// What a key asked for comes in a pause, too.
		if msg.q == s.Request() && !(msg.due && s.Paused()) {
			s.Model = s.Looked(msg.look, msg.err)
		}
		if msg.due {
			return s, tea.Tick(s.every, func(time.Time) tea.Msg { return dueMsg{} })
		}
	case dueMsg:
		if s.Paused() {
			return s, tea.Tick(s.every, func(time.Time) tea.Msg { return dueMsg{} })
		}
		return s, s.ask(true)
	case explainedMsg:
		s.Model = s.Explained(msg.facts, msg.answer, msg.err)
	}
	return s, nil
}

// View implements tea.Model.
func (s screen) View() tea.View {
	v := tea.NewView(s.Model.View())
	v.AltScreen = true
	return v
}
