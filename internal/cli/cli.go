// Package cli holds what both commands share: exit codes and how an error ends
// the program.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit is an error that ends the program with a code of language.md section 5
// and prints nothing more: the command has said what there is to say.
type Exit int

// The exit codes of every command; 0 is success.
const (
	Errors      Exit = 1
	Usage       Exit = 2
	Warnings    Exit = 3   // under --strict
	Unreachable Exit = 6   // the daemon
	Interrupted Exit = 130 // by Ctrl-C or SIGTERM, as shells say it of what SIGINT ends
)

func (e Exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Run runs a command, prints what went wrong to its standard error, and returns
// the exit code. An error that is no Exit is a mistake in the command line. What
// could not be written to the standard output is an error, whether the command
// looked or not.
func Run(ctx context.Context, root *cobra.Command, args []string) int {
	out := &output{w: root.OutOrStdout()}
	root.SetOut(out)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code Exit
	switch {
	case err == nil, errors.As(err, &code), isOutput(err):
	default:
		fmt.Fprintln(root.ErrOrStderr(), "error:", err)
		code = Usage
	}
	if out.failed != nil {
		fmt.Fprintln(root.ErrOrStderr(), "error:", out.failed)
		code = cmp.Or(code, Errors)
	}
	return int(code)
}

// Fail prints an error that is no mistake in the command line and returns the
// exit code for it.
func Fail(cmd *cobra.Command, err error) error {
	switch {
	case isOutput(err): // Run tells
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(cmd.ErrOrStderr(), "error: interrupted")
		return Interrupted
	default:
		fmt.Fprintln(cmd.ErrOrStderr(), "error:", err)
	}
	return Errors
}

// output is a standard output that remembers that it could not be written.
type output struct {
	w      io.Writer
	failed *outputError
}

type outputError struct{ err error }

func (e *outputError) Error() string { return "write the output: " + e.err.Error() }

func (e *outputError) Unwrap() error { return e.err }

func isOutput(err error) bool {
	var e *outputError
	return errors.As(err, &e)
}

// Write implements io.Writer. After an error nothing is written any more.
func (o *output) Write(b []byte) (int, error) {
	if o.failed != nil {
		return 0, o.failed
	}
	n, err := o.w.Write(b)
	if err != nil {
		o.failed = &outputError{err}
		return n, o.failed
	}
	return n, nil
}

// File returns the file behind a command's standard output, if it is one.
func File(w io.Writer) (*os.File, bool) {
	if o, ok := w.(*output); ok {
		w = o.w
	}
	f, ok := w.(*os.File)
	return f, ok
}
