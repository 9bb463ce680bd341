package host

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/internal/nstest"
)

// lab is a client, a gateway and three uplinks, each in a network namespace of
// its own. The test's thread is in the gateway.
type lab struct {
	t          testing.TB
	client     int            // packet socket on the client's side of lan0
	sinks      map[string]int // packet sockets at the far ends: wan0, wan1, wan2
	gateway    net.HardwareAddr
	own        net.HardwareAddr
	far        [3]net.HardwareAddr
	id         uint16        // the source port given last, by send
	marker     uint32        // the number of the marker sent last
	late       time.Duration // how long send waits, see burst
	namespaces []*nstest.NS
}

// needRoot skips where namespaces can't be made, and says why.
func needRoot(t testing.TB) {
	t.Helper()
	nstest.Need(t)
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
}

func sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	out, err := exec.Command("sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// newLab builds the topology: 10.0.0.0/24 and 2001:db8:10::/64 behind lan0; each
// wanN is 192.0.2.(64N+1)/26 and 2001:db8:N::1/64 with the far end at +1. The
// main table's default is wan0.
func newLab(t testing.TB) *lab {
	t.Helper()
	needRoot(t)
	gw, cl := nstest.New(t), nstest.New(t)
	l := &lab{t: t, sinks: map[string]int{}, id: 2000, namespaces: []*nstest.NS{gw, cl}}
	nstest.Link(t, gw, "lan0", cl, "eth0", "10.0.0.1/24 2001:db8:10::1/64",
		"10.0.0.2/24 10.0.0.3/24 10.0.0.130/24 2001:db8:10::2/64 2001:db8:10::3/64")
	l.gateway, l.own = mac(t, gw, "lan0"), mac(t, cl, "eth0")
	l.client = open(t, cl, "eth0")
	for i := range 3 {
		far, dev := nstest.New(t), fmt.Sprint("wan", i)
		l.namespaces = append(l.namespaces, far)
		nstest.Link(t, gw, dev, far, "eth0", fmt.Sprintf("192.0.2.%d/26 2001:db8:%d::1/64", 64*i+1, i),
			fmt.Sprintf("192.0.2.%d/26 2001:db8:%d::2/64", 64*i+2, i))
		l.far[i] = mac(t, far, "eth0")
		l.sinks[dev] = open(t, far, "eth0")
	}
	gw.Enter(t)
	sh(t, `for a in 10.0.0.2 10.0.0.3 10.0.0.130 2001:db8:10::2 2001:db8:10::3; do ip neigh replace $a lladdr %s dev lan0 nud permanent; done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=10000 2>/dev/null || true
ip route add default via 192.0.2.2
ip -6 route add default via 2001:db8::2`, l.own)
	for i := range 3 {
		l.neighbours(i)
	}
	l.waitUp()
	return l
}

func mac(t testing.TB, ns *nstest.NS, dev string) (addr net.HardwareAddr) {
	t.Helper()
	ns.Do(t, func() {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			t.Errorf("find %s: %v", dev, err)
			return
		}
		addr = ifi.HardwareAddr
	})
	return addr
}

// neighbours makes the far end of wan i known, so that no packet waits for an answer.
func (l *lab) neighbours(i int) {
	l.t.Helper()
	for _, a := range gateways(i) {
		sh(l.t, "ip neigh replace %s lladdr %s dev wan%d nud permanent", a, l.far[i], i)
	}
}

// inbox is the receive buffer of a packet socket: a burst and more.
const inbox = 8 << 20

// open opens a socket for all packets that come in by a device of ns.
func open(t testing.TB, ns *nstest.NS, dev string) (fd int) {
	t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	ns.Do(t, func() {
		ifi, err := net.InterfaceByName(dev)
		if err == nil {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index})
		}
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		}
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, inbox)
		}
		if err != nil {
			t.Errorf("listen to %s: %v", dev, err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// waitUp waits until every link of every namespace has its carrier and its queue,
// and every address is ready: a packet sent before is refused or dropped.
func (l *lab) waitUp() {
	l.t.Helper()
	var missing []string
	for range 500 {
		missing = nil
		for _, ns := range l.namespaces {
			ns.Do(l.t, func() { missing = append(missing, unready(l.t)...) })
		}
		if len(missing) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatalf("links do not come up: %v", missing)
}

// unready lists the links of the thread's namespace that can't send yet, and the
// addresses that can't be used.
func unready(t testing.TB) (list []string) {
	links, err := netlink.LinkList()
	must(t, err)
	for _, link := range links {
		if link.Attrs().Flags&net.FlagLoopback == 0 && link.Attrs().OperState != netlink.OperUp {
			list = append(list, link.Attrs().Name)
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		must(t, err)
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				list = append(list, a.String())
			}
		}
	}
	return list
}

// seen is what became of one packet.
type seen struct {
	dev    string // the uplink by which it left, "" for none
	dscp   uint8
	reject bool // the client was told
	twice  bool // it was seen more than once
}

// tuple names a packet's flow. An echo request has its identifier for a source port.
type tuple struct {
	proto    uint8
	src, dst netip.AddrPort
}

func tupleOf(f *flow.Flow, id uint16) tuple {
	proto, _ := f.Proto.Get()
	src, _ := f.Src.Get()
	dst, _ := f.Dst.Get()
	dport, _ := f.DstPort.Get()
	if proto != flow.TCP && proto != flow.UDP {
		dport = 0
	}
	return tuple{uint8(proto), netip.AddrPortFrom(src, id), netip.AddrPortFrom(dst, dport)}
}

// send sends first packets and returns what became of each, by source port. Each
// gets a port (or echo identifier) of its own, the next after l.id: SrcPort of
// the flow is set to it.
func (l *lab) send(flows []flow.Flow) map[uint16]seen {
	l.t.Helper()
	ids := make([]uint16, len(flows))
	for i := range flows {
		if l.id++; l.id == 0 {
			l.id++
		}
		ids[i] = l.id
	}
	out := map[uint16]seen{}
	for i, s := range l.burst(flows, ids, l.late) {
		out[ids[i]] = s
	}
	return out
}

// burst sends first packets at once, with these source ports or echo
// identifiers, and returns what became of each. Flows must differ from each
// other. late is how long to wait for the next packet after all that the kernel
// decides by itself is through: 0 where nobody else decides.
func (l *lab) burst(flows []flow.Flow, ids []uint16, late time.Duration) []seen {
	l.t.Helper()
	l.drain()
	back := l.oneCPU()
	for i := range flows {
		proto, _ := flows[i].Proto.Get()
		if proto == flow.TCP || proto == flow.UDP {
			flows[i].SrcPort = flow.Some(ids[i])
		}
		flows[i].ID = fmt.Sprint(ids[i])
		if _, err := unix.Write(l.client, l.packet(&flows[i], ids[i])); err != nil {
			l.t.Fatal(err)
		}
	}
	got := l.collect(len(flows), late)
	back()
	out := make([]seen, len(flows))
	for i := range flows {
		out[i] = got[tupleOf(&flows[i], ids[i])]
	}
	return out
}

// oneCPU keeps the thread on the processor it is on until the returned function
// is called: what a packet makes the kernel do is then done in order, and a
// marker that comes back says that all before it is through.
func (l *lab) oneCPU() (back func()) {
	l.t.Helper()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		l.t.Fatal(err)
	}
	cpu := 0
	for !before.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		l.t.Fatal(err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }
}

// markerTime is how long a marker may take before it counts as lost: a whole
// burst is before it.
const markerTime = 10 * time.Second

// collect returns what has arrived at the far ends and at the client when a
// marker that is sent now is back, and either n packets are accounted for or
// nothing came for so long as late says.
func (l *lab) collect(n int, late time.Duration) map[tuple]seen {
	l.t.Helper()
	out := map[tuple]seen{}
	l.mark()
	back, more := false, false // more: looked again since it was back
	for last := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		for dev, fd := range l.sinks {
			l.read(fd, func(b []byte) {
				if t, dscp, ok := identify(b); ok {
					_, again := out[t]
					out[t] = seen{dev: dev, dscp: dscp, twice: again}
					last = time.Now()
				}
			})
		}
		l.read(l.client, func(b []byte) {
			if t, ok := refused(b); ok {
				s, again := out[t]
				s.reject, s.twice = true, again
				out[t] = s
				last = time.Now()
			}
			back = back || l.isMarker(b)
		})
		switch quiet := time.Since(last); {
		case back && !more:
			more = true
		case back && (len(out) >= n || quiet >= late):
			return out
		case !back && quiet > markerTime:
			l.t.Fatal("a marker was lost: the lab is broken")
		}
	}
}

// mark asks the gateway for its address by ARP, which no policy is about. The
// question has a number, as part of the asker's hardware address.
func (l *lab) mark() {
	l.t.Helper()
	l.marker++
	asker := binary.BigEndian.AppendUint32([]byte{0x02, 0xfe}, l.marker)
	frame := append([]byte{}, l.gateway...)
	frame = append(frame, l.own...)
	frame = append(frame, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	frame = append(append(frame, asker...), 10, 0, 0, 2)
	frame = append(append(frame, make([]byte, 6)...), 10, 0, 0, 1)
	if _, err := unix.Write(l.client, frame); err != nil {
		l.t.Fatal(err)
	}
}

// isMarker reports whether the frame answers the last mark.
func (l *lab) isMarker(b []byte) bool {
	return len(b) >= 42 && b[12] == 0x08 && b[13] == 0x06 && b[21] == 2 && b[32] == 0x02 && b[33] == 0xfe &&
		binary.BigEndian.Uint32(b[34:]) == l.marker
}

func (l *lab) drain() {
	for _, fd := range l.sinks {
		l.read(fd, func([]byte) {})
	}
	l.read(l.client, func([]byte) {})
}

// read reads what is there.
func (l *lab) read(fd int, each func([]byte)) {
	var buf [4096]byte
	for {
		n, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		each(buf[:n])
	}
}

// packet builds a flow's first packet.
func (l *lab) packet(f *flow.Flow, id uint16) []byte {
	src, _ := f.Src.Get()
	dst, _ := f.Dst.Get()
	proto, _ := f.Proto.Get()
	dscp, _ := f.DSCP.Get()
	dport, _ := f.DstPort.Get()
	eth := &layers.Ethernet{SrcMAC: l.own, DstMAC: l.gateway, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var sum gopacket.NetworkLayer
	if src.Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: 64, TOS: dscp << 2, Protocol: layers.IPProtocol(proto), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, sum = v4, v4
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, TrafficClass: dscp << 2, NextHeader: layers.IPProtocol(proto), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, sum = v6, v6
	}
	list := []gopacket.SerializableLayer{eth, ip}
	switch proto {
	case flow.TCP:
		tcp := &layers.TCP{SrcPort: layers.TCPPort(id), DstPort: layers.TCPPort(dport), SYN: true, Window: 65535}
		_ = tcp.SetNetworkLayerForChecksum(sum)
		list = append(list, tcp)
	case flow.UDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(id), DstPort: layers.UDPPort(dport)}
		_ = udp.SetNetworkLayerForChecksum(sum)
		list = append(list, udp, gopacket.Payload("netpolicy"))
	case flow.ICMP:
		list = append(list, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: id, Seq: 1})
	default:
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
		_ = icmp.SetNetworkLayerForChecksum(sum)
		list = append(list, icmp, &layers.ICMPv6Echo{Identifier: id, SeqNumber: 1})
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		l.t.Fatal(err)
	}
	return buf.Bytes()
}

// header is what is read of an IP packet without extension headers.
type header struct {
	proto    uint8
	dscp     uint8
	src, dst netip.Addr
	body     []byte
}

// ipHeader reads an IP packet, which may be cut short.
func ipHeader(b []byte) (h header, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		src, _ := netip.AddrFromSlice(b[12:16])
		dst, _ := netip.AddrFromSlice(b[16:20])
		return header{b[9], b[1] >> 2, src, dst, b[int(b[0]&15)*4:]}, true
	case len(b) >= 40 && b[0]>>4 == 6:
		src, _ := netip.AddrFromSlice(b[8:24])
		dst, _ := netip.AddrFromSlice(b[24:40])
		return header{b[6], uint8(binary.BigEndian.Uint16(b) >> 6 & 63), src, dst, b[40:]}, true
	}
	return h, false
}

// tuple returns the flow of the packet, which opens it.
func (h *header) tuple() (tuple, bool) {
	b := h.body
	if len(b) < 8 {
		return tuple{}, false
	}
	t := tuple{h.proto, netip.AddrPortFrom(h.src, binary.BigEndian.Uint16(b)), netip.AddrPortFrom(h.dst, binary.BigEndian.Uint16(b[2:]))}
	switch {
	case h.proto == unix.IPPROTO_TCP || h.proto == unix.IPPROTO_UDP:
		return t, true
	case h.proto == unix.IPPROTO_ICMP && b[0] == 8 || h.proto == unix.IPPROTO_ICMPV6 && b[0] == 128:
		t.src, t.dst = netip.AddrPortFrom(h.src, binary.BigEndian.Uint16(b[4:])), netip.AddrPortFrom(h.dst, 0)
		return t, true
	}
	return tuple{}, false
}

// etherHeader is the length of what is before the IP packet in a frame.
const etherHeader = 14

// identify finds the flow of a packet that arrived at a far end.
func identify(frame []byte) (t tuple, dscp uint8, ok bool) {
	if len(frame) < etherHeader {
		return t, 0, false
	}
	h, ok := ipHeader(frame[etherHeader:])
	if !ok {
		return t, 0, false
	}
	t, ok = h.tuple()
	return t, h.dscp, ok
}

// refused finds the flow that a reset or an administratively-prohibited message is about.
func refused(frame []byte) (tuple, bool) {
	if len(frame) < etherHeader {
		return tuple{}, false
	}
	h, ok := ipHeader(frame[etherHeader:])
	if !ok {
		return tuple{}, false
	}
	b := h.body
	switch {
	case h.proto == unix.IPPROTO_TCP && len(b) >= 20 && b[13]&4 != 0:
		return tuple{h.proto, netip.AddrPortFrom(h.dst, binary.BigEndian.Uint16(b[2:])), netip.AddrPortFrom(h.src, binary.BigEndian.Uint16(b))}, true
	case h.proto == unix.IPPROTO_ICMP && len(b) >= 8 && b[0] == 3 && b[1] == 13,
		h.proto == unix.IPPROTO_ICMPV6 && len(b) >= 8 && b[0] == 1 && b[1] == 1:
		if quoted, ok := ipHeader(b[8:]); ok {
			return quoted.tuple()
		}
	}
	return tuple{}, false
}

// snapshot is the machine's state as people read it.
func snapshot(t testing.TB) string {
	t.Helper()
	ruleset := "nft list ruleset"
	if variant != "" { // legacy tables are there from when they are first asked for; chains come sorted
		ruleset = `for i in iptables ip6tables; do
	for tab in filter nat mangle; do $i-legacy -t $tab -S >/dev/null; done
	for kind in legacy nft; do $i-$kind-save 2>/dev/null | grep -v '^#' | sed 's/ *\[[0-9:]*\]//'; done
done
ipset list -n
nft list tables
nft list table inet netpolicy 2>/dev/null || true`
	}
	return sh(t, "%s", ruleset+`; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all | sed 's/ expires [0-9]*sec//'`)
}

func gateways(i int) [2]netip.Addr {
	return [2]netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 64*i+2)),
		netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::2", i)),
	}
}
