// Package alloctest checks in tests what a reader of texts takes of memory.
package alloctest

import (
	"runtime/metrics"
	"testing"
)

// tries is how often is measured: the rest of the process allocates, too.
const tries = 5

// Check fails the test if read, given a text of size bytes, takes more memory than
// fixed and perByte for each byte of it, what was given back meanwhile included. It
// calls read until it once does not. Anything else that runs counts too, and so the
// bounds are for what grows out of proportion, not for accounts.
func Check(t testing.TB, size, fixed, perByte int, read func()) {
	t.Helper()
	took := uint64(0)
	for range tries {
		sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(sample)
		before := sample[0].Value.Uint64()
		read()
		metrics.Read(sample)
		if took = sample[0].Value.Uint64() - before; took <= uint64(fixed)+uint64(perByte)*uint64(size) {
			return
		}
	}
	t.Fatalf("a text of %d bytes took %d bytes of memory", size, took)
}
