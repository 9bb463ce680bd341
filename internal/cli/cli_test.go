package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
)

// full is an output on a device that is.
type full struct{ tried int }

var errFull = errors.New("no space left on device")

func (f *full) Write([]byte) (int, error) {
	f.tried++
	return 0, errFull
}

// TestUnwritable: a command whose output can't be written fails and says so once, however it goes about it.
func TestUnwritable(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(*cobra.Command) error
		code int
	}{
		"does not look": {func(cmd *cobra.Command) error {
			for range 3 {
				fmt.Fprintln(cmd.OutOrStdout(), "x")
			}
			return nil
		}, 1},
		"returns it": {func(cmd *cobra.Command) error {
			_, err := io.WriteString(cmd.OutOrStdout(), "x")
			return fmt.Errorf("write the table: %w", err)
		}, 1},
		"fails with it": {func(cmd *cobra.Command) error {
			_, err := io.WriteString(cmd.OutOrStdout(), "x")
			return Fail(cmd, err)
		}, 1},
		"has another code": {func(cmd *cobra.Command) error {
			fmt.Fprintln(cmd.OutOrStdout(), "x")
			return Warnings
		}, 3},
	} {
		var said bytes.Buffer
		out := new(full)
		root := &cobra.Command{SilenceUsage: true, SilenceErrors: true, RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) }}
		root.SetOut(out)
		root.SetErr(&said)
		if code := Run(t.Context(), root, nil); code != c.code || said.String() != "error: write the output: no space left on device\n" || out.tried != 1 {
			t.Errorf("%s: exit %d, written %d times\n%s", name, code, out.tried, said.String())
		}
	}
}

// TestExit: what a command returns is the exit code and what is said.
func TestExit(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(*cobra.Command) error
		code int
		said string
	}{
		"all is well":  {func(*cobra.Command) error { return nil }, 0, ""},
		"a code":       {func(*cobra.Command) error { return Unreachable }, 6, ""},
		"a mistake":    {func(*cobra.Command) error { return errors.New("-n x: want a number") }, 2, "error: -n x: want a number\n"},
		"a failure":    {func(cmd *cobra.Command) error { return Fail(cmd, errors.New("it is not there")) }, 1, "error: it is not there\n"},
		"interruption": {func(cmd *cobra.Command) error { return Fail(cmd, fmt.Errorf("ask: %w", context.Canceled)) }, 130, "error: interrupted\n"},
	} {
		var said bytes.Buffer
		root := &cobra.Command{SilenceUsage: true, SilenceErrors: true, RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) }}
		root.SetErr(&said)
		if code := Run(t.Context(), root, nil); code != c.code || said.String() != c.said {
			t.Errorf("%s: exit %d, %q", name, code, said.String())
		}
	}
}

// TestFile: a command finds the file that its output is.
func TestFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, w := range []io.Writer{f, new(full)} {
		root := &cobra.Command{RunE: func(cmd *cobra.Command, _ []string) error {
			if got, ok := File(cmd.OutOrStdout()); ok != (w == f) || ok && got != f {
				t.Errorf("%T: %v, %v", w, got, ok)
			}
			return nil
		}}
		root.SetOut(w)
		Run(t.Context(), root, nil)
	}
}
