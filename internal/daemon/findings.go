package daemon

import (
	"cmp"
	"slices"

	"netpolicy.dev/netpolicy/diag"
)

// maxFindings bounds the findings of one policy in the log, where much else has to
// have room: the answer to whoever applies it has them all.
const maxFindings = 20

// logFindings logs the gravest findings, hints at a lower level, and how many more there are.
func (d *Daemon) logFindings(list []diag.Diagnostic, sources []*diag.Source) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b diag.Diagnostic) int { return cmp.Compare(b.Severity, a.Severity) })
	for _, g := range apiDiagnostics(list[:min(len(list), maxFindings)], sources, false) {
		log := d.log.With("code", g.Code, "severity", g.Severity, "file", g.File, "line", g.Line, "column", g.Column, "message", g.Message)
		if g.Severity == diag.Hint.String() {
			log.Info("policy finding")
		} else {
			log.Warn("policy finding")
		}
	}
	if more := len(list) - maxFindings; more > 0 {
		d.log.Info("more policy findings", "count", more)
	}
}
