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

// Version asks a program which Xray it is: "26.3.27". It prints
// "Xray 26.3.27 (Xray, Penetrates Everything.)" and more.
func Version(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	words := strings.Fields(string(out))
	if len(words) < 2 || words[0] != "Xray" {
		return "", fmt.Errorf("%s is not Xray", binary)
	}
	return words[1], nil
}
