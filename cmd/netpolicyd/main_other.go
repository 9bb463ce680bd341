//go:build !linux

// Command netpolicyd enforces a network policy; so far on Linux alone.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Fprintf(os.Stderr, "error: netpolicyd has no executor for %s yet; `netpolicy` works here\n", runtime.GOOS)
	os.Exit(1)
}
