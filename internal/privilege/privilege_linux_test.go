package privilege

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

func TestEffective(t *testing.T) {
	got, err := Effective()
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	if want := fmt.Sprintf("\nCapEff:\t%016x\n", uint64(got)); !bytes.Contains(status, []byte(want)) {
		t.Errorf("no %q in\n%s", want, status)
	}
}

func TestSet(t *testing.T) {
	has := Of(NetRaw, BPF)
	if got, want := has.Missing(Of(NetAdmin, NetRaw, Perfmon)).String(), "CAP_NET_ADMIN, CAP_PERFMON"; got != want {
		t.Errorf("missing %q, want %q", got, want)
	}
	if !has.Has(BPF) || has.Has(SysPtrace) {
		t.Errorf("%s", has)
	}
	if got, want := Of(SysPtrace, 0).String(), "capability 0, CAP_SYS_PTRACE"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
