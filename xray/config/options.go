package config

import (
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/xray/link"
)

const (
	// maxProfiles bounds a configuration: Xray holds each outbound in memory.
	maxProfiles = 1000
	// maxInbounds and maxGroups bound what a policy's routes become.
	maxInbounds = 256
	maxGroups   = 256
	// maxServers bounds the DNS servers; a resolver that asks more is none.
	maxServers = 16
)

// Options is what a configuration needs beside the profiles. The zero value gives
// one that can be tested and takes no connection.
type Options struct {
	Inbounds []Inbound
	// Groups are what inbounds lead to. Nil is one group, named all, of every profile.
	Groups []Group
	// API is where Xray listens for its API, which asks nobody for a password: a
	// loopback address and a port. Every user of the host can then read all secrets out of
	// it, and change what runs. The zero value is none.
	API netip.AddrPort
	// APISocket is a unix socket for the API instead, which only the user that Xray runs as,
	// and root, can use: an absolute path. "" is none.
	APISocket string
	// Mark is put on every packet that Xray itself sends, so that the host does not
	// lead it back into Xray. 0 is none, which TProxy and Tun don't go without.
	Mark uint32
	// Marks are the marks of single profiles, by index; where there is none, or 0, Mark holds.
	Marks []uint32
	// Stamp is a key of which tags end in a hash of what their outbound says: one that
	// changes gets another tag, so that it can be added beside the former one while Xray
	// runs. Without the key nobody can try passwords by a tag, which stands in logs. Nil is
	// no hashes.
	Stamp []byte
	// DNS are servers for the names of proxies, asked over UDP past the proxies. Nil
	// is the host's resolver.
	DNS []netip.AddrPort
	// Observatory measures the members of groups. Its zero value is none.
	Observatory Observatory
	LogLevel    string // debug, info, warning, error or none; "" is warning
}

// Observatory says how Xray measures outbounds.
type Observatory struct {
	URL      string        // what to fetch through each of them; "" is no measuring
	Interval time.Duration // 0 is a minute
}

// Kind is how connections come in.
type Kind uint8

// The kinds of inbounds.
const (
	Mixed  Kind = iota // SOCKS 4 and 5 and HTTP on one port
	TProxy             // what the host leads here by TPROXY
	Tun                // a network device that Xray makes
)

// Inbound is where connections of one route come in.
type Inbound struct {
	Name   string // of the route; its tag is in-NAME
	Kind   Kind
	Listen netip.AddrPort // of Mixed and TProxy
	Device string         // of Tun
	MTU    uint16         // of Tun; 0 is 1500
	// User and Password are asked for by Mixed; "" is nobody, on loopback only.
	User     string
	Password link.Secret
	Group    string // where it leads
}

// Group is a set of profiles of which one is used at a time: one balancer.
type Group struct {
	Name string
	// Members are indexes into the profiles.
	Members []int
}
