// Package nflog reads the packets that rules log to an nfnetlink_log group
// (Linux), such as nftables' `log group 5 prefix "blocked"`: one Logged event
// for each, with the rule's prefix and the packet's ends. The kernel hands a
// group to one reader only; a second one gets an error. The conntrack mark is told where the
// kernel has NETFILTER_NETLINK_GLUE_CT, and is 0 elsewhere.
package nflog
