package lab

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// TestMismatch: a connection that leaves by another uplink than its decision
// says fails the run. Here somebody else's nft table takes the marks away.
func TestMismatch(t *testing.T) {
	newLab(t, Options{}) // skips where none can be built
	script, err := ParseScript("f", []byte("main wan2\nconnect us01.zoom.us:443 tls\nconnect us01.zoom.us:443 tls"))
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Main: script.Main, Daemon: filepath.Join(binaries(t), "netpolicyd")}
	r, err := newRun(t.Context(), opts, NewPrinter(io.Discard, false), "../../examples/zoom-priority", script.Policy)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := r.do(t.Context(), script.Steps[0]); err != nil {
		t.Fatalf("before the sabotage: %v", err)
	}
	sabotage := "add table ip thief; add chain ip thief pre { type filter hook prerouting priority -149; }; add rule ip thief pre meta mark set 0"
	if _, err := r.l.Gateway(t.Context(), "nft", sabotage); err != nil {
		t.Fatal(err)
	}
	err = r.steps(t.Context(), script.Steps[1:])
	if err == nil || !strings.HasPrefix(err.Error(), "f:3: ") || !strings.Contains(err.Error(), "MISMATCH") {
		t.Errorf("after it: %v", err)
	}
}
