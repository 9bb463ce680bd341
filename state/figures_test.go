package state

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the measured figures into docs/states.md")

const (
	docPath  = "../docs/states.md"
	docBegin = "<!-- figures: written by go test ./state -run Figures -update -->\n"
	docEnd   = "<!-- end of figures -->\n"
)

// downThenGood is the seconds from entering FAILOVER to NORMAL again, for
// failures that follow each other as soon as the line is NORMAL.
func downThenGood(t *testing.T, failures int, answers ...int) []string {
	l := drive(t, oneUplink())
	l.rounds(20, 10)
	var out []string
	for range failures {
		l.until(Failover, answers...)
		entered := l.m.uplinks[0].since
		l.until(Normal, 10)
		out = append(out, fmt.Sprint(int((l.m.uplinks[0].since-entered)/sec)))
	}
	return out
}

// figures measures what docs/states.md promises, as a table.
func figures(t *testing.T) string {
	var b strings.Builder
	row := func(what, value string) { fmt.Fprintf(&b, "| %s | %s |\n", what, value) }
	b.WriteString("| measured | value |\n|---|---|\n")
	rounds := func(answers ...int) string {
		l := drive(t, oneUplink())
		l.rounds(20, 10)
		return fmt.Sprintf("%d rounds", l.until(Failover, answers...))
	}
	row("a dead line is in FAILOVER after", rounds(lost))
	row("a slow line (400 ms) is in FAILOVER after", rounds(400))
	row("NORMAL again after back-to-back dead spells", strings.Join(downThenGood(t, 3, lost), ", ")+" s")
	row("NORMAL again after back-to-back slow spells", strings.Join(downThenGood(t, 2, 400), ", ")+" s")

	l := drive(t, oneUplink())
	l.rounds(20, 10).rounds(600, lost)
	row("RECOVERY after an outage of ten minutes, from the first answer", fmt.Sprintf("%d rounds", l.until(Recovery, 10)))
	row("and NORMAL after", fmt.Sprintf("%d rounds more", l.until(Normal, 10)))
	l = drive(t, oneUplink())
	l.rounds(20, 10).rounds(600, 400)
	row("RECOVERY after ten slow minutes, from the first fast answer", fmt.Sprintf("%d rounds", l.until(Recovery, 10)))

	w := walk(t)
	row("exhaustive walk, reduced parameters: states", fmt.Sprint(w.states))
	row("… illegal edges", "0")
	row("… NORMAL with good input within", fmt.Sprintf("%d ticks", w.toNormal))
	row("… FAILOVER with dead input within", fmt.Sprintf("%d ticks", w.toFailover))
	slow, dead := searchFlapping(bad), searchFlapping(dead)
	row("worst periodic slow input: transitions an hour", fmt.Sprintf("%d (%d bad, %d good)", slow.transitions, slow.bad, slow.good))
	row("worst periodic dead input: transitions an hour", fmt.Sprintf("%d (%d dead, %d good)", dead.transitions, dead.bad, dead.good))
	row("a plain threshold machine", fmt.Sprint(slow.plain))
	return b.String()
}

// TestFigures keeps the doc's table true: -update writes it.
func TestFigures(t *testing.T) {
	got := figures(t)
	doc, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(doc), docBegin)
	old, tail, ok2 := strings.Cut(rest, docEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the figures", docPath)
	}
	if old == got {
		return
	}
	if !*update {
		t.Fatalf("%s does not say what is measured; run with -update.\n--- doc\n%s--- measured\n%s", docPath, old, got)
	}
	if err := os.WriteFile(docPath, []byte(head+docBegin+got+docEnd+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
