package policyfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netpolicy.dev/netpolicy/internal/rulesets"
)

// tree writes files below a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const mainText = `policy 1
import "rules/web.npl"
import "site.npl"
set ads: domain = file "lists/ads.txt" format list
route direct via main
rule ads { match sni in ads; do block }
default route direct
`

func TestBundleTravels(t *testing.T) {
	from := tree(t, map[string]string{
		"new.npl": mainText, "rules/web.npl": "policy 1\nrule web { match port 81; do block }\n",
		"lists/ads.txt": "ads.example\n", "other.npl": "policy 1\n",
	})
	// What is not beside the new policy is beside the daemon's.
	to := tree(t, map[string]string{"policy.npl": "policy 1\n", "site.npl": "policy 1\nrule site { match port 82; do block }\n"})
	b, err := Gather(filepath.Join(from, "new.npl"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lists/ads.txt", "rules/web.npl"}, b.names()); diff != "" {
		t.Fatal(diff)
	}
	config := filepath.Join(to, "policy.npl")
	sent, err := b.Load(config, "", "")
	if err != nil || sent.Policy == nil {
		t.Fatal(err, sent.Diags)
	}
	if n := len(sent.Policy.Rules); n != 3 {
		t.Errorf("%d rules, want those of the three files", n)
	}
	before, err := b.Replaced(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Install(config); err != nil {
		t.Fatal(err)
	}
	after, err := b.Replaced(config)
	if err != nil || before == after {
		t.Errorf("replaced files have one checksum: %v", err)
	}
	read, err := Load(config, nil, rulesets.New(rulesets.Config{Policy: to}))
	if err != nil || read.Policy == nil || read.Policy.Hash != sent.Policy.Hash {
		t.Fatalf("from the disk it is another policy: %v, %v", err, read.Diags)
	}
	again := Of(config, read)
	if diff := cmp.Diff([]string{"lists/ads.txt", "rules/web.npl", "site.npl"}, again.names()); diff != "" {
		t.Error(diff)
	}
	delete(again.Files, "site.npl")
	if again.Digest() != b.Digest() {
		t.Error("the bundle of what was installed has another digest")
	}
	if info, err := os.Stat(config); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode of the file has changed: %v, %v", info.Mode(), err)
	}
}

func TestBundleOfAnEmptyList(t *testing.T) {
	from := tree(t, map[string]string{"p.npl": "policy 1\nset ads: domain = file \"ads.txt\" format list\nrule ads { match sni in ads; do block }\n", "ads.txt": ""})
	b, err := Gather(filepath.Join(from, "p.npl"), nil)
	if err != nil || len(b.names()) != 1 {
		t.Fatal(err, b.names())
	}
	r, err := b.Load(filepath.Join(tree(t, map[string]string{"ads.txt": "x.example\n"}), "q.npl"), "", "")
	if err != nil || r.Policy == nil {
		t.Fatal(err, r.Diags)
	}
	if n := len(r.Policy.Sets[0].Names); n != 0 {
		t.Errorf("the empty list has %d elements: it was read from the disk", n)
	}
}

func TestHostileBundle(t *testing.T) {
	config := filepath.Join(tree(t, map[string]string{"policy.npl": "policy 1\n"}), "policy.npl")
	for _, name := range []string{"../x", "/etc/x", "a/../../x", "a/../x", ".", ""} {
		b := Bundle{Name: "p.npl", Main: []byte("policy 1\n"), Files: map[string][]byte{name: nil}}
		if _, err := b.Load(config, "", ""); err == nil || !strings.Contains(err.Error(), "leads out") {
			t.Errorf("%q: %v", name, err)
		}
		if err := b.Install(config); err == nil {
			t.Errorf("%q was installed", name)
		}
	}
	b := Bundle{Name: "p.npl", Main: []byte("policy 1\n"), Files: map[string][]byte{"big": make([]byte, MaxBundle)}}
	if _, err := b.Load(config, "", ""); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
	b = Bundle{Name: "p.yaml", Main: []byte("version: 1\n")}
	if _, err := b.Load(config, "", ""); err == nil || !strings.Contains(err.Error(), "netpolicy convert") {
		t.Error(err)
	}
}

// TestInstallBehindALink: the link stays, and what it names is replaced.
func TestInstallBehindALink(t *testing.T) {
	dir := tree(t, map[string]string{"data/policy.npl": "policy 1\n"})
	config := filepath.Join(dir, "policy.npl")
	if err := os.Symlink("data/policy.npl", config); err != nil {
		t.Skip(err)
	}
	b := Bundle{Name: "p.npl", Main: []byte("policy 1\n# new\n")}
	if err := b.Installable(config); err != nil {
		t.Fatal(err)
	}
	if err := b.Install(config); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "data/policy.npl")); err != nil || string(text) != string(b.Main) {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Lstat(config); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
}
