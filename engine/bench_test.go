package engine_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// benchPolicy has n rules in random order of priority: 70 % suffixes, 10 %
// exact names, 20 % prefixes; a fifth of them with a port, a fifth with a protocol.
func benchPolicy(rng *rand.Rand, n int) *rules.Policy {
	p := policy()
	for i := range n {
		var match rules.Expr
		switch k := rng.IntN(10); {
		case k < 7:
			match = sni(fmt.Sprintf(".site%d.example", i))
		case k < 8:
			match = sni(fmt.Sprintf("host%d.example", i))
		default:
			a := netip.AddrFrom4([4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), 0})
			match = dst(netip.PrefixFrom(a, 24).String())
		}
		if rng.IntN(5) == 0 {
			match = all(match, port(443))
		}
		if rng.IntN(5) == 0 {
			match = all(match, proto(6))
		}
		p.Rules = append(p.Rules, rule(fmt.Sprintf("r%d", i), rng.IntN(1000), match, route(i%3)))
	}
	return p
}

func benchFlows(rng *rand.Rand, n int, hit bool) []flow.Flow {
	out := make([]flow.Flow, 1024)
	for i := range out {
		name := fmt.Sprintf("www.other%d.test", i)
		if hit {
			name = fmt.Sprintf("www.site%d.example", rng.IntN(n))
		}
		f, err := flow.ParseText(fmt.Sprintf("tcp 10.0.0.5:%d > 203.0.113.9:443 sni=%s", 1000+i, name))
		if err != nil {
			panic(err)
		}
		out[i] = f
	}
	return out
}

func BenchmarkDecide(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"10", 10}, {"1k", 1000}, {"10k", 10_000}} {
		rng := rand.New(rand.NewPCG(1, 2))
		p := benchPolicy(rng, size.n)
		prog := engine.Compile(p)
		w := engine.OfflineWorld(p, state.Normal)
		unknown := benchFlows(rng, size.n, true)
		for i := range unknown {
			unknown[i].SNI = flow.Value[string]{}
		}
		for _, c := range []struct {
			name  string
			flows []flow.Flow
		}{{"hit", benchFlows(rng, size.n, true)}, {"miss", benchFlows(rng, size.n, false)}, {"unknown", unknown}} {
			b.Run(size.name+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				hits, i := 0, 0
				for b.Loop() {
					if d := prog.Decide(&c.flows[i%len(c.flows)], w); d.Rule >= 0 {
						hits++
					}
					i++
				}
				if c.name != "hit" && hits > 0 || c.name == "hit" && hits == 0 && i > 100 {
					b.Errorf("%d of %d flows hit a rule", hits, i)
				}
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	p := benchPolicy(rand.New(rand.NewPCG(1, 2)), 10_000)
	b.Run("10k", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			engine.Compile(p)
		}
	})
}
