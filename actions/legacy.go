package actions

import (
	"fmt"
	"slices"
)

// Legacy is what a plan needs of iptables-legacy and ip6tables-legacy, beside
// nftables: the jumps to the queues. The zero Legacy: nothing. Comparable.
type Legacy struct {
	Consult Consult
	Hello   Hello
}

// Legacy returns what the plan needs of them.
func (p *Plan) Legacy() (l Legacy) {
	if p.Consult.Via == LegacyQueue {
		l.Consult = p.Consult
	}
	if p.Hello.Via == LegacyQueue {
		l.Hello = p.Hello
	}
	return l
}

// LegacyChains are all chains of iptables' mangle table that may be ours, in its order.
func LegacyChains() []string { return []string{AskChain, HelloChain} }

// Chains are those that are needed.
func (l Legacy) Chains() (list []string) {
	if l.Consult != (Consult{}) {
		list = append(list, AskChain)
	}
	if l.Hello != (Hello{}) {
		list = append(list, HelloChain)
	}
	return list
}

// Rules are the rules in them and the jumps to them, as iptables-save writes them,
// and in its order.
func (l Legacy) Rules() (list []string) {
	jump := func(from, to string) string { return "-A " + from + " -j " + to }
	chains := l.Chains()
	ask, hello := slices.Contains(chains, AskChain), slices.Contains(chains, HelloChain)
	if ask {
		list = append(list, jump("PREROUTING", AskChain))
	}
	if hello {
		list = append(list, jump("FORWARD", HelloChain))
	}
	if ask {
		list = append(list, jump("OUTPUT", AskChain), l.Consult.Rule())
	}
	if hello {
		list = append(list, l.Hello.Rule())
	}
	return list
}

// String returns it as commands; "" for nothing.
func (l Legacy) String() (s string) {
	if l == (Legacy{}) {
		return ""
	}
	for _, cmd := range []string{"iptables-legacy", "ip6tables-legacy"} {
		for _, c := range l.Chains() {
			s += fmt.Sprintf("%s -t mangle -N %s\n", cmd, c)
		}
		for _, r := range l.Rules() {
			s += fmt.Sprintf("%s -t mangle %s\n", cmd, r)
		}
	}
	return s
}

// legacyRule hands packets that match to queues.
func legacyRule(chain, match string, first, queues uint16, strict bool) string {
	s := fmt.Sprintf("-A %s -m %s -j NFQUEUE ", chain, match)
	if queues > 1 {
		s += "--queue-balance "
	} else {
		s += "--queue-num "
	}
	s += queueNumbers(first, queues, ":")
	if !strict {
		s += " --queue-bypass"
	}
	return s
}

// queueStatement is the queue statement of nft.
func queueStatement(first, queues uint16, strict bool) string {
	s := "queue num " + queueNumbers(first, queues, "-")
	if !strict {
		s += " bypass"
	}
	return s
}

// queueNumbers returns the first queue's number, with the last's behind sep.
func queueNumbers(first, queues uint16, sep string) string {
	if queues > 1 {
		return fmt.Sprintf("%d%s%d", first, sep, first+queues-1)
	}
	return fmt.Sprint(first)
}
