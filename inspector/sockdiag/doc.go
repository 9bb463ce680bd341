// Package sockdiag observes this host's own TCP and connected UDP sockets by
// polling inet_diag over netlink (Linux): round-trip time, retransmits, bytes,
// user, and, through /proc, the program that owns the socket. A poll takes
// about a millisecond; what opens and closes between two polls is not seen.
// TCP figures need kernel 3.3 (bytes 4.1, minimum RTT 4.6).
package sockdiag
