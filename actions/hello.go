package actions

import (
	"fmt"
	"math"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/rules"
)

const (
	// FirstHelloQueue is the number of the first NFQUEUE of `hello: hold`.
	FirstHelloQueue = FirstQueue + maxQueues
	// HelloChain is the chain of iptables' mangle table that hands held packets to the
	// queues where nftables can't.
	HelloChain = "netpolicy_hello"
)

// Hello says how the packets of forwarded flows that tell a name are held until
// the daemon has decided. The zero Hello: not at all. Comparable.
type Hello struct {
	Via    Via
	First  uint16 // the first queue's number
	Queues uint16 // flows are spread over so many by their addresses
	// Mark is the packet mark, under itself, of packets that are held: that of our own
	// sockets, which are never forwarded.
	Mark uint32
	// Strict drops what nobody answers; otherwise it passes.
	Strict bool
}

// Rule returns the one rule of HelloChain, as iptables-save writes it.
func (h Hello) Rule() string {
	return legacyRule(HelloChain, fmt.Sprintf("mark --mark %#x/%#x", h.Mark, h.Mark), h.First, h.Queues, h.Strict)
}

// The answers, in the place of a route's id. Labels are as in AnswerCode.
const (
	helloReject = idReject
	helloBlock  = idReject + 1
	// HelloPass lets the packet go, and those that follow without asking.
	HelloPass = idReject + 2
	// HelloAgain lets the packet go; the next one is held, too.
	HelloAgain = idReject + 3
)

// Connection labels of flows whose hello is held: of all such flows, and of those
// that have been decided.
const (
	labelHello = 62
	labelHeard = 63
)

// firstPorts are where names are told, for rules that name no port.
var (
	firstTCP = []rules.PortRange{{Lo: 80, Hi: 80}, {Lo: 443, Hi: 443}, {Lo: 8080, Hi: 8080}, {Lo: 8443, Hi: 8443}}
	firstUDP = []rules.PortRange{{Lo: 443, Hi: 443}}
)

// hello plans how hellos are held, where some rule can make a difference by it.
func (b *builder) hello(iptables bool) {
	if b.cfg.Hello != rules.Hold {
		return
	}
	tcp, udp := helloPorts(b.policy)
	switch {
	case len(tcp)+len(udp) == 0:
		b.lacks(diag.Hint, diag.Span{}, "", "daemon.hello hold: no rule blocks or has modifiers by what a client says first: nothing is held")
		return
	case iptables:
		b.lacks(diag.Warning, diag.Span{}, "use daemon.backend: nftables", "daemon.hello hold: not with iptables: hellos are watched")
		return
	case b.host.Queue == NoQueue:
		b.lacks(diag.Warning, diag.Span{}, "kernel 5.18 or newer, with nft_queue or iptables-legacy's NFQUEUE",
			"daemon.hello hold: this host can hand no packets to the daemon: hellos are watched")
		return
	}
	b.tcp, b.udp = numbersOf(tcp), numbersOf(udp)
	b.plan.Hello = Hello{
		Via: b.host.Queue, First: FirstHelloQueue, Queues: uint16(min(max(b.host.CPUs, 1), maxQueues)),
		Mark: b.plan.Bypass(), Strict: b.cfg.OnCrash == rules.Closed,
	}
}

func numbersOf(list []rules.PortRange) []Range {
	var nums []Range
	for _, r := range list {
		nums = append(nums, Range{uint32(r.Lo), uint32(r.Hi)})
	}
	return nums
}

// helloPorts returns the ports of flows that some rule may block, or give
// modifiers, by what their client says first.
func helloPorts(p *rules.Policy) (tcp, udp []rules.PortRange) {
	for i := range p.Rules {
		r := &p.Rules[i]
		if !readsFirst(&r.Match) || r.Do.Kind != rules.ActBlock && !anyMods(&r.Do.Mods) {
			continue
		}
		ports, ok := restriction(&r.Match, rules.FieldPort, func(p *rules.Pred) []rules.PortRange { return p.Ports })
		t, u := ports, ports
		if !ok {
			t, u = firstTCP, firstUDP
		}
		protos, ok := restriction(&r.Match, rules.FieldProto, func(p *rules.Pred) (list []rules.PortRange) {
			for _, n := range p.Numbers {
				list = append(list, rules.PortRange{Lo: uint16(n), Hi: uint16(n)})
			}
			return list
		})
		if !ok || within(protos, 6) {
			tcp = append(tcp, t...)
		}
		if !ok || within(protos, 17) {
			udp = append(udp, u...)
		}
	}
	return rules.MergePorts(tcp), rules.MergePorts(udp)
}

func within(list []rules.PortRange, n uint16) bool {
	for _, r := range list {
		if r.Lo <= n && n <= r.Hi {
			return true
		}
	}
	return false
}

// FirstFacts are what a client's first bytes tell.
const FirstFacts = engine.FieldSet(1<<rules.FieldSNI | 1<<rules.FieldDomain | 1<<rules.FieldHTTPHost | 1<<rules.FieldApp | 1<<rules.FieldALPN)

// readsFirst reports whether the expression reads what a client says first.
func readsFirst(e *rules.Expr) bool {
	if e.Op == rules.OpPred {
		return FirstFacts.Has(e.Pred.Field)
	}
	for i := range e.Kids {
		if readsFirst(&e.Kids[i]) {
			return true
		}
	}
	return false
}

// restriction returns values of the field without which the expression can't be
// true; false when there are none that are easily seen.
func restriction(e *rules.Expr, f rules.Field, values func(*rules.Pred) []rules.PortRange) ([]rules.PortRange, bool) {
	switch e.Op {
	case rules.OpPred:
		if e.Pred.Field != f {
			return nil, false
		}
		return values(&e.Pred), true
	case rules.OpAnd:
		for i := range e.Kids {
			if list, ok := restriction(&e.Kids[i], f, values); ok {
				return list, true
			}
		}
	case rules.OpOr:
		var all []rules.PortRange
		for i := range e.Kids {
			list, ok := restriction(&e.Kids[i], f, values)
			if !ok {
				return nil, false
			}
			all = append(all, list...)
		}
		return all, len(e.Kids) > 0
	}
	return nil, false
}

// helloChains hold the first packets that say something. Around the queue stand two
// hooks: before it such packets are marked, behind it the answer, their priority, is
// carried out. A flow from before the table has no label, and is never asked about.
func (b *builder) helloChains() []Chain {
	p := b.plan
	if p.Hello.Via == NoQueue {
		return nil
	}
	fresh := Match{Key: KeyCTState, Nums: num(CTNew)}
	tcp, udp := Match{Key: KeyL4Proto, Nums: num(6)}, Match{Key: KeyL4Proto, Nums: num(17)}
	begin := Chain{Name: "hello_fwd", Hook: "type filter hook forward priority mangle - 1; policy accept;", Rules: []Rule{
		{If: []Match{ctReply}, Do: []Stmt{{Kind: Return}}},
		{If: []Match{{Key: KeyCTLabel, Nums: num(labelHello)}}, Do: []Stmt{{Kind: Goto, Target: "hello_hold"}}},
	}}
	if len(b.tcp) > 0 { // a SYN says nothing
		begin.Rules = append(begin.Rules, Rule{If: []Match{fresh, tcp, {Key: KeyDstPort, Nums: b.tcp}}, Do: []Stmt{{Kind: SetLabel, Value: labelHello}}})
	}
	if len(b.udp) > 0 {
		begin.Rules = append(begin.Rules, Rule{If: []Match{fresh, udp, {Key: KeyDstPort, Nums: b.udp}}, Do: []Stmt{
			{Kind: SetLabel, Value: labelHello}, {Kind: Goto, Target: "hello_hold"},
		}})
	}
	hold := Chain{Name: "hello_hold", Rules: []Rule{
		{If: []Match{{Key: KeyCTLabel, Nums: num(labelHeard)}}, Do: []Stmt{{Kind: Return}}},
		{If: []Match{tcp, fresh}, Do: []Stmt{{Kind: Return}}},
		{Do: []Stmt{{Kind: SetRank}}},
		{Do: []Stmt{{Kind: SetMark, Mask: p.MarkMask, Value: p.Hello.Mark}}},
	}}
	if p.Hello.Via == NFTQueue {
		hold.Rules = append(hold.Rules, Rule{Do: []Stmt{{Kind: Queue, Target: queueStatement(p.Hello.First, p.Hello.Queues, p.Hello.Strict)}}})
	}
	end := Chain{Name: "hello_end", Hook: "type filter hook forward priority mangle + 1; policy accept;", Rules: []Rule{
		{If: []Match{{Key: KeyMark, Mask: p.MarkMask, Nums: num(p.Hello.Mark)}}, Do: []Stmt{{Kind: Goto, Target: "hello_answer"}}},
	}}
	return append([]Chain{begin, hold, end}, b.helloAnswers()...)
}

// helloAnswers carry out what the daemon has answered.
func (b *builder) helloAnswers() []Chain {
	p := b.plan
	code := func(n uint32) []Match { return []Match{{Key: KeyRank, Mask: codeMask, Nums: num(n)}} }
	onward := []Stmt{{Kind: Goto, Target: "hello_on"}}
	c := Chain{Name: "hello_answer", Rules: []Rule{
		{Do: []Stmt{{Kind: SetMark, Mask: p.MarkMask}}},
		{If: code(HelloAgain), Do: onward},
	}}
	add := func(r Rule) { c.Rules = append(c.Rules, r) }
	if p.Hello.Strict {
		add(Rule{If: []Match{{Key: KeyRank, Nums: num(0)}}, Do: []Stmt{{Kind: Drop}}})
	}
	// Also when nobody answered: what follows would be read as a beginning.
	add(Rule{Do: []Stmt{{Kind: SetLabel, Value: labelHeard}}})
	var labels []Chain
	if b.hasLabels() || len(p.throttles) > 0 {
		labels = b.helloLabels()
		add(Rule{If: []Match{{Key: KeyRank, Mask: ^uint32(codeMask), Op: Not, Nums: num(0)}}, Do: []Stmt{{Kind: Jump, Target: labels[0].Name}}})
	}
	add(Rule{If: code(helloReject), Do: []Stmt{{Kind: SetCTMark, Mask: p.CTMask, Value: p.BlockMark(true)}}})
	add(Rule{If: code(helloBlock), Do: []Stmt{{Kind: SetCTMark, Mask: p.CTMask, Value: p.BlockMark(false)}}})
	add(Rule{Do: onward})
	// By its connection mark the packet gets back the mark of its route, or is refused or dropped.
	on := Chain{Name: "hello_on", Rules: []Rule{
		{Do: []Stmt{{Kind: SetRank}}},
		{Do: []Stmt{{Kind: Lookup, Key: KeyCTMark, Mask: p.CTMask, Target: "mk"}}},
	}}
	return append([]Chain{c, on}, labels...)
}

// helloLabels set those labels of an answer whose kind the flow does not have yet: a
// label can't be taken back. The first of the chains is to be called.
func (b *builder) helloLabels() []Chain {
	p := b.plan
	main := Chain{Name: "hello_labels"}
	list := []Chain{main}
	kind := func(name string, decided, shift, mask uint32, values []uint32, labels []uint32) {
		if len(values) == 0 {
			return
		}
		c := Chain{Name: main.Name + "_" + name, Rules: []Rule{{If: []Match{{Key: KeyCTLabel, Nums: num(decided)}}, Do: []Stmt{{Kind: Return}}}}}
		for i, v := range values {
			c.Rules = append(c.Rules, Rule{
				If: []Match{{Key: KeyRank, Mask: mask, Nums: num(v << shift)}},
				Do: []Stmt{{Kind: SetLabel, Value: decided}, {Kind: SetLabel, Value: labels[i]}},
			})
		}
		list[0].Rules = append(list[0].Rules, Rule{Do: []Stmt{{Kind: Jump, Target: c.Name}}})
		list = append(list, c)
	}
	var codes, labels [3][]uint32
	put := func(i int, code, label uint32) {
		codes[i], labels[i] = append(codes[i], code), append(labels[i], label)
	}
	for _, d := range p.labels.dscp {
		put(0, codeOf(p.dscpLabel(d)), p.dscpLabel(d))
	}
	for _, n := range p.labels.mark {
		put(1, codeOf(p.markLabel(n)), p.markLabel(n))
	}
	for _, t := range p.throttles {
		put(2, t.number, t.label())
	}
	kind("dscp", labelDSCP, shiftDSCP, (1<<codeLabel-1)<<shiftDSCP, codes[0], labels[0])
	kind("mark", labelMark, shiftMark, (1<<codeLabel-1)<<shiftMark, codes[1], labels[1])
	kind("throttle", labelThrottle, shiftThrottle, math.MaxUint32>>shiftThrottle<<shiftThrottle, codes[2], labels[2])
	if b.hasLabels() {
		list[0].Rules = append(list[0].Rules, Rule{Do: []Stmt{{Kind: Goto, Target: "apply"}}})
	}
	return list
}

// HelloCode returns how to answer with a decision for a packet that is held: the
// flow keeps its route. It is safe for concurrent use.
func (p *Plan) HelloCode(d *engine.Decision) uint32 {
	code := uint32(HelloPass)
	switch {
	case d.Blocked() && d.Reject:
		return helloReject
	case d.Blocked():
		return helloBlock
	}
	return code | p.labelCode(&d.Mods)
}
