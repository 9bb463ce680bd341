package doctor

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/actions"
	"netpolicy.dev/netpolicy/actions/host"
	"netpolicy.dev/netpolicy/actions/iproute"
)

// What is read is bounded: a machine with the table of the whole internet, or with
// a process that forks without end, is looked at all the same.
const (
	maxRoutes    = 4 << 20 // entries; the internet has about 1.3 million
	maxForeign   = 4       // routes of others that are shown of each table
	maxTables    = 4096
	maxIPRules   = 65536
	maxProcesses = 65536
	maxSmallFile = 64 << 10 // a sysctl, a status, a setting
	maxSaved     = 32 << 20 // what iptables-legacy-save prints
	saveTime     = 20 * time.Second
)

// Options say what to look at.
type Options struct {
	StateDir string // whose ledger tells what is netpolicy's own
	// Try finds the kernel's features by using them in a network namespace that is
	// thrown away afterwards. The kernel may load modules for it. Otherwise, and
	// where no namespace can be made, the kernel's configuration is read.
	Try bool
}

// Look gathers the facts of this machine and network namespace. It changes
// nothing there, but for modules, see Options.Try. What can't be read is in NotKnown.
func Look(ctx context.Context, o Options) Facts {
	var f Facts
	lack := func(what string, err error) {
		if err != nil {
			f.NotKnown = append(f.NotKnown, NotKnown{what, err.Error()})
		}
	}
	f.Kernel = release()
	lack("capabilities of this process", readUser(&f))
	f.Features = features(f.Kernel, o.Try)
	readConflicts(ctx, &f, o.StateDir, lack)
	lack(WhatQdiscs, readQdiscs(&f))
	readSysctls(&f)
	lack(WhatProcess, readProcesses(&f))
	f.UFW = setting("/etc/ufw/ufw.conf", "ENABLED") == "yes"
	f.ForeignRules, f.ForeignRoutes = networkd("ManageForeignRoutingPolicyRules"), networkd("ManageForeignRoutes")
	return f
}

// Conflicts returns the errors among the conflicts, for a daemon that is about to
// start. It is Look and Diagnose for them alone.
func Conflicts(ctx context.Context, stateDir string, w Want) []Finding {
	var f Facts
	readConflicts(ctx, &f, stateDir, func(what string, err error) {
		if err != nil {
			f.NotKnown = append(f.NotKnown, NotKnown{what, err.Error()})
		}
	})
	r := &report{want: &w}
	r.conflicts(&f)
	return slices.DeleteFunc(r.list, func(f Finding) bool { return f.Severity != Error })
}

// readConflicts reads what others may have that netpolicy uses.
func readConflicts(ctx context.Context, f *Facts, stateDir string, lack func(string, error)) {
	lack(WhatLinks, readLinks(f))
	lack(WhatLedger, readOwn(f, stateDir))
	lack(WhatRules, readRules(f))
	lack(WhatRoutes, readRoutes(ctx, f))
	lack(WhatNft, readNft(f))
	lack(WhatLegacy, readLegacy(ctx, f))
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// small reads a file that is short unless something is wrong.
func small(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSmallFile))
}

func readUser(f *Facts) error {
	f.User.UID = uint32(os.Geteuid())
	b, err := small("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			f.User.Caps, err = strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err
		}
	}
	return errors.New("/proc/self/status does not tell")
}

func readLinks(f *Facts) error {
	a, err := iproute.New()
	if err != nil {
		return err
	}
	defer a.Close()
	f.Host, err = a.ReadHost()
	return err
}

func readOwn(f *Facts, dir string) error {
	own, err := host.ReadOwned(dir)
	f.Own = Own{Known: err == nil, Folder: dir, Table: own.Table, Chains: own.Chains, Rules: own.Rules, Routes: own.Routes}
	return err
}

var bothFamilies = []struct {
	number int
	family actions.Family
}{{unix.AF_INET, actions.IPv4}, {unix.AF_INET6, actions.IPv6}}

func readRules(f *Facts) error {
	for _, fam := range bothFamilies {
		list, err := netlink.RuleList(fam.number)
		if err != nil {
			return err
		}
		if len(list) > maxIPRules {
			return fmt.Errorf("there are %d, more than are read", len(list))
		}
		for i := range list {
			f.Rules = append(f.Rules, readRule(&list[i], fam.family))
		}
	}
	return nil
}

func readRule(n *netlink.Rule, family actions.Family) Rule {
	r := Rule{Family: family, Priority: n.Priority, Mark: n.Mark, Not: n.Invert, Table: uint32(n.Table), Protocol: n.Protocol}
	if n.Mask != nil {
		r.Mask = *n.Mask
	}
	r.Marked = r.Mask != 0
	var b strings.Builder
	word := func(holds bool, format string, args ...any) bool {
		if holds {
			fmt.Fprintf(&b, " "+format, args...)
		}
		return holds
	}
	word(n.Invert, "not")
	narrow := false
	if !word(n.Src != nil, "from %v", n.Src) {
		b.WriteString(" from all")
	}
	narrow = n.Src != nil
	narrow = word(n.Dst != nil, "to %v", n.Dst) || narrow
	narrow = word(n.Tos != 0, "tos %#x", n.Tos) || narrow
	word(r.Marked, "fwmark %#x/%#x", r.Mark, r.Mask)
	narrow = word(n.IifName != "", "iif %s", n.IifName) || narrow
	narrow = word(n.OifName != "", "oif %s", n.OifName) || narrow
	if n.UIDRange != nil {
		narrow = word(true, "uidrange %d-%d", n.UIDRange.Start, n.UIDRange.End)
	}
	narrow = word(n.IPProto != 0, "ipproto %d", n.IPProto) || narrow
	if n.Sport != nil {
		narrow = word(true, "sport %d-%d", n.Sport.Start, n.Sport.End)
	}
	if n.Dport != nil {
		narrow = word(true, "dport %d-%d", n.Dport.Start, n.Dport.End)
	}
	switch {
	case n.Goto >= 0:
		word(true, "goto %d", n.Goto)
	case n.Table != 0:
		word(true, "lookup %d", n.Table)
	default:
		word(true, "no lookup")
	}
	suppressed := word(n.SuppressPrefixlen >= 0, "suppress_prefixlength %d", n.SuppressPrefixlen)
	r.Broad = !narrow && !suppressed && n.Table != 0 && (!r.Marked || n.Invert)
	r.Text = strings.TrimSpace(b.String())
	return r
}

// readRoutes counts the routes of all tables, and notes those of others.
func readRoutes(ctx context.Context, f *Facts) error {
	f.Learned = map[string]bool{}
	for _, fam := range bothFamilies {
		tables := map[uint32]*tableReader{}
		n := 0
		err := netlink.RouteListFilteredIter(fam.number, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE,
			func(r netlink.Route) bool {
				n++
				if r.Table == unix.RT_TABLE_LOCAL {
					return true
				}
				t := tables[uint32(r.Table)]
				if t == nil && len(tables) < maxTables {
					t = &tableReader{RouteTable: RouteTable{Family: fam.family, Table: uint32(r.Table)}}
					tables[t.Table] = t
				}
				if t != nil {
					t.add(&r)
				}
				if r.Protocol == unix.RTPROT_RA && r.Table == unix.RT_TABLE_MAIN && prefixLen(&r) == 0 {
					for _, l := range f.Host.Links {
						f.Learned[l.Name] = f.Learned[l.Name] || l.Index == r.LinkIndex
					}
				}
				return n < maxRoutes && ctx.Err() == nil
			})
		if err != nil {
			return err
		}
		if n >= maxRoutes || len(tables) >= maxTables {
			return fmt.Errorf("there are more than %d routes or %d tables", maxRoutes, maxTables)
		}
		for _, t := range tables {
			t.Default = t.whole || t.lower && t.upper
			f.Tables = append(f.Tables, t.RouteTable)
		}
	}
	slices.SortFunc(f.Tables, func(a, b RouteTable) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table))
	})
	return ctx.Err()
}

// tableReader adds up one table; lower and upper are the halves of a default
// route, which VPNs like.
type tableReader struct {
	RouteTable
	whole, lower, upper bool
}

func prefixLen(r *netlink.Route) int {
	if r.Dst == nil {
		return 0
	}
	n, _ := r.Dst.Mask.Size()
	return n
}

func (t *tableReader) add(r *netlink.Route) {
	t.Routes++
	leads := r.Type == unix.RTN_UNICAST || r.Type == unix.RTN_BLACKHOLE || r.Type == unix.RTN_UNREACHABLE || r.Type == unix.RTN_PROHIBIT
	switch n := prefixLen(r); {
	case !leads:
	case n == 0:
		t.whole = true
	case n == 1 && r.Dst.IP[0] == 0, n == 3 && r.Dst.IP[0] == 0x20: // 2000::/3 is all there is of IPv6
		t.lower = true
		t.upper = t.upper || n == 3
	case n == 1:
		t.upper = true
	}
	if r.Protocol == actions.RouteProto {
		return
	}
	if t.Others++; len(t.Foreign) < maxForeign {
		dst := "default"
		if prefixLen(r) > 0 {
			dst = r.Dst.String()
		}
		text := fmt.Sprintf("%s, protocol %s", dst, r.Protocol)
		if r.Gw != nil {
			text = fmt.Sprintf("%s via %s, protocol %s", dst, r.Gw, r.Protocol)
		}
		t.Foreign = append(t.Foreign, text)
		slices.Sort(t.Foreign)
	}
}

// readLegacy reads the rules of iptables-legacy, if any table of it is in use: only
// then is its command run, which would make tables otherwise.
func readLegacy(ctx context.Context, f *Facts) error {
	ctx, cancel := context.WithTimeout(ctx, saveTime)
	defer cancel()
	for _, v := range []struct{ family, names, command string }{
		{"ip", "/proc/thread-self/net/ip_tables_names", "iptables-legacy-save"},
		{"ip6", "/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save"},
	} {
		b, err := small(v.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the kernel has none, or never was asked
		}
		if err != nil {
			return err
		}
		if len(b) == 0 {
			continue
		}
		text, err := output(ctx, v.command)
		if err != nil {
			return fmt.Errorf("tables are in use (%s), and %w", strings.Join(strings.Fields(string(b)), ", "), err)
		}
		chains, marks := ReadIptables(v.family, text)
		f.Chains, f.Marks = append(f.Chains, chains...), append(f.Marks, marks[:min(len(marks), maxUses)]...)
	}
	return nil
}

// output runs a command and returns what it prints, if that is not too much.
func output(ctx context.Context, name string) (string, error) {
	cmd := exec.CommandContext(ctx, name)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(pipe, maxSaved+1))
	if len(b) > maxSaved {
		err = fmt.Errorf("%s prints more than %d bytes", name, maxSaved)
		_ = cmd.Process.Kill() // it waits for somebody to read on
	}
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("%s: %w", name, waitErr)
	}
	return string(b), err
}

func readQdiscs(f *Facts) error {
	list, err := netlink.QdiscList(nil)
	if err != nil {
		return err
	}
	names := map[int]string{}
	for _, l := range f.Host.Links {
		names[l.Index] = l.Name
	}
	for _, q := range list {
		at := q.Attrs()
		if dev := names[at.LinkIndex]; dev != "" && (at.Parent == netlink.HANDLE_ROOT || at.Parent == netlink.HANDLE_INGRESS) {
			f.Qdiscs = append(f.Qdiscs, Qdisc{Dev: dev, Kind: q.Type(), Ingress: at.Parent == netlink.HANDLE_INGRESS})
		}
	}
	slices.SortFunc(f.Qdiscs, func(a, b Qdisc) int { return cmp.Or(cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.Kind, b.Kind)) })
	return nil
}

// readSysctls reads the settings that there are.
func readSysctls(f *Facts) {
	f.Sysctls = map[string]string{}
	read := func(path string) {
		if b, err := small(filepath.Join("/proc/sys", path)); err == nil {
			f.Sysctls[path] = strings.TrimSpace(string(b))
		}
	}
	for _, name := range SysctlNames {
		if !strings.Contains(name, "/DEV/") {
			read(name)
			continue
		}
		for _, l := range f.Host.Links {
			read(strings.Replace(name, "/DEV/", "/"+l.Name+"/", 1))
		}
	}
}

// readProcesses notes which of the programs of Watched run in this network
// namespace. Of a process whose namespace may not be asked, it is assumed.
func readProcesses(f *Facts) error {
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxProcesses)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		comm, err := small(filepath.Join("/proc", name, "comm"))
		program := strings.TrimSpace(string(comm))
		if err != nil || !slices.Contains(Watched, program) {
			continue // it has ended, or does not matter
		}
		if ns, err := os.Readlink(filepath.Join("/proc", name, "ns/net")); err == nil && ns != own {
			continue
		}
		f.Processes = append(f.Processes, program)
	}
	f.Processes = unique(f.Processes)
	return nil
}

// setting returns the value of KEY=VALUE in a file, "" for none. The last one counts.
func setting(name, key string) string {
	b, err := small(name)
	if err != nil {
		return ""
	}
	value := ""
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, "="); ok && strings.TrimSpace(k) == key {
			value = strings.ToLower(strings.Trim(strings.TrimSpace(v), `"'`))
		}
	}
	return value
}

// networkd returns a setting of systemd-networkd: of its file and then of the
// drop-ins in the order of their names. "no" for every way to say no.
func networkd(key string) string {
	files := []string{"/usr/lib/systemd/networkd.conf", "/etc/systemd/networkd.conf"}
	dropins := map[string]string{} // by name: /etc replaces /usr/lib
	for _, dir := range []string{"/usr/lib/systemd/networkd.conf.d", "/run/systemd/networkd.conf.d", "/etc/systemd/networkd.conf.d"} {
		found, _ := filepath.Glob(dir + "/*.conf") // the pattern is right
		for _, f := range found {
			dropins[filepath.Base(f)] = f
		}
	}
	bases := make([]string, 0, len(dropins))
	for base := range dropins {
		bases = append(bases, base)
	}
	slices.Sort(bases)
	for _, base := range bases {
		files = append(files, dropins[base])
	}
	value := ""
	for _, f := range files {
		value = cmp.Or(setting(f, key), value)
	}
	if slices.Contains([]string{"no", "false", "off", "0", "n", "f"}, value) {
		return "no"
	}
	return value
}

// kernelConfig reads the configuration of the running kernel, nil and why not.
func kernelConfig(release string) (map[string]byte, error) {
	f, err := os.Open("/proc/config.gz")
	if err == nil {
		defer f.Close()
		z, err := gzip.NewReader(bufio.NewReader(f))
		if err != nil {
			return nil, fmt.Errorf("read /proc/config.gz: %w", err)
		}
		return readConfig(z), nil
	}
	g, err2 := os.Open("/boot/config-" + release)
	if err2 != nil {
		return nil, errors.Join(err, err2)
	}
	defer g.Close()
	return readConfig(g), nil
}
