package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sagernet/sing-box/adapter"
	"github.com/sagernet/sing-box/common/srs"
	C "github.com/sagernet/sing-box/constant"
	"github.com/sagernet/sing-box/log"
	"github.com/sagernet/sing-box/option"
	"github.com/sagernet/sing-box/route"
	"github.com/sagernet/sing-box/route/rule"
	M "github.com/sagernet/sing/common/metadata"
	N "github.com/sagernet/sing/common/network"
	"github.com/sagernet/sing/service"

	"netpolicy.dev/netpolicy/bench/measure"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
)

// setTag names the one rule-set.
const setTag = "set"

// singBox scans the rules of sing-box's router as the router itself does. What
// the router does besides (it looks up processes and neighbours, and writes a log
// line a decision) is left out, in its favour.
type singBox struct {
	rules []adapter.Rule
	conns []singBoxConn
	meta  adapter.InboundContext
}

type singBoxConn struct {
	network, name       string
	source, destination M.Socksaddr
}

func newSingBox(list []workload.Rule) (measure.System, error) {
	var options []option.Rule
	for i := range list {
		if list[i].Name != "" && list[i].Dst.IsValid() {
			return nil, errors.New("sing-box takes a name and a prefix in one rule as alternatives")
		}
		options = append(options, singBoxTo(list[i].Outcome, singBoxRule(&list[i])))
	}
	return startSingBox(options, nil)
}

// newSingBoxSet compiles an .srs file, and has one rule ask that.
func newSingBoxSet(list []workload.Rule) (measure.System, error) {
	if !isSet(list) {
		return nil, errors.New("a rule-set has one outcome")
	}
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "set.srs")
	if err := writeSet(path, list); err != nil {
		return nil, err
	}
	set := option.RuleSet{
		Type: C.RuleSetTypeLocal, Tag: []string{setTag}, Format: C.RuleSetFormatBinary,
		LocalOptions: option.LocalRuleSet{Path: path},
	}
	ask := singBoxTo(0, option.RawDefaultRule{RuleSet: []string{setTag}})
	return startSingBox([]option.Rule{ask}, []option.RuleSet{set})
}

func startSingBox(options []option.Rule, sets []option.RuleSet) (measure.System, error) {
	ctx := service.ContextWithDefaultRegistry(context.Background())
	router := route.NewRouter(ctx, log.NewNOPFactory(), option.RouteOptions{}, option.DNSOptions{})
	service.MustRegister[adapter.Router](ctx, router) // where rules find rule-sets
	if err := router.Initialize(options, sets); err != nil {
		return nil, err
	}
	s := &singBox{rules: router.Rules()}
	for _, r := range s.rules {
		if err := r.Start(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *singBox) Load(conns []workload.Conn) {
	s.conns = make([]singBoxConn, len(conns))
	for i := range conns {
		c := &conns[i]
		s.conns[i] = singBoxConn{
			network: singBoxNetwork(c.Proto), name: c.Name,
			source:      M.Socksaddr{Addr: c.Src, Port: c.SrcPort},
			destination: M.Socksaddr{Addr: c.Dst, Port: c.DstPort},
		}
	}
}

func (s *singBox) Run(from, to int) int {
	sum := 0
	for i := from; i < to; i++ {
		sum += s.Decide(i)
	}
	return sum
}

func (s *singBox) Decide(i int) int {
	c, m := &s.conns[i], &s.meta
	m.Network, m.Domain, m.Source, m.Destination = c.network, c.name, c.source, c.destination
	for _, r := range s.rules {
		m.ResetRuleCache()
		if !r.Match(m) {
			continue
		}
		if action, ok := r.Action().(*rule.RuleActionRoute); ok {
			return untag(action.Outbound)
		}
	}
	return workload.NoMatch
}

func singBoxTo(outcome int, match option.RawDefaultRule) option.Rule {
	return option.Rule{
		Type: C.RuleTypeDefault,
		DefaultOptions: option.DefaultRule{
			RawDefaultRule: match,
			RuleAction: option.RuleAction{
				Action: C.RuleActionTypeRoute, RouteOptions: option.RouteActionOptions{Outbound: tag(outcome)},
			},
		},
	}
}

func singBoxRule(r *workload.Rule) option.RawDefaultRule {
	var out option.RawDefaultRule
	switch {
	case r.Name == "":
	case r.Kind == rules.Exact:
		out.Domain = []string{r.Name}
	case r.Kind == rules.Suffix:
		out.DomainSuffix = []string{r.Name}
	default:
		out.DomainKeyword = []string{r.Name}
	}
	if r.Dst.IsValid() {
		out.IPCIDR = []string{r.Dst.String()}
	}
	if r.Src.IsValid() {
		out.SourceIPCIDR = []string{r.Src.String()}
	}
	out.Port, out.PortRange = singBoxPorts(r.Ports)
	out.SourcePort, out.SourcePortRange = singBoxPorts(r.SrcPorts)
	if r.Proto != 0 {
		out.Network = []string{singBoxNetwork(r.Proto)}
	}
	return out
}

// singBoxPorts tells single ports, which sing-box looks up in a map, from ranges.
func singBoxPorts(list []rules.PortRange) (single []uint16, ranges []string) {
	for _, r := range list {
		if r.Lo == r.Hi {
			single = append(single, r.Lo)
		} else {
			ranges = append(ranges, fmt.Sprintf("%d:%d", r.Lo, r.Hi))
		}
	}
	return single, ranges
}

func singBoxNetwork(p flow.Proto) string {
	if p == flow.UDP {
		return N.NetworkUDP
	}
	return N.NetworkTCP
}

// writeSet writes names and prefixes as one headless rule, in which they are
// alternatives.
func writeSet(path string, list []workload.Rule) error {
	var all option.DefaultHeadlessRule
	for i := range list {
		r := singBoxRule(&list[i])
		all.Domain = append(all.Domain, r.Domain...)
		all.DomainSuffix = append(all.DomainSuffix, r.DomainSuffix...)
		all.DomainKeyword = append(all.DomainKeyword, r.DomainKeyword...)
		all.IPCIDR = append(all.IPCIDR, r.IPCIDR...)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	set := option.PlainRuleSet{Rules: []option.HeadlessRule{{Type: C.RuleTypeDefault, DefaultOptions: all}}}
	return errors.Join(srs.Write(f, set, C.RuleSetVersionCurrent), f.Close())
}
