//go:build amd64 || arm64

package ebpf

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// hook is a program and where it goes.
type hook struct {
	program string
	where   string
	attach  func(*loaded, *ebpf.Program) (link.Link, error)
}

// fact is what hooks tell together: all of them, or it is not served. There may be
// several ways to do so; the first that the kernel allows is taken.
type fact struct {
	name string
	ways [][]hook
}

// facts are what a source with these options could serve.
func facts(opt *Options) []fact {
	group := func(program, where string, at ebpf.AttachType) hook {
		return hook{program, where, func(l *loaded, p *ebpf.Program) (link.Link, error) { return l.attachCgroup(p, at) }}
	}
	connect := []hook{
		group(observeProgConnect4, "cgroup/connect4", ebpf.AttachCGroupInet4Connect),
		group(observeProgConnect6, "cgroup/connect6", ebpf.AttachCGroupInet6Connect),
	}
	only := func(hooks ...hook) [][]hook { return [][]hook{hooks} }
	list := []fact{
		{"connections", only(group(observeProgTcpLife, "sockops", ebpf.AttachCGroupSockOps))},
		{"programs of connections", only(connect...)},
		{factFigures, [][]hook{
			{{observeProgFigures, hookStorage, attachFigures}},
			{{observeProgFiguresUdp, hookUDP, attachRest}, {observeProgFiguresTcp, hookTCP, attachFigures}},
		}},
		{"names and DNS answers of local programs", only(
			group(observeProgLeaving, "cgroup_skb/egress", ebpf.AttachCGroupInetEgress),
			group(observeProgComing, "cgroup_skb/ingress", ebpf.AttachCGroupInetIngress),
		)},
		{"programs of UDP flows", only(
			group(observeProgMade, "cgroup/sock_create", ebpf.AttachCGroupInetSockCreate),
			group(observeProgReleased, "cgroup/sock_release", ebpf.AttachCgroupInetSockRelease),
		)},
		{factVerdicts, only(append(connect,
			group(observeProgSendmsg4, "cgroup/sendmsg4", ebpf.AttachCGroupUDP4Sendmsg),
			group(observeProgSendmsg6, "cgroup/sendmsg6", ebpf.AttachCGroupUDP6Sendmsg),
		)...)},
	}
	for _, name := range opt.Ifaces {
		list = append(list, fact{"names and DNS answers of forwarded connections", only(hook{
			observeProgForwarded, "tcx/ingress on " + name,
			func(_ *loaded, p *ebpf.Program) (link.Link, error) { return attachInterface(p, name) },
		})})
	}
	return list
}

const (
	factFigures  = "round-trip times, retransmits, bytes"
	factVerdicts = "verdicts when programs connect"
)

// The hooks of figures. The first visits the connections that are known; where a
// kernel refuses it the others visit all sockets of the network namespace.
const (
	hookStorage = "iter/bpf_sk_storage_map"
	hookTCP     = "iter/tcp"
	hookUDP     = "iter/udp"
)

// errWithout is why a hook of Options.without is not there.
var errWithout = errors.New("it was not to be tried")

// where names hooks, by where they go.
func where(hooks []hook) string {
	var list []string
	for _, h := range hooks {
		list = append(list, h.where)
	}
	return strings.Join(list, ", ")
}

// loaded is what is in the kernel for one Run; Close removes it.
type loaded struct {
	spec   *ebpf.CollectionSpec
	shared *ebpf.Collection // the maps
	top    string           // where control groups are
	cgroup *os.File
	iter   *link.Iter // nil: there are no figures
	rest   *link.Iter // what is read besides when all is wanted; nil: nothing
	types  *btf.Cache
	tried  map[string]error // hooks, by where they go
	held   []io.Closer
}

// load makes the maps, and the programs as far as they can be had. It fails when
// there can be none.
func load(opt *Options) (*loaded, []Feature, error) {
	l, failed := prepare(opt)
	served := false
	var list []Feature
	for _, f := range facts(opt) {
		feature := Feature{Fact: f.name, Hook: where(f.ways[0]), Err: failed}
		if failed == nil {
			feature.Hook, feature.Err = l.serve(f.ways)
		}
		served = served || feature.Err == nil
		list = append(list, feature)
	}
	l.types = nil // megabytes, of no more use
	if !served {
		l.Close()
		return nil, list, fmt.Errorf("%w: %w", ErrUnsupported, list[0].Err)
	}
	return l, list, nil
}

// prepare makes the maps. What it returns is to be closed also after an error.
func prepare(opt *Options) (l *loaded, err error) {
	l = &loaded{types: btf.NewCache(), tried: make(map[string]error)}
	for _, h := range opt.without {
		l.tried[h] = errWithout
	}
	if l.spec, err = loadObserve(); err != nil {
		return l, fmt.Errorf("read the programs: %w", err)
	}
	inum, cookie, err := namespace(opt.Proc)
	if err != nil {
		return l, err
	}
	if err := errors.Join(l.spec.Variables[observeVarNetnsInum].Set(inum), l.spec.Variables[observeVarNetnsCookie].Set(cookie)); err != nil {
		return l, fmt.Errorf("set the network namespace: %w", err)
	}
	for _, ring := range []string{observeMapEvents, observeMapCopies} {
		l.spec.Maps[ring].MaxEntries = uint32(opt.Ring)
	}
	if l.top, err = topCgroup(opt.Proc); err != nil {
		return l, err
	}
	if l.cgroup, err = os.Open(cmp.Or(opt.Cgroup, l.top)); err != nil {
		return l, fmt.Errorf("open the control group: %w", err)
	}
	none := l.spec.Copy()
	clear(none.Programs)
	if l.shared, err = ebpf.NewCollection(none); err != nil {
		return l, fmt.Errorf("make maps: %w", err)
	}
	return l, nil
}

// serve goes the first of the ways that can be gone, and returns its hooks; or all
// hooks, and why each way is closed.
func (l *loaded) serve(ways [][]hook) (hooks string, err error) {
	for i, way := range ways {
		closed := l.together(way)
		switch {
		case closed == nil:
			return where(way), nil
		case i == 0:
			hooks, err = where(way), closed
		default:
			hooks, err = hooks+" or "+where(way), fmt.Errorf("%w; %w", err, closed)
		}
	}
	return hooks, err
}

// together loads and attaches all of the hooks, or says why one of them can't be. What
// is attached stays: other facts may need it.
func (l *loaded) together(hooks []hook) error {
	for _, h := range hooks {
		err, tried := l.tried[h.where]
		if !tried {
			err = l.attach(h)
			l.tried[h.where] = err
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.where, err)
		}
	}
	return nil
}

func (l *loaded) attach(h hook) error {
	one := l.spec.Copy()
	maps.DeleteFunc(one.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return name != h.program })
	c, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: l.shared.Maps, Cache: l.types})
	if err != nil {
		return err
	}
	defer c.Close() // the link holds the program
	at, err := h.attach(l, c.Programs[h.program])
	if err != nil {
		return err
	}
	l.held = append(l.held, at)
	return nil
}

// Close removes everything from the kernel.
func (l *loaded) Close() {
	for _, x := range slices.Backward(l.held) {
		_ = x.Close()
	}
	if l.shared != nil {
		l.shared.Close()
	}
	if l.cgroup != nil {
		_ = l.cgroup.Close()
	}
}

// attachFigures attaches what lists connections, all of them or those of the map.
func attachFigures(l *loaded, p *ebpf.Program) (_ link.Link, err error) {
	l.iter, err = link.AttachIter(link.IterOptions{Program: p, Map: l.shared.Maps[observeMapConns]})
	return l.iter, err
}

// attachRest attaches what lists UDP sockets, where attachFigures does not.
func attachRest(l *loaded, p *ebpf.Program) (_ link.Link, err error) {
	l.rest, err = link.AttachIter(link.IterOptions{Program: p})
	return l.rest, err
}

// attachCgroup attaches by a link alone: other ways would outlive a crash.
func (l *loaded) attachCgroup(p *ebpf.Program, at ebpf.AttachType) (link.Link, error) {
	return link.AttachRawLink(link.RawLinkOptions{Target: int(l.cgroup.Fd()), Program: p, Attach: at})
}

func attachInterface(p *ebpf.Program, name string) (link.Link, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find the interface: %w", err)
	}
	return link.AttachTCX(link.TCXOptions{Interface: i.Index, Program: p, Attach: ebpf.AttachTCXIngress})
}

// namespace returns the two numbers of the calling thread's network namespace.
func namespace(proc string) (inum uint32, cookie uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(proc, "thread-self/ns/net"), &st); err != nil {
		return 0, 0, fmt.Errorf("find the network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
		return 0, 0, fmt.Errorf("read the network namespace's cookie (Linux 5.14): %w", err)
	}
	return uint32(st.Ino), cookie, nil
}

// maxMounts bounds the lines read of the list of mounts: a host of containers has thousands.
const maxMounts = 65536

// topCgroup finds where the version 2 control groups are mounted.
func topCgroup(proc string) (string, error) {
	f, err := os.Open(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return "", fmt.Errorf("look for control groups: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for n := 0; n < maxMounts && lines.Scan(); n++ {
		// 30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
		before, after, _ := strings.Cut(lines.Text(), " - ")
		at := strings.Fields(before)
		if strings.HasPrefix(after, "cgroup2 ") && len(at) > 4 && at[3] == "/" {
			return at[4], nil
		}
	}
	return "", errors.New("version 2 control groups are not mounted")
}
