// Package conntrack observes connections through the kernel's connection
// tracking (Linux): one listing at the start, then netlink events. It sees
// forwarded and local connections alike, in their original direction, before
// any NAT, and knows the conntrack mark.
//
// The table is empty until something in the network namespace uses connection
// tracking (a rule with a ct expression, NAT). Bytes and packets need the
// sysctl net.netfilter.nf_conntrack_acct. With net.netfilter.nf_conntrack_events
// at 2, the default, the kernel sends no events of connections older than the
// first listener: their end is seen at the next listing (Options.Refresh). Events need nf_conntrack_netlink
// (kernel 2.6.14; CTA_ID and zones as read here, 3.10).
package conntrack
