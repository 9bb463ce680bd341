package main

import (
	"testing"

	"netpolicy.dev/netpolicy/bench/workload"
)

func TestAnswers(t *testing.T) {
	const rules, conns = 100, 500
	for _, test := range []struct{ system, shape string }{
		{"xray", workload.NRules},
		{"xray", workload.Set},
		{"sing-box", workload.NRules},
		{"sing-box-srs", workload.Set},
		{"opa-scan", workload.NRules},
		{"opa-index", workload.NRules},
		{"cel", workload.NRules},
	} {
		t.Run(test.system+"/"+test.shape, func(t *testing.T) {
			kind := systems[test.system]
			list, err := workload.Make(test.shape, rules)
			if err != nil {
				t.Fatal(err)
			}
			sys, err := kind.Build(list)
			if err != nil {
				t.Fatal(err)
			}
			all := workload.ConnsFor(test.shape, list, conns)
			sys.Load(all)
			linear, hits := workload.NewLinear(list, kind.Loose), 0
			for i := range all {
				want := linear.Decide(&all[i])
				if kind.Judge != nil {
					want = kind.Judge(list, &all[i])
				}
				if got := sys.Decide(i); got != want {
					t.Errorf("%+v: outcome %d, want %d", all[i], got, want)
				}
				if want != workload.NoMatch {
					hits++
				}
			}
			if hits == 0 {
				t.Error("no connection is under a rule")
			}
		})
	}
}

func TestSetWantsOneOutcome(t *testing.T) {
	list, err := workload.Make(workload.NRules, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newSingBoxSet(list); err == nil {
		t.Error("rules with outcomes of their own were taken for a set")
	}
}
