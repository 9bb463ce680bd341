package workload

import (
	"net/netip"
	"strconv"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// routes are one way out an outcome.
func routes() []rules.Route {
	list := make([]rules.Route, Outcomes)
	for i := range list {
		list[i] = rules.Route{Name: "route" + strconv.Itoa(i), Kind: rules.RouteMain}
	}
	return list
}

// Policy returns the rules as a policy in which rule i is the list's. Its
// default is not to decide.
func Policy(list []Rule) *rules.Policy {
	p := &rules.Policy{Routes: routes(), Primary: -1, Rules: make([]rules.Rule, len(list))}
	for i := range list {
		r := &list[i]
		p.Rules[i] = rules.Rule{
			Name: "r" + strconv.Itoa(i), Priority: r.priority, Active: state.AllStates, Match: r.match(),
			Do: rules.Outcome{Kind: rules.ActRoute, Route: r.Outcome},
		}
		if r.States != 0 {
			p.Rules[i].Active = r.States
		}
	}
	return p
}

// SetPolicy returns the rules as one rule over a set of names and one of
// prefixes, as OneSet means them.
func SetPolicy(list []Rule) *rules.Policy {
	names := &rules.Set{Name: "names"}
	nets := &rules.Set{Name: "nets", Type: rules.CIDRSet}
	for i := range list {
		if list[i].Name != "" {
			names.Names = append(names.Names, list[i].pattern())
		} else {
			nets.Prefixes = append(nets.Prefixes, list[i].Dst)
		}
	}
	p := &rules.Policy{Routes: routes(), Primary: -1, Sets: []*rules.Set{names, nets}}
	var kids []rules.Expr
	if len(names.Names) > 0 {
		kids = append(kids, predicate(rules.Pred{Field: rules.FieldDomain, Names: names.Names, Set: names}))
	}
	if len(nets.Prefixes) > 0 {
		kids = append(kids, predicate(rules.Pred{Field: rules.FieldDstIP, Prefixes: nets.Prefixes, Set: nets}))
	}
	p.Rules = []rules.Rule{{
		Name: "set", Active: state.AllStates, Match: rules.Expr{Op: rules.OpOr, Kids: kids},
		Do: rules.Outcome{Kind: rules.ActRoute},
	}}
	return p
}

func predicate(p rules.Pred) rules.Expr { return rules.Expr{Op: rules.OpPred, Pred: p} }

func (r *Rule) pattern() rules.NamePattern { return rules.NamePattern{Kind: r.Kind, Name: r.Name} }

func (r *Rule) match() rules.Expr {
	var kids []rules.Expr
	add := func(p rules.Pred) { kids = append(kids, predicate(p)) }
	if r.Name != "" {
		names := []rules.NamePattern{r.pattern()}
		for _, other := range r.Others {
			names = append(names, rules.NamePattern{Kind: rules.Suffix, Name: other})
		}
		add(rules.Pred{Field: rules.FieldDomain, Names: names})
	}
	if r.Dst.IsValid() {
		add(rules.Pred{Field: rules.FieldDstIP, Prefixes: []netip.Prefix{r.Dst}})
	}
	if r.Src.IsValid() {
		add(rules.Pred{Field: rules.FieldSrcIP, Prefixes: []netip.Prefix{r.Src}})
	}
	if r.Ports != nil {
		add(rules.Pred{Field: rules.FieldPort, Ports: r.Ports})
	}
	if r.SrcPorts != nil {
		add(rules.Pred{Field: rules.FieldSrcPort, Ports: r.SrcPorts})
	}
	if r.Proto != 0 {
		add(rules.Pred{Field: rules.FieldProto, Numbers: []uint32{uint32(r.Proto)}})
	}
	if r.Latency != 0 {
		add(rules.Pred{Field: rules.FieldLatency, Cmp: rules.Gt, Bound: r.Latency})
	}
	switch len(kids) {
	case 0:
		return rules.Expr{}
	case 1:
		return kids[0]
	default:
		return rules.Expr{Op: rules.OpAnd, Kids: kids}
	}
}

// Into sets the connection's facts in a flow of which the others are set already:
// that there is no Host header.
func (c *Conn) Into(f *flow.Flow) {
	f.Proto, f.Latency = flow.Some(c.Proto), flow.Some(c.Latency)
	f.Src, f.Dst = flow.Some(c.Src), flow.Some(c.Dst)
	if c.Proto.HasPorts() {
		f.SrcPort, f.DstPort = flow.Some(c.SrcPort), flow.Some(c.DstPort)
	} else {
		f.SrcPort, f.DstPort = flow.Absent[uint16](), flow.Absent[uint16]()
	}
	if c.Name != "" {
		f.SNI = flow.Some(c.Name)
	} else {
		f.SNI = flow.Absent[string]()
	}
}

// Flow returns the connection with all facts known.
func (c *Conn) Flow() flow.Flow {
	f := flow.Flow{HTTPHost: flow.Absent[string]()}
	c.Into(&f)
	return f
}

// Flows returns the connections as flows.
func Flows(list []Conn) []flow.Flow {
	out := make([]flow.Flow, len(list))
	for i := range list {
		out[i] = list[i].Flow()
	}
	return out
}
