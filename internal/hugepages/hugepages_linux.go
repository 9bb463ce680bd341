package hugepages

import (
	"bytes"
	"iter"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// settings is where the kernel says what it does with large pages.
const settings = "/sys/kernel/mm/transparent_hugepage/"

// Use moves the tables to large pages, as far as whole ones fit in, and returns how
// many bytes are on them now. It changes nothing on hosts that say "never", and
// where the kernel can't (before Linux 6.1, or without memory in one piece): then
// decisions are as right, and slower. It copies about 1 GB a second.
func Use(tables iter.Seq[[]byte]) int {
	size := pageSize()
	if size == 0 {
		return 0
	}
	moved := 0
	for t := range tables {
		start := uintptr(unsafe.Pointer(unsafe.SliceData(t)))
		skip := int(-start & uintptr(size-1))
		for ; skip+size <= len(t); skip += size {
			if unix.Madvise(t[skip:skip+size], unix.MADV_COLLAPSE) == nil {
				moved += size
			}
		}
	}
	return moved
}

// pageSize returns the size of a large page, a power of two; 0 if there are none.
func pageSize() int {
	enabled, err := os.ReadFile(settings + "enabled")
	if err != nil || bytes.Contains(enabled, []byte("[never]")) {
		return 0
	}
	text, err := os.ReadFile(settings + "hpage_pmd_size")
	if err != nil {
		return 0
	}
	size, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || size <= 0 || size&(size-1) != 0 {
		return 0
	}
	return size
}
