package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"netpolicy.dev/netpolicy/bench/workload"
)

// write writes results.json, raw.txt and results.md.
func (b *bench) write() error {
	data, err := json.MarshalIndent(struct {
		Machine []string `json:"machine"`
		Rows    []row    `json:"rows"`
		Figures []figure `json:"figures"`
		Skipped []string `json:"skipped"`
	}{b.machine(), b.rows, b.figures, b.skipped}, "", " ")
	if err != nil {
		return err
	}
	raw := fmt.Sprintf("goos: %s\ngoarch: %s\npkg: netpolicy.dev/netpolicy/bench\n%s\n", runtime.GOOS, runtime.GOARCH, strings.Join(b.raw, "\n"))
	for name, text := range map[string]string{"results.json": string(data) + "\n", "raw.txt": raw, "results.md": b.markdown()} {
		if err := os.WriteFile(filepath.Join(b.out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	fmt.Print(b.markdown())
	return nil
}

// machine says where and with what this was measured.
func (b *bench) machine() []string {
	first := func(file, key string) string {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, key); ok {
				return strings.TrimSpace(strings.TrimLeft(rest, " \t:"))
			}
		}
		return "unknown"
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	out := []string{
		fmt.Sprintf("%s, %d cores, memory %s", first("/proc/cpuinfo", "model name"), runtime.NumCPU(), first("/proc/meminfo", "MemTotal")),
		fmt.Sprintf("Linux %s, %s, %s", strings.TrimSpace(string(kernel)), runtime.Version(), time.Now().UTC().Format("2006-01-02 15:04 UTC")),
	}
	if b.peers == "" {
		return append(out, "without peers")
	}
	cmd := exec.Command("go", "list", "-m", "github.com/xtls/xray-core", "github.com/sagernet/sing-box", "github.com/open-policy-agent/opa", "cel.dev/cel-go")
	cmd.Dir = "bench/peers"
	versions, err := cmd.Output()
	if err != nil {
		return append(out, "versions of the peers: "+err.Error())
	}
	return append(out, strings.ReplaceAll(strings.TrimSpace(string(versions)), "\n", ", "))
}

// systems are the rows of the table, in order, and what they are.
var systems = []struct {
	contestant
	what string
}{
	{contestant{ourName, workload.NRules}, "**netpolicy**, N rules"},
	{contestant{ourName, workload.Set}, "netpolicy, one rule (set)"},
	{contestant{linearName, workload.NRules}, "linear search, typed and packed"},
	{contestant{"xray", workload.NRules}, "Xray, N rules"},
	{contestant{"xray", workload.Set}, "Xray, one rule (set)"},
	{contestant{"sing-box", workload.NRules}, "sing-box, N rules"},
	{contestant{"sing-box-srs", workload.Set}, "sing-box, .srs (set)"},
	{contestant{"opa-scan", workload.NRules}, "OPA, data scanned"},
	{contestant{"opa-index", workload.NRules}, "OPA, object by name (names alone)"},
	{contestant{"cel", workload.NRules}, "cel-go, N programs"},
}

func (b *bench) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Results of `make bench`\n\n%s.\n\n", strings.Join(b.machine(), ".\n"))
	s.WriteString(`CPU nanoseconds a decision, of the whole process, median of passes that take turns; (set): the system answers the easier
question whether anything matches, without ports, states, latencies, priorities and outcomes. The mix, the columns and the
targets are explained in docs/performance.md; of every row but "unknown" and "hinted" (names not known yet, or from DNS alone: the oracle judges that in the engine's
tests) answers were compared with a linear search. Made by ` + "`make bench`, which runs `bin/bench -peers bin/peers`" + `. Wall
clock, passes and samples are in results.json and raw.txt. mihomo can't be run here: its domain and CIDR sets were
measured at 222, 269, 326, 362, 447 and 811 ns for 10 to 1,000,000 elements (set, no keywords) where the targets were set.
`)
	s.WriteString("Targets of time are scaled by what a linear search of 1,000 rules took in turns with what they are for, against where they were set (those of hostile sets never below 2 us):\n")
	fmt.Fprintf(&s, "%s.\n\n", b.scales())
	for _, mode := range []string{"warm", "cold", "unknown", "hinted"} {
		b.table(&s, mode, func(r *row) string { return number(r.NS) })
	}
	s.WriteString("## Cost\n\nOf the program that building makes; in brackets what a rule takes in the process with the policy it was made from.\n\n")
	b.table(&s, "memory, bytes a rule", func(r *row) string { return fmt.Sprintf("%s (%s)", number(r.BytesPerRule), number(r.Resident)) })
	b.table(&s, "build, ms", func(r *row) string { return number(r.BuildMS) })
	b.table(&s, "allocations a decision", func(r *row) string { return strconv.FormatFloat(r.Allocs, 'g', 3, 64) })
	b.sets(&s)
	s.WriteString("## Other figures\n\n")
	fmt.Fprintf(&s, "With %s rules where there are any.\n\n| what | |\n|---|--:|\n", count(b.big))
	for _, f := range b.figures {
		fmt.Fprintf(&s, "| %s | %s %s |\n", f.Name, number(f.Value), f.Unit)
	}
	s.WriteString("\n## Targets\n\n| what | measured | must | stretch |\n|---|--:|---|---|\n")
	for _, t := range b.targets() {
		s.WriteString(t.verdict() + "\n")
	}
	s.WriteString("| parse a QUIC Initial | by `go test -bench . ./inspector/quic` | must at most 20 us | |\n")
	for _, why := range b.skipped {
		fmt.Fprintf(&s, "\nNot measured: %s\n", why)
	}
	return s.String()
}

// scales lists the scales of the sizes.
func (b *bench) scales() string {
	var list []string
	for _, n := range b.sizes {
		if r := b.find(ourName, workload.NRules, "warm", n); r != nil {
			list = append(list, fmt.Sprintf("%.2f with %s rules", r.Scale, count(n)))
		}
	}
	return strings.Join(list, ", ")
}

// table writes one value of all systems of the mix; "cold", "unknown" and "hinted"
// take the rows of that mode, others the warm ones.
func (b *bench) table(s *strings.Builder, title string, value func(*row) string) {
	mode := "warm"
	if title == "cold" || title == "unknown" || title == "hinted" {
		mode = title
	}
	fmt.Fprintf(s, "| %s |", title)
	for _, n := range b.sizes {
		s.WriteString(" " + count(n) + " |")
	}
	s.WriteString("\n|---|" + strings.Repeat("--:|", len(b.sizes)) + "\n")
	for _, sys := range systems {
		line, any := "", false
		for _, n := range b.sizes {
			cell := ""
			if r := b.find(sys.system, sys.shape, mode, n); r != nil {
				cell, any = value(r), true
			}
			line += " " + cell + " |"
		}
		if any {
			fmt.Fprintf(s, "| %s |%s\n", sys.what, line)
		}
	}
	s.WriteString("\n")
}

// sets writes the hostile sets and the real ones.
func (b *bench) sets(s *strings.Builder) {
	s.WriteString("## Hostile and real sets\n\n| set | rules | netpolicy, ns | hardest in 100, ns | linear, ns | bytes a rule | build, ms | what |\n|---|--:|--:|--:|--:|--:|--:|---|\n")
	what := map[string]string{
		workload.ClassBench:  "a ClassBench filter set, connections near its rules",
		workload.DomainLists: "the v2fly community lists, a rule for each name",
	}
	order := []string{workload.ClassBench, workload.DomainLists}
	for _, h := range workload.Beyond {
		what[h.Name] = "no bound is promised: " + h.What
		order = append(order, h.Name)
	}
	for i := len(workload.Hostile) - 1; i >= 0; i-- {
		h := workload.Hostile[i]
		what[h.Name] = "hostile: " + h.What
		order = append([]string{h.Name}, order...)
	}
	for _, shape := range order {
		for i := range b.rows {
			r := &b.rows[i]
			if r.System != ourName || r.Shape != shape {
				continue
			}
			linear := "-"
			if l := b.find(linearName, shape, r.Mode, r.N); l != nil {
				linear = number(l.NS)
			}
			fmt.Fprintf(s, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", shape, count(r.N), number(r.NS), number(r.P99), linear, number(r.BytesPerRule), number(r.BuildMS), what[shape])
		}
	}
	s.WriteString("\n")
}

// number writes a figure with three digits that matter, and commas.
func number(x float64) string {
	switch {
	case x >= 100:
		return count(int(x + 0.5))
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	default:
		return strconv.FormatFloat(x, 'f', 2, 64)
	}
}

// count writes a number with commas.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
