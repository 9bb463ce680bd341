//go:build !race

// Long, and of one goroutine: nothing for the race detector.

package engine_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// domainList is a list as the test reads it: no includes, no attributes. The
// names are canonical as they stand, those that are not are left out.
type domainList struct {
	name    string
	full    []string
	domain  []string
	regexps []*regexp.Regexp
	set     rules.Set
}

func readDomainLists(t *testing.T) []domainList {
	t.Helper()
	dir := sharedData(t, "domain-list")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var lists []domainList
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		l := domainList{name: e.Name(), set: rules.Set{Name: e.Name(), Type: rules.DomainSet}}
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			l.add(t, words[0])
		}
		lists = append(lists, l)
	}
	return lists
}

func (l *domainList) add(t *testing.T, word string) {
	t.Helper()
	kind, value, typed := strings.Cut(word, ":")
	if !typed {
		kind, value = "domain", word
	}
	pattern := rules.NamePattern{Name: value}
	switch kind {
	case "include":
		return
	case "regexp":
		var err error
		if pattern, err = rules.NewRegex(value); err != nil {
			t.Fatalf("%s: %q: %v", l.name, word, err)
		}
		l.regexps = append(l.regexps, regexp.MustCompile(value))
	case "full", "domain":
		if name, err := flow.CanonicalName(value); err != nil || name != value {
			return
		}
		if kind == "full" {
			l.full = append(l.full, value)
		} else {
			pattern.Kind = rules.Suffix
			l.domain = append(l.domain, value)
		}
	default:
		t.Fatalf("%s: what is %q?", l.name, word)
	}
	l.set.Names = append(l.set.Names, pattern)
}

// TestDomainLists makes each list a set that a rule names, and compares 20,000
// names, in the lists or nearly, with maps of strings.
func TestDomainLists(t *testing.T) {
	lists := readDomainLists(t)
	p := policy()
	full, domain := map[string]int{}, map[string]int{} // the first list that has the name
	var names []string
	for i := range lists {
		l := &lists[i]
		p.Sets = append(p.Sets, &l.set)
		match := pred(rules.Pred{Field: rules.FieldDomain, Names: l.set.Names, Set: &l.set})
		p.Rules = append(p.Rules, rule(l.name, -i, match, route(i%3)))
		for _, name := range l.full {
			names = append(names, name)
			if _, seen := full[name]; !seen {
				full[name] = i
			}
		}
		for _, name := range l.domain {
			names = append(names, name)
			if _, seen := domain[name]; !seen {
				domain[name] = i
			}
		}
	}
	first := func(name string) int {
		best := len(lists)
		if i, ok := full[name]; ok {
			best = i
		}
		for at := name; ; {
			if i, ok := domain[at]; ok {
				best = min(best, i)
			}
			_, rest, more := strings.Cut(at, ".")
			if !more {
				break
			}
			at = rest
		}
		for i := range lists[:best] {
			for _, re := range lists[i].regexps {
				if re.MatchString(name) {
					return i
				}
			}
		}
		if best == len(lists) {
			return -1
		}
		return best
	}

	prog := engine.Compile(p)
	w := engine.OfflineWorld(p, state.Normal)
	rng := rand.New(rand.NewPCG(*seed, 5))
	const flows = 20_000
	hits := 0
	for range flows {
		name := nearName(rng, names[rng.IntN(len(names))])
		f := flow.Flow{SNI: flow.Some(name)}
		d, want := prog.Decide(&f, w), first(name)
		if d.Rule != want || !d.Final {
			t.Fatalf("%s: %+v, want rule %d", name, d, want)
		}
		count(&hits, want >= 0)
	}
	t.Logf("domain lists: %d lists, %d names, %d looked up, %d hit, none different", len(lists), len(names), flows, hits)
	if len(lists) < 1500 || hits < flows/3 || hits > flows*9/10 {
		t.Errorf("%d lists, %d of %d names hit", len(lists), hits, flows)
	}
}

// nearName is a name or one beside it: under it, over it, or spelled otherwise.
// It need not be canonical, but has the characters of one.
func nearName(rng *rand.Rand, name string) string {
	switch rng.IntN(6) {
	case 0:
		return "www." + name
	case 1:
		return "evil" + name
	case 2:
		_, parent, more := strings.Cut(name, ".")
		if more {
			return parent
		}
	case 3:
		return name + ".example"
	case 4:
		b := []byte(name)
		if i := rng.IntN(len(b)); b[i] != '.' {
			b[i] = byte('a' + rng.IntN(26))
		}
		return string(b)
	}
	return name
}
