package workload

import "fmt"

// The shapes of a policy; the hostile sets' names are shapes, too.
const (
	NRules = "n-rules" // N rules with outcomes of their own
	Set    = "one-set" // one rule over N names and prefixes
)

// Make returns the rules of a shape.
func Make(shape string, n int) ([]Rule, error) {
	switch shape {
	case NRules:
		return Mix(n), nil
	case Set:
		return OneSet(n), nil
	}
	for _, h := range Hostile {
		if h.Name == shape {
			return h.Make(n), nil
		}
	}
	return nil, fmt.Errorf("there is no shape %q", shape)
}

// ConnsFor returns n connections for the rules of a shape.
func ConnsFor(shape string, list []Rule, n int) []Conn {
	for _, h := range Hostile {
		if h.Name == shape {
			return h.Conns(list, n)
		}
	}
	return Conns(list, n)
}
