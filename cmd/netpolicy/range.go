package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/state"
)

// summary is what a series comes to.
type summary struct {
	mean, least, most float64
	n                 int         // of values that were measured
	at                map[int]int // how many were this whole number
}

func summarize(values []*float64) summary {
	s := summary{at: map[int]int{}}
	for _, v := range values {
		if v == nil {
			continue
		}
		if s.n++; s.n == 1 {
			s.least, s.most = *v, *v
		}
		s.mean, s.least, s.most = s.mean+*v, min(s.least, *v), max(s.most, *v)
		s.at[int(*v)]++
	}
	s.mean /= float64(max(s.n, 1))
	return s
}

// spread spells the mean with the least and the most behind it, "-" where nothing was measured.
func (s summary) spread(spell func(float64) string) string {
	if s.n == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%s to %s)", spell(s.mean), spell(s.least), spell(s.most))
}

// states says how much of the time was spent in which state.
func (s summary) states() string {
	var parts []string
	for st := state.Normal; st <= state.Recovery; st++ {
		if n := s.at[int(st)]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %.3g%%", st, 100*float64(n)/float64(s.n)))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// writeRange writes a table of the uplinks, and the host's figures below it.
func writeRange(w io.Writer, r *api.Range) {
	byUplink := map[string]map[string]summary{}
	var uplinks []string
	steps := 0
	for _, s := range r.Series {
		if byUplink[s.Uplink] == nil {
			byUplink[s.Uplink] = map[string]summary{}
			if s.Uplink != "" {
				uplinks = append(uplinks, s.Uplink)
			}
		}
		byUplink[s.Uplink][s.Name] = summarize(s.Values)
		steps = max(steps, len(s.Values))
	}
	if steps == 0 {
		fmt.Fprintln(w, "nothing has been measured yet")
		return
	}
	slices.Sort(uplinks)
	step := time.Duration(r.Step) * time.Second
	to := r.From.Add(time.Duration(steps) * step)
	fmt.Fprintf(w, "from %s to %s, a value each %s: mean (least to most)\n", clock(r.From, to), clock(to, to), ago(step))
	number := func(v float64) string { return fmt.Sprintf("%.4g", v) }
	percent := func(v float64) string { return fmt.Sprintf("%.3g%%", 100*v) }
	bytes := func(v float64) string { return size(int64(v)) }
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(uplinks) > 0 {
		fmt.Fprintln(t, "UPLINK\tSTATE\tRTT, ms\tLOSS\tERRORS\tIN, a second\tOUT, a second")
	}
	for _, name := range uplinks {
		of := byUplink[name]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, of["state"].states(), of["rtt_ms"].spread(number), of["loss"].spread(percent),
			of["error_rate"].spread(percent), of["rx_rate"].spread(bytes), of["tx_rate"].spread(bytes))
	}
	t.Flush()
	host := byUplink[""]
	fmt.Fprintf(w, "host: %s; connections %s; decisions a second %s\n", host["state"].states(), host["flows"].spread(number), host["decisions_rate"].spread(number))
}
