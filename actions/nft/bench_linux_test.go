package nft

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/nstest"
)

// BenchmarkSets puts a set of 100,000 addresses in place of another of the same
// size: by us, by `nft -f`, and by `ipset restore` and swap; in turn, so that a
// noisy machine is noisy for all. It reports the median of each, in milliseconds:
// by the clock, and of processor time.
//
//	go test -run '^$' -bench Sets -benchtime 7x ./actions/nft/
func BenchmarkSets(b *testing.B) {
	need(b, "nft", "ipset")
	const size = 100_000
	b.Run("100k/prefixes", func(b *testing.B) {
		benchSets(b, "hash:net", func(i int) string { return slash24(2 * i).String() }, size)
	})
	b.Run("100k/hosts", func(b *testing.B) {
		benchSets(b, "hash:ip", func(i int) string {
			return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		}, size)
	})
}

func benchSets(b *testing.B, kind string, elem func(int) string, size int) {
	ours, theirs, sets := nstest.New(b), nstest.New(b), nstest.New(b)
	a := open(b, ours, Options{})
	table := &actions.Table{Name: actions.TableName, Sets: []actions.Set{{Name: "nets", Type: "type ipv4_addr", Ranges: kind == "hash:net"}}}
	var restore bytes.Buffer
	fmt.Fprintf(&restore, "create new %s maxelem %d hashsize %d\n", kind, 2*size, size)
	for i := range size {
		table.Sets[0].Elems = append(table.Sets[0].Elems, actions.Elem{Key: elem(i)})
		fmt.Fprintf(&restore, "add new %s\n", elem(i))
	}
	restore.WriteString("swap new nets\ndestroy new\n")
	sets.Run(b, fmt.Sprintf("create nets %s maxelem %d hashsize %d\n", kind, 2*size, size), "ipset", "restore")
	text := replaceText(table)
	took := map[string][]time.Duration{}
	timed := func(what string, f func()) {
		start, used := time.Now(), cpu(b)
		f()
		took[what+"-ms"] = append(took[what+"-ms"], time.Since(start))
		took[what+"-cpu-ms"] = append(took[what+"-cpu-ms"], cpu(b)-used)
	}
	put := func() {
		timed("netlink", func() { must(b, a.Replace(b.Context(), table)) })
		timed("nft", func() { theirs.Run(b, text, "nft", "-f", "-") })
		timed("ipset", func() { sets.Run(b, restore.String(), "ipset", "restore") })
	}
	put() // the first meets nothing to replace
	clear(took)
	for b.Loop() {
		put()
	}
	b.ReportMetric(0, "ns/op")
	for what, list := range took {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2].Microseconds())/1000, what)
	}
	if list(b, ours) != list(b, theirs) {
		b.Error("the kernel holds different sets")
	}
	if text := sets.Run(b, "", "ipset", "list", "-t", "nets"); !strings.Contains(text, fmt.Sprintf("Number of entries: %d\n", size)) {
		b.Errorf("ipset holds\n%s", text)
	}
}

// BenchmarkNewClass puts a chain of four rules and an element that leads to it
// into a table of 10,000 chains.
func BenchmarkNewClass(b *testing.B) {
	need(b, "nft")
	ns := nstest.New(b)
	a := open(b, ns, Options{Owner: true})
	table := large(10, 10_000, 40_000)
	must(b, a.Replace(b.Context(), table))
	i, before := 0, cpu(b)
	for b.Loop() {
		c := actions.Chain{Name: fmt.Sprintf("new_%d", i), Rules: table.Chains[1].Rules}
		must(b, a.Update(b.Context(), []actions.Update{
			{Kind: actions.PutChain, Chain: c},
			{Kind: actions.PutElem, Set: "classes", Map: true, Elem: actions.Elem{Key: slash24(2*i + 1).Addr().String(), Value: "jump " + c.Name}},
		}))
		i++
	}
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(i), "cpu-ns/op")
}

// BenchmarkElement replaces one element of a map in a table of 10,000 chains and
// 40,000 rules: of verdicts, for which the kernel looks through every chain that
// can be reached again, and of numbers. CPU time tells them apart on a busy machine.
func BenchmarkElement(b *testing.B) {
	need(b, "nft")
	ns := nstest.New(b)
	a := open(b, ns, Options{Owner: true})
	table := large(10, 10_000, 40_000)
	table.Chains[0].Rules = append(table.Chains[0].Rules,
		actions.Rule{Do: []actions.Stmt{{Kind: actions.MapRank, Key: actions.KeyDst, Target: "ranks"}}},
		actions.Rule{Do: []actions.Stmt{{Kind: actions.Lookup, Key: actions.KeyDst, Target: "verdicts"}}})
	table.Sets = append(table.Sets, actions.Set{Name: "ranks", Type: "type ipv4_addr", Map: true, Ranks: true},
		actions.Set{Name: "verdicts", Type: "type ipv4_addr", Map: true})
	must(b, a.Replace(b.Context(), table))
	for _, c := range []struct {
		set    string
		values [2]string
	}{{"ranks", [2]string{"0x1", "0x2"}}, {"verdicts", [2]string{"jump c_1", "jump c_2"}}} {
		b.Run(c.set, func(b *testing.B) {
			i, before := 0, cpu(b)
			for b.Loop() {
				i++
				must(b, a.Update(b.Context(), []actions.Update{
					{Kind: actions.PutElem, Set: c.set, Map: true, Elem: actions.Elem{Key: "192.0.2.7", Value: c.values[i%2]}},
				}))
			}
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(i), "cpu-ns/op")
		})
	}
}

// cpu is what this process and its children have used, in the kernel too.
func cpu(b *testing.B) time.Duration {
	var used time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		must(b, unix.Getrusage(who, &u))
		used += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return used
}
