package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// state is what one family has of ours.
type state struct {
	names  []string // of tables, in the order in which they are written
	tables map[string]*tableState
}

// tableState is our part of one table.
type tableState struct {
	chains []string
	rules  map[string][]string // a chain's, as iptables-save prints them after "-A chain "
	jumps  []jump              // one for each rule that is there
}

// jump is a built-in chain's rule that jumps to one of ours.
type jump struct{ from, to string }

func newState() *state { return &state{tables: map[string]*tableState{}} }

// table returns our part of the table, an empty one for none.
func (s *state) table(name string) *tableState {
	t := s.tables[name]
	if t == nil {
		t = &tableState{rules: map[string][]string{}}
		s.tables[name] = t
		s.names = append(s.names, name)
	}
	return t
}

// equal reports whether both have the same chains, rules and jumps.
func (s *state) equal(o *state) bool {
	same := func(a, b *state) bool {
		for _, name := range a.names {
			x, y := a.table(name), b.table(name)
			if !slices.Equal(x.chains, y.chains) || !slices.Equal(x.jumps, y.jumps) || !maps.EqualFunc(x.rules, y.rules, slices.Equal) {
				return false
			}
		}
		return true
	}
	return same(s, o) && same(o, s)
}

// wanted is the state that the table asks for.
func wanted(t *actions.Table, f actions.Family) *state {
	s := newState()
	for _, name := range t.XT.Tables() {
		for _, c := range t.XT.Of(f, name) {
			to := s.table(name)
			to.chains = append(to.chains, c.Name)
			to.rules[c.Name] = c.Rules
			for _, h := range c.Hooks {
				to.jumps = append(to.jumps, jump{h, c.Name})
			}
		}
	}
	return s
}

// lacks says what of the table's chains is not there: a chain, one of its rules,
// the jump to it.
func (s *state) lacks(t *actions.Table, f actions.Family) error {
	for i := range t.XT.Chains {
		c := &t.XT.Chains[i]
		if c.Family != f {
			continue
		}
		have := s.table(c.Table)
		if n := len(have.rules[c.Name]); n != len(c.Rules) {
			return fmt.Errorf("iptables %s, table %s: chain %s has %d rules of %d", f, c.Table, c.Name, n, len(c.Rules))
		}
		for _, h := range c.Hooks {
			if !slices.Contains(have.jumps, jump{h, c.Name}) {
				return fmt.Errorf("iptables %s, table %s: the jump from %s to %s is gone", f, c.Table, h, c.Name)
			}
		}
	}
	return nil
}

// read returns what is there with names like ours.
func (a *Applier) read(ctx context.Context, f actions.Family) (*state, error) {
	out, err := run(ctx, "", a.variant.command(f, "-save"))
	if err != nil {
		return nil, err
	}
	return parse(out), nil
}

// parse reads iptables-save.
func parse(text string) *state {
	s := newState()
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"+actions.XPrefix):
			name, _, _ := strings.Cut(line[1:], " ")
			t := s.table(table)
			t.chains = append(t.chains, name)
		case strings.HasPrefix(line, "-A "):
			chain, rule, _ := strings.Cut(line[3:], " ")
			to, plain := strings.CutPrefix(rule, "-j ")
			switch {
			case strings.HasPrefix(chain, actions.XPrefix):
				t := s.table(table)
				t.rules[chain] = append(t.rules[chain], rule)
			case plain && strings.HasPrefix(to, actions.XPrefix):
				t := s.table(table)
				t.jumps = append(t.jumps, jump{chain, to})
			}
		}
	}
	return s
}

// put leads from one state to another: one transaction a table. Only chains in
// made are removed.
func (a *Applier) put(ctx context.Context, f actions.Family, from, to *state, made *Made) error {
	var b strings.Builder
	names := slices.Clone(to.names)
	for _, n := range from.names {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for _, name := range names {
		mine := func(chain string) bool { return has(made.Chains, chainKey(f, name, chain)) }
		if body := transaction(from.table(name), to.table(name), mine); body != "" {
			fmt.Fprintf(&b, "*%s\n%sCOMMIT\n", name, body)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	_, err := run(ctx, b.String(), a.variant.command(f, "-restore"), "-w", lockWait, "--noflush")
	return err
}

// transaction returns one table's lines; "" when there is nothing to do.
func transaction(from, to *tableState, mine func(string) bool) string {
	var b strings.Builder
	for _, c := range to.chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c)
	}
	for _, c := range to.chains {
		for _, r := range to.rules[c] {
			fmt.Fprintf(&b, "-A %s %s\n", c, r)
		}
	}
	for i, j := range from.jumps {
		switch {
		case slices.Contains(to.jumps, j) && !slices.Contains(from.jumps[:i], j): // the one that stays
		case slices.Contains(to.chains, j.to) || mine(j.to):
			fmt.Fprintf(&b, "-D %s -j %s\n", j.from, j.to)
		}
	}
	for _, j := range to.jumps {
		if !slices.Contains(from.jumps, j) {
			fmt.Fprintf(&b, "-I %s 1 -j %s\n", j.from, j.to)
		}
	}
	var gone []string
	for _, c := range from.chains {
		if !slices.Contains(to.chains, c) && mine(c) {
			gone = append(gone, c)
		}
	}
	for _, verb := range []string{"-F", "-X"} { // none is in use when the first goes
		for _, c := range gone {
			fmt.Fprintf(&b, "%s %s\n", verb, c)
		}
	}
	return b.String()
}

// nftTables returns the tables of nftables that iptables-nft writes to, as
// "-4 mangle".
func nftTables() (map[string]bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables netlink socket: %w", err)
	}
	list := map[string]bool{}
	for _, f := range families {
		tables, err := conn.ListTablesOfFamily(nftFamily(f))
		if err != nil {
			return nil, fmt.Errorf("list nft tables: %w", err)
		}
		for _, t := range tables {
			list[f.String()+" "+t.Name] = true
		}
	}
	return list, nil
}

func nftFamily(f actions.Family) nftables.TableFamily {
	if f == actions.IPv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// dropEmpty removes those of the tables, which iptables-nft has made for us,
// that hold nothing but empty built-in chains.
func dropEmpty(names []string) error {
	if len(names) == 0 {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables netlink socket: %w", err)
	}
	for _, f := range families {
		chains, err := conn.ListChainsOfTableFamily(nftFamily(f))
		if err != nil {
			return fmt.Errorf("list nft chains: %w", err)
		}
		tables, err := conn.ListTablesOfFamily(nftFamily(f))
		if err != nil {
			return fmt.Errorf("list nft tables: %w", err)
		}
		for _, t := range tables {
			if !slices.Contains(names, f.String()+" "+t.Name) {
				continue
			}
			if empty, err := isEmpty(conn, t, chains); err != nil {
				return err
			} else if empty {
				conn.DelTable(t)
				if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
					return fmt.Errorf("delete empty table %s %s: %w", f, t.Name, err)
				}
			}
		}
	}
	return nil
}

func isEmpty(conn *nftables.Conn, t *nftables.Table, chains []*nftables.Chain) (bool, error) {
	for _, c := range chains {
		if c.Table.Name != t.Name {
			continue
		}
		if c.Hooknum == nil || c.Policy != nil && *c.Policy != nftables.ChainPolicyAccept {
			return false, nil
		}
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return false, fmt.Errorf("list rules of %s: %w", c.Name, err)
		}
		if len(rules) > 0 {
			return false, nil
		}
	}
	sets, err := conn.GetSets(t)
	if err != nil {
		return false, fmt.Errorf("list sets of %s: %w", t.Name, err)
	}
	return len(sets) == 0, nil
}
