package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	nlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loIndex is the index of lo in a namespace that was just made.
const loIndex = 1

// errNotTried is for features that can't be tried without changing the machine.
var errNotTried = errors.New("not tried")

// tries are how features are found by using them. They run in a network namespace
// of their own; nil means that the feature is there.
var tries = []struct {
	id  string
	try func() error
}{
	{"kernel-nf-tables", func() error { return nftTry(nftables.TableFamilyIPv4) }},
	{"kernel-nft-inet", func() error { return nftTry(nftables.TableFamilyINet) }},
	{"kernel-ct-mark", func() error {
		return nftTry(nftables.TableFamilyINet,
			&expr.Immediate{Register: 1, Data: make([]byte, 4)}, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1})
	}},
	{"kernel-ct-label", func() error {
		return nftTry(nftables.TableFamilyINet,
			&expr.Immediate{Register: 1, Data: append([]byte{1}, make([]byte, 15)...)}, &expr.Ct{Key: expr.CtKeyLABELS, SourceRegister: true, Register: 1})
	}},
	{"kernel-jhash", func() error {
		return nftTry(nftables.TableFamilyINet, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Hash{SourceRegister: 1, DestRegister: 2, Length: 4, Modulus: 100, Type: expr.HashTypeJenkins})
	}},
	{"kernel-fib", func() error {
		return nftTry(nftables.TableFamilyINet, &expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true})
	}},
	{"kernel-reject", func() error {
		return nftTry(nftables.TableFamilyINet, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
	}},
	{"kernel-masquerade", tryMasquerade},
	{"kernel-nflog", func() error {
		return nftTry(nftables.TableFamilyINet, &expr.Log{Key: 1 << unix.NFTA_LOG_GROUP, Group: 5})
	}},
	{"kernel-nft-queue", func() error { return nftTry(nftables.TableFamilyINet, &expr.Queue{}) }},
	{"kernel-xt-nfqueue", tryXtQueue},
	{"kernel-ipset", func() error {
		return netlink.IpsetCreate("netpolicy", "hash:net", netlink.IpsetCreateOptions{Family: unix.AF_INET})
	}},
	{"kernel-htb", func() error {
		return tryQdisc(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: loIndex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}), nil)
	}},
	{"kernel-tbf", func() error {
		return tryQdisc(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: loIndex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       1 << 20, Limit: 1 << 16, Buffer: 1 << 16,
		}, nil)
	}},
	{"kernel-ifb", tryIFB},
	{"kernel-u32", func() error { return tryFilter(false) }},
	{"kernel-clsact", func() error {
		return tryQdisc(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: loIndex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}, nil)
	}},
	{"kernel-mirred", func() error { return tryFilter(true) }},
	{"kernel-tproxy", func() error {
		return nftTry(nftables.TableFamilyINet,
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Immediate{Register: 1, Data: []byte{0, 1}},
			&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_INET, RegPort: 1})
	}},
	{"kernel-flowtable", tryFlowtable},
	{"kernel-policy-routing", func() error {
		r, mask := netlink.NewRule(), uint32(1)
		r.Family, r.Priority, r.Mark, r.Mask, r.Table = unix.AF_INET, 1000, 1, &mask, 100
		return netlink.RuleAdd(r)
	}},
	{"kernel-nft-owner", tryOwner},
}

// looks are features that show without being used.
var looks = []struct {
	id  string
	how string
	try func() error
}{
	{"kernel-ipv6", "/proc/sys/net/ipv6", exists("/proc/sys/net/ipv6")},
	{"kernel-conntrack-acct", "/proc/sys/net/netfilter", exists("/proc/sys/net/netfilter/nf_conntrack_acct")},
	{"kernel-cgroup2", "mounted", lookCgroup},
	{"kernel-bpf", "tried", tryBPF},
}

// features finds what the kernel can do. If it may not try, it reads the kernel's configuration.
func features(release string, try bool) []Feature {
	why := "it was not to be tried"
	var list []Feature
	var tried map[string]error
	if try {
		var err error
		if tried, err = inNamespace(); err != nil {
			why = fmt.Sprintf("no network namespace could be made to try it in: %v", err)
		}
	}
	config, configErr := kernelConfig(release)
	for _, t := range tries {
		err, done := tried[t.id]
		switch {
		case done && err == nil:
			list = append(list, Feature{ID: t.id, Answer: Yes, How: "tried"})
		case done && !errors.Is(err, errNotTried) && !errors.Is(err, unix.EPERM):
			list = append(list, Feature{ID: t.id, Answer: No, How: "tried", Why: reason(err)})
		default:
			reason := why
			if done {
				reason = strings.TrimPrefix(err.Error(), "not tried: ")
			}
			if configErr != nil {
				reason += ", and the kernel's configuration is not there to read"
			}
			list = append(list, fromConfig(t.id, config, reason))
		}
	}
	for _, l := range looks {
		f := Feature{ID: l.id, Answer: Yes, How: l.how}
		switch err := l.try(); {
		case errors.Is(err, unix.EPERM):
			f.Answer, f.Why = Unknown, "this process may not try it"
		case err != nil:
			f.Answer, f.Why = No, reason(err)
		}
		list = append(list, f)
	}
	return list
}

// reason is the kernel's answer without the library's words around it.
func reason(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// inNamespace runs the tries on a thread in a new network namespace. Thread and
// namespace end with it.
func inNamespace() (answers map[string]error, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		answers = map[string]error{}
		for _, t := range tries {
			answers[t.id] = t.try()
		}
	}()
	<-done
	return answers, err
}

const tryTable = "netpolicy_try"

// nftTry adds a table with one hooked chain with one rule.
func nftTry(family nftables.TableFamily, rule ...expr.Any) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: family, Name: tryTable})
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: "pre", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	if len(rule) > 0 {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: rule})
	}
	return c.Flush()
}

func tryMasquerade() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tryTable})
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: "post", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	return c.Flush()
}

func tryFlowtable() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tryTable})
	c.AddFlowtable(&nftables.Flowtable{Table: t, Name: "fast", Devices: []string{"lo"}})
	return c.Flush()
}

// tryOwner makes a table with an owner (Linux 5.12), which google/nftables can't.
func tryOwner() error {
	c, err := nlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	e := nlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.String(unix.NFTA_TABLE_NAME, tryTable+"_owner")
	e.Uint32(unix.NFTA_TABLE_FLAGS, nftTableFlagOwner)
	attrs, err := e.Encode()
	if err != nil {
		return err
	}
	limit := nlink.Message{Header: nlink.Header{Flags: nlink.Request}, Data: []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	begin, end := limit, limit
	begin.Header.Type, end.Header.Type = unix.NFNL_MSG_BATCH_BEGIN, unix.NFNL_MSG_BATCH_END
	table := nlink.Message{
		Header: nlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
			Flags: nlink.Request | nlink.Acknowledge | nlink.Create,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
	if _, err := c.SendMessages([]nlink.Message{begin, table, end}); err != nil {
		return err
	}
	_, err = c.Receive()
	return err
}

// tryQdisc puts a queueing discipline on lo, calls with while it is there, and removes it.
func tryQdisc(q netlink.Qdisc, with func() error) error {
	if err := netlink.QdiscAdd(q); err != nil {
		return err
	}
	var err error
	if with != nil {
		err = with()
	}
	return errors.Join(err, netlink.QdiscDel(q))
}

// tryFilter puts a u32 filter on a queueing discipline with classes, of which it
// takes what there is; mirred says whether it redirects.
func tryFilter(mirred bool) error {
	at := netlink.QdiscAttrs{LinkIndex: loIndex, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: loIndex, Parent: at.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(1, 1),
	}
	if mirred {
		filter.Actions = []netlink.Action{netlink.NewMirredAction(loIndex)}
	}
	with := func() error { return netlink.FilterAdd(filter) }
	err := tryQdisc(netlink.NewHtb(at), with)
	if err != nil {
		err = tryQdisc(netlink.NewPrio(at), with)
	}
	return err
}

// tryIFB makes an ifb device, if the kernel knows them: the module makes two in
// the machine's own namespace when it is loaded.
func tryIFB() error {
	if _, err := os.Stat("/sys/module/ifb"); err != nil {
		return fmt.Errorf("%w: its module is not loaded, and makes devices when it is", errNotTried)
	}
	at := netlink.NewLinkAttrs()
	at.Name = "ifb-try"
	return netlink.LinkAdd(&netlink.Ifb{LinkAttrs: at})
}

// Socket options of include/uapi/linux/netfilter_ipv4/ip_tables.h.
const iptSoGetRevisionTarget = 67

// tryXtQueue asks iptables-legacy, without a table of it, for its NFQUEUE target.
func tryXtQueue() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// struct xt_get_revision: the name in 29 bytes, the revision in one.
	var ask [30]byte
	copy(ask[:29], "NFQUEUE")
	size := uint32(len(ask))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, iptSoGetRevisionTarget,
		uintptr(unsafe.Pointer(&ask)), uintptr(unsafe.Pointer(&size)), 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOPROTOOPT:
		return fmt.Errorf("%w: iptables-legacy is not loaded", errNotTried)
	default:
		return errno
	}
}

func exists(path string) func() error {
	return func() error {
		_, err := os.Stat(path)
		return err
	}
}

func lookCgroup() error {
	for _, path := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err == nil && uint32(s.Type) == unix.CGROUP2_SUPER_MAGIC {
			return nil
		}
	}
	return errors.New("no cgroup2 at /sys/fs/cgroup")
}

// tryBPF loads the program `r0 = 0; exit`.
func tryBPF() error {
	program := [2]uint64{}
	insns := [][8]byte{{0xb7}, {0x95}}
	for i := range insns {
		program[i] = binary.NativeEndian.Uint64(insns[i][:])
	}
	license := [...]byte{'G', 'P', 'L', 0}
	// union bpf_attr of BPF_PROG_LOAD.
	attr := struct {
		kind, count    uint32
		insns, license uint64
		rest           [96]byte
	}{kind: unix.BPF_PROG_TYPE_SOCKET_FILTER, count: uint32(len(insns))}
	attr.insns = uint64(uintptr(unsafe.Pointer(&program)))
	attr.license = uint64(uintptr(unsafe.Pointer(&license)))
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&program)
	runtime.KeepAlive(&license)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}
