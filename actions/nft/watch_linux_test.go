package nft

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/nstest"
)

// watched runs Watch in the namespace until the test ends.
func watched(t *testing.T, ns *nstest.NS, a *Applier) <-chan string {
	t.Helper()
	found := make(chan string, 64)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		ns.Do(t, func() { done <- a.Watch(ctx, func(what string) { found <- what }) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return found
}

// ready waits until changes are seen, as Watch has no sign of its own, and until what it
// did for that has been told.
func ready(t *testing.T, ns *nstest.NS, found <-chan string) {
	t.Helper()
	for len(found) == 0 {
		ns.Run(t, "", "nft", "add element inet netpolicy off { ipv6 }; delete element inet netpolicy off { ipv6 }")
		time.Sleep(20 * time.Millisecond)
	}
	ns.Run(t, "", "nft", "add chain inet netpolicy marker")
	ns.Run(t, "", "nft", "delete chain inet netpolicy marker")
	for !strings.Contains(next(t, found), "chain marker removed") {
	}
}

func TestWatch(t *testing.T) {
	need(t, "nft")
	ns := nstest.New(t)
	a := open(t, ns, Options{})
	must(t, a.Replace(t.Context(), every()))
	found := watched(t, ns, a)
	ready(t, ns, found)
	for _, c := range []struct{ do, want string }{
		{"delete element inet netpolicy fw { 0x1 }", "nftables: element of set fw removed by nft (process "},
		{"add element inet netpolicy ports { 7 }", "nftables: element of set ports added by nft (process "},
		{"add rule inet netpolicy other drop", "nftables: rule of chain other added by nft (process "},
		{"flush chain inet netpolicy pre", "nftables: rule of chain pre removed by nft (process "},
		{"add chain inet netpolicy theirs; add set inet netpolicy mine { type mark; }", "nftables: chain theirs added, set mine added by nft (process "},
		{"delete chain inet netpolicy theirs", "nftables: chain theirs removed by nft (process "},
		{"flush chain inet netpolicy every", "nftables: rule of chain every removed by nft (process "},
		{"delete table inet netpolicy", "nftables: table removed by nft (process "},
		{"add table inet netpolicy; add chain inet netpolicy x", "nftables: table added, chain x added by nft (process "},
		{"flush ruleset", "nftables: table removed by nft (process "},
	} {
		// What others do with their own, and what we do, is no news.
		ns.Run(t, "", "nft", "add table inet other; add chain inet other x; delete table inet other; add table ip netpolicy; delete table ip netpolicy")
		must(t, a.Delete(t.Context(), "elsewhere"))
		ns.Run(t, "", "nft", c.do)
		if got := next(t, found); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.do, got, c.want)
		}
	}
	table := large(20_000, 2_000, 10_000)
	must(t, a.Replace(t.Context(), table))
	must(t, a.Update(t.Context(), []actions.Update{{Kind: actions.PutElem, Set: "nets", Elem: actions.Elem{Key: "9.0.0.0/24"}}}))
	ns.Run(t, "", "nft", "add chain inet netpolicy last")
	if got := next(t, found); !strings.HasPrefix(got, "nftables: chain last added") {
		t.Errorf("our own change was told: %q", got)
	}
}

// next is what is told next.
func next(t *testing.T, found <-chan string) string {
	t.Helper()
	select {
	case what := <-found:
		return what
	case <-time.After(30 * time.Second):
		t.Fatal("nothing is told")
		return ""
	}
}

// TestWatchLoses: what is too much at once is reported once, and watching goes on.
func TestWatchLoses(t *testing.T) {
	need(t, "nft")
	ns := nstest.New(t)
	a := open(t, ns, Options{})
	must(t, a.Replace(t.Context(), every()))
	found := make(chan string, 64)
	hold := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		ns.Do(t, func() {
			done <- a.watch(ctx, 64<<10, func(what string) { found <- what; <-hold })
		})
	}()
	// The watcher hangs in its first report while others change more than its room.
	for len(found) == 0 {
		ns.Run(t, "", "nft", "add element inet netpolicy off { ipv6 }; delete element inet netpolicy off { ipv6 }")
		time.Sleep(10 * time.Millisecond)
	}
	other := open(t, ns, Options{})
	table := large(20_000, 10, 10)
	table.Name = "netpolicy_other"
	must(t, other.Replace(t.Context(), table))
	close(hold)
	for next(t, found) != Lost {
	}
	ns.Run(t, "", "nft", "add chain inet netpolicy last")
	for what := ""; !strings.Contains(what, "chain last added"); {
		if what = next(t, found); what == Lost {
			t.Error("told twice")
		}
	}
	cancel()
	must(t, <-done)
}

func TestOwner(t *testing.T) {
	need(t, "nft", "sh")
	ns := nstest.New(t)
	a := open(t, ns, Options{Owner: true})
	if !a.Owner() {
		t.Skip("this kernel has no owners of tables that persist")
	}
	denied := func(when, format string, args ...any) {
		t.Helper()
		line := fmt.Sprintf(format, args...)
		if out := ns.Run(t, "", "sh", "-c", "nft '"+line+"' 2>&1 || true"); !strings.Contains(out, "Operation not permitted") {
			t.Errorf("%s: %s: %q, want a refusal", when, line, out)
		}
	}
	must(t, a.Replace(t.Context(), every()))
	must(t, a.Replace(t.Context(), every()))
	before := list(t, ns)
	t.Log(before[:200])
	denied("owned", "delete table inet netpolicy")
	denied("owned", "flush chain inet netpolicy pre")
	denied("owned", "add element inet netpolicy ports { 7 }")
	ns.Run(t, "", "nft", "flush", "ruleset")
	if after := list(t, ns); after != before {
		t.Errorf("others changed it:\n%s", after)
	}
	put := []actions.Update{{Kind: actions.PutElem, Set: "fw", Map: true, Elem: actions.Elem{Key: "0x2", Value: "goto other"}}}
	must(t, a.Update(t.Context(), put))
	must(t, a.Close()) // as the end of the process does
	orphan := list(t, ns)
	if !strings.Contains(orphan, "0x2 : goto other") && !strings.Contains(orphan, "goto other") {
		t.Errorf("the table did not outlive its owner:\n%s", orphan)
	}
	b := open(t, ns, Options{Owner: true})
	table := every()
	must(t, b.Apply(t.Context(), []actions.Step{{Kind: actions.PutUpdates, Table: table, Updates: put}}))
	denied("adopted", "delete table inet netpolicy")
	must(t, b.Apply(t.Context(), []actions.Step{{Kind: actions.PutUpdates, Table: table, Updates: put}}))
	must(t, b.Replace(t.Context(), table))
	denied("replaced", "flush chain inet netpolicy pre")
	c := open(t, ns, Options{Owner: true})
	if err := c.Replace(t.Context(), table); err == nil {
		t.Error("another owner took the table")
	}
	must(t, b.Close())
	must(t, c.Replace(t.Context(), table))
	must(t, c.Close())
	d := open(t, ns, Options{})
	must(t, d.Delete(t.Context(), table.Name))
	if after := list(t, ns); after != "" {
		t.Errorf("left:\n%s", after)
	}
	// A table that was made without an owner is adopted as it is, and owned from
	// its next replacement on.
	must(t, d.Replace(t.Context(), table))
	e := open(t, ns, Options{Owner: true})
	must(t, e.Apply(t.Context(), []actions.Step{{Kind: actions.PutUpdates, Table: table, Updates: put}}))
	must(t, d.Update(t.Context(), put))
	must(t, e.Replace(t.Context(), table))
	denied("replaced by an owner", "delete table inet netpolicy")
}
