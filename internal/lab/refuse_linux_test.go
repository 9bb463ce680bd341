package lab

import (
	"strings"
	"testing"

	"netpolicy.dev/netpolicy/internal/api"
)

// TestRefusedAtConnect: a program of the gateway that the policy blocks is told so
// by connect itself, and another one is not; status says which facts BPF serves.
func TestRefusedAtConnect(t *testing.T) {
	l, policy := daemonLab(t)
	ctx := t.Context()
	if err := WriteFile(policy, testPolicy("", "  - {name: shell, priority: 200, match: {process: bash, port: 80}, action: {block: true}}\n")); err != nil {
		t.Fatal(err)
	}
	if err := l.StartDaemon(ctx, policy); err != nil {
		t.Fatal(err)
	}
	var source api.Source
	eventually(t, "BPF observes", func() bool {
		s, err := l.API().Status(ctx)
		if err != nil {
			return false
		}
		for _, x := range s.Sources {
			if x.Name == "ebpf" {
				source = x
			}
		}
		return len(source.Facts) > 0
	})
	if source.Error != "" {
		t.Skipf("no BPF here: %s", source.Error)
	}
	for _, f := range source.Facts {
		if f.Fact == "" || f.Error != "" {
			t.Logf("%s by %s: %s", f.Fact, f.Hook, f.Error)
		}
	}
	try := func(port string) string {
		out, err := l.Gateway(ctx, "bash", "-c", "exec 3<>/dev/tcp/203.0.113.10/"+port)
		if err != nil {
			out += err.Error()
		}
		return out
	}
	eventually(t, "connect is refused", func() bool { return strings.Contains(try("80"), "Operation not permitted") })
	if out := try("22"); out != "" {
		t.Errorf("a port that is not blocked: %s", out)
	}
	if out, err := l.Gateway(ctx, "curl", "-s", "--max-time", "1", "-o", "/dev/null", "telnet://203.0.113.10:80"); err != nil && strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("another program: %s, %v", out, err)
	}
	if err := l.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	if out := try("80"); strings.Contains(out, "not permitted") {
		t.Errorf("after the daemon's end: %s", out)
	}
}
