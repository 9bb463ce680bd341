// Package fake is a kernel in memory: it takes the same steps and updates as
// the real appliers, and sends packets through the planned table, rules and
// routes. It has the semantics of nftables as far as plans use them; time does
// not pass in it (Expire).
package fake

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/flow"
)

// maxDepth is the kernel's limit of nested chains (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// Kernel is the state that appliers write to. The zero Kernel is empty.
type Kernel struct {
	Rules  []actions.IPRule
	Routes []actions.IPRoute
	Table  *actions.Table // nil: none
	Jump   actions.Legacy // iptables' jumps to the queues, zero for none
	// Answer, if set, is the daemon: it returns the answer code for a packet that it
	// is asked about, and whether that goes on.
	Answer func(*Packet) (code uint32, ok bool)
	// Hello, if set, is the daemon that answers for packets that are held.
	Hello func(*Packet) (code uint32)
	// Listening says that the relay's sockets are there.
	Listening bool

	chains map[string]*actions.Chain
	sets   map[string]map[string]string // set -> key -> verdict
	queue  *actions.Stmt                // the statement that handed out the last packet
}

// Apply carries out steps as the real appliers do.
func (k *Kernel) Apply(ctx context.Context, steps []actions.Step) error {
	for _, s := range steps {
		switch s.Kind {
		case actions.AddRoute:
			if !slices.Contains(k.Routes, s.Route) {
				k.Routes = append(k.Routes, s.Route)
			}
		case actions.DelRoute:
			k.Routes = slices.DeleteFunc(k.Routes, func(r actions.IPRoute) bool { return r == s.Route })
		case actions.AddRule:
			if !slices.Contains(k.Rules, s.Rule) {
				k.Rules = append(k.Rules, s.Rule)
			}
		case actions.DelRule:
			k.Rules = slices.DeleteFunc(k.Rules, func(r actions.IPRule) bool { return r == s.Rule })
		case actions.PutTable:
			k.load(s.Table)
		case actions.PutChanges:
			if err := k.change(s.Changes); err != nil {
				return err
			}
			k.Table = s.Table
		case actions.DelTable:
			k.Table, k.chains, k.sets = nil, nil, nil
		case actions.PutQueue:
			k.Jump = s.Legacy
		case actions.DelQueue:
			k.Jump = actions.Legacy{}
		default:
			if err := k.Update(ctx, s.Updates); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *Kernel) load(t *actions.Table) {
	k.Table = t
	k.chains, k.sets = map[string]*actions.Chain{}, map[string]map[string]string{}
	for i := range t.Chains {
		k.chains[t.Chains[i].Name] = &t.Chains[i]
	}
	for i := range t.Sets {
		k.sets[t.Sets[i].Name] = map[string]string{}
		for _, e := range t.Sets[i].Elems {
			k.sets[t.Sets[i].Name][e.Key] = e.Value
		}
	}
}

// change makes the changes. Like the kernel it refuses to remove what is in use.
func (k *Kernel) change(c *actions.Changes) error {
	for _, s := range c.Sets {
		k.sets[s.Name] = map[string]string{}
		for _, e := range s.Elems {
			k.sets[s.Name][e.Key] = e.Value
		}
	}
	for i := range c.Chains {
		k.chains[c.Chains[i].Name] = &c.Chains[i]
	}
	for _, name := range c.Empty {
		clear(k.sets[name])
	}
	if err := k.Update(context.Background(), c.Elems); err != nil {
		return err
	}
	for _, name := range c.Gone.Chains {
		delete(k.chains, name)
	}
	for _, name := range c.Gone.Sets {
		delete(k.sets, name)
	}
	for set, elems := range k.sets {
		for key, value := range elems {
			if _, chain, ok := strings.Cut(value, " "); ok && k.chains[chain] == nil {
				return fmt.Errorf("element %s of %s leads to chain %q, which is gone", key, set, chain)
			}
		}
	}
	return nil
}

// Update makes the updates. Like the kernel it refuses elements that jump to no chain.
func (k *Kernel) Update(_ context.Context, updates []actions.Update) error {
	for _, u := range updates {
		if u.Kind == actions.PutChain {
			if k.chains[u.Chain.Name] == nil {
				c := u.Chain
				k.chains[c.Name] = &c
			}
			continue
		}
		set := k.sets[u.Set]
		if set == nil {
			return fmt.Errorf("%s: no such set", u)
		}
		if u.Kind == actions.DelElem {
			delete(set, u.Elem.Key)
			continue
		}
		if _, chain, ok := strings.Cut(u.Elem.Value, " "); ok && k.chains[chain] == nil {
			return fmt.Errorf("%s: no such chain", u)
		}
		set[u.Elem.Key] = u.Elem.Value
	}
	return nil
}

// Elems returns a set's elements, key to verdict. Do not modify.
func (k *Kernel) Elems(set string) map[string]string { return k.sets[set] }

// Expire removes all elements of a set, as time does.
func (k *Kernel) Expire(set string) { clear(k.sets[set]) }

// Packet is a packet with its connection, as a hook sees it.
type Packet struct {
	In           string // "" for the host's own
	Out          string // for the host's own: where it would leave
	Proto        uint8
	Src, Dst     netip.Addr
	Sport, Dport uint16
	DSCP         uint8
	Mark         uint32
	UID          uint32
	HasUID       bool
	Broadcast    bool
	Local        bool // the destination is this host
	New, Reply   bool
	CTMark       uint32
	Labels       map[uint32]bool // connection labels; made when needed
	asked        bool
	rank         uint32
	logs         []string
	deep         int
}

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts.
const (
	Accept Verdict = iota
	Drop
	Reject
)

func (v Verdict) String() string { return [...]string{"accept", "drop", "reject"}[v] }

// Result is a packet after the table, and where routing sends it.
type Result struct {
	Verdict Verdict
	Mark    uint32
	CTMark  uint32
	DSCP    uint8
	Rank    uint32 // the packet's priority: 0 again when decided
	Logs    []string
	// Dev is the device by which it leaves; "" when the main table (or a table
	// of the user's) decides, Unreachable when ours says so.
	Dev         string
	Unreachable bool
	Err         error // the table asked for something that is not there
}

// Send sends one packet through the table and the rules.
func (k *Kernel) Send(p Packet) Result {
	r := Result{Mark: p.Mark, CTMark: p.CTMark, DSCP: p.DSCP}
	if k.Table != nil {
		base := "pre"
		if p.In == "" {
			base = "out"
		}
		if p.Labels == nil {
			p.Labels = map[uint32]bool{}
		}
		out := k.ask(base, &p)
		if !out.final {
			out = k.run(base, &p)
		}
		r = Result{Verdict: out.verdict, Mark: p.Mark, CTMark: p.CTMark, DSCP: p.DSCP, Rank: p.rank, Logs: p.logs, Err: out.err}
	}
	if r.Verdict == Accept {
		r.Dev, r.Unreachable = k.route(&p)
		if p.In != "" && !p.Local && k.chains["hello_fwd"] != nil {
			dev, gone := r.Dev, r.Unreachable
			out := k.hello(&p)
			r = Result{Verdict: out.verdict, Mark: p.Mark, CTMark: p.CTMark, DSCP: p.DSCP, Rank: p.rank, Logs: p.logs, Dev: dev, Unreachable: gone, Err: out.err}
		}
	}
	return r
}

// ask runs the hook before the deciding one, where there is one, and hands the
// packet to the daemon.
func (k *Kernel) ask(base string, p *Packet) outcome {
	if k.chains["ask_"+base] == nil {
		return outcome{}
	}
	if out := k.run("ask_"+base, p); out.final && !p.asked {
		return out
	}
	bypass := !k.Jump.Consult.Strict
	if j := k.Jump.Consult; j.Via == actions.LegacyQueue {
		p.asked = p.CTMark&j.Mask == j.Mark
	} else if s := k.queue; s != nil {
		bypass = strings.Contains(s.Target, "bypass")
	}
	switch {
	case !p.asked:
	case k.Answer != nil:
		code, ok := k.Answer(p)
		p.rank = code
		return outcome{final: !ok, verdict: Drop}
	case !bypass:
		return outcome{final: true, verdict: Drop}
	}
	return outcome{}
}

// hello runs the hooks of a forwarded packet, and asks the daemon in between.
func (k *Kernel) hello(p *Packet) outcome {
	p.asked = false
	if out := k.run("hello_fwd", p); out.final {
		return out
	}
	bypass := !k.Jump.Hello.Strict
	if j := k.Jump.Hello; j.Via == actions.LegacyQueue {
		p.asked = p.Mark&j.Mark == j.Mark
	} else if s := k.queue; s != nil {
		bypass = strings.Contains(s.Target, "bypass")
	}
	switch {
	case !p.asked:
	case k.Hello != nil:
		p.rank = k.Hello(p)
	case !bypass:
		return outcome{final: true, verdict: Drop}
	}
	return k.run("hello_end", p)
}

// outcome of a chain: final, or go on after the jump.
type outcome struct {
	final   bool
	verdict Verdict
	err     error
}

func (k *Kernel) run(name string, p *Packet) outcome {
	c := k.chains[name]
	if c == nil {
		return outcome{true, Accept, fmt.Errorf("no chain %q", name)}
	}
	if p.deep++; p.deep > maxDepth {
		return outcome{true, Accept, fmt.Errorf("more than %d nested chains at %q", maxDepth, name)}
	}
	defer func() { p.deep-- }()
rules:
	for i := range c.Rules {
		for j := range c.Rules[i].If {
			if !k.match(&c.Rules[i].If[j], p) {
				continue rules
			}
		}
		for _, s := range c.Rules[i].Do {
			verb, target, stop := k.do(&s, p)
			if stop {
				continue rules
			}
			switch verb {
			case "":
			case "return":
				return outcome{}
			case "drop":
				return outcome{final: true, verdict: Drop}
			case "reject":
				return outcome{final: true, verdict: Reject}
			case "goto":
				return k.run(target, p)
			default: // jump
				if o := k.run(target, p); o.final || o.err != nil {
					return o
				}
			}
		}
	}
	return outcome{}
}

// do carries a statement out. stop means that the rule ends here (NFT_BREAK).
func (k *Kernel) do(s *actions.Stmt, p *Packet) (verb, target string, stop bool) {
	switch s.Kind {
	case actions.SetRank:
		p.rank = s.Value
	case actions.SetMark:
		p.Mark = p.Mark&^s.Mask | s.Value
	case actions.SetCTMark:
		p.CTMark = p.CTMark&^s.Mask | s.Value
	case actions.SetLabel:
		p.Labels[s.Value] = true
	case actions.SetDSCP4, actions.SetDSCP6:
		p.DSCP = uint8(s.Value)
	case actions.Log:
		p.logs = append(p.logs, s.Target)
	case actions.TProxy:
		return "", "", !k.Listening
	case actions.Queue:
		p.asked, k.queue = true, s
		return "return", "", false
	case actions.Goto:
		return "goto", s.Target, false
	case actions.Jump:
		return "jump", s.Target, false
	case actions.Return:
		return "return", "", false
	case actions.Drop:
		return "drop", "", false
	case actions.RejectTCP, actions.RejectAny:
		return "reject", "", false
	case actions.MapRank:
		value, ok := k.lookup(s, p)
		rank, err := strconv.ParseUint(value, 0, 32)
		if !ok || err != nil {
			return "", "", true
		}
		p.rank = uint32(rank)
	case actions.Lookup:
		verdict, ok := k.lookup(s, p)
		if !ok {
			return "", "", true
		}
		verb, target, _ := strings.Cut(verdict, " ")
		return verb, target, false
	}
	return "", "", false
}

// lookup returns what the map has for the packet.
func (k *Kernel) lookup(s *actions.Stmt, p *Packet) (string, bool) {
	mask := s.Mask
	if mask == 0 {
		mask = ^uint32(0)
	}
	elems := k.sets[s.Target]
	exact := func(key string) (string, bool) {
		v, ok := elems[key]
		return v, ok
	}
	switch s.Key {
	case actions.KeySrc, actions.KeyDst:
		addr := p.Src
		if s.Key == actions.KeyDst {
			addr = p.Dst
		}
		if addr.Is6() != s.V6 {
			return "", false
		}
		if v, ok := exact(addr.String()); ok {
			return v, true
		}
		for key, v := range elems {
			if inRange(key, addr) {
				return v, true
			}
		}
		return "", false
	case actions.KeyRank:
		return exact(fmt.Sprintf("%#x", p.rank&mask))
	case actions.KeyCTMark:
		return exact(fmt.Sprintf("%#x", p.CTMark&mask))
	default:
		n, ok := number(&actions.Match{Key: s.Key, V6: s.V6}, p)
		if !ok {
			return "", false
		}
		for key, v := range elems {
			lo, hi, found := strings.Cut(key, "-")
			if !found {
				hi = lo
			}
			a, errA := strconv.ParseUint(lo, 0, 32)
			b, errB := strconv.ParseUint(hi, 0, 32)
			if errA == nil && errB == nil && uint64(n) >= a && uint64(n) <= b {
				return v, true
			}
		}
		return "", false
	}
}

// inRange reports whether an element of an interval set holds the address.
func inRange(key string, addr netip.Addr) bool {
	if lo, hi, ok := strings.Cut(key, "-"); ok {
		return netip.MustParseAddr(lo).Compare(addr) <= 0 && addr.Compare(netip.MustParseAddr(hi)) <= 0
	}
	p, err := netip.ParsePrefix(key)
	return err == nil && p.Contains(addr)
}

// match evaluates one condition. A fact that the packet does not have fails it,
// whatever the comparison.
func (k *Kernel) match(m *actions.Match, p *Packet) bool {
	var text string
	var n uint32
	switch m.Key {
	case actions.KeyNFProto:
		n, text = 2, "ipv4"
		if p.Dst.Is6() {
			n, text = 10, "ipv6"
		}
	case actions.KeySrc, actions.KeyDst:
		addr := p.Src
		if m.Key == actions.KeyDst {
			addr = p.Dst
		}
		if addr.Is6() != m.V6 {
			return false
		}
		in := slices.ContainsFunc(m.Prefixes, func(x netip.Prefix) bool { return x.Contains(addr) })
		return in == (m.Op == actions.Is)
	case actions.KeyIifname:
		return slices.Contains(m.Texts, p.In) == (m.Op == actions.Is)
	case actions.KeyOifname:
		return slices.Contains(m.Texts, p.Out) == (m.Op == actions.Is)
	case actions.KeyDstType:
		is := p.Broadcast && slices.Contains(m.Texts, "broadcast") || p.Local && slices.Contains(m.Texts, "local")
		return is == (m.Op == actions.Is)
	case actions.KeyCTLabel:
		return p.Labels[m.Nums[0].Lo]
	default:
		var ok bool
		if n, ok = number(m, p); !ok {
			return false
		}
		text = strconv.FormatUint(uint64(n), 10)
	}
	if m.Set != "" && len(m.Nums) == 0 {
		_, in := k.sets[m.Set][text]
		return in == (m.Op == actions.Is)
	}
	if m.Mask != 0 {
		n &= m.Mask
	}
	switch m.Op {
	case actions.Above:
		return n > m.Nums[0].Lo
	case actions.Below:
		return n < m.Nums[0].Lo
	default:
		in := slices.ContainsFunc(m.Nums, func(r actions.Range) bool { return r.Lo <= n && n <= r.Hi })
		return in == (m.Op == actions.Is)
	}
}

// number loads a numeric key.
func number(m *actions.Match, p *Packet) (uint32, bool) {
	switch m.Key {
	case actions.KeyL4Proto:
		return uint32(p.Proto), true
	case actions.KeySrcPort:
		return uint32(p.Sport), true
	case actions.KeyDstPort:
		return uint32(p.Dport), true
	case actions.KeyIif:
		if p.In == "" {
			return 0, true
		}
		return 1, true
	case actions.KeyDSCP:
		return uint32(p.DSCP), p.Dst.Is6() == m.V6
	case actions.KeyMark:
		return p.Mark, true
	case actions.KeyCTMark:
		return p.CTMark, true
	case actions.KeyCTState:
		if p.New {
			return actions.CTNew, true
		}
		return 0, true
	case actions.KeyCTDir:
		if p.Reply {
			return actions.CTReply, true
		}
		return actions.CTOriginal, true
	case actions.KeyRank:
		return p.rank, true
	case actions.KeyUID:
		return p.UID, p.HasUID
	default:
		f := flow.Flow{Src: flow.Some(p.Src), Dst: flow.Some(p.Dst)}
		if m.Key == actions.KeyHash {
			f.SrcPort, f.DstPort = flow.Some(p.Sport), flow.Some(p.Dport)
		}
		return flow.Bucket(flow.Hash(&f), 100), p.Dst.Is6() == m.V6
	}
}

// route does what ip rules and our tables do with the packet.
func (k *Kernel) route(p *Packet) (dev string, unreachable bool) {
	family := actions.IPv4
	if p.Dst.Is6() {
		family = actions.IPv6
	}
	rules := slices.Clone(k.Rules)
	slices.SortStableFunc(rules, func(a, b actions.IPRule) int { return a.Priority - b.Priority })
	for _, r := range rules {
		if r.Family != family || p.Mark&r.Mask != r.Mark {
			continue
		}
		best := -1
		for i, x := range k.Routes {
			if x.Family != family || x.Table != r.Table || !x.Dst.Contains(p.Dst) {
				continue
			}
			if best < 0 || x.Dst.Bits() > k.Routes[best].Dst.Bits() ||
				x.Dst.Bits() == k.Routes[best].Dst.Bits() && x.Metric < k.Routes[best].Metric {
				best = i
			}
		}
		if best >= 0 {
			return k.Routes[best].Dev, k.Routes[best].Unreachable
		}
	}
	return "", false
}
