package flow_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
)

// TestHashEqualsKernel sends UDP packets over the loopback of a network
// namespace of its own, lets nftables hash them into a set, and compares.
func TestHashEqualsKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft: ", err)
	}
	// The thread is never unlocked: it ends with the test, and the namespace with it.
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Skip("no network namespace: ", err)
	}
	t.Cleanup(func() { ns.Close() })

	const mod = 1<<31 - 1 // as fine as the kernel's modulus goes, almost
	command(t, "", "ip", "link", "set", "lo", "up")
	command(t, "", "ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo")
	command(t, "", "ip", "-6", "route", "add", "local", "2001:db8::/32", "dev", "lo")
	command(t, fmt.Sprintf(`table inet npflow {
	set v4 { type ipv4_addr . ipv4_addr . inet_service . inet_service . mark; flags dynamic; size 4096; }
	set v6 { type ipv6_addr . ipv6_addr . inet_service . inet_service . mark; flags dynamic; size 4096; }
	chain out {
		type filter hook output priority 0;
		meta l4proto udp meta nfproto ipv4 meta mark set jhash ip saddr . ip daddr . th sport . th dport mod %[1]d seed %[2]d add @v4 { ip saddr . ip daddr . udp sport . udp dport . meta mark }
		meta l4proto udp meta nfproto ipv6 meta mark set jhash ip6 saddr . ip6 daddr . th sport . th dport mod %[1]d seed %[2]d add @v6 { ip6 saddr . ip6 daddr . udp sport . udp dport . meta mark }
	}
}
`, mod, flow.HashSeed), "nft", "-f", "-")

	rng := rand.New(rand.NewPCG(3, 4))
	want := map[string]uint32{}
	for i := range 600 {
		f := randomUDP(rng, i%2 == 1)
		send(t, &f)
		want[f.String()] = flow.Bucket(flow.Hash(&f), mod)
	}
	got := map[string]uint32{}
	for _, set := range []string{"v4", "v6"} {
		readSet(t, set, got)
	}
	wrong := 0
	for text, hash := range want {
		if k, ok := got[text]; !ok || k != hash {
			wrong++
			if wrong <= 5 {
				t.Errorf("%s: ours %d, the kernel's %d (seen: %v)", text, hash, k, ok)
			}
		}
	}
	t.Logf("%d tuples, %d wrong", len(want), wrong)
}

func command(t *testing.T, stdin, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if strings.Contains(errs.String(), "No such file or directory") && name == "nft" {
			t.Skipf("the kernel lacks something here: %s", errs.String())
		}
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

func send(t *testing.T, f *flow.Flow) {
	t.Helper()
	src, _ := f.Src.Get()
	dst, _ := f.Dst.Get()
	sport, _ := f.SrcPort.Get()
	dport, _ := f.DstPort.Get()
	family := unix.AF_INET
	address := func(a netip.Addr, port uint16) unix.Sockaddr {
		if a.Is4() {
			return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
		}
		return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
	}
	if src.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if family == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, address(src, sport)); err != nil {
		t.Fatal(f, err)
	}
	if err := unix.Sendto(fd, []byte("x"), 0, address(dst, dport)); err != nil {
		t.Fatal(f, err)
	}
}

func readSet(t *testing.T, set string, into map[string]uint32) {
	t.Helper()
	var doc struct {
		Nftables []struct {
			Set struct {
				Elem []struct {
					Concat []json.RawMessage `json:"concat"`
				} `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(command(t, "", "nft", "-j", "-n", "list", "set", "inet", "npflow", set), &doc); err != nil {
		t.Fatal(err)
	}
	for _, o := range doc.Nftables {
		for _, e := range o.Set.Elem {
			var src, dst netip.Addr
			var sport, dport uint16
			var mark uint32
			for i, v := range []any{&src, &dst, &sport, &dport, &mark} {
				if err := json.Unmarshal(e.Concat[i], v); err != nil {
					t.Fatalf("element %s: %v", e.Concat, err)
				}
			}
			f := flow.Flow{
				Proto: flow.Some(flow.UDP), Src: flow.Some(src), SrcPort: flow.Some(sport), Dst: flow.Some(dst), DstPort: flow.Some(dport),
			}
			into[f.String()] = mark
		}
	}
}
