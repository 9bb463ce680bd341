package nft

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/nstest"
	"netpolicy.dev/netpolicy/internal/policyrand"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// rounds is how many random tables are compared.
func rounds() int {
	if os.Getenv("FULL") != "" {
		return 2000
	}
	return 24
}

func need(t testing.TB, tools ...string) {
	t.Helper()
	nstest.Need(t)
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open makes an Applier in the namespace.
func open(t testing.TB, ns *nstest.NS, o Options) *Applier {
	t.Helper()
	var a *Applier
	var err error
	ns.Do(t, func() { a, err = Open(o) })
	must(t, err)
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// passing is what differs without a meaning: how much of an element's life is left, and handles.
var passing = regexp.MustCompile(` expires [0-9a-z]+`)

// list is the ruleset as nft prints it.
func list(t testing.TB, ns *nstest.NS) string {
	t.Helper()
	return passing.ReplaceAllString(ns.Run(t, "", "nft", "list", "ruleset"), "")
}

var handles = regexp.MustCompile(`(?m)^(inet \S+ \S+) \d+( \d+)?\s*$`)

// instructions are the rules and elements as the kernel holds them, the elements of
// each set in order.
func instructions(t testing.TB, ns *nstest.NS) string {
	t.Helper()
	text := handles.ReplaceAllString(ns.Run(t, "", "nft", "--debug=netlink", "list", "ruleset"), "$1")
	lines := strings.Split(passing.ReplaceAllString(text, ""), "\n")
	for i := 0; i < len(lines); i++ {
		from := i
		for i < len(lines) && strings.HasPrefix(lines[i], "\telement ") {
			i++
		}
		slices.Sort(lines[from:i])
	}
	return strings.Join(lines, "\n")
}

// replaceText is what nft reads to put a table in place of its former self.
func replaceText(t *actions.Table) string {
	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", t.Name) + t.Text()
}

// same loads the table by `nft -f` and by us, and compares what the kernel has.
func same(t testing.TB, ours, theirs *nstest.NS, a *Applier, table *actions.Table) {
	t.Helper()
	if err := a.Replace(context.Background(), table); err != nil {
		t.Fatalf("%v\n%s", err, table.Text())
	}
	compare(t, ours, theirs, table)
}

// compare loads the table by `nft -f` and compares it with what is in ours.
func compare(t testing.TB, ours, theirs *nstest.NS, table *actions.Table) {
	t.Helper()
	theirs.Run(t, replaceText(table), "nft", "-f", "-")
	if diff := gocmp.Diff(list(t, theirs), list(t, ours)); diff != "" {
		t.Fatalf("listed (-nft +ours):\n%s\nof:\n%s", diff, table.Text())
	}
	if diff := gocmp.Diff(instructions(t, theirs), instructions(t, ours)); diff != "" {
		t.Fatalf("instructions (-nft +ours):\n%s\nof:\n%s", diff, table.Text())
	}
}

// TestSameAsNFT loads random policies' tables both ways, and then random changes of
// the world and of names: the kernel must hold the same.
func TestSameAsNFT(t *testing.T) {
	need(t, "nft")
	ours, theirs := nstest.New(t), nstest.New(t)
	a := open(t, ours, Options{})
	type drawn struct {
		policy *rules.Policy
		worlds [2]*state.World
		names  map[netip.Addr]flow.Names
	}
	gen := rapid.Custom(func(t *rapid.T) drawn {
		d := drawn{policy: policyrand.Policy(t, 12), names: policyrand.DNS(t)}
		for i := range d.worlds {
			d.worlds[i] = policyrand.World(t)
		}
		d.policy.Daemon.OnCrash = rules.OnCrash(rapid.IntRange(0, 2).Draw(t, "on crash"))
		d.policy.Daemon.Masquerade = rapid.SampledFrom([][]int{nil, {1}, {0, 2}}).Draw(t, "masquerade")
		d.policy.Daemon.Hello = rules.Hello(rapid.IntRange(0, 1).Draw(t, "hello"))
		return d
	})
	host := actions.Host{
		Queue: actions.LegacyQueue,
		Users: map[string]uint32{"alice": 1000, "bob": 1001, "alina": 1002},
	}
	kinds := map[string]int{}
	for seed := range rounds() {
		d := gen.Example(seed)
		plan, diags := actions.PlanFor(engine.Compile(d.policy), host, d.worlds[0], nil)
		if plan == nil {
			t.Fatalf("seed %d: %v", seed, diags)
		}
		lasting(&plan.Table)
		count(kinds, &plan.Table)
		t.Log("seed", seed)
		same(t, ours, theirs, a, &plan.Table)
		table := plan.Table
		var updates []actions.Update
		for _, addr := range policyrand.Servers {
			u, err := plan.Answer(addr, d.names[addr], time.Hour)
			must(t, err)
			updates = append(updates, u...)
		}
		updates = append(updates, plan.WorldUpdates(d.worlds[0], d.worlds[1])...)
		must(t, a.Update(t.Context(), updates))
		for _, u := range updates {
			fold(&table, u)
		}
		compare(t, ours, theirs, &table)
		must(t, a.Update(t.Context(), updates)) // again: nothing changes
		compare(t, ours, theirs, &table)
	}
	t.Logf("tables had %v", kinds)
}

// lasting lets no element run out while the test looks at it.
func lasting(t *actions.Table) {
	for i := range t.Sets {
		for j := range t.Sets[i].Elems {
			if e := &t.Sets[i].Elems[j]; e.Timeout > 0 {
				e.Timeout = time.Hour
			}
		}
	}
}

// count counts what the tables had of each construct.
func count(kinds map[string]int, t *actions.Table) {
	for i := range t.Chains {
		for _, r := range t.Chains[i].Rules {
			for _, m := range r.If {
				kinds[fmt.Sprintf("key%d/op%d", m.Key, m.Op)]++
			}
			for _, s := range r.Do {
				kinds[fmt.Sprintf("stmt%d", s.Kind)]++
			}
		}
	}
}

// fold writes an update into a table as data.
func fold(t *actions.Table, u actions.Update) {
	if u.Kind == actions.PutChain {
		if !slices.ContainsFunc(t.Chains, func(c actions.Chain) bool { return c.Name == u.Chain.Name }) {
			t.Chains = append(slices.Clone(t.Chains), u.Chain)
		}
		return
	}
	t.Sets = slices.Clone(t.Sets)
	for i := range t.Sets {
		s := &t.Sets[i]
		if s.Name != u.Set {
			continue
		}
		s.Elems = slices.DeleteFunc(slices.Clone(s.Elems), func(e actions.Elem) bool { return e.Key == u.Elem.Key })
		if u.Kind == actions.PutElem {
			s.Elems = append(s.Elems, u.Elem)
		}
	}
}

// every is a table with every key, comparison and statement that tables can have.
func every() *actions.Table {
	prefixes := func(list ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	nums := func(list ...uint32) []actions.Range {
		var out []actions.Range
		for _, n := range list {
			out = append(out, actions.Range{Lo: n, Hi: n})
		}
		return out
	}
	four := [][]netip.Prefix{
		prefixes("192.0.2.7/32"), prefixes("192.0.2.0/24"), prefixes("10.0.0.0/8"), prefixes("198.51.100.64/26"),
		prefixes("192.0.2.7/32", "198.51.100.9/32"), prefixes("10.0.0.0/9", "10.128.0.0/9", "192.0.2.7/32"), prefixes("0.0.0.0/1", "224.0.0.0/3"),
	}
	six := [][]netip.Prefix{
		prefixes("2001:db8::7/128"), prefixes("2001:db8::/32"), prefixes("2001:db8::/47"), prefixes("2001:db8:1::/64"),
		prefixes("2001:db8::7/128", "2001:db8::9/128"), prefixes("2001:db8::/33", "2001:db8:8000::/33", "ff00::/8"), prefixes("::/1"),
	}
	var matches []actions.Match
	for _, key := range []actions.Key{actions.KeySrc, actions.KeyDst} {
		for _, op := range []actions.Op{actions.Is, actions.Not} {
			for i := range four {
				matches = append(matches, actions.Match{Key: key, Op: op, Prefixes: four[i]}, actions.Match{Key: key, V6: true, Op: op, Prefixes: six[i]})
			}
		}
	}
	number := func(key actions.Key, mask uint32, ordered bool, list ...[]actions.Range) {
		for _, v6 := range []bool{false, true} {
			if v6 && key != actions.KeyDSCP && key != actions.KeyHash && key != actions.KeyHash0 {
				break
			}
			for _, n := range list {
				for _, op := range []actions.Op{actions.Is, actions.Not} {
					matches = append(matches, actions.Match{Key: key, V6: v6, Mask: mask, Op: op, Nums: n})
				}
				if ordered && len(n) == 1 && n[0].Lo == n[0].Hi {
					matches = append(matches, actions.Match{Key: key, V6: v6, Mask: mask, Op: actions.Above, Nums: n},
						actions.Match{Key: key, V6: v6, Mask: mask, Op: actions.Below, Nums: n})
				}
			}
		}
	}
	spans := []actions.Range{{Lo: 7, Hi: 9}, {Lo: 30, Hi: 30}, {Lo: 31, Hi: 40}}
	number(actions.KeyNFProto, 0, false, nums(2), nums(10), nums(2, 10))
	number(actions.KeyL4Proto, 0, false, nums(6), nums(6, 17, 132), spans[:1], spans)
	number(actions.KeySrcPort, 0, true, nums(80), nums(80, 443), spans[:1], spans)
	number(actions.KeyDstPort, 0, true, nums(80), nums(80, 443), spans[:1], spans)
	number(actions.KeyIif, 0, false, nums(0), nums(1))
	number(actions.KeyDSCP, 0, false, nums(10), nums(10, 46), nums(0))
	number(actions.KeyMark, 0, true, nums(0x70000001), nums(1, 2), spans[:1], spans)
	number(actions.KeyMark, 0x70000000, false, nums(0), nums(0x10000000), nums(0x10000000, 0x20000000))
	number(actions.KeyCTMark, 0, true, nums(0x01000000), nums(1, 2), spans[:1], spans)
	number(actions.KeyCTMark, 0x7f000000, false, nums(0), nums(0x01000000), nums(0x01000000, 0x7f000000))
	number(actions.KeyCTDir, 0, false, nums(0), nums(1))
	number(actions.KeyRank, 0, true, nums(0x1001), nums(0x1001, 0xfffff001), spans[:1], spans)
	number(actions.KeyUID, 0, true, nums(1000), nums(1000, 1001), spans[:1], spans, []actions.Range{{Lo: 0, Hi: 1<<32 - 1}})
	number(actions.KeyHash, 0, true, nums(25))
	number(actions.KeyHash0, 0, true, nums(25))
	for _, label := range []uint32{0, 7, 64, 126, 127} {
		matches = append(matches, actions.Match{Key: actions.KeyCTLabel, Nums: nums(label)})
	}
	for _, op := range []actions.Op{actions.Is, actions.Not} {
		matches = append(matches,
			actions.Match{Key: actions.KeyIifname, Op: op, Texts: []string{"lan0"}}, actions.Match{Key: actions.KeyIifname, Op: op, Texts: []string{"lan0", "lan1"}},
			actions.Match{Key: actions.KeyOifname, Op: op, Texts: []string{"wan0"}}, actions.Match{Key: actions.KeyOifname, Op: op, Texts: []string{"wan0", "wan1.100"}},
			actions.Match{Key: actions.KeyOif, Op: op, Texts: []string{"lo"}},
			actions.Match{Key: actions.KeyDstType, Op: op, Texts: []string{"broadcast"}}, actions.Match{Key: actions.KeyDstType, Op: op, Texts: []string{"local", "multicast"}},
			actions.Match{Key: actions.KeyNFProto, Op: op, Set: "guard"}, actions.Match{Key: actions.KeyL4Proto, Op: op, Set: "protos"},
			actions.Match{Key: actions.KeyDstPort, Op: op, Set: "ports"}, actions.Match{Key: actions.KeySrc, Op: op, Set: "nets4"},
			actions.Match{Key: actions.KeyDst, V6: true, Op: op, Set: "nets6"}, actions.Match{Key: actions.KeyRank, Op: op, Set: "ranks"},
			actions.Match{Key: actions.KeyRank, Op: op, Set: "spans"})
	}
	matches = append(matches, actions.Match{Key: actions.KeyCTState, Nums: nums(actions.CTNew)})
	one := actions.Chain{Name: "every"}
	for _, m := range matches {
		one.Rules = append(one.Rules, actions.Rule{If: []actions.Match{m}, Do: []actions.Stmt{{Kind: actions.Return}}})
	}
	v4, v6 := actions.Match{Key: actions.KeySrc, Prefixes: four[0]}, actions.Match{Key: actions.KeyDst, V6: true, Prefixes: six[1]}
	is4 := actions.Match{Key: actions.KeyNFProto, Nums: nums(2)}
	one.Rules = append(one.Rules,
		actions.Rule{If: []actions.Match{v4, {Key: actions.KeyDst, Prefixes: four[5]}, {Key: actions.KeyDSCP, Nums: nums(10)}}, Do: []actions.Stmt{{Kind: actions.Drop}}},
		actions.Rule{If: []actions.Match{is4, v4}, Do: []actions.Stmt{{Kind: actions.Drop}}},
		actions.Rule{If: []actions.Match{{Key: actions.KeyNFProto, Set: "guard"}, v6}, Do: []actions.Stmt{{Kind: actions.Drop}}},
		actions.Rule{If: []actions.Match{{Key: actions.KeyIif, Op: actions.Not, Nums: nums(0)}, v6, {Key: actions.KeyDSCP, V6: true, Nums: nums(10, 46)}}, Do: []actions.Stmt{{Kind: actions.SetDSCP6, Value: 46}}})
	host := func(key actions.Key, v6 bool) actions.Match {
		m := actions.Match{Key: key, V6: v6, Prefixes: four[0]}
		if v6 {
			m.Prefixes = six[0]
		}
		return m
	}
	port := func(key actions.Key, n uint32) actions.Match { return actions.Match{Key: key, Nums: nums(n)} }
	tcp := actions.Match{Key: actions.KeyL4Proto, Nums: nums(6)}
	for _, list := range [][]actions.Match{
		{host(actions.KeySrc, false), host(actions.KeyDst, false)},
		{host(actions.KeyDst, false), tcp, host(actions.KeySrc, false)},
		{host(actions.KeyDst, true), host(actions.KeySrc, true)},
		{tcp, port(actions.KeyDstPort, 22), port(actions.KeySrcPort, 5060)},
		{tcp, port(actions.KeyDstPort, 22), port(actions.KeyDstPort, 23), port(actions.KeySrcPort, 24)},
		{port(actions.KeySrcPort, 24), host(actions.KeyDst, false), port(actions.KeyDstPort, 22), host(actions.KeySrc, false)},
		{host(actions.KeySrc, false), {Key: actions.KeyDst, Prefixes: four[1]}},
	} {
		one.Rules = append(one.Rules, actions.Rule{If: list, Do: []actions.Stmt{{Kind: actions.Return}}})
	}
	do := func(list ...actions.Stmt) { one.Rules = append(one.Rules, actions.Rule{Do: list}) }
	do(actions.Stmt{Kind: actions.SetRank, Value: 0x1002}, actions.Stmt{Kind: actions.Return})
	do(actions.Stmt{Kind: actions.SetRank})
	do(actions.Stmt{Kind: actions.SetMark, Mask: 0x70000000, Value: 0x10000000})
	do(actions.Stmt{Kind: actions.SetMark, Mask: 0x70000000})
	do(actions.Stmt{Kind: actions.SetMark, Mask: 0x70000040, Value: 0x40})
	do(actions.Stmt{Kind: actions.SetCTMark, Mask: 0x7f000000, Value: 0x01000000})
	do(actions.Stmt{Kind: actions.SetLabel, Value: 64}, actions.Stmt{Kind: actions.SetLabel, Value: 126}, actions.Stmt{Kind: actions.Return})
	do(actions.Stmt{Kind: actions.SetDSCP4, Value: 46})
	do(actions.Stmt{Kind: actions.SetDSCP4})
	do(actions.Stmt{Kind: actions.SetDSCP6, Value: 10})
	do(actions.Stmt{Kind: actions.SetDSCP6})
	do(actions.Stmt{Kind: actions.Goto, Target: "other"})
	do(actions.Stmt{Kind: actions.Jump, Target: "other"})
	do(actions.Stmt{Kind: actions.RejectAny})
	do(actions.Stmt{Kind: actions.Log, Value: actions.LogGroup, Target: "np:a rule's name"}, actions.Stmt{Kind: actions.Return})
	one.Rules = append(one.Rules, actions.Rule{If: []actions.Match{{Key: actions.KeyL4Proto, Nums: nums(6)}}, Do: []actions.Stmt{{Kind: actions.RejectTCP}}})
	for _, x := range []struct {
		proto uint32
		to    string
	}{{6, "127.0.0.1:1041"}, {17, "[::1]:1041"}} {
		v6 := x.proto == 17
		nf := uint32(2)
		if v6 {
			nf = 10
		}
		one.Rules = append(one.Rules, actions.Rule{
			If: []actions.Match{{Key: actions.KeyNFProto, Nums: nums(nf)}, {Key: actions.KeyL4Proto, Nums: nums(x.proto)}},
			Do: []actions.Stmt{{Kind: actions.TProxy, V6: v6, Target: x.to}, {Kind: actions.SetMark, Mask: 0x70000000, Value: 0x60000000}, {Kind: actions.Return}},
		})
	}
	lookup := func(kind actions.StmtKind, key actions.Key, v6 bool, mask uint32, target string) {
		do(actions.Stmt{Kind: kind, Key: key, V6: v6, Mask: mask, Target: target})
	}
	lookup(actions.Lookup, actions.KeyCTMark, false, 0x7f000000, "mk")
	lookup(actions.Lookup, actions.KeyRank, false, 0xfff, "fw")
	lookup(actions.Lookup, actions.KeyRank, false, 0, "classes")
	lookup(actions.Lookup, actions.KeyDst, false, 0, "dhost4")
	lookup(actions.Lookup, actions.KeySrc, true, 0, "dcls6")
	lookup(actions.MapRank, actions.KeyDst, false, 0, "dpref4")
	lookup(actions.MapRank, actions.KeyDst, true, 0, "dpref6")
	lookup(actions.MapRank, actions.KeySrc, false, 0, "drank4")
	do(actions.Stmt{Kind: actions.OrRank, Value: 0x10})
	do(actions.Stmt{Kind: actions.NextRank, Mask: 15, Value: 16})
	do(actions.Stmt{Kind: actions.HashRank, Mask: 15, Value: 16})
	do(actions.Stmt{Kind: actions.AddRank, Key: actions.KeyCTSrc, Target: "filled4"})
	do(actions.Stmt{Kind: actions.AddRank, Key: actions.KeyCTSrc, V6: true, Target: "filled6"})
	do(actions.Stmt{Kind: actions.AddRank, Key: actions.KeySrc, Target: "filled4"})
	do(actions.Stmt{Kind: actions.Police, Value: 125000}, actions.Stmt{Kind: actions.Drop})
	do(actions.Stmt{Kind: actions.Police, Value: 125000, Mask: 2000}, actions.Stmt{Kind: actions.Drop})
	do(actions.Stmt{Kind: actions.Police, Key: actions.KeyCTSrc, Target: "limits4", Value: 125000}, actions.Stmt{Kind: actions.Drop})
	do(actions.Stmt{Kind: actions.Police, Key: actions.KeyCTID, Target: "limitsc", Value: 125000, Mask: 2000}, actions.Stmt{Kind: actions.Drop})
	lookup(actions.MapRank, actions.KeyCTSrc, false, 0, "filled4")
	ranks := func(list ...string) []actions.Elem {
		var out []actions.Elem
		for i, s := range list {
			out = append(out, actions.Elem{Key: s, Value: fmt.Sprintf("%#x", 0xfffff001-uint32(i)<<12)})
		}
		return out
	}
	plain := func(list ...string) []actions.Elem {
		var out []actions.Elem
		for _, s := range list {
			out = append(out, actions.Elem{Key: s})
		}
		return out
	}
	return &actions.Table{
		Name: actions.TableName,
		Sets: []actions.Set{
			{Name: "guard", Type: "type nf_proto", Elems: plain("ipv4", "ipv6")},
			{Name: "off", Type: "type nf_proto"},
			{Name: "alive", Type: "type nf_proto", Timeout: true, Elems: []actions.Elem{{Key: "ipv4", Timeout: time.Minute}, {Key: "ipv6", Timeout: 90500 * time.Millisecond}}},
			{Name: "protos", Type: "type inet_proto", Elems: plain("6", "17", "33", "132", "136")},
			{Name: "ports", Type: "type inet_service", Ranges: true, Elems: plain("443", "22", "1000-2000", "2001-3000", "65000-65535")},
			{Name: "nets4", Type: "type ipv4_addr", Ranges: true, Elems: plain("192.0.2.0/24", "10.0.0.0/9", "10.128.0.0/9", "198.51.100.7", "255.255.255.255", "0.0.0.0/8", "203.0.113.5-203.0.113.9")},
			{Name: "nets6", Type: "type ipv6_addr", Ranges: true, Elems: plain("2001:db8::/32", "fe80::/10", "ff00::/8", "::1")},
			{Name: "ranks", Type: "typeof meta priority", Elems: plain("0x1001", "0xfffff001")},
			{Name: "spans", Type: "typeof meta priority", Ranges: true, Elems: plain("0x1001-0x2fff", "0xfffff000-0xffffffff")},
			{Name: "filled4", Type: "type ipv4_addr", Map: true, Ranks: true, Size: 4095, TTL: time.Minute},
			{Name: "filled6", Type: "type ipv6_addr", Map: true, Ranks: true, Size: 4095, TTL: time.Minute},
			{Name: "limits4", Type: "type ipv4_addr", Size: 65535, TTL: time.Minute},
			{Name: "limitsc", Type: "typeof ct id", Size: 65535, TTL: time.Minute},
			{Name: "names", Type: "type ifname", Elems: plain(`"lan0"`, `"wan1.100"`)},
			{Name: "users", Type: "type uid", Elems: plain("1000", "1001")},
			{Name: "marks", Type: "typeof meta mark", Elems: plain("0x10", "0x20000000")},
			{Name: "mk", Type: "type mark", Map: true, Elems: []actions.Elem{
				{Key: "0x1000000", Value: "goto other"}, {Key: "0x7f000000", Value: "drop"}, {Key: "0x2000000", Value: "jump other"}, {Key: "0x3000000", Value: "return"},
			}},
			{Name: "fw", Type: "typeof meta priority", Map: true, Elems: []actions.Elem{{Key: "0x1", Value: "goto other"}, {Key: "0x2", Value: "drop"}}},
			{Name: "classes", Type: "type classid", Map: true, Elems: []actions.Elem{{Key: "0xfffff001", Value: "jump other"}}},
			{Name: "dhost4", Type: "type ipv4_addr", Map: true, Timeout: true, Elems: []actions.Elem{{Key: "203.0.113.7", Value: "jump other", Timeout: time.Hour}, {Key: "203.0.113.8", Value: "drop"}}},
			{Name: "dcls6", Type: "type ipv6_addr", Map: true, Ranges: true, Elems: []actions.Elem{
				{Key: "2001:db8::/32", Value: "jump other"}, {Key: "2001:db9::-2001:db9::ffff", Value: "drop"}, {Key: "ff00::/8", Value: "return"},
			}},
			{Name: "dpref4", Type: "type ipv4_addr", Map: true, Ranks: true, Ranges: true, Elems: ranks("10.0.0.0/8", "192.0.2.7", "11.0.0.0-11.0.0.9", "11.0.0.10", "224.0.0.0/3")},
			{Name: "dpref6", Type: "type ipv6_addr", Map: true, Ranks: true, Ranges: true, Elems: ranks("2001:db8::/32", "2001:db9::1")},
			{Name: "drank4", Type: "type ipv4_addr", Map: true, Ranks: true, Timeout: true, Elems: append(ranks("192.0.2.7", "192.0.2.8"), actions.Elem{Key: "192.0.2.9", Value: "0x7", Timeout: time.Hour})},
		},
		Chains: []actions.Chain{
			{Name: "pre", Hook: "type filter hook prerouting priority mangle; policy accept;", Rules: []actions.Rule{{Do: []actions.Stmt{{Kind: actions.Jump, Target: "every"}}}}},
			{Name: "out", Hook: "type route hook output priority mangle; policy accept;"},
			{Name: "post", Hook: "type nat hook postrouting priority srcnat; policy accept;", Rules: []actions.Rule{
				{If: []actions.Match{{Key: actions.KeyOifname, Texts: []string{"wan0"}}}, Do: []actions.Stmt{{Kind: actions.Masquerade}}},
			}},
			{Name: "forwarded", Hook: "type filter hook forward priority filter; policy drop;"},
			{Name: "late", Hook: "type filter hook input priority mangle + 1; policy accept;"},
			one,
			{Name: "other"},
		},
	}
}

// TestEveryConstruct compares one table that has everything.
func TestEveryConstruct(t *testing.T) {
	need(t, "nft")
	ours, theirs := nstest.New(t), nstest.New(t)
	a := open(t, ours, Options{})
	table := every()
	same(t, ours, theirs, a, table)
	// Elements of every kind of set go and come back, one by one and together.
	var updates []actions.Update
	for i := range table.Sets {
		s := &table.Sets[i]
		for _, kind := range []actions.UpdateKind{actions.DelElem, actions.DelElem, actions.PutElem, actions.PutElem} {
			for _, e := range s.Elems {
				u := actions.Update{Kind: kind, Set: s.Name, Map: s.Map, Elem: e}
				must(t, a.Update(t.Context(), []actions.Update{u}))
				updates = append(updates, u)
			}
		}
	}
	compare(t, ours, theirs, table)
	must(t, a.Update(t.Context(), updates))
	compare(t, ours, theirs, table)
}

// TestOldKernel updates as kernels before 6.3 need it.
func TestOldKernel(t *testing.T) {
	need(t, "nft")
	ours, theirs := nstest.New(t), nstest.New(t)
	a := open(t, ours, Options{})
	a.destroys = false
	table := every()
	same(t, ours, theirs, a, table)
	put := func(kind actions.UpdateKind, set, key, value string, life time.Duration) {
		t.Helper()
		u := actions.Update{Kind: kind, Set: set, Map: value != "" || set == "dhost4", Elem: actions.Elem{Key: key, Value: value, Timeout: life}}
		must(t, a.Update(t.Context(), []actions.Update{u}))
		fold(table, u)
	}
	for range 2 {
		put(actions.PutElem, "off", "ipv4", "", 0)
		put(actions.DelElem, "off", "ipv4", "", 0)
		put(actions.DelElem, "off", "ipv4", "", 0)
		put(actions.PutElem, "alive", "ipv4", "", time.Hour)
		put(actions.PutElem, "fw", "0x1", "drop", 0)
		put(actions.PutElem, "fw", "0x1", "goto other", 0)
		put(actions.PutElem, "dhost4", "203.0.113.9", "jump other", time.Hour)
		put(actions.PutElem, "dhost4", "203.0.113.9", "drop", time.Hour)
		compare(t, ours, theirs, table)
		put(actions.DelElem, "dhost4", "203.0.113.9", "", 0)
		put(actions.DelElem, "dhost4", "203.0.113.9", "", 0)
		compare(t, ours, theirs, table)
	}
}

// TestRefusedLeavesAll: what the kernel refuses changes nothing, and the error names it.
func TestRefusedLeavesAll(t *testing.T) {
	need(t, "nft")
	ns := nstest.New(t)
	a := open(t, ns, Options{})
	table := every()
	must(t, a.Replace(t.Context(), table))
	before := list(t, ns)
	bad := every()
	bad.Chains[5].Rules[3].Do = []actions.Stmt{{Kind: actions.Jump, Target: "nowhere"}}
	for what, f := range map[string]func(context.Context, *actions.Table) error{"replace": a.Replace, "check": a.Check} {
		err := f(t.Context(), bad)
		if err == nil || !strings.Contains(err.Error(), "rule 4 of chain every") || !strings.Contains(err.Error(), "jump nowhere") {
			t.Errorf("%s: %v", what, err)
		}
		if after := list(t, ns); after != before {
			t.Errorf("%s left:\n%s", what, gocmp.Diff(before, after))
		}
	}
	table.Chains = table.Chains[:6]
	table.Chains[5].Rules = nil
	for i := range table.Sets { // no chain to jump to
		table.Sets[i].Elems = nil
	}
	must(t, a.Check(t.Context(), table))
	if after := list(t, ns); after != before {
		t.Errorf("check left:\n%s", gocmp.Diff(before, after))
	}
	must(t, a.Delete(t.Context(), table.Name))
	must(t, a.Delete(t.Context(), table.Name))
	if after := list(t, ns); after != "" {
		t.Errorf("deleted, left:\n%s", after)
	}
	err := a.Update(t.Context(), []actions.Update{{Kind: actions.PutElem, Set: "fw", Map: true, Elem: actions.Elem{Key: "0x1", Value: "drop"}}})
	if err == nil || !strings.Contains(err.Error(), "elements of set fw") {
		t.Errorf("update of a table that is gone: %v", err)
	}
}

// large is a table with n elements in a set, and many chains and rules.
func large(elems, chains, rules int) *actions.Table {
	t := &actions.Table{Name: actions.TableName}
	t.Chains = append(t.Chains, actions.Chain{Name: "pre", Hook: "type filter hook prerouting priority mangle; policy accept;", Rules: []actions.Rule{
		{Do: []actions.Stmt{{Kind: actions.Lookup, Key: actions.KeyDst, Target: "classes"}}},
	}})
	classes := actions.Set{Name: "classes", Type: "type ipv4_addr", Map: true, Ranges: true}
	made := 0
	for i := range chains {
		c := actions.Chain{Name: "c_" + strconv.Itoa(i)}
		for ; made*chains < rules*(i+1); made++ {
			port := uint32(made%65535 + 1)
			c.Rules = append(c.Rules, actions.Rule{
				If: []actions.Match{
					{Key: actions.KeyRank, Op: actions.Above, Nums: []actions.Range{{Lo: uint32(made) << 12, Hi: uint32(made) << 12}}},
					{Key: actions.KeyL4Proto, Nums: []actions.Range{{Lo: 6, Hi: 6}}},
					{Key: actions.KeyDstPort, Nums: []actions.Range{{Lo: port, Hi: port}}},
				},
				Do: []actions.Stmt{{Kind: actions.SetRank, Value: uint32(made)<<12 | 1}, {Kind: actions.Return}},
			})
		}
		t.Chains = append(t.Chains, c)
		classes.Elems = append(classes.Elems, actions.Elem{Key: slash24(2 * i).String(), Value: "jump " + c.Name})
	}
	nets := actions.Set{Name: "nets", Type: "type ipv4_addr", Ranges: true}
	for i := range elems {
		nets.Elems = append(nets.Elems, actions.Elem{Key: slash24(2 * i).String()})
	}
	t.Sets = []actions.Set{classes, nets}
	return t
}

// slash24 is the prefix number i from 10.0.0.0 on.
func slash24(i int) netip.Prefix {
	n := 10<<24 + uint32(i)<<8
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 24)
}

// TestLarge puts a table of the largest size that plans have, twice.
func TestLarge(t *testing.T) {
	need(t, "nft")
	if testing.Short() {
		t.Skip("takes seconds and 500 MiB")
	}
	ns := nstest.New(t)
	a := open(t, ns, Options{Owner: true})
	table := large(100_000, 30_000, 100_000)
	for _, what := range []string{"load", "replace"} {
		start := time.Now()
		must(t, a.Replace(t.Context(), table))
		t.Logf("%s: %v", what, time.Since(start))
	}
	start := time.Now()
	must(t, a.Check(t.Context(), table))
	t.Logf("check: %v", time.Since(start))
	var took []time.Duration
	for i := range 20 {
		c := actions.Chain{Name: fmt.Sprintf("new_%d", i), Rules: table.Chains[1].Rules}
		start := time.Now()
		must(t, a.Update(t.Context(), []actions.Update{
			{Kind: actions.PutChain, Chain: c},
			{Kind: actions.PutElem, Set: "classes", Map: true, Elem: actions.Elem{Key: slash24(2*i + 1).Addr().String(), Value: "jump " + c.Name}},
		}))
		took = append(took, time.Since(start))
	}
	slices.SortFunc(took, cmp.Compare)
	t.Logf("a new class: median %v, worst %v", took[10], took[19])
	text := ns.Run(t, "", "nft", "list", "map", "inet", actions.TableName, "classes")
	if n := strings.Count(text, "jump"); n != 30_020 {
		t.Errorf("%d classes, want 30020", n)
	}
	must(t, a.Delete(t.Context(), table.Name))
}
