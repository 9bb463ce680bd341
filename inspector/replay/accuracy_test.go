package replay

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
)

// captures is the folder of real captures, outside the repository.
const captures = "../../../shared/data/pcap"

// ends is a connection without its direction: an engine that saw only the
// server's side first names the ends the other way round.
type ends [2]netip.AddrPort

func endsOf(a, b netip.AddrPort) ends {
	if b.Compare(a) < 0 {
		a, b = b, a
	}
	return ends{a, b}
}

// sni reads a capture and returns the server names by connection.
func sni(t *testing.T, file string) (map[ends][]flow.Value[string], error) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out := map[ends][]flow.Value[string]{}
	err = New(f, Options{CaptureOnly: true}).Run(t.Context(), func(e inspector.Event) {
		src, _ := e.Flow.Src.Get()
		dst, _ := e.Flow.Dst.Get()
		srcPort, _ := e.Flow.SrcPort.Get()
		dstPort, _ := e.Flow.DstPort.Get()
		if e.Kind == inspector.Name {
			k := endsOf(netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort))
			out[k] = append(out[k], e.Flow.SNI)
		}
	})
	return out, err
}

// TestAccuracy compares the names with those of expected.tsv, made by another
// engine. Every difference must be listed, with its cause, in the document.
func TestAccuracy(t *testing.T) {
	table, err := os.Open(filepath.Join(captures, "expected.tsv"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no captures in", captures)
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = table.Close() }()
	doc, err := os.ReadFile("../../docs/inspector-accuracy.md")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]map[ends][]flow.Value[string]{}
	told := map[string]map[ends][]string{} // by the other engine
	right, total := map[string]int{}, map[string]int{}
	quic := map[string]bool{} // captures: whether all is right so far
	for scan := bufio.NewScanner(table); scan.Scan(); {
		row := strings.Split(scan.Text(), "\t")
		if len(row) < 5 || row[1] != "TLS" && row[1] != "QUIC" {
			t.Fatalf("row %q", row)
		}
		file, kind := row[0], row[1]
		total[kind]++
		if files[file] == nil {
			if files[file], err = sni(t, filepath.Join(captures, file)); err != nil && !errors.Is(err, ErrCut) {
				t.Errorf("%s: %v", file, err)
			}
		}
		want, _ := flow.CanonicalName(row[4])
		k := endsOf(netip.MustParseAddrPort(row[2]), netip.MustParseAddrPort(row[3]))
		if told[file] == nil {
			told[file] = map[ends][]string{}
		}
		told[file][k] = append(told[file][k], want)
		got := files[file][k]
		if _, seen := quic[file]; kind == "QUIC" && !seen {
			quic[file] = true
		}
		if want != "" && slices.Contains(got, flow.Some(want)) {
			right[kind]++
			continue
		}
		if kind == "QUIC" {
			quic[file] = false
		}
		line := fmt.Sprintf("| %s | %s > %s | %s |", file, row[2], row[3], row[4])
		t.Logf("different: %s %v", line, got)
		if !strings.Contains(string(doc), line) {
			t.Errorf("not in docs/inspector-accuracy.md: %s", line)
		}
	}
	for file, rows := range told {
		for k, names := range rows {
			for _, v := range files[file][k] {
				if name, ok := v.Get(); ok && !slices.Contains(names, name) {
					t.Errorf("%s: %v is said to be for %s, which no row says", file, k, name)
				}
			}
		}
	}
	whole := 0
	for _, all := range quic {
		if all {
			whole++
		}
	}
	t.Logf("QUIC captures: %d of %d fully right", whole, len(quic))
	for _, kind := range []string{"TLS", "QUIC"} {
		t.Logf("%s names: %d/%d right", kind, right[kind], total[kind])
		if sum := fmt.Sprintf("%s: %d of %d rows", kind, right[kind], total[kind]); !strings.Contains(string(doc), sum) {
			t.Errorf("docs/inspector-accuracy.md does not say %q", sum)
		}
	}
}
