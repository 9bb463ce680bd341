package host

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"netpolicy.dev/netpolicy/flow"
)

// lab is a client, a gateway and three uplinks, each in a network namespace of
// its own. The test's thread is in the gateway.
type lab struct {
	t          testing.TB
	client     int            // packet socket on the client's side of lan0
	sinks      map[string]int // packet sockets at the far ends: wan0, wan1, wan2
	gateway    net.HardwareAddr
	own        net.HardwareAddr
	id         uint16
	namespaces []string
}

// needRoot skips where namespaces can't be made, and says why.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and nftables")
	}
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

// newNS makes a namespace, and removes it at the end of the test.
func newNS(t testing.TB, name string) string {
	t.Helper()
	full := fmt.Sprintf("np%d%s", os.Getpid(), name)
	sh(t, "ip netns add %s", full)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", full).Run() })
	return full
}

// enter moves the test's thread into the namespace until the test ends. A
// thread that can't come back ends with its goroutine.
func enter(t testing.TB, name string) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	there, err := netns.GetFromName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netns.Set(there); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close()
		_ = there.Close()
	})
}

// inNS runs f with the thread in the namespace. A thread that can't come back ends
// with its goroutine.
func inNS(t testing.TB, name string, f func()) {
	t.Helper()
	there, err := netns.GetFromName(name)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	inNSHandle(t, there, f)
}

func inNSHandle(t testing.TB, there netns.NsHandle, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	if err := netns.Set(there); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// newLab builds the topology: 10.0.0.0/24 and 2001:db8:10::/64 behind lan0; each
// wanN is 192.0.2.(64N+1)/26 and 2001:db8:N::1/64 with the far end at +1. The
// main table's default is wan0.
func newLab(t testing.TB) *lab {
	needRoot(t)
	gw, cl := newNS(t, "gw"), newNS(t, "cl")
	sh(t, `for n in %[1]s %[2]s; do nsenter --net=/run/netns/$n sysctl -qw net.ipv6.conf.default.dad_transmits=0 net.ipv6.conf.default.accept_dad=0; done
ip -n %[1]s link set lo up
ip -n %[1]s link add lan0 address 02:00:00:00:00:01 type veth peer name eth0 netns %[2]s
ip -n %[2]s link set eth0 address 02:00:00:00:00:02
ip -n %[1]s addr add 10.0.0.1/24 dev lan0
ip -n %[1]s addr add 2001:db8:10::1/64 dev lan0 nodad
for a in 10.0.0.2/24 10.0.0.3/24 10.0.0.130/24; do ip -n %[2]s addr add $a dev eth0; done
for a in 2001:db8:10::2/64 2001:db8:10::3/64; do ip -n %[2]s addr add $a dev eth0 nodad; done
ip -n %[1]s link set lan0 up
ip -n %[2]s link set eth0 up
for a in 10.0.0.2 10.0.0.3 10.0.0.130 2001:db8:10::2 2001:db8:10::3; do ip -n %[1]s neigh replace $a lladdr 02:00:00:00:00:02 dev lan0 nud permanent; done
nsenter --net=/run/netns/%[1]s sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
nsenter --net=/run/netns/%[1]s sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=10000 2>/dev/null || true`, gw, cl)
	l := &lab{t: t, sinks: map[string]int{}, id: 2000, namespaces: []string{gw, cl}}
	for i := range 3 {
		far, dev := newNS(t, fmt.Sprint("u", i)), fmt.Sprint("wan", i)
		l.namespaces = append(l.namespaces, far)
		sh(t, `nsenter --net=/run/netns/%[2]s sysctl -qw net.ipv6.conf.default.dad_transmits=0 net.ipv6.conf.default.accept_dad=0
ip -n %[1]s link add %[3]s type veth peer name eth0 netns %[2]s
ip -n %[2]s link set eth0 address 02:00:00:00:01:0%[6]d
ip -n %[1]s addr add 192.0.2.%[4]d/26 dev %[3]s
ip -n %[1]s addr add 2001:db8:%[6]d::1/64 dev %[3]s nodad
ip -n %[2]s addr add 192.0.2.%[5]d/26 dev eth0
ip -n %[2]s addr add 2001:db8:%[6]d::2/64 dev eth0 nodad
ip -n %[1]s link set %[3]s up
ip -n %[2]s link set eth0 up`, gw, far, dev, 64*i+1, 64*i+2, i)
		inNS(t, far, func() { l.sinks[dev] = l.open("eth0") })
	}
	sh(t, `ip -n %[1]s route add default via 192.0.2.2
ip -n %[1]s -6 route add default via 2001:db8::2`, gw)
	inNS(t, cl, func() { l.client = l.open("eth0") })
	enter(t, gw)
	for i := range 3 {
		l.neighbours(i)
	}
	l.gateway, _ = net.ParseMAC("02:00:00:00:00:01")
	l.own, _ = net.ParseMAC("02:00:00:00:00:02")
	l.waitUp()
	return l
}

// neighbours makes the far end of wan i known, so that no packet waits for an answer.
func (l *lab) neighbours(i int) {
	l.t.Helper()
	for _, a := range gateways(i) {
		sh(l.t, "ip neigh replace %s lladdr 02:00:00:00:01:0%d dev wan%d nud permanent", a, i, i)
	}
}

// open opens a packet socket on a device of the thread's namespace.
func (l *lab) open(dev string) int {
	l.t.Helper()
	link, err := netlink.LinkByName(dev)
	if err != nil {
		l.t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// waitUp waits until every link of every namespace has its carrier and its queue,
// and every address is ready: a packet sent before is refused or dropped.
func (l *lab) waitUp() {
	l.t.Helper()
	missing := ""
	for range 250 {
		missing = ""
		for _, ns := range l.namespaces {
			missing += sh(l.t, "ip -n %[1]s -6 addr show tentative; ip -n %[1]s -o link show | grep -v -e LOOPBACK -e 'state UP' || true", ns)
		}
		if missing == "" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.t.Fatalf("links do not come up:\n%s", missing)
}

// seen is what became of one packet.
type seen struct {
	dev    string // the uplink by which it left, "" for none
	dscp   uint8
	reject bool // the client was told
}

// send sends first packets and returns what became of each. Each gets a source
// port (or echo identifier) of its own, by which it is known again: SrcPort of
// the flow is set to it.
func (l *lab) send(flows []flow.Flow) map[uint16]seen {
	l.t.Helper()
	l.drain()
	for i := range flows {
		proto, _ := flows[i].Proto.Get()
		l.id++
		if proto == flow.TCP || proto == flow.UDP {
			flows[i].SrcPort = flow.Some(l.id)
		}
		flows[i].ID = fmt.Sprint(l.id)
		if _, err := unix.Write(l.client, l.packet(&flows[i], l.id)); err != nil {
			l.t.Fatal(err)
		}
	}
	return l.collect(len(flows))
}

// quiet is how long nothing must come before a packet counts as lost; settled
// packets end the wait at once.
const quiet = 60 * time.Millisecond

// collect reads what has arrived at the sinks and at the client, until n
// packets are accounted for or nothing more comes.
func (l *lab) collect(n int) map[uint16]seen {
	out := map[uint16]seen{}
	for end := time.Now().Add(quiet); time.Now().Before(end) && len(out) < n; time.Sleep(time.Millisecond) {
		for dev, fd := range l.sinks {
			l.read(fd, func(p gopacket.Packet) {
				if id, dscp, ok := identify(p); ok {
					out[id] = seen{dev: dev, dscp: dscp}
					end = time.Now().Add(quiet)
				}
			})
		}
		l.read(l.client, func(p gopacket.Packet) {
			if id, ok := refused(p); ok {
				s := out[id]
				s.reject = true
				out[id] = s
				end = time.Now().Add(quiet)
			}
		})
	}
	return out
}

func (l *lab) drain() {
	for _, fd := range l.sinks {
		l.read(fd, func(gopacket.Packet) {})
	}
	l.read(l.client, func(gopacket.Packet) {})
}

// read reads what is there.
func (l *lab) read(fd int, each func(gopacket.Packet)) {
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		each(gopacket.NewPacket(append([]byte(nil), buf[:n]...), layers.LayerTypeEthernet, gopacket.Default))
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

// identify finds the number that send gave the packet.
func identify(p gopacket.Packet) (id uint16, dscp uint8, ok bool) {
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		dscp = ip.TOS >> 2
		id, ok = idOf(uint8(ip.Protocol), ip.Payload)
	case *layers.IPv6:
		dscp = ip.TrafficClass >> 2
		id, ok = idOf(uint8(ip.NextHeader), ip.Payload)
	}
	return id, dscp, ok
}

func idOf(proto uint8, b []byte) (uint16, bool) {
	switch {
	case len(b) < 8:
		return 0, false
	case proto == 6 || proto == 17:
		return binary.BigEndian.Uint16(b), true
	case proto == 1 && b[0] == 8 || proto == 58 && b[0] == 128:
		return binary.BigEndian.Uint16(b[4:]), true
	}
	return 0, false
}

// refused finds the number in a reset or an administratively-prohibited message.
func refused(p gopacket.Packet) (uint16, bool) {
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		switch b := ip.Payload; {
		case ip.Protocol == 6 && len(b) >= 20 && b[13]&4 != 0:
			return binary.BigEndian.Uint16(b[2:]), true
		case ip.Protocol == 1 && len(b) >= 36 && b[0] == 3 && b[1] == 13:
			return idOf(b[17], b[28:])
		}
	case *layers.IPv6:
		switch b := ip.Payload; {
		case ip.NextHeader == 6 && len(b) >= 20 && b[13]&4 != 0:
			return binary.BigEndian.Uint16(b[2:]), true
		case ip.NextHeader == 58 && len(b) >= 56 && b[0] == 1 && b[1] == 1:
			return idOf(b[14], b[48:])
		}
	}
	return 0, false
}

// snapshot is the machine's state as people read it.
func snapshot(t testing.TB) string {
	t.Helper()
	return sh(t, `nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all | sed 's/ expires [0-9]*sec//'`)
}

func gateways(i int) [2]netip.Addr {
	return [2]netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 64*i+2)),
		netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::2", i)),
	}
}
