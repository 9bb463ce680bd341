package doctor

import (
	"strconv"
	"strings"
)

// builtins are the chains of iptables that hooks lead to, and their priorities by
// table (include/uapi/linux/netfilter_ipv4.h).
var builtins = map[string]string{
	"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting",
}

func legacyPriority(table, hook string) int {
	switch table {
	case "raw":
		return -300
	case "mangle":
		return mangle
	case "nat":
		if hook == "prerouting" || hook == "output" {
			return -100
		}
		return 100
	case "security":
		return 50
	default:
		return 0
	}
}

// ReadIptables reads what iptables-legacy-save prints: its chains, and what its
// rules do with marks. Lines that it does not know are skipped.
func ReadIptables(family, text string) (chains []Chain, marks []MarkUse) {
	table := ""
	known := map[string]Chain{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			known = map[string]Chain{}
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			c := Chain{Legacy: true, Family: family, Table: table, Name: name, Hook: builtins[name]}
			if c.Hook != "" {
				c.Priority = legacyPriority(table, c.Hook)
			}
			known[name] = c
			chains = append(chains, c)
		case strings.HasPrefix(line, "-A "):
			words := fields(line)
			if len(words) < 2 {
				continue
			}
			for _, m := range iptablesMarks(words[2:]) {
				m.Chain = known[words[1]]
				marks = append(marks, m)
			}
		}
	}
	return chains, marks
}

// fields splits a line at spaces that are not in quotes.
func fields(line string) []string {
	quoted, escaped := false, false
	return strings.FieldsFunc(line, func(r rune) bool {
		switch {
		case escaped:
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
}

// iptablesMarks reads the options of one rule that are about marks.
func iptablesMarks(words []string) []MarkUse {
	var list []MarkUse
	module := ""
	next := func(i int) string {
		if i+1 < len(words) {
			return words[i+1]
		}
		return ""
	}
	for i, w := range words {
		switch {
		case w == "-m" || w == "-j" || w == "-g":
			module = next(i)
		case w == "--mark" && (module == "mark" || module == "connmark"):
			m := MarkUse{}
			if module == "connmark" {
				m.Kind = ConnMark
			}
			m.Value, m.Mask = valueMask(next(i))
			list = append(list, m)
		case w == "--label" && module == "connlabel":
			if n, err := strconv.ParseUint(next(i), 0, 16); err == nil {
				list = append(list, MarkUse{Kind: ConnLabel, Value: uint32(n), Set: next(i+1) == "--set"})
			}
		case (w == "--set-xmark" || w == "--set-mark") && (module == "MARK" || module == "CONNMARK"):
			m := MarkUse{Set: true}
			if module == "CONNMARK" {
				m.Kind = ConnMark
			}
			value, mask := valueMask(next(i))
			m.Value, m.Mask = value, mask|value
			list = append(list, m)
		case (w == "--save-mark" || w == "--restore-mark") && module == "CONNMARK":
			m := MarkUse{Set: true, Any: true, Copy: true, Mask: copyMask(words[i:])}
			if w == "--save-mark" {
				m.Kind = ConnMark
			}
			list = append(list, m)
		}
	}
	return list
}

// copyMask is which bits a save or restore changes.
func copyMask(words []string) uint32 {
	mask, given := uint32(0), false
	for i, w := range words {
		if (w == "--nfmask" || w == "--ctmask" || w == "--mask") && i+1 < len(words) {
			n, _ := valueMask(words[i+1])
			mask, given = mask|n, true
		}
	}
	if !given {
		return ^uint32(0)
	}
	return mask
}

// valueMask reads 0x1/0xff; without a mask all bits count.
func valueMask(s string) (value, mask uint32) {
	v, m, ok := strings.Cut(s, "/")
	n, _ := strconv.ParseUint(v, 0, 32)
	if !ok {
		return uint32(n), ^uint32(0)
	}
	k, _ := strconv.ParseUint(m, 0, 32)
	return uint32(n), uint32(k)
}
