package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/cli"
)

// runLists runs the command and returns its exit code and what it wrote.
func runLists(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errs)
	code = cli.Run(t.Context(), root, append([]string{"lists"}, args...))
	return code, out.String(), errs.String()
}

// TestListsShowBinary prints what other tools have written.
func TestListsShowBinary(t *testing.T) {
	const dir = "../../rules/lists/testdata/"
	_, text, _ := runLists(t, "show", dir+"sing-box.json")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--select", "cn", dir + "geosite.dat"}, ".cn.example\n"},
		{[]string{"--select", "VIDEO@ads", dir + "geosite.dat"}, "a.example\n"},
		{[]string{"--select", "cn", dir + "geoip.dat"}, "192.0.2.0/24\n"},
		{[]string{dir + "sing-box-v1.srs"}, text},
		{[]string{dir + "sing-box-v5.srs"}, text},
	} {
		code, out, errs := runLists(t, append([]string{"show"}, c.args...)...)
		if code != 0 || out != c.want || out == "" {
			t.Errorf("%q: code %d, output %q, want %q\n%s", c.args, code, out, c.want, errs)
		}
	}
}

// TestListsShowTerminal: an element can't move the cursor.
func TestListsShowTerminal(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.txt")
	if err := os.WriteFile(name, []byte("/bin/\x1b[2Jx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := runLists(t, "show", "--type", "process", name); out != "/bin/\ufffd[2Jx\n" {
		t.Errorf("printed %q", out)
	}
	if _, out, _ := runLists(t, "show", "-o", "json", "--type", "process", name); !strings.Contains(out, `"globs":["/bin/\u001b[2Jx"]`) {
		t.Errorf("printed %q", out)
	}
}

func TestListsFetch(t *testing.T) {
	body := "a.example\nb.example\nnot a name\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
	defer server.Close()
	args := []string{"fetch", "--cache", filepath.Join(t.TempDir(), "new", "cache"), "--url", server.URL + "/ads.txt", "--format", "list", "--type", "domain"}
	step := func(wantCode int, wantOut, wantErr string, more ...string) {
		t.Helper()
		code, out, errs := runLists(t, append(args, more...)...)
		if code != wantCode || out != wantOut || !strings.HasPrefix(errs, wantErr) || wantErr == "" && errs != "" {
			t.Errorf("code %d, output %q, errors %q", code, out, errs)
		}
	}
	step(0, "changed, 2 elements\n", server.URL+"/ads.txt: line 3: not a name")
	step(0, "unchanged, 2 elements\n", server.URL+"/ads.txt: line 3: not a name")
	body = "c.example\n"
	step(0, "changed, 1 element\n", "")
	body = "<html>"
	step(1, "", "error: fetch list "+server.URL+"/ads.txt: a web page, not a list")
	body = "d.example\n"
	step(1, "", "error: fetch list "+server.URL+"/ads.txt: its SHA-256 is ", "--sha256", strings.Repeat("0", 64))
	step(2, "", "error: --type asn: ", "--type", "asn")
	server.Close()
	step(1, "", "error: fetch list "+server.URL+"/ads.txt: dial tcp ")
}

// TestRulesetsDoc runs the session in docs/rulesets.md: `cat` shows a file that
// the next commands read.
func TestRulesetsDoc(t *testing.T) {
	doc, err := os.ReadFile("../../docs/rulesets.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(doc, []byte("\n")); n > 80 {
		t.Errorf("%d lines", n)
	}
	t.Chdir(t.TempDir())
	_, session, _ := strings.Cut(string(doc), "```\n$ ")
	session, _, _ = strings.Cut(session, "```")
	ran := 0
	for step := range strings.SplitSeq(session, "\n$ ") {
		command, output, _ := strings.Cut(strings.TrimSuffix(step, "\n"), "\n")
		if name, ok := strings.CutPrefix(command, "cat "); ok {
			if err := os.WriteFile(name, []byte(output+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		args := strings.Fields(command)
		_, stdout, stderr := runLists(t, args[2:]...)
		if got := strings.TrimSuffix(stdout+stderr, "\n"); args[0] != "netpolicy" || args[1] != "lists" || got != output {
			t.Errorf("%s: %s, the page has %s", command, got, output)
		}
		ran++
	}
	if ran != 2 {
		t.Errorf("%d commands", ran)
	}
}
