package actions

import "fmt"

// Stats counts what a plan puts into the kernel.
type Stats struct {
	Chains       int `json:"chains"`
	Rules        int `json:"rules"`
	LongestChain int `json:"longest_chain"` // rules of the longest chain
	Sets         int `json:"sets"`          // sets and maps
	Elements     int `json:"elements"`
	LongestSet   int `json:"longest_set"`
	IPRules      int `json:"ip_rules"`
	IPRoutes     int `json:"ip_routes"`
}

// Stats counts the plan.
func (p *Plan) Stats() Stats {
	s := Stats{Chains: len(p.Table.Chains), Sets: len(p.Table.Sets), IPRules: len(p.IPRules), IPRoutes: len(p.IPRoutes)}
	for i := range p.Table.Chains {
		n := len(p.Table.Chains[i].Rules)
		s.Rules += n
		s.LongestChain = max(s.LongestChain, n)
	}
	for i := range p.Table.Sets {
		n := len(p.Table.Sets[i].Elems)
		s.Elements += n
		s.LongestSet = max(s.LongestSet, n)
	}
	return s
}

// String returns the counts as one line.
func (s Stats) String() string {
	return fmt.Sprintf("%d chains with %d rules, at most %d in one; %d sets with %d elements, at most %d in one; %d ip rules, %d routes",
		s.Chains, s.Rules, s.LongestChain, s.Sets, s.Elements, s.LongestSet, s.IPRules, s.IPRoutes)
}
