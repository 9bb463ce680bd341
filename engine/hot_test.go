package engine_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// hotPolicy has every index of the classifier: tables of names, texts,
// prefixes, ports, numbers, strings, sets beyond all limits, crowds of rules
// under one name, prefix and port, conditions that have to be evaluated, and
// rules that set modifiers only.
func hotPolicy() *rules.Policy {
	p := policy()
	add := func(match rules.Expr, do rules.Outcome) {
		p.Rules = append(p.Rules, rule(fmt.Sprintf("r%d", len(p.Rules)), len(p.Rules)%7, match, do))
	}
	for i := range 100 {
		add(all(sni(".crowd.example"), port(uint16(i))), route(i%3))
		add(all(dst("198.51.100.0/24"), pred(rules.Pred{Field: rules.FieldSrcPort, Ports: []rules.PortRange{{Lo: uint16(i), Hi: 60_000}}})), route(i%3))
		add(all(port(8443), dst(fmt.Sprintf("2001:db8:%x::/48", i))), block)
		add(domain(fmt.Sprintf("*.site%d.example", i), fmt.Sprintf("glob-*.site%d.test", i)), route(i%5))
	}
	set := &rules.Set{Name: "big"}
	nets := &rules.Set{Name: "nets", Type: rules.CIDRSet}
	programs := &rules.Set{Name: "programs", Type: rules.ProcessSet}
	for i := range 200 {
		word, _ := rules.NewKeyword(fmt.Sprintf("word%d", i))
		expr, _ := rules.NewRegex(fmt.Sprintf(`^(a|b)+%d\.`, i))
		set.Names = append(set.Names, rules.NamePattern{Kind: rules.Suffix, Name: fmt.Sprintf("big%d.example", i)}, word, expr)
		nets.Prefixes = append(nets.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16))
		programs.Globs = append(programs.Globs, rules.Glob(fmt.Sprintf("p%d-*", i)), rules.Glob(fmt.Sprintf("q%d", i)))
	}
	p.Sets = []*rules.Set{set, nets, programs}
	for _, f := range []rules.Field{rules.FieldSNI, rules.FieldDomain, rules.FieldHTTPHost} {
		add(all(pred(rules.Pred{Field: f, Names: set.Names, Set: set}), no(port(9))), route(ha))
	}
	for _, f := range []rules.Field{rules.FieldDstIP, rules.FieldSrcIP} {
		add(all(pred(rules.Pred{Field: f, Prefixes: nets.Prefixes, Set: nets}), no(port(9))), route(best))
	}
	for _, f := range []rules.Field{rules.FieldProcess, rules.FieldProcessPath} {
		add(anyOf(pred(rules.Pred{Field: f, Globs: programs.Globs, Set: programs}), all(port(7), rttOver(5))), route(nested))
	}
	add(pred(rules.Pred{Field: rules.FieldSrcMAC, MACs: []flow.MAC{{2, 0, 0, 0, 0, 1}}}), logged(route(fast)))
	add(pred(rules.Pred{Field: rules.FieldUser, Globs: []rules.Glob{"root", "u*"}}), logged(rules.Outcome{}))
	add(pred(rules.Pred{Field: rules.FieldMark, Numbers: []uint32{1}}), rules.Outcome{Mods: rules.Modifiers{DSCP: flow.Some[uint8](1)}})
	add(pred(rules.Pred{Field: rules.FieldDSCP, Numbers: []uint32{1}}), rules.Outcome{Mods: rules.Modifiers{Mark: flow.Some[uint32](1)}})
	add(pred(rules.Pred{Field: rules.FieldCgroup, Globs: []rules.Glob{"*.slice"}}), rules.Outcome{Kind: rules.ActFallback, Routes: []int{backup, ha}})
	add(pred(rules.Pred{Field: rules.FieldIfaceIn, Globs: []rules.Glob{"eth0"}}), block)
	for _, f := range []rules.Field{rules.FieldApp, rules.FieldALPN, rules.FieldGroup, rules.FieldIfaceOut, rules.FieldCountry} {
		add(pred(rules.Pred{Field: f, Globs: []rules.Glob{"h2", "DE"}}), logged(route(backup)))
	}
	add(pred(rules.Pred{Field: rules.FieldASN, Numbers: []uint32{64496}}), logged(route(fast)))
	p.Conditions, p.Schedules = []rules.Condition{{Name: "busy"}}, []rules.Schedule{{Name: "night"}}
	for i := range 100 {
		add(all(sni(".crowd.example"), port(uint16(i))), block)
		p.Rules[len(p.Rules)-1].When = &rules.Expr{Op: rules.OpOr, Kids: []rules.Expr{
			pred(rules.Pred{Field: rules.FieldCondition}), no(pred(rules.Pred{Field: rules.FieldSchedule})),
			pred(rules.Pred{Field: rules.FieldUplink, Metric: rules.Metric(i % 8), Cmp: rules.Gt, Bound: 1}),
		}}
	}
	add(latencyOver(100), block)
	add(rttOver(100), block)
	return p
}

// hotFlows are one flow for each way in which a decision is made.
var hotFlows = []string{
	"tcp 10.3.0.5:5000 > 203.0.113.9:443 sni=us01.zoom.us process=zoom",
	"tcp 10.3.0.5:5000 > 198.51.100.9:50 sni=a.b.c.crowd.example",
	"tcp 10.3.0.5:50 > 198.51.100.9:50",
	"tcp ? > [2001:db8:5::1]:8443 dns=x.site7.example,glob-1.site7.test,word17.example,bb12.test",
	"tcp 10.3.0.5:5000 > 203.0.113.9:443 dns=us01.zoom.us,b.example sni=null http_host=null",
	"tcp 10.3.0.5:5000 > 203.0.113.9:443 sni=null http_host=null domain=null",
	"udp 10.3.0.5:5000 > 10.9.0.1:7 sni=abab17.example http_host=my-word99-site.test",
	"tcp 10.3.0.5:5000 > 203.0.113.9:7 process=p77-x process_path=q9 user=u1 cgroup=x.slice iface_in=eth1",
	"icmp 10.3.0.5 > 203.0.113.9 mark=1 dscp=1 user=root latency_ms=1 rtt_ms=1",
	"tcp ? > ? alpn=http/1.1,h2 group=h2 app=DE country=DE iface_out=h2 asn=64496 conn_bytes=1 conn_age=1",
	"? ? > ?",
}

// TestConcurrent decides on all cores with one program while others are made
// from it. The race detector watches; the decisions must not change either.
func TestConcurrent(t *testing.T) {
	p := hotPolicy()
	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Normal)
	flows := make([]flow.Flow, len(hotFlows))
	want := make([]engine.Decision, len(hotFlows))
	for i, text := range hotFlows {
		f, err := flow.ParseText(text)
		if err != nil {
			t.Fatal(err)
		}
		flows[i], want[i] = f, prog.Decide(&f, w)
	}
	var hits engine.Hits
	var group sync.WaitGroup
	const deciders, rounds = 8, 50
	for range deciders {
		tally := hits.Tally(prog)
		group.Go(func() {
			for range rounds {
				for i := range flows {
					d := prog.Decide(&flows[i], w)
					if tally.Add(&d); !equal(d, want[i]) {
						t.Errorf("%s: %+v, want %+v", hotFlows[i], d, want[i])
						return
					}
				}
			}
		})
	}
	for range 2 {
		group.Go(func() {
			old := prog
			for i := range 10 {
				q := clone(p)
				q.Rules[i].Priority += i
				old = engine.Recompile(old, q)
				old.Decide(&flows[0], w)
				prog.Explain(&flows[i], w)
			}
		})
	}
	group.Go(func() { hits.Sum() })
	group.Wait()
	total, byRule := hits.Sum()
	for _, n := range byRule {
		total += n
	}
	if !t.Failed() && total != deciders*rounds*uint64(len(flows)) {
		t.Errorf("%d decisions counted, want %d", total, deciders*rounds*len(flows))
	}
}
