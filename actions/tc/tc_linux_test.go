package tc

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// here is an applier in the test's namespace.
func here(t *testing.T) *Applier {
	t.Helper()
	nstest.Need(t)
	var a *Applier
	var err error
	nstest.Here(t).Do(t, func() { a, err = New() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// TestOwnPrograms: the kernel's verifier takes both programs.
func TestOwnPrograms(t *testing.T) {
	nstest.Need(t)
	progs, err := loadOwn()
	if err != nil {
		t.Fatal(err)
	}
	progs.close()
}

// TestLacks: asking what the kernel has changes nothing.
func TestLacks(t *testing.T) {
	a := here(t)
	before := nstest.Here(t).Run(t, "", "sh", "-c", "tc qdisc; ip link")
	if what, known := a.lacks(); what != "" || !known {
		t.Errorf("lacks %q, known %t", what, known)
	}
	if after := nstest.Here(t).Run(t, "", "sh", "-c", "tc qdisc; ip link"); after != before {
		t.Errorf("%s\nwas:\n%s", after, before)
	}
}

// TestApplier makes every kind of object, twice, finds it, and removes it, twice.
func TestApplier(t *testing.T) {
	a := here(t)
	ns := nstest.Here(t)
	nstest.Link(t, ns, "wan1", nstest.New(t), "eth0", "", "")
	before := ns.Run(t, "", "sh", "-c", "tc qdisc; ip link; tc filter show dev wan1 egress; tc filter show dev wan1 ingress")
	objects := []actions.TCObject{
		{Kind: actions.TCIFB, Dev: "npthrottle"},
		{Kind: actions.TCRoot, Dev: "npthrottle"},
		{Kind: actions.TCClasses, Dev: "npthrottle", First: 0x100, Count: 100, Rate: 250_000, Burst: 8192, Queue: 131072},
		{Kind: actions.TCClasses, Dev: "npthrottle", First: 0x8200, Count: 1, Rate: 5_000_000_000, Burst: 1 << 20, Queue: 1 << 20},
		{Kind: actions.TCHook, Dev: "wan1"},
		{Kind: actions.TCRedirect, Dev: "wan1", To: "npthrottle", Mask: 0x70000000},
		{Kind: actions.TCOwn, Dev: "wan1", To: "npthrottle"},
	}
	apply := func(kind actions.StepKind, o actions.TCObject) {
		t.Helper()
		for range 2 {
			if err := a.Apply(context.Background(), []actions.Step{{Kind: kind, TC: o}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, o := range objects {
		apply(actions.AddTC, o)
		have, err := a.Have(objects)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(objects[:i+1], have); d != "" {
			t.Fatalf("after %s: %s", o, d)
		}
	}
	want := "class htb 6e70:8200 root leaf"
	for i := len(objects) - 1; i >= 0; i-- {
		if i == 3 {
			if got := ns.Run(t, "", "sh", "-c", "tc class show dev npthrottle | grep 8200"); got[:len(want)] != want {
				t.Errorf("%q does not begin with %q", got, want)
			}
		}
		apply(actions.DelTC, objects[i])
	}
	if after := ns.Run(t, "", "sh", "-c", "tc qdisc; ip link; tc filter show dev wan1 egress; tc filter show dev wan1 ingress"); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
}
