package inspector_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/inspector"
)

var (
	noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	web  = netip.MustParseAddr("192.0.2.1")
	web6 = netip.MustParseAddr("2001:db8::1")
)

func names(t *inspector.NameTable, a netip.Addr, now time.Time) []string {
	return slices.Collect(t.Names(a, now).All())
}

func TestNameTable(t *testing.T) {
	table := inspector.NewNameTable(0)
	add := func(name string, ttl time.Duration, at time.Time, addrs ...netip.Addr) bool {
		return table.Add(inspector.Answer{Name: name, Addrs: addrs, TTL: ttl}, at)
	}
	if !add("B.Example.", 10*time.Minute, noon, web, web6) || !add("a.example", 0, noon, web) {
		t.Error("new names are a change")
	}
	if add("a.example", time.Hour, noon, web) {
		t.Error("a longer life is no change")
	}
	if add("not a name", time.Hour, noon, web) || add("c.example", time.Hour, noon, netip.Addr{}) {
		t.Error("illegal entries are no change")
	}
	for _, c := range []struct {
		addr netip.Addr
		at   time.Duration
		want []string
	}{
		{web, 0, []string{"a.example", "b.example"}},
		{netip.MustParseAddr("::ffff:192.0.2.1"), 0, []string{"a.example", "b.example"}},
		{web, 10 * time.Minute, []string{"a.example"}},
		{web6, 10*time.Minute - 1, []string{"b.example"}},
		{web6, 10 * time.Minute, nil},
		{web, time.Hour, nil},
	} {
		if got := names(table, c.addr, noon.Add(c.at)); !slices.Equal(got, c.want) {
			t.Errorf("names of %v after %v = %v, want %v", c.addr, c.at, got, c.want)
		}
	}
	got := table.Addrs(noon, func(n string) bool { return n == "b.example" })
	if len(got) != 2 || got[0].Addr != web || !got[1].Until.Equal(noon.Add(10*time.Minute)) {
		t.Errorf("Addrs = %v", got)
	}
	if !add("b.example", time.Minute, noon.Add(11*time.Minute), web) {
		t.Error("a name that comes back is a change")
	}
	if table.Len() != 1 {
		t.Errorf("%d addresses held after web6 ran out", table.Len())
	}
	if c := table.Counters(); c.Expired != 1 || c.Refused != 2 || c.Evicted != 0 {
		t.Errorf("counters %+v", c)
	}
}

func TestNameTableIsBounded(t *testing.T) {
	const max = 64
	table := inspector.NewNameTable(max)
	addr := netip.MustParseAddr("10.0.0.0")
	for i := range 10 * max {
		addr = addr.Next()
		table.Add(inspector.Answer{Name: fmt.Sprintf("n%d.example", i), Addrs: []netip.Addr{addr}, TTL: time.Hour + time.Duration(i)}, noon)
		table.Add(inspector.Answer{Name: fmt.Sprintf("m%d.example", i), Addrs: []netip.Addr{addr}, TTL: time.Hour + time.Duration(i)}, noon)
	}
	if table.Len() != max || table.Counters().Evicted != 9*max {
		t.Errorf("%d addresses, %+v", table.Len(), table.Counters())
	}
	if got := names(table, addr, noon); len(got) != 2 {
		t.Errorf("the newest has %v", got)
	}
	for i := range 10 * inspector.MaxNamesPerAddr {
		table.Add(inspector.Answer{Name: fmt.Sprintf("x%d.example", i), Addrs: []netip.Addr{web}, TTL: time.Hour + time.Duration(i)*time.Second}, noon)
	}
	if got := names(table, web, noon); len(got) != inspector.MaxNamesPerAddr || table.Counters().Dropped != 9*inspector.MaxNamesPerAddr {
		t.Errorf("%d names on one address, %+v", len(got), table.Counters())
	}
}

func TestKindNames(t *testing.T) {
	for k := inspector.Open; k <= inspector.Logged; k++ {
		if got, ok := inspector.ParseKind(k.String()); !ok || got != k {
			t.Errorf("%d -> %q -> %d", k, k, got)
		}
	}
	if _, ok := inspector.ParseKind("unknown"); ok {
		t.Error("unknown is no kind")
	}
}
