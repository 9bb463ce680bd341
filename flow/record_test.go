package flow_test

import (
	"errors"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"netpolicy.dev/netpolicy/flow"
)

func addr(s string) flow.Value[netip.Addr] { return flow.Some(netip.MustParseAddr(s)) }

func TestParse(t *testing.T) {
	full := flow.Flow{
		ID: "1", Proto: flow.Some(flow.TCP), Src: addr("10.0.0.5"), SrcPort: flow.Some[uint16](5000),
		Dst: addr("1.2.3.4"), DstPort: flow.Some[uint16](443), SNI: flow.Some("us01.zoom.us"), Process: flow.Some("zoom"),
		User: flow.Some("alice"), IfaceIn: flow.Some("eth1"), DSCP: flow.Some[uint8](0), Mark: flow.Some[uint32](0),
		RTT: flow.Some[int64](12_500), Latency: flow.Some[int64](130_000), ErrorRate: flow.Some[int64](10_000), State: "NORMAL",
	}
	none := flow.Absent[uint16]()
	for _, c := range []struct {
		name, text, json string
		want             flow.Flow
	}{
		{
			"the design's example",
			`tcp 10.0.0.5:5000 > 1.2.3.4:443 sni=us01.zoom.us process=zoom user=alice iface_in=eth1 dscp=0 mark=0 rtt_ms=12.5 latency_ms=130 error_rate=0.01 state=NORMAL id=1`,
			`{"id":"1","proto":"tcp","src":"10.0.0.5:5000","dst":"1.2.3.4:443","sni":"us01.zoom.us","process":"zoom",
			  "user":"alice","iface_in":"eth1","dscp":0,"mark":0,"rtt_ms":12.5,"latency_ms":130,"error_rate":0.01,"state":"NORMAL"}`,
			full,
		},
		{"nothing known", "? ? > ?", `{}`, flow.Flow{}},
		{
			"absent", "- - > - sni=null dscp=null rtt_ms=null", `{"proto":null,"src":null,"dst":null,"sni":null,"dscp":null,"rtt_ms":null}`,
			flow.Flow{
				Proto: flow.Absent[flow.Proto](), Src: flow.Absent[netip.Addr](), Dst: flow.Absent[netip.Addr](), SrcPort: none, DstPort: none,
				SNI: flow.Absent[string](), DSCP: flow.Absent[uint8](), RTT: flow.Absent[int64](),
			},
		},
		{
			"IPv6, mapped IPv4, a number for a protocol", "132 [2001:db8::1]:1 > [::ffff:192.0.2.1]:2", `{"proto":132,"src":"[2001:db8::1]:1","dst":"[::ffff:192.0.2.1]:2"}`,
			flow.Flow{
				Proto: flow.Some(flow.Proto(132)), Src: addr("2001:db8::1"), SrcPort: flow.Some[uint16](1), Dst: addr("192.0.2.1"),
				DstPort: flow.Some[uint16](2),
			},
		},
		{
			"ICMP has no ports", "icmpv6 2001:db8::1 > 2001:db8::2", `{"proto":"icmpv6","src":"2001:db8::1","dst":"[2001:db8::2]"}`,
			flow.Flow{Proto: flow.Some(flow.ICMPv6), Src: addr("2001:db8::1"), Dst: addr("2001:db8::2"), SrcPort: none, DstPort: none},
		},
		{
			"GRE has no ports", "47 ? > 192.0.2.1", `{"proto":47,"dst":"192.0.2.1"}`,
			flow.Flow{Proto: flow.Some(flow.Proto(47)), Dst: addr("192.0.2.1"), SrcPort: none, DstPort: none},
		},
		{
			"ports of others stay unknown", "udp ? > 192.0.2.1", `{"proto":"UDP","dst":"192.0.2.1"}`,
			flow.Flow{Proto: flow.Some(flow.UDP), Dst: addr("192.0.2.1")},
		},
		{"a port alone", "? ? > :443", `{"dst":":443"}`, flow.Flow{DstPort: flow.Some[uint16](443)}},
		{
			"names are canonical or invalid", `? ? > ? sni=BÜCHER.example. http_host="a b" domain="1.2.3.4" dns=B.example,a.example,1.1.1.1`,
			`{"sni":"BÜCHER.example.","http_host":"a b","domain":"1.2.3.4","dns":["B.example","a.example","1.1.1.1"]}`,
			flow.Flow{
				SNI: flow.Some("xn--bcher-kva.example"), HTTPHost: flow.Bad[string](), Domain: flow.Bad[string](),
				DNS: flow.NewNames("a.example", "b.example"),
			},
		},
		{
			"strings", `? ? > ? process="a \"b\" \u00e4" user="null" cgroup=/x=y state=failover`,
			`{"process":"a \"b\" \u00e4","user":"null","cgroup":"/x=y","state":"failover"}`,
			flow.Flow{Process: flow.Some(`a "b" ä`), User: flow.Some("null"), Cgroup: flow.Some("/x=y"), State: "FAILOVER"},
		},
		{
			"decimals without floats", "? ? > ? rtt_ms=0.29 latency_ms=1.5e2 error_rate=0.3333339",
			`{"rtt_ms":0.29,"latency_ms":1.5e2,"error_rate":0.3333339}`,
			flow.Flow{RTT: flow.Some[int64](290), Latency: flow.Some[int64](150_000), ErrorRate: flow.Some[int64](333_333)},
		},
		{
			"small and largest", "? ? > ? rtt_ms=12E-4 latency_ms=1000000000 error_rate=1.0 mark=4294967295 dscp=63",
			`{"rtt_ms":12E-4,"latency_ms":1000000000,"error_rate":1.0,"mark":4294967295,"dscp":63}`,
			flow.Flow{
				RTT: flow.Some[int64](1), Latency: flow.Some[int64](1e12), ErrorRate: flow.Some[int64](1e6), Mark: flow.Some[uint32](1<<32 - 1),
				DSCP: flow.Some[uint8](63),
			},
		},
		{
			"facts of programs, of the destination and of the connection",
			"? ? > ? group=games src_mac=02-42-AC-11-00-02 iface_out=eth1 app=bittorrent alpn=h2,http/1.1 country=de asn=64496 conn_bytes=3221225472 conn_age=12.5",
			`{"group":"games","src_mac":"02:42:ac:11:00:02","iface_out":"eth1","app":"bittorrent","alpn":["h2","http/1.1"],"country":"DE","asn":64496,
			  "conn_bytes":3221225472,"conn_age":12.5}`,
			flow.Flow{
				Group: flow.Some("games"), SrcMAC: flow.Some(flow.MAC{2, 0x42, 0xac, 0x11, 0, 2}), IfaceOut: flow.Some("eth1"), App: flow.Some("bittorrent"),
				ALPN: flow.Some("h2,http/1.1"), Country: flow.Some("DE"), ASN: flow.Some[uint32](64496), ConnBytes: flow.Some[int64](3 << 30),
				ConnAge: flow.Some[int64](12_500_000),
			},
		},
		{
			"these can be absent, too", "? ? > ? group=null src_mac=null iface_out=null app=null alpn=null country=null asn=null conn_bytes=null conn_age=null",
			`{"group":null,"src_mac":null,"iface_out":null,"app":null,"alpn":[],"country":null,"asn":null,"conn_bytes":null,"conn_age":null}`,
			flow.Flow{
				Group: flow.Absent[string](), SrcMAC: flow.Absent[flow.MAC](), IfaceOut: flow.Absent[string](), App: flow.Absent[string](),
				ALPN: flow.Absent[string](), Country: flow.Absent[string](), ASN: flow.Absent[uint32](), ConnBytes: flow.Absent[int64](),
				ConnAge: flow.Absent[int64](),
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := flow.ParseText(c.text); err != nil || got != c.want {
				t.Errorf("ParseText: %v, %v\nwant %v", got, err, c.want)
			}
			if got, err := flow.ParseJSON([]byte(c.json)); err != nil || got != c.want {
				t.Errorf("ParseJSON: %v, %v\nwant %v", got, err, c.want)
			}
			if got, err := flow.ParseJSON(c.want.AppendJSON(nil)); err != nil || got != c.want {
				t.Errorf("ParseJSON(AppendJSON): %v, %v\nwant %v", got, err, c.want)
			}
		})
	}
}

func TestParseTextErrors(t *testing.T) {
	for _, c := range []struct {
		text string
		code flow.ErrorCode
		pos  int
		msg  string
	}{
		{"", flow.ErrSyntax, 0, "expected proto src > dst, as in: tcp 10.0.0.5:5000 > 1.2.3.4:443"},
		{"tcp 10.0.0.5:5000 1.2.3.4:443", flow.ErrSyntax, 18, `expected > between the two ends, found "1.2.3.4:443"`},
		{"tpc ? > ?", flow.ErrValue, 0, `proto: "tpc" is not tcp, udp, icmp, icmpv6 or a protocol number`},
		{"tcp 10.0.0.500:1 > ?", flow.ErrValue, 4, `src: "10.0.0.500" is not an IPv4 or IPv6 address without zone`},
		{"tcp ? > 1.2.3.4:65536", flow.ErrValue, 8, `dst: "65536" is not a port from 0 to 65535`},
		{"tcp ? > [fe80::1%eth0]:1", flow.ErrValue, 8, `dst: "fe80::1%eth0" is not an IPv4 or IPv6 address without zone`},
		{"tcp ? > [1.2.3.4]:1", flow.ErrValue, 8, `dst: "[1.2.3.4]:1" is not [address]:port`},
		{"tcp ? > ? snii=x", flow.ErrUnknown, 10, `unknown key "snii"`},
		{"tcp ? > ? sni", flow.ErrSyntax, 10, `expected key=value, found "sni"`},
		{"tcp ? > ? sni= x", flow.ErrSyntax, 14, `expected a value; an empty one is written ""`},
		{"tcp ? > ? sni=x sni=y", flow.ErrDuplicate, 16, `key "sni" given twice`},
		{"tcp ? > ? src=1.2.3.4", flow.ErrDuplicate, 10, "src is given before the keys: proto src > dst"},
		{"tcp ? > ? sni=a..b", flow.ErrValue, 14, `sni: "a..b": empty label`},
		{"tcp ? > ? domain=1.2.3.4", flow.ErrValue, 17, `domain: "1.2.3.4": an IP address is not a name`},
		{"tcp ? > ? dscp=64", flow.ErrValue, 15, `dscp: "64" is not a whole number from 0 to 63`},
		{"tcp ? > ? rtt_ms=-1", flow.ErrValue, 17, `rtt_ms: "-1" is not a number from 0 to 1000000000`},
		{"tcp ? > ? error_rate=1.1", flow.ErrValue, 21, `error_rate: "1.1" is not a number from 0 to 1`},
		{"tcp ? > ? state=FINE", flow.ErrValue, 16, `state: "FINE" is not NORMAL, DEGRADED, FAILOVER or RECOVERY`},
		{`tcp ? > ? user="x`, flow.ErrSyntax, 15, "string without end"},
		{`tcp ? > ? user="x"y`, flow.ErrSyntax, 18, "expected a space after the value, found 'y'"},
		{"icmp ? > 1.2.3.4:1", flow.ErrValue, 0, "ICMP has no ports"},
		{"47 ? > 1.2.3.4:1", flow.ErrValue, 0, "protocol 47 has no ports"},
	} {
		_, err := flow.ParseText(c.text)
		checkError(t, c.text, err, flow.Error{Code: c.code, Pos: c.pos, Message: c.msg})
	}
}

func TestParseJSONErrors(t *testing.T) {
	for _, c := range []struct {
		json string
		code flow.ErrorCode
		pos  int
		msg  string
	}{
		{``, flow.ErrSyntax, 0, "expected {, found the end"},
		{`[]`, flow.ErrSyntax, 0, "expected {, found '['"},
		{`{"id":"x","sni":"a"`, flow.ErrSyntax, 19, "expected , or }, found the end"},
		{`{"id":"x",}`, flow.ErrSyntax, 10, "expected a string, found '}'"},
		{`{"snii":"a","id":"x"}`, flow.ErrUnknown, 1, `unknown key "snii"`},
		{`{"sni":"a","id":"x","sni":"a"}`, flow.ErrDuplicate, 20, `key "sni" given twice`},
		{`{"id":"x","sni":7}`, flow.ErrValue, 16, "sni: must be a string, not a number"},
		{`{"id":"x","dscp":"7"}`, flow.ErrValue, 17, "dscp: must be a number, not a string"},
		{`{"id":"x","dscp":1.5}`, flow.ErrValue, 17, `dscp: "1.5" is not a whole number from 0 to 63`},
		{`{"id":"x","mark":0x1}`, flow.ErrSyntax, 18, "expected , or }, found 'x'"},
		{`{"id":"x","rtt_ms":01}`, flow.ErrSyntax, 19, `"01" is not a number`},
		{`{"id":"x","dns":"a"}`, flow.ErrValue, 16, "dns: must be a list of names, not a string"},
		{`{"id":"x","sni":{}}`, flow.ErrSyntax, 16, "expected a string, a number, a list of strings or null, found '{'"},
		{`{"id":"x","sni":true}`, flow.ErrSyntax, 16, "expected a string, a number, a list of strings or null, found 't'"},
		{`{"id":"x","alpn":["h2,h3"]}`, flow.ErrValue, 17, `alpn: "h2,h3" is not a protocol: it is empty or has a comma`},
		{`{"id":"x","country":"D"}`, flow.ErrValue, 20, `country: "D" is not a country's two letters (ISO 3166-1)`},
		{`{"id":"x","src_mac":"02:42:ac:11:00-02"}`, flow.ErrValue, 20, `src_mac: "02:42:ac:11:00-02" is not a MAC address, as 02:42:ac:11:00:02`},
		{`{"id":"x","conn_bytes":-1}`, flow.ErrValue, 23, `conn_bytes: "-1" is not a number from 0 to 4611686018427387904`},
		{`{"id":"x"} {}`, flow.ErrSyntax, 11, "expected the end of the line, found '{'"},
		{`{"id":"x","proto":256}`, flow.ErrValue, 18, `proto: "256" is not tcp, udp, icmp, icmpv6 or a protocol number`},
		{`{"id":"x","user":"\q"}`, flow.ErrSyntax, 17, "wrong escape in a string"},
		{"{\"id\":\"x\",\"user\":\"\xff\"}", flow.ErrSyntax, 17, "string is not UTF-8"},
	} {
		f, err := flow.ParseJSON([]byte(c.json))
		checkError(t, c.json, err, flow.Error{Code: c.code, Pos: c.pos, Message: c.msg})
		if len(c.json) > 2 && f != (flow.Flow{ID: "x"}) {
			t.Errorf("%s: with its error comes %v, want the ID alone", c.json, f)
		}
	}
	_, err := flow.ParseJSON(make([]byte, flow.MaxRecord+1))
	checkError(t, "long", err, flow.Error{Code: flow.ErrTooLong, Pos: flow.MaxRecord, Message: "record longer than 65536 bytes"})
}

func checkError(t *testing.T, in string, err error, want flow.Error) {
	t.Helper()
	var e *flow.Error
	if !errors.As(err, &e) || *e != want {
		t.Errorf("%s: %v\nwant %+v", in, err, want)
	}
}

// drawFlow draws any flow that a record can tell.
func drawFlow(t *rapid.T) flow.Flow {
	f := flow.Flow{
		ID: rapid.String().Draw(t, "id"), Proto: draw(t, rapid.Uint8Range(0, 255), func(n uint8) flow.Value[flow.Proto] { return flow.Some(flow.Proto(n)) }),
		SNI: drawName(t), HTTPHost: drawName(t), Domain: drawName(t),
		Process: drawString(t), ProcessPath: drawString(t), User: drawString(t), Cgroup: drawString(t), IfaceIn: drawString(t),
		DSCP: draw(t, rapid.Uint8Range(0, 63), flow.Some[uint8]), Mark: draw(t, rapid.Uint32(), flow.Some[uint32]),
		RTT: draw(t, rapid.Int64Range(0, 1e12), flow.Some[int64]), Latency: draw(t, rapid.Int64Range(0, 1e12), flow.Some[int64]),
		ErrorRate: draw(t, rapid.Int64Range(0, 1e6), flow.Some[int64]),
		State:     rapid.SampledFrom([]string{"", "NORMAL", "DEGRADED", "FAILOVER", "RECOVERY"}).Draw(t, "state"),
		Group:     drawString(t), IfaceOut: drawString(t), App: drawString(t), ALPN: drawString(t),
		Country: draw(t, rapid.StringMatching(`[A-Z]{2}`), flow.Some[string]), ASN: draw(t, rapid.Uint32(), flow.Some[uint32]),
		SrcMAC: draw(t, rapid.Uint64Range(0, 1<<48-1), func(n uint64) flow.Value[flow.MAC] {
			return flow.Some(flow.MAC{byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		}),
		ConnBytes: draw(t, rapid.Int64Range(0, 1<<62), flow.Some[int64]), ConnAge: draw(t, rapid.Int64Range(0, 1e15), flow.Some[int64]),
		DNS: flow.NewNames(rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,3}(\.[a-z0-9]{1,3}){0,2}`), 0, 3).Draw(t, "dns")...),
	}
	f.Src, f.SrcPort = drawEnd(t, f.Proto)
	f.Dst, f.DstPort = drawEnd(t, f.Proto)
	return f
}

func draw[T any, V comparable](t *rapid.T, g *rapid.Generator[T], known func(T) flow.Value[V]) flow.Value[V] {
	switch rapid.IntRange(0, 3).Draw(t, "status") {
	case 0:
		return flow.Value[V]{}
	case 1:
		return flow.Absent[V]()
	default:
		return known(g.Draw(t, "value"))
	}
}

func drawString(t *rapid.T) flow.Value[string] {
	return draw(t, rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"null", "-", "?", "", "\x7f", "a=b", `"`})), flow.Some[string])
}

func drawName(t *rapid.T) flow.Value[string] {
	return draw(t, rapid.OneOf(rapid.StringMatching(`[a-zA-Z_-]{1,5}(\.[a-z0-9]{1,4}){0,3}`), rapid.String()), flow.Name)
}

func drawEnd(t *rapid.T, proto flow.Value[flow.Proto]) (flow.Value[netip.Addr], flow.Value[uint16]) {
	a := draw(t, rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) flow.Value[netip.Addr] {
		if b[0] < 128 {
			b = b[12:]
		}
		a, _ := netip.AddrFromSlice(b)
		return flow.Some(a.Unmap())
	})
	p := flow.Value[uint16]{}
	if rapid.Bool().Draw(t, "has port") {
		p = flow.Some(rapid.Uint16().Draw(t, "port"))
	}
	if n, known := proto.Get(); known && !n.HasPorts() || a.Status() == flow.None {
		p = flow.Absent[uint16]()
	}
	return a, p
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFlow(t)
		text := f.String()
		if got, err := flow.ParseText(text); err != nil || got != f {
			t.Errorf("%s\nreads as %v, %v", text, got, err)
		}
		record := f.AppendJSON(nil)
		if got, err := flow.ParseJSON(record); err != nil || got != f {
			t.Errorf("%s\nreads as %v, %v", record, got, err)
		}
	})
}

// FuzzText and FuzzJSON: no input panics, and what reads is written and read as the same.
func FuzzText(f *testing.F) {
	f.Add("tcp 10.0.0.5:5000 > 1.2.3.4:443 sni=us01.zoom.us rtt_ms=12.5 dns=a.example,b.example")
	f.Add(`icmp - > [2001:db8::1] process="a b" user=null mark=0x10 error_rate=1e-3 state=failover`)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := flow.ParseText(text)
		if err != nil {
			checkPlace(t, err, len(text))
			return
		}
		if again, err := flow.ParseText(v.String()); err != nil || again != v {
			t.Errorf("%q reads as %v, then as %v, %v", text, v, again, err)
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"id":"1","proto":"tcp","src":"10.0.0.5:5000","dst":"1.2.3.4:443","sni":"us01.zoom.us","dscp":0,"rtt_ms":12.5}`))
	f.Add([]byte(`{"proto":58,"dst":null,"dns":["a.example","b\u002eexample"],"error_rate":1.5E-2,"state":"recovery"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		v, err := flow.ParseJSON(line)
		if err != nil {
			checkPlace(t, err, len(line))
			return
		}
		if again, err := flow.ParseJSON(v.AppendJSON(nil)); err != nil || again != v {
			t.Errorf("%q reads as %v, then as %v, %v", line, v, again, err)
		}
	})
}

func checkPlace(t *testing.T, err error, length int) {
	t.Helper()
	var e *flow.Error
	if !errors.As(err, &e) || e.Pos < 0 || e.Pos > length || e.Message == "" {
		t.Errorf("error without a place: %v", err)
	}
}
