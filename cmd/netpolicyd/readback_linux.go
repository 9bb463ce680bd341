package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
)

// maxRead bounds the chains whose rules are counted when the table is read back:
// each is a question of its own.
const maxRead = 2000

// ReadBack compares the whole of a plan with what the kernel has: every ip rule, every
// route over a device that is up, the table's sets and chains, and how many rules
// each chain has.
func (v verifier) ReadBack(ctx context.Context, p *actions.Plan) error {
	if err := v.Verify(ctx, p); err != nil {
		return err
	}
	return errors.Join(v.readRoutes(p), readTable(&p.Table))
}

func (v verifier) readRoutes(p *actions.Plan) error {
	host, err := v.ip.ReadHost()
	if err != nil {
		return err
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
		up := slices.ContainsFunc(host.Links, func(l actions.Link) bool { return l.Name == r.Dev && l.Up })
		if up && !slices.Contains(routes, r) {
			return fmt.Errorf("gone: %s", r)
		}
	}
	for _, r := range routes {
		if !slices.Contains(p.IPRoutes, r) {
			return fmt.Errorf("left over: %s", r)
		}
	}
	return nil
}

// countRules asks for a chain's rules and counts them unread: the library can't read
// every expression that ours have, such as "ct original ip saddr".
func countRules(table, chain string) (int, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(table), 0)},
		{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)},
	})
	if err != nil {
		return 0, err
	}
	list, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE,
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{unix.NFPROTO_INET, 0, 0, 0}, attrs...),
	})
	return len(list), err
}

// readTable compares names and numbers; chains that were made when they were first
// needed, and what they hold, are the kernel's alone.
func readTable(t *actions.Table) error {
	if len(t.Chains) == 0 && len(t.Sets) == 0 {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables netlink socket: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list nft chains: %w", err)
	}
	there := map[string]*nftables.Chain{}
	for _, c := range chains {
		if c.Table.Name == t.Name {
			there[c.Name] = c
		}
	}
	for i, c := range t.Chains {
		k := there[c.Name]
		if k == nil {
			return fmt.Errorf("chain %s is not there", c.Name)
		}
		if i >= maxRead {
			continue
		}
		n, err := countRules(k.Table.Name, k.Name)
		if err != nil {
			return fmt.Errorf("list the rules of chain %s: %w", c.Name, err)
		}
		if n != len(c.Rules) {
			return fmt.Errorf("chain %s has %d rules, want %d", c.Name, n, len(c.Rules))
		}
	}
	sets, err := conn.GetSets(&nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet})
	if err != nil {
		return fmt.Errorf("list nft sets: %w", err)
	}
	for _, s := range t.Sets {
		if !slices.ContainsFunc(sets, func(k *nftables.Set) bool { return k.Name == s.Name }) {
			return fmt.Errorf("set %s is not there", s.Name)
		}
	}
	return nil
}
