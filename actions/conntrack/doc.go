// Package conntrack changes the marks of live connections over ctnetlink: to
// pin a flow to its route, to block it, or to forget all flows of a dead
// uplink. Only the bits of the given mask are written. Needs Linux 3.9.
package conntrack
