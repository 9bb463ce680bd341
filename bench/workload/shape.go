package workload

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// The shapes of a policy; the hostile sets' names are shapes, too.
const (
	NRules      = "n-rules"      // N rules, each with one of seven outcomes
	Set         = "one-set"      // one rule over N names and prefixes
	ClassBench  = "classbench"   // a ClassBench filter set, whatever N
	DomainLists = "domain-lists" // the v2fly community lists, a rule a name, whatever N
)

// data is where the files stand that nobody here wrote, from the project's root.
const data = "../shared/data"

// Missing reports why a shape can't be made here: its data is not in the
// repository.
func Missing(shape string) error {
	file := map[string]string{ClassBench: "classbench", DomainLists: "domain-list"}[shape]
	if file == "" {
		return nil
	}
	_, err := os.Stat(filepath.Join(data, file))
	return err
}

// Make returns the rules of a shape.
func Make(shape string, n int) ([]Rule, error) {
	switch shape {
	case NRules:
		return Mix(n), nil
	case Set:
		return OneSet(n), nil
	case ClassBench:
		text, err := os.ReadFile(filepath.Join(data, "classbench", "acl1.txt"))
		if err != nil {
			return nil, err
		}
		return filterSet(text)
	case DomainLists:
		return domainLists(filepath.Join(data, "domain-list"))
	}
	for _, h := range slices.Concat(Hostile, Beyond) {
		if h.Name == shape {
			return h.Make(n), nil
		}
	}
	return nil, fmt.Errorf("there is no shape %q", shape)
}

// ConnsFor returns n connections for the rules of a shape.
func ConnsFor(shape string, list []Rule, n int) []Conn {
	if shape == ClassBench {
		return hostileConns(list, n)
	}
	for _, h := range slices.Concat(Hostile, Beyond) {
		if h.Name == shape {
			return h.Conns(list, n)
		}
	}
	return Conns(list, n)
}

// domainLists makes a rule of each name of each list, without includes and
// expressions; a list's rules have one outcome.
func domainLists(dir string) ([]Rule, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Rule
	for i, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		e, _, err := lists.Parse(lists.Source{Format: lists.DLC, Data: text, Name: f.Name()}, rules.DomainSet)
		if err != nil { // a list of includes alone
			continue
		}
		for _, p := range e.Names {
			if p.Kind != rules.Regex {
				out = append(out, Rule{Kind: p.Kind, Name: p.Name, Outcome: i % Outcomes})
			}
		}
	}
	return ordered(out), nil
}
