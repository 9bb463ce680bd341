package rules

import (
	"net/netip"
	"time"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/flow"
)

// Set is a named list of values that any number of rules share.
type Set struct {
	Name string
	Span diag.Span
	Type SetType
	List ListRef // the zero ListRef: the elements are written in the policy
	Elements
}

// SetType says what a set holds, and so which fields can name it.
type SetType uint8

// The types of set.
const (
	DomainSet SetType = iota
	CIDRSet
	PortSet
	MACSet
	ProcessSet
	UserSet
	ASNSet
	CountrySet
)

// Elements are the values of a set; which list is used follows from its type.
type Elements struct {
	Names    []NamePattern
	Prefixes []netip.Prefix // masked, unmapped
	Ports    []PortRange    // sorted, disjoint
	MACs     []flow.MAC     // sorted, unique
	Globs    []Glob         // of processes and users; of countries literal
	Numbers  []uint32       // of AS numbers; sorted, unique
}

// ListRef says where the elements of a set stand outside the policy.
type ListRef struct {
	File    string // relative to the policy's folder; or
	URL     string
	Select  string // a part of the file: "category-ads@cn" of a geosite.dat
	Format  string // list, hosts, dlc, geosite, geoip, clash, srs
	SHA256  string // expected, hexadecimal; "" is not checked
	Refresh time.Duration
	OnError ListError
}

// ListError is what is done when a list can't be had.
type ListError uint8

// ListKeep, the zero value, keeps the last good copy; ListFail refuses the
// policy; ListEmpty takes an empty list.
const (
	ListKeep ListError = iota
	ListFail
	ListEmpty
)

// Lists gets the elements of lists. Implementations stand at the edge: they read
// files and caches. The problems are about lines that were left out or about a
// copy that is old; an error means that there are no elements at all.
type Lists interface {
	Load(ref ListRef, t SetType) (e Elements, problems []string, err error)
}
