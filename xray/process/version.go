package process

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// versionWithin bounds asking for the version, on a slow router.
const versionWithin = 30 * time.Second

// versionDelay is how long what it has printed is waited for once it has ended.
const versionDelay = 2 * time.Second

// head keeps the first bytes that are written.
type head []byte

func (h *head) Write(b []byte) (int, error) {
	*h = append(*h, b[:min(len(b), longestLine-len(*h))]...)
	return len(b), nil
}

// Version asks a program which Xray it is: "26.3.27". It prints
// "Xray 26.3.27 (Xray, Penetrates Everything.)" and more.
func Version(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "version")
	var out head
	cmd.Stdout = &out
	cmd.WaitDelay = versionDelay // a script can leave a program that keeps our pipe
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	words := strings.Fields(string(out))
	if len(words) < 2 || words[0] != "Xray" {
		return "", fmt.Errorf("%s is not Xray", binary)
	}
	return words[1], nil
}
