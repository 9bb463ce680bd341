// Package child runs programs that must not outlive us: a helper such as nft that
// goes on when its parent is killed would change the kernel after a clean-up has
// looked at it.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Run is cmd.Run, with a program that the kernel kills when this process ends,
// however it ends. It sets cmd.SysProcAttr.
func Run(cmd *exec.Cmd) error {
	// The signal comes when the thread that made the child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return cmd.Run()
}
