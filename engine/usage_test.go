package engine_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/state"
)

// quotas is a policy with a quota of 100 bytes a day for a network, and one of all TCP.
func quotas() *rules.Policy {
	lan := rules.Pred{Field: rules.FieldSrcIP, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	tcp := rules.Pred{Field: rules.FieldProto, Numbers: []uint32{6}}
	return &rules.Policy{Primary: -1, Quotas: []rules.Quota{
		{Name: "lan", Match: rules.Expr{Op: rules.OpPred, Pred: lan}, Limit: 100, Per: rules.PerDay, Reset: 4 * 60},
		{Name: "tcp", Match: rules.Expr{Op: rules.OpPred, Pred: tcp}, Limit: 1000, Per: rules.PerHour},
	}}
}

func TestUsage(t *testing.T) {
	monday := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	from := func(src string) *flow.Flow {
		return &flow.Flow{Src: flow.Some(netip.MustParseAddr(src)), Proto: flow.Some(flow.TCP)}
	}
	u := engine.NewUsage(engine.Compile(quotas()), time.UTC)
	check := func(what string, u *engine.Usage, at time.Time, lan, tcp int64, want ...state.Truth) {
		t.Helper()
		a, _ := u.Used(0, at)
		b, _ := u.Used(1, at)
		if a != lan || b != tcp {
			t.Errorf("%s: %d and %d bytes, want %d and %d", what, a, b, lan, tcp)
		}
		if diff := cmp.Diff(want, u.Exceeded(at)); diff != "" {
			t.Errorf("%s: exceeded (-want +got):\n%s", what, diff)
		}
	}
	check("new", u, monday, 0, 0, state.False, state.False)
	u.Add(from("10.0.0.1"), 60, monday)
	u.Add(from("192.0.2.1"), 500, monday)
	u.Add(&flow.Flow{Proto: flow.Some(flow.UDP)}, 500, monday) // whose source is not known
	check("below", u, monday, 60, 560, state.False, state.False)
	u.Add(from("10.0.0.2"), 40, monday)
	check("reached", u, monday, 100, 600, state.True, state.False)
	check("an hour later", u, monday.Add(time.Hour), 100, 0, state.True, state.False)
	check("the clock was put back", u, monday, 100, 0, state.True, state.False)
	check("before the reset", u, monday.Add(15*time.Hour+59*time.Minute), 100, 0, state.True, state.False)

	saved := u.Encode()
	check("after the reset", u, monday.Add(16*time.Hour), 0, 0, state.False, state.False)

	again := engine.NewUsage(engine.Compile(quotas()), time.UTC)
	if err := again.Decode(saved); err != nil {
		t.Fatal(err)
	}
	check("restarted", again, monday.Add(2*time.Hour), 100, 0, state.True, state.False)

	// Another policy: the quota that stays keeps what was counted.
	other := quotas()
	other.Quotas[1].Per = rules.PerDay
	other.Quotas[0], other.Quotas[1] = other.Quotas[1], other.Quotas[0]
	carried := engine.NewUsage(engine.Compile(other), time.UTC)
	carried.Carry(again)
	check("carried", carried, monday.Add(2*time.Hour), 0, 100, state.False, state.True)
	fromFile := engine.NewUsage(engine.Compile(other), time.UTC)
	if err := fromFile.Decode(saved); err != nil {
		t.Fatal(err)
	}
	check("read by another policy", fromFile, monday.Add(2*time.Hour), 0, 100, state.False, state.True)

	for _, bad := range []string{"", "{", `{"version":2}`, `{"version":1,"quotas":[{"name":"lan","since":"x"}]}`} {
		if err := again.Decode([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	check("bad files", again, monday.Add(2*time.Hour), 100, 0, state.True, state.False)
}
