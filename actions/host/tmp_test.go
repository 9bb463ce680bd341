package host

import (
	"testing"
	"os"
	"time"
	"runtime/pprof"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/bench/workload"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/state"
)

func TestTmpPlan(t *testing.T) {
	for _, x := range []struct{ s string; n int }{{"acl",1000},{"acl",10000},{"classbench", 2572}, {"mix", 10000}, {"mix", 100000}} {
		list, _ := flowWork(t, x.s, x.n, 10)
		if x.s == "5-tuple" { list, _ = workload.Make(x.s, x.n) }
		p := flowPolicy(list)
		prog := engine.Compile(p)
		w := engine.OfflineWorld(p, state.Normal)
		f, _ := os.Create("/tmp/plan.prof")
		pprof.StartCPUProfile(f)
		b := time.Now()
		plan, d := actions.PlanFor(prog, actions.Host{}, w, nil)
		pprof.StopCPUProfile()
		f.Close()
		if plan == nil { t.Log(d); continue }
		long, rules, elems := 0, 0, 0
		for _, c := range plan.Table.Chains { long = max(long, len(c.Rules)); rules += len(c.Rules) }
		for _, s := range plan.Table.Sets { elems += len(s.Elems) }
		t.Log(x, time.Since(b), len(plan.Table.Chains), "chains", rules, "rules", len(plan.Table.Sets), "sets", elems, "elems; longest", long, d[:min(3, len(d))])
		if x.s == "5-tuple" && x.n == 1000 { os.Rename("/tmp/plan.prof", "/tmp/plan5.prof") }
	}
}
