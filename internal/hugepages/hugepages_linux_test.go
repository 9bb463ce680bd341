package hugepages

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestUse(t *testing.T) {
	size := pageSize()
	if size == 0 {
		t.Skip("the kernel has no large pages, or is told not to use them")
	}
	table := make([]byte, 4*size)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(table)
	before := bytes.Clone(table)
	small := make([]byte, size-1)
	moved := Use(slices.Values([][]byte{nil, small, table, table[100 : 3*size]}))
	if moved == 0 {
		t.Error("nothing was moved")
	}
	if moved%size != 0 || moved > 6*size {
		t.Errorf("%d bytes were moved", moved)
	}
	if !bytes.Equal(table, before) {
		t.Error("the table has changed")
	}
}
