package seccomp

import (
	"encoding/binary"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
)

// numbers reads the constants of golang.org/x/sys, which are made from the kernel's headers.
func numbers(t *testing.T, goarch string) map[string]int {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.org/x/sys/unix").Output()
	if err != nil {
		t.Skip("the go command does not find golang.org/x/sys:", err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "zsysnum_linux_"+goarch+".go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok {
			nr, err := strconv.Atoi(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			out[strings.ToLower(strings.TrimPrefix(v.Names[0].Name, "SYS_"))] = nr
		}
		return true
	})
	return out
}

func TestNumbers(t *testing.T) {
	for goarch, a := range arches {
		want := numbers(t, goarch)
		if len(want) < 300 {
			t.Fatalf("%s: only %d numbers read", goarch, len(want))
		}
		for _, c := range append(slices.Clone(allowed), clone, clone3, socket, socketpair) {
			n, ok := want[c.name]
			if !ok {
				n = none
			}
			if a.nr(c) != n {
				t.Errorf("%s: %s has number %d, want %d", goarch, c.name, a.nr(c), n)
			}
		}
	}
}

// verdict runs the filter as the kernel would.
func verdict(t *testing.T, goarch string, mode Mode, audit uint32, nr int, arg0 uint64, more ...Group) int {
	t.Helper()
	program, err := Program(goarch, mode, more...)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel loads words as they lie in memory; this machine for packets loads
	// them big-endian, and so are they laid here.
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNumber:], uint32(nr))
	binary.BigEndian.PutUint32(data[offArch:], audit)
	binary.BigEndian.PutUint32(data[offArg0:], uint32(arg0))
	binary.BigEndian.PutUint32(data[offArg0+4:], uint32(arg0>>32))
	out, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestVerdicts(t *testing.T) {
	const (
		allow, refuse, absent = retAllow, retErrno | eperm, retErrno | enosys
	)
	listed := map[string]bool{}
	for _, c := range allowed {
		listed[c.name] = true
	}
	special := []string{"clone", "clone3", "socket", "socketpair"}
	for goarch, a := range arches {
		all := numbers(t, goarch)
		for name, nr := range all {
			if slices.Contains(special, name) {
				continue
			}
			want := refuse
			switch {
			case listed[name]:
				want = allow
			case nr >= firstNew:
				want = absent
			}
			if got := verdict(t, goarch, On, a.audit, nr, 0); got != want {
				t.Errorf("%s: %s: %#x, want %#x", goarch, name, got, want)
			}
			if want != allow {
				want = retLog
			}
			if got := verdict(t, goarch, Log, a.audit, nr, 0); got != want {
				t.Errorf("%s: %s in mode log: %#x, want %#x", goarch, name, got, want)
			}
		}
		// What an attacker would want is in none of the lists.
		for _, name := range []string{
			"ptrace", "mount", "umount2", "move_mount", "fsopen", "pivot_root", "chroot", "kexec_load", "kexec_file_load", "init_module",
			"finit_module", "delete_module", "reboot", "swapon", "setns", "unshare", "keyctl", "add_key", "process_vm_readv",
			"process_vm_writev", "perf_event_open", "userfaultfd", "io_uring_setup", "open_by_handle_at", "setuid", "setresuid",
			"capset", "sethostname", "settimeofday", "clock_settime", "acct", "mknodat", "memfd_create", "personality", "seccomp",
		} {
			nr, ok := all[name]
			if !ok {
				t.Errorf("%s: no number of %s", goarch, name)
			} else if verdict(t, goarch, On, a.audit, nr, 0) == allow {
				t.Errorf("%s: %s is allowed", goarch, name)
			}
		}
		for _, c := range []struct {
			name string
			arg0 uint64
			want int
		}{
			{"socket", 2, allow},
			{"socket", 17, allow},
			{"socket", 16, allow},
			{"socket", 38, refuse}, // AF_ALG
			{"socket", 40, refuse}, // AF_VSOCK
			{"socketpair", 1, allow},
			{"socketpair", 31, refuse},
			{"clone", 0x3d0f00, allow},               // a thread
			{"clone", 0x4111, allow},                 // vfork with CLONE_VM and SIGCHLD
			{"clone", 0x10000000 | 0x11, refuse},     // CLONE_NEWUSER
			{"clone", 0x00020000, refuse},            // CLONE_NEWNS
			{"clone", 0x40000000 | 0x3d0f00, refuse}, // CLONE_NEWNET
			{"clone3", 0, absent},
		} {
			if got := verdict(t, goarch, On, a.audit, all[c.name], c.arg0); got != c.want {
				t.Errorf("%s: %s(%#x): %#x, want %#x", goarch, c.name, c.arg0, got, c.want)
			}
		}
		if got := verdict(t, goarch, On, 0x40000003, 4, 0); got != refuse {
			t.Errorf("%s: i386's write: %#x", goarch, got)
		}
	}
	if got := verdict(t, "amd64", On, 0xc000003e, x32Bit|1, 0); got != refuse {
		t.Errorf("x32's write: %#x", got)
	}
}

func TestMode(t *testing.T) {
	for _, m := range []Mode{Off, Log, On} {
		if got, err := ParseMode(m.String()); err != nil || got != m {
			t.Errorf("ParseMode(%q) = %v, %v", m, got, err)
		}
	}
	if _, err := ParseMode("yes"); err == nil {
		t.Error(`ParseMode("yes") is no error`)
	}
}

// A classic BPF program has at most 4096 instructions (BPF_MAXINSNS).
func TestLength(t *testing.T) {
	for goarch := range arches {
		p, err := Program(goarch, On)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d calls in %d runs, %d instructions", goarch, len(allowed), len(spans(arches[goarch], nil)), len(p))
		if len(p) > 4096 {
			t.Errorf("%s: %d instructions", goarch, len(p))
		}
	}
}

// TestGroup: what a group is for passes with it, and not without.
func TestGroup(t *testing.T) {
	for goarch, a := range arches {
		for _, c := range ChangeUser {
			if got := verdict(t, goarch, On, a.audit, a.nr(c), 0); got == retAllow {
				t.Errorf("%s: %s is allowed", goarch, c.name)
			}
			if got := verdict(t, goarch, On, a.audit, a.nr(c), 0, ChangeUser); got != retAllow {
				t.Errorf("%s: %s: %#x", goarch, c.name, got)
			}
		}
	}
}
