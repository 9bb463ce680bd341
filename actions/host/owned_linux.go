package host

import "netpolicy.dev/netpolicy/actions"

// Owned is what a ledger lists as made by netpolicyd.
type Owned struct {
	Table  string   // the nft table, "" for none
	Chains []string // chains of iptables: "-4 mangle NAME"
	Rules  []actions.IPRule
	Routes []actions.IPRoute
}

// ReadOwned returns what the ledger in stateDir lists. It takes no lock and changes
// nothing; no ledger, or one of another boot, is nothing.
func ReadOwned(stateDir string) (Owned, error) {
	books, err := load(stateDir)
	o := Owned{Table: books.Table, Rules: books.Rules, Routes: books.Routes}
	if books.XT != nil {
		o.Chains = append(o.Chains, books.XT.Chains...)
	}
	if books.Queue != "" {
		o.Chains = append(o.Chains, "-4 mangle "+books.Queue, "-6 mangle "+books.Queue)
	}
	return o, err
}
