package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// celSystem has one program a rule, and asks one after the other.
type celSystem struct {
	programs []cel.Program
	outcomes []int
	conns    []celConn
}

// celConn is a connection as the variables of programs. All are converted ahead.
type celConn struct{ name, dotted, src, dst, srcPort, port, proto, latency ref.Val }

// ResolveName returns a variable.
func (c *celConn) ResolveName(name string) (any, bool) {
	switch name {
	case "name":
		return c.name, true
	case "dotted":
		return c.dotted, true
	case "dst":
		return c.dst, true
	case "src":
		return c.src, true
	case "port":
		return c.port, true
	case "srcPort":
		return c.srcPort, true
	case "proto":
		return c.proto, true
	case "latency":
		return c.latency, true
	case "state":
		return celNormal, true
	default:
		return nil, false
	}
}

// Parent returns nil: there is no outer scope.
func (c *celConn) Parent() cel.Activation { return nil }

var celNormal ref.Val = types.Int(state.Normal)

// parsedCIDRs parses cidr('10.0.0.0/8') when a program is built, with the hook that
// cel-go has for the constants of regular expressions; else that is done at each
// evaluation.
var parsedCIDRs = cel.OptimizeRegex(&interpreter.RegexOptimization{
	Function: "cidr",
	Factory: func(call interpreter.InterpretableCall, text string) (interpreter.InterpretableCall, error) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		var value ref.Val = ext.CIDR{Prefix: prefix}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), nil,
			func(...ref.Val) ref.Val { return value }), nil
	},
})

func newCEL(list []workload.Rule) (measure.System, error) {
	env, err := cel.NewEnv(ext.Network(),
		cel.Variable("name", cel.StringType), cel.Variable("dotted", cel.StringType),
		cel.Variable("dst", ext.IPType), cel.Variable("src", ext.IPType),
		cel.Variable("port", cel.IntType), cel.Variable("srcPort", cel.IntType), cel.Variable("proto", cel.IntType),
		cel.Variable("latency", cel.IntType), cel.Variable("state", cel.IntType))
	if err != nil {
		return nil, err
	}
	s := &celSystem{programs: make([]cel.Program, len(list)), outcomes: make([]int, len(list))}
	for i := range list {
		text := celRule(&list[i])
		ast, issues := env.Compile(text)
		if issues.Err() != nil {
			return nil, fmt.Errorf("compile %q: %w", text, issues.Err())
		}
		if s.programs[i], err = env.Program(ast, cel.EvalOptions(cel.OptOptimize), parsedCIDRs); err != nil {
			return nil, fmt.Errorf("plan %q: %w", text, err)
		}
		s.outcomes[i] = list[i].Outcome
	}
	return s, nil
}

func (s *celSystem) Load(conns []workload.Conn) {
	s.conns = make([]celConn, len(conns))
	for i := range conns {
		c := &conns[i]
		s.conns[i] = celConn{
			name: types.String(c.Name), dotted: types.String("." + c.Name),
			src: ext.IP{Addr: c.Src}, dst: ext.IP{Addr: c.Dst},
			srcPort: types.Int(c.SrcPort), port: types.Int(c.DstPort), proto: types.Int(c.Proto),
			latency: types.Int(c.Latency),
		}
	}
}

func (s *celSystem) Run(from, to int) int {
	sum := 0
	for i := from; i < to; i++ {
		sum += s.Decide(i)
	}
	return sum
}

func (s *celSystem) Decide(i int) int {
	for n, program := range s.programs {
		v, _, err := program.Eval(&s.conns[i])
		if err != nil {
			panic(err)
		}
		if v == types.True {
			return s.outcomes[n]
		}
	}
	return workload.NoMatch
}

// celRule writes a rule as an expression. What seldom holds comes first, because
// && stops there; a suffix is compared with the name behind a dot, which is one
// call instead of two.
func celRule(r *workload.Rule) string {
	var and []string
	add := func(format string, args ...any) { and = append(and, fmt.Sprintf(format, args...)) }
	switch {
	case r.Name == "":
	case r.Kind == rules.Exact:
		add("name == '%s'", r.Name)
	case r.Kind == rules.Suffix:
		add("dotted.endsWith('.%s')", r.Name)
	default:
		add("name.contains('%s')", r.Name)
	}
	if r.Dst.IsValid() {
		add("cidr('%s').containsIP(dst)", r.Dst)
	}
	if r.Src.IsValid() {
		add("cidr('%s').containsIP(src)", r.Src)
	}
	if r.Ports != nil {
		add("%s", celPorts("port", r.Ports))
	}
	if r.SrcPorts != nil {
		add("%s", celPorts("srcPort", r.SrcPorts))
	}
	if r.Proto != 0 {
		add("proto == %d", r.Proto)
	}
	if r.Latency != 0 {
		add("latency > %d", r.Latency)
	}
	if r.States != 0 {
		add("state in [%s]", strings.Join(celStates(r.States), ", "))
	}
	if and == nil {
		return "true"
	}
	return strings.Join(and, " && ")
}

func celPorts(variable string, list []rules.PortRange) string {
	var or []string
	for _, r := range list {
		if r.Lo == r.Hi {
			or = append(or, fmt.Sprintf("%s == %d", variable, r.Lo))
		} else {
			or = append(or, fmt.Sprintf("%s >= %d && %s <= %d", variable, r.Lo, variable, r.Hi))
		}
	}
	return "(" + strings.Join(or, " || ") + ")"
}

func celStates(set state.Set) []string {
	var out []string
	for s := state.Normal; s <= state.Recovery; s++ {
		if set.Has(s) {
			out = append(out, strconv.Itoa(int(s)))
		}
	}
	return out
}
