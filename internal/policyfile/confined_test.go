package policyfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/rules/load"
)

const secretText = "s3cr3t:$6$hash:20228:0\n"

// TestConfined: a policy gets what was sent, what is in force, and what stands below its
// folder, and tells nothing of what any other file says.
func TestConfined(t *testing.T) {
	outside := tree(t, map[string]string{
		"shadow": secretText, "common.npl": "policy 1\nrule common { match port 90; do block }\n", "hosts.txt": "old.example\n",
	})
	dir := tree(t, map[string]string{
		"policy.npl": "policy 1\n", "more/local.npl": "policy 1\nrule local { match port 91; do block }\n", "links.txt": secretText, "lists/ads.txt": "ads.example\n",
	})
	config := filepath.Join(dir, "policy.npl")
	for name, target := range map[string]string{"out.npl": filepath.Join(outside, "shadow"), "folder": outside, "in.npl": "more/local.npl", "out.txt": filepath.Join(outside, "shadow")} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "empty.npl"), 0o700); err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("policy 1\nimport %q\nset old: domain = file %q format list\nrule old { match sni in old; do block }\n", filepath.Join(outside, "common.npl"), filepath.Join(outside, "hosts.txt"))
	first := Bundle{Name: config, Main: []byte(base)}
	now, err := first.Load(config, "", "")
	if err != nil || now.Policy == nil {
		t.Fatal(err, now.Diags)
	}
	try := func(text string, files map[string][]byte) load.Result {
		t.Helper()
		b := Bundle{Name: "sent.npl", Main: []byte("policy 1\n" + text), Files: files}
		r, err := b.LoadConfined(config, "", "", now.Policy)
		if err != nil {
			t.Fatal(err)
		}
		if told := fmt.Sprint(r.Diags); strings.Contains(told, "s3cr3t") || strings.Contains(told, "20228") {
			t.Errorf("%s tells the secret: %s", text, told)
		}
		return r
	}
	list := func(name string) string {
		return fmt.Sprintf("set s: domain = file %q format list\nrule s { match sni in s; do block }\n", name)
	}
	for text, rules := range map[string]int{
		strings.TrimPrefix(base, "policy 1\n"):                              2,
		`import "more/local.npl"` + "\n":                                    1,
		`import "in.npl"` + "\n":                                            1,
		`import "` + filepath.Join(dir, "more/local.npl") + `"` + "\n":      1,
		list("lists/ads.txt"):                                               1,
		"rule own { match port 92; do block }\nimport \"more/../in.npl\"\n": 2,
	} {
		if r := try(text, nil); r.Policy == nil || len(r.Policy.Rules) != rules {
			t.Errorf("%s: %v", text, r.Diags)
		}
	}
	if r := try("import \"sent/x.npl\"\n", map[string][]byte{"sent/x.npl": []byte("policy 1\nrule x { match prt 1; do block }\n")}); r.Policy != nil || !strings.Contains(r.Diags[0].Message, "prt") {
		t.Errorf("what was sent is told of: %v", r.Diags)
	}
	for _, name := range []string{filepath.Join(outside, "shadow"), "/etc/passwd", "out.npl", "folder/common.npl", "folder/shadow", "../../etc/passwd", "links.txt", "empty.npl", "more/none.npl", "/dev/null"} {
		if r := try(fmt.Sprintf("import %q\n", name), nil); r.Policy != nil {
			t.Errorf("%s was imported", name)
		}
	}
	for _, name := range []string{filepath.Join(outside, "shadow"), "/etc/passwd", "out.txt", "folder/hosts.txt", "../x/hosts.txt", "links.txt", "/dev/zero"} {
		if r := try(list(name), nil); r.Policy != nil && len(r.Policy.Sets[0].Elements.Names) > 0 || len(r.Diags) == 0 {
			t.Errorf("the list %s was read: %v", name, r.Diags)
		}
	}
}
