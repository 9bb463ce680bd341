package daemon

import (
	"cmp"
	"path/filepath"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/internal/api"
	"netpolicy.dev/netpolicy/rules"
)

// checkStateDir says that a policy would move the state directory (NP505). The ledger in the
// present one lists what is in the kernel: a start with another does not know it for its own.
// With a directory that the command line names, what a policy says has no effect: a hint.
func (d *Daemon) checkStateDir(p *rules.Policy) []diag.Diagnostic {
	old, wanted := stateDirOf(d.snap.Load().live.policy), stateDirOf(p)
	if old == wanted || d.opts.Observe {
		return nil
	}
	if d.opts.StateDirGiven {
		g := diag.New("NP505", p.Daemon.StateDirAt, "state_dir has no effect: the daemon was started with --state-dir %s", d.opts.StateDir)
		g.Severity = diag.Hint
		return []diag.Diagnostic{g}
	}
	g := diag.New("NP505", p.Daemon.StateDirAt, "state_dir would be %s, and the daemon that runs uses %s", wanted, old)
	g.Help = "stop the daemon, move the folder, then change state_dir and start it"
	return []diag.Diagnostic{g}
}

func stateDirOf(p *rules.Policy) string {
	return filepath.Clean(cmp.Or(p.Daemon.StateDir, api.DefaultStateDir))
}
