package leaktest

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

// TestLook: what ends is waited for, what stays is found.
func TestLook(t *testing.T) {
	others := goleak.IgnoreCurrent()
	end := make(chan struct{})
	go func() { <-end }()
	if look(1, others) == nil {
		t.Error("a goroutine that stays is not found")
	}
	go func() {
		time.Sleep(time.Second)
		close(end)
	}()
	if err := look(patience, others); err != nil {
		t.Error(err)
	}
}
