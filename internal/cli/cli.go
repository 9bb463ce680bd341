// Package cli holds what both commands share: exit codes and how an error ends
// the program.
package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// Exit is an error that ends the program with a code of language.md section 5
// and prints nothing more: the command has said what there is to say.
type Exit int

// The exit codes of every command; 0 is success.
const (
	Errors      Exit = 1
	Usage       Exit = 2
	Warnings    Exit = 3 // under --strict
	Unreachable Exit = 6 // the daemon
)

func (e Exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Run runs a command, prints what went wrong to its standard error, and returns
// the exit code. An error that is no Exit is a mistake in the command line.
func Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code Exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(root.ErrOrStderr(), "error:", err)
		return int(Usage)
	}
}

// Fail prints an error that is no mistake in the command line and returns the
// exit code for it.
func Fail(cmd *cobra.Command, err error) error {
	fmt.Fprintln(cmd.ErrOrStderr(), "error:", err)
	return Errors
}
