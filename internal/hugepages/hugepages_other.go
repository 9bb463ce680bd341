//go:build !linux

package hugepages

import "iter"

// Use does nothing here.
func Use(iter.Seq[[]byte]) int { return 0 }
