package api

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/apitest"
)

// TestContractHasEveryRoute compares the routes with the contract, with who may use them.
func TestContractHasEveryRoute(t *testing.T) {
	roles := map[access]string{forAnyRole: "read", forAdmin: "admin", forAnybody: "open", forSocket: "local"}
	var served, promised []string
	for _, r := range new(Server).routes().routes {
		served = append(served, r.method+" "+r.path+" "+roles[r.access])
	}
	for _, o := range apitest.Load(t, contract).Operations {
		promised = append(promised, o.String()+" "+o.Role)
	}
	slices.Sort(served)
	slices.Sort(promised)
	if diff := cmp.Diff(promised, served); diff != "" {
		t.Errorf("the contract (-) and the server (+) differ:\n%s", diff)
	}
	for _, r := range new(Server).routes().routes {
		if r.method == "GET" && r.access == forAdmin {
			t.Errorf("%s changes something, it seems", r.path)
		}
	}
}
