package config

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// Xray reads the keys of JSON without regard to case, as Go does; so do these.

// actualKey returns the key as the object spells it, or as it is given.
func actualKey(o object, key string) string {
	if _, ok := o[key]; ok {
		return key
	}
	for _, k := range sortedKeys(o) {
		if strings.EqualFold(k, key) {
			return k
		}
	}
	return key
}

func get(o object, key string) (any, bool) {
	v, ok := o[actualKey(o, key)]
	return v, ok && v != nil
}

func drop(o object, key string) { delete(o, actualKey(o, key)) }

// text returns a member that is a string, "" if it is none.
func text(o object, key string) string {
	v, _ := get(o, key)
	s, _ := v.(string)
	return s
}

// child returns a member that is an object; nil if it is none.
func child(o object, key string) object {
	v, _ := get(o, key)
	c, _ := v.(object)
	return c
}

// list returns a member that is a list; nil if it is none.
func list(o object, key string) []any {
	v, _ := get(o, key)
	l, _ := v.([]any)
	return l
}

// texts returns a member that is a string or a list of them, as a list.
func texts(o object, key string) (out []string) {
	switch v, _ := get(o, key); x := v.(type) {
	case string:
		for part := range strings.SplitSeq(x, ",") {
			out = append(out, strings.TrimSpace(part))
		}
	case []any:
		for _, e := range x {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// integer returns a member that is a whole number, also in a string.
func integer(o object, key string) (int64, bool) {
	v, _ := get(o, key)
	switch x := v.(type) {
	case json.Number:
		n, err := x.Int64()
		return n, err == nil
	case string:
		n, err := strconv.ParseInt(x, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// bounds returns a member that is a range, 5 or "5-10"; each can be negative.
func bounds(o object, key string) (from, to int64, ok bool) {
	if n, ok := integer(o, key); ok {
		return n, n, true
	}
	s := text(o, key)
	i := strings.LastIndexByte(s, '-')
	if i > 0 && s[i-1] == '-' {
		i-- // the second is negative
	}
	if i <= 0 {
		return 0, 0, false
	}
	from, err1 := strconv.ParseInt(strings.TrimSpace(s[:i]), 10, 64)
	to, err2 := strconv.ParseInt(strings.TrimSpace(s[i+1:]), 10, 64)
	return from, to, err1 == nil && err2 == nil
}

func sortedKeys(o object) []string {
	keys := make([]string, 0, len(o))
	for k := range o {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func at(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// item returns the path of a list's member; the list is the path itself for "".
func item(path, key string, i int) string {
	if key != "" {
		path = at(path, key)
	}
	return path + "[" + strconv.Itoa(i) + "]"
}

// secretKeys are the keys of configurations whose values nobody else may see.
var secretKeys = []string{
	"id", "password", "pass", "auth", "secretkey", "presharedkey", "shortid", "shortids", "privatekey", "seed", "value", "encryption", "decryption",
	"mldsa65seed", "echserverkeys", "key",
}

// shortestSecret is the shortest text that Secrets returns: what is shorter stands
// in too many words, so that taking it out hides the words and not the secret.
const shortestSecret = 4

// Secrets returns the passwords, keys and ids in a configuration, each once, so
// that they can be taken out of what Xray prints: the longest first, so that none
// remains in part where another is its beginning.
func Secrets(data []byte) []string {
	seen := map[string]bool{}
	var walk func(v any, secret bool)
	walk = func(v any, secret bool) {
		switch x := v.(type) {
		case string:
			if secret && len(x) >= shortestSecret && x != "none" && x != "auto" && x != "noauth" && x != "password" {
				seen[x] = true
			}
		case []any:
			for _, e := range x {
				walk(e, secret)
			}
		case object:
			for key, e := range x {
				walk(e, slices.Contains(secretKeys, strings.ToLower(key)))
			}
		}
	}
	walk(map[string]any(readFile(data)), false)
	out := make([]string, 0, len(seen))
	for s := range seen {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return out
}
