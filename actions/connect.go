package actions

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

const (
	// maxConnectPrefixes bounds the prefixes of a Connect: some 10 MiB of kernel memory.
	maxConnectPrefixes = 1 << 16
	// maxConnectDecisions bounds the work: a quarter of a second.
	maxConnectDecisions = 1 << 18
	// MaxRefusals is how many conditions a list of a Connect holds: the kernel looks at each.
	MaxRefusals = 16
	// MaxMarks is how many marks of their own routes may have.
	MaxMarks = 16
	// maxProgramName is what the kernel keeps of a program's name (TASK_COMM_LEN, 16 with its NUL).
	maxProgramName = 15
	// maxNames bounds the programs and the users that are told apart.
	maxNames = 1024
)

// AnyName in a Refusal means whatever the name is; 0 means one that is not among
// those of the policy.
const AnyName = -1

// nobody is no name: the kernel ends names with it.
const nobody = "\x00"

// Connect is the part of a policy that is certain when a local program connects:
// which destinations, ports, programs and users are blocked whatever else there
// is to learn of the flow. What it does not refuse is not thereby allowed: the
// table decides it, as it does everything where there is no Connect.
//
// The answer for a destination is in the list of the longest prefix that holds it.
type Connect struct {
	// Mask are the bits of the packet mark by which sockets are exempt, as in the table;
	// and so are those with one of Marks, at most MaxMarks.
	Mask     uint32
	Marks    []uint32
	Dst      []ConnectDst // ordered by address, then length
	Lists    [][]Refusal  // Lists[0] is empty
	Programs []string     // the program n of a Refusal is Programs[n-1]
	Users    []uint32     // likewise
	// Left counts what is certain and left to the table nevertheless, for want of room.
	Left int
}

// ConnectDst is a prefix with the index of its list.
type ConnectDst struct {
	Prefix netip.Prefix
	List   int
}

// Refusal is one condition under which a connection is refused.
type Refusal struct {
	Proto         uint8 // 6 or 17; 0: both
	Lo, Hi        uint16
	Program, User int
	// Log is the prefix under which the refusal is to be logged; "": it is not.
	Log string
}

// ConnectFor compiles what of the program is certain at connect in the world w. It
// asks the engine itself, for each part of the space of destinations, programs,
// users, protocols and ports in which the policy does not tell one point from
// another, with all other facts unknown: what is final then is final always.
func ConnectFor(prog *engine.Program, h *Host, w *state.World) *Connect {
	p := prog.Policy()
	c := &connector{
		prog: prog, world: w, left: maxConnectDecisions, users: map[string]uint32{}, own: map[netip.Addr]bool{},
		otherProgram: flow.Some(nobody), otherUser: flow.Some(nobody),
		out: &Connect{Mask: settings(p.Daemon).MarkMask, Lists: [][]Refusal{nil}},
	}
	if !blocks(p) {
		return c.out
	}
	if c.out.Marks = ownMarks(p, c.out.Mask); len(c.out.Marks) > MaxMarks {
		c.out.Left, c.out.Marks = len(c.out.Marks), nil
		return c.out
	}
	prefixes := c.survey(h)
	if len(prefixes) > maxConnectPrefixes {
		c.out.Left = len(prefixes)
		return c.out
	}
	c.fill(prefixes)
	return c.out
}

// Refuses reports whether a connection of a program (comm) and user is refused.
func (c *Connect) Refuses(proto uint8, dst netip.Addr, port uint16, program string, uid uint32) bool {
	list, longest := 0, -1
	for _, d := range c.Dst {
		if d.Prefix.Contains(dst) && d.Prefix.Bits() > longest {
			list, longest = d.List, d.Prefix.Bits()
		}
	}
	prog, user := slices.Index(c.Programs, program)+1, slices.Index(c.Users, uid)+1
	return slices.ContainsFunc(c.Lists[list], func(r Refusal) bool {
		return (r.Proto == 0 || r.Proto == proto) && port >= r.Lo && port <= r.Hi &&
			(r.Program == AnyName || r.Program == prog) && (r.User == AnyName || r.User == user)
	})
}

// blocks reports whether anything is blocked at all.
func blocks(p *rules.Policy) bool {
	return p.Default != nil && p.Default.Kind == rules.ActBlock ||
		slices.ContainsFunc(p.Rules, func(r rules.Rule) bool { return r.Do.Kind == rules.ActBlock })
}

// connector makes a Connect.
type connector struct {
	prog  *engine.Program
	world *state.World
	out   *Connect
	left  int // decisions

	edges []uint32          // where port conditions begin to hold or cease to
	users map[string]uint32 // those of out.Users by name
	names []string          // of out.Users
	own   map[netip.Addr]bool
	// What stands for all names that the policy does not tell apart: one that no
	// program and no user can have, or unknown where there are patterns that may match.
	otherProgram, otherUser flow.Value[string]
}

// survey collects what the rules tell apart, and returns the prefixes, in order.
func (c *connector) survey(h *Host) []netip.Prefix {
	p := c.prog.Policy()
	prefixes := append(slices.Concat(exempt4, exempt6), exemptSource4[0], exemptSource6[0], // unspecified: this host
		netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	for _, p := range ownPrefixes(h) {
		prefixes = append(prefixes, p)
		c.own[p.Addr()] = true
	}
	edges := []uint32{0, 1 << 16}
	names := map[uint32][]string{}
	for _, name := range sortedKeys(h.Users) {
		names[h.Users[name]] = append(names[h.Users[name]], name)
	}
	var programs []string
	for i := range p.Rules {
		eachPred(&p.Rules[i].Match, func(pred *rules.Pred) {
			switch pred.Field {
			case rules.FieldDstIP:
				for _, x := range pred.Prefixes {
					prefixes = append(prefixes, x.Masked())
				}
			case rules.FieldPort:
				for _, r := range pred.Ports {
					edges = append(edges, uint32(r.Lo), uint32(r.Hi)+1)
				}
			case rules.FieldProcess:
				for _, g := range pred.Globs {
					if s := string(g); strings.Contains(s, "*") {
						c.otherProgram = flow.Value[string]{}
					} else if len(s) <= maxProgramName {
						programs = append(programs, s)
					}
				}
			case rules.FieldUser:
				for _, g := range pred.Globs {
					c.addUsers(g, names)
				}
			}
		})
	}
	slices.Sort(edges)
	c.edges = slices.Compact(edges)
	slices.Sort(programs)
	if c.out.Programs = slices.Compact(programs); len(c.out.Programs) > maxNames {
		c.out.Programs, c.otherProgram = c.out.Programs[:maxNames], flow.Value[string]{}
	}
	if c.names = sortedKeys(c.users); len(c.names) > maxNames {
		c.names, c.otherUser = c.names[:maxNames], flow.Value[string]{}
	}
	for _, name := range c.names {
		c.out.Users = append(c.out.Users, c.users[name])
	}
	slices.SortFunc(prefixes, comparePrefixes)
	return slices.Compact(prefixes)
}

// addUsers notes the users that a glob names. A number with two names is not
// noted: nobody knows by which of them the flow's user will go.
func (c *connector) addUsers(g rules.Glob, names map[uint32][]string) {
	for uid, list := range names {
		switch match := slices.ContainsFunc(list, g.Match); {
		case match && len(list) == 1:
			c.users[list[0]] = uid
		case match:
			c.otherUser = flow.Value[string]{}
		}
	}
	if n, err := strconv.ParseUint(string(g), 10, 32); err == nil && names[uint32(n)] == nil {
		c.users[string(g)] = uint32(n)
	}
	if strings.Contains(string(g), "*") && strings.Trim(string(g), "*0123456789") == "" {
		c.otherUser = flow.Value[string]{} // it may match numbers without a name
	}
}

// ownPrefixes are this host's addresses, and those of its links that mean everybody.
func ownPrefixes(h *Host) []netip.Prefix {
	var list []netip.Prefix
	for _, l := range h.Links {
		for _, p := range l.Addrs {
			a := p.Addr().Unmap().WithZone("")
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
			if a.Is4() && p.Bits() < 31 {
				last := engine.LastAddr(netip.PrefixFrom(a, p.Bits()))
				list = append(list, netip.PrefixFrom(last, 32))
			}
		}
	}
	return list
}

// exempt reports whether the table leaves a destination alone: this host, its
// link, many at once.
func (c *connector) exempt(a netip.Addr) bool {
	in := func(p netip.Prefix) bool { return p.Contains(a) }
	return a.IsUnspecified() || c.own[a] || slices.ContainsFunc(exempt4, in) || slices.ContainsFunc(exempt6, in)
}

// fill asks for each prefix. What lies in no longer prefix is alike to all rules, so
// that one address answers for all. A prefix whose answer is that of the one around
// it is left out.
func (c *connector) fill(prefixes []netip.Prefix) {
	lists := map[string]int{"": 0}
	var around []ConnectDst
	for i, p := range prefixes {
		for len(around) > 0 && !around[len(around)-1].Prefix.Contains(p.Addr()) {
			around = around[:len(around)-1]
		}
		list := 0
		if len(around) > 0 {
			list = around[len(around)-1].List
		}
		d := ConnectDst{Prefix: p}
		if a, ok := free(prefixes[i:]); !ok {
			d.List = list // nobody will ask
		} else if !c.exempt(a) {
			d.List = c.intern(lists, c.refusals(a))
		}
		if d.List != list || len(around) == 0 {
			c.out.Dst = append(c.out.Dst, d)
		}
		around = append(around, d)
	}
}

// free returns an address of the first prefix that lies in none of the others.
// They are in order: what lies in the first follows it.
func free(prefixes []netip.Prefix) (netip.Addr, bool) {
	outer := prefixes[0]
	a := outer.Addr()
	for _, p := range prefixes[1:] {
		if !outer.Contains(p.Addr()) || a.Less(p.Addr()) {
			break
		}
		if p.Contains(a) {
			if a = engine.LastAddr(p).Next(); !a.IsValid() {
				return a, false // nothing is left up to the last address there is
			}
		}
	}
	return a, outer.Contains(a)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// intern returns the index of an equal list.
func (c *connector) intern(lists map[string]int, list []Refusal) int {
	if len(list) > MaxRefusals {
		c.out.Left += len(list) - MaxRefusals
		list = list[:MaxRefusals]
	}
	key := ""
	if len(list) > 0 {
		key = fmt.Sprint(list)
	}
	n, ok := lists[key]
	if !ok {
		n = len(c.out.Lists)
		c.out.Lists, lists[key] = append(c.out.Lists, list), n
	}
	return n
}

// cell is a part of the space of what is known when a program connects.
type cell struct {
	flow  flow.Flow
	fixed engine.FieldSet // told apart already
	r     Refusal
}

// refusals asks for a destination.
func (c *connector) refusals(dst netip.Addr) []Refusal {
	x := cell{r: Refusal{Hi: 1<<16 - 1, Program: AnyName, User: AnyName}}
	x.flow.Dst = flow.Some(dst)
	x.flow.IfaceIn = flow.Absent[string]() // of this host
	return c.split(nil, x)
}

// split asks for a cell, and where the answer depends on what can be told apart, for its parts.
func (c *connector) split(list []Refusal, x cell) []Refusal {
	if c.left == 0 {
		c.out.Left++
		return list
	}
	c.left--
	d := c.prog.Decide(&x.flow, c.world)
	if d.Final {
		if d.Kind == rules.ActBlock {
			if !d.Mods.Log.Unknown() {
				x.r.Log = LogPrefix(c.name(d.Rule))
			}
			list = append(list, x.r)
		}
		return list
	}
	for _, by := range []struct {
		field rules.Field
		split func([]Refusal, cell) []Refusal
	}{
		{rules.FieldProcess, c.byProgram},
		{rules.FieldUser, c.byUser},
		{rules.FieldProto, c.byProto},
		{rules.FieldPort, c.byPort},
	} {
		if d.Pending.Has(by.field) && !x.fixed.Has(by.field) {
			x.fixed = x.fixed.With(by.field)
			return by.split(list, x)
		}
	}
	return list // more has to be learned
}

// name returns the name that a rule's log has.
func (c *connector) name(rule int) string {
	if rule < 0 {
		return "default"
	}
	return c.prog.Policy().Rules[rule].Name
}

func (c *connector) byProgram(list []Refusal, x cell) []Refusal {
	for i, name := range c.out.Programs {
		x.r.Program, x.flow.Process = i+1, flow.Some(name)
		list = c.split(list, x)
	}
	x.r.Program, x.flow.Process = 0, c.otherProgram
	return c.split(list, x)
}

func (c *connector) byUser(list []Refusal, x cell) []Refusal {
	for i, name := range c.names {
		x.r.User, x.flow.User = i+1, flow.Some(name)
		list = c.split(list, x)
	}
	x.r.User, x.flow.User = 0, c.otherUser
	return c.split(list, x)
}

// byProto asks for both protocols, and joins what is alike.
func (c *connector) byProto(list []Refusal, x cell) []Refusal {
	x.r.Proto, x.flow.Proto = uint8(flow.TCP), flow.Some(flow.TCP)
	tcp := c.split(nil, x)
	x.r.Proto, x.flow.Proto = uint8(flow.UDP), flow.Some(flow.UDP)
	udp := c.split(nil, x)
	for _, r := range tcp {
		twin := r
		twin.Proto = uint8(flow.UDP)
		if i := slices.Index(udp, twin); i >= 0 {
			udp = slices.Delete(udp, i, i+1)
			r.Proto = 0
		}
		list = append(list, r)
	}
	return append(list, udp...)
}

// byPort asks for each run of ports, and joins neighbours that are alike.
func (c *connector) byPort(list []Refusal, x cell) []Refusal {
	for i, lo := range c.edges[:len(c.edges)-1] {
		x.r.Lo, x.r.Hi = uint16(lo), uint16(c.edges[i+1]-1)
		x.flow.DstPort = flow.Some(x.r.Lo)
		from := len(list)
		for _, r := range c.split(nil, x) {
			at := slices.IndexFunc(list[:from], func(o Refusal) bool {
				same := o
				same.Lo, same.Hi = r.Lo, r.Hi
				return same == r && uint32(o.Hi)+1 == uint32(r.Lo)
			})
			if at >= 0 {
				list[at].Hi = r.Hi
			} else {
				list = append(list, r)
			}
		}
	}
	return list
}

// eachPred visits the predicates of an expression.
func eachPred(e *rules.Expr, visit func(*rules.Pred)) {
	if e.Op == rules.OpPred {
		visit(&e.Pred)
	}
	for i := range e.Kids {
		eachPred(&e.Kids[i], visit)
	}
}
