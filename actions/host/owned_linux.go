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
	return Owned{Table: books.Table, Rules: books.Rules, Routes: books.Routes}, err
}
