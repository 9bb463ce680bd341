package actions

import (
	"fmt"
	"strconv"

	"netpolicy.dev/netpolicy/rules"
)

// Connection labels (bits of 128) keep what modifiers ask of a flow's later
// packets. The three highest say that throttle, dscp or mark has been set, because
// the first setter wins; the values of dscp and mark are numbered from labelFirst
// on, throttles from labelThrottle down.
const (
	labelFirst    = 64
	labelThrottle = 125
	labelDSCP     = 126
	labelMark     = 127
)

// modRule is a rule that only sets modifiers.
type modRule struct {
	bound uint32 // its candidate value; it counts when the winner's is greater
	name  string
	mods  rules.Modifiers
	terms []term
}

// logPrefixSize is what nfnetlink_log carries of a prefix (NF_LOG_PREFIXLEN,
// 128 with its NUL).
const logPrefixSize = 127

// LogPrefix returns the prefix by which the kernel logs for the rule.
func LogPrefix(rule string) string {
	s := "np:" + rule
	return s[:min(len(s), logPrefixSize)]
}

func logStmt(rule string) Stmt { return Stmt{Kind: Log, Value: LogGroup, Target: LogPrefix(rule)} }

// modChains lowers rules with modifiers alone: chain name jumps to one chain
// each for log, dscp, mark and throttle. All rules above the winner log; of the
// others the first setter wins, so its chain returns. The last chain is name itself.
func (p *Plan) modChains(name string, list []modRule) []Chain {
	main := Chain{Name: name}
	logs, dscp, mark := Chain{Name: name + "_log"}, Chain{Name: name + "_dscp"}, Chain{Name: name + "_mark"}
	slow := Chain{Name: name + "_throttle"}
	var chains []Chain
	for i, m := range list {
		if len(m.terms) == 0 {
			continue
		}
		above := Match{Key: KeyRank, Op: Above, Nums: []Range{{m.bound, m.bound}}}
		if !m.mods.Log.Unknown() {
			one := Chain{Name: name + "_log" + strconv.Itoa(i)}
			for j := range m.terms {
				one.Rules = append(one.Rules, Rule{If: p.conditions(&m.terms[j]), Do: []Stmt{logStmt(m.name), {Kind: Return}}})
			}
			chains = append(chains, one)
			logs.Rules = append(logs.Rules, Rule{If: []Match{above}, Do: []Stmt{{Kind: Jump, Target: one.Name}}})
		}
		for j := range m.terms {
			cond := append([]Match{above}, p.conditions(&m.terms[j])...)
			if d, ok := m.mods.DSCP.Get(); ok {
				dscp.Rules = append(dscp.Rules, Rule{If: cond, Do: p.setLabels(labelDSCP, p.dscpLabel(d))})
			}
			if n, ok := m.mods.Mark.Get(); ok {
				mark.Rules = append(mark.Rules, Rule{If: cond, Do: p.setLabels(labelMark, p.markLabel(n))})
			}
			if t, ok := m.mods.Throttle.Get(); ok {
				slow.Rules = append(slow.Rules, Rule{If: cond, Do: p.setLabels(labelThrottle, p.throttleLabel(t))})
			}
		}
	}
	for _, c := range []Chain{logs, dscp, mark, slow} {
		if len(c.Rules) > 0 {
			chains = append(chains, c)
			main.Rules = append(main.Rules, Rule{Do: []Stmt{{Kind: Jump, Target: c.Name}}})
		}
	}
	return append(chains, main)
}

func (p *Plan) setLabels(labels ...uint32) []Stmt {
	var do []Stmt
	for _, l := range labels {
		do = append(do, Stmt{Kind: SetLabel, Value: l})
	}
	return append(do, Stmt{Kind: Return})
}

// labelSet numbers the modifier values of a policy.
type labelSet struct {
	dscp []uint8
	mark []uint32
}

func (p *Plan) dscpLabel(d uint8) uint32 {
	for i, x := range p.labels.dscp {
		if x == d {
			return labelFirst + uint32(i)
		}
	}
	return labelDSCP
}

func (p *Plan) markLabel(n uint32) uint32 {
	for i, x := range p.labels.mark {
		if x == n {
			return labelFirst + uint32(len(p.labels.dscp)+i)
		}
	}
	return labelMark
}

// winnerChain records the modifiers that the winner itself brings.
func (p *Plan) winnerChain(id string, rule string, mods rules.Modifiers) []Chain {
	main := Chain{Name: "w_" + id}
	var chains []Chain
	if !mods.Log.Unknown() {
		main.Rules = append(main.Rules, Rule{Do: []Stmt{logStmt(rule)}})
	}
	own := func(kind string, decided, label uint32) {
		c := Chain{Name: fmt.Sprintf("w_%s_%d", kind, label), Rules: []Rule{
			{If: []Match{{Key: KeyCTLabel, Nums: []Range{{decided, decided}}}}, Do: []Stmt{{Kind: Return}}},
			{Do: p.setLabels(decided, label)},
		}}
		if !p.chains[c.Name] {
			p.chains[c.Name] = true
			chains = append(chains, c)
		}
		main.Rules = append(main.Rules, Rule{Do: []Stmt{{Kind: Jump, Target: c.Name}}})
	}
	if d, ok := mods.DSCP.Get(); ok {
		own("dscp", labelDSCP, p.dscpLabel(d))
	}
	if n, ok := mods.Mark.Get(); ok {
		own("mark", labelMark, p.markLabel(n))
	}
	if t, ok := mods.Throttle.Get(); ok {
		own("throttle", labelThrottle, p.throttleLabel(t))
	}
	return append(chains, main)
}

// applyChain gives each packet of a flow what its labels say.
func (p *Plan) applyChain() Chain {
	c := Chain{Name: "apply"}
	has := func(label uint32) Match { return Match{Key: KeyCTLabel, Nums: []Range{{label, label}}} }
	for _, d := range p.labels.dscp {
		l := p.dscpLabel(d)
		c.Rules = append(c.Rules,
			Rule{If: []Match{has(l), {Key: KeyNFProto, Nums: []Range{{nfIPv4, nfIPv4}}}}, Do: []Stmt{{Kind: SetDSCP4, Value: uint32(d)}}},
			Rule{If: []Match{has(l), {Key: KeyNFProto, Nums: []Range{{nfIPv6, nfIPv6}}}}, Do: []Stmt{{Kind: SetDSCP6, Value: uint32(d)}}})
	}
	for _, n := range p.labels.mark {
		c.Rules = append(c.Rules, Rule{If: []Match{has(p.markLabel(n))}, Do: []Stmt{{Kind: SetMark, Mask: ^p.MarkMask, Value: n &^ p.MarkMask}}})
	}
	return c
}

func anyMods(m *rules.Modifiers) bool {
	return !m.Log.Unknown() || !m.Mark.Unknown() || !m.DSCP.Unknown() || !m.Throttle.Unknown()
}
