package host

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/xtqueue"
)

// queueVia finds out how this kernel hands packets to the daemon, by trying: nft
// checks a chain with a queue without loading it. It does not change while the
// kernel runs, short of modules that somebody builds. What can't be tried is
// whether an answer's priority counts (NFQA_PRIORITY): kernel 5.18.
var queueVia = sync.OnceValue(func() actions.Via {
	if !since(5, 18) {
		return actions.NoQueue
	}
	cmd := exec.Command("nft", "-c", "-f", "-")
	cmd.Stdin = strings.NewReader("table inet netpolicy_try { chain c { queue num 0 bypass; }; }\n")
	switch {
	case cmd.Run() == nil:
		return actions.NFTQueue
	case xtqueue.Usable():
		return actions.LegacyQueue
	default:
		return actions.NoQueue
	}
})

// since reports whether the kernel's release is at least major.minor.
func since(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}

// jumps returns which of the jumps that the ledger or the plan lists stand in
// iptables; those that are not as the plan's are given as another's.
func (e *Enforcer) jumps(plan *actions.Plan) (actions.Legacy, error) {
	want := plan.Legacy()
	if e.books.Queue == "" && want == (actions.Legacy{}) {
		return want, nil
	}
	s, err := xtqueue.Read(context.Background(), want)
	switch {
	case err != nil || s == xtqueue.Nothing:
		return actions.Legacy{}, err
	case s == xtqueue.Ready:
		return want, nil
	default:
		return actions.Legacy{Consult: actions.Consult{Via: actions.LegacyQueue}}, nil
	}
}
