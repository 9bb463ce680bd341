package lists

import (
	"iter"
	"net/netip"
	"strings"

	"netpolicy.dev/netpolicy/rules"
)

// blanks are what is trimmed from lines; names never hold other white space.
const blanks = " \t\r"

// lines yields the lines that hold something, with their 1-based numbers,
// trimmed, without comments (by cut) and without a byte order mark. Lines that
// are too long are reported and left out.
func (c *collector) lines(data []byte, cut func(string) string) iter.Seq2[int, string] {
	text := strings.TrimPrefix(string(data), "\ufeff")
	return func(yield func(int, string) bool) {
		n := 0
		for line := range strings.SplitSeq(text, "\n") {
			n++
			if len(line) > maxLine {
				c.bad(n, "a line longer than 4 KiB", line)
				continue
			}
			if line = strings.Trim(cut(line), blanks); line != "" && !yield(n, line) {
				return
			}
		}
	}
}

// hashWord cuts a comment: # at the start of a line or after a blank.
func hashWord(line string) string {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return line[:i]
		}
	}
	return line
}

// hashAnywhere cuts a comment wherever # stands.
func hashAnywhere(line string) string {
	line, _, _ = strings.Cut(line, "#")
	return line
}

// parseList reads one element a line.
func parseList(c *collector, src Source) error {
	for n, line := range c.lines(src.Data, hashWord) {
		switch c.t {
		case rules.DomainSet:
			c.listName(n, line)
		case rules.CIDRSet:
			c.prefix(n, line)
		case rules.PortSet:
			c.ports(n, line, "-")
		case rules.MACSet:
			c.mac(n, line)
		default:
			c.glob(n, line)
		}
	}
	return nil
}

// listName reads a name as policies spell it, or with one of v2fly's prefixes.
func (c *collector) listName(n int, line string) {
	if kind, body, ok := strings.Cut(line, ":"); ok {
		if p, ok, known := c.prefixed(n, strings.ToLower(kind), body); known {
			if ok {
				c.add(p)
			}
			return
		}
	}
	p, ok := rules.ParseNamePattern(line)
	switch {
	case ok:
		c.add(p)
	case isPrefix(line):
		c.leaveOut(n, "an address is not for a domain set")
	default:
		c.bad(n, "not a name or pattern", line)
	}
}

// prefixed reads what follows full:, domain:, keyword: and regexp:; known is
// false for every other prefix.
func (c *collector) prefixed(n int, kind, body string) (p rules.NamePattern, ok, known bool) {
	switch kind {
	case "full":
		p, ok = c.canonical(n, rules.Exact, body)
	case "domain":
		p, ok = c.canonical(n, rules.Suffix, body)
	case "keyword":
		p, ok = c.keyword(n, body)
	case "regexp", "regex":
		p, ok = c.regex(n, body)
	default:
		return p, false, false
	}
	return p, ok, true
}

func isPrefix(s string) bool {
	_, err := netip.ParsePrefix(s)
	return err == nil || isAddress(s)
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// ownNames are what hosts files say about the machine itself; as elements of a
// block list they would block it.
var ownNames = map[string]bool{
	"localhost": true, "localhost.localdomain": true, "local": true, "broadcasthost": true,
	"ip6-localhost": true, "ip6-loopback": true, "ip6-localnet": true, "ip6-mcastprefix": true,
	"ip6-allnodes": true, "ip6-allrouters": true, "ip6-allhosts": true, "0.0.0.0": true,
}

// parseHosts reads hosts(5): an address and the names that it has, of which the
// names are wanted.
func parseHosts(c *collector, src Source) error {
	for n, line := range c.lines(src.Data, hashAnywhere) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !isAddress(fields[0]) {
			c.bad(n, "not an address with names", line)
			continue
		}
		for _, name := range fields[1:] {
			if !ownNames[strings.ToLower(name)] {
				c.name(n, rules.Exact, name)
			}
		}
	}
	return nil
}
