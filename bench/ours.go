package main

import (
	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/hugepages"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// The systems that this program measures itself.
const (
	ourName    = "netpolicy"
	ourSetName = "netpolicy-set" // the same, asked about one rule over a set
	linearName = "linear"
)

var ours = map[string]measure.Kind{
	ourName:    {Parse: parser(workload.Policy)},
	ourSetName: {Parse: parser(workload.SetPolicy)},
	linearName: {Build: newLinear},
}

// parser makes the policy beforehand, so that compiling it is what is measured.
func parser(policy func([]workload.Rule) *rules.Policy) func([]workload.Rule) func() (measure.System, error) {
	return func(list []workload.Rule) func() (measure.System, error) {
		p := policy(list)
		return func() (measure.System, error) {
			prog := engine.Compile(p)
			hugepages.Use(prog.Tables()) // as the daemon does
			return &decider{prog: prog, world: engine.OfflineWorld(p, state.Normal)}, nil
		}
	}
}

// decider is netpolicy's engine. As with the peers, the facts of each connection are
// put into one flow, and that is measured, too: so does who learns of a connection.
type decider struct {
	prog   *engine.Program
	world  *state.World
	conns  []workload.Conn
	forget bool
	hints  []flow.Names // by connection, or nil
}

func (d *decider) Load(conns []workload.Conn) { d.conns, d.forget, d.hints = conns, false, nil }

// Forget makes the names unknown, as they are when the first packet is decided;
// with hints a DNS answer has told them.
func (d *decider) Forget(hints bool) {
	if d.forget = true; !hints {
		return
	}
	d.hints = make([]flow.Names, len(d.conns))
	for i := range d.conns {
		if name := d.conns[i].Name; name != "" {
			d.hints[i] = flow.NewNames(name)
		}
	}
}

func (d *decider) Run(from, to int) int {
	sum := 0
	var answer engine.Decision
	f := flow.Flow{HTTPHost: flow.Absent[string]()}
	if d.forget {
		f.HTTPHost = flow.Value[string]{}
	}
	for i := range d.conns[from:to] {
		d.conns[from+i].Into(&f)
		if d.forget {
			f.SNI = flow.Value[string]{}
			if d.hints != nil {
				f.DNS = d.hints[from+i]
			}
		}
		d.prog.DecideInto(&answer, &f, d.world)
		sum += answer.Asked
	}
	return sum
}

// Decide returns the route asked for, as the outcomes are routes: without a rule it
// is -1, which is NoMatch.
func (d *decider) Decide(i int) int {
	f := d.conns[i].Flow()
	return d.prog.Decide(&f, d.world).Asked
}

// scan is the linear search.
type scan struct {
	*workload.Linear
	conns []workload.Conn
}

func newLinear(list []workload.Rule) (measure.System, error) {
	return &scan{Linear: workload.NewLinear(list, false)}, nil
}

func (s *scan) Load(conns []workload.Conn) { s.conns = conns }

func (s *scan) Run(from, to int) int {
	sum := 0
	for i := from; i < to; i++ {
		sum += s.Decide(i)
	}
	return sum
}

func (s *scan) Decide(i int) int { return s.Linear.Decide(&s.conns[i]) }
