// Package policygen makes large random policies for tests and benchmarks.
package policygen

import (
	"bytes"
	"fmt"
	"math/rand/v2"
)

// header is the line-up that the rules steer over: two uplinks and seven outcomes.
const header = `version: 1
uplinks:
  wan1: {dev: eth1, gateway: 192.0.2.1, probe: {kind: icmp, targets: [192.0.2.1], every: 1s}}
  wan2: {dev: eth2, gateway: 198.51.100.1, probe: {kind: icmp, targets: [198.51.100.1], every: 1s}}
routes:
  direct: {via: main}
  fast: {via: uplink wan1}
  backup: {via: uplink wan2}
groups:
  ha: {fallback: [fast, backup]}
  best: {lowest_latency: [fast, backup]}
default: {route: direct}
rules:
`

// outcomes are the seven answers that rules give.
var outcomes = [...]string{
	"route: fast", "route: backup", "route: direct", "switch_route: ha", "route: best", "fallback: [backup, fast]", "block: reject",
}

// YAML returns a policy of n rules without errors or warnings, the same for the
// same seed: 75 % match a domain and what is under it, 10 % one name, 15 % an
// address prefix (80 % of them IPv4). 20 % also ask for ports, 20 % for TCP or
// UDP, 5 % for states and 3 % for a latency. Priorities are random.
func YAML(seed int64, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 0x6e70))
	var b bytes.Buffer
	b.WriteString(header)
	if n <= 0 {
		b.Truncate(b.Len() - len("rules:\n"))
	}
	for i := range n {
		fmt.Fprintf(&b, "  - name: r%d\n    priority: %d\n    match: {%s", i, r.IntN(1000), pivot(r))
		if r.IntN(100) < 20 {
			fmt.Fprintf(&b, ", port: \"%s\"", ports(r))
		}
		if r.IntN(100) < 20 {
			fmt.Fprintf(&b, ", protocol: %s", [...]string{"tcp", "udp"}[r.IntN(2)])
		}
		if r.IntN(100) < 3 {
			fmt.Fprintf(&b, ", latency_ms: \">%d\"", 1+r.IntN(300))
		}
		b.WriteString("}\n")
		if r.IntN(100) < 5 {
			fmt.Fprintf(&b, "    when: {state: [%s]}\n", [...]string{"NORMAL", "DEGRADED, FAILOVER", "RECOVERY"}[r.IntN(3)])
		}
		fmt.Fprintf(&b, "    action: {%s", outcomes[r.IntN(len(outcomes))])
		if r.IntN(100) < 5 {
			b.WriteString(", log: true")
		}
		b.WriteString("}\n")
	}
	return b.Bytes()
}

// pivot is the field that a rule is mainly about.
func pivot(r *rand.Rand) string {
	switch k := r.IntN(100); {
	case k < 75:
		return "domain: ." + Domain(r)
	case k < 85:
		return "domain: " + Domain(r)
	case k < 97:
		bits := 8 + r.IntN(25)
		a := r.Uint32() >> (32 - bits) << (32 - bits)
		return fmt.Sprintf("dst_ip: %d.%d.%d.%d/%d", a>>24, a>>16&255, a>>8&255, a&255, bits)
	default:
		return fmt.Sprintf("dst_ip: \"2001:db8:%x::/48\"", r.IntN(1<<16))
	}
}

var topLevel = [...]string{"com", "net", "org", "example", "co.uk"}

// Domain returns a random name of two or three labels; names of different calls
// often share a parent.
func Domain(r *rand.Rand) string {
	name := fmt.Sprintf("%s%d.%s", label(r, 3), r.IntN(500), topLevel[r.IntN(len(topLevel))])
	if r.IntN(2) == 0 {
		name = label(r, 2+r.IntN(6)) + "." + name
	}
	return name
}

func label(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + r.IntN(26))
	}
	return string(b)
}

func ports(r *rand.Rand) string {
	switch r.IntN(3) {
	case 0:
		return fmt.Sprint(1 + r.IntN(65535))
	case 1:
		lo := r.IntN(60000)
		return fmt.Sprintf("%d-%d", lo, lo+1+r.IntN(5000))
	default:
		return fmt.Sprintf("22,%d,%d-%d", 1+r.IntN(1000), 2000+r.IntN(100), 3000+r.IntN(1000))
	}
}
