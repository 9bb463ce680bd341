package doctor

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// symbols are the options of the kernel's configuration that a feature needs. All
// must be set; of alternatives ("A|B") one.
var symbols = map[string][]string{
	"kernel-nf-tables":      {"NF_TABLES"},
	"kernel-nft-inet":       {"NF_TABLES_INET"},
	"kernel-ct-mark":        {"NF_CONNTRACK_MARK", "NFT_CT"},
	"kernel-ct-label":       {"NF_CONNTRACK_LABELS", "NFT_CT"},
	"kernel-jhash":          {"NFT_HASH"},
	"kernel-fib":            {"NFT_FIB_INET"},
	"kernel-reject":         {"NFT_REJECT_INET|NFT_REJECT"},
	"kernel-masquerade":     {"NFT_MASQ"},
	"kernel-nflog":          {"NETFILTER_NETLINK_LOG", "NFT_LOG"},
	"kernel-nft-queue":      {"NFT_QUEUE"},
	"kernel-xt-nfqueue":     {"NETFILTER_XT_TARGET_NFQUEUE", "IP_NF_IPTABLES_LEGACY|IP_NF_IPTABLES"},
	"kernel-ipset":          {"IP_SET", "IP_SET_HASH_NET"},
	"kernel-htb":            {"NET_SCH_HTB"},
	"kernel-tbf":            {"NET_SCH_TBF"},
	"kernel-ifb":            {"IFB"},
	"kernel-u32":            {"NET_CLS_U32"},
	"kernel-clsact":         {"NET_SCH_INGRESS"},
	"kernel-mirred":         {"NET_ACT_MIRRED"},
	"kernel-tproxy":         {"NFT_TPROXY"},
	"kernel-flowtable":      {"NFT_FLOW_OFFLOAD"},
	"kernel-policy-routing": {"IP_MULTIPLE_TABLES"},
	"kernel-bpf":            {"BPF_SYSCALL"},
}

// maxConfig bounds what is read of a kernel's configuration: today's are 300 KB.
const maxConfig = 8 << 20

// readConfig reads the options that are set: y or m.
func readConfig(r io.Reader) map[string]byte {
	set := map[string]byte{}
	for s := bufio.NewScanner(io.LimitReader(r, maxConfig)); s.Scan(); {
		name, value, ok := strings.Cut(strings.TrimPrefix(s.Text(), "CONFIG_"), "=")
		if ok && (value == "y" || value == "m") {
			set[name] = value[0]
		}
	}
	return set
}

// fromConfig answers for a feature that was not tried, for the reason why. A nil
// config could not be read.
func fromConfig(id string, config map[string]byte, why string) Feature {
	f := Feature{ID: id, How: "configuration", Why: why}
	needs, ok := symbols[id]
	if !ok || config == nil {
		return f
	}
	f.Answer = Yes
	for _, need := range needs {
		var value byte
		for name := range strings.SplitSeq(need, "|") {
			value = max(value, config[name])
		}
		switch value {
		case 0:
			return Feature{ID: id, Answer: No, How: "configuration", Why: fmt.Sprintf("CONFIG_%s is not set", strings.ReplaceAll(need, "|", " or "))}
		case 'm':
			f.How = "configuration, as a module"
		}
	}
	return f
}
