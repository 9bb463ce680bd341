// Command netpolicy checks, explains and tests policies, and talks to the daemon.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// exitCode is an error that ends the program with a code of language.md
// section 5 and prints nothing more: the command has said what there is to say.
type exitCode int

// The exit codes of every command; 0 is success.
const (
	exitErrors      exitCode = 1
	exitUsage       exitCode = 2
	exitWarnings    exitCode = 3
	exitUnreachable exitCode = 6
)

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		return int(exitUsage)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "netpolicy",
		Short:         "Check, explain and test network policies",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand()
	root.AddCommand(newInspectCmd())
	root.AddCommand(newExplainCmd(), newDecideCmd())
	root.AddCommand(newStatusCmd(), newUplinksCmd(), newTailCmd(), newReloadCmd(), newStateCmd())
	root.AddCommand(newLabCmd())
	root.AddCommand(newLintCmd())
	root.AddCommand(newTestCmd())
	return root
}
