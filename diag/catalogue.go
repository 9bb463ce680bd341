package diag

import "slices"

// Entry describes one code.
type Entry struct {
	Code     Code
	Severity Severity
	Title    string
	// Detail says what it means and what to do.
	Detail string
	// Example is a whole YAML policy that gets this code, "" where the code needs
	// what a single file cannot show.
	Example string
}

// Lookup returns a code's entry.
func Lookup(code Code) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(catalogue, code, func(e Entry, c Code) int {
		switch {
		case e.Code < c:
			return -1
		case e.Code > c:
			return 1
		default:
			return 0
		}
	})
	if !ok {
		return Entry{}, false
	}
	e := catalogue[i]
	if x, ok := examples[code]; ok {
		e.Detail, e.Example = x.detail, x.yaml
	}
	return e, true
}

// Catalogue returns the entries of all codes, ordered by code.
func Catalogue() []Entry {
	list := make([]Entry, 0, len(catalogue))
	for _, e := range catalogue {
		full, _ := Lookup(e.Code)
		list = append(list, full)
	}
	return list
}

// catalogue is ordered by code; a test checks it. It is never changed.
var catalogue = []Entry{
	{Code: "NP001", Severity: Error, Title: "bad character"},
	{Code: "NP002", Severity: Error, Title: "unterminated string"},
	{Code: "NP003", Severity: Error, Title: "expected token"},
	{Code: "NP004", Severity: Error, Title: "expected one thing, found another"},
	{Code: "NP005", Severity: Error, Title: "expected end of statement"},
	{Code: "NP006", Severity: Error, Title: "unclosed block"},
	{Code: "NP007", Severity: Error, Title: "tab indentation"},
	{Code: "NP008", Severity: Error, Title: "encoding"},
	{Code: "NP009", Severity: Error, Title: "unquoted `*` or `>` in YAML"},
	{Code: "NP010", Severity: Error, Title: "keyword outside its block"},
	{Code: "NP101", Severity: Error, Title: "unknown declaration"},
	{Code: "NP102", Severity: Error, Title: "unknown key or field"},
	{Code: "NP103", Severity: Error, Title: "not an integer or out of range"},
	{Code: "NP104", Severity: Error, Title: "unknown clause"},
	{Code: "NP105", Severity: Error, Title: "duplicate key"},
	{Code: "NP106", Severity: Error, Title: "duplicate name"},
	{Code: "NP107", Severity: Error, Title: "missing required"},
	{Code: "NP108", Severity: Error, Title: "version"},
	{Code: "NP110", Severity: Error, Title: "undefined reference"},
	{Code: "NP111", Severity: Error, Title: "import not found"},
	{Code: "NP112", Severity: Error, Title: "import cycle"},
	{Code: "NP113", Severity: Error, Title: "checksum mismatch"},
	{Code: "NP114", Severity: Error, Title: "reference cycle"},
	{Code: "NP115", Severity: Warning, Title: "unused declaration"},
	{Code: "NP120", Severity: Error, Title: "unknown action"},
	{Code: "NP121", Severity: Error, Title: "several primary actions"},
	{Code: "NP122", Severity: Error, Title: "no action"},
	{Code: "NP201", Severity: Error, Title: "wrong type for the field"},
	{Code: "NP202", Severity: Error, Title: "port or range"},
	{Code: "NP203", Severity: Error, Title: "comparator or unit"},
	{Code: "NP204", Severity: Error, Title: "unknown state"},
	{Code: "NP205", Severity: Warning, Title: "keys ignored beside any"},
	{Code: "NP206", Severity: Warning, Title: "empty set used"},
	{Code: "NP207", Severity: Error, Title: "field not available here"},
	{Code: "NP208", Severity: Error, Title: "exit threshold at or above enter"},
	{Code: "NP209", Severity: Warning, Title: "comparison always true or false"},
	{Code: "NP210", Severity: Error, Title: "not a legal domain name"},
	{Code: "NP211", Severity: Error, Title: "host bits set in a prefix"},
	{Code: "NP212", Severity: Error, Title: "wildcard form"},
	{Code: "NP213", Severity: Error, Title: "schedule empty or unknown time zone"},
	{Code: "NP214", Severity: Error, Title: "`for` on a non-metric"},
	{Code: "NP301", Severity: Warning, Title: "ambiguous overlap"},
	{Code: "NP302", Severity: Warning, Title: "shadowed by one rule"},
	{Code: "NP303", Severity: Hint, Title: "pattern that can't be indexed"},
	{Code: "NP304", Severity: Warning, Title: "shadowed by several rules together"},
	{Code: "NP305", Severity: Warning, Title: "redundant rule"},
	{Code: "NP306", Severity: Warning, Title: "never true"},
	{Code: "NP307", Severity: Warning, Title: "unreachable because of states"},
	{Code: "NP308", Severity: Warning, Title: "default unreachable"},
	{Code: "NP309", Severity: Warning, Title: "dead group member"},
	{Code: "NP310", Severity: Hint, Title: "rule needs sniffing of all traffic"},
	{Code: "NP320", Severity: Error, Title: "assertion failed"},
	{Code: "NP321", Severity: Error, Title: "invariant violated"},
	{Code: "NP322", Severity: Hint, Title: "analysis incomplete"},
	{Code: "NP401", Severity: Hint, Title: "wildcard and the bare name"},
	{Code: "NP402", Severity: Hint, Title: "implicit route"},
	{Code: "NP403", Severity: Hint, Title: "old spelling"},
	{Code: "NP501", Severity: Error, Title: "new policy rejected, old one kept"},
	{Code: "NP502", Severity: Hint, Title: "executor lacks a feature"},
	{Code: "NP503", Severity: Warning, Title: "list refresh failed, old one kept"},
	{Code: "NP504", Severity: Error, Title: "proxy that Xray can't run"},
	{Code: "NP505", Severity: Error, Title: "state directory of a running daemon"},
	{Code: "NP901", Severity: Error, Title: "file too large"},
	{Code: "NP902", Severity: Error, Title: "nested too deeply"},
	{Code: "NP903", Severity: Error, Title: "too many rules"},
	{Code: "NP904", Severity: Error, Title: "too many wildcards"},
	{Code: "NP905", Severity: Error, Title: "too many elements"},
}
