// Package afpacket reads DNS answers, ClientHellos and other beginnings of
// connections off the wire (Linux), through one AF_PACKET socket on all
// interfaces of the network namespace, or on one. It tells of names, protocols and the
// round trips of forwarded connections: Answered, Name and Update events.
//
// A filter in the kernel passes DNS, SYNs, what may be a client's first bytes, and
// datagrams that begin QUIC or another protocol that is known; a connection whose names are settled and that goes on sending is
// added to the filter, so that an upload does not come to user space. A packet
// that is forwarded is seen on both its interfaces and taken once, as it came
// in: before NAT of its source.
//
// DNS answers count only when their question was seen. IPv6 packets with
// extension headers and later fragments are not looked at.
package afpacket
