// Package leaktest runs tests that leave no goroutine behind.
package leaktest

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// patience is how often it is looked for goroutines, each time for about half a second: on
// a busy machine those of closed connections end late.
const patience = 20

// Run runs the tests and returns the exit code, which is not 0 when goroutines stay.
func Run(m *testing.M) int {
	if code := m.Run(); code != 0 {
		return code
	}
	if err := look(patience); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
		return 1
	}
	return 0
}

func look(times int, but ...goleak.Option) (err error) {
	for range times {
		if err = goleak.Find(but...); err == nil {
			break
		}
	}
	return err
}
