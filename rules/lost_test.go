package rules_test

import (
	"testing"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/rules/load"
)

// TestLost checks policies of which a part could not be read: what is not declared
// may stand there, so it is not reported, and there is no policy.
func TestLost(t *testing.T) {
	for _, use := range []string{
		"when nope", "when quota nope exceeded", "when schedule nope", "when uplink.nope.rtt > 5ms", "when route.nope.rtt > 5ms",
		"match sni in nope", "match any; do route nope", "match any; do throttle nope",
	} {
		src := "policy 1\nroute r via main\n)\nrule a { match any; " + use + "; do route r }\nassert \"x\" -> rule nope\n"
		r := load.Policy("lost.npl", []byte(src), load.Options{})
		if r.Policy != nil || !diag.HasErrors(r.Diags) {
			t.Errorf("%s: a policy, and %v", use, r.Diags)
		}
		for _, d := range r.Diags {
			if d.Code == "NP110" {
				t.Errorf("%s: %s", use, d.Message)
			}
		}
	}
}
