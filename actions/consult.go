package actions

import (
	"fmt"
	"math"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// FirstQueue is the number of the first NFQUEUE of `enforce: consult`.
	FirstQueue = 11700
	// maxQueues bounds them. One decides more new flows a second than the
	// connection tracking of four cores takes.
	maxQueues = 4
	// AskChain is the chain of iptables' mangle table that hands packets to the
	// queues where nftables can't; it and the jumps to it are all that is ours there.
	AskChain = "netpolicy_ask"
)

// Via is how a kernel hands packets to a program.
type Via uint8

// The ways. The zero Via is: not at all, or not known.
const (
	NoQueue     Via = iota
	NFTQueue        // the queue statement of nftables
	LegacyQueue     // NFQUEUE of iptables-legacy and ip6tables-legacy
)

// Consult says how the kernel asks the daemon about a flow's first packet. The
// zero Consult: not at all. Comparable.
type Consult struct {
	Via    Via
	First  uint16 // the first queue's number
	Queues uint16 // flows are spread over so many by their addresses
	// Mark, under Mask, is the connection mark of first packets that have not
	// been answered.
	Mark, Mask uint32
	// Strict drops what nobody answers; otherwise the table decides it.
	Strict bool
}

// Rule returns the one rule of AskChain, as iptables-save writes it.
func (c Consult) Rule() string {
	return legacyRule(AskChain, fmt.Sprintf("connmark --mark %#x/%#x", c.Mark, c.Mask), c.First, c.Queues, c.Strict)
}

// consult plans how the daemon is asked, before numbers are given out: the
// highest route id but one stands for "not answered".
func (b *builder) consult(iptables bool) {
	if b.cfg.Enforce != rules.Consult {
		return
	}
	if iptables {
		b.lacks(diag.Warning, diag.Span{}, "use daemon.backend: nftables", "daemon.enforce consult: not with iptables: its chains decide, as with static")
		return
	}
	if b.host.Queue == NoQueue {
		b.lacks(diag.Warning, diag.Span{}, "kernel 5.18 or newer, with nft_queue or iptables-legacy's NFQUEUE",
			"daemon.enforce consult: this host can hand no packets to the daemon: the table decides alone, as with static")
		return
	}
	p := b.plan
	p.Consult = Consult{
		Via: b.host.Queue, First: FirstQueue, Queues: uint16(min(max(b.host.CPUs, 1), maxQueues)),
		Mark: place(p.top()-1, p.CTMask), Mask: p.CTMask, Strict: b.cfg.OnCrash == rules.Closed,
	}
}

// alone leaves the rules out of the table: the daemon decides by them, or nobody.
func (b *builder) alone() { b.drafts, b.bare = nil, true }

// lastRoute is the highest id that a route may have.
func (p *Plan) lastRoute() uint32 {
	last := p.top() - 1
	if p.Consult.Via != NoQueue {
		last = min(p.top()-2, codeLeave-1)
	}
	if p.Relay != (Relay{}) {
		last--
	}
	return last
}

// hook returns the declaration of a base chain that decides. What asks comes
// before it, and NFQUEUE of iptables, whose mangle table has that very priority,
// between the two.
func (p *Plan) hook(kind, at string) string {
	offset := ""
	if p.Consult.Via != NoQueue {
		offset = " + 1"
	}
	return fmt.Sprintf("type %s hook %s priority mangle%s; policy accept;", kind, at, offset)
}

// askChains returns the hooks before those that decide: they mark each first
// packet that is not exempt as one to ask about. An accepted packet goes on with
// the next hook, where the answer is its priority, 0 for none. (The connection
// mark of the answer would do, but kernels may be built without
// NETFILTER_NETLINK_GLUE_CT.)
func (b *builder) askChains() []Chain {
	p := b.plan
	if p.Consult.Via == NoQueue {
		return nil
	}
	ret := []Stmt{{Kind: Return}}
	ask := Chain{Name: "ask", Rules: []Rule{
		{If: []Match{{Key: KeyMark, Mask: p.MarkMask, Nums: num(p.MarkMask)}}, Do: ret},
		{
			If: []Match{{Key: KeyCTState, Nums: num(CTNew)}, {Key: KeyCTMark, Mask: p.CTMask, Nums: num(0)}},
			Do: []Stmt{{Kind: Goto, Target: "first"}},
		},
	}}
	pre := append([]Rule{{If: []Match{{Key: KeyIifname, Texts: []string{"lo"}}}, Do: ret}}, b.relayed()...)
	pre = append(pre, Rule{Do: []Stmt{{Kind: Goto, Target: ask.Name}}})
	out := append([]Rule{{If: []Match{{Key: KeyOifname, Texts: []string{"lo"}}}, Do: ret}}, b.chosen()...)
	out = append(out, Rule{Do: []Stmt{{Kind: Goto, Target: ask.Name}}})
	list := []Chain{
		{Name: "ask_pre", Hook: "type filter hook prerouting priority mangle - 1; policy accept;", Rules: pre},
		{Name: "ask_out", Hook: "type filter hook output priority mangle - 1; policy accept;", Rules: out},
		ask,
	}
	return append(list, b.answerChains()...)
}

// answerChains carry out what the daemon has answered, or what holds when nobody has.
func (b *builder) answerChains() []Chain {
	p := b.plan
	// Not "asked" any more, whatever follows: a refusal carries the mark of the
	// connection that it refuses.
	answer := Chain{Name: "answer", Rules: []Rule{{Do: []Stmt{{Kind: SetCTMark, Mask: p.CTMask}}}}}
	var list []Chain
	if b.hasLabels() || len(p.throttles) > 0 {
		labels := p.labelChain()
		list = append(list, labels)
		answer.Rules = append(answer.Rules, Rule{
			If: []Match{{Key: KeyRank, Mask: ^uint32(codeMask), Op: Not, Nums: num(0)}},
			Do: []Stmt{{Kind: Jump, Target: labels.Name}},
		})
	}
	answer.Rules = append(answer.Rules,
		Rule{Do: []Stmt{{Kind: Lookup, Key: KeyRank, Mask: codeMask, Target: answerMap}}},
		Rule{Do: []Stmt{{Kind: Goto, Target: "late"}}})
	// No answer, or one by a number that this table does not have.
	late := Chain{Name: "late", Rules: []Rule{{Do: []Stmt{{Kind: Goto, Target: "decide"}}}}}
	leave := Chain{Name: "leave", Rules: []Rule{{Do: []Stmt{{Kind: SetRank}}}}}
	switch {
	case p.Consult.Strict:
		late.Rules = []Rule{{Do: []Stmt{{Kind: Drop}}}}
	case b.bare:
		late.Rules = leave.Rules
	}
	return append(list, answer, late, leave)
}

// The parts of an answer.
const (
	codeMask  = 1<<14 - 1 // a route's id, idReject, or codeLeave
	codeLeave = codeMask
	codeLabel = 6 // bits for each label, numbered from labelFirst - 1
	answerMap = "ans"
)

// labelShifts are where the labels of an answer stand, behind the code.
const (
	shiftDSCP = 14
	shiftMark = shiftDSCP + codeLabel
	// The number of a throttle has the rest.
	shiftThrottle = shiftMark + codeLabel
)

// labelChain sets the labels of an answer, and applies them to the packet.
func (p *Plan) labelChain() Chain {
	c := Chain{Name: "labels"}
	add := func(shift, decided, label uint32) {
		v := codeOf(label) << shift
		c.Rules = append(c.Rules, Rule{
			If: []Match{{Key: KeyRank, Mask: (1<<codeLabel - 1) << shift, Nums: num(v)}},
			Do: []Stmt{{Kind: SetLabel, Value: decided}, {Kind: SetLabel, Value: label}},
		})
	}
	for _, d := range p.labels.dscp {
		add(shiftDSCP, labelDSCP, p.dscpLabel(d))
	}
	for _, n := range p.labels.mark {
		add(shiftMark, labelMark, p.markLabel(n))
	}
	for _, t := range p.throttles {
		c.Rules = append(c.Rules, Rule{
			If: []Match{{Key: KeyRank, Mask: math.MaxUint32 >> shiftThrottle << shiftThrottle, Nums: num(t.number << shiftThrottle)}},
			Do: []Stmt{{Kind: SetLabel, Value: labelThrottle}, {Kind: SetLabel, Value: t.label()}},
		})
	}
	if len(p.labels.dscp)+len(p.labels.mark) > 0 {
		c.Rules = append(c.Rules, Rule{Do: []Stmt{{Kind: Goto, Target: "apply"}}})
	}
	return c
}

func codeOf(label uint32) uint32 { return label - labelFirst + 1 }

// answers is the map of answers: where packets with each go.
func (p *Plan) answers() []Set {
	if p.Consult.Via == NoQueue {
		return nil
	}
	s := Set{Name: answerMap, Type: "typeof meta priority", Map: true, Elems: []Elem{
		{Key: fmt.Sprintf("%#x", idReject), Value: "goto refuse"},
		{Key: fmt.Sprintf("%#x", codeLeave), Value: "goto leave"},
	}}
	for _, i := range leaves(p.prog.Policy()) {
		id := p.routeID(i)
		s.Elems = append(s.Elems, Elem{Key: fmt.Sprintf("%#x", id), Value: fmt.Sprintf("goto d_%d", id)})
	}
	return []Set{s}
}

// AnswerCode returns how to answer with a decision when the kernel has asked about
// a first packet: by which priority the table carries it out, or that the packet
// is to be dropped at once. It is safe for concurrent use.
func (p *Plan) AnswerCode(d *engine.Decision) (code uint32, drop bool) {
	switch {
	case d.Kind == rules.ActBlock && d.Reject:
		return idReject, false
	case d.Blocked():
		return 0, true
	case d.Route < 0:
		return codeLeave | p.labelCode(&d.Mods), false
	default:
		return p.routeID(d.Route) | p.labelCode(&d.Mods), false
	}
}

func (p *Plan) labelCode(m *rules.Modifiers) (code uint32) {
	if d, ok := m.DSCP.Get(); ok {
		code |= codeOf(p.dscpLabel(d)) << shiftDSCP
	}
	if n, ok := m.Mark.Get(); ok {
		code |= codeOf(p.markLabel(n)) << shiftMark
	}
	if t, ok := m.Throttle.Get(); ok {
		code |= (labelThrottle - p.throttleLabel(t)) << shiftThrottle
	}
	return code
}

// undecided is what becomes of packets of flows without a route: they are decided
// here, or, where the daemon is asked, by its answer.
func (p *Plan) undecided() Rule {
	mark, to := uint32(0), "first"
	if p.Consult.Via != NoQueue {
		mark, to = p.Consult.Mark, "answer"
	}
	return Rule{
		If: []Match{{Key: KeyCTState, Nums: num(CTNew)}, {Key: KeyCTMark, Mask: p.CTMask, Nums: num(mark)}},
		Do: []Stmt{{Kind: Goto, Target: to}},
	}
}

// exempted is where packets go that are not exempt.
func (p *Plan) exempted() []Rule {
	if p.Consult.Via == NoQueue {
		return []Rule{{Do: []Stmt{{Kind: Goto, Target: "decide"}}}}
	}
	list := []Rule{{Do: []Stmt{{Kind: SetRank}}}, {Do: []Stmt{{Kind: SetCTMark, Mask: p.CTMask, Value: p.Consult.Mark}}}}
	if p.Consult.Via == NFTQueue {
		list = append(list, Rule{Do: []Stmt{{Kind: Queue, Target: queueStatement(p.Consult.First, p.Consult.Queues, p.Consult.Strict)}}})
	}
	return list
}
