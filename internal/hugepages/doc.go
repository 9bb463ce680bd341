// Package hugepages asks the kernel to keep large tables on large pages. A
// decision among a million rules reads a dozen places that lie far apart; on pages
// of 4 KiB each of them costs a walk through the page tables, too.
package hugepages
