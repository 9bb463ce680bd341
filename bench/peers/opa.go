package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// scanPolicy looks at all rules. They are data, by what they ask for first, so
// that the test that seldom holds comes first and needs no helper; a name is
// compared behind a dot, so that a suffix is one test, too.
const scanPolicy = `package scan

outcome := data.outcomes[min(hits)]

hits contains rule.order if {
	some rule in data.exact
	input.name == rule.name
	holds(rule)
}

hits contains rule.order if {
	some rule in data.suffix
	endswith(input.name, rule.name)
	holds(rule)
}

hits contains rule.order if {
	some rule in data.keyword
	contains(input.name, rule.name)
	holds(rule)
}

hits contains rule.order if {
	some rule in data.prefix
	net.cidr_contains(rule.prefix, input.dst)
	holds(rule)
}

holds(rule) if {
	input.proto in rule.protos
	input.state in rule.states
	input.latency > rule.latency
	some range in rule.ports
	range.lo <= input.port
	range.hi >= input.port
}
`

// indexPolicy looks up the name, and what follows each of its dots.
const indexPolicy = `package index

outcome := min(hits)[1]

hits contains data.exact[input.name]

hits contains data.suffix[input.name]

hits contains data.suffix[parent] if {
	some dot in indexof_n(input.name, ".")
	parent := substring(input.name, dot + 1, -1)
}
`

// opa asks a prepared query.
type opa struct {
	query rego.PreparedEvalQuery
	// input converts a connection, and is what a policy gets as input.
	input func(*workload.Conn) map[string]any
	conns []ast.Value
}

func newOPA(query, policy string, data map[string]any, input func(*workload.Conn) map[string]any) (measure.System, error) {
	// Data that are kept as the evaluator wants them need not be converted when they are read.
	store := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	r := rego.New(rego.Query(query), rego.Module("policy.rego", policy), rego.Store(store))
	prepared, err := r.PrepareForEval(context.Background())
	if err != nil {
		return nil, err
	}
	return &opa{query: prepared, input: input}, nil
}

func (s *opa) Load(conns []workload.Conn) {
	s.conns = make([]ast.Value, len(conns))
	for i := range conns {
		s.conns[i] = ast.MustInterfaceToValue(s.input(&conns[i]))
	}
}

func (s *opa) Run(from, to int) int {
	sum := 0
	for i := from; i < to; i++ {
		sum += s.Decide(i)
	}
	return sum
}

func (s *opa) Decide(i int) int {
	results, err := s.query.Eval(context.Background(), rego.EvalParsedInput(s.conns[i]))
	if err != nil {
		panic(err)
	}
	if len(results) == 0 { // undefined: there is no hit
		return workload.NoMatch
	}
	outcome, err := results[0].Expressions[0].Value.(json.Number).Int64()
	if err != nil {
		panic(err)
	}
	return int(outcome)
}

func newOPAScan(list []workload.Rule) (measure.System, error) {
	outcomes := make([]any, len(list))
	kinds := map[string][]any{"exact": {}, "suffix": {}, "keyword": {}, "prefix": {}}
	for i := range list {
		r := &list[i]
		if (r.Name != "") == r.Dst.IsValid() || r.Src.IsValid() || r.SrcPorts != nil {
			return nil, errors.New("this policy is for rules with either a name or a destination, and nothing about the source")
		}
		outcomes[i] = r.Outcome
		kind := opaKind(r)
		kinds[kind] = append(kinds[kind], opaRule(r, i))
	}
	data := map[string]any{"outcomes": outcomes}
	for kind, all := range kinds {
		data[kind] = all
	}
	return newOPA("data.scan.outcome", scanPolicy, data, func(c *workload.Conn) map[string]any {
		return map[string]any{
			"name": "." + c.Name, "dst": c.Dst.String(), "port": int(c.DstPort), "proto": int(c.Proto),
			"state": int(state.Normal), "latency": c.Latency,
		}
	})
}

func opaKind(r *workload.Rule) string {
	switch {
	case r.Name == "":
		return "prefix"
	case r.Kind == rules.Exact:
		return "exact"
	case r.Kind == rules.Suffix:
		return "suffix"
	default:
		return "keyword"
	}
}

// opaRule has all fields, so that one body of holds is enough.
func opaRule(r *workload.Rule, order int) map[string]any {
	out := map[string]any{"order": order, "latency": -1}
	switch {
	case r.Name == "":
		out["prefix"] = r.Dst.String()
	case r.Kind == rules.Keyword:
		out["name"] = r.Name
	default:
		out["name"] = "." + r.Name
	}
	if r.Latency != 0 {
		out["latency"] = r.Latency
	}
	out["protos"] = []any{int(flow.TCP), int(flow.UDP)}
	if r.Proto != 0 {
		out["protos"] = []any{int(r.Proto)}
	}
	states, set := []any{}, r.States
	if set == 0 {
		set = state.AllStates
	}
	for s := state.Normal; s <= state.Recovery; s++ {
		if set.Has(s) {
			states = append(states, int(s))
		}
	}
	out["states"] = states
	ports := []any{}
	for _, p := range r.Ports {
		ports = append(ports, map[string]any{"lo": int(p.Lo), "hi": int(p.Hi)})
	}
	if r.Ports == nil {
		ports = []any{map[string]any{"lo": 0, "hi": 65_535}}
	}
	out["ports"] = ports
	return out
}

// newOPAIndex keeps what an object can be keyed by: names, without the other
// conditions, and of two rules for one name the first.
func newOPAIndex(list []workload.Rule) (measure.System, error) {
	exact, suffix := map[string]any{}, map[string]any{}
	for i := range list {
		r, of := &list[i], exact
		if r.Name == "" || r.Kind == rules.Keyword {
			continue
		}
		if r.Kind == rules.Suffix {
			of = suffix
		}
		if of[r.Name] == nil {
			of[r.Name] = []any{i, r.Outcome}
		}
	}
	return newOPA("data.index.outcome", indexPolicy, map[string]any{"exact": exact, "suffix": suffix},
		func(c *workload.Conn) map[string]any { return map[string]any{"name": c.Name} })
}

// judgeNames answers what opa-index must: the first rule whose name fits.
func judgeNames(list []workload.Rule, c *workload.Conn) int {
	dotted := "." + c.Name
	for i := range list {
		r := &list[i]
		switch {
		case r.Name == "":
		case r.Kind == rules.Exact && c.Name == r.Name, r.Kind == rules.Suffix && strings.HasSuffix(dotted, "."+r.Name):
			return r.Outcome
		}
	}
	return workload.NoMatch
}
