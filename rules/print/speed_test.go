package print_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"netpolicy.dev/netpolicy/rules/print"
)

// largePolicy is a policy in NPL with n rules, every tenth with a comment.
func largePolicy(n int) []byte {
	var b strings.Builder
	b.WriteString("policy 1\nset zoom: domain = { .zoom.us }\nroute direct via main\n")
	for i := range n {
		if i%10 == 0 {
			fmt.Fprintf(&b, "# rule %d\n", i)
		}
		switch i % 3 {
		case 0:
			fmt.Fprintf(&b, "rule r%d priority %d { match sni in zoom and proto tcp,udp; do route direct, log }\n", i, i%1000)
		case 1:
			fmt.Fprintf(&b, "rule r%d priority %d {\n  match dst.ip 10.%d.%d.0/24 and (port 443 or dscp 46)\n  do block\n}\n", i, i%1000, i/256%256, i%256)
		default:
			fmt.Fprintf(&b, "rule r%d {\n  match sni www%d.example\n  when state DEGRADED,FAILOVER\n  do route direct # here\n}\n", i, i)
		}
	}
	return []byte(b.String())
}

// TestFast formats a large policy: what the printer does must be a small part of
// what reading costs. NETPOLICY_PRINT_RULES is the number of rules.
func TestFast(t *testing.T) {
	n := 10_000
	if s := os.Getenv("NETPOLICY_PRINT_RULES"); s != "" {
		fmt.Sscan(s, &n)
	}
	text := largePolicy(n)
	for _, s := range []syntax{inNPL, inYAML} {
		if s.name == "yaml" {
			text = print.YAML(inNPL.read(t, text, ""))
		}
		start := time.Now()
		a := s.read(t, text, "")
		read := time.Since(start)
		start = time.Now()
		out := s.print(a)
		printed := time.Since(start)
		start = time.Now()
		b := s.read(t, out, "")
		again := time.Since(start)
		start = time.Now()
		same := print.Canonical(a) == print.Canonical(b)
		compared := time.Since(start)
		t.Logf("%s: %d rules: read %v, print %v, read %v, compare %v", s.name, n, read, printed, again, compared)
		if !same {
			t.Errorf("%s: another policy", s.name)
		}
		if work := printed + compared; work > 2*(read+again)+time.Second {
			t.Errorf("%s: printing and comparing took %v, reading %v", s.name, work, read+again)
		}
	}
}
