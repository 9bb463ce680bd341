package engine

import (
	"iter"
	"unsafe"
)

// Tables yields the memory of the tables that a decision reads at random, for
// advice to the kernel about their pages; it must not be written to. They are
// those of the first level: what lies below is for few names or addresses.
func (p *Program) Tables() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, l := range p.layers {
			if !yield(memory(l.records)) || !l.root.tables(yield) {
				return
			}
		}
	}
}

func (n *node) tables(yield func([]byte) bool) bool {
	for i := range n.indexes {
		x := &n.indexes[i]
		if x.names != nil && !(yield(memory(x.names.slots)) && yield(memory(x.names.filter))) {
			return false
		}
		if t := x.text; t != nil && !(yield(memory(t.filter)) && yield(memory(t.grams)) && yield(memory(t.literals))) {
			return false
		}
		for _, f := range x.prefixes {
			if f != nil && !(yield(memory(f.v4.top)) && yield(memory(f.v4.start)) && yield(memory(f.v6.top)) &&
				yield(memory(f.v6.start)) && yield(memory(f.entries))) {
				return false
			}
		}
	}
	return true
}

// memory returns the bytes of a slice without pointers.
func memory[T any](list []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(list))), len(list)*int(unsafe.Sizeof(zero)))
}
