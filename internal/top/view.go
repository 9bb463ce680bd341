package top

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"

	"netpolicy.dev/netpolicy/internal/api"
)

const (
	// leastWidth and leastHeight are the smallest screen that is drawn; a smaller
	// one is cut off.
	leastWidth, leastHeight = 40, 8
	// roomy is the width from which the process has a column.
	roomy = 76
	// wide is the width from which columns for names of the policy are longer.
	wide = 110
)

// View returns the screen, lines of at most its width, as many as it is high.
func (m Model) View() string {
	lines := m.head()
	for i := m.first; i < len(m.rows) && i < m.first+m.space(); i++ {
		lines = append(lines, m.line(&m.rows[i], i == m.chosen))
	}
	foot := m.foot()
	for len(lines)+len(foot) < m.height {
		lines = append(lines, "")
	}
	lines = append(lines[:max(min(len(lines), m.height-len(foot)), 0)], foot...)
	return strings.Join(lines[:min(len(lines), max(m.height, 0))], "\n")
}

// Once returns what the screen shows, with all rows and without what keys are for.
func (m Model) Once() string {
	m.height = max(leastHeight, 4*len(m.status.Uplinks)) // room for every uplink
	m.chosen = -1
	lines := m.head()
	for i := range m.rows {
		lines = append(lines, m.line(&m.rows[i], false))
	}
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// space is how many flows fit on the screen.
func (m Model) space() int { return max(m.height-len(m.head())-len(m.foot()), 1) }

// head is what stands above the flows.
func (m Model) head() []string {
	s := &m.status
	title := "netpolicy"
	if m.known {
		doing := "enforcing"
		if s.Mode != "enforce" {
			doing = "observing only"
		}
		title = fmt.Sprintf("netpolicy  %s  %s  %s  policy %s", s.State, doing, s.Now.Format(time.TimeOnly), s.Policy.Hash)
	}
	if m.paused {
		title += "  PAUSED"
	}
	lines := []string{m.paint(bold, m.fit(title))}
	if s.Enforcement != "" {
		lines = append(lines, m.paint(red, m.fit("not enforced: "+s.Enforcement)))
	}
	shown := min(len(s.Uplinks), max(m.height/4, 1))
	for i := range s.Uplinks[:shown] {
		lines = append(lines, m.uplink(&s.Uplinks[i]))
	}
	if more := len(s.Uplinks) - shown; more > 0 {
		lines = append(lines, m.fit(fmt.Sprintf("  and %d more uplinks", more)))
	}
	list := fmt.Sprintf("%d flows by %s", m.total, api.Orders[m.order])
	if m.match != "" {
		list = fmt.Sprintf("%d of %d flows with %q by %s", m.matched, m.total, m.match, api.Orders[m.order])
	}
	return append(lines, m.fit(list), m.paint(reverse, m.header()))
}

func (m Model) uplink(u *api.Uplink) string {
	text := fmt.Sprintf("  %s %s %s", column(u.Name, 12), column(u.Dev, 10), column(u.State, 8))
	switch {
	case !u.Up && !u.Unknown:
		text += "  link down"
	case u.RTTms >= 0:
		text += fmt.Sprintf("  %7.1f ms", u.RTTms)
	default:
		text += "  not measured"
	}
	if u.Loss > 0 {
		text += fmt.Sprintf("  loss %.3g%%", u.Loss*100)
	}
	if u.Why != "" && u.State != "NORMAL" {
		text += "  " + u.Why
	}
	text = m.fit(text)
	switch u.State {
	case "FAILOVER":
		return m.paint(red, text)
	case "DEGRADED", "RECOVERY":
		return m.paint(yellow, text)
	default:
		return text
	}
}

// columns are the widths of the columns; a process of 0 has none.
type columns struct{ name, process, route, rtt, rate, rule int }

func (m Model) columns() columns {
	c := columns{route: 8, rtt: 6, rate: 7, rule: 10}
	if m.width >= roomy {
		c.process, c.route, c.rule = 10, 10, 12
	}
	if m.width >= wide {
		c.process, c.route, c.rule = 15, 15, 24
	}
	taken := 1 + c.route + c.rtt + 2*c.rate + c.rule + 5
	if c.process > 0 {
		taken += c.process + 1
	}
	c.name = max(m.width-taken, 8)
	return c
}

func (c columns) join(name, process, route, rtt, up, down, rule string) string {
	parts := []string{column(name, c.name)}
	if c.process > 0 {
		parts = append(parts, column(process, c.process))
	}
	parts = append(parts, column(route, c.route), right(rtt, c.rtt), right(up, c.rate), right(down, c.rate), column(rule, c.rule))
	return strings.Join(parts, " ")
}

func (m Model) header() string {
	return m.fit(" " + m.columns().join("NAME", "PROCESS", "ROUTE", "RTT", "UP/s", "DOWN/s", "RULE"))
}

func (m Model) line(r *row, chosen bool) string {
	rtt := "-"
	if r.rtt >= 0 {
		rtt = fmt.Sprintf("%.3g", r.rtt)
		if r.rtt >= 100 {
			rtt = fmt.Sprintf("%.0f", r.rtt)
		}
	}
	route := r.route
	if r.pinned {
		route += "*" // it stays there; new flows are given another one
	}
	process := r.process
	if process == "" {
		process = "-"
	}
	text := m.columns().join(r.name, process, route, rtt, amount(r.up), amount(r.down), r.rule)
	switch {
	case chosen:
		return m.paint(reverse, m.fit(">"+text))
	case r.blocked:
		return m.paint(red, m.fit(" "+text))
	default:
		return m.fit(" " + text)
	}
}

// foot is what stands below the flows: why, what is wrong, the keys.
func (m Model) foot() []string {
	var lines []string
	if m.why != nil {
		room := max(m.height/3, 2)
		for _, w := range m.why {
			for _, part := range strings.Split(ansi.Wrap(plain(w), max(m.width-2, 8), " "), "\n") {
				if len(lines) < room {
					lines = append(lines, m.fit("  "+part))
				}
			}
		}
	}
	switch {
	case m.err != "":
		lines = append(lines, m.paint(red, m.fit("error: "+m.err)))
	case m.typing:
		lines = append(lines, m.fit("filter: "+m.typed+"_  (enter: use, esc: leave)"))
	case m.why != nil:
		lines = append(lines, m.fit("q quit  esc close  up/down choose  enter why"))
	default:
		lines = append(lines, m.fit("q quit  s sort  / filter  p pause  enter why  up/down choose"))
	}
	return lines
}

// amount spells a number in at most four digits and a unit of thousands.
func amount(n uint64) string {
	if n == 0 {
		return "-"
	}
	v, unit := float64(n), ""
	for _, next := range []string{"k", "M", "G", "T", "P", "E"} {
		if v < 999.5 {
			break
		}
		v, unit = v/1000, next
	}
	if unit == "" || v >= 99.95 {
		return fmt.Sprintf("%.0f%s", v, unit)
	}
	return fmt.Sprintf("%.1f%s", v, unit)
}

// fit returns the text in exactly the screen's width.
func (m Model) fit(text string) string { return column(text, max(m.width, leastWidth)) }

// column returns the text in exactly width cells, cut with a tilde where it is longer.
func column(text string, width int) string {
	text = ansi.Truncate(plain(text), width, "~")
	return text + strings.Repeat(" ", max(width-ansi.StringWidth(text), 0))
}

func right(text string, width int) string {
	text = ansi.Truncate(plain(text), width, "~")
	return strings.Repeat(" ", max(width-ansi.StringWidth(text), 0)) + text
}

// plain keeps what others named (a process, a reason) from speaking to the terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// Styles, as parameters of SGR (ECMA-48, 8.3.117).
const (
	bold    = "1"
	reverse = "7"
	red     = "31"
	yellow  = "33"
)

func (m Model) paint(style, text string) string {
	if !m.color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[m"
}
