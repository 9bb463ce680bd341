// Command peers runs other projects' routers and policy engines on the
// benchmark's rules and connections. It is a module of its own, so that nothing
// of theirs is ever linked into the product.
package main

import (
	"strconv"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
)

// systems are the peers, by the name that -system takes.
var systems = map[string]measure.Kind{
	"xray":         {Build: newXray, Loose: true},
	"sing-box":     {Build: newSingBox, Loose: true},
	"sing-box-srs": {Build: newSingBoxSet, Loose: true},
	"opa-scan":     {Build: newOPAScan},
	"opa-index":    {Build: newOPAIndex, Judge: judgeNames},
	"cel":          {Build: newCEL},
}

func main() { measure.Serve(systems) }

// tag names the way out of an outcome where a peer wants a name.
func tag(outcome int) string { return strconv.Itoa(outcome) }

// untag is the outcome of a tag, which has one digit.
func untag(tag string) int { return int(tag[0] - '0') }

// isSet reports whether the rules are one set: one outcome, and nothing but a name
// or a destination each. A peer's user would write that as one rule, or as one for
// names and one for prefixes.
func isSet(list []workload.Rule) bool {
	for i := range list {
		r := &list[i]
		if r.Outcome != 0 || (r.Name != "") == r.Dst.IsValid() || r.Src.IsValid() || r.Ports != nil || r.SrcPorts != nil ||
			r.Proto != 0 || r.States != 0 || r.Latency != 0 {
			return false
		}
	}
	return true
}
