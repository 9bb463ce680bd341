package load

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/engine"
	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/state"
)

// TestHostileConditions has conditions that name the next one twice: looking at each
// way through them would take 2^60 steps.
func TestHostileConditions(t *testing.T) {
	var b strings.Builder
	const n = 60
	b.WriteString("policy 1\n")
	for i := range n {
		fmt.Fprintf(&b, "condition c%d = c%d and (latency > 7ms or c%d)\n", i, i+1, i+1)
	}
	fmt.Fprintf(&b, "condition c%d = latency > 5ms\nrule r { match port 80; when c0; do block }\n", n)
	src := []byte(b.String())
	r := Policy("hostile.npl", src, Options{})
	if r.Policy == nil {
		t.Fatal(r.Diags)
	}
	other := Policy("hostile.npl", []byte(strings.Replace(b.String(), "> 5ms", "> 6ms", 1)), Options{})
	if r.Policy.Hash == other.Policy.Hash {
		t.Error("what the last condition says is not in the hash")
	}
	prog := engine.Compile(r.Policy)
	engine.Recompile(prog, other.Policy)
	f := flow.Flow{DstPort: flow.Some(uint16(80))}
	if d := prog.Decide(&f, engine.OfflineWorld(r.Policy, state.Normal)); d.Final {
		t.Errorf("%+v is final: nothing is measured", d)
	}
}

// TestHostilePortSet has a large set of ports in many rules: it stands in the program once.
func TestHostilePortSet(t *testing.T) {
	var b strings.Builder
	b.WriteString("policy 1\nset s: port = { 1")
	for port := 3; port < 60000; port += 2 {
		fmt.Fprintf(&b, ",%d", port)
	}
	b.WriteString(" }\n")
	const n = 1000
	for i := range n {
		fmt.Fprintf(&b, "rule r%d { match port in s and sni x%d.example; do block }\n", i, i)
	}
	r := Policy("hostile.npl", []byte(b.String()), Options{})
	if r.Policy == nil {
		t.Fatal(r.Diags)
	}
	before := heap()
	prog := engine.Compile(r.Policy)
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("%d rules with one set of 30,000 ports take %d bytes", n, grown)
	}
	runtime.KeepAlive(prog)
}

// heap returns how many bytes are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestUnequalForIsInTheHash: `not x == v for D` and `x != v for D` last differently.
func TestUnequalForIsInTheHash(t *testing.T) {
	hash := func(expr string) [32]byte {
		t.Helper()
		r := Policy("p.npl", []byte("policy 1\ncondition c = "+expr+"\nrule r { match any; when c; do block }\n"), Options{})
		if r.Policy == nil {
			t.Fatal(r.Diags)
		}
		return r.Policy.Hash
	}
	if hash("latency != 5ms for 3s") == hash("not latency == 5ms for 3s") {
		t.Error("two policies that decide differently have one hash")
	}
	if hash("latency != 5ms") != hash("not latency == 5ms") {
		t.Error("one policy has two hashes")
	}
}
