package lists_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/rules"
	"netpolicy.dev/netpolicy/rules/lists"
)

// memory is a folder of files.
type memory map[string]string

func (m memory) Open(name string) ([]byte, error) {
	s, ok := m[name]
	if !ok {
		return nil, os.ErrNotExist
	}
	return []byte(s), nil
}

func (m memory) Names() ([]string, error) {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	return names, nil
}

// domainList reads the v2fly community lists.
func domainList(t testing.TB) memory {
	t.Helper()
	const dir = "../../../shared/data/domain-list"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Skipf("the community domain lists are not here: %v", err)
	}
	files := memory{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}

// TestCommunityLists reads every list of the v2fly community, all lines but two.
func TestCommunityLists(t *testing.T) {
	files := domainList(t)
	total := 0
	for name, text := range files {
		e, problems, err := lists.Parse(lists.Source{Format: lists.DLC, Data: []byte(text), Name: name, Files: files}, rules.DomainSet)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, p := range problems {
			if !strings.Contains(p.Text, "`xn--wcvs22d1m.") { // of eduhk: two names that no Punycode decodes to
				t.Errorf("%s: %s", name, p)
			}
		}
		total += len(e.Names)
	}
	t.Logf("%d lists with %d elements after includes", len(files), total)
	if len(files) < 1000 || total < 50_000 {
		t.Errorf("%d lists with %d elements: fewer than there are", len(files), total)
	}
}
