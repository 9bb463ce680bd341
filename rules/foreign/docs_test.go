package foreign

import (
	"os"
	"strings"
	"testing"
)

// TestComingFrom checks the policies of docs/coming-from.md, each on its own.
func TestComingFrom(t *testing.T) {
	const file = "../../docs/coming-from.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(page), "```npl policy\n")
	if len(parts) != 6 {
		t.Errorf("%s: %d policies, want one for each of five programs", file, len(parts)-1)
	}
	for _, part := range parts[1:] {
		policy, _, closed := strings.Cut(part, "\n```")
		if !closed {
			t.Errorf("%s: a block is not closed", file)
		}
		checkClean(t, file, []byte(policy+"\n"))
	}
}
